"""Slow, plain twins of everything that the engines compute.

Loops over numbers in float64, one formula a line: written to be read, not to be fast. They take
the arguments of the engines and change none of them. They hold the router weights as they are,
where the engines hold them as ``scale * values``.
"""

from math import exp, log
from typing import NamedTuple

import numpy as np

from skparse._engines.arguments import AdamMoments, Csr, DenseRouter, LowRankTerm, ModelArrays


def row_entries(matrix, i):
    """Pairs (column, value) of row ``i`` of a `Csr` matrix."""
    indptr, indices, data = matrix
    return [(int(indices[t]), float(data[t])) for t in range(indptr[i], indptr[i + 1])]


def row_columns(pattern, i):
    """Columns of row ``i`` of a `Pattern`."""
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


def class_logits(kept, weights, outputs, intercept):
    """``W h_sparse + b2``."""
    z = [float(b) for b in intercept]
    for e, weight in zip(kept, weights, strict=True):
        for c, output in row_entries(outputs, e):
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


def logits(X, rows, model, top_k):
    """Logits of ``rows``, an array (n_rows, n_classes)."""
    out = []
    for i in rows:
        h = scores(X, i, model.router, model.router_intercept)
        kept = kept_experts(h, top_k)
        out.append(class_logits(kept, gate(h, kept), model.outputs, model.intercept))
    return np.array(out).reshape(len(rows), len(model.intercept))


def route(X, rows, router, router_intercept, sharpness, top_k):
    """Gate weights of ``rows``: a list of dicts from kept expert to weight, largest first."""
    out = []
    for i in rows:
        h = scores(X, i, router, router_intercept)
        kept = kept_experts(h, top_k)
        out.append(dict(zip(kept, gate(h, kept, sharpness), strict=True)))
    return out


def linear_epoch(X, rows, targets, ignored, margins, bias, schedule, batch_size):
    """One epoch of implicit one-vs-rest steps; returns (values of the margins, bias).

    Every batch: all margins first, then the L2 shrinkage, then the steps of all its rows. The
    ignored experts of a row take no step.
    """
    order, squared_norms, sample_weight = rows
    weights, bias = [float(w) for w in margins.data], [float(b) for b in bias]
    seen, x0 = schedule.seen, schedule.bias_feature
    for first in range(0, len(order), batch_size):
        batch = [int(i) for i in order[first : first + batch_size]]
        rate = schedule.numerator / (seen + schedule.offset)
        steps = []
        for i in batch:
            h = scores(X, i, margins._replace(data=weights), [b * x0 for b in bias])
            own, others = row_columns(targets, i), row_columns(ignored, i)
            w = float(sample_weight[i])
            norm = float(squared_norms[i]) + x0 * x0
            crowding = schedule.row_crowding * w + schedule.batch_crowding
            for e, margin in enumerate(h):
                if e in others:
                    continue
                sign = 1.0 if e in own else -1.0
                violation = max(1 - sign * margin, 0.0)
                length = 2 * rate * w * violation / (1 + 2 * rate * norm * crowding)
                steps.append((i, e, sign * min(length, 4 * rate * w)))
        batch_weight = sum(float(sample_weight[i]) for i in batch)
        seen += batch_weight
        weights = [value * (1 - batch_weight / (seen + schedule.offset)) for value in weights]
        for i, e, step in steps:
            bias[e] += x0 * step
            for j, x in row_entries(X, i):
                for p in range(margins.indptr[j], margins.indptr[j + 1]):
                    if margins.indices[p] == e:
                        weights[p] += x * step
    return np.array(weights), np.array(bias)


class Gradients(NamedTuple):
    """Derivatives of a weighted sum of losses by the four arrays of numbers of a model."""

    router: np.ndarray
    router_intercept: np.ndarray
    outputs: np.ndarray
    intercept: np.ndarray


def numbers_of(model):
    """Return the four arrays of numbers of `ModelArrays`."""
    return model.router.data, model.router_intercept, model.outputs.data, model.intercept


def gradients(X, batch, labels, row_weights, model, top_k, multilabel):
    """Gradients of ``sum(row_weights[i] * loss of row i)`` over a batch, and its losses.

    Returns (Gradients, list of the losses).
    """
    router, router_intercept, outputs, intercept = model
    sums = Gradients(*(np.zeros(len(array)) for array in numbers_of(model)))
    losses = []
    for i in batch:
        h = scores(X, i, router, router_intercept)
        kept = kept_experts(h, top_k)
        weights = gate(h, kept)
        z = class_logits(kept, weights, outputs, intercept)
        own = row_columns(labels, i)
        losses.append(loss_of_row(z, own, multilabel))
        by_logit = [
            float(row_weights[i]) * (p - (c in own))
            for c, p in enumerate(probabilities(z, multilabel))
        ]
        sums.intercept[:] += by_logit
        by_gate = []
        for e, weight in zip(kept, weights, strict=True):
            for p in range(outputs.indptr[e], outputs.indptr[e + 1]):
                sums.outputs[p] += weight * by_logit[outputs.indices[p]]
            by_gate.append(sum(output * by_logit[c] for c, output in row_entries(outputs, e)))
        mean = sum(g * d for g, d in zip(weights, by_gate, strict=True))
        by_score = {
            e: weight * (derivative - mean)
            for e, weight, derivative in zip(kept, weights, by_gate, strict=True)
        }
        for e, derivative in by_score.items():
            sums.router_intercept[e] += derivative
        for j, x in row_entries(X, i):
            for p in range(router.indptr[j], router.indptr[j + 1]):
                sums.router[p] += x * by_score.get(int(router.indices[p]), 0.0)
    return sums, losses


def nested_epoch(X, rows, model, batch_top_k, options, multilabel):
    """One epoch of mini-batch gradient steps; returns (the numbers of the model, loss).

    The first array holds the router weights themselves, ``scale * values`` of the engines.
    """
    weights, b1, outputs, b2 = (np.array(array, float) for array in numbers_of(model))
    size, loss = options.batch_size, 0.0
    for b, top_k in enumerate(batch_top_k):
        batch = rows.order[b * size : (b + 1) * size]
        current = ModelArrays(
            Csr(*model.router[:2], weights), b1, Csr(*model.outputs[:2], outputs), b2
        )
        gradient, losses = gradients(
            X, batch, rows.labels, rows.step_lengths, current, top_k, multilabel
        )
        loss += sum(losses)
        weights = (1 - options.shrinkage) * weights - gradient.router
        b1 = b1 - options.bias_square * gradient.router_intercept
        outputs = outputs - options.output_rate * gradient.outputs
        b2 = b2 - options.output_rate * gradient.intercept
    return (weights, b1, outputs, b2), loss


def embedding_epoch(X, rows, term, squared_gradients, drawn_experts, options):
    """One epoch of softmax regression on sums of feature vectors.

    Every batch: all residuals first, then the squares, then the steps. The squared gradients of
    a feature are those of its entries, one by one; those of an expert are of the whole batch.
    Returns (LowRankTerm, its squared gradients as a LowRankTerm).
    """
    order, sample_weight, labels = rows
    batch_size, unit, rate, correction = options
    features, vectors, bias = (np.array(part, float) for part in term)
    of_features, of_vectors, of_biases = (np.array(part, float) for part in squared_gradients)
    for b in range(-(-len(order) // batch_size)):
        batch = [int(i) for i in order[b * batch_size : (b + 1) * batch_size]]
        own = {int(labels[i]) for i in batch}
        others = {int(c) for c in drawn_experts[b % len(drawn_experts)]} - own
        by_vector, by_bias = np.zeros_like(vectors), np.zeros_like(bias)
        steps = []
        for i in batch:
            entries = [(j, unit * x) for j, x in row_entries(X, i)]
            total = sum((x * features[j] for j, x in entries), np.zeros(vectors.shape[1]))
            experts = sorted(own | others)
            z = [
                total @ vectors[e] + bias[e] + (correction if e in others else 0.0)
                for e in experts
            ]
            by_total = np.zeros_like(total)
            for e, probability in zip(experts, softmax(z), strict=True):
                residual = float(sample_weight[i]) * (probability - (e == labels[i]))
                by_vector[e] += residual * total
                by_bias[e] += residual
                by_total += residual * vectors[e]
            steps += [(j, x * by_total) for j, x in entries]
        for j, gradient in steps:
            of_features[j] += np.mean(gradient**2)
        for j, gradient in steps:
            features[j] -= rate / np.sqrt(of_features[j]) * gradient
        for e in own | others:
            of_vectors[e] += np.mean(by_vector[e] ** 2)
            vectors[e] -= rate / np.sqrt(of_vectors[e]) * by_vector[e]
            of_biases[e] += by_bias[e] ** 2
            bias[e] -= rate / np.sqrt(of_biases[e]) * by_bias[e]
    return LowRankTerm(features, vectors, bias), LowRankTerm(of_features, of_vectors, of_biases)


def mixture_gradients(X, batch, rows, class_starts, router):
    """Gradients of the weighted mixture losses of a batch, and its weighted loss.

    The loss of a row is ``-log(sum of softmax(h) over the experts of its class)``.
    Returns (DenseRouter, loss).
    """
    weights, bias = router
    by_weight, by_bias, loss = np.zeros_like(weights), np.zeros_like(bias), 0.0
    for i in batch:
        x, weight, c = np.array(X[i], float), float(rows.sample_weight[i]), rows.classes[i]
        h = [float(b) + sum(x * weights[:, e]) for e, b in enumerate(bias)]
        own = range(class_starts[c], class_starts[c + 1])
        largest = max(h)
        largest_own = max(h[e] for e in own)
        total = sum(exp(value - largest) for value in h)
        own_total = sum(exp(h[e] - largest_own) for e in own)
        loss += weight * (largest + log(total) - largest_own - log(own_total))
        for e, value in enumerate(h):
            residual = exp(value - largest) / total
            if e in own:
                residual -= exp(value - largest_own) / own_total
            by_bias[e] += weight * residual
            by_weight[:, e] += weight * residual * x
    return DenseRouter(by_weight, by_bias), loss


def dense_epoch(X, rows, class_starts, router, moments, options):
    """One epoch of Adam on the mixture loss; returns (DenseRouter, AdamMoments, loss)."""
    parts = [np.array(part, float) for part in router]
    means, squares = ([np.array(part, float) for part in moment] for moment in moments)
    size, loss = options.batch_size, 0.0
    for b, rate in enumerate(options.rates):
        batch = rows.order[b * size : (b + 1) * size]
        gradients, batch_loss = mixture_gradients(
            X, batch, rows, class_starts, DenseRouter(*parts)
        )
        loss += batch_loss
        step = options.n_steps + b + 1
        for k, penalty in enumerate((options.penalty, 0.0)):  # none on the biases
            gradient = gradients[k] / size + penalty * parts[k]
            means[k] = options.mean_decay * means[k] + (1 - options.mean_decay) * gradient
            squares[k] = (
                options.square_decay * squares[k] + (1 - options.square_decay) * gradient**2
            )
            mean = means[k] / (1 - options.mean_decay**step)
            square = squares[k] / (1 - options.square_decay**step)
            parts[k] = parts[k] - rate * mean / (np.sqrt(square) + options.epsilon)
    moments = AdamMoments(DenseRouter(*means), DenseRouter(*squares))
    return DenseRouter(*parts), moments, loss


def relevance_of(mass, load, entropy, smoothing, options):
    """Square of the relevance of a feature, from its mass with each expert."""
    if entropy <= 0:
        return 1.0
    divergence, unseen, left = 0.0, 1.0, smoothing / (sum(mass) + smoothing)
    for own, weight in zip(mass, load, strict=True):
        expected = weight / sum(load)
        if own > 0 and weight > 0:
            ratio = own / (sum(mass) + smoothing) / expected + left
            divergence += expected * ratio * np.log(ratio)
            unseen -= expected
    divergence += max(unseen, 0) * left * np.log(left)
    return (max(divergence, 0) / entropy + options.relevance_floor) ** (
        2 * options.relevance_power
    )


def stream_epoch(X, rows, tables, experts, totals, options):
    """Learn from the rows of a stream one after another; all arrays but X change in place."""
    weights, mass, facts = tables
    bias, load, first_seen, n_kept = experts
    for i, weight in enumerate(rows.sample_weight):
        weight, entries = float(weight), list(row_entries(X, i))
        targets = set(row_columns(rows.targets, i))
        kept = np.exp(-options.forgetting * weight)
        totals[0] += weight
        now = totals[0]
        sums = 1, len(entries), sum(abs(x) for _, x in entries)
        for place, value in enumerate(sums, start=1):
            totals[place] = kept * totals[place] + weight * value
        totals[4], totals[5] = kept * totals[4], kept * totals[5]
        for e in range(len(load)):
            load[e] *= kept
            if e in targets:
                first_seen[e] = now - weight if load[e] == 0 else first_seen[e]
                load[e] += weight
        if now > totals[11]:
            shares = [share / sum(load) for share in load if share > 0]
            totals[10] = -sum(share * np.log(share) for share in shares)
            totals[11] = 1.02 * now
        smoothing = options.relevance_smoothing * totals[3] / max(totals[2], 1e-300)
        for j, x in entries:
            if options.forgetting > 0:
                share = np.exp(-options.forgetting * (now - facts[j, 4]))
                facts[j, [0, 1, 3]] *= share
                mass[j] *= share
            facts[j, 1], facts[j, 4] = facts[j, 1] + weight, now
            sign = np.sign(x)
            facts[j, 5] = sign if facts[j, 5] in (0, sign) else 2
            for e in targets:
                mass[j, e] += weight * abs(x)
            if facts[j, 1] > options.relevance_growth * facts[j, 3]:
                facts[j, 2] = relevance_of(mass[j], load, totals[10], smoothing, options)
                facts[j, 3] = facts[j, 1]
        totals[4] += weight * sum(facts[j, 2] * x * x for j, x in entries)
        relevant = {j: facts[j, 2] * x * totals[1] / totals[4] for j, x in entries}
        margins = [
            bias[e] + sum(relevant[j] * weights[j, e] for j, _ in entries)
            for e in range(len(bias))
        ]
        ranked = sorted(range(len(bias)), key=lambda e: (-margins[e], e))[: options.top_k]
        for e in ranked:
            n_kept[e] += margins[e] > -options.shift
        positive = totals[6] + totals[7]
        ridge = options.ridge * options.alpha
        if options.alpha == 0:
            ridge = options.ridge + options.ridge_per_error * totals[6] / max(positive, 1e-300)
        constant = min(1.0, totals[1] / max(totals[2], 1e-300))
        totals[5] += weight * constant
        for j, x in entries:
            facts[j, 0] += weight * relevant[j] * x
        agreed, against = 0.0, 0.0
        for e, margin in enumerate(margins):
            sign = 1 if e in targets else -1
            gap = max(0.0, 1 - sign * margin)
            totals[9] += weight * gap * gap
            agreed += max(margin, 0) ** 2 * (sign > 0)
            against += max(margin, 0) ** 2 * (sign < 0)
            begun = first_seen[e] / now
            share = 1 - begun if begun > 0.5 else 1.0
            steps = {j: x * (1 + share * facts[j, 0]) ** -0.75 for j, x in entries}
            of_bias = constant * (1 + share * totals[5]) ** -0.75
            norm = of_bias + sum(steps[j] * relevant[j] for j, _ in entries)
            step = sign * weight * gap / (weight * norm + ridge)
            bias[e] += of_bias * step
            for j, _ in entries:
                weights[j, e] += steps[j] * step
        totals[8] = min(totals[8] + 1, options.error_window)
        totals[6] += (against - totals[6]) / totals[8]
        totals[7] += (agreed - totals[7]) / totals[8]
