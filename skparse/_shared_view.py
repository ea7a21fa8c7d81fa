"""A view that features share: embeddings, for short texts with many classes.

A short text has few words, and most words have been seen with few of the classes. Where the
linear start learns the weights of every expert on their own, here each feature has a vector of
few dimensions and each expert another one, trained together. Their products, on the connections
that exist, are added to the router weights: the two ways to learn err differently.
"""

from typing import NamedTuple

import numpy as np

from ._parameters import csr_parts, inner, with_values

# Chosen by held-out accuracy on training parts (docs/design.md).
LONGEST_TEXT = 32  # mean nonzeros per row up to which a view is worth its time
FEWEST_EXPERTS = 16
MOST_NUMBERS = 2**24  # in the embeddings: what they need in memory stays small
RANK = 64
EPOCHS = 2
BATCH_SIZE = 32
LEARNING_RATE = 0.1
SPREAD = 0.03  # standard deviation of the embeddings at the start
FIRST_SQUARE = 1e-6  # where the sums of squared gradients start
# Of more experts than this, each batch sees its own and as many drawn ones, in so many draws.
DRAWN_EXPERTS = 256
DRAWS = 256
SHARE = 1.5  # spread of what is added, relative to that of the scores
FLATTER = 0.6  # default sharpness of the wider scores, relative to that without a view
MEASURED_SCORES = 2**18  # at most, to compare the two spreads
BLOCK_NUMBERS = 2**20  # that `add_view` gathers at a time


class SharedView(NamedTuple):
    """Vectors whose products are added to the router weights."""

    embedding: np.ndarray  # (n_features, rank)
    output: np.ndarray  # (n_experts, rank)
    bias: np.ndarray  # (n_experts,)


def is_worthwhile(data, settings):
    """Tell whether the texts are short, the classes many and each has an expert of its own."""
    n_samples, n_features = data.X.shape
    n_classes, n_experts = data.class_experts.shape
    return (
        not settings.multilabel
        and not settings.full_batch
        and n_classes == n_experts >= FEWEST_EXPERTS
        and 0 < data.X.nnz <= LONGEST_TEXT * n_samples
        and n_features * RANK <= MOST_NUMBERS
    )


def train_shared_view(data, rows, engine, random_state):
    """Train a view on some of the rows; no model is needed for it.

    Parameters
    ----------
    data : `skparse._training.TrainingData`, one expert per class
    rows : ndarray of int
    engine : see `skparse._engines`
    random_state : numpy.random.RandomState

    Returns
    -------
    SharedView
        Of rows over their typical norm; `fit_to_scores` makes it that of the rows.
    """
    n_experts, dtype = data.class_experts.shape[1], data.X.dtype
    unit = _unit(data)
    view = SharedView(
        random_state.normal(0, SPREAD, (data.X.shape[1], RANK)).astype(dtype),
        random_state.normal(0, 0.5 / np.sqrt(RANK), (n_experts, RANK)).astype(dtype),
        np.zeros(n_experts, dtype),
    )
    squares = tuple(np.full(len(part), FIRST_SQUARE, dtype) for part in view)
    weight = data.sample_weight / dtype.type(data.total_weight / len(data.sample_weight))
    drawn, stand_in = np.arange(n_experts)[None], 0.0
    if n_experts > DRAWN_EXPERTS:
        drawn = random_state.randint(n_experts, size=(DRAWS, DRAWN_EXPERTS))
        stand_in = np.log(n_experts / DRAWN_EXPERTS)
    for _ in range(EPOCHS):
        order = random_state.permutation(rows)
        engine.embedding_epoch(
            csr_parts(data.X), (order, weight), data.row_experts.indices, tuple(view), squares,
            drawn, (unit, LEARNING_RATE, stand_in), BATCH_SIZE,
        )  # fmt: skip
    return view


def _unit(data):
    return float(1 / np.sqrt(data.geometry.mean_square))


def fit_to_scores(view, data, parameters):
    """Centre the products over the experts and scale them to their share of a model's scores."""
    output = view.output - view.output.mean(axis=0)
    bias = view.bias - view.bias.mean()
    sample = data.X[:: -(-data.X.shape[0] * len(bias) // MEASURED_SCORES)]
    added = np.einsum("ik,ek->ie", sample @ view.embedding, output)  # without BLAS, see `inner`
    scores = (sample @ parameters.router).data.astype(np.float64)
    mean = scores.sum() / added.size
    spread = np.sqrt(max(inner(scores, scores) / added.size - mean**2, 0))
    factor = SHARE * float(spread) / max(float(added.std()), 1e-12)
    return SharedView(factor * view.embedding, output, factor / _unit(data) * bias)


def add_view(parameters, view):
    """Add the products of a view to the weights that exist; returns `ModelParameters`."""
    router = parameters.router
    values = router.data.copy()
    features = np.repeat(np.arange(router.shape[0]), np.diff(router.indptr))
    for first in range(0, len(values), BLOCK_NUMBERS // RANK):
        part = slice(first, first + BLOCK_NUMBERS // RANK)
        vectors = view.embedding[features[part]], view.output[router.indices[part]]
        values[part] += np.einsum("pk,pk->p", *vectors)
    return parameters._replace(
        router=with_values(router, values),
        router_intercept=parameters.router_intercept + view.bias,
    )
