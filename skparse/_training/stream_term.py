"""The low-rank term of a stream of short texts with many classes, see `low_rank`.

It is learnt beside the linear margins: each row is visited once, in batches of the rows of a
call. Whether its products are added is chosen by the held-out samples.
"""

import numpy as np

from .._engines.arguments import (
    LATE_SHARE,
    NONZEROS,
    SEEN,
    WEIGHT,
    EmbeddingOptions,
    EmbeddingRows,
    LowRankTerm,
)
from .low_rank import (
    BATCH_SIZE,
    INITIAL_SQUARED_GRADIENT,
    LEARNING_RATE,
    MAX_ENTRIES,
    MAX_NONZEROS_PER_ROW,
    MIN_EXPERTS,
    RANK,
)

# Chosen by held-out accuracy on training parts; docs/design/streams.md has the record.
FIRST_TERM_ROW = 64  # those before show whether the texts are short
LATE_VISITS = 256  # at most, of all rows of an expert that was first seen late


def allocate_term(n_rows, n_experts, dtype, rank=0):
    """Allocate a term of zeros, and the sums of its squared gradients; rank 0 is no term."""
    term = LowRankTerm(
        np.zeros((n_rows, rank), dtype), np.zeros((n_experts, rank), dtype),
        np.zeros(n_experts, dtype),
    )  # fmt: skip
    return term, LowRankTerm(*(np.full(len(a), INITIAL_SQUARED_GRADIENT, dtype) for a in term))


def draw_expert_vectors(seed, n_experts, rank, dtype):
    """Draw the vectors of the experts of a stream that then has so many, (n_experts, rank)."""
    random_state = np.random.RandomState([seed, n_experts])
    return random_state.normal(0, 0.5 / np.sqrt(RANK), (n_experts, rank)).astype(dtype)


def begin_term(state):
    """Begin a term, if the rows so far are short, the classes many and the features few."""
    n_experts, dtype = len(state.experts.bias), state.tables.weights.dtype
    is_worth_its_time = (
        n_experts >= MIN_EXPERTS
        and len(state.slots) * RANK <= MAX_ENTRIES
        and 0 < state.totals[NONZEROS] <= MAX_NONZEROS_PER_ROW * state.totals[SEEN]
    )
    if is_worth_its_time:
        term, squares = allocate_term(len(state.features), n_experts, dtype, RANK)
        vectors = draw_expert_vectors(state.seed, n_experts, RANK, dtype)
        state.term, state.term_squares = term._replace(expert_vectors=vectors), squares


def learn_term(state, X, classes, sample_weight, engine, *, n_before):
    """Learn from the next rows of a stream; begin a term if it is time.

    Parameters
    ----------
    state : StreamState
    X : Csr
        Its features are the rows of the tables.
    classes : ndarray of int
    sample_weight : ndarray
    engine : see `skparse._engines`
    n_before : int
        Rows of the stream before these.
    """
    n_rows, n_experts = len(classes), len(state.experts.bias)
    if n_before < FIRST_TERM_ROW <= n_before + n_rows:
        begin_term(state)
    if state.term.expert_vectors.shape[1] == 0:
        return
    first = min(max(FIRST_TERM_ROW - n_before, 0), n_rows)
    # The steps are those of rows of mean weight one.
    mean = max(state.weight_seen, 1e-300) / max(state.n_seen, 1)
    weight = (sample_weight / mean).astype(X.data.dtype)
    order = np.repeat(np.arange(first, n_rows), count_visits(state, classes[first:], mean))
    options = EmbeddingOptions(
        batch_size=BATCH_SIZE,
        unit=1.0,
        learning_rate=LEARNING_RATE,
        negative_sampling_correction=0.0,
    )
    # The dtypes of a fit, so that the kernel is compiled once.
    kind = np.int32 if X.indptr[-1] <= np.iinfo(np.int32).max else np.int64
    engine.embedding_epoch(
        X._replace(indptr=X.indptr.astype(kind)),
        EmbeddingRows(order, weight, classes.astype(np.int32)), state.term,
        state.term_squares, np.arange(n_experts)[None], options,
    )  # fmt: skip


def add_experts_to_term(state, places, n_experts):
    """Return copies of a term and of its squared gradients, with experts between those so far."""
    (vectors, of_experts, bias), squares = state.term, state.term_squares
    term, fresh = allocate_term(0, n_experts, vectors.dtype, vectors.shape[1])
    drawn = draw_expert_vectors(state.seed, n_experts, vectors.shape[1], vectors.dtype)
    term.expert_vectors[:], term.expert_vectors[places] = drawn, of_experts
    term.bias[places] = bias
    for array, old in zip(fresh[1:], squares[1:], strict=True):
        array[places] = old
    return (
        term._replace(feature_vectors=vectors.copy()),
        fresh._replace(feature_vectors=squares.feature_vectors.copy()),
    )


def count_visits(state, classes, mean_weight):
    """Count the visits of rows of some classes: more than one if it was first seen late.

    Together they are at most twice as many as the other classes have rows.
    """
    experts = state.experts
    is_late = experts.first_seen > LATE_SHARE * state.totals[WEIGHT]
    rows = np.maximum(experts.load / mean_weight, 1)
    more = min(LATE_VISITS, 2 * rows.mean()) // rows
    return np.where(is_late, 1 + more, 1).astype(np.int64)[classes]


def term_products(state, slots):
    """Compute the products of the vectors of some features with those of all experts."""
    vectors = state.term.expert_vectors
    centred = vectors - vectors.mean(axis=0)
    # einsum calls no BLAS
    return np.einsum("ik,ek->ie", state.term.feature_vectors[slots], centred)
