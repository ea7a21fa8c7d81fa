"""The sparse activation: keep the top K positive scores, softmax over the kept."""

import operator

import torch

# A float32 has 24 bits of precision and a float64 has 53. The bits between them order equal scores
# by their index, up to this many.
TIE_STEP = 2.0**-50
MOST_ORDERED = 2**24
FEW_SCORES = 128  # that are sorted as fast as equal ones are told apart
FEW_ON_CPU = 32  # that are sorted as fast as it is found that none are equal
GROUP_SIZE = 8  # of scores of which the maximum is found first
MIN_GROUPED = 2**14  # scores from which that saves time
MAX_LISTED = 2**14  # scores of a single row whose largest ones are read as numbers


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


def keep_top(h, top_k):
    """Keep the ``top_k`` largest positive scores along the last axis.

    Parameters
    ----------
    h : torch.Tensor (..., n_experts)
        Router scores, before or after the ReLU: only positive ones are ever kept.
    top_k : int
        The sparsity level K; at most n_experts are kept.

    Returns
    -------
    expert_indices : torch.Tensor (..., min(top_k, n_experts)) of int64
        Largest score first; ties go to the lowest index.
    expert_weights : torch.Tensor of the same shape
        Softmax over the kept experts; zero for entries that are not positive. A row without
        a positive score has weights of zero only, one with a NaN or an infinite score NaN.
    """
    n_kept = min(top_k, h.shape[-1])
    if n_kept < h.shape[-1] and h.numel() == h.shape[-1] <= MAX_LISTED and _can_be_read(h):
        kept = _keep_in_one_row(h, n_kept)
        if kept is not None:
            return kept
    indices = find_largest(h, n_kept)
    return indices, softmax_of_positive(h.gather(-1, indices))


def _keep_in_one_row(h, n_kept):
    """Do what `keep_top` does for a single row without ties, or return None.

    A model that writes word by word has one row at a time, and each operation on tensors takes
    as long as reading the largest scores as numbers.
    """
    values, positions = h.topk(n_kept + 1)
    numbers = values.flatten().tolist()
    if len(set(numbers)) <= n_kept or not numbers[n_kept - 1] > 0:
        return None
    return positions.narrow(-1, 0, n_kept), torch.softmax(values.narrow(-1, 0, n_kept), -1)


def find_largest(h, n_kept, numbers=None):
    """Positions of the largest scores along the last axis, largest first.

    Parameters
    ----------
    h : torch.Tensor (..., n_scores)
    n_kept : int
        At most n_scores.
    numbers : torch.Tensor of int64 of the shape of ``h``, default=None
        Of equal scores that are positive, the one with the lowest number comes first. If None,
        the numbers are the positions.

    Returns
    -------
    positions : torch.Tensor (..., n_kept) of int64
    """
    h = h.detach()
    n_scores = h.shape[-1]
    exact = h.dtype == torch.float64 or h.device.type == "mps" or n_scores > MOST_ORDERED
    if exact or n_kept == n_scores or (numbers is None and n_scores <= FEW_ON_CPU):
        return _sort(h, numbers).narrow(-1, 0, n_kept)
    if numbers is None:
        positions = _find_without_ties(h, n_kept)
        if positions is not None:
            return positions
        if n_scores <= FEW_SCORES:
            return _sort(h, numbers).narrow(-1, 0, n_kept)
        numbers = torch.arange(n_scores, device=h.device)
    # `topk` breaks ties in any order, and a stable sort takes ten times as long. So equal scores
    # get different bits where a float64 is more precise than they are.
    return (numbers.double().mul_(-TIE_STEP).add_(1) * h).topk(n_kept).indices


def _sort(h, numbers):
    if numbers is None:
        return h.argsort(dim=-1, descending=True, stable=True)
    by_number = numbers.argsort(dim=-1)
    order = h.gather(-1, by_number).argsort(dim=-1, descending=True, stable=True)
    return by_number.gather(-1, order)


def _find_without_ties(h, n_kept):
    """Positions of the largest scores, or None if there are ties, or it is not known.

    On a GPU it would have to wait for the answer, and a compiler cannot.
    """
    if not _can_be_read(h):
        return None
    n_groups = h.shape[-1] // GROUP_SIZE
    if h.numel() < MIN_GROUPED or n_groups * GROUP_SIZE != h.shape[-1] or n_groups <= 2 * n_kept:
        values, positions = h.topk(n_kept + 1)
        return None if _has_ties(values) else positions.narrow(-1, 0, n_kept)
    # The largest scores are in the groups with the largest maxima.
    grouped = h.reshape(-1, GROUP_SIZE, n_groups)  # of every n_groups-th score
    maxima, groups = grouped.amax(dim=1).topk(n_kept + 1)
    if _has_ties(maxima):
        return None
    scores = grouped.gather(2, groups.unsqueeze(1).expand(-1, GROUP_SIZE, -1)).flatten(1)
    values, places = scores.topk(n_kept + 1)
    if _has_ties(values):
        return None
    places = places.narrow(-1, 0, n_kept)
    positions = places // (n_kept + 1) * n_groups + groups.gather(1, places % (n_kept + 1))
    return positions.view(*h.shape[:-1], n_kept)


def _can_be_read(h):
    """Whether numbers of a tensor can be read in Python, at once."""
    return (
        h.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
    )


def _has_ties(values):
    """Whether two positive values that stand beside each other are equal."""
    after = values[..., 1:]
    return bool(((after == values[..., :-1]) & (after > 0)).any())


def softmax_of_positive(h):
    """Softmax along the last axis over the positive scores; the others get zero."""
    # The smallest number in the place of minus infinity: a row of nothing else must not be NaN.
    # Both `threshold` and `<=` let a NaN pass.
    filled = torch.threshold(h, 0, torch.finfo(h.dtype).min)
    return torch.softmax(filled, -1).masked_fill(h <= 0, 0)
