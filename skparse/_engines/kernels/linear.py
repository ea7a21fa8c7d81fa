"""One-vs-rest linear classifiers of the experts, trained in one pass over the rows."""

import numpy as np
from numba import njit

from .options import HELPER, INLINED, kernel
from .router_scores import add_scores, subtract_products


@njit(**INLINED)
def _replace_scores_by_steps(
    step, scale, x0, bias, target_experts, start, stop, implicit_rate, longest
):
    """Turn the scores of one row into the steps of its margins, in place.

    The experts with target +1 are the entries ``start`` to ``stop`` of ``target_experts``.
    """
    zero, one = step.dtype.type(0), step.dtype.type(1)
    for e in range(step.shape[0]):
        step[e] = scale * step[e] + x0 * bias[e]
    # Negate the margins of positive labels, take the step, negate back.
    for q in range(start, stop):
        step[target_experts[q]] *= -one
    for e in range(step.shape[0]):
        step[e] = min(longest, max(one + step[e], zero) * implicit_rate)
    for q in range(start, stop):
        step[target_experts[q]] *= -one


@njit(**HELPER)
def _move_bias(bias, step, x0, unscale, moved):
    """Move the bias by the steps of one row, and divide these by the scale of the margins.

    Writes the experts whose step is not zero to ``moved``; returns their number.
    """
    n_moved = 0
    for e in range(step.shape[0]):
        if step[e] != 0:
            moved[n_moved] = e
            n_moved += 1
            bias[e] -= x0 * step[e]
            step[e] *= unscale
    return n_moved


@njit(**INLINED)
def _subtract_steps(
    order, first, size, steps, bias, x0, unscale, moved, x_indptr, x_indices, x_data, indptr,
    indices, values,
):  # fmt: skip
    """Subtract the steps of the rows ``order[first : first + size]`` from margins and bias."""
    for r in range(size):
        i = order[first + r]
        n_moved = _move_bias(bias, steps[r], x0, unscale, moved)
        if n_moved > 0:
            subtract_products(
                steps[r], moved, n_moved, x_indices, x_data, x_indptr[i], x_indptr[i + 1],
                indptr, indices, values,
            )  # fmt: skip


@kernel
def linear_epoch(X, rows, targets, margins, bias, schedule, batch_size):
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
    target_indptr, target_experts = targets
    indptr, indices, values = margins
    seen, numerator, offset, row_crowding, batch_crowding, bias_feature = schedule
    kind = values.dtype.type
    one, two, four = kind(1), kind(2), kind(4)
    x0 = kind(bias_feature)
    steps = np.empty((batch_size, bias.shape[0]), values.dtype)
    moved = np.empty(bias.shape[0], np.int64)
    scale = 1.0
    for first in range(0, order.shape[0], batch_size):
        size = min(batch_size, order.shape[0] - first)
        rate = kind(numerator / (seen + offset))
        batch_weight = 0.0
        for r in range(size):
            i, step = order[first + r], steps[r]
            for e in range(step.shape[0]):
                step[e] = 0
            add_scores(
                step, x_indices, x_data, x_indptr[i], x_indptr[i + 1], indptr, indices, values
            )
            weight = kind(sample_weight[i])
            batch_weight += weight
            crowding = kind(row_crowding) * weight + kind(batch_crowding)
            norm = squared_norms[i] + x0 * x0
            _replace_scores_by_steps(
                step, kind(scale), x0, bias,
                target_experts, target_indptr[i], target_indptr[i + 1],
                two * rate * weight / (one + two * rate * norm * crowding), four * rate * weight,
            )  # fmt: skip
        seen += batch_weight
        scale *= 1.0 - batch_weight / (seen + offset)
        _subtract_steps(
            order, first, size, steps, bias, x0, kind(1.0 / scale), moved, x_indptr, x_indices,
            x_data, indptr, indices, values,
        )  # fmt: skip
    return scale
