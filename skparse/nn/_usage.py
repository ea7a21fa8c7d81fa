"""Count how often the experts of a model are kept."""

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch

from ._top_k import find_layers


@torch.no_grad()
def expert_usage(model: torch.nn.Module, batches: Iterable[Any]) -> dict[str, torch.Tensor]:
    """Count how many inputs keep each expert, for every layer of experts in a model.

    The model runs in evaluation mode, and is then put back into the mode it had. Nothing is kept
    in it.

    Parameters
    ----------
    model : nn.Module
        As in `set_top_k`.
    batches : iterable
        Of tensors, of tuples of positional arguments, or of dicts of keyword arguments of the
        model.

    Returns
    -------
    usage : dict from str to torch.Tensor (n_experts,) of int64
        By the name of a layer in ``model.named_modules()``; the model itself has the name "". A
        layer with several heads counts each. Inputs are counted as the layer gets them, so those
        at padded places are counted, too.

    Examples
    --------
    >>> import torch
    >>> from skparse.nn import SparseExpertFeedForward, expert_usage
    >>> model = torch.nn.Sequential(SparseExpertFeedForward(8, n_experts=20, top_k=4))
    >>> usage = expert_usage(model, [torch.rand(30, 8), torch.rand(10, 8)])
    >>> usage["0"].shape
    torch.Size([20])
    """
    layers = find_layers(model)
    usage = {
        name: torch.zeros(layer.n_experts, dtype=torch.int64) for name, layer in layers.items()
    }
    modes = {part: part.training for part in model.modules()}
    hooks = [
        layer.register_forward_pre_hook(partial(_count, usage[name]), with_kwargs=True)
        for name, layer in layers.items()
    ]
    try:
        model.eval()
        for batch in batches:
            if isinstance(batch, dict):
                model(**batch)
            else:
                model(*(batch if isinstance(batch, (tuple, list)) else (batch,)))
    finally:
        for hook in hooks:
            hook.remove()
        for part, training in modes.items():
            part.training = training
    return usage


def _count(counts, layer, inputs, options):
    kept = layer.route(*inputs, **options)
    experts = kept.expert_indices[kept.expert_weights > 0]
    counts += torch.bincount(experts, minlength=len(counts)).to(counts.device)
