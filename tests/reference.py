"""Slow, plain twins of everything that the engines compute, and problems to run both on.

Loops over numbers in float64, one formula a line: written to be read, not to be fast. The twins
hold the router weights as they are, where the engines hold them as ``scale * values``.
"""

from math import exp, log
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
from scipy import sparse

from skparse import SparseExpertClassifier, _training
from skparse._linear_start import StepClock
from skparse._parameters import ModelParameters, csr_parts
from skparse._shared_view import SharedView


def row_entries(matrix, i):
    """Pairs (column, value) of row ``i`` of a CSR matrix given as (indptr, indices, data)."""
    indptr, indices, data = matrix
    return [(int(indices[t]), float(data[t])) for t in range(indptr[i], indptr[i + 1])]


def row_columns(pattern, i):
    """Columns of row ``i`` of a CSR pattern given as (indptr, indices)."""
    indptr, indices = pattern
    return [int(c) for c in indices[indptr[i] : indptr[i + 1]]]


def scores(X, i, router, router_intercept):
    """Router scores ``W1 x + b1`` of row ``i``."""
    h = [float(b) for b in router_intercept]
    for j, x in row_entries(X, i):
        for e, weight in row_entries(router, j):
            h[e] += x * weight
    return h


def kept_experts(h, top_k):
    """The ``top_k`` largest positive scores, largest first, ties to the lowest index."""
    positive = [e for e in range(len(h)) if h[e] > 0]
    return sorted(positive, key=lambda e: (-h[e], e))[:top_k]


def gate(h, kept, sharpness=1.0):
    """Softmax over the scores of the kept experts, multiplied by ``sharpness``."""
    largest = max((h[e] for e in kept), default=0.0)
    exponentials = [exp(sharpness * (h[e] - largest)) for e in kept]
    return [value / sum(exponentials) for value in exponentials]


def class_logits(kept, weights, expert, intercept):
    """``W h_sparse + b2``."""
    z = [float(b) for b in intercept]
    for e, weight in zip(kept, weights, strict=True):
        for c, output in row_entries(expert, e):
            z[c] += weight * output
    return z


def softmax(z):
    exponentials = [exp(value - max(z)) for value in z]
    return [value / sum(exponentials) for value in exponentials]


def sigmoid(value):
    return 1 / (1 + exp(-value)) if value >= 0 else exp(value) / (1 + exp(value))


def probabilities(z, multilabel):
    return [sigmoid(value) for value in z] if multilabel else softmax(z)


def loss_of_row(z, classes, multilabel):
    """Cross-entropy of one row; multilabel: summed over the labels."""
    if multilabel:
        signs = [1 if c in classes else -1 for c in range(len(z))]
        return sum(max(-s * v, 0.0) + log(1 + exp(-abs(v))) for s, v in zip(signs, z, strict=True))
    return max(z) + log(sum(exp(value - max(z)) for value in z)) - z[classes[0]]


def logits(X, rows, router, expert, intercepts, top_k):
    """Logits of ``rows``, an array (n_rows, n_classes)."""
    router_intercept, intercept = intercepts
    out = []
    for i in rows:
        h = scores(X, i, router, router_intercept)
        kept = kept_experts(h, top_k)
        out.append(class_logits(kept, gate(h, kept), expert, intercept))
    return np.array(out).reshape(len(rows), len(intercept))


def codes(X, rows, router, router_intercept, top_k, sharpness=1.0):
    """Gate weights of ``rows``: a list of dicts from kept expert to weight, largest first."""
    out = []
    for i in rows:
        h = scores(X, i, router, router_intercept)
        kept = kept_experts(h, top_k)
        out.append(dict(zip(kept, gate(h, kept, sharpness), strict=True)))
    return out


def linear_epoch(X, rows, labels, pattern, weights, bias, clock, batch_size):
    """One epoch of implicit one-vs-rest steps; returns (weights, bias).

    Every batch: all margins first, then the L2 shrinkage, then the steps of all its rows.
    """
    order, squared_norms, sample_weight = rows
    weights, bias = [float(w) for w in weights], [float(b) for b in bias]
    clock = StepClock(*clock)
    seen, x0 = clock.seen, clock.bias_feature
    for first in range(0, len(order), batch_size):
        batch = [int(i) for i in order[first : first + batch_size]]
        rate = clock.numerator / (seen + clock.offset)
        steps = []
        for i in batch:
            margins = scores(X, i, (*pattern, weights), [b * x0 for b in bias])
            own = row_columns(labels, i)
            w = float(sample_weight[i])
            norm = float(squared_norms[i]) + x0 * x0
            crowd = clock.crowd_row * w + clock.crowd_batch
            for e, margin in enumerate(margins):
                sign = 1.0 if e in own else -1.0
                violation = max(1 - sign * margin, 0.0)
                length = 2 * rate * w * violation / (1 + 2 * rate * norm * crowd)
                steps.append((i, e, sign * min(length, 4 * rate * w)))
        batch_weight = sum(float(sample_weight[i]) for i in batch)
        seen += batch_weight
        weights = [value * (1 - batch_weight / (seen + clock.offset)) for value in weights]
        for i, e, step in steps:
            bias[e] += x0 * step
            for j, x in row_entries(X, i):
                for p in range(pattern[0][j], pattern[0][j + 1]):
                    if pattern[1][p] == e:
                        weights[p] += x * step
    return np.array(weights), np.array(bias)


class Gradients(NamedTuple):
    """Derivatives of a weighted sum of losses, in the order of `ModelParameters`."""

    router: np.ndarray
    router_intercept: np.ndarray
    expert: np.ndarray
    intercept: np.ndarray


def gradients(X, batch, labels, row_weights, router, expert, intercepts, top_k, multilabel):
    """Gradients of ``sum(row_weights[i] * loss of row i)`` over a batch, and its losses.

    Returns (Gradients, list of the losses).
    """
    router_intercept, intercept = intercepts
    arrays = router[2], router_intercept, expert[2], intercept
    sums = Gradients(*(np.zeros(len(array)) for array in arrays))
    losses = []
    for i in batch:
        h = scores(X, i, router, router_intercept)
        kept = kept_experts(h, top_k)
        weights = gate(h, kept)
        z = class_logits(kept, weights, expert, intercept)
        own = row_columns(labels, i)
        losses.append(loss_of_row(z, own, multilabel))
        by_logit = [
            float(row_weights[i]) * (p - (c in own))
            for c, p in enumerate(probabilities(z, multilabel))
        ]
        sums.intercept[:] += by_logit
        by_gate = []
        for e, weight in zip(kept, weights, strict=True):
            for p in range(expert[0][e], expert[0][e + 1]):
                sums.expert[p] += weight * by_logit[expert[1][p]]
            by_gate.append(sum(output * by_logit[c] for c, output in row_entries(expert, e)))
        mean = sum(g * d for g, d in zip(weights, by_gate, strict=True))
        by_score = {
            e: weight * (derivative - mean)
            for e, weight, derivative in zip(kept, weights, by_gate, strict=True)
        }
        for e, derivative in by_score.items():
            sums.router_intercept[e] += derivative
        for j, x in row_entries(X, i):
            for p in range(router[0][j], router[0][j + 1]):
                sums.router[p] += x * by_score.get(int(router[1][p]), 0.0)
    return sums, losses


def nested_epoch(
    X, order, labels, steps, router, expert, intercepts, grids, batch_size, rates, multilabel
):
    """One epoch of mini-batch gradient steps; returns (arrays in `ModelParameters` order, loss).

    The first array holds the router weights themselves, ``scale * values`` of the engines.
    """
    bias_square, output_rate, shrink, scale = rates
    weights = scale * np.asarray(router[2], float)
    outputs = np.array(expert[2], float)
    b1, b2 = (np.array(b, float) for b in intercepts)
    loss = 0.0
    for b, top_k in enumerate(grids):
        batch = order[b * batch_size : (b + 1) * batch_size]
        gradient, losses = gradients(
            X, batch, labels, steps, (*router[:2], weights), (*expert[:2], outputs), (b1, b2),
            top_k, multilabel,
        )  # fmt: skip
        loss += sum(losses)
        weights = (1 - shrink) * weights - gradient.router
        b1 = b1 - bias_square * gradient.router_intercept
        outputs = outputs - output_rate * gradient.expert
        b2 = b2 - output_rate * gradient.intercept
    return (weights, b1, outputs, b2), loss


def embedding_epoch(X, rows, labels, view, squares, drawn, rates, batch_size):
    """One epoch of softmax regression on sums of embeddings; returns (*view, *squares).

    Every batch: all residuals first, then the squares, then the steps. The squared gradients of
    a feature are those of its entries, one by one; those of an expert are of the whole batch.
    """
    (order, sample_weight), (unit, rate, stand_in) = rows, rates
    embedding, output, bias = (np.array(part, float) for part in view)
    of_features, of_outputs, of_biases = (np.array(part, float) for part in squares)
    for b in range(-(-len(order) // batch_size)):
        batch = [int(i) for i in order[b * batch_size : (b + 1) * batch_size]]
        own = {int(labels[i]) for i in batch}
        others = {int(c) for c in drawn[b % len(drawn)]} - own
        by_output, by_bias = np.zeros_like(output), np.zeros_like(bias)
        steps = []
        for i in batch:
            entries = [(j, unit * x) for j, x in row_entries(X, i)]
            e = sum((x * embedding[j] for j, x in entries), np.zeros(output.shape[1]))
            experts = sorted(own | others)
            z = [e @ output[c] + bias[c] + (stand_in if c in others else 0.0) for c in experts]
            pull = np.zeros_like(e)
            for c, probability in zip(experts, softmax(z), strict=True):
                residual = float(sample_weight[i]) * (probability - (c == labels[i]))
                by_output[c] += residual * e
                by_bias[c] += residual
                pull += residual * output[c]
            steps += [(j, x * pull) for j, x in entries]
        for j, gradient in steps:
            of_features[j] += np.mean(gradient**2)
        for j, gradient in steps:
            embedding[j] -= rate / np.sqrt(of_features[j]) * gradient
        for c in own | others:
            of_outputs[c] += np.mean(by_output[c] ** 2)
            output[c] -= rate / np.sqrt(of_outputs[c]) * by_output[c]
            of_biases[c] += by_bias[c] ** 2
            bias[c] -= rate / np.sqrt(of_biases[c]) * by_bias[c]
    return embedding, output, bias, of_features, of_outputs, of_biases


class Problem(NamedTuple):
    """Samples, labels and a model in the form that the engines take."""

    X: tuple  # (indptr, indices, data)
    labels: tuple  # (indptr, classes)
    parameters: ModelParameters
    multilabel: bool

    @property
    def n_samples(self):
        return len(self.X[0]) - 1

    @property
    def n_experts(self):
        return len(self.parameters.router_intercept)

    @property
    def router(self):
        return csr_parts(self.parameters.router)

    @property
    def expert(self):
        return csr_parts(self.parameters.expert)


def draw_problem(
    n_samples=24,
    n_features=15,
    n_experts=6,
    n_classes=5,
    *,
    multilabel=False,
    dtype=np.float64,
    index_dtype=np.int32,
    fill=0.3,
    connected=0.5,
    outputs=0.6,
    shift=0.0,
    ties=False,
    duplicates=False,
    seed=0,
):
    """Draw a `Problem`; its first row of X is empty.

    Parameters
    ----------
    fill, connected, outputs : float
        Share of the entries that exist in X, the router and the expert outputs.
    shift : float
        Added to the router intercepts: at -1000 no expert is ever kept.
    ties : bool
        Whether all numbers of the router and X are small integers: many equal scores.
    duplicates : bool
        Whether X stores every entry in two halves.
    """
    rng = np.random.RandomState(seed)
    X = _draw_sparse(rng, (n_samples, n_features), fill, ties)
    X[0] = 0
    router = _draw_sparse(rng, (n_features, n_experts), connected, ties)
    expert = _draw_sparse(rng, (n_experts, n_classes), outputs, ties)
    b1 = np.zeros(n_experts) if ties else rng.normal(size=n_experts)
    if multilabel:
        has_label = rng.uniform(size=(n_samples, n_classes)) < 0.4
    else:
        has_label = np.eye(n_classes)[rng.randint(n_classes, size=n_samples)]
    labels = sparse.csr_array(np.asarray(has_label, float))
    parameters = ModelParameters(
        sparse.csr_array(router.astype(dtype)),
        (b1 + shift).astype(dtype),
        sparse.csr_array(expert.astype(dtype)),
        rng.normal(size=n_classes).astype(dtype),
    )
    indptr, indices, data = csr_parts(sparse.csr_array(X.astype(dtype)))
    if duplicates:
        indptr, indices, data = 2 * indptr, np.repeat(indices, 2), np.repeat(data / 2, 2)
    X = indptr.astype(index_dtype), indices.astype(index_dtype), data
    return Problem(X, (labels.indptr, labels.indices), parameters, multilabel)


def _draw_sparse(rng, shape, share, integers):
    values = rng.randint(-2, 4, size=shape) if integers else rng.normal(size=shape)
    return np.where(rng.uniform(size=shape) < share, values, 0.0)


# What can go wrong in a kernel: one problem each.
PROBLEMS = {
    "ordinary": {},
    "one of everything": {"n_samples": 2, "n_features": 1, "n_experts": 1, "n_classes": 1},
    "dense pattern": {"connected": 1.0, "outputs": 1.0, "fill": 1.0},
    "sparse pattern": {"n_features": 60, "n_experts": 20, "connected": 0.05, "fill": 0.2},
    "nothing in X": {"fill": 0.0},
    "nothing connected": {"connected": 0.0, "outputs": 0.0},
    "two experts": {"n_experts": 2, "n_classes": 2},
    "two experts, all connected": {"n_experts": 2, "n_classes": 2, "connected": 1.0},
    "one expert": {"n_experts": 1},
    "one expert, all connected": {"n_experts": 1, "connected": 1.0},
    "few experts, many classes": {"n_experts": 2, "n_classes": 17, "outputs": 1.0},
    "classes that no expert speaks about": {"n_experts": 9, "n_classes": 30, "outputs": 0.05},
    "ties": {"ties": True, "n_experts": 12, "connected": 0.3},
    "every score positive": {"shift": 8.0},
    "some rows with nothing kept": {"shift": -1.0},
    "nothing kept": {"shift": -1000.0},
    "duplicated entries": {"duplicates": True},
    "more rows than are looked at together": {"n_samples": 75},
}


def draw_nested_arguments(problem, top_ks, batch_size, *, seed=0, scale=0.5):
    """Arguments of ``nested_epoch`` for a problem; its parameters are copied.

    The rows are visited in random order, some of them twice, with steps of different lengths;
    each mini-batch keeps one of ``top_ks`` experts.
    """
    rng = np.random.RandomState(seed)
    n = problem.n_samples
    order = np.concatenate([rng.permutation(n), rng.randint(n, size=n // 2)])
    dtype = problem.parameters.dtype
    steps = rng.uniform(0.0, 0.2, size=n).astype(dtype)
    grids = np.resize(np.array(top_ks, np.int64), -(-len(order) // batch_size))
    model = problem.parameters.copy()
    model.router.data[:] /= dtype.type(scale)
    return (
        problem.X, order, problem.labels, steps, csr_parts(model.router), csr_parts(model.expert),
        model.intercepts, grids, batch_size, (0.25, 0.5, 0.03, scale), problem.multilabel,
    )  # fmt: skip


def run_nested_epoch(engine, arguments):
    """Run an engine; returns (arrays in `ModelParameters` order, loss), as the twin does."""
    router, expert, (router_intercept, intercept) = arguments[4:7]
    scale, loss = engine.nested_epoch(*arguments)
    return (scale * router[2], router_intercept, expert[2], intercept), loss


def draw_linear_arguments(problem, batch_size, *, full_batch=False, seed=0):
    """Arguments of ``linear_epoch`` for a problem, on the pattern of its router."""
    rng = np.random.RandomState(seed)
    n, dtype = problem.n_samples, problem.parameters.dtype
    rows = [row_entries(problem.X, i) for i in range(n)]
    squares = np.array([sum(x * x for _, x in row) for row in rows])
    weight = rng.randint(1, 4, size=n) / 2
    total = float(weight.sum())
    own = rng.uniform(size=(n, problem.n_experts)) < 0.3
    own = sparse.csr_array(own.astype(float))
    router = problem.router
    clock = StepClock(
        seen=7.0,
        numerator=2.0 * total,
        offset=3.0 * total,
        crowd_row=0.0 if full_batch else 1.3,
        crowd_batch=0.2 * total if full_batch else 0.0,
        bias_feature=0.6,
    )
    return (
        problem.X,
        (rng.permutation(n), squares.astype(dtype), weight.astype(dtype)),
        (own.indptr, own.indices),
        router[:2],
        rng.normal(scale=0.1, size=len(router[2])).astype(dtype),
        rng.normal(scale=5.0, size=problem.n_experts).astype(dtype),
        tuple(clock),
        batch_size,
    )


def run_linear_epoch(engine, arguments):
    """Run an engine on copies; returns (weights, bias), as the twin does."""
    values, bias = arguments[4].copy(), arguments[5].copy()
    scale = engine.linear_epoch(*arguments[:4], values, bias, *arguments[6:])
    return scale * values, bias


def draw_embedding_arguments(problem, n_drawn, batch_size, *, rank=3, seed=0):
    """Arguments of ``embedding_epoch`` for a problem, whose experts are the labels.

    One row is not visited, some have no weight. There are two draws of experts, of which the
    first two of the first one are the same, that of a row of the batch; ``n_drawn=0`` is one
    draw of all experts.
    """
    rng = np.random.RandomState(seed)
    (n, m), dtype = problem.parameters.router.shape, problem.parameters.dtype
    labels = rng.randint(m, size=problem.n_samples).astype(np.int32)
    order = rng.permutation(problem.n_samples)[1:]
    weight = rng.randint(4, size=problem.n_samples) / 2
    drawn = rng.randint(m, size=(2, n_drawn)) if n_drawn else np.arange(m)[None]
    if n_drawn:
        drawn[0, :2] = labels[order[0]]
    view = SharedView(
        *(rng.normal(size=shape).astype(dtype) for shape in ((n, rank), (m, rank), m))
    )
    squares = tuple(rng.uniform(0.01, 0.5, size=len(part)).astype(dtype) for part in view)
    rates = 0.7, 0.1, (np.log(m / n_drawn) if n_drawn else 0.0)
    return (
        problem.X, (order, weight.astype(dtype)), labels, view, squares, drawn, rates, batch_size
    )  # fmt: skip


def run_embedding_epoch(engine, arguments):
    """Run an engine on copies; returns (*view, *squares), as the twin does."""
    view = SharedView(*(part.copy() for part in arguments[3]))
    squares = tuple(part.copy() for part in arguments[4])
    engine.embedding_epoch(*arguments[:3], view, squares, *arguments[5:])
    return *view, *squares


def run_logits(engine, problem, top_k, first=0, last=None, *, write="logits"):
    """Logits (or what else ``write`` names) that an engine computes for some rows."""
    last = problem.n_samples if last is None else last
    parameters = problem.parameters
    out = np.full((last - first, len(parameters.intercept)), np.nan, parameters.dtype)
    getattr(engine, write)(
        problem.X, first, last, problem.router, problem.expert, parameters.intercepts, top_k, out
    )
    return out


def run_codes(engine, problem, top_k, rows=None, sharpness=1.0):
    """Codes that an engine computes for rows, all by default, as the twin gives them."""
    rows = np.arange(problem.n_samples) if rows is None else np.array(rows)
    top_k = min(top_k, problem.n_experts)
    shape = len(rows), top_k
    kept, weights = np.zeros(shape, np.int64), np.zeros(shape, problem.parameters.dtype)
    counts = np.zeros(len(kept), np.int64)
    router_intercept = problem.parameters.router_intercept
    engine.codes(
        problem.X, rows, problem.router, router_intercept, sharpness, top_k, kept, weights, counts
    )
    return [
        dict(zip(kept[r, :n].tolist(), weights[r, :n].tolist(), strict=True))
        for r, n in enumerate(counts)
    ]


def prepare_training(X, y, sample_weight=None, **parameters):
    """What `SparseExpertClassifier(**parameters).fit` hands to training: (data, settings)."""
    model = SparseExpertClassifier(**parameters)
    with patch.object(_training, "train", side_effect=InterruptedError) as train:
        try:
            model.fit(X, y, sample_weight)
        except InterruptedError:
            data, settings, *_ = train.call_args.args
    return data, settings
