"""A layer for networks of the user: a feed-forward block whose hidden units are experts."""

from typing import Any, Literal, Self

import torch
from torch import nn

from ._gating import check_top_k, keep_top
from ._product import factorise, keep_top_pairs, list_candidates
from ._weighted_rows import sum_weighted_rows
from .functional import SparseActivation

ROUTERS = "dense", "product"


class SparseExpertFeedForward(nn.Module):
    """Feed-forward block whose hidden units are experts, of which few are kept for each input.

    It stands in the place of two linear layers with a ReLU between them::

        h = ReLU(W1 x + b1)
        h_sparse = softmax over the top K positive entries of h, zero elsewhere
        y = scale * W h_sparse + b2

    Parameters
    ----------
    d_model : int
        Size of the last dimension of the input.
    n_experts : int
        Number of hidden units.
    top_k : int, default=32
        The sparsity level K: how many experts are kept, from 1 to n_experts. It can be set at any
        time. A model that was trained with several K (see `NestedTopK`) is accurate at all of
        them.
    d_out : int, default=None
        Size of the last dimension of the output; `d_model` if None.
    router : {"dense", "product"}, default="dense"
        "dense" has a weight vector for each expert. "product" has product keys [1]_: the vector of
        expert i * n_columns + j is the sum of vector i of n_rows and vector j of n_columns,
        n_rows * n_columns = n_experts. The scores of all experts need not be computed. The
        two numbers are as near to each other as the factors of `n_experts` allow; squares and
        powers of two are good choices.
    n_heads : int, default=1
        Number of routers, as in [2]_. Each keeps K of the same experts; what they put out is
        added.
    output_scale : bool, default=True
        Whether the output is multiplied by a learned number, which starts at K. Without it the
        output is a weighted mean of rows of W, too small beside a residual connection.
    bias : bool, default=True
        Whether there are b1 and b2.
    device : torch.device or str, default=None
    dtype : torch.dtype, default=None

    Attributes
    ----------
    router : nn.Linear
        W1 and b1; of a product router the row keys of each head before its column keys.
    expert_outputs : nn.Parameter (n_experts, d_out)
        W transposed.
    output_scale : nn.Parameter () or None
    bias : nn.Parameter (d_out,) or None
        b2.
    training_top_k : int or None
        The K of the forward passes in training mode; `top_k` if None. `NestedTopK` sets it.

    See Also
    --------
    set_top_k : Set K in all layers of a model.
    replace_feed_forward : Put the layer into the transformers of PyTorch.

    Notes
    -----
    The weighted sum is computed in the dtype of the parameters, also under autocast, by
    `embedding_bag` of PyTorch. What is returned has the dtype that `nn.Linear` would return.

    References
    ----------
    .. [1] G. Lample, A. Sablayrolles, M. Ranzato, L. Denoyer, H. Jégou (2019). Large memory layers
       with product keys. NeurIPS.
    .. [2] Xu Owen He (2024). Mixture of a million experts. arXiv:2407.04153.

    Examples
    --------
    >>> import torch
    >>> from skparse.nn import SparseExpertFeedForward
    >>> layer = SparseExpertFeedForward(16, n_experts=64, top_k=8)
    >>> x = torch.ones(2, 5, 16)
    >>> layer(x).shape
    torch.Size([2, 5, 16])
    >>> layer(x, top_k=2).shape
    torch.Size([2, 5, 16])
    >>> layer.route(x).expert_indices.shape
    torch.Size([2, 5, 8])
    """

    def __init__(
        self,
        d_model: int,
        n_experts: int,
        top_k: int = 32,
        *,
        d_out: int | None = None,
        router: Literal["dense", "product"] = "dense",
        n_heads: int = 1,
        output_scale: bool = True,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if router not in ROUTERS:
            raise ValueError(f"router has to be one of {ROUTERS}, got {router!r}.")
        self.d_model = _check_size("d_model", d_model)
        self.n_experts = _check_size("n_experts", n_experts)
        self.d_out = self.d_model if d_out is None else _check_size("d_out", d_out)
        self.n_heads = _check_size("n_heads", n_heads)
        self.router_kind = router
        self.training_top_k = None
        self.key_counts = factorise(n_experts) if router == "product" else (n_experts,)
        options = {"device": device, "dtype": dtype}
        n_keys = self.n_heads * sum(self.key_counts)
        self.router = nn.Linear(d_model, n_keys, bias=bias, **options)
        self.expert_outputs = nn.Parameter(torch.empty(n_experts, self.d_out, **options))
        scale = nn.Parameter(torch.empty((), **options)) if output_scale else None
        self.register_parameter("output_scale", scale)
        offset = nn.Parameter(torch.empty(self.d_out, **options)) if bias else None
        self.register_parameter("bias", offset)
        self.top_k = top_k
        self._reset_outputs()  # `nn.Linear` has drawn the weights of the router

    @property
    def top_k(self) -> int:
        """The sparsity level K."""
        return self._top_k

    @top_k.setter
    def top_k(self, top_k: int) -> None:
        self._top_k = check_top_k(top_k, self.n_experts)
        self._list_candidates()

    def reset_parameters(self) -> None:
        """Draw all parameters anew, from the global generator as other modules do."""
        self.router.reset_parameters()
        self._reset_outputs()

    def _reset_outputs(self):
        # As in `nn.Linear`, with the number of experts that are added up.
        bound = self.top_k**-0.5
        nn.init.uniform_(self.expert_outputs, -bound, bound)
        if self.output_scale is not None:
            nn.init.constant_(self.output_scale, self.top_k)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    @classmethod
    def from_dense(
        cls, linear1: nn.Linear, linear2: nn.Linear, top_k: int = 32, **options: Any
    ) -> Self:
        """Build a layer with the weights of a dense block, to be trained further.

        It does not compute what the block computes: its gate is another one, and it keeps K of
        the hidden units.

        Parameters
        ----------
        linear1 : nn.Linear (d_model, n_experts)
        linear2 : nn.Linear (n_experts, d_out)
        top_k : int, default=32
        **options : dict
            `output_scale`.

        Returns
        -------
        SparseExpertFeedForward
            On the device and of the dtype of `linear1`.

        Raises
        ------
        ValueError
            If the two do not fit, or one has a bias and the other none.
        """
        if linear1.out_features != linear2.in_features:
            raise ValueError(
                f"linear1 has {linear1.out_features} outputs, linear2 has {linear2.in_features} "
                "inputs: they have to be equal."
            )
        if (linear1.bias is None) != (linear2.bias is None):
            raise ValueError("Either both of linear1 and linear2 have to have a bias, or none.")
        layer = cls(
            linear1.in_features, linear1.out_features, top_k, d_out=linear2.out_features,
            bias=linear1.bias is not None, device=linear1.weight.device,
            dtype=linear1.weight.dtype, **options,
        )  # fmt: skip
        with torch.no_grad():
            layer.router.load_state_dict(linear1.state_dict())
            layer.expert_outputs.copy_(linear2.weight.T)
            if layer.bias is not None:
                layer.bias.copy_(linear2.bias)
        return layer

    def forward(self, x: torch.Tensor, top_k: int | None = None) -> torch.Tensor:
        """Compute the output.

        Parameters
        ----------
        x : torch.Tensor (..., d_model)
        top_k : int, default=None
            The K of this call; the attribute if None.

        Returns
        -------
        torch.Tensor (..., d_out)
        """
        scores = self.router(x)
        experts, weights = self._keep(scores, self._choose_top_k(top_k))
        summed = sum_weighted_rows(
            self.expert_outputs, experts, weights.to(self.expert_outputs.dtype)
        )
        if self.output_scale is not None:
            summed = summed * self.output_scale
        if self.bias is not None:
            summed = summed + self.bias
        return summed.to(scores.dtype)  # what `nn.Linear` returns under autocast

    def route(self, x: torch.Tensor, top_k: int | None = None) -> SparseActivation:
        """Choose the experts.

        Parameters
        ----------
        x : torch.Tensor (..., d_model)
        top_k : int, default=None
            The K of this call; the attribute if None.

        Returns
        -------
        SparseActivation
            Named tuple of `expert_indices` and `expert_weights`, both (..., n_heads * K): the
            experts of one head after those of another, for each the largest weight first.
        """
        return SparseActivation(*self._keep(self.router(x), self._choose_top_k(top_k)))

    @torch.no_grad()
    def fold_scale_(self) -> Self:
        """Multiply `expert_outputs` by the output scale, and remove it.

        The output stays the same, and a call has one step less.

        Returns
        -------
        self : SparseExpertFeedForward
        """
        if self.output_scale is not None:
            self.expert_outputs *= self.output_scale
            self.output_scale = None
        return self

    def extra_repr(self) -> str:
        """Describe the layer in its printed form."""
        return (
            f"d_model={self.d_model}, n_experts={self.n_experts}, top_k={self.top_k}, "
            f"d_out={self.d_out}, router={self.router_kind!r}, n_heads={self.n_heads}, "
            f"output_scale={self.output_scale is not None}, bias={self.bias is not None}"
        )

    def _choose_top_k(self, top_k):
        if top_k is not None:
            return check_top_k(top_k, self.n_experts)
        if self.training and self.training_top_k is not None:
            return self.training_top_k
        return self._top_k

    def _keep(self, scores, top_k):
        """Kept experts and their weights (..., n_heads * K), from what the router gives."""
        if self.n_heads > 1:
            scores = scores.unflatten(-1, (self.n_heads, -1))
        if self.router_kind == "dense":
            kept = keep_top(scores, top_k)
        else:
            candidates = self._candidates
            if top_k != self._top_k:
                candidates = list_candidates(*self.key_counts, top_k, scores.device)
            kept = keep_top_pairs(*scores.split(self.key_counts, -1), top_k, candidates)
        return tuple(part.flatten(-2) for part in kept) if self.n_heads > 1 else kept

    def _list_candidates(self):
        """List the candidates of a product router, on the device of the weights.

        They are no buffers: these would not be filled after `to_empty`.
        """
        if self.router_kind == "product":
            device = self.expert_outputs.device
            self._candidates = list_candidates(*self.key_counts, self._top_k, device)

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        self._list_candidates()
        return self


def _check_size(name, size):
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ValueError(f"{name} has to be a positive integer, got {size!r}.")
    return size
