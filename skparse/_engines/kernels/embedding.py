"""Softmax regression on sums of feature vectors: it trains the low-rank term for short texts.

Loops stand where arrays could be assigned: the compiler needs seconds for the latter.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from .options import INLINED, kernel


class _Scratch(NamedTuple):
    """Arrays that `embedding_epoch` works in; a batch lists at most ``n_listed`` experts."""

    listed: np.ndarray  # (n_listed,), the experts of the batch
    place: np.ndarray  # (n_experts,), where an expert is in the list, -1 for the rest
    sums: np.ndarray  # (batch_size, rank), the sum of the feature vectors of each row
    by_dimension: np.ndarray  # (rank, batch_size), the same, so that loops run over the rows
    row_gradients: np.ndarray  # (batch_size, rank), of the sums
    expert_gradient: np.ndarray  # (rank,), of the vector of one expert
    residuals: np.ndarray  # (n_listed, batch_size), logits at first
    weight: np.ndarray  # (batch_size,)
    targets: np.ndarray  # (batch_size,), places of the experts of the rows


@njit(**INLINED)
def _allocate_scratch(batch_size, n_drawn, n_experts, rank, dtype):
    n_listed, place = min(n_experts, n_drawn + batch_size), np.empty(n_experts, np.int64)
    for e in range(n_experts):
        place[e] = -1
    listed = np.empty(n_listed, np.int64)
    sums, row_gradients = np.empty((batch_size, rank), dtype), np.empty((batch_size, rank), dtype)
    by_dimension = np.empty((rank, batch_size), dtype)
    residuals = np.empty((n_listed, batch_size), dtype)
    return _Scratch(
        listed, place, sums, by_dimension, row_gradients, np.empty(rank, dtype), residuals,
        np.empty(batch_size, dtype), np.empty(batch_size, np.int64),
    )  # fmt: skip


@njit(**INLINED)
def _sum_feature_vectors(X, i, unit, feature_vectors, total):
    """Write the weighted sum of the vectors of the features of row ``i`` to ``total``."""
    indptr, indices, data = X
    for k in range(total.shape[0]):
        total[k] = 0
    for t in range(indptr[i], indptr[i + 1]):
        x, vector = unit * data[t], feature_vectors[indices[t]]
        for k in range(total.shape[0]):
            total[k] += x * vector[k]


@njit(**INLINED)
def _list_experts(experts, batch, drawn, listed, place):
    """List the experts of the rows of a batch, then the drawn ones, each once.

    Returns the number of listed experts, and of those among them that the rows have.
    """
    count = 0
    for q in range(batch.shape[0]):
        e = experts[batch[q]]
        if place[e] < 0:
            listed[count], place[e] = e, count
            count += 1
    n_own = count
    for q in range(drawn.shape[0]):
        e = drawn[q]
        if place[e] < 0:
            listed[count], place[e] = e, count
            count += 1
    return count, n_own


@njit(**INLINED)
def _write_logits(bias, vector, by_dimension, logits):
    """Write the logits of one expert for all rows of the batch."""
    for q in range(logits.shape[0]):
        logits[q] = bias
    for k in range(vector.shape[0]):
        for q in range(logits.shape[0]):
            logits[q] += vector[k] * by_dimension[k, q]


@njit(**INLINED)
def _replace_logits_by_residuals(logits, count, n_rows, targets, weight):
    """Replace the logits (experts, rows) by weight * (probability - target)."""
    for q in range(n_rows):
        largest = logits[0, q]
        for p in range(count):
            largest = max(largest, logits[p, q])
        total = largest * 0
        for p in range(count):
            logits[p, q] = np.exp(logits[p, q] - largest)
            total += logits[p, q]
        for p in range(count):
            logits[p, q] *= weight[q] / total
        logits[targets[q], q] -= weight[q]


@njit(**INLINED)
def _step_expert_vector(residuals, sums, n_rows, vector, squares, rate, gradient, row_gradients):
    """Add the part of one expert to ``row_gradients`` and move its vector; returns squares."""
    for k in range(gradient.shape[0]):
        gradient[k] = 0
    for q in range(n_rows):
        for k in range(gradient.shape[0]):
            row_gradients[q, k] += residuals[q] * vector[k]
            gradient[k] += residuals[q] * sums[q, k]
    square = rate * 0
    for k in range(gradient.shape[0]):
        square += gradient[k] * gradient[k]
    squares += square / gradient.shape[0]
    step = rate / np.sqrt(squares)
    for k in range(gradient.shape[0]):
        vector[k] -= step * gradient[k]
    return squares


@njit(**INLINED)
def _step_bias(residuals, p, n_rows, e, bias, squares, rate):
    """Move the bias of expert ``e``, whose residuals are in row ``p``."""
    total = rate * 0
    for q in range(n_rows):
        total += residuals[p, q]
    squares[e] += total * total
    bias[e] -= rate * total / np.sqrt(squares[e])


@njit(**INLINED)
def _step_feature_vectors(X, batch, unit, row_gradients, feature_vectors, squares, rate):
    """Move the vectors of all features of the rows; their squares are added up before."""
    indptr, indices, data = X
    rank = feature_vectors.shape[1]
    for q in range(batch.shape[0]):
        square = rate * 0
        for k in range(rank):
            square += row_gradients[q, k] * row_gradients[q, k]
        square /= rank
        for t in range(indptr[batch[q]], indptr[batch[q] + 1]):
            x = unit * data[t]
            squares[indices[t]] += x * x * square
    for q in range(batch.shape[0]):
        for t in range(indptr[batch[q]], indptr[batch[q] + 1]):
            j = indices[t]
            step = rate * unit * data[t] / np.sqrt(squares[j])
            for k in range(rank):
                feature_vectors[j, k] -= step * row_gradients[q, k]


@kernel
def embedding_epoch(X, rows, term, squared_gradients, drawn_experts, options):
    """Run one epoch of softmax regression on sums of feature vectors, with Adagrad by rows.

    The logits are ``(unit * x @ feature_vectors) @ expert_vectors.T + bias``, over the experts of
    the batch and those drawn for it, which represent all others. Every feature vector, expert
    vector and bias has one step length: the rate over the root of the sum of its squared
    gradients (for vectors, of their mean over the rank). Gradients of feature vectors are squared
    nonzero by nonzero, those of expert vectors and biases batch by batch. All arrays of ``term``
    and ``squared_gradients`` change in place.

    Parameters
    ----------
    X : Csr (n_samples, n_features)
    rows : EmbeddingRows
    term : LowRankTerm
    squared_gradients : LowRankTerm
        Arrays (n_features,), (n_experts,) and (n_experts,).
    drawn_experts : ndarray of int (n_draws, n_drawn)
        The experts drawn for the batches, used in turn.
    options : EmbeddingOptions
    """
    order, sample_weight, experts = rows
    feature_vectors, expert_vectors, bias = term
    feature_squares, expert_squares, bias_squares = squared_gradients
    batch_size, unit, learning_rate, negative_sampling_correction = options
    kind, (n_experts, rank) = feature_vectors.dtype.type, expert_vectors.shape
    unit, rate, correction = kind(unit), kind(learning_rate), kind(negative_sampling_correction)
    (
        listed, place, sums, by_dimension, row_gradients, gradient, residuals, weight, targets,
    ) = _allocate_scratch(
        batch_size, drawn_experts.shape[1], n_experts, rank, feature_vectors.dtype
    )  # fmt: skip
    for b in range((order.shape[0] + batch_size - 1) // batch_size):
        batch = order[b * batch_size : (b + 1) * batch_size]
        n_rows = batch.shape[0]
        drawn = drawn_experts[b % drawn_experts.shape[0]]
        count, n_own = _list_experts(experts, batch, drawn, listed, place)
        for q in range(n_rows):
            _sum_feature_vectors(X, batch[q], unit, feature_vectors, sums[q])
            weight[q], targets[q] = sample_weight[batch[q]], place[experts[batch[q]]]
            for k in range(rank):
                by_dimension[k, q] = sums[q, k]
        for p in range(count):
            e = listed[p]
            first = bias[e] + correction if p >= n_own else bias[e]
            _write_logits(first, expert_vectors[e], by_dimension, residuals[p])
        _replace_logits_by_residuals(residuals, count, n_rows, targets, weight)
        for q in range(n_rows):
            for k in range(rank):
                row_gradients[q, k] = 0
        for p in range(count):
            e = listed[p]
            expert_squares[e] = _step_expert_vector(
                residuals[p], sums, n_rows, expert_vectors[e], expert_squares[e], rate, gradient,
                row_gradients,
            )  # fmt: skip
            _step_bias(residuals, p, n_rows, e, bias, bias_squares, rate)
            place[e] = -1
        _step_feature_vectors(
            X, batch, unit, row_gradients, feature_vectors, feature_squares, rate
        )
