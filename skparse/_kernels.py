"""Fused CPU kernels: one pass per row gathers, keeps the top K, and scatters only what changed.

The router weights are sparse: feature ``j`` is connected to the experts
``router_indices[router_indptr[j]:router_indptr[j + 1]]`` and to no other. All kernels
work on that one representation; a dense router is the pattern in which every feature
is connected to every expert. The experts of a feature are in ascending order. Nothing
here allocates n_samples x n_experts, and no kernel takes a lock or a global setting, so
any number of Python threads may run them.

`skparse._torch_engine` computes the same functions with PyTorch.
"""

import numpy as np
from numba import njit

# Indices are cast to unsigned: numba guards every signed one against being negative, which
# made these loops two to three times slower.
from numpy import uint64

from ._intrinsics import LANES, lowest_bit, positive_bits, prefetch

# No fast-math: with it the compiler picks between versions of a loop by where the arrays lie,
# and the same seed no longer gives the same bits. It gained nothing measurable.
# Helpers get none of the wrappers for calls from outside, which take a sixth of the compilation.
_OPTIONS = {
    "nogil": True, "error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True,
}  # fmt: skip
# Only what Python calls is kept on disk: it contains the code of its helpers.
_CACHED = {**_OPTIONS, "no_cpython_wrapper": False, "cache": True}
# What runs once a row takes arrays, not tuples of them, and is inlined: counting references to
# the parts of a tuple, or passing on a dozen arrays, made short rows a sixth slower.
_EVERY_ROW = {**_OPTIONS, "forceinline": True}
# Helpers with one caller are inlined before compilation: half a second less of it.
_ONE_CALLER = {**_OPTIONS, "inline": "always"}

_ONE = uint64(1)
_LANES = uint64(LANES)
_ORDERED_AT_ONCE = 4  # candidates per kept expert: the time is quadratic in them
_ROWS_AT_ONCE = 32  # whose codes a prediction holds
_AHEAD = uint64(8)  # nonzeros, between asking for the weights of a feature and using them


@njit(**_EVERY_ROW)
def _add_scores_of_two(h, x_indices, x_data, start, stop, indptr, indices, values):
    """`_add_scores` of one expert or two, whose scores stay in registers."""
    zero, n_experts = h.dtype.type(0), uint64(h.shape[0])
    h0, h1 = h[0], h[n_experts - _ONE]
    if uint64(values.shape[0]) == n_experts * uint64(indptr.shape[0] - 1):  # all are connected
        for t in range(uint64(start), uint64(stop)):
            first = n_experts * uint64(x_indices[t])
            h0 += x_data[t] * values[first]
            h1 += x_data[t] * values[first + n_experts - _ONE]
    else:
        for t in range(uint64(start), uint64(stop)):
            j = uint64(x_indices[t])
            first, last = uint64(indptr[j]), uint64(indptr[j + _ONE])
            if last - first == _ONE:
                product, is_second = x_data[t] * values[first], indices[first] > 0
                h0 += zero if is_second else product
                h1 += product if is_second else zero
            elif last > first:
                h0 += x_data[t] * values[first]
                h1 += x_data[t] * values[first + _ONE]
    h[n_experts - _ONE] = h1
    h[0] = h0


@njit(**_EVERY_ROW)
def _add_scores(h, x_indices, x_data, start, stop, indptr, indices, values):
    """Add ``x @ router`` of one row to ``h``."""
    if h.shape[0] <= 2:
        _add_scores_of_two(h, x_indices, x_data, start, stop, indptr, indices, values)
        return
    n_experts, end = uint64(h.shape[0]), uint64(stop - 1)
    j = uint64(x_indices[start]) if start < stop else uint64(0)
    first, last = uint64(indptr[j]), uint64(indptr[j + _ONE])
    for t in range(uint64(start), uint64(stop)):
        ahead = uint64(indptr[uint64(x_indices[min(t + _AHEAD, end)])])
        prefetch(indices, ahead)
        prefetch(values, ahead)
        # Where the weights of the next feature lie is looked up before those of this one are
        # used: the processor then knows early where the loop over them ends.
        j = uint64(x_indices[min(t + _ONE, end)])
        next_first, next_last = uint64(indptr[j]), uint64(indptr[j + _ONE])
        x = x_data[t]
        if last - first == n_experts:  # connected to all, in order: no index to look up
            for e in range(n_experts):
                h[e] += x * values[first + e]
        else:
            for p in range(first, last):
                h[uint64(indices[p])] += x * values[p]
        first, last = next_first, next_last


@njit(**_OPTIONS)
def _subtract_products(
    by, moved, n_moved, x_indices, x_data, start, stop, indptr, indices, values
):
    """Subtract the outer product of one row and ``by`` (n_experts,) from the router weights.

    Only the first ``n_moved`` experts listed in ``moved`` have a value other than zero.
    """
    n_experts, end = uint64(by.shape[0]), uint64(stop - 1)
    j = uint64(x_indices[start]) if start < stop else uint64(0)
    first, last = uint64(indptr[j]), uint64(indptr[j + _ONE])
    for t in range(uint64(start), uint64(stop)):
        j = uint64(x_indices[min(t + _ONE, end)])
        next_first, next_last = uint64(indptr[j]), uint64(indptr[j + _ONE])
        x = x_data[t]
        if last - first < n_experts:
            for p in range(first, last):
                values[p] -= x * by[uint64(indices[p])]
        elif 8 * n_moved < by.shape[0]:
            for q in range(n_moved):
                e = uint64(moved[q])
                values[first + e] -= x * by[e]
        else:
            for e in range(n_experts):
                values[first + e] -= x * by[e]
        first, last = next_first, next_last


@njit(**_ONE_CALLER)
def _list_positive(h, experts):
    """Write the positions of the positive entries of ``h`` to ``experts``; returns how many."""
    n_positive = uint64(0)
    n_experts = uint64(h.shape[0])
    whole = n_experts - n_experts % _LANES
    for first in range(uint64(0), whole, _LANES):
        bits = positive_bits(h, first)
        while bits != 0:
            experts[n_positive] = first + lowest_bit(bits)
            n_positive += _ONE
            bits &= bits - _ONE
    for e in range(whole, n_experts):  # without a branch: which are positive is hard to guess
        experts[n_positive] = e
        n_positive += uint64(h[e] > 0)
    return n_positive


@njit(**_ONE_CALLER)
def _order(values, experts, count, top_k, ordered):
    """Write the first ``count`` experts to ``ordered``, those with the largest values first.

    Of equal ones the first comes first. Four are ranked at a time, in registers, up to three of
    them behind the last. All whose rank is ``top_k`` or more go to that one place.
    """
    for i in range(count, count + uint64(3)):
        values[i] = 0
    for i in range(uint64(0), count, uint64(4)):
        a, b, c, d = values[i], values[i + _ONE], values[i + uint64(2)], values[i + uint64(3)]
        before_a = uint64(b > a) + uint64(c > a) + uint64(d > a)
        before_b = uint64(a >= b) + uint64(c > b) + uint64(d > b)
        before_c = uint64(a >= c) + uint64(b >= c) + uint64(d > c)
        before_d = uint64(a >= d) + uint64(b >= d) + uint64(c >= d)
        for j in range(i):
            before_a += uint64(values[j] >= a)
            before_b += uint64(values[j] >= b)
            before_c += uint64(values[j] >= c)
            before_d += uint64(values[j] >= d)
        for j in range(i + uint64(4), count):
            before_a += uint64(values[j] > a)
            before_b += uint64(values[j] > b)
            before_c += uint64(values[j] > c)
            before_d += uint64(values[j] > d)
        ordered[min(before_a, top_k)] = experts[i]
        ordered[min(before_b, top_k)] = experts[i + _ONE]
        ordered[min(before_c, top_k)] = experts[i + uint64(2)]
        ordered[min(before_d, top_k)] = experts[i + uint64(3)]


@njit(**_OPTIONS)
def _keep_top(h, top_k, kept, experts, values, ordered):
    """Write the ``top_k`` largest positive entries of ``h`` to ``kept``, largest first.

    Ties go to the lowest index. Returns how many were kept. No branch depends on a score: which
    are larger is hard to guess, and a wrong guess costs more than ordering a few more. The last
    three arrays are those of `_selection_scratch`.
    """
    at_most, at_once = uint64(top_k), uint64(_ORDERED_AT_ONCE * top_k)
    n_positive = _list_positive(h, experts)
    count, seen, threshold = uint64(0), uint64(0), h.dtype.type(0)
    while seen < n_positive:
        while seen < n_positive and count < at_once:
            e = experts[seen]
            experts[count], values[count] = e, h[e]
            count += uint64(h[e] > threshold)
            seen += _ONE
        _order(values, experts, count, at_most, ordered)
        count = min(count, at_most)
        for i in range(count):
            experts[i], values[i] = ordered[i], h[ordered[i]]
        if count == at_most:
            threshold = values[count - _ONE]
    for i in range(count):
        kept[i] = experts[i]
    return np.int64(count)


@njit(**_OPTIONS)
def _selection_scratch(h, top_k):
    """Allocate what `_keep_top` needs for itself: (experts, values, ordered)."""
    experts = np.empty(h.shape[0] + 3, np.uint64)
    values = np.empty(_ORDERED_AT_ONCE * top_k + 3, h.dtype)
    return experts, values, np.empty(top_k + 1, np.uint64)


@njit(**_EVERY_ROW)
def _gate(h, kept, count, sharpness, weights):
    """Softmax of the scores of the kept experts, multiplied by ``sharpness``."""
    largest = h[kept[0]] if count > 0 else h.dtype.type(0)
    total = h.dtype.type(0)
    for q in range(count):
        weights[q] = np.exp(sharpness * (h[kept[q]] - largest))
        total += weights[q]
    for q in range(count):
        weights[q] /= total


@njit(**_CACHED)
def linear_epoch(X, rows, labels, pattern, values, bias, clock, batch_size):
    """One pass of implicit stochastic gradient steps on one-vs-rest Huberised hinge losses.

    Expert ``e`` has the score ``scale * x @ values[:, e] + bias_feature * bias[e]`` and the
    target +1 for the samples whose labels it is connected to, -1 for the rest. ``values`` and
    ``bias`` change in place; ``values`` has to be multiplied by the returned scale, which
    carries the L2 shrinkage without touching every weight.

    Parameters
    ----------
    X : tuple (indptr, indices, data)
    rows : tuple (order, squared_norms, sample_weight)
    labels : tuple (indptr, experts), the experts with target +1 of each row
    pattern : tuple (indptr, indices)
    values : ndarray (nnz of the pattern,)
    bias : ndarray (n_experts,)
    clock : tuple of float, see `skparse._linear_start.StepClock`
    batch_size : int

    Returns
    -------
    scale : float
    """
    x_indptr, x_indices, x_data = X
    order, squared_norms, sample_weight = rows
    label_indptr, label_experts = labels
    indptr, indices = pattern
    seen, numerator, offset, crowd_row, crowd_batch, bias_feature = clock
    kind = values.dtype.type
    zero, one, two, four = kind(0), kind(1), kind(2), kind(4)
    x0 = kind(bias_feature)
    steps = np.empty((batch_size, bias.shape[0]), values.dtype)
    moved = np.empty(bias.shape[0], np.int64)
    scale = 1.0
    for first in range(0, order.shape[0], batch_size):
        size = min(batch_size, order.shape[0] - first)
        rate = kind(numerator / (seen + offset))
        batch_weight = 0.0
        for r in range(size):
            i = order[first + r]
            step = steps[r]
            step[:] = 0
            _add_scores(
                step, x_indices, x_data, x_indptr[i], x_indptr[i + 1], indptr, indices, values
            )
            w = kind(sample_weight[i])
            batch_weight += w
            crowd = kind(crowd_row) * w + kind(crowd_batch)
            norm = squared_norms[i] + x0 * x0
            implicit = two * rate * w / (one + two * rate * norm * crowd)
            cap = four * rate * w
            for e in range(step.shape[0]):
                step[e] = kind(scale) * step[e] + x0 * bias[e]
            # A positive is a negative seen in a mirror: flip, step, flip back.
            for q in range(label_indptr[i], label_indptr[i + 1]):
                step[label_experts[q]] *= -one
            for e in range(step.shape[0]):
                step[e] = min(cap, max(one + step[e], zero) * implicit)
            for q in range(label_indptr[i], label_indptr[i + 1]):
                step[label_experts[q]] *= -one
        seen += batch_weight
        scale *= 1.0 - batch_weight / (seen + offset)
        for r in range(size):
            i = order[first + r]
            n_moved = _move_bias(bias, steps[r], x0, kind(1.0 / scale), moved)
            if n_moved > 0:
                _subtract_products(
                    steps[r], moved, n_moved, x_indices, x_data, x_indptr[i], x_indptr[i + 1],
                    indptr, indices, values,
                )  # fmt: skip
    return scale


@njit(**_OPTIONS)
def _move_bias(bias, step, x0, unscale, moved):
    """Move the bias by one row's step and unscale the step; lists and counts who moved."""
    n_moved = 0
    for e in range(step.shape[0]):
        if step[e] != 0:
            moved[n_moved] = e
            n_moved += 1
            bias[e] -= x0 * step[e]
            step[e] *= unscale
    return n_moved


@njit(**_OPTIONS)
def _touched_logits(kept, weights, count, expert, intercept, z, touched, is_touched):
    """Logits of the classes that the kept experts are connected to; the rest stay at b2."""
    indptr, indices, values = expert
    n_touched = 0
    for q in range(count):
        e = kept[q]
        for p in range(indptr[e], indptr[e + 1]):
            c = indices[p]
            if not is_touched[c]:
                is_touched[c] = True
                touched[n_touched] = c
                n_touched += 1
                z[c] = intercept[c]
            z[c] += weights[q] * values[p]
    return n_touched


@njit(**_OPTIONS)
def _touch_rest(intercept, z, touched, n_touched, is_touched, base, base_total):
    """Visit all classes if the touched ones are most of what b2 says: no digits are lost."""
    share = base_total * 0
    for q in range(n_touched):
        share += base[touched[q]]
    if share <= base_total / 2:
        return n_touched
    for c in range(z.shape[0]):
        if not is_touched[c]:
            is_touched[c] = True
            z[c] = intercept[c]
            touched[n_touched] = c
            n_touched += 1
    return n_touched


@njit(**_OPTIONS)
def _softmax_residual(z, touched, n_touched, base, base_total, base_max):
    """Replace the touched logits by probabilities; returns 1 / (their total over all classes).

    ``base`` holds exp(b2 - base_max) and ``base_total`` its sum: the classes that no kept
    expert is connected to are counted without being visited. The returned factor turns
    ``base`` into the probabilities of those.
    """
    largest = base_max
    rest = base_total
    for q in range(n_touched):
        largest = max(largest, z[touched[q]])
        rest -= base[touched[q]]
    factor = np.exp(base_max - largest)
    if n_touched == z.shape[0]:
        factor = z.dtype.type(0)
    total = rest * factor
    for q in range(n_touched):
        c = touched[q]
        z[c] = np.exp(z[c] - largest)
        total += z[c]
    for q in range(n_touched):
        z[touched[q]] /= total
    return factor / total


@njit(**_OPTIONS)
def _sigmoid(value):
    small = np.exp(-abs(value))
    return 1.0 / (1.0 + small) if value >= 0 else small / (1.0 + small)


@njit(**_OPTIONS)
def _log1p_exp(value):
    """log(1 + exp(value)), the loss of a logit whose label is absent."""
    return max(value, value * 0) + np.log1p(np.exp(-abs(value)))


@njit(**_OPTIONS)
def _intercept_outputs(intercept, multilabel, base):
    """Fill ``base`` with what b2 alone says of each class; returns (total, max, loss).

    Softmax: exp(b2 - max), their sum and the max. Multilabel: probabilities and the loss of
    a row without labels. Computed once a batch, so that a row visits only the classes its
    kept experts are connected to.
    """
    largest = intercept[0]
    for c in range(1, intercept.shape[0]):
        largest = max(largest, intercept[c])
    total = intercept.dtype.type(0)
    loss = 0.0
    for c in range(intercept.shape[0]):
        if multilabel is None or not multilabel:
            base[c] = np.exp(intercept[c] - largest)
        else:
            base[c] = _sigmoid(intercept[c])
            loss += _log1p_exp(intercept[c])
        total += base[c]
    return total, largest, loss


@njit(**_ONE_CALLER)
def _multilabel_residual(z, touched, n_touched, is_touched, intercept, row_classes, base_loss):
    """Replace the touched logits by probabilities; returns the loss of the row."""
    loss = base_loss
    for q in range(row_classes.shape[0]):
        c = row_classes[q]
        loss -= z[c] if is_touched[c] else intercept[c]
    for q in range(n_touched):
        c = touched[q]
        loss += _log1p_exp(z[c]) - _log1p_exp(intercept[c])
        z[c] = _sigmoid(z[c])
    return loss


@njit(**_ONE_CALLER)
def _expert_gradient(kept, gate, count, step, expert, z, gradient_expert, moves):
    """Gradients of one row: added up for the outputs, written to ``moves`` for the scores."""
    indptr, indices, values = expert
    mean = step * 0
    for q in range(count):
        derivative = step * 0
        for p in range(indptr[kept[q]], indptr[kept[q] + 1]):
            derivative += values[p] * z[indices[p]]
            gradient_expert[p] += step * gate[q] * z[indices[p]]
        moves[q] = derivative
        mean += gate[q] * derivative
    for q in range(count):
        moves[q] = step * gate[q] * (moves[q] - mean)


@njit(**_ONE_CALLER)
def _router_update(X, i, router, router_intercept, kept, moves, count, unscale, bias_square, by):
    """Move the weights that connect the features of row ``i`` to its kept experts.

    ``by`` (n_experts,) is scratch that holds zeros between calls.
    """
    x_indptr, x_indices, x_data = X
    indptr, indices, values = router
    for q in range(count):
        by[kept[q]] = moves[q] * unscale
        router_intercept[kept[q]] -= bias_square * moves[q]
    _subtract_products(
        by, kept, count, x_indices, x_data, x_indptr[i], x_indptr[i + 1], indptr, indices, values
    )
    for q in range(count):
        by[kept[q]] = 0


@njit(**_ONE_CALLER)
def _intercept_gradient(z, touched, n_touched, is_touched, base, factor, classes, step, gradient):
    """Add what one row moves b2 by; ``z`` becomes probabilities minus labels."""
    for q in range(n_touched):
        c = touched[q]
        gradient[c] += step * (z[c] - base[c] * factor)
        is_touched[c] = False
    for q in range(classes.shape[0]):
        gradient[classes[q]] -= step
        z[classes[q]] -= z.dtype.type(1)  # of no effect where nothing is connected


@njit(**_ONE_CALLER)
def _outputs_update(kept, counts, size, expert, gradient_expert, rate):
    """Move the outputs of the experts that a batch of ``size`` rows kept."""
    indptr, _, values = expert
    for r in range(size):
        for q in range(counts[r]):
            for p in range(indptr[kept[r, q]], indptr[kept[r, q] + 1]):
                values[p] -= rate * gradient_expert[p]
                gradient_expert[p] = 0


@njit(**_CACHED)
def codes(X, rows, router, router_intercept, sharpness, top_k, kept, weights, counts):
    """Write which experts some rows keep, their gate weights, and how many they are.

    Training and all predictions begin with this.

    Parameters
    ----------
    X : tuple (indptr, indices, data)
    rows : ndarray of int (n_rows,)
    router : tuple (indptr, indices, values)
    router_intercept : ndarray (n_experts,)
    sharpness : float
        The gate is the softmax of the scores times this.
    top_k : int
    kept, weights : ndarray (n_rows, at least top_k)
        Filled from the left, best expert first.
    counts : ndarray (n_rows,)
    """
    x_indptr, x_indices, x_data = X
    r_indptr, r_indices, r_values = router
    h = np.empty(router_intercept.shape[0], r_values.dtype)
    experts, values, ordered = _selection_scratch(h, top_k)
    for r in range(rows.shape[0]):
        i = rows[r]
        for e in range(h.shape[0]):
            h[e] = router_intercept[e]
        _add_scores(
            h, x_indices, x_data, x_indptr[i], x_indptr[i + 1], r_indptr, r_indices, r_values
        )
        counts[r] = _keep_top(h, top_k, kept[r], experts, values, ordered)
        _gate(h, kept[r], counts[r], h.dtype.type(sharpness), weights[r])


@njit(**_CACHED)
def nested_epoch(
    X, order, labels, steps, router, expert, intercepts, grids, batch_size, rates, multilabel
):
    """One epoch of mini-batch gradient steps on the cross-entropy of the sparse expert model.

    Each mini-batch keeps its own number of experts, so all sparsity levels are trained at
    once; only kept experts get a gradient. The router weights are held as ``scale *
    values``; all parameters change in place.

    Parameters
    ----------
    X : tuple (indptr, indices, data)
    order : ndarray (n_rows,)
    labels : tuple (indptr, classes) of each row
    steps : ndarray (n_samples,), the step length of each sample
    router, expert : tuple (indptr, indices, values)
    intercepts : tuple (router_intercept, intercept)
    grids : ndarray (n_batches,), the number of experts each mini-batch keeps
    batch_size : int
    rates : tuple (bias feature squared, step of the outputs relative to the router's,
        shrinkage per batch, scale of the router weights)
    multilabel : bool or None
        None is False, known before compilation: what several labels need is left out of it.

    Returns
    -------
    scale : float
        The scale of the router weights after the epoch.
    loss : float
        Sum of the losses of the rows.
    """
    label_indptr, label_classes = labels
    router_intercept, intercept = intercepts
    n_experts, n_classes = router_intercept.shape[0], intercept.shape[0]
    dtype, kind = intercept.dtype, intercept.dtype.type
    bias_square, output_rate = kind(rates[0]), kind(rates[1])
    shrink, scale = rates[2], rates[3]
    widest = 1
    for b in range(grids.shape[0]):
        widest = max(widest, grids[b])
    by, unscaled = np.empty(n_experts, dtype), np.empty(n_experts, dtype)
    kept, counts = np.empty((batch_size, widest), np.int64), np.empty(batch_size, np.int64)
    gate, moves = np.empty((batch_size, widest), dtype), np.empty((batch_size, widest), dtype)
    z, base = np.empty(n_classes, dtype), np.empty(n_classes, dtype)
    touched, is_touched = np.empty(n_classes, np.int64), np.empty(n_classes, np.bool_)
    gradient_expert, gradient_intercept = np.empty_like(expert[2]), np.empty(n_classes, dtype)
    for e in range(n_experts):
        by[e] = 0
    for c in range(n_classes):
        is_touched[c], gradient_intercept[c] = False, 0
    for p in range(gradient_expert.shape[0]):
        gradient_expert[p] = 0
    loss = 0.0
    for b in range(grids.shape[0]):
        batch = order[b * batch_size : (b + 1) * batch_size]
        base_total, base_max, base_loss = _intercept_outputs(intercept, multilabel, base)
        base_step = kind(0)
        for e in range(n_experts):
            unscaled[e] = router_intercept[e] / kind(scale)
        codes(X, batch, router, unscaled, scale, grids[b], kept, gate, counts)
        for r in range(batch.shape[0]):
            i = batch[r]
            classes = label_classes[label_indptr[i] : label_indptr[i + 1]]
            n_touched = _touched_logits(
                kept[r], gate[r], counts[r], expert, intercept, z, touched, is_touched
            )
            if multilabel is None or not multilabel:
                n_touched = _touch_rest(
                    intercept, z, touched, n_touched, is_touched, base, base_total
                )
                factor = _softmax_residual(z, touched, n_touched, base, base_total, base_max)
                c = classes[0]
                p = z[c] if is_touched[c] else base[c] * factor
                loss -= np.log(max(p, kind(1e-30)))
            else:
                factor = kind(1)
                loss += _multilabel_residual(
                    z, touched, n_touched, is_touched, intercept, classes, base_loss
                )
            _intercept_gradient(
                z, touched, n_touched, is_touched, base, factor, classes, steps[i],
                gradient_intercept,
            )  # fmt: skip
            _expert_gradient(
                kept[r], gate[r], counts[r], steps[i], expert, z, gradient_expert, moves[r]
            )
            base_step += steps[i] * factor
        scale *= 1.0 - shrink
        for r in range(batch.shape[0]):
            if counts[r] > 1:  # with one kept expert the gate is constant: no gradient
                _router_update(
                    X, batch[r], router, router_intercept, kept[r], moves[r], counts[r],
                    kind(1.0 / scale), bias_square, by,
                )  # fmt: skip
        _outputs_update(kept, counts, batch.shape[0], expert, gradient_expert, output_rate)
        for c in range(n_classes):
            intercept[c] -= output_rate * (gradient_intercept[c] + base[c] * base_step)
            gradient_intercept[c] = 0
    return scale, loss


@njit(**_OPTIONS)
def _next_rows(rows, first, last):
    """Fill ``rows`` with the next ones from ``first`` on, before ``last``; returns them."""
    size = min(rows.shape[0], last - first)
    for r in range(size):
        rows[r] = first + r
    return rows[:size]


@njit(**_CACHED)
def logits(X, first, last, router, expert, intercepts, top_k, out):
    """Write the logits of rows ``first`` to ``last`` to ``out`` (last - first, n_classes)."""
    e_indptr, e_indices, e_values = expert
    router_intercept, intercept = intercepts
    scratch, counts = np.empty(_ROWS_AT_ONCE, np.int64), np.empty(_ROWS_AT_ONCE, np.int64)
    kept = np.empty((_ROWS_AT_ONCE, top_k), np.int64)
    gate = np.empty((_ROWS_AT_ONCE, top_k), intercept.dtype)
    for start in range(first, last, _ROWS_AT_ONCE):
        rows = _next_rows(scratch, start, last)
        codes(X, rows, router, router_intercept, 1.0, top_k, kept, gate, counts)
        for r in range(rows.shape[0]):
            z = out[rows[r] - first]
            for c in range(z.shape[0]):
                z[c] = intercept[c]
            for q in range(counts[r]):
                for p in range(e_indptr[kept[r, q]], e_indptr[kept[r, q] + 1]):
                    z[e_indices[p]] += gate[r, q] * e_values[p]


@njit(**_CACHED)
def probabilities(X, first, last, router, expert, intercepts, top_k, out):
    """Write softmax(W h_sparse + b2) of rows ``first`` to ``last`` to ``out``.

    Only the logits of classes that a kept expert is connected to are exponentiated; the others
    share the factor by which b2 alone would be scaled.
    """
    router_intercept, intercept = intercepts
    n_classes = intercept.shape[0]
    scratch, counts = np.empty(_ROWS_AT_ONCE, np.int64), np.empty(_ROWS_AT_ONCE, np.int64)
    kept = np.empty((_ROWS_AT_ONCE, top_k), np.int64)
    gate = np.empty((_ROWS_AT_ONCE, top_k), intercept.dtype)
    z, base = np.empty_like(intercept), np.empty_like(intercept)
    touched, is_touched = np.empty(n_classes, np.int64), np.zeros(n_classes, np.bool_)
    base_total, base_max, _ = _intercept_outputs(intercept, None, base)
    for start in range(first, last, _ROWS_AT_ONCE):
        rows = _next_rows(scratch, start, last)
        codes(X, rows, router, router_intercept, 1.0, top_k, kept, gate, counts)
        for r in range(rows.shape[0]):
            n_touched = _touched_logits(
                kept[r], gate[r], counts[r], expert, intercept, z, touched, is_touched
            )
            n_touched = _touch_rest(intercept, z, touched, n_touched, is_touched, base, base_total)
            factor = _softmax_residual(z, touched, n_touched, base, base_total, base_max)
            row = out[rows[r] - first]
            for c in range(n_classes):
                row[c] = base[c] * factor
            for q in range(n_touched):
                row[touched[q]] = z[touched[q]]
                is_touched[touched[q]] = False


@njit(**_CACHED)
def logits_path(X, first, last, router, expert, intercepts, top_ks, out):
    """Write the logits of rows ``first`` to ``last`` at every K in one pass over each row.

    The experts are kept once, for the largest K; those of a smaller K come first among them, so
    the sums of their outputs and weights up to each K give its logits.

    Parameters
    ----------
    top_ks : ndarray (n_top_ks,), ascending
    out : ndarray (n_top_ks, last - first, n_classes)
    """
    e_indptr, e_indices, e_values = expert
    router_intercept, intercept = intercepts
    sums = np.empty(intercept.shape[0], intercept.dtype)
    widest = top_ks[top_ks.shape[0] - 1]
    scratch, counts = np.empty(_ROWS_AT_ONCE, np.int64), np.empty(_ROWS_AT_ONCE, np.int64)
    kept = np.empty((_ROWS_AT_ONCE, widest), np.int64)
    gate = np.empty((_ROWS_AT_ONCE, widest), intercept.dtype)
    for start in range(first, last, _ROWS_AT_ONCE):
        rows = _next_rows(scratch, start, last)
        codes(X, rows, router, router_intercept, 1.0, widest, kept, gate, counts)
        for r in range(rows.shape[0]):
            for c in range(sums.shape[0]):
                sums[c] = 0
            total = intercept.dtype.type(0)
            q = 0
            for k in range(top_ks.shape[0]):
                while q < min(counts[r], top_ks[k]):
                    total += gate[r, q]
                    for p in range(e_indptr[kept[r, q]], e_indptr[kept[r, q] + 1]):
                        sums[e_indices[p]] += gate[r, q] * e_values[p]
                    q += 1
                share = intercept.dtype.type(1) / total if q > 0 else total
                z = out[k, rows[r] - first]
                for c in range(z.shape[0]):
                    z[c] = intercept[c] + share * sums[c]
