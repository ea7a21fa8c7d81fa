"""Product router: an expert for every pair of a row key and a column key."""

import math

import torch

from ._gating import find_largest, softmax_of_positive


def factorise(n_experts):
    """Split a number into the two factors that are nearest to each other, the smaller first."""
    rows = next(r for r in range(math.isqrt(n_experts), 0, -1) if n_experts % r == 0)
    return rows, n_experts // rows


def list_candidates(n_rows, n_columns, top_k, device=None):
    """List the ranks of the rows and columns whose pairs may be among the best ``top_k``.

    The pair of ranks (r, s) is behind all pairs of ranks up to r and up to s, of which there are
    (r + 1) (s + 1).

    Returns
    -------
    tuple of two torch.Tensor (n_candidates,) of int64
    """
    n_rows, n_columns = min(n_rows, top_k), min(n_columns, top_k)
    counts = [min(n_columns, top_k // (r + 1)) for r in range(n_rows)]
    rows = [r for r, count in enumerate(counts) for _ in range(count)]
    columns = [s for count in counts for s in range(count)]
    return tuple(
        torch.tensor(ranks, dtype=torch.int64, device=device) for ranks in (rows, columns)
    )


def keep_top_pairs(row_scores, column_scores, top_k, candidates):
    """Keep the ``top_k`` pairs with the largest positive sums of scores.

    The number of the pair (i, j) is ``i * n_columns + j``. It does the same as `keep_top` of all
    sums, and computes few of them.

    Parameters
    ----------
    row_scores : torch.Tensor (..., n_rows)
    column_scores : torch.Tensor (..., n_columns)
    top_k : int
        At most n_rows * n_columns.
    candidates : tuple of torch.Tensor
        Result of `list_candidates`.

    Returns
    -------
    expert_indices, expert_weights : torch.Tensor (..., top_k)
        As of `keep_top`.
    """
    best = []
    for scores, ranks in zip((row_scores, column_scores), candidates, strict=True):
        order = find_largest(scores, min(top_k, scores.shape[-1]))
        best.append(order.index_select(-1, ranks))
    rows, columns = best
    sums = row_scores.gather(-1, rows) + column_scores.gather(-1, columns)
    numbers = torch.add(columns, rows, alpha=column_scores.shape[-1])
    places = find_largest(sums, top_k, numbers)
    return numbers.gather(-1, places), softmax_of_positive(sums.gather(-1, places))
