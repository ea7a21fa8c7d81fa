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
