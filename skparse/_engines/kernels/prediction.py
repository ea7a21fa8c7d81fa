"""Logits and probabilities of many rows."""

import numpy as np
from numba import njit

from ..arguments import Routes
from .options import INLINED, kernel
from .outputs import softmax_of_reached, write_prior, write_reached_logits
from .routing import route

_ROWS_AT_ONCE = 32  # whose routes are held


@njit(**INLINED)
def _allocate_routes(top_k, weights):
    """Allocate `Routes` of a few rows, with gate weights of the dtype of ``weights``."""
    shape = (_ROWS_AT_ONCE, top_k)
    return Routes(
        np.empty(shape, np.int64), np.empty(shape, weights.dtype),
        np.empty(_ROWS_AT_ONCE, np.int64),
    )  # fmt: skip


@njit(**INLINED)
def _list_rows(first, last):
    """Rows from ``first`` on, before ``last``."""
    rows = np.empty(last - first, np.int64)
    for r in range(rows.shape[0]):
        rows[r] = first + r
    return rows


@kernel
def logits(X, first, last, model, top_k, out):
    """Write the logits of rows ``first`` to ``last`` to ``out``.

    Parameters
    ----------
    X : Csr (n_samples, n_features)
    first, last : int
    model : ModelArrays
    top_k : int
    out : ndarray (last - first, n_classes)
    """
    router, router_intercept, outputs, intercept = model
    indptr, indices, values = outputs
    rows = _list_rows(first, last)
    routes = _allocate_routes(top_k, intercept)
    kept, weights, counts = routes
    for start in range(0, rows.shape[0], _ROWS_AT_ONCE):
        block = rows[start : start + _ROWS_AT_ONCE]
        route(X, block, router, router_intercept, 1.0, top_k, routes)
        for r in range(block.shape[0]):
            row = out[start + r]
            for c in range(row.shape[0]):
                row[c] = intercept[c]
            for q in range(counts[r]):
                for p in range(indptr[kept[r, q]], indptr[kept[r, q] + 1]):
                    row[indices[p]] += weights[r, q] * values[p]


@kernel
def probabilities(X, first, last, model, top_k, out):
    """Write the softmax of the logits of rows ``first`` to ``last`` to ``out``.

    Only the logits of classes that a kept expert is connected to are exponentiated. The others
    share one factor, which multiplies what b2 alone gives.

    Parameters
    ----------
    X : Csr (n_samples, n_features)
    first, last : int
    model : ModelArrays
    top_k : int
    out : ndarray (last - first, n_classes)
    """
    router, router_intercept, outputs, intercept = model
    indptr, indices, values = outputs
    n_classes = intercept.shape[0]
    rows = _list_rows(first, last)
    routes = _allocate_routes(top_k, intercept)
    kept, weights, counts = routes
    of_class, prior_exp = (
        np.empty(n_classes, intercept.dtype),
        np.empty(n_classes, intercept.dtype),
    )
    reached, is_reached = np.empty(n_classes, np.int64), np.empty(n_classes, np.bool_)
    for c in range(n_classes):
        is_reached[c] = False
    prior_total, prior_max, _ = write_prior(intercept, None, prior_exp)
    for start in range(0, rows.shape[0], _ROWS_AT_ONCE):
        block = rows[start : start + _ROWS_AT_ONCE]
        route(X, block, router, router_intercept, 1.0, top_k, routes)
        for r in range(block.shape[0]):
            n_reached = write_reached_logits(
                kept[r], weights[r], counts[r], indptr, indices, values, intercept, of_class,
                reached, is_reached,
            )  # fmt: skip
            n_reached, factor = softmax_of_reached(
                of_class, reached, n_reached, is_reached, intercept, prior_exp, prior_total,
                prior_max,
            )  # fmt: skip
            row = out[start + r]
            for c in range(n_classes):
                row[c] = prior_exp[c] * factor
            for q in range(n_reached):
                row[reached[q]] = of_class[reached[q]]
                is_reached[reached[q]] = False


@kernel
def find_empty(X, first, last, router):
    """Find the rows ``first`` to ``last`` in which no nonzero entry meets a router weight.

    Parameters
    ----------
    X : Csr (n_samples, n_features)
    first, last : int
    router : Csr (n_features, n_experts)

    Returns
    -------
    empty : ndarray of bool (last - first,)
    """
    x_indptr, x_indices, x_data = X
    indptr, _, values = router
    empty = np.empty(last - first, np.bool_)
    for r in range(last - first):
        empty[r] = True
        for t in range(x_indptr[first + r], x_indptr[first + r + 1]):
            if x_data[t] != 0:
                for p in range(indptr[x_indices[t]], indptr[x_indices[t] + 1]):
                    if values[p] != 0:
                        empty[r] = False
                        break
            if not empty[r]:
                break
    return empty


@kernel
def logits_path(X, first, last, model, top_ks, out):
    """Write the logits of rows ``first`` to ``last`` at every K in one pass over each row.

    The experts are kept once, for the largest K. Those of a smaller K come first among them, so
    the sums of their weighted outputs and of their weights up to each K give its logits.

    Parameters
    ----------
    X : Csr (n_samples, n_features)
    first, last : int
    model : ModelArrays
    top_ks : ndarray of int64 (n_top_ks,), ascending
    out : ndarray (n_top_ks, last - first, n_classes)
    """
    router, router_intercept, outputs, intercept = model
    indptr, indices, values = outputs
    sums = np.empty(intercept.shape[0], intercept.dtype)
    largest_k = top_ks[top_ks.shape[0] - 1]
    rows = _list_rows(first, last)
    routes = _allocate_routes(largest_k, intercept)
    kept, weights, counts = routes
    for start in range(0, rows.shape[0], _ROWS_AT_ONCE):
        block = rows[start : start + _ROWS_AT_ONCE]
        route(X, block, router, router_intercept, 1.0, largest_k, routes)
        for r in range(block.shape[0]):
            for c in range(sums.shape[0]):
                sums[c] = 0
            total = intercept.dtype.type(0)
            q = 0
            for k in range(top_ks.shape[0]):
                while q < min(counts[r], top_ks[k]):
                    total += weights[r, q]
                    for p in range(indptr[kept[r, q]], indptr[kept[r, q] + 1]):
                        sums[indices[p]] += weights[r, q] * values[p]
                    q += 1
                share = intercept.dtype.type(1) / total if q > 0 else total
                row = out[k, start + r]
                for c in range(row.shape[0]):
                    row[c] = intercept[c] + share * sums[c]
