"""Fused CPU kernel that trains the embeddings of `skparse._shared_view`.

A file of its own, which shares no function with `skparse._kernels`: numba's cache on disk sees
only the file that a kernel is in.

Loops stand where arrays could be assigned: the compiler needs seconds for the latter.
"""

import numpy as np
from numba import njit

_OPTIONS = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}
# Helpers have one caller each: inlined before compilation, they take less of it.
_ONE_CALLER = {**_OPTIONS, "no_cpython_wrapper": True, "inline": "always"}


@njit(**_ONE_CALLER)
def _embed(X, i, unit, embedding, e):
    """Write the sum of the embeddings of the features of row ``i``, weighted, to ``e``."""
    indptr, indices, data = X
    for k in range(e.shape[0]):
        e[k] = 0
    for t in range(indptr[i], indptr[i + 1]):
        x, row = unit * data[t], embedding[indices[t]]
        for k in range(e.shape[0]):
            e[k] += x * row[k]


@njit(**_ONE_CALLER)
def _list_experts(labels, rows, drawn, listed, place):
    """List the experts of the rows, then the drawn ones, each once.

    ``place`` is where an expert is in the list, -1 for the rest. Returns the numbers of the
    experts that are listed and of those among them that the rows have.
    """
    count = 0
    for q in range(rows.shape[0]):
        e = labels[rows[q]]
        if place[e] < 0:
            listed[count], place[e] = e, count
            count += 1
    own = count
    for q in range(drawn.shape[0]):
        e = drawn[q]
        if place[e] < 0:
            listed[count], place[e] = e, count
            count += 1
    return count, own


@njit(**_ONE_CALLER)
def _score_rows(first, output, turned, z):
    """Write the logits of one expert for all rows of the batch to ``z``."""
    for q in range(z.shape[0]):
        z[q] = first
    for k in range(output.shape[0]):
        for q in range(z.shape[0]):
            z[q] += output[k] * turned[k, q]


@njit(**_ONE_CALLER)
def _residuals(z, count, n_rows, targets, weight):
    """Replace the logits (experts, rows) by weight * (probability - target)."""
    for q in range(n_rows):
        largest = z[0, q]
        for p in range(count):
            largest = max(largest, z[p, q])
        total = largest * 0
        for p in range(count):
            z[p, q] = np.exp(z[p, q] - largest)
            total += z[p, q]
        for p in range(count):
            z[p, q] *= weight[q] / total
        z[targets[q], q] -= weight[q]


@njit(**_ONE_CALLER)
def _step_output(d, e, n_rows, output, squares, rate, gradient, pull):
    """Add one expert's share to ``pull`` (rows, rank) and move its output vector."""
    for k in range(gradient.shape[0]):
        gradient[k] = 0
    for q in range(n_rows):
        for k in range(gradient.shape[0]):
            pull[q, k] += d[q] * output[k]
            gradient[k] += d[q] * e[q, k]
    square = rate * 0
    for k in range(gradient.shape[0]):
        square += gradient[k] * gradient[k]
    squares += square / gradient.shape[0]
    step = rate / np.sqrt(squares)
    for k in range(gradient.shape[0]):
        output[k] -= step * gradient[k]
    return squares


@njit(**_ONE_CALLER)
def _step_embeddings(X, rows, unit, pull, embedding, squares, rate):
    """Move the embeddings of all features of the rows; squares are summed up before."""
    indptr, indices, data = X
    rank = embedding.shape[1]
    for q in range(rows.shape[0]):
        square = rate * 0
        for k in range(rank):
            square += pull[q, k] * pull[q, k]
        square /= rank
        for t in range(indptr[rows[q]], indptr[rows[q] + 1]):
            x = unit * data[t]
            squares[indices[t]] += x * x * square
    for q in range(rows.shape[0]):
        for t in range(indptr[rows[q]], indptr[rows[q] + 1]):
            j = indices[t]
            step = rate * unit * data[t] / np.sqrt(squares[j])
            for k in range(rank):
                embedding[j, k] -= step * pull[q, k]


@njit(**_OPTIONS, cache=True)
def embedding_epoch(X, rows, labels, view, squares, drawn, rates, batch_size):
    """One epoch of softmax regression on sums of embeddings, with Adagrad by rows.

    The logits are ``(unit * x @ embedding) @ output.T + bias``, over the experts of the batch
    and those drawn for it, where the latter stand for all others. Every feature, output vector
    and bias has one step length: the rate over the root of the sum of its squared gradients (for
    vectors, their mean over the rank). Gradients of features are squared nonzero by nonzero,
    those of outputs and biases batch by batch. Everything in ``view`` and ``squares`` changes in
    place.

    Parameters
    ----------
    X : tuple (indptr, indices, data)
    rows : tuple (order, sample_weight)
    labels : ndarray (n_samples,), the expert of each row
    view : tuple (embedding (n_features, rank), output (n_experts, rank), bias (n_experts,))
    squares : tuple of three ndarray (n_features,), (n_experts,), (n_experts,)
    drawn : ndarray (n_draws, n_drawn), the experts drawn for the batches in turn
    rates : tuple of float (unit, learning rate, logit added to drawn experts)
    batch_size : int
    """
    order, sample_weight = rows
    embedding, output, bias = view
    feature_squares, output_squares, bias_squares = squares
    kind = embedding.dtype.type
    unit, rate, stand_in = kind(rates[0]), kind(rates[1]), kind(rates[2])
    n_experts, rank = output.shape
    most = min(n_experts, drawn.shape[1] + batch_size)
    listed, place = np.empty(most, np.int64), np.empty(n_experts, np.int64)
    for c in range(n_experts):
        place[c] = -1
    e = np.empty((batch_size, rank), embedding.dtype)
    pull = np.empty((batch_size, rank), e.dtype)
    # Transposed, so that the inner loop over it runs over the rows of the batch.
    turned = np.empty((rank, batch_size), e.dtype)
    z = np.empty((most, batch_size), e.dtype)
    weight, targets = np.empty(batch_size, e.dtype), np.empty(batch_size, np.int64)
    gradient = np.empty(rank, e.dtype)
    for b in range((order.shape[0] + batch_size - 1) // batch_size):
        batch = order[b * batch_size : (b + 1) * batch_size]
        n_rows = batch.shape[0]
        count, own = _list_experts(labels, batch, drawn[b % drawn.shape[0]], listed, place)
        for q in range(n_rows):
            _embed(X, batch[q], unit, embedding, e[q])
            weight[q], targets[q] = sample_weight[batch[q]], place[labels[batch[q]]]
            for k in range(rank):
                turned[k, q] = e[q, k]
        for p in range(count):
            c = listed[p]
            first = bias[c] + stand_in if p >= own else bias[c]
            _score_rows(first, output[c], turned, z[p])
        _residuals(z, count, n_rows, targets, weight)
        for q in range(n_rows):
            for k in range(rank):
                pull[q, k] = 0
        for p in range(count):
            c = listed[p]
            total = rate * 0
            for q in range(n_rows):
                total += z[p, q]
            output_squares[c] = _step_output(
                z[p], e, n_rows, output[c], output_squares[c], rate, gradient, pull
            )
            bias_squares[c] += total * total
            bias[c] -= rate * total / np.sqrt(bias_squares[c])
            place[c] = -1
        _step_embeddings(X, batch, unit, pull, embedding, feature_squares, rate)
