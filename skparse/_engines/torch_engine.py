"""The functions of `skparse._engines.numba_engine` in PyTorch, on any device.

It computes on GPUs, and where numba cannot compile. Every method takes and changes numpy arrays
in the way of the kernel of the same name. Blocks of rows are copied to the device one by one. The
router weights that the rows of a block use are a dense matrix there: dense rows are added several
times faster than sparse ones.
"""

from threading import Lock

import numpy as np
import torch
from torch.nn import functional

from ..nn._gating import keep_top
from ..nn._network import expand_rows
from .arguments import Csr
from .stream_rows import stream_epoch
from .torch_rows import (
    Block,
    RouterPart,
    add_at,
    fits,
    share,
    split_rows,
    take_rows,
    train_blocks,
)


class TorchEngine:
    """Train and predict with tensors on one device."""

    def __init__(self, device):
        try:
            self.device = torch.device(device)
        except RuntimeError as error:
            raise ValueError(f"device={device!r} is not a device of PyTorch: {error}") from error
        try:
            torch.zeros(1, device=self.device)
        except (AssertionError, RuntimeError) as error:  # as for "cuda" on a machine without one
            raise ValueError(f"device={device!r} is not available: {error}") from error
        # The router of the last prediction: its arrays, and its `RouterPart`.
        self._last, self._lock = None, Lock()

    @torch.no_grad()
    def linear_epoch(self, X, rows, targets, ignored, margins, bias, schedule, batch_size):
        order, squared_norms, sample_weight = rows
        offsets = self._share(bias)
        n_experts = len(bias)
        x0, firsts = schedule.bias_feature, np.arange(0, len(order), batch_size)
        weight = sample_weight[order]
        rates, scales = _schedule_steps(weight, firsts, schedule)
        rate = np.repeat(rates.astype(bias.dtype), np.diff(np.append(firsts, len(order))))
        crowding = schedule.row_crowding * weight + schedule.batch_crowding
        norm = squared_norms[order] + x0 * x0
        implicit = (2 * rate * weight / (1 + 2 * rate * norm * crowding)).astype(bias.dtype)
        longest = (4 * rate * weight).astype(bias.dtype)
        b = 0
        blocks = train_blocks(X, order, batch_size, margins, n_experts, n_experts, self.device)
        for part, block, weights in blocks:
            signs = 2 * self._dense_rows(targets, order[part], n_experts, offsets.dtype) - 1
            is_free = None
            if len(ignored.indices):
                is_free = 1 - self._dense_rows(ignored, order[part], n_experts, offsets.dtype)
            factors, limits = self._share(implicit[part, None]), self._share(longest[part, None])
            for batch in block.batches(batch_size):
                sign = signs[batch.rows]
                step = batch.sum_features(weights.weights).mul_(scales[b])
                step.add_(offsets, alpha=x0).mul_(sign).neg_().add_(1).clamp_(min=0)
                torch.minimum(step.mul_(factors[batch.rows]), limits[batch.rows], out=step)
                step.mul_(sign).neg_()
                if is_free is not None:
                    step.mul_(is_free[batch.rows])
                offsets.sub_(step.sum(dim=0), alpha=x0)
                b += 1
                weights.subtract(batch, step.mul_(1 / scales[b]))
        _write([bias], [offsets])
        return float(scales[-1])

    @torch.no_grad()
    def embedding_epoch(self, X, rows, term, squared_gradients, drawn_experts, options):
        order, sample_weight, experts = rows
        trained, squares = self._shared(term), self._shared(squared_gradients)
        vectors, feature_squares = trained.feature_vectors, squares.feature_vectors
        (n_features, rank), n_experts = term.feature_vectors.shape, len(term.bias)
        is_drawn = torch.zeros(len(drawn_experts), n_experts, dtype=torch.bool, device=self.device)
        is_drawn.scatter_(1, self._share(drawn_experts).long(), True)
        b = 0
        for part in split_rows(X, order, options.batch_size, n_features, rank):
            block = Block(X, order[part], n_features, self.device, renumber=False)
            weight = self._share(sample_weight[order[part], None])
            targets = self._share(experts[order[part]]).long()
            for batch in block.batches(options.batch_size):
                own = targets[batch.rows]
                sums = batch.sum_features(vectors).mul_(options.unit)
                gradient = _step_experts(
                    trained, squares, sums, own, weight[batch.rows],
                    is_drawn[b % len(is_drawn)], options,
                )  # fmt: skip
                b += 1
                used = batch.used
                square = batch.sum_rows((gradient**2).mean(dim=1, keepdim=True), squared=True)
                squares_used = feature_squares.index_select(0, used)
                square = squares_used.add_(square[:, 0], alpha=options.unit**2)
                feature_squares.index_copy_(0, used, square)
                lengths = options.learning_rate * options.unit / square.sqrt()
                change = batch.sum_rows(gradient).mul_(lengths[:, None])
                moved = vectors.index_select(0, used).sub_(change)
                vectors.index_copy_(0, used, moved)
        _write((*term, *squared_gradients), (*trained, *squares))

    @torch.no_grad()
    def nested_epoch(self, X, rows, model, batch_top_k, options, multilabel):
        outputs, intercept = self._shared(model.outputs), self._share(model.intercept)
        router_intercept = self._share(model.router_intercept)
        n_experts, top_ks = len(router_intercept), iter(batch_top_k.tolist())
        # A tensor: a GPU would have to be waited for at every batch.
        scale, loss = 1.0, torch.zeros((), dtype=torch.float64, device=self.device)
        width = max(n_experts, len(intercept)) if multilabel else n_experts
        blocks = train_blocks(
            X, rows.order, options.batch_size, model.router, n_experts, width, self.device
        )
        for part, block, weights in blocks:
            visited = rows.order[part]
            labels = self._labels(rows.labels, visited, len(intercept), intercept, multilabel)
            lengths = self._share(rows.step_lengths[visited, None])
            for batch in block.batches(options.batch_size):
                h = batch.sum_features(weights.weights).mul_(scale).add_(router_intercept)
                kept = _KeptOutputs(outputs, len(intercept), *keep_top(h, next(top_ks)))
                logits = kept.sum().add_(intercept)
                losses, residual = _differentiate(logits, labels[batch.rows], multilabel)
                loss += losses
                residual.mul_(lengths[batch.rows])
                of_h, of_outputs = kept.backpropagate(residual, n_experts)
                scale *= 1.0 - options.shrinkage
                weights.subtract(batch, of_h / scale)
                router_intercept.sub_(of_h.sum(dim=0), alpha=options.bias_square)
                outputs.data.sub_(of_outputs, alpha=options.output_rate)
                intercept.sub_(residual.sum(dim=0), alpha=options.output_rate)
        arrays = model.router_intercept, model.outputs.data, model.intercept
        _write(arrays, (router_intercept, outputs.data, intercept))
        return scale, float(loss)

    def dense_epoch(self, X, rows, class_starts, router, moments, options):
        X, (order, weight, classes) = self._copy(X), map(self._copy, rows)
        trained = [self._copy(part).requires_grad_() for part in router]
        means, squares = ([self._copy(part) for part in moment] for moment in moments)
        numbers = torch.arange(len(router.bias), device=self.device)
        expert_class = torch.searchsorted(self._copy(class_starts)[1:], numbers, right=True)
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

    stream_epoch = staticmethod(stream_epoch)

    @torch.no_grad()
    def logits(self, X, first, last, model, top_k, out):
        for part, h, outputs, intercept in self._scored(X, first, last, model):
            kept = _KeptOutputs(outputs, len(intercept), *keep_top(h, top_k))
            logits = kept.sum().add_(intercept)
            out[part] = logits.cpu().numpy()

    def find_empty(self, X, first, last, router):
        features = np.repeat(np.arange(len(router.indptr) - 1), np.diff(router.indptr))
        is_connected = np.zeros(len(router.indptr) - 1, bool)
        is_connected[features[router.data != 0]] = True
        entries = slice(X.indptr[first], X.indptr[last])
        rows = np.repeat(np.arange(last - first), np.diff(X.indptr[first : last + 1]))
        empty = np.ones(last - first, bool)
        empty[rows[(X.data[entries] != 0) & is_connected[X.indices[entries]]]] = False
        return empty

    @torch.no_grad()
    def logits_path(self, X, first, last, model, top_ks, out):
        top_ks = top_ks.tolist()
        for part, h, outputs, intercept in self._scored(X, first, last, model):
            experts, weights = keep_top(h, top_ks[-1])
            sums, total, before = 0, 0, 0
            for place, top_k in enumerate(top_ks):
                # Add the next experts. Divided by their sum, the weights are those of this K.
                added = experts[:, before:top_k], weights[:, before:top_k]
                sums = sums + _KeptOutputs(outputs, len(intercept), *added).sum()
                total = total + added[1].sum(dim=1, keepdim=True)
                logits = sums / torch.where(total > 0, total, 1.0) + intercept
                out[place, part] = logits.cpu().numpy()
                before = top_k

    @torch.no_grad()
    def probabilities(self, X, first, last, model, top_k, out):
        for part, h, outputs, intercept in self._scored(X, first, last, model):
            kept = _KeptOutputs(outputs, len(intercept), *keep_top(h, top_k))
            logits = kept.sum().add_(intercept)
            out[part] = torch.softmax(logits, dim=1).cpu().numpy()

    @torch.no_grad()
    def route(self, X, rows, router, router_intercept, sharpness, top_k, routes):
        for part, h in self._scores(X, rows, router, router_intercept):
            experts, weights = keep_top(sharpness * h, top_k)
            routes.expert_indices[part, : experts.shape[1]] = experts.cpu().numpy()
            routes.expert_weights[part, : experts.shape[1]] = weights.cpu().numpy()
            routes.counts[part] = (h > 0).sum(dim=1).clamp(max=top_k).cpu().numpy()

    def _scored(self, X, first, last, model):
        """Compute the scores of a range of rows, and copy the rest of the model.

        Yields
        ------
        part : slice
            Some of the rows, counted from ``first``.
        h : torch.Tensor (n_rows, n_experts)
        outputs : Csr of torch.Tensor (n_experts, n_classes)
        intercept : torch.Tensor (n_classes,)
        """
        outputs, intercept = self._shared(model.outputs), self._share(model.intercept)
        parts = model.router, model.router_intercept, len(intercept)
        for part, h in self._scores(X, np.arange(first, last), *parts):
            yield part, h, outputs, intercept

    def _scores(self, X, rows, router, router_intercept, n_classes=1):
        """Compute the scores of rows in blocks; yields (slice of the rows, scores)."""
        n_features, n_experts = len(router.indptr) - 1, len(router_intercept)
        intercept, width = self._share(router_intercept), max(n_experts, n_classes)
        is_whole = fits(router, n_experts, X.indptr[-1])
        weights = self._whole_router(router, n_experts) if is_whole else None
        for part in split_rows(X, rows, 1, n_features, width):
            block = Block(X, rows[part], n_features, self.device, renumber=not is_whole)
            if not is_whole:
                weights = RouterPart(router, n_experts, self.device, block.features)
            yield part, block.sum_features(weights.weights).add_(intercept)

    def _whole_router(self, router, n_experts):
        """Make a dense matrix of a router, once for all blocks of rows of a prediction."""
        with self._lock:
            if self._last is None or self._last[0] is not router:
                self._last = router, RouterPart(router, n_experts, self.device)
            return self._last[1]

    def _labels(self, labels, rows, n_classes, like, multilabel):
        """Copy the labels of rows: classes (n_rows, 1), or zeros and ones (n_rows, n_classes)."""
        if multilabel:
            return self._dense_rows(labels, rows, n_classes, like.dtype)
        return self._share(labels.indices[labels.indptr[rows], None]).long()

    def _dense_rows(self, pattern, rows, n_columns, dtype):
        """Make a dense tensor of zeros and ones of some rows of a `Pattern`."""
        indptr, indices, _ = take_rows(Csr(*pattern, pattern.indices), rows)
        places = np.repeat(np.arange(len(rows)) * n_columns, np.diff(indptr)) + indices
        dense = torch.zeros(len(rows) * n_columns, dtype=dtype, device=self.device)
        dense[self._share(places)] = 1
        return dense.view(len(rows), n_columns)

    def _copy(self, array):
        return torch.tensor(np.ascontiguousarray(array), device=self.device)

    def _share(self, array):
        return share(array, self.device)

    def _shared(self, arrays):
        """Tensors of the arrays of a named tuple."""
        return type(arrays)(*map(self._share, arrays))


def _schedule_steps(weight, firsts, schedule):
    """Rate of every batch, and the scale of the margins before each of them and after the last."""
    weights = np.add.reduceat(weight.astype(np.float64), firsts)
    seen = np.cumsum(np.append(schedule.seen, weights))
    kept = 1.0 - weights / (seen[1:] + schedule.offset)
    return schedule.numerator / (seen[:-1] + schedule.offset), np.cumprod(np.append(1.0, kept))


class _KeptOutputs:
    """The outputs of the experts that each row keeps.

    Parameters
    ----------
    outputs : Csr of torch.Tensor (n_experts, n_classes)
    n_classes : int
    experts : torch.Tensor of int64 (n_rows, n_kept)
    weights : torch.Tensor (n_rows, n_kept)
    """

    def __init__(self, outputs, n_classes, experts, weights):
        self.experts, self.weights = experts, weights
        self._shape = len(experts), n_classes
        self._kept, self._entries = expand_rows(outputs.indptr, experts.flatten())
        rows = self._kept // max(1, experts.shape[1])
        self._places = rows * n_classes + outputs.indices[self._entries]
        self._n_outputs, self._values = len(outputs.data), outputs.data[self._entries]

    def sum(self):
        """Sum the outputs of each row by their weights, (n_rows, n_classes)."""
        products = self.weights.flatten()[self._kept] * self._values
        return add_at(self._shape[0] * self._shape[1], self._places, products).view(self._shape)

    def backpropagate(self, residual, n_experts):
        """Compute derivatives of the loss from those by the logits.

        Returns
        -------
        of_scores : torch.Tensor (n_rows, n_experts)
        of_outputs : torch.Tensor (n_outputs,)
        """
        residuals, weights = residual.flatten()[self._places], self.weights
        of_weights = add_at(weights.numel(), self._kept, residuals * self._values)
        of_weights = of_weights.view_as(weights)
        of_kept = weights * (of_weights - (weights * of_weights).sum(dim=1, keepdim=True))
        of_scores = residual.new_zeros(len(residual), n_experts).scatter_(1, self.experts, of_kept)
        residuals.mul_(weights.flatten()[self._kept])
        return of_scores, add_at(self._n_outputs, self._entries, residuals)


def _differentiate(logits, labels, multilabel):
    """Compute the sum of the losses of all rows, and the derivatives by their logits."""
    if multilabel:
        losses = functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum")
        return losses, torch.sigmoid(logits).sub_(labels)
    log_probabilities = torch.log_softmax(logits, dim=1)
    losses = log_probabilities.gather(1, labels).sum().neg()
    residual = log_probabilities.exp_()
    return losses, residual.scatter_add_(1, labels, -torch.ones_like(labels, dtype=logits.dtype))


def _step_experts(trained, squares, sums, own, weight, is_drawn, options):
    """Move the vectors and biases of the experts of a batch; returns the gradient of ``sums``."""
    is_own = torch.zeros_like(is_drawn)
    is_own[own] = True
    experts = (is_own | is_drawn).nonzero().squeeze(1)
    vectors = trained.expert_vectors[experts]
    correction = torch.full_like(trained.bias, options.negative_sampling_correction)
    bias = correction.masked_fill_(is_own, 0).add_(trained.bias)
    residual = torch.softmax(torch.addmm(bias[experts], sums, vectors.T), dim=1)
    target = torch.searchsorted(experts, own)[:, None]
    residual.scatter_add_(1, target, -torch.ones_like(target, dtype=sums.dtype)).mul_(weight)
    gradient, of_bias, of_vectors = residual @ vectors, residual.sum(dim=0), residual.T @ sums
    square = squares.expert_vectors[experts].add_((of_vectors**2).mean(dim=1))
    squares.expert_vectors[experts] = square
    lengths = options.learning_rate / square.sqrt()
    trained.expert_vectors[experts] = vectors.sub_(of_vectors.mul_(lengths[:, None]))
    square = squares.bias[experts].add_(of_bias**2)
    squares.bias[experts] = square
    trained.bias[experts] -= options.learning_rate * of_bias / square.sqrt()
    return gradient


def _step_adam(array, gradient, mean, square, n_steps, rate, options):
    """Move an array by a step of Adam, in place."""
    mean.mul_(options.mean_decay).add_((1 - options.mean_decay) * gradient)
    square.mul_(options.square_decay).add_((1 - options.square_decay) * gradient**2)
    root = (square / (1 - options.square_decay**n_steps)).sqrt()
    array -= rate / (1 - options.mean_decay**n_steps) * mean / (root + options.epsilon)


def _write(arrays, tensors):
    """Write tensors to the arrays that they are of, where these do not share their memory."""
    for array, tensor in zip(arrays, tensors, strict=True):
        array[...] = tensor.cpu().numpy()
