"""Layers of experts in the transformers of PyTorch."""

from collections.abc import Callable
from typing import TypeVar

from torch import nn

Model = TypeVar("Model", bound=nn.Module)


def replace_feed_forward(
    model: Model, build: Callable[[nn.Linear, nn.Linear], nn.Module]
) -> Model:
    """Replace the feed-forward blocks of the transformer layers in a model.

    `nn.TransformerEncoderLayer` has a fast path for predictions, which reads the weights of its
    two linear layers and skips what stands in their place. It is switched off in the layers
    that are changed.

    Parameters
    ----------
    model : nn.Module
        An `nn.TransformerEncoderLayer`, an `nn.TransformerDecoderLayer`, or a module with
        some in it, such as `nn.Transformer`. It is changed in place.
    build : callable
        ``build(linear1, linear2)`` returns the module that stands in the place of the
        two linear layers of a block and of what is between them.

    Returns
    -------
    model : nn.Module
        The same module.

    Raises
    ------
    ValueError
        If there is no such layer in it.

    Examples
    --------
    >>> import torch
    >>> from skparse.nn import SparseExpertFeedForward, replace_feed_forward
    >>> layer = torch.nn.TransformerEncoderLayer(16, nhead=2, batch_first=True)
    >>> model = torch.nn.TransformerEncoder(layer, num_layers=2)
    >>> model = replace_feed_forward(
    ...     model, lambda linear1, linear2: SparseExpertFeedForward(16, n_experts=64, top_k=8)
    ... )
    >>> model(torch.ones(1, 3, 16)).shape
    torch.Size([1, 3, 16])
    """
    kinds = nn.TransformerEncoderLayer, nn.TransformerDecoderLayer
    layers = [part for part in model.modules() if isinstance(part, kinds)]
    if not layers:
        raise ValueError(f"The {type(model).__name__} has no transformer layer of PyTorch in it.")
    for layer in layers:
        # The block of the layer is linear2(dropout(activation(linear1(x)))), and a dropout.
        layer.linear1 = build(layer.linear1, layer.linear2)
        layer.linear2, layer.dropout, layer.activation = (nn.Identity() for _ in range(3))
        if hasattr(layer, "activation_relu_or_gelu"):
            layer.activation_relu_or_gelu = 0  # the layer takes its fast path for ReLU and GELU
    for part in model.modules():
        if isinstance(part, nn.TransformerEncoder):
            part.use_nested_tensor = False  # the same path of a stack of layers
    return model
