"""Epochs of Adam on the mixture loss of experts with dense weights, for dense X."""

import numpy as np
from numba import njit

from .options import EVERY_ROW, INLINED, kernel

UNROLLED = 4  # features or samples that one pass over the experts takes at a time


@njit(**EVERY_ROW)
def _add_four(total, first, second, third, fourth, a, b, c, d):
    """Add four multiples of arrays to ``total``, with one read and one write of it for all."""
    for e in range(total.shape[0]):
        total[e] = (((total[e] + a * first[e]) + b * second[e]) + c * third[e]) + d * fourth[e]


@njit(**EVERY_ROW)
def _replace_scores_by_gradient(scores, first, last, step, exponentials):
    """Turn the scores of one sample into ``step`` times the gradient of its loss, in place.

    The loss is ``-log(sum of softmax(scores) over the experts of its class)``. These are the
    experts from ``first`` to ``last``. Returns the loss.
    """
    own_largest = scores[first]
    for e in range(first, last):
        own_largest = max(own_largest, scores[e])
    largest = own_largest
    for e in range(scores.shape[0]):
        largest = max(largest, scores[e])
    total, own_total = scores.dtype.type(0), scores.dtype.type(0)
    for e in range(scores.shape[0]):
        exponentials[e] = np.exp(scores[e] - largest)
        total += exponentials[e]
    # The class may be far below the largest score, so its own experts have a maximum of their own.
    for e in range(first, last):
        scores[e] = np.exp(scores[e] - own_largest)
        own_total += scores[e]
    factor, own_factor = step / total, step / own_total
    for e in range(first):
        scores[e] = factor * exponentials[e]
    for e in range(first, last):
        scores[e] = factor * exponentials[e] - own_factor * scores[e]
    for e in range(last, scores.shape[0]):
        scores[e] = factor * exponentials[e]
    return largest - own_largest + np.log(total) - np.log(own_total)


@njit(**EVERY_ROW)
def _adam(weights, gradient, mean, square, rate, root, penalty, decays):
    """One step of Adam, with the gradient of the penalty added. ``root`` scales the squares."""
    decay_mean, decay_square, epsilon = decays
    one = weights.dtype.type(1)
    for e in range(weights.shape[0]):
        g = gradient[e] + penalty * weights[e]
        mean[e] = decay_mean * mean[e] + (one - decay_mean) * g
        square[e] = decay_square * square[e] + (one - decay_square) * (g * g)
        weights[e] -= rate * mean[e] / (root * np.sqrt(square[e]) + epsilon)


@njit(**INLINED)
def _copy_batch(X, batch, rows, columns):
    """Copy the rows of a batch, and their transpose; columns beyond the batch become zero."""
    for r in range(batch.shape[0]):
        for j in range(X.shape[1]):
            rows[r, j] = X[batch[r], j]
            columns[j, r] = X[batch[r], j]
    for r in range(batch.shape[0], columns.shape[1]):
        for j in range(X.shape[1]):
            columns[j, r] = 0


@njit(**INLINED)
def _write_scores(row, weights, bias, scores):
    """Write the router scores ``W1 x + b1`` of one sample."""
    unrolled = row.shape[0] // UNROLLED * UNROLLED
    for e in range(bias.shape[0]):
        scores[e] = bias[e]
    for j in range(0, unrolled, UNROLLED):
        _add_four(
            scores, weights[j], weights[j + 1], weights[j + 2], weights[j + 3],
            row[j], row[j + 1], row[j + 2], row[j + 3],
        )  # fmt: skip
    for j in range(unrolled, row.shape[0]):
        for e in range(bias.shape[0]):
            scores[e] += row[j] * weights[j, e]


@njit(**INLINED)
def _move_router(router, mean, square, columns, residuals, gradient, rate, root, penalty, decays):
    """Take a step of Adam with the gradients of the scores of a batch."""
    weights, bias = router
    for j in range(weights.shape[0]):
        for e in range(bias.shape[0]):
            gradient[e] = 0
        for r in range(0, residuals.shape[0], UNROLLED):
            _add_four(
                gradient, residuals[r], residuals[r + 1], residuals[r + 2], residuals[r + 3],
                columns[j, r], columns[j, r + 1], columns[j, r + 2], columns[j, r + 3],
            )  # fmt: skip
        _adam(
            weights[j], gradient, mean.weights[j], square.weights[j], rate, root, penalty, decays
        )
    for e in range(bias.shape[0]):
        gradient[e] = 0
    for r in range(residuals.shape[0]):
        for e in range(bias.shape[0]):
            gradient[e] += residuals[r, e]
    _adam(bias, gradient, mean.bias, square.bias, rate, root, bias.dtype.type(0), decays)


@kernel
def dense_epoch(X, rows, class_starts, router, moments, options):
    """Run one epoch of Adam on the mixture loss of experts with dense weights.

    A sample has the loss ``-log(sum of softmax(W1 x + b1) over the experts of its class)``.
    Router and moments change in place.

    Parameters
    ----------
    X : ndarray (n_samples, n_features)
    rows : DenseRows
    class_starts : ndarray of int64 (n_classes + 1,)
        Class c has the experts from ``class_starts[c]`` to ``class_starts[c + 1]``.
    router : DenseRouter
    moments : AdamMoments
    options : AdamOptions

    Returns
    -------
    loss : float
        Sum of the losses, in sample weight.
    """
    order, sample_weight, classes = rows
    weights, bias = router
    batch_size, n_steps, rates, penalty, mean_decay, square_decay, epsilon = options
    kind = weights.dtype.type
    decays = kind(mean_decay), kind(square_decay), kind(epsilon)
    size = -(-batch_size // UNROLLED) * UNROLLED
    batch_rows = np.empty((batch_size, X.shape[1]), X.dtype)
    columns = np.empty((X.shape[1], size), X.dtype)
    scores = np.empty((size, bias.shape[0]), bias.dtype)
    gradient, exponentials = np.empty_like(bias), np.empty_like(bias)
    loss = 0.0
    for b in range(rates.shape[0]):
        batch = order[b * batch_size : (b + 1) * batch_size]
        _copy_batch(X, batch, batch_rows, columns)
        for r in range(batch.shape[0]):
            _write_scores(batch_rows[r], weights, bias, scores[r])
            c, weight = classes[batch[r]], sample_weight[batch[r]]
            loss += weight * _replace_scores_by_gradient(
                scores[r], class_starts[c], class_starts[c + 1], weight / kind(batch_size),
                exponentials,
            )  # fmt: skip
        for r in range(batch.shape[0], size):
            for e in range(bias.shape[0]):
                scores[r, e] = 0
        step = n_steps + b + 1
        rate = kind(rates[b] / (1.0 - mean_decay**step))
        root = kind(np.sqrt(1.0 / (1.0 - square_decay**step)))
        _move_router(
            router, moments.mean, moments.square, columns, scores, gradient, rate, root,
            kind(penalty), decays,
        )  # fmt: skip
    return loss
