"""K in all layers of a model: set it, draw it during the training."""

from collections.abc import Sequence
from typing import Any, TypeVar

import torch

from ._feed_forward import SparseExpertFeedForward
from ._gating import check_top_k
from ._network import SparseExpertNetwork

Model = TypeVar("Model", bound=torch.nn.Module)


def find_layers(model):
    """Find the layers of experts in a module, the module itself included; a dict by name.

    Raises
    ------
    ValueError
        If there is none.
    """
    kinds = SparseExpertFeedForward, SparseExpertNetwork
    layers = {name: part for name, part in model.named_modules() if isinstance(part, kinds)}
    if not layers:
        names = " or ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"The {type(model).__name__} has no {names} in it.")
    return layers


def set_top_k(model: Model, top_k: int) -> Model:
    """Set the sparsity level K of all layers of experts in a model.

    Parameters
    ----------
    model : nn.Module
        Has at least one `SparseExpertFeedForward` or `SparseExpertNetwork` in it, or is one.
    top_k : int
        From 1 to the smallest number of experts of a layer.

    Returns
    -------
    model : nn.Module
        The same module.

    Raises
    ------
    TypeError
        If `top_k` is no integer.
    ValueError
        If it is out of range, or the model has no layer of experts. No layer is changed.

    Examples
    --------
    >>> import torch
    >>> from skparse.nn import SparseExpertFeedForward, set_top_k
    >>> model = torch.nn.Sequential(SparseExpertFeedForward(8, 64), SparseExpertFeedForward(8, 32))
    >>> [layer.top_k for layer in set_top_k(model, 4)]
    [4, 4]
    """
    layers = find_layers(model).values()
    top_k = check_top_k(top_k, min(layer.n_experts for layer in layers))
    for layer in layers:
        layer.top_k = top_k
    return model


class NestedTopK:
    """Train a model for several K: from some step on, K is drawn for every step.

    Up to a share `start` of the steps all layers keep `top_k` experts. After that, every step
    has a K drawn from `top_ks`, the same one in all layers. The model is then accurate at all of
    them, and K can be lowered after the training. Drawing from the first step on costs accuracy.

    K is drawn for training mode only. In evaluation mode, layers have their `top_k`, also
    in the middle of a training.

    Parameters
    ----------
    model : nn.Module
        As in `set_top_k`.
    n_steps : int
        Number of steps of the whole training.
    top_ks : sequence of int, default=None
        Levels to draw from. By default the powers of two from an eighth of the `top_k` of the
        layers up, and their `top_k`.
    start : float, default=0.6
        Share of the steps, from 0 to 1, after which drawing begins.
    seed : int, default=0
        Of a generator of its own; the global one is left alone.

    Raises
    ------
    ValueError
        If a parameter is out of range, or `top_ks` is None and the layers have different K.

    Examples
    --------
    >>> import torch
    >>> from skparse.nn import NestedTopK, SparseExpertFeedForward
    >>> model = SparseExpertFeedForward(4, n_experts=32, top_k=16)
    >>> optimizer = torch.optim.Adam(model.parameters())
    >>> nested = NestedTopK(model, n_steps=10)
    >>> nested.top_ks
    (2, 4, 8, 16)
    >>> for _ in range(10):
    ...     _ = nested.step()  # before the forward pass
    ...     optimizer.zero_grad()
    ...     model(torch.ones(3, 4)).square().mean().backward()
    ...     _ = optimizer.step()
    """

    def __init__(
        self,
        model: torch.nn.Module,
        n_steps: int,
        *,
        top_ks: Sequence[int] | None = None,
        start: float = 0.6,
        seed: int = 0,
    ) -> None:
        if n_steps < 1:
            raise ValueError(f"n_steps has to be at least 1, got {n_steps!r}.")
        if not 0 <= start <= 1:
            raise ValueError(f"start has to be in [0, 1], got {start!r}.")
        self.layers = list(find_layers(model).values())
        self.n_steps = n_steps
        self.start = start
        self.top_ks = self._default_levels() if top_ks is None else self._check(top_ks)
        self.n_steps_done = 0
        self._generator = torch.Generator().manual_seed(seed)

    def step(self) -> int | None:
        """Choose the K of the next forward pass in training mode.

        Returns
        -------
        top_k : int or None
            The K of this step; None where each layer has its own `top_k`, before drawing begins
            and after the last step.
        """
        top_k = None
        if self.start * self.n_steps <= self.n_steps_done < self.n_steps:
            place = torch.randint(len(self.top_ks), (), generator=self._generator)
            top_k = self.top_ks[int(place)]
        for layer in self.layers:
            layer.training_top_k = top_k
        self.n_steps_done += 1
        return top_k

    def state_dict(self) -> dict[str, Any]:
        """State to go on from after an interruption: a dict of plain values and a tensor."""
        return {"n_steps_done": self.n_steps_done, "generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.n_steps_done = state["n_steps_done"]
        self._generator.set_state(state["generator"])

    def _default_levels(self):
        largest = {layer.top_k for layer in self.layers}
        if len(largest) > 1:
            raise ValueError(
                f"The layers have different top_k, {sorted(largest)}: top_ks has to be given."
            )
        top_k = largest.pop()
        powers = (2**power for power in range(top_k.bit_length()))
        return *(level for level in powers if top_k <= 8 * level < 8 * top_k), top_k

    def _check(self, top_ks):
        n_experts = min(layer.n_experts for layer in self.layers)
        levels = tuple(check_top_k(top_k, n_experts) for top_k in top_ks)
        if not levels:
            raise ValueError("top_ks has to have at least one level, got none.")
        return levels
