"""One-vs-rest linear classifiers of the experts, trained in one pass over the rows."""

import numpy as np
from numba import njit

from .options import INLINED, kernel
from .router_scores import add_scores, subtract_products


@njit(**INLINED)
def _subtract_steps(
    order, first, size, steps, bias, x0, unscale, moved, x_indptr, x_indices, x_data, indptr,
    indices, values,
):  # fmt: skip
    """Subtract the steps of the rows ``order[first : first + size]`` from margins and bias."""
    for r in range(size):
        i, step = order[first + r], steps[r]
        n_moved = np.int64(0)  # not a literal, for which the helper would be compiled twice
        for e in range(step.shape[0]):
            if step[e] != 0:
                moved[n_moved] = e
                n_moved += 1
                bias[e] -= x0 * step[e]
                step[e] *= unscale
        if n_moved > 0:
            subtract_products(
                step, moved, n_moved, x_indices, x_data, x_indptr[i], x_indptr[i + 1], indptr,
                indices, values,
            )  # fmt: skip


@kernel
def linear_epoch(X, rows, targets, ignored, margins, bias, schedule, batch_size):
    """Run one pass of implicit stochastic gradient steps on Huberised squared hinge losses.

    Expert ``e`` has the margin ``scale * x @ margins[:, e] + bias_feature * bias[e]``, where the
    scale is 1 at first. Its target is +1 for the rows that ``targets`` lists it for, -1 for the
    rest. ``margins.data`` and ``bias`` change in place. ``margins.data`` has to be multiplied by
    the returned scale: it holds the L2 shrinkage, which then need not visit every weight.

    Parameters
    ----------
    X : Csr (n_samples, n_features)
    rows : LinearRows
    targets : Pattern (n_samples, n_experts)
    ignored : Pattern (n_samples, n_experts)
        Experts that take no step for a row.
    margins : Csr (n_features, n_experts)
    bias : ndarray (n_experts,)
    schedule : StepSchedule
    batch_size : int

    Returns
    -------
    scale : float
    """
    x_indptr, x_indices, x_data = X
    order, squared_norms, sample_weight = rows
    (target_indptr, target_experts), (ignored_indptr, ignored_experts) = targets, ignored
    indptr, indices, values = margins
    seen, numerator, offset, row_crowding, batch_crowding, bias_feature = schedule
    kind = values.dtype.type
    zero, one, two, four, x0 = kind(0), kind(1), kind(2), kind(4), kind(bias_feature)
    steps, scale = np.empty((batch_size, bias.shape[0]), values.dtype), 1.0
    moved = np.empty(bias.shape[0], np.int64)
    for first in range(0, order.shape[0], batch_size):
        size = min(batch_size, order.shape[0] - first)
        rate, batch_weight = kind(numerator / (seen + offset)), 0.0
        for r in range(size):
            i, step = order[first + r], steps[r]
            for e in range(step.shape[0]):
                step[e] = 0
            add_scores(
                step, x_indices, x_data, x_indptr[i], x_indptr[i + 1], indptr, indices, values
            )
            weight = kind(sample_weight[i])
            batch_weight += weight
            crowding, norm = kind(row_crowding) * weight + kind(batch_crowding), squared_norms[i]
            implicit = two * rate * weight / (one + two * rate * (norm + x0 * x0) * crowding)
            for e in range(step.shape[0]):
                step[e] = kind(scale) * step[e] + x0 * bias[e]
            # Negate the margins of positive labels, take the step, negate back.
            for q in range(target_indptr[i], target_indptr[i + 1]):
                step[target_experts[q]] *= -one
            for e in range(step.shape[0]):
                step[e] = min(four * rate * weight, max(one + step[e], zero) * implicit)
            for q in range(target_indptr[i], target_indptr[i + 1]):
                step[target_experts[q]] *= -one
            for q in range(ignored_indptr[i], ignored_indptr[i + 1]):
                step[ignored_experts[q]] = 0
        seen += batch_weight
        scale *= 1.0 - batch_weight / (seen + offset)
        _subtract_steps(
            order, first, size, steps, bias, x0, kind(1.0 / scale), moved, x_indptr, x_indices,
            x_data, indptr, indices, values,
        )  # fmt: skip
    return scale
