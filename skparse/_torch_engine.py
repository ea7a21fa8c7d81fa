"""The functions of `skparse._numba_engine` in PyTorch: for GPUs, and where numba cannot compile.

Every method takes and changes numpy arrays in the way the kernel of the same name does.
"""

import numpy as np
import torch
from scipy import sparse
from torch.nn import functional

from ._gating import keep_top
from ._network import SparseExpertNetwork, expand_rows
from ._parameters import ModelParameters


class TorchEngine:
    """Train and predict with `SparseExpertNetwork` on one device."""

    def __init__(self, device):
        try:
            self.device = torch.device(device)
        except RuntimeError as error:
            raise ValueError(f"device={device!r} is not a device of PyTorch: {error}") from error

    def linear_epoch(self, X, rows, labels, pattern, values, bias, clock, batch_size):
        order, squared_norms, sample_weight = map(self._tensor, rows)
        X, labels = tuple(map(self._tensor, X)), tuple(map(self._tensor, labels))
        pattern = tuple(map(self._tensor, pattern))
        moved, offsets = self._tensor(values).clone(), self._tensor(bias).clone()
        seen, numerator, offset, crowd_row, crowd_batch, x0 = clock
        scale = 1.0
        for batch in torch.split(order, batch_size):
            rate = numerator / (seen + offset)
            places, connections, x = self._products(X, batch, pattern, len(bias))
            h = torch.zeros(len(batch) * len(bias), dtype=moved.dtype, device=self.device)
            h = h.index_add(0, places, scale * x * moved[connections])
            h = h.view(len(batch), -1) + x0 * offsets
            w = sample_weight[batch][:, None]
            norm = squared_norms[batch][:, None] + x0 * x0
            sign = -torch.ones_like(h)
            sign[self._labels(labels, batch)] = 1.0
            implicit = 2 * rate * w / (1 + 2 * rate * norm * (crowd_row * w + crowd_batch))
            step = -sign * torch.minimum((1 - sign * h).clamp(min=0) * implicit, 4 * rate * w)
            seen += float(w.sum())
            scale *= 1.0 - float(w.sum()) / (seen + offset)
            offsets -= x0 * step.sum(dim=0)
            moved.index_add_(0, connections, -x * step.flatten()[places] / scale)
        values[:], bias[:] = moved.cpu().numpy(), offsets.cpu().numpy()
        return scale

    def embedding_epoch(self, X, rows, labels, view, squares, drawn, rates, batch_size):
        X, (order, weight) = tuple(map(self._tensor, X)), map(self._tensor, rows)
        targets, lists = self._tensor(labels), self._tensor(drawn)
        embedding, output, bias = trained = tuple(map(self._tensor, view))
        of_features, of_outputs, of_biases = summed = tuple(map(self._tensor, squares))
        unit, rate, stand_in = rates
        for b, batch in enumerate(torch.split(order, batch_size)):
            own, others = targets[batch].unique(), lists[b % len(lists)].unique()
            experts = torch.cat([own, others[~torch.isin(others, own)]])
            added = torch.full_like(bias[experts], stand_in)
            added[: len(own)] = 0
            places, nonzeros = expand_rows(X[0], batch)
            features, x = X[1][nonzeros].long(), unit * X[2][nonzeros]
            e = embedding.new_zeros(len(batch), embedding.shape[1])
            e = e.index_add(0, places, x[:, None] * embedding[features])
            residual = torch.softmax(e @ output[experts].T + bias[experts] + added, dim=1)
            residual -= (targets[batch][:, None] == experts).to(e.dtype)
            residual *= weight[batch][:, None]
            pull, totals = residual @ output[experts], residual.sum(dim=0)
            gradient = residual.T @ e
            of_outputs[experts] += (gradient**2).mean(dim=1)
            output[experts] -= rate / of_outputs[experts].sqrt()[:, None] * gradient
            of_biases[experts] += totals**2
            bias[experts] -= rate * totals / of_biases[experts].sqrt()
            of_features.index_add_(0, features, x**2 * (pull**2).mean(dim=1)[places])
            step = rate * x / of_features[features].sqrt()
            embedding.index_add_(0, features, -step[:, None] * pull[places])
        for mine, theirs in zip((*view, *squares), (*trained, *summed), strict=True):
            mine[:] = theirs.cpu().numpy()

    def nested_epoch(
        self, X, order, labels, steps, router, expert, intercepts, grids, batch_size, rates,
        multilabel,
    ):  # fmt: skip
        X, labels = tuple(map(self._tensor, X)), tuple(map(self._tensor, labels))
        order, steps = self._tensor(order), self._tensor(steps)
        network = self._network(router, expert, intercepts)
        pattern = (network.router_indptr, network.router_indices)
        bias_square, output_rate, shrink, scale = rates
        loss = 0.0
        for top_k, batch in zip(grids.tolist(), torch.split(order, batch_size), strict=True):
            places, connections, x = self._products(X, batch, pattern, network.n_experts)
            with torch.no_grad():
                products = scale * x * network.router_values[connections]
                h = torch.zeros(len(batch) * network.n_experts, dtype=x.dtype, device=x.device)
                h = h.index_add(0, places, products).view(len(batch), -1)
                h += network.router_intercept
            h.requires_grad_()
            losses = self._losses(network.logits(h, top_k), labels, batch, multilabel)
            weighted = (steps[batch] * losses).sum()
            of_h, of_expert, of_intercept = torch.autograd.grad(
                weighted, [h, network.expert_values, network.intercept]
            )
            loss += float(losses.detach().sum())
            scale *= 1.0 - shrink
            with torch.no_grad():
                change = -x * of_h.flatten()[places] / scale
                network.router_values.index_add_(0, connections, change)
                network.router_intercept -= bias_square * of_h.sum(dim=0)
                network.expert_values -= output_rate * of_expert
                network.intercept -= output_rate * of_intercept
        for mine, theirs in zip(
            (router[2], intercepts[0], expert[2], intercepts[1]), network.arrays(), strict=True
        ):
            mine[:] = theirs
        return scale, loss

    def logits(self, X, first, last, router, expert, intercepts, top_k, out):
        network = self._network(router, expert, intercepts)
        with torch.no_grad():
            h = network.router_scores(*self._batch(X, first, last))
            out[:] = network.logits(h, top_k).cpu().numpy()

    def logits_path(self, X, first, last, router, expert, intercepts, top_ks, out):
        network = self._network(router, expert, intercepts)
        with torch.no_grad():
            h = network.router_scores(*self._batch(X, first, last))
            out[:] = network.logits_path(h, top_ks.tolist()).cpu().numpy()

    def probabilities(self, X, first, last, router, expert, intercepts, top_k, out):
        network = self._network(router, expert, intercepts)
        with torch.no_grad():
            h = network.router_scores(*self._batch(X, first, last))
            out[:] = torch.softmax(network.logits(h, top_k), dim=1).cpu().numpy()

    def codes(self, X, rows, router, router_intercept, sharpness, top_k, kept, weights, counts):
        no_outputs = np.zeros(len(router_intercept) + 1, np.int64)
        expert = (no_outputs, no_outputs[:0], router[2][:0])
        network = self._network(router, expert, (router_intercept, router_intercept[:0]))
        with torch.no_grad():
            h = network.router_scores(*self._take(X, rows))
            experts, shares = keep_top(sharpness * h, top_k)
        kept[:] = experts.cpu().numpy()
        weights[:] = shares.cpu().numpy()
        counts[:] = (h > 0).sum(dim=1).clamp(max=top_k).cpu().numpy()

    def _network(self, router, expert, intercepts):
        parameters = _parameters(router, expert, intercepts)
        return SparseExpertNetwork.from_parameters(parameters, self.device)

    def _batch(self, X, first, last):
        """Rows ``first`` to ``last`` as tensors (indptr, indices, data)."""
        indptr, indices, data = X
        inside = slice(indptr[first], indptr[last])
        limits = indptr[first : last + 1] - indptr[first]
        return tuple(map(self._tensor, (limits, indices[inside], data[inside])))

    def _take(self, X, rows):
        """Copy some rows, in any order, to tensors (indptr, indices, data)."""
        indptr, indices, data = X
        sizes = np.diff(indptr)[rows]
        limits = np.concatenate([[0], np.cumsum(sizes)])
        nonzeros = np.repeat(indptr[rows] - limits[:-1], sizes) + np.arange(limits[-1])
        return tuple(map(self._tensor, (limits, indices[nonzeros], data[nonzeros])))

    def _products(self, X, batch, pattern, n_experts):
        """Places in the flat (rows of the batch, experts), connections and nonzeros."""
        x_indptr, x_indices, x_data = X
        indptr, indices = pattern
        rows, nonzeros = expand_rows(x_indptr, batch)
        which, connections = expand_rows(indptr, x_indices[nonzeros].long())
        return rows[which] * n_experts + indices[connections], connections, x_data[nonzeros][which]

    @staticmethod
    def _labels(labels, batch):
        rows, entries = expand_rows(labels[0], batch)
        return rows, labels[1][entries].long()

    def _losses(self, logits, labels, batch, multilabel):
        rows, classes = self._labels(labels, batch)
        if not multilabel:
            return functional.cross_entropy(logits, classes, reduction="none")
        targets = torch.zeros_like(logits)
        targets[rows, classes] = 1.0
        return functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(
            dim=1
        )

    def _tensor(self, array):
        # torch.tensor copies: read-only memory maps are fine, and nothing is shared.
        return torch.tensor(np.ascontiguousarray(array), device=self.device)


def _parameters(router, expert, intercepts):
    """`ModelParameters` from the tuples that the kernels take."""

    def csr(parts, n_columns):
        return sparse.csr_array((parts[2], parts[1], parts[0]), (len(parts[0]) - 1, n_columns))

    return ModelParameters(
        csr(router, len(intercepts[0])), intercepts[0], csr(expert, len(intercepts[1])),
        intercepts[1],
    )  # fmt: skip
