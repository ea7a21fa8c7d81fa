"""The sparse activation of one row: keep the top K positive scores, softmax over the kept."""

import numpy as np
from numba import njit
from numpy import uint64  # unsigned indices need no check for being negative

from .intrinsics import LANES, bits_above, lowest_bit
from .options import EVERY_ROW, HELPER, INLINED

_ONE = uint64(1)
_LANES = uint64(LANES)
_MANY = 24  # experts, of which eight are worth a look before
_ORDERED_AT_ONCE = 4  # candidates per kept expert: the time is quadratic in them


@njit(**EVERY_ROW)
def _limit_of_eight(scores):
    """Find a limit that at least eight scores are above, or zero; of many, not many more are.

    It is just below the least of the maxima of eight parts, in which the scores take turns.
    """
    zero = scores.dtype.type(0)
    a, b, c, d, e, f, g, h = zero, zero, zero, zero, zero, zero, zero, zero
    for i in range(uint64(0), uint64(scores.shape[0] // 8 * 8), uint64(8)):
        s, t, u, v = scores[i], scores[i + _ONE], scores[i + uint64(2)], scores[i + uint64(3)]
        a, b, c, d = s if s > a else a, t if t > b else b, u if u > c else c, v if v > d else d
        s, t, u = scores[i + uint64(4)], scores[i + uint64(5)], scores[i + uint64(6)]
        v = scores[i + uint64(7)]
        e, f, g, h = s if s > e else e, t if t > f else f, u if u > g else g, v if v > h else h
    least = min(min(min(a, b), min(c, d)), min(min(e, f), min(g, h)))
    limit = least * scores.dtype.type(0.999999)
    return limit if limit < least else zero


@njit(**INLINED)
def _list_above(scores, limit, candidates):
    """List the positions of the scores above ``limit`` in ``candidates``; returns their number."""
    n_listed = uint64(0)
    n_experts = uint64(scores.shape[0])
    whole = n_experts - n_experts % _LANES
    for first in range(uint64(0), whole, _LANES):
        bits = bits_above(scores, first, limit)
        while bits != 0:
            candidates[n_listed] = first + lowest_bit(bits)
            n_listed += _ONE
            bits &= bits - _ONE
    for e in range(whole, n_experts):  # without a branch: the processor cannot predict it
        candidates[n_listed] = e
        n_listed += uint64(scores[e] > limit)
    return n_listed


@njit(**INLINED)
def _order(values, candidates, count, top_k, ordered):
    """Write the first ``count`` candidates to ``ordered``, those with the largest values first.

    Of equal values the first comes first. The ranks of four are computed at a time, in
    registers, with up to three places behind the last. All candidates whose rank is ``top_k`` or
    more are written to that one place.
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
        ordered[min(before_a, top_k)] = candidates[i]
        ordered[min(before_b, top_k)] = candidates[i + _ONE]
        ordered[min(before_c, top_k)] = candidates[i + uint64(2)]
        ordered[min(before_d, top_k)] = candidates[i + uint64(3)]


@njit(**HELPER)
def keep_top(scores, top_k, kept, candidates, values, ordered):
    """Write the experts of the ``top_k`` largest positive scores to ``kept``, largest first.

    Ties go to the lowest index. Returns the number of kept experts. No branch depends on a
    score: the processor cannot predict such a branch, and a wrong prediction takes longer than to
    order a few more candidates. The last three arrays are those of `allocate_selection`.
    """
    at_most, at_once = uint64(top_k), uint64(_ORDERED_AT_ONCE * top_k)
    limit = scores.dtype.type(0)
    if at_most <= uint64(8) and scores.shape[0] >= _MANY:
        limit = _limit_of_eight(scores)
    n_listed = _list_above(scores, limit, candidates)
    count, seen, threshold = uint64(0), uint64(0), scores.dtype.type(0)
    while seen < n_listed:
        while seen < n_listed and count < at_once:
            e = candidates[seen]
            candidates[count], values[count] = e, scores[e]
            count += uint64(scores[e] > threshold)
            seen += _ONE
        _order(values, candidates, count, at_most, ordered)
        count = min(count, at_most)
        for i in range(count):
            candidates[i], values[i] = ordered[i], scores[ordered[i]]
        if count == at_most:
            threshold = values[count - _ONE]
    for i in range(count):
        kept[i] = candidates[i]
    return np.int64(count)


@njit(**INLINED)
def allocate_selection(scores, top_k):
    """Allocate the arrays that `keep_top` works in: (candidates, values, ordered)."""
    candidates = np.empty(scores.shape[0] + 3, np.uint64)
    values = np.empty(_ORDERED_AT_ONCE * top_k + 3, scores.dtype)
    return candidates, values, np.empty(top_k + 1, np.uint64)


@njit(**EVERY_ROW)
def write_gate_weights(scores, kept, count, sharpness, weights):
    """Write the softmax of ``sharpness`` times the scores of the kept experts to ``weights``."""
    largest = scores[kept[0]] if count > 0 else scores.dtype.type(0)
    total = scores.dtype.type(0)
    for q in range(count):
        weights[q] = np.exp(sharpness * (scores[kept[q]] - largest))
        total += weights[q]
    for q in range(count):
        weights[q] /= total
