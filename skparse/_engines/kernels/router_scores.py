"""Products of one row with the router weights: added to its scores, or subtracted from them."""

from numba import njit

# Indices are cast to unsigned: numba checks every signed one for being negative, which made
# these loops two to three times slower.
from numpy import uint64

from .intrinsics import prefetch
from .options import EVERY_ROW, HELPER

_ONE = uint64(1)
_AHEAD = uint64(8)  # nonzeros between the prefetch of the weights of a feature and their use


@njit(**EVERY_ROW)
def _add_scores_of_two(scores, x_indices, x_data, start, stop, indptr, indices, values):
    """`add_scores` of one expert or two, whose scores stay in registers."""
    zero, n_experts = scores.dtype.type(0), uint64(scores.shape[0])
    score0, score1 = scores[0], scores[n_experts - _ONE]
    if uint64(values.shape[0]) == n_experts * uint64(indptr.shape[0] - 1):  # all are connected
        for t in range(uint64(start), uint64(stop)):
            first = n_experts * uint64(x_indices[t])
            score0 += x_data[t] * values[first]
            score1 += x_data[t] * values[first + n_experts - _ONE]
    else:
        for t in range(uint64(start), uint64(stop)):
            j = uint64(x_indices[t])
            first, last = uint64(indptr[j]), uint64(indptr[j + _ONE])
            if last - first == _ONE:
                product, is_second = x_data[t] * values[first], indices[first] > 0
                score0 += zero if is_second else product
                score1 += product if is_second else zero
            elif last > first:
                score0 += x_data[t] * values[first]
                score1 += x_data[t] * values[first + _ONE]
    scores[n_experts - _ONE] = score1
    scores[0] = score0


@njit(**EVERY_ROW)
def add_scores(scores, x_indices, x_data, start, stop, indptr, indices, values):
    """Add ``x @ router`` of one row, the nonzeros ``start`` to ``stop``, to its scores.

    Parameters
    ----------
    scores : ndarray (n_experts,)
    x_indices, x_data : ndarray
        Features and values of the nonzeros of all rows.
    start, stop : int
    indptr, indices, values : ndarray
        The router weights in CSR form, (n_features, n_experts).
    """
    if scores.shape[0] <= 2:
        _add_scores_of_two(scores, x_indices, x_data, start, stop, indptr, indices, values)
        return
    n_experts, end = uint64(scores.shape[0]), uint64(stop - 1)
    j = uint64(x_indices[start]) if start < stop else uint64(0)
    first, last = uint64(indptr[j]), uint64(indptr[j + _ONE])
    for t in range(uint64(start), uint64(stop)):
        ahead = uint64(indptr[uint64(x_indices[min(t + _AHEAD, end)])])
        prefetch(indices, ahead)
        prefetch(values, ahead)
        # The position of the weights of the next feature is read before those of this one are
        # used: the processor then has the end of the next loop early.
        j = uint64(x_indices[min(t + _ONE, end)])
        next_first, next_last = uint64(indptr[j]), uint64(indptr[j + _ONE])
        x = x_data[t]
        if last - first == n_experts:  # connected to all, in order: no index to read
            for e in range(n_experts):
                scores[e] += x * values[first + e]
        else:
            for p in range(first, last):
                scores[uint64(indices[p])] += x * values[p]
        first, last = next_first, next_last


@njit(**HELPER)
def subtract_products(
    factors, listed, n_listed, x_indices, x_data, start, stop, indptr, indices, values
):
    """Subtract the outer product of one row and ``factors`` from the router weights, in place.

    Parameters
    ----------
    factors : ndarray (n_experts,)
        Zero for all experts but the listed ones.
    listed : ndarray of int
        The first ``n_listed`` entries are experts.
    x_indices, x_data, start, stop, indptr, indices, values : see `add_scores`
    """
    n_experts, end = uint64(factors.shape[0]), uint64(stop - 1)
    j = uint64(x_indices[start]) if start < stop else uint64(0)
    first, last = uint64(indptr[j]), uint64(indptr[j + _ONE])
    for t in range(uint64(start), uint64(stop)):
        j = uint64(x_indices[min(t + _ONE, end)])
        next_first, next_last = uint64(indptr[j]), uint64(indptr[j + _ONE])
        x = x_data[t]
        if last - first < n_experts:
            for p in range(first, last):
                values[p] -= x * factors[uint64(indices[p])]
        elif 8 * n_listed < factors.shape[0]:
            for q in range(n_listed):
                e = uint64(listed[q])
                values[first + e] -= x * factors[e]
        else:
            for e in range(n_experts):
                values[first + e] -= x * factors[e]
        first, last = next_first, next_last
