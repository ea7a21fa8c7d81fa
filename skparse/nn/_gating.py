"""The sparse activation: keep the top K positive scores, softmax over the kept."""

import torch


def keep_top(h, top_k):
    """Keep the ``top_k`` largest positive scores of every row.

    Parameters
    ----------
    h : torch.Tensor (n_samples, n_experts)
        Router scores, before or after the ReLU: only positive ones are ever kept.
    top_k : int
        The sparsity level K; at most n_experts are kept.

    Returns
    -------
    expert_indices : torch.Tensor (n_samples, min(top_k, n_experts)) of int64
        Largest score first; ties go to the lowest index.
    expert_weights : torch.Tensor of the same shape
        Softmax over the kept experts; zero for entries that are not positive. A row without
        a positive score has weights of zero only.
    """
    ordered, indices = torch.sort(h, dim=1, descending=True, stable=True)
    ordered, indices = ordered[:, :top_k], indices[:, :top_k]
    kept = ordered > 0
    # The row maximum of a row with nothing kept is irrelevant, but has to be finite.
    exponentials = torch.where(kept, torch.exp(ordered - ordered[:, :1]), 0.0)
    total = exponentials.sum(dim=1, keepdim=True)
    weights = exponentials / torch.where(total > 0, total, 1.0)
    return indices, weights
