"""Stages that add a term of low rank to the router weights, for short texts with many classes.

A short text has few words, and most words have been seen with few of the classes. The linear
epochs learn the weights of every expert separately. Here each feature has a vector of few
dimensions and each expert another one, trained together. Their products, on the connections that
exist, are added to the router weights: the errors of the two methods differ.
"""

from dataclasses import replace

import numpy as np

from .._csr import csr_arrays, with_values
from .._engines.arguments import EmbeddingOptions, EmbeddingRows, LowRankTerm

# Chosen by held-out accuracy on training parts; docs/design/ has the record.
MAX_NONZEROS_PER_ROW = 32  # mean, up to which the term is worth its time
MIN_EXPERTS = 16
MAX_ENTRIES = 2**24  # of the feature vectors: their memory stays small
RANK = 64
EPOCHS = 2
BATCH_SIZE = 32
LEARNING_RATE = 0.1
INITIAL_STD = 0.03  # standard deviation of the feature vectors at the start
INITIAL_SQUARED_GRADIENT = 1e-6
# Of more experts than this, each batch has its own and as many drawn ones, in so many draws.
DRAWN_EXPERTS = 256
DRAWS = 256
SPREAD_RATIO = 1.5  # spread of the added scores, relative to that of the model's scores
SHARPNESS = 0.6  # default factor on the wider scores, relative to that without the term
MEASURED_SCORES = 2**18  # at most, to compare the two spreads
BLOCK_ENTRIES = 2**20  # that `add_products` gathers at a time


def start_low_rank(problem, draft):
    """Begin to train a term beside the linear epochs, if the texts are short and classes many.

    No other stage may use the random state of the problem until the term has been asked for.
    """
    data, options = draft.data, problem.options
    n_samples, n_features = data.X.shape
    n_classes, n_experts = data.class_experts.shape
    is_worth_its_time = (
        not options.multilabel
        and not options.full_batch
        and n_classes == n_experts >= MIN_EXPERTS
        and 0 < data.geometry.nonzeros_per_row <= MAX_NONZEROS_PER_ROW
        and n_features * RANK <= MAX_ENTRIES
    )
    if not is_worth_its_time:
        return draft
    rows = np.flatnonzero(~draft.held_out)
    return replace(draft, low_rank=problem.threads.start(train_low_rank, problem, data, rows))


def train_low_rank(problem, data, rows):
    """Train a term on some of the rows, divided by their typical norm; returns `LowRankTerm`."""
    random_state, n_experts, dtype = (
        problem.random_state,
        data.class_experts.shape[1],
        data.X.dtype,
    )
    term = LowRankTerm(
        random_state.normal(0, INITIAL_STD, (data.X.shape[1], RANK)).astype(dtype),
        random_state.normal(0, 0.5 / np.sqrt(RANK), (n_experts, RANK)).astype(dtype),
        np.zeros(n_experts, dtype),
    )
    squares = LowRankTerm(*(np.full(len(a), INITIAL_SQUARED_GRADIENT, dtype) for a in term))
    weight = data.sample_weight / dtype.type(data.exposure.total / len(data.sample_weight))
    drawn, correction = np.arange(n_experts)[None], 0.0
    if n_experts > DRAWN_EXPERTS:
        drawn = random_state.randint(n_experts, size=(DRAWS, DRAWN_EXPERTS))
        correction = np.log(n_experts / DRAWN_EXPERTS)
    options = EmbeddingOptions(
        batch_size=BATCH_SIZE,
        unit=float(1 / np.sqrt(data.geometry.mean_square)),
        learning_rate=LEARNING_RATE,
        negative_sampling_correction=float(correction),
    )
    for _ in range(EPOCHS):
        order = random_state.permutation(rows)
        visits = EmbeddingRows(order, weight, data.sample_experts.indices)
        problem.engine.embedding_epoch(csr_arrays(data.X), visits, term, squares, drawn, options)
    return term


def add_low_rank(problem, draft):
    """Take the trained term: centre it over the experts and scale it to the model's scores."""
    if draft.low_rank is None:
        return draft
    data, model, term = draft.data, draft.model, draft.low_rank()
    vectors = term.expert_vectors - term.expert_vectors.mean(axis=0)
    bias = term.bias - term.bias.mean()
    sample = data.X[:: -(-data.X.shape[0] * len(bias) // MEASURED_SCORES)]
    # einsum calls no BLAS
    added = np.einsum("ik,ek->ie", sample @ term.feature_vectors, vectors)
    scores = (sample @ model.router).data.astype(np.float64)
    mean = scores.sum() / added.size
    spread = np.sqrt(max((scores * scores).sum() / added.size - mean**2, 0))
    factor = SPREAD_RATIO * float(spread) / max(float(added.std()), 1e-12)
    unit = float(1 / np.sqrt(data.geometry.mean_square))  # the rows were trained in
    term = LowRankTerm(factor * term.feature_vectors, vectors, factor / unit * bias)
    scaling = draft.scaling._replace(score_factor=SHARPNESS * draft.scaling.score_factor)
    return replace(draft, low_rank=term, scaling=scaling)


def add_products(model, term):
    """Add the products of a `LowRankTerm` to the router weights that exist."""
    router = model.router
    values = router.data.copy()
    features = np.repeat(np.arange(router.shape[0]), np.diff(router.indptr))
    for first in range(0, len(values), BLOCK_ENTRIES // RANK):
        part = slice(first, first + BLOCK_ENTRIES // RANK)
        pairs = term.feature_vectors[features[part]], term.expert_vectors[router.indices[part]]
        values[part] += np.einsum("pk,pk->p", *pairs)
    return model._replace(
        router=with_values(router, values),
        router_intercept=model.router_intercept + term.bias,
    )
