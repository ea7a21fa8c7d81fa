"""What training and predictions pass to an engine: arrays, grouped by meaning."""

from typing import NamedTuple

import numpy as np


class Csr(NamedTuple):
    """The three arrays of a CSR matrix."""

    indptr: np.ndarray  # (n_rows + 1,)
    indices: np.ndarray  # (nnz,)
    data: np.ndarray  # (nnz,)


class Pattern(NamedTuple):
    """The columns that each row of a binary CSR matrix stores."""

    indptr: np.ndarray  # (n_rows + 1,)
    indices: np.ndarray  # (nnz,)


class ModelArrays(NamedTuple):
    """The arrays of ``y = softmax(W h_sparse + b2)`` with ``h = ReLU(W1 x + b1)``."""

    router: Csr  # W1 transposed, (n_features, n_experts)
    router_intercept: np.ndarray  # b1, (n_experts,)
    outputs: Csr  # W transposed, (n_experts, n_classes)
    intercept: np.ndarray  # b2, (n_classes,)


class Routes(NamedTuple):
    """The experts that each row keeps, best first, and their gate weights; filled in place."""

    expert_indices: np.ndarray  # (n_rows, at least top_k) of int64
    expert_weights: np.ndarray  # the same shape, in the dtype of the model
    counts: np.ndarray  # (n_rows,) of int64, how many experts a row keeps


class LinearRows(NamedTuple):
    """The rows of a linear epoch."""

    order: np.ndarray  # (n_visits,) of int64, the row of each visit
    squared_norms: np.ndarray  # (n_samples,)
    sample_weight: np.ndarray  # (n_samples,)


class StepSchedule(NamedTuple):
    """Schedule of implicit gradient steps: rate = numerator / (seen + offset)."""

    seen: float  # sample weight visited so far
    numerator: float
    offset: float
    row_crowding: float  # multiplies the weight of a row in its implicit step
    batch_crowding: float  # added to it: the weight of the rows that move the same score
    bias_feature: float  # value of the constant feature that the bias multiplies


class NestedRows(NamedTuple):
    """The rows of an epoch on the loss of the model."""

    order: np.ndarray  # (n_visits,) of int64, the row of each visit
    step_lengths: np.ndarray  # (n_samples,)
    labels: Pattern  # (n_samples, n_classes)


class NestedOptions(NamedTuple):
    """How an epoch on the loss of the model takes its steps."""

    batch_size: int
    bias_square: float  # square of the value of the constant feature that b1 multiplies
    output_rate: float  # step of the outputs and of b2, relative to that of the router
    shrinkage: float  # of the router weights, per batch


class LowRankTerm(NamedTuple):
    """Vectors whose products are added to the router weights."""

    feature_vectors: np.ndarray  # (n_features, rank)
    expert_vectors: np.ndarray  # (n_experts, rank)
    bias: np.ndarray  # (n_experts,)


class EmbeddingRows(NamedTuple):
    """The rows of an epoch that trains a low-rank term."""

    order: np.ndarray  # (n_visits,) of int64, the row of each visit
    sample_weight: np.ndarray  # (n_samples,)
    experts: np.ndarray  # (n_samples,) of int, the expert of each row


class EmbeddingOptions(NamedTuple):
    """How such an epoch takes its steps."""

    batch_size: int
    unit: float  # multiplies the rows
    learning_rate: float
    negative_sampling_correction: float  # added to the logits of the drawn experts


class DenseRows(NamedTuple):
    """The rows of an epoch on dense X."""

    order: np.ndarray  # (n_visits,) of int64, the row of each visit
    sample_weight: np.ndarray  # (n_samples,), of mean one
    classes: np.ndarray  # (n_samples,) of int, the class of each row


class DenseRouter(NamedTuple):
    """Router weights of which all exist, or numbers for each of them."""

    weights: np.ndarray  # (n_features, n_experts)
    bias: np.ndarray  # (n_experts,)


class AdamMoments(NamedTuple):
    """Averages of the gradients and of their squares, changed in place."""

    mean: DenseRouter
    square: DenseRouter


class AdamOptions(NamedTuple):
    """How an epoch of Adam takes its steps."""

    batch_size: int
    n_steps: int  # taken before
    rates: np.ndarray  # (n_batches,), the length of each step
    penalty: float  # times the weights, is added to their gradients
    mean_decay: float
    square_decay: float
    epsilon: float


class StreamTables(NamedTuple):
    """What a stream has learnt of each feature that occurred, a row each; changed in place."""

    weights: np.ndarray  # (n_rows, n_experts), linear margins per unit of the relevant values
    mass: np.ndarray  # (n_rows, n_experts), sum of the absolute values with each expert
    facts: np.ndarray  # (n_rows, N_FACTS) of float64, see below


class StreamExperts(NamedTuple):
    """What a stream has learnt of each expert; changed in place."""

    bias: np.ndarray  # (n_experts,), added to the margins
    load: np.ndarray  # (n_experts,) of float64, sample weight with the target +1
    first_seen: np.ndarray  # (n_experts,) of float64, weight of the stream before the first target
    n_kept: np.ndarray  # (n_experts,) of int64, rows that keep the expert, before they are learnt


class StreamRows(NamedTuple):
    """The rows that a stream learns next, in their order."""

    sample_weight: np.ndarray  # (n_samples,)
    targets: Pattern  # (n_samples, n_experts), stores an entry where the target is +1


class StreamOptions(NamedTuple):
    """How a stream takes its steps."""

    top_k: int  # at most the number of experts: that counts which of them a row keeps
    shift: float  # an expert can be kept where its margin is above -shift
    alpha: float  # strength of the penalty; 0 to estimate it from the stream
    forgetting: float  # share of what has been seen that is forgotten per unit of weight
    ridge: float  # of a step, per unit of alpha
    ridge_per_error: float  # of a step, per share of wrong labels
    error_window: float  # rows over which this share is averaged
    relevance_smoothing: float
    relevance_floor: float
    relevance_power: float
    relevance_growth: float  # of the count of a feature, until its relevance is measured again


# Places in the array of totals of a stream, of float64.
(
    WEIGHT, SEEN, NONZEROS, MAGNITUDE, SQUARE, BIAS_SQUARE, CONTRADICTION, AGREEMENT, WINDOW,
    LOSS, ENTROPY, ENTROPY_AT,
) = range(12)  # fmt: skip
N_TOTALS = 12
# Columns of the facts about a feature: the sum of the squares of its relevant values, its sample
# weight, the square of its relevance, the sample weight at which that was measured, the weight of
# the stream when it last occurred, and the sign of all its values (2 if they differ).
SQUARES, COUNT, RELEVANCE, MEASURED_AT, LAST_SEEN, SIGN = range(6)
N_FACTS = 6
# An expert that was first seen after this share of the stream has steps of its own.
LATE_SHARE = 0.5
