"""The sparse activation as a function of tensors."""

from typing import NamedTuple

import torch

from ._gating import check_top_k, keep_top

__all__ = ["SparseActivation", "topk_softmax"]


class SparseActivation(NamedTuple):
    """The experts that are kept, and their weights.

    Parameters
    ----------
    expert_indices : torch.Tensor (..., K) of int64
        Kept experts, largest weight first.
    expert_weights : torch.Tensor (..., K)
        Their weights. A weight of zero is that of an expert that is not kept, because fewer than
        K have a positive score.
    """

    expert_indices: torch.Tensor
    expert_weights: torch.Tensor

    def to_dense(self, n_experts: int) -> torch.Tensor:
        """Write the weights at their experts, zeros elsewhere; returns a tensor (..., n_experts).

        Parameters
        ----------
        n_experts : int
        """
        weights = self.expert_weights
        zeros = weights.new_zeros(*weights.shape[:-1], n_experts)
        return zeros.scatter_add(-1, self.expert_indices, weights)


def topk_softmax(scores: torch.Tensor, top_k: int) -> SparseActivation:
    """Softmax over the K largest positive scores; all other entries are zero.

    With ``h = ReLU(scores)``, ``h_sparse`` is a softmax over the K largest entries of h that are
    above zero.

    Parameters
    ----------
    scores : torch.Tensor (..., n_experts)
        Of a floating dtype, with any number of leading dimensions.
    top_k : int
        The sparsity level K. With n_experts or more, all positive entries are kept.

    Returns
    -------
    SparseActivation
        Named tuple of `expert_indices` and `expert_weights`, both (..., min(K, n_experts)),
        largest weight first. Of equal scores, the one with the lowest index comes first. Where
        no score is positive, all weights are zero. Where one is NaN or plus infinity, the
        weights are NaN, as those of :func:`torch.softmax`.

    Raises
    ------
    TypeError
        If `top_k` is no integer or `scores` has no floating dtype.
    ValueError
        If `top_k` is below one or `scores` has no dimension.

    Examples
    --------
    >>> import torch
    >>> from skparse.nn.functional import topk_softmax
    >>> kept = topk_softmax(torch.tensor([0.5, -1.0, 2.0, 2.0]), top_k=2)
    >>> kept.expert_indices
    tensor([2, 3])
    >>> kept.to_dense(4)
    tensor([0.0000, 0.0000, 0.5000, 0.5000])
    """
    if not scores.is_floating_point():
        raise TypeError(f"scores has to have a floating dtype, got {scores.dtype}.")
    if scores.ndim == 0:
        raise ValueError("scores has to have at least one dimension, got a scalar.")
    return SparseActivation(*keep_top(scores, check_top_k(top_k)))
