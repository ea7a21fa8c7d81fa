"""The sparse activation: keep the top K positive scores, softmax over the kept."""

import operator

import torch

# A float32 has 24 bits of precision and a float64 has 53. The bits between them order equal scores
# by their index, up to this many.
TIE_STEP = 2.0**-50
MOST_ORDERED = 2**24
FEW_SCORES = 128  # that are sorted as fast as the largest of them are found


def check_top_k(top_k, n_experts=None):
    """Check a sparsity level; returns it as an int.

    Raises
    ------
    TypeError
        If it is no integer.
    ValueError
        If it is below one or above ``n_experts``.
    """
    try:
        value = operator.index(top_k)
    except TypeError:
        value = None
    if value is None or isinstance(top_k, bool):
        raise TypeError(f"top_k has to be an integer, got {top_k!r}.")
    if value < 1 or (n_experts is not None and value > n_experts):
        allowed = "at least 1" if n_experts is None else f"in [1, {n_experts}], n_experts at most"
        raise ValueError(f"top_k has to be {allowed}, got {value}.")
    return value


def keep_top(h, top_k, tie_order=None):
    """Keep the ``top_k`` largest positive scores along the last axis.

    Parameters
    ----------
    h : torch.Tensor (..., n_experts)
        Router scores, before or after the ReLU: only positive ones are ever kept.
    top_k : int
        The sparsity level K; at most n_experts are kept.
    tie_order : torch.Tensor, default=None
        As in `find_largest`.

    Returns
    -------
    expert_indices : torch.Tensor (..., min(top_k, n_experts)) of int64
        Largest score first; ties go to the lowest index.
    expert_weights : torch.Tensor of the same shape
        Softmax over the kept experts; zero for entries that are not positive. A row without
        a positive score has weights of zero only, one with a NaN or an infinite score NaN.
    """
    indices = find_largest(h, min(top_k, h.shape[-1]), tie_order)
    return indices, softmax_of_positive(h.gather(-1, indices))


def order_of_ties(numbers):
    """Factors slightly below one, smaller for larger numbers: they decide between equal scores.

    Parameters
    ----------
    numbers : torch.Tensor of int64

    Returns
    -------
    torch.Tensor of float64 of the same shape
    """
    return 1 - numbers.double() * TIE_STEP


def find_largest(h, n_kept, tie_order=None):
    """Positions of the largest scores along the last axis, largest first.

    Parameters
    ----------
    h : torch.Tensor (..., n_scores)
    n_kept : int
        At most n_scores.
    tie_order : torch.Tensor of float64 (..., n_scores), default=None
        Result of `order_of_ties`: of equal scores that are positive, the one with the lowest
        number comes first. If None, it is the one at the lowest position.

    Returns
    -------
    positions : torch.Tensor (..., n_kept) of int64
    """
    h = h.detach()
    n_scores = h.shape[-1]
    exact = h.dtype == torch.float64 or h.device.type == "mps" or n_scores > MOST_ORDERED
    if exact or (tie_order is None and n_scores <= FEW_SCORES):
        return _sort(h, tie_order).narrow(-1, 0, n_kept)
    if tie_order is None:
        tie_order = order_of_ties(torch.arange(n_scores, device=h.device))
    # `topk` breaks ties in any order. Sorting many scores takes ten times as long.
    return (h * tie_order).topk(n_kept).indices


def _sort(h, tie_order):
    if tie_order is None:
        return h.argsort(dim=-1, descending=True, stable=True)
    by_number = tie_order.expand(h.shape).argsort(dim=-1, descending=True)
    order = h.gather(-1, by_number).argsort(dim=-1, descending=True, stable=True)
    return by_number.gather(-1, order)


def softmax_of_positive(h):
    """Softmax along the last axis over the positive scores; the others get zero."""
    # The smallest number in the place of minus infinity: a row of nothing else must not be NaN.
    # Both `threshold` and `<=` let a NaN pass.
    filled = torch.threshold(h, 0, torch.finfo(h.dtype).min)
    return torch.softmax(filled, -1).masked_fill(h <= 0, 0)
