"""The epoch of a stream in numpy, where numba cannot compile.

The rows of a stream follow one another. A device of PyTorch has nothing to compute at once there.
"""

import numpy as np

from .arguments import (
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


def stream_epoch(X, rows, tables, experts, totals, options):
    """Learn from the rows of a stream, like the kernel of the same name."""
    indptr, indices = rows.targets
    for i, weight in enumerate(rows.sample_weight.astype(np.float64)):
        entries = slice(X.indptr[i], X.indptr[i + 1])
        slots, x = X.indices[entries], X.data[entries].astype(np.float64)
        targets = indices[indptr[i] : indptr[i + 1]]
        _add_row(totals, experts, targets, weight, x, options)
        _add_features(tables, slots, x, targets, weight, experts.load, totals, options)
        relevance, constant = _add_squares(tables, slots, x, weight, totals)
        relevant = relevance * x
        margins = experts.bias + relevant @ tables.weights[slots]
        best = np.argsort(-margins, kind="stable")[: options.top_k]
        experts.n_kept[best[margins[best] > -options.shift]] += 1
        ridge = options.ridge * options.alpha
        if options.alpha == 0:
            positive = totals[CONTRADICTION] + totals[AGREEMENT]
            error = totals[CONTRADICTION] / max(positive, 1e-300)
            ridge = options.ridge + options.ridge_per_error * error
        gaps = _find_gaps(margins, targets, weight, totals, options)
        begun = experts.first_seen / totals[WEIGHT]
        shares = np.where(begun > LATE_SHARE, 1 - begun, 1)
        squares = np.append(tables.facts[slots, SQUARES], totals[BIAS_SQUARE])
        factors = (1 + np.multiply.outer(squares, shares)) ** -0.75
        steps = np.append(x, constant)[:, None] * factors  # (n_features + 1, n_experts)
        norms = np.append(relevant, 1) @ steps
        steps *= weight * gaps / (weight * norms + ridge)
        experts.bias[:] += steps[-1]
        tables.weights[slots] += steps[:-1]


def _add_row(totals, experts, targets, weight, x, options):
    kept = np.exp(-options.forgetting * weight)
    totals[WEIGHT] += weight
    for place, value in (
        (SEEN, 1), (NONZEROS, len(x)), (MAGNITUDE, np.abs(x).sum()), (BIAS_SQUARE, 0), (SQUARE, 0),
    ):  # fmt: skip
        totals[place] = kept * totals[place] + weight * value
    experts.first_seen[targets[experts.load[targets] == 0]] = totals[WEIGHT] - weight
    load = experts.load
    load *= kept
    load[targets] += weight
    if totals[WEIGHT] > totals[ENTROPY_AT]:
        shares = load[load > 0] / load.sum()
        totals[ENTROPY] = -(shares * np.log(shares)).sum()
        totals[ENTROPY_AT] = 1.02 * totals[WEIGHT]


def _add_features(tables, slots, x, targets, weight, load, totals, options):
    facts = tables.facts[slots]
    if options.forgetting > 0:
        kept = np.exp(options.forgetting * (facts[:, LAST_SEEN] - totals[WEIGHT]))
        tables.mass[slots] *= kept[:, None].astype(tables.mass.dtype)
        facts[:, [SQUARES, COUNT, MEASURED_AT]] *= kept[:, None]
    facts[:, LAST_SEEN] = totals[WEIGHT]
    facts[:, COUNT] += weight
    signs, before = np.where(x > 0, 1, -1), facts[:, SIGN]
    facts[:, SIGN] = np.where(before == 0, signs, np.where(before == signs, signs, 2))
    for expert in targets:
        tables.mass[slots, expert] += weight * np.abs(x)
    due = facts[:, COUNT] > options.relevance_growth * facts[:, MEASURED_AT]
    smoothing = options.relevance_smoothing * totals[MAGNITUDE] / max(totals[NONZEROS], 1e-300)
    mass = tables.mass[slots[due]]
    facts[due, RELEVANCE] = _relevance(mass, load, totals, smoothing, options)
    facts[due, MEASURED_AT] = facts[due, COUNT]
    tables.facts[slots] = facts


def _relevance(mass, load, totals, smoothing, options):
    if totals[ENTROPY] <= 0:
        return 1.0
    expected, mass = load / load.sum(), mass.astype(np.float64)
    seen = (mass > 0) & (load > 0)
    total = mass.sum(axis=1, keepdims=True) + smoothing
    left = smoothing / total
    ratio = np.where(seen, mass / total / np.maximum(expected, 1e-300) + left, 1)
    unseen = np.maximum(1 - (seen * expected).sum(axis=1), 0)
    divergence = (expected * ratio * np.log(ratio)).sum(axis=1)
    divergence += unseen * (left * np.log(left))[:, 0]
    share = np.maximum(divergence, 0) / totals[ENTROPY]
    return (share + options.relevance_floor) ** (2 * options.relevance_power)


def _add_squares(tables, slots, x, weight, totals):
    """Add the squares of a row; returns the relevance and the square of the constant."""
    relevance = tables.facts[slots, RELEVANCE]
    totals[SQUARE] += weight * (relevance @ (x * x))
    relevance = relevance * (totals[SEEN] / totals[SQUARE] if totals[SQUARE] > 0 else 0.0)
    tables.facts[slots, SQUARES] += weight * relevance * x * x
    constant = min(1.0, totals[SEEN] / max(totals[NONZEROS], 1e-300))
    totals[BIAS_SQUARE] += weight * constant
    return relevance, constant


def _find_gaps(margins, targets, weight, totals, options):
    """Find how far the margins are from their targets, with the sign of the step.

    The loss, and what the margins show of the share of wrong labels, are added to the totals.
    """
    signs = np.full(len(margins), -1.0)
    signs[targets] = 1
    positive = np.maximum(margins, 0) ** 2
    agreed = positive[targets].sum()
    gaps = np.maximum(1 - signs * margins, 0)
    totals[LOSS] += weight * (gaps * gaps).sum()
    totals[WINDOW] = min(totals[WINDOW] + 1, options.error_window)
    against = positive.sum() - agreed
    totals[CONTRADICTION] += (against - totals[CONTRADICTION]) / totals[WINDOW]
    totals[AGREEMENT] += (agreed - totals[AGREEMENT]) / totals[WINDOW]
    return signs * gaps
