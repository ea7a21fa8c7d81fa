"""The PyTorch core: the sparse expert model on sparse batches, on any device."""

import numpy as np
import torch
from torch import nn

from ._gating import keep_top


class SparseExpertNetwork(nn.Module):
    """Sparse expert model as a differentiable module.

    ``h = ReLU(W1 x + b1)``; the top K positive entries of h are kept and weighted by a
    softmax over them; the output is the logits ``W h_sparse + b2``. It is the reference for
    every faster path.

    Parameters
    ----------
    router_indptr : array-like of int (n_features + 1,)
    router_indices : array-like of int (n_connections,)
        Pattern of the router weights in CSR form: the experts that each feature is
        connected to.
    n_experts : int
    expert_indptr : array-like of int (n_experts + 1,)
    expert_indices : array-like of int (n_outputs,)
        Pattern of the expert outputs: the classes that each expert is connected to.
    n_classes : int
    dtype : torch.dtype, default=torch.float32
    device : torch.device or str, default=None

    Attributes
    ----------
    router_values : nn.Parameter (n_connections,)
    router_intercept : nn.Parameter (n_experts,)
    expert_values : nn.Parameter (n_outputs,)
    intercept : nn.Parameter (n_classes,)
        All parameters start at zero; see `from_parameters`.
    """

    def __init__(
        self,
        router_indptr,
        router_indices,
        n_experts,
        expert_indptr,
        expert_indices,
        n_classes,
        *,
        dtype=torch.float32,
        device=None,
    ):
        super().__init__()
        self.n_experts = n_experts
        self.n_classes = n_classes
        for name, pattern in {
            "router_indptr": router_indptr,
            "router_indices": router_indices,
            "expert_indptr": expert_indptr,
            "expert_indices": expert_indices,
        }.items():
            self.register_buffer(name, _as_index(pattern, device))
        sizes = {
            "router_values": len(self.router_indices),
            "router_intercept": n_experts,
            "expert_values": len(self.expert_indices),
            "intercept": n_classes,
        }
        for name, size in sizes.items():
            zeros = torch.zeros(size, dtype=dtype, device=device)
            setattr(self, name, nn.Parameter(zeros))

    @classmethod
    def from_parameters(cls, parameters, device=None):
        """Build the module from `ModelParameters`, whose numbers are copied."""
        router, expert = parameters.router, parameters.expert
        network = cls(
            router.indptr,
            router.indices,
            router.shape[1],
            expert.indptr,
            expert.indices,
            expert.shape[1],
            dtype=getattr(torch, parameters.dtype.name),
            device=device,
        )
        with torch.no_grad():
            for mine, theirs in zip(network.parameters(), parameters.arrays(), strict=True):
                mine.copy_(torch.tensor(theirs))
        return network

    def arrays(self):
        """Values of the four parameters as numpy arrays on the CPU, in `ModelParameters` order."""
        return tuple(value.detach().cpu().numpy() for value in self.parameters())

    def router_scores(self, indptr, indices, data):
        """Scores ``W1 x + b1`` before the ReLU, (n_samples, n_experts), of rows in CSR parts."""
        n_samples = len(indptr) - 1
        counts = torch.diff(indptr)
        samples = torch.repeat_interleave(torch.arange(n_samples, device=counts.device), counts)
        nonzeros, connections = expand_rows(self.router_indptr, indices.long())
        products = data[nonzeros] * self.router_values[connections]
        places = samples[nonzeros] * self.n_experts + self.router_indices[connections]
        scores = products.new_zeros(n_samples * self.n_experts).index_add(0, places, products)
        return scores.view(n_samples, self.n_experts) + self.router_intercept

    def logits(self, h, top_k):
        """Logits from router scores ``h`` (n_samples, n_experts), (n_samples, n_classes)."""
        return self._add_up(*keep_top(h, top_k)) + self.intercept

    def logits_path(self, h, top_ks):
        """Logits at every K of an ascending list, (n_top_ks, n_samples, n_classes)."""
        experts, weights = keep_top(h, top_ks[-1])
        outputs = weights.new_zeros(len(h), self.n_classes)
        totals = weights.new_zeros(len(h), 1)
        path, before = [], 0
        for top_k in top_ks:
            # The next experts join; weights that add up to one again are those of this K.
            joining = slice(before, top_k)
            outputs = outputs + self._add_up(experts[:, joining], weights[:, joining])
            totals = totals + weights[:, joining].sum(dim=1, keepdim=True)
            path.append(outputs / torch.where(totals > 0, totals, 1.0) + self.intercept)
            before = top_k
        return torch.stack(path)

    def _add_up(self, experts, weights):
        """Weighted sums of the outputs of some experts of each sample, (n_samples, n_classes)."""
        kept, outputs = expand_rows(self.expert_indptr, experts.flatten())
        places = (kept // experts.shape[1]) * self.n_classes + self.expert_indices[outputs]
        votes = weights.flatten()[kept] * self.expert_values[outputs]
        summed = votes.new_zeros(len(weights) * self.n_classes).index_add(0, places, votes)
        return summed.view(len(weights), self.n_classes)

    def forward(self, X, top_k):
        """Logits of a batch.

        Parameters
        ----------
        X : torch sparse CSR tensor (n_samples, n_features)
        top_k : int
            The sparsity level K.

        Returns
        -------
        logits : torch.Tensor (n_samples, n_classes)
        """
        h = self.router_scores(X.crow_indices(), X.col_indices(), X.values())
        return self.logits(h, top_k)


def expand_rows(indptr, rows):
    """List the entries of the given rows of a CSR pattern.

    Returns
    -------
    positions : torch.Tensor of int64
        For every entry, the position in ``rows`` it belongs to.
    entries : torch.Tensor of int64
        Its position in the pattern.
    """
    counts = indptr[rows + 1] - indptr[rows]
    positions = torch.repeat_interleave(torch.arange(len(rows), device=rows.device), counts)
    first = torch.cumsum(counts, 0) - counts
    within = torch.arange(len(positions), device=rows.device) - first[positions]
    return positions, indptr[rows][positions] + within


def _as_index(pattern, device):
    return torch.tensor(np.asarray(pattern), dtype=torch.int64, device=device)
