"""The sparse expert model as a PyTorch module, on sparse batches and on any device."""

import numpy as np
import torch
from torch import nn

from ._gating import keep_top


class SparseExpertNetwork(nn.Module):
    """Sparse expert model as a differentiable module.

    ``h = ReLU(W1 x + b1)``. The top K positive entries of h are kept and weighted by a softmax
    over them. The output is the logits ``W h_sparse + b2``. The compiled kernels are tested
    against it.

    Parameters
    ----------
    router_indptr : array-like of int (n_features + 1,)
    router_indices : array-like of int (n_connections,)
        Pattern of the router weights in CSR form: the experts that each feature is
        connected to.
    n_experts : int
    output_indptr : array-like of int (n_experts + 1,)
    output_indices : array-like of int (n_outputs,)
        Pattern of the outputs in CSR form: the classes that each expert is connected to.
    n_classes : int
    dtype : torch.dtype, default=torch.float32
    device : torch.device or str, default=None

    Attributes
    ----------
    router_values : nn.Parameter (n_connections,)
    router_intercept : nn.Parameter (n_experts,)
    output_values : nn.Parameter (n_outputs,)
    intercept : nn.Parameter (n_classes,)
        All parameters start at zero. `from_model` builds the module of a model.
    """

    def __init__(
        self,
        router_indptr,
        router_indices,
        n_experts,
        output_indptr,
        output_indices,
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
            "output_indptr": output_indptr,
            "output_indices": output_indices,
        }.items():
            self.register_buffer(name, _as_index(pattern, device))
        sizes = {
            "router_values": len(self.router_indices),
            "router_intercept": n_experts,
            "output_values": len(self.output_indices),
            "intercept": n_classes,
        }
        for name, size in sizes.items():
            zeros = torch.zeros(size, dtype=dtype, device=device)
            setattr(self, name, nn.Parameter(zeros))

    @classmethod
    def from_model(cls, model, device=None):
        """Build the module of a model in arrays, whose numbers are copied.

        Parameters
        ----------
        model : object with the attributes of the model
            ``router`` and ``outputs`` have ``indptr``, ``indices`` and ``data`` of a CSR matrix,
            (n_features, n_experts) and (n_experts, n_classes). ``router_intercept`` (n_experts,)
            and ``intercept`` (n_classes,) are arrays.
        device : torch.device or str, default=None

        Returns
        -------
        SparseExpertNetwork
            In the dtype of ``router_intercept``.
        """
        router, outputs = model.router, model.outputs
        router_intercept, intercept = model.router_intercept, model.intercept
        network = cls(
            router.indptr,
            router.indices,
            len(router_intercept),
            outputs.indptr,
            outputs.indices,
            len(intercept),
            dtype=getattr(torch, router_intercept.dtype.name),
            device=device,
        )
        values = router.data, router_intercept, outputs.data, intercept
        with torch.no_grad():
            for mine, theirs in zip(network.parameters(), values, strict=True):
                mine.copy_(torch.tensor(theirs))
        return network

    def arrays(self):
        """Values of the parameters as numpy arrays on the CPU.

        Returns
        -------
        tuple of ndarray
            Router weights, router intercept, output weights, intercept.
        """
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
        return self._weighted_outputs(*keep_top(h, top_k)) + self.intercept

    def logits_path(self, h, top_ks):
        """Logits at every K of an ascending list, (n_top_ks, n_samples, n_classes)."""
        experts, weights = keep_top(h, top_ks[-1])
        outputs = weights.new_zeros(len(h), self.n_classes)
        totals = weights.new_zeros(len(h), 1)
        path, before = [], 0
        for top_k in top_ks:
            # Add the next experts. Divided by their sum, the weights are those of this K.
            added = slice(before, top_k)
            outputs = outputs + self._weighted_outputs(experts[:, added], weights[:, added])
            totals = totals + weights[:, added].sum(dim=1, keepdim=True)
            path.append(outputs / torch.where(totals > 0, totals, 1.0) + self.intercept)
            before = top_k
        return torch.stack(path)

    def _weighted_outputs(self, experts, weights):
        """Weighted sums of the outputs of some experts of each sample, (n_samples, n_classes)."""
        kept, outputs = expand_rows(self.output_indptr, experts.flatten())
        places = (kept // experts.shape[1]) * self.n_classes + self.output_indices[outputs]
        products = weights.flatten()[kept] * self.output_values[outputs]
        summed = products.new_zeros(len(weights) * self.n_classes).index_add(0, places, products)
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
