"""Weighted sums of some rows of a matrix: what the kept experts put out together."""

import torch
from torch.nn.functional import embedding_bag


def sum_weighted_rows(rows, indices, weights):
    """Sum some rows of a matrix, each multiplied by a weight.

    Parameters
    ----------
    rows : torch.Tensor (n_rows, width)
    indices : torch.Tensor (..., n_kept) of int64
    weights : torch.Tensor (..., n_kept) in the dtype of ``rows``

    Returns
    -------
    sums : torch.Tensor (..., width) in the dtype of ``rows``
    """
    shape = indices.shape[:-1]
    if len(shape) != 1:
        indices, weights = (part.reshape(-1, part.shape[-1]) for part in (indices, weights))
    if torch.is_autocast_enabled(rows.device.type):
        # Under autocast `embedding_bag` would get arguments of two dtypes, which it refuses.
        with torch.autocast(rows.device.type, enabled=False):
            sums = _choose_sum()(rows, indices, weights)
    else:
        sums = _choose_sum()(rows, indices, weights)
    return sums if len(shape) == 1 else sums.view(*shape, rows.shape[1])


def _choose_sum():
    """Choose the function: that for training takes longer, and a compiler needs neither."""
    if torch.compiler.is_compiling():
        return _sum_in_bags
    if torch.is_grad_enabled() or torch._C._are_functorch_transforms_active():
        return _SumWeightedRows.apply
    return _sum_rows


def _sum_rows(rows, indices, weights):
    if len(indices) > 1:
        return _sum_in_bags(rows, indices, weights)
    # For one sample `embedding_bag` is slow, and its gradient ten times as slow.
    if len(indices) == 1:
        return weights @ rows.index_select(0, indices[0])
    # It refuses no samples.
    kept = rows.index_select(0, indices.flatten()).view(*indices.shape, rows.shape[1])
    return (weights.unsqueeze(-2) @ kept).squeeze(-2)


def _sum_in_bags(rows, indices, weights):
    return embedding_bag(indices, rows, mode="sum", per_sample_weights=weights)


class _SumWeightedRows(torch.autograd.Function):
    """`embedding_bag`, with a second derivative and a rule for vmap, both of which it lacks."""

    @staticmethod
    def forward(rows, indices, weights):
        return _sum_rows(rows, indices, weights)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, gradient):
        rows, indices, weights = ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradient will be differentiated
            spread = (weights.unsqueeze(-1) * gradient.unsqueeze(-2)).flatten(0, -2)
            of_rows = torch.zeros_like(rows).index_add(0, indices.flatten(), spread)
            return of_rows, None, (rows[indices] * gradient.unsqueeze(-2)).sum(-1)
        with torch.enable_grad():
            trained = [part.detach().requires_grad_() for part in (rows, weights)]
            sums = _sum_rows(trained[0], indices, trained[1])
        of_rows, of_weights = torch.autograd.grad(sums, trained, gradient)
        return of_rows, None, of_weights

    @staticmethod
    def vmap(info, in_dims, rows, indices, weights):
        n = info.batch_size
        indices, weights = (
            part.expand(n, *part.shape) if place is None else part.movedim(place, 0)
            for part, place in zip((indices, weights), in_dims[1:], strict=True)
        )
        if in_dims[0] is not None:  # one matrix for each, under each other
            rows = rows.movedim(in_dims[0], 0)
            indices = indices + rows.shape[1] * torch.arange(n, device=indices.device).view(
                n, *[1] * (indices.ndim - 1)
            )
            rows = rows.flatten(0, 1)
        sums = _SumWeightedRows.apply(rows, indices.flatten(0, 1), weights.flatten(0, 1))
        return sums.unflatten(0, (n, -1)), 0
