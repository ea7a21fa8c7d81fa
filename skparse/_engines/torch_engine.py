"""The functions of `skparse._engines.numba_engine` in PyTorch, on any device.

It computes on GPUs, and where numba cannot compile. Every method takes and changes numpy arrays
in the way of the kernel of the same name.
"""

import numpy as np
import torch
from torch.nn import functional

from ..nn._gating import keep_top
from ..nn._network import SparseExpertNetwork, expand_rows
from .arguments import Csr, ModelArrays, Pattern


class TorchEngine:
    """Train and predict with `SparseExpertNetwork` on one device."""

    def __init__(self, device):
        try:
            self.device = torch.device(device)
        except RuntimeError as error:
            raise ValueError(f"device={device!r} is not a device of PyTorch: {error}") from error
        try:
            torch.zeros(1, device=self.device)
        except (AssertionError, RuntimeError) as error:  # as for "cuda" on a machine without one
            raise ValueError(f"device={device!r} is not available: {error}") from error

    def linear_epoch(self, X, rows, targets, ignored, margins, bias, schedule, batch_size):
        order, squared_norms, sample_weight = map(self._tensor, rows)
        X, targets = self._tensors(X), self._tensors(targets)
        ignored = self._tensors(ignored)
        pattern = self._tensors(Pattern(margins.indptr, margins.indices))
        weights, offsets = self._tensor(margins.data), self._tensor(bias)
        seen, x0, scale = schedule.seen, schedule.bias_feature, 1.0
        for batch in torch.split(order, batch_size):
            rate = schedule.numerator / (seen + schedule.offset)
            places, connections, x = self._products(X, batch, pattern, len(bias))
            h = torch.zeros(len(batch) * len(bias), dtype=weights.dtype, device=self.device)
            h = h.index_add(0, places, scale * x * weights[connections])
            h = h.view(len(batch), -1) + x0 * offsets
            weight = sample_weight[batch][:, None]
            norm = squared_norms[batch][:, None] + x0 * x0
            crowding = schedule.row_crowding * weight + schedule.batch_crowding
            sign = -torch.ones_like(h)
            sign[self._columns(targets, batch)] = 1.0
            implicit = 2 * rate * weight / (1 + 2 * rate * norm * crowding)
            lengths = torch.minimum((1 - sign * h).clamp(min=0) * implicit, 4 * rate * weight)
            step = -sign * lengths
            step[self._columns(ignored, batch)] = 0.0
            seen += float(weight.sum())
            scale *= 1.0 - float(weight.sum()) / (seen + schedule.offset)
            offsets -= x0 * step.sum(dim=0)
            weights.index_add_(0, connections, -x * step.flatten()[places] / scale)
        margins.data[:], bias[:] = weights.cpu().numpy(), offsets.cpu().numpy()
        return scale

    def embedding_epoch(self, X, rows, term, squared_gradients, drawn_experts, options):
        X, trained, squares = map(self._tensors, (X, term, squared_gradients))
        order, weight, targets = map(self._tensor, rows)
        drawn = self._tensor(drawn_experts)
        for b, batch in enumerate(torch.split(order, options.batch_size)):
            own, others = targets[batch].unique(), drawn[b % len(drawn)].unique()
            experts = torch.cat([own, others[~torch.isin(others, own)]])
            correction = torch.full_like(
                trained.bias[experts], options.negative_sampling_correction
            )
            correction[: len(own)] = 0
            places, nonzeros = expand_rows(X.indptr, batch)
            features, x = X.indices[nonzeros].long(), options.unit * X.data[nonzeros]
            sums = x.new_zeros(len(batch), trained.feature_vectors.shape[1])
            sums = sums.index_add(0, places, x[:, None] * trained.feature_vectors[features])
            vectors = trained.expert_vectors[experts]
            logits = sums @ vectors.T + trained.bias[experts] + correction
            residual = torch.softmax(logits, dim=1)
            residual -= (targets[batch][:, None] == experts).to(x.dtype)
            residual *= weight[batch][:, None]
            row_gradients = residual @ vectors
            gradients = residual.T @ sums, residual.sum(dim=0)
            _step_experts(trained, squares, experts, *gradients, options.learning_rate)
            square = (row_gradients**2).mean(dim=1)
            squares.feature_vectors.index_add_(0, features, x**2 * square[places])
            step = options.learning_rate * x / squares.feature_vectors[features].sqrt()
            trained.feature_vectors.index_add_(0, features, -step[:, None] * row_gradients[places])
        for arrays, tensors in ((term, trained), (squared_gradients, squares)):
            for mine, theirs in zip(arrays, tensors, strict=True):
                mine[:] = theirs.cpu().numpy()

    def nested_epoch(self, X, rows, model, batch_top_k, options, multilabel):
        X, labels = self._tensors(X), self._tensors(rows.labels)
        order, step_lengths = self._tensor(rows.order), self._tensor(rows.step_lengths)
        network = SparseExpertNetwork.from_model(model, self.device)
        pattern = Pattern(network.router_indptr, network.router_indices)
        scale, loss = 1.0, 0.0
        batches = torch.split(order, options.batch_size)
        for top_k, batch in zip(batch_top_k.tolist(), batches, strict=True):
            places, connections, x = self._products(X, batch, pattern, network.n_experts)
            with torch.no_grad():
                products = scale * x * network.router_values[connections]
                h = torch.zeros(len(batch) * network.n_experts, dtype=x.dtype, device=x.device)
                h = h.index_add(0, places, products).view(len(batch), -1)
                h += network.router_intercept
            h.requires_grad_()
            losses = self._losses(network.logits(h, top_k), labels, batch, multilabel)
            weighted = (step_lengths[batch] * losses).sum()
            of_h, of_outputs, of_intercept = torch.autograd.grad(
                weighted, [h, network.output_values, network.intercept]
            )
            loss += float(losses.detach().sum())
            scale *= 1.0 - options.shrinkage
            with torch.no_grad():
                change = -x * of_h.flatten()[places] / scale
                network.router_values.index_add_(0, connections, change)
                network.router_intercept -= options.bias_square * of_h.sum(dim=0)
                network.output_values -= options.output_rate * of_outputs
                network.intercept -= options.output_rate * of_intercept
        arrays = model.router.data, model.router_intercept, model.outputs.data, model.intercept
        for mine, theirs in zip(arrays, network.arrays(), strict=True):
            mine[:] = theirs
        return scale, loss

    def dense_epoch(self, X, rows, class_starts, router, moments, options):
        X, (order, weight, classes) = self._tensor(X), map(self._tensor, rows)
        trained = [self._tensor(part).requires_grad_() for part in router]
        means, squares = ([self._tensor(part) for part in moment] for moment in moments)
        numbers = torch.arange(len(router.bias), device=self.device)
        expert_class = torch.searchsorted(self._tensor(class_starts)[1:], numbers, right=True)
        total = 0.0
        for b, batch in enumerate(torch.split(order, options.batch_size)):
            h = X[batch] @ trained[0] + trained[1]
            is_own = expert_class == classes[batch][:, None]
            losses = h.logsumexp(dim=1) - h.masked_fill(~is_own, -torch.inf).logsumexp(dim=1)
            loss = (weight[batch] * losses).sum()
            gradients = list(torch.autograd.grad(loss / options.batch_size, trained))
            total += float(loss.detach())
            with torch.no_grad():
                gradients[0] += options.penalty * trained[0]
                step = options.n_steps + b + 1, float(options.rates[b])
                for arrays in zip(trained, gradients, means, squares, strict=True):
                    _step_adam(*arrays, *step, options)
        for mine, theirs in zip(router, trained, strict=True):
            mine[:] = theirs.detach().cpu().numpy()
        for moment, tensors in zip(moments, (means, squares), strict=True):
            for mine, theirs in zip(moment, tensors, strict=True):
                mine[:] = theirs.cpu().numpy()
        return total

    def logits(self, X, first, last, model, top_k, out):
        network = SparseExpertNetwork.from_model(model, self.device)
        with torch.no_grad():
            h = network.router_scores(*self._block(X, first, last))
            out[:] = network.logits(h, top_k).cpu().numpy()

    def logits_path(self, X, first, last, model, top_ks, out):
        network = SparseExpertNetwork.from_model(model, self.device)
        with torch.no_grad():
            h = network.router_scores(*self._block(X, first, last))
            out[:] = network.logits_path(h, top_ks.tolist()).cpu().numpy()

    def probabilities(self, X, first, last, model, top_k, out):
        network = SparseExpertNetwork.from_model(model, self.device)
        with torch.no_grad():
            h = network.router_scores(*self._block(X, first, last))
            out[:] = torch.softmax(network.logits(h, top_k), dim=1).cpu().numpy()

    def route(self, X, rows, router, router_intercept, sharpness, top_k, routes):
        indptr = np.zeros(len(router_intercept) + 1, np.int64)
        no_outputs = Csr(indptr, indptr[:0], router.data[:0])
        model = ModelArrays(router, router_intercept, no_outputs, router_intercept[:0])
        network = SparseExpertNetwork.from_model(model, self.device)
        with torch.no_grad():
            h = network.router_scores(*self._take(X, rows))
            experts, weights = keep_top(sharpness * h, top_k)
        routes.expert_indices[:, : experts.shape[1]] = experts.cpu().numpy()
        routes.expert_weights[:, : experts.shape[1]] = weights.cpu().numpy()
        routes.counts[:] = (h > 0).sum(dim=1).clamp(max=top_k).cpu().numpy()

    def _block(self, X, first, last):
        """Copy the rows ``first`` to ``last`` to tensors."""
        nonzeros = slice(X.indptr[first], X.indptr[last])
        indptr = X.indptr[first : last + 1] - X.indptr[first]
        return self._tensors(Csr(indptr, X.indices[nonzeros], X.data[nonzeros]))

    def _take(self, X, rows):
        """Copy some rows, in any order, to tensors."""
        sizes = np.diff(X.indptr)[rows]
        indptr = np.concatenate([[0], np.cumsum(sizes)])
        nonzeros = np.repeat(X.indptr[rows] - indptr[:-1], sizes) + np.arange(indptr[-1])
        return self._tensors(Csr(indptr, X.indices[nonzeros], X.data[nonzeros]))

    def _products(self, X, batch, pattern, n_experts):
        """List the products of a batch with the weights of a `Pattern` (n_features, n_experts).

        Returns
        -------
        places : torch.Tensor of int64
            Where each product belongs in the flat (rows of the batch, experts).
        connections : torch.Tensor of int64
            The position of its weight in the pattern.
        x : torch.Tensor
            The nonzero that it multiplies.
        """
        rows, nonzeros = expand_rows(X.indptr, batch)
        which, connections = expand_rows(pattern.indptr, X.indices[nonzeros].long())
        places = rows[which] * n_experts + pattern.indices[connections]
        return places, connections, X.data[nonzeros][which]

    @staticmethod
    def _columns(pattern, batch):
        """Positions (row of the batch, column) of the entries of a batch of a `Pattern`."""
        rows, entries = expand_rows(pattern.indptr, batch)
        return rows, pattern.indices[entries].long()

    def _losses(self, logits, labels, batch, multilabel):
        rows, classes = self._columns(labels, batch)
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

    def _tensors(self, arrays):
        """Copy the arrays of a named tuple to tensors."""
        return type(arrays)(*map(self._tensor, arrays))


def _step_experts(trained, squares, experts, vector_gradients, bias_gradients, rate):
    """Move the vectors and biases of some experts, in place."""
    squares.expert_vectors[experts] += (vector_gradients**2).mean(dim=1)
    lengths = rate / squares.expert_vectors[experts].sqrt()
    trained.expert_vectors[experts] -= lengths[:, None] * vector_gradients
    squares.bias[experts] += bias_gradients**2
    trained.bias[experts] -= rate * bias_gradients / squares.bias[experts].sqrt()


def _step_adam(array, gradient, mean, square, n_steps, rate, options):
    """Move an array by a step of Adam, in place."""
    mean.mul_(options.mean_decay).add_((1 - options.mean_decay) * gradient)
    square.mul_(options.square_decay).add_((1 - options.square_decay) * gradient**2)
    root = (square / (1 - options.square_decay**n_steps)).sqrt()
    array -= rate / (1 - options.mean_decay**n_steps) * mean / (root + options.epsilon)
