"""One-vs-rest linear classifiers of a stream: each row is visited once, in its order."""

import numpy as np
from numba import njit

from ..arguments import (
    AGREEMENT,
    BIAS_SQUARE,
    CONTRADICTION,
    COUNT,
    ENTROPY,
    ENTROPY_AT,
    LAST_SEEN,
    LATE_SHARE,
    LOSS,
    MAGNITUDE,
    MEASURED_AT,
    NONZEROS,
    RELEVANCE,
    SEEN,
    SIGN,
    SQUARE,
    SQUARES,
    WEIGHT,
    WINDOW,
)
from .intrinsics import prefetch
from .options import EVERY_ROW, HELPER, kernel

_AHEAD = 16  # nonzeros between the prefetch of the weights of a feature and their use


@njit(**EVERY_ROW)
def _shorten(squares):
    """Factor on the step of a feature: (1 + squares) to the power of -0.75."""
    root = np.sqrt(1.0 + squares)
    return 1.0 / (root * np.sqrt(root))


@njit(**HELPER)
def _measure_relevance(mass, load, entropy, smoothing, floor, power):
    """Square of the relevance of a feature with so much ``mass`` (n_experts,).

    It is that of `skparse._training.connections.measure_relevance`.
    """
    if entropy <= 0:
        return 1.0
    total, all_load = smoothing, 0.0
    for e in range(mass.shape[0]):
        total += mass[e]
        all_load += load[e]
    left, divergence, unseen = smoothing / total, 0.0, 1.0
    for e in range(mass.shape[0]):
        if mass[e] > 0 and load[e] > 0:
            expected = load[e] / all_load
            ratio = mass[e] / total / expected + left
            divergence += expected * ratio * np.log(ratio)
            unseen -= expected
    divergence += max(unseen, 0.0) * left * np.log(left)
    return (max(divergence, 0.0) / entropy + floor) ** (2 * power)


@njit(**HELPER)
def _add_row(x_data, start, stop, totals, load, first_seen, targets, weight, forgetting):
    """Add a row to the totals of the stream; measure the entropy of the experts now and then."""
    magnitude, total = 0.0, 0.0
    for t in range(start, stop):
        magnitude += abs(x_data[t])
    kept = np.exp(-forgetting * weight)
    totals[WEIGHT] += weight
    totals[SEEN] = kept * totals[SEEN] + weight
    totals[NONZEROS] = kept * totals[NONZEROS] + weight * (stop - start)
    totals[MAGNITUDE] = kept * totals[MAGNITUDE] + weight * magnitude
    totals[BIAS_SQUARE] *= kept
    totals[SQUARE] *= kept
    for e in range(load.shape[0]):
        load[e] *= kept
    for q in range(targets.shape[0]):
        if load[targets[q]] == 0:
            first_seen[targets[q]] = totals[WEIGHT] - weight
        load[targets[q]] += weight
    if totals[WEIGHT] > totals[ENTROPY_AT]:
        for e in range(load.shape[0]):
            total += load[e]
        totals[ENTROPY] = 0.0
        for e in range(load.shape[0]):
            if load[e] > 0:
                totals[ENTROPY] -= load[e] / total * np.log(load[e] / total)
        totals[ENTROPY_AT] = 1.02 * totals[WEIGHT]


@njit(**EVERY_ROW)
def _count_kept(margins, top_k, shift, n_kept, best):
    """Count the experts that a row keeps: those of the largest margins above -shift."""
    n_best = 0
    for e in range(margins.shape[0]):
        if margins[e] > -shift and (n_best < top_k or margins[e] > margins[best[n_best - 1]]):
            place = min(n_best, top_k - 1)
            n_best = place + 1
            while place > 0 and margins[best[place - 1]] < margins[e]:
                best[place] = best[place - 1]
                place -= 1
            best[place] = e
    for q in range(n_best):
        n_kept[best[q]] += 1


@njit(**EVERY_ROW)
def _add_features(
    x_indices, x_data, start, stop, targets, weight, weights, mass, facts, load, totals, margins,
    forgetting, smoothing, floor, power, growth,
):  # fmt: skip
    """Add a row to the facts about its features, and its scores to ``margins``.

    Returns the sum of the squares of its relevant values.
    """
    now, entropy, square, kind = totals[WEIGHT], totals[ENTROPY], 0.0, weights.dtype.type
    smoothing *= totals[MAGNITUDE] / max(totals[NONZEROS], 1e-300)
    n_experts, end = margins.shape[0], x_indices.shape[0] - 1
    for t in range(start, stop):
        ahead = x_indices[min(t + _AHEAD, end)]
        prefetch(weights, ahead * n_experts)
        prefetch(facts, ahead * facts.shape[1])
        slot, x = x_indices[t], x_data[t]
        fact = facts[slot]
        if forgetting > 0:
            kept = np.exp(-forgetting * (now - fact[LAST_SEEN]))
            fact[SQUARES] *= kept
            fact[COUNT] *= kept
            fact[MEASURED_AT] *= kept
            for e in range(n_experts):
                mass[slot, e] *= kind(kept)
        fact[LAST_SEEN] = now
        fact[COUNT] += weight
        sign = 1 if x > 0 else -1
        if fact[SIGN] != sign:
            fact[SIGN] = sign if fact[SIGN] == 0 else 2
        for q in range(targets.shape[0]):
            mass[slot, targets[q]] += kind(weight * abs(x))
        if fact[COUNT] > growth * fact[MEASURED_AT]:
            fact[RELEVANCE] = _measure_relevance(
                mass[slot], load, entropy, smoothing, floor, power
            )
            fact[MEASURED_AT] = fact[COUNT]
        square += fact[RELEVANCE] * x * x
        relevant = kind(fact[RELEVANCE] * x)
        for e in range(n_experts):
            margins[e] += relevant * weights[slot, e]
    return square


@njit(**EVERY_ROW)
def _measure_steps(
    x_indices, x_data, start, stop, weight, facts, bias, totals, square, steps, margins
):
    """Write the step of each feature of a row, and replace its scores by its margins.

    Returns (step of the bias, norm of all steps).
    """
    totals[SQUARE] += weight * square
    unit = totals[SEEN] / totals[SQUARE] if totals[SQUARE] > 0 else 0.0
    constant = min(totals[SEEN] / max(totals[NONZEROS], 1e-300), 1.0)
    totals[BIAS_SQUARE] += weight * constant
    bias_step = constant * _shorten(totals[BIAS_SQUARE])
    norm = bias_step
    for t in range(start, stop):
        fact, x = facts[x_indices[t]], x_data[t]
        relevant = fact[RELEVANCE] * unit * x
        fact[SQUARES] += weight * relevant * x
        steps[t - start] = x * _shorten(fact[SQUARES])
        norm += relevant * steps[t - start]
    kind = margins.dtype.type
    for e in range(margins.shape[0]):
        margins[e] = bias[e] + kind(unit) * margins[e]
    return bias_step, norm


@njit(**EVERY_ROW)
def _measure_errors(margins, targets, weight, window, totals):
    """Add the loss of a row, and what its positive margins show of the share of wrong labels.

    Those of other classes than the label contradict it.
    """
    loss, against, agreed = 0.0, 0.0, 0.0
    for e in range(margins.shape[0]):
        against += max(margins[e], 0.0) ** 2
        loss += max(1.0 + margins[e], 0.0) ** 2
    for q in range(targets.shape[0]):
        margin = margins[targets[q]]
        agreed += max(margin, 0.0) ** 2
        loss += max(1.0 - margin, 0.0) ** 2 - max(1.0 + margin, 0.0) ** 2
    totals[LOSS] += weight * loss
    totals[WINDOW] = min(totals[WINDOW] + 1, window)
    totals[CONTRADICTION] += (against - agreed - totals[CONTRADICTION]) / totals[WINDOW]
    totals[AGREEMENT] += (agreed - totals[AGREEMENT]) / totals[WINDOW]


@njit(**HELPER)
def _find_ridge(alpha, least_ridge, ridge_per_error, totals):
    """Find what is added to the norm of a step: more, the more labels are wrong."""
    if alpha > 0:
        return least_ridge * alpha
    positive = totals[CONTRADICTION] + totals[AGREEMENT]
    return least_ridge + ridge_per_error * totals[CONTRADICTION] / max(positive, 1e-300)


@njit(**EVERY_ROW)
def _find_gaps(margins, targets, gaps):
    """Write how far the margins are from their targets, with the sign of the step."""
    for e in range(margins.shape[0]):
        gaps[e] = -max(margins[e] + 1, margins[e] * 0)
    for q in range(targets.shape[0]):
        margin = margins[targets[q]]
        gaps[targets[q]] = max(1 - margin, margin * 0)


@njit(**HELPER)
def _step_late(
    e, x_indices, x_data, start, stop, weight, ridge, gap, weights, facts, bias, totals, begun,
):  # fmt: skip
    """Step of an expert that was first seen late, as if the stream had begun then."""
    unit = totals[SEEN] / totals[SQUARE] if totals[SQUARE] > 0 else 0.0
    share, kind = 1.0 - begun / totals[WEIGHT], weights.dtype.type
    constant = min(totals[SEEN] / max(totals[NONZEROS], 1e-300), 1.0)
    bias_step = constant * _shorten(share * totals[BIAS_SQUARE])
    norm = bias_step
    for t in range(start, stop):
        fact, x = facts[x_indices[t]], x_data[t]
        norm += fact[RELEVANCE] * unit * x * x * _shorten(share * fact[SQUARES])
    step = weight * gap / (weight * norm + ridge)
    bias[e] += kind(bias_step * step)
    for t in range(start, stop):
        slot = x_indices[t]
        weights[slot, e] += kind(x_data[t] * _shorten(share * facts[slot, SQUARES]) * step)


@njit(**HELPER)
def _take_late_steps(
    x_indices, x_data, start, stop, weight, ridge, gaps, weights, facts, bias, totals, first_seen,
):  # fmt: skip
    """Take the steps of the experts that were first seen late; their gaps become zero."""
    for e in range(gaps.shape[0]):
        if first_seen[e] > LATE_SHARE * totals[WEIGHT] and gaps[e] != 0:
            _step_late(
                e, x_indices, x_data, start, stop, weight, ridge, float(gaps[e]), weights, facts,
                bias, totals, first_seen[e],
            )  # fmt: skip
            gaps[e] = 0


@kernel
def stream_epoch(X, rows, tables, experts, totals, options):
    """Learn from the rows of a stream, one after another, by implicit gradient steps.

    The loss is the squared hinge. The step of a weight is the shorter, the larger the sum of
    the squares of its feature is. So the result does not depend on how the rows are cut into
    calls. All arrays but X change in place.

    Parameters
    ----------
    X : Csr (n_samples, n_rows of the tables)
    rows : StreamRows
    tables : StreamTables
    experts : StreamExperts
    totals : ndarray of float64
        See `skparse._engines.arguments`.
    options : StreamOptions
    """
    x_indptr, x_indices, x_data = X
    sample_weight, (target_indptr, target_experts) = rows
    (weights, mass, facts), (bias, load, first_seen, n_kept) = tables, experts
    (
        top_k, shift, alpha, forgetting, least_ridge, ridge_per_error, window, smoothing,
        floor, relevance_power, growth,
    ) = options  # fmt: skip
    n_experts, longest, kind = bias.shape[0], 1, weights.dtype.type
    for i in range(x_indptr.shape[0] - 1):
        longest = max(longest, x_indptr[i + 1] - x_indptr[i])
    margins, best = np.empty(n_experts, weights.dtype), np.empty(top_k, np.int64)
    gaps, steps = np.empty(n_experts, weights.dtype), np.empty(longest)
    for i in range(x_indptr.shape[0] - 1):
        start, stop, weight = x_indptr[i], x_indptr[i + 1], float(sample_weight[i])
        targets = target_experts[target_indptr[i] : target_indptr[i + 1]]
        _add_row(x_data, start, stop, totals, load, first_seen, targets, weight, forgetting)
        margins[:] = 0
        square = _add_features(
            x_indices, x_data, start, stop, targets, weight, weights, mass, facts, load, totals,
            margins, forgetting, smoothing, floor, relevance_power, growth,
        )  # fmt: skip
        bias_step, norm = _measure_steps(
            x_indices, x_data, start, stop, weight, facts, bias, totals, square, steps, margins
        )
        ridge = _find_ridge(alpha, least_ridge, ridge_per_error, totals)
        _count_kept(margins, top_k, shift, n_kept, best)
        _measure_errors(margins, targets, weight, window, totals)
        _find_gaps(margins, targets, gaps)
        _take_late_steps(
            x_indices, x_data, start, stop, weight, ridge, gaps, weights, facts, bias, totals,
            first_seen,
        )  # fmt: skip
        for e in range(n_experts):
            gaps[e] *= kind(weight / (weight * norm + ridge))
            bias[e] += kind(bias_step) * gaps[e]
        for t in range(start, stop):
            slot, step = x_indices[t], kind(steps[t - start])
            for e in range(n_experts):
                weights[slot, e] += step * gaps[e]
