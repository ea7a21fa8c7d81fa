"""Mini-batch gradient steps on the loss of the model, for all sparsity levels at once."""

from typing import NamedTuple

import numpy as np
from numba import njit

from ..arguments import Routes
from .options import EVERY_ROW, INLINED, kernel
from .outputs import (
    log1p_exp,
    sigmoid,
    softmax_of_reached,
    write_prior,
    write_reached_logits,
)
from .router_scores import subtract_products
from .routing import route


class _Scratch(NamedTuple):
    """Arrays that `nested_epoch` works in; those marked with 0 hold zeros between batches."""

    routes: Routes
    score_gradients: np.ndarray  # (batch_size, largest top_k), of the kept experts
    score_changes: np.ndarray  # (n_experts,), 0
    unscaled_intercept: np.ndarray  # (n_experts,), b1 divided by the scale of the router weights
    of_class: np.ndarray  # (n_classes,), logits of a row, then probabilities, then minus labels
    prior_exp: np.ndarray  # (n_classes,), see `write_prior`
    reached: np.ndarray  # (n_classes,), classes that the kept experts are connected to
    is_reached: np.ndarray  # (n_classes,), 0
    output_gradient: np.ndarray  # (n_outputs,), 0
    intercept_gradient: np.ndarray  # (n_classes,), 0


@njit(**INLINED)
def _allocate_scratch(batch_size, batch_top_k, n_experts, intercept, n_outputs):
    largest_k = 1
    for b in range(batch_top_k.shape[0]):
        largest_k = max(largest_k, batch_top_k[b])
    n_classes, dtype = intercept.shape[0], intercept.dtype
    score_changes, output_gradient = np.empty(n_experts, dtype), np.empty(n_outputs, dtype)
    is_reached, intercept_gradient = np.empty(n_classes, np.bool_), np.empty(n_classes, dtype)
    for e in range(n_experts):
        score_changes[e] = 0
    for c in range(n_classes):
        is_reached[c], intercept_gradient[c] = False, 0
    for p in range(n_outputs):
        output_gradient[p] = 0
    shape = (batch_size, largest_k)
    routes = Routes(
        np.empty(shape, np.int64), np.empty(shape, dtype), np.empty(batch_size, np.int64)
    )
    return _Scratch(
        routes, np.empty(shape, dtype), score_changes, np.empty(n_experts, dtype),
        np.empty(n_classes, dtype), np.empty(n_classes, dtype), np.empty(n_classes, np.int64),
        is_reached, output_gradient, intercept_gradient,
    )  # fmt: skip


@njit(**INLINED)
def _multilabel_residual(of_class, reached, n_reached, is_reached, intercept, classes, prior_loss):
    """Replace the logits of the reached classes by probabilities; returns the loss of the row."""
    loss = prior_loss
    for q in range(classes.shape[0]):
        c = classes[q]
        loss -= of_class[c] if is_reached[c] else intercept[c]
    for q in range(n_reached):
        c = reached[q]
        loss += log1p_exp(of_class[c]) - log1p_exp(intercept[c])
        of_class[c] = sigmoid(of_class[c])
    return loss


@njit(**INLINED)
def _add_intercept_gradient(
    of_class, reached, n_reached, is_reached, prior_exp, factor, classes, step, gradient
):
    """Add the change of b2 by one row; ``of_class`` becomes probabilities minus labels."""
    for q in range(n_reached):
        c = reached[q]
        gradient[c] += step * (of_class[c] - prior_exp[c] * factor)
        is_reached[c] = False
    for q in range(classes.shape[0]):
        gradient[classes[q]] -= step
        of_class[classes[q]] -= of_class.dtype.type(1)  # no effect where nothing is connected


@njit(**INLINED)
def _add_output_gradient(
    kept, weights, count, step, indptr, indices, values, residual, gradient, score_gradients
):
    """Add the gradient of the outputs by one row, and write that of the kept scores."""
    mean = step * 0
    for q in range(count):
        derivative = step * 0
        for p in range(indptr[kept[q]], indptr[kept[q] + 1]):
            derivative += values[p] * residual[indices[p]]
            gradient[p] += step * weights[q] * residual[indices[p]]
        score_gradients[q] = derivative
        mean += weights[q] * derivative
    for q in range(count):
        score_gradients[q] = step * weights[q] * (score_gradients[q] - mean)


@njit(**EVERY_ROW)
def _add_gradients_of_row(
    kept, weights, count, indptr, indices, values, of_class, reached, is_reached, intercept,
    prior_exp, prior_total, prior_max, prior_loss, classes, multilabel, step, output_gradient,
    intercept_gradient, score_gradients,
):  # fmt: skip
    """Add the gradients of the outputs and of b2 by one row, and write that of its scores.

    Returns (factor of the prior, loss of the row).
    """
    n_reached = write_reached_logits(
        kept, weights, count, indptr, indices, values, intercept, of_class, reached, is_reached
    )
    if multilabel is None or not multilabel:
        n_reached, factor = softmax_of_reached(
            of_class, reached, n_reached, is_reached, intercept, prior_exp, prior_total, prior_max
        )
        c = classes[0]
        p = of_class[c] if is_reached[c] else prior_exp[c] * factor
        loss = -np.log(max(p, of_class.dtype.type(1e-30)))
    else:
        factor = of_class.dtype.type(1)
        loss = _multilabel_residual(
            of_class, reached, n_reached, is_reached, intercept, classes, prior_loss
        )
    _add_intercept_gradient(
        of_class, reached, n_reached, is_reached, prior_exp, factor, classes, step,
        intercept_gradient,
    )  # fmt: skip
    _add_output_gradient(
        kept, weights, count, step, indptr, indices, values, of_class, output_gradient,
        score_gradients,
    )  # fmt: skip
    return factor, loss


@njit(**INLINED)
def _update_router(
    X, batch, router, router_intercept, kept, counts, gradients, unscale, bias_square, changes
):
    """Move the weights that connect the features of each row to its kept experts."""
    x_indptr, x_indices, x_data = X
    indptr, indices, values = router
    for r in range(batch.shape[0]):
        if counts[r] > 1:  # with one kept expert the gate is constant: no gradient
            for q in range(counts[r]):
                changes[kept[r, q]] = gradients[r, q] * unscale
                router_intercept[kept[r, q]] -= bias_square * gradients[r, q]
            subtract_products(
                changes, kept[r], counts[r], x_indices, x_data, x_indptr[batch[r]],
                x_indptr[batch[r] + 1], indptr, indices, values,
            )  # fmt: skip
            for q in range(counts[r]):
                changes[kept[r, q]] = 0


@njit(**INLINED)
def _update_outputs(kept, counts, size, indptr, values, gradient, rate):
    """Move the outputs of the experts that a batch of ``size`` rows kept."""
    for r in range(size):
        for q in range(counts[r]):
            for p in range(indptr[kept[r, q]], indptr[kept[r, q] + 1]):
                values[p] -= rate * gradient[p]
                gradient[p] = 0


@njit(**INLINED)
def _update_intercept(intercept, gradient, prior_exp, prior_step, rate):
    """Move b2; ``prior_step`` times ``prior_exp`` is the gradient that all rows share."""
    for c in range(intercept.shape[0]):
        intercept[c] -= rate * (gradient[c] + prior_exp[c] * prior_step)
        gradient[c] = 0


@kernel
def nested_epoch(X, rows, model, batch_top_k, options, multilabel):
    """Run one epoch of mini-batch gradient steps on the cross-entropy of the model.

    Each mini-batch keeps its own number of experts, so all sparsity levels are trained at once.
    Only kept experts get a gradient. The router weights are held as ``scale *
    model.router.data``, where the scale is 1 at first. All arrays of the model change in place.

    Parameters
    ----------
    X : Csr (n_samples, n_features)
    rows : NestedRows
    model : ModelArrays
    batch_top_k : ndarray of int64 (n_batches,)
        The number of experts that each mini-batch keeps.
    options : NestedOptions
    multilabel : bool or None
        None is False, with which the code for several labels is not compiled.

    Returns
    -------
    scale : float
        The scale of the router weights after the epoch.
    loss : float
        Sum of the losses of the rows.
    """
    order, step_lengths, (label_indptr, label_classes) = rows
    router, router_intercept, (indptr, indices, values), intercept = model
    n_experts = router_intercept.shape[0]
    batch_size, bias_square, output_rate, shrinkage = options
    kind = intercept.dtype.type
    bias_square, output_rate = kind(bias_square), kind(output_rate)
    (
        routes, score_gradients, score_changes, unscaled, of_class, prior_exp, reached, is_reached,
        output_gradient, intercept_gradient,
    ) = _allocate_scratch(
        batch_size, batch_top_k, n_experts, intercept, values.shape[0]
    )  # fmt: skip
    kept, weights, counts = routes
    scale, loss = 1.0, 0.0
    for b in range(batch_top_k.shape[0]):
        batch = order[b * batch_size : (b + 1) * batch_size]
        prior_total, prior_max, prior_loss = write_prior(intercept, multilabel, prior_exp)
        prior_step = kind(0)
        for e in range(n_experts):
            unscaled[e] = router_intercept[e] / kind(scale)
        route(X, batch, router, unscaled, scale, batch_top_k[b], routes)
        for r in range(batch.shape[0]):
            step = step_lengths[batch[r]]
            classes = label_classes[label_indptr[batch[r]] : label_indptr[batch[r] + 1]]
            factor, row_loss = _add_gradients_of_row(
                kept[r], weights[r], counts[r], indptr, indices, values, of_class, reached,
                is_reached, intercept, prior_exp, prior_total, prior_max, prior_loss, classes,
                multilabel, step, output_gradient, intercept_gradient, score_gradients[r],
            )  # fmt: skip
            loss += row_loss
            prior_step += step * factor
        scale *= 1.0 - shrinkage
        _update_router(
            X, batch, router, router_intercept, kept, counts, score_gradients, kind(1.0 / scale),
            bias_square, score_changes,
        )  # fmt: skip
        _update_outputs(kept, counts, batch.shape[0], indptr, values, output_gradient, output_rate)
        _update_intercept(intercept, intercept_gradient, prior_exp, prior_step, output_rate)
    return scale, loss
