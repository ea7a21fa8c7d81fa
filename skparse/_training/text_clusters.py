"""Stages that give a class several experts: each sample belongs to one, that of its cluster.

Experts of one class that have the same samples become alike, and the model stays linear. Experts
that have the samples of one cluster of the class each learn what is special to it. In the
one-vs-rest loss of a sample, the other experts of its classes (siblings) are ignored.
"""

import heapq
from copy import deepcopy
from dataclasses import replace

import numpy as np
from scipy import sparse
from scipy.special import log_softmax

from .._csr import with_smallest_index_dtype, with_values
from .._predictor import Predictor
from .connections import connect
from .data import build_training_data
from .held_out import MIN_SAMPLES, SCORE_FACTORS
from .linear import run_linear, start_linear
from .penalty import DENSE_MARGINS
from .problem import Draft
from .scores import multiply_scores

# Chosen by cross-validation on training parts; docs/design/ has the record.
EXPERTS_PER_CLASS = 8  # that "auto" tries
ITERATIONS = 8  # of k-means
DENSE_CENTROIDS = 2**24  # numbers at most
# The trial runs on so many nonzeros at most, and needs so many samples per expert.
TRIAL_NONZEROS = 250_000
TRIAL_EPOCHS = 4
TRIAL_ALPHAS = 1.0, 9.0
TRIAL_HELD_OUT = 0.2
MIN_SAMPLES_PER_EXPERT = 40
# Standard errors by which the held-out loss has to fall, paired by samples, and the mean by which
# it has to fall at least.
MIN_GAIN = 2.5
MIN_MEAN_GAIN = 0.01


def choose_experts(problem, draft):
    """Split the classes into several experts each, if the user wishes it or a trial gains."""
    options, data = problem.options, draft.data
    n_samples, n_classes = data.labels.shape
    if options.n_experts is not None:
        if options.n_experts <= n_classes:
            return draft
        return replace(draft, data=split_classes(data, options.n_experts, problem.random_state))
    n_experts = EXPERTS_PER_CLASS * n_classes
    n_trial = min(n_samples, TRIAL_NONZEROS * n_samples // max(1, data.X.nnz))
    is_large_enough = n_trial >= max(MIN_SAMPLES, MIN_SAMPLES_PER_EXPERT * n_experts)
    if options.multilabel or not is_large_enough or options.weight_density is not None:
        return draft
    rows = deepcopy(problem.random_state).permutation(n_samples)[:n_trial]
    parts = data.X[rows], data.labels[rows], data.sample_weight[rows], data.class_experts
    part = build_training_data(*parts, binary=data.binary)
    split = split_classes(part, n_experts, deepcopy(problem.random_state))
    gains = least_trial_losses(problem, draft, part) - least_trial_losses(problem, draft, split)
    error = gains.std() / np.sqrt(len(gains))
    if not gains.mean() > max(MIN_GAIN * error, MIN_MEAN_GAIN):
        return draft
    return replace(draft, data=split_classes(data, n_experts, problem.random_state))


def least_trial_losses(problem, draft, data):
    """Losses of the held-out samples with the penalty of `TRIAL_ALPHAS` that has the least sum.

    Where labels are wrong, several experts of a class may replace a stronger penalty.
    """
    alphas = TRIAL_ALPHAS if problem.options.alpha is None else (draft.alpha,)
    tried = [trial_losses(problem, replace(draft, alpha=alpha), data) for alpha in alphas]
    return min(tried, key=np.sum)


def trial_losses(problem, draft, data):
    """Log-loss plus error of each held-out sample after a few linear epochs on the others."""
    n_held_out = int(TRIAL_HELD_OUT * data.X.shape[0])
    held_out = np.arange(data.X.shape[0]) < n_held_out
    problem = replace(problem, data=data, random_state=deepcopy(problem.random_state))
    draft = Draft(data=data, scaling=draft.scaling, alpha=draft.alpha, held_out=held_out)
    draft = start_linear(problem, connect(problem, draft))
    draft = replace(draft, orders=(draft.orders[0][:TRIAL_EPOCHS], []))
    model, scaling = run_linear(problem, draft).model, draft.scaling
    model = multiply_scores(model, scaling.score_factor, scaling.output_factor)
    top_k = min(problem.options.top_k, len(model.router_intercept))
    predictor = Predictor(model, problem.engine, problem.options.n_threads)
    codes = predictor.code_block(draft.data.X, 0, n_held_out, top_k).astype(np.float64)
    logits, labels = (codes @ model.outputs).toarray(), data.labels[:n_held_out].indices
    rows = np.arange(n_held_out)
    losses = [-log_softmax(f * logits, axis=1)[rows, labels] for f in SCORE_FACTORS]
    weight = data.sample_weight[:n_held_out] / data.sample_weight[:n_held_out].mean()
    best = min(losses, key=lambda loss: (weight * loss).sum())
    return weight * (best + (logits.argmax(axis=1) != labels))


def split_classes(data, n_experts, random_state):
    """Divide ``n_experts`` over the classes and cluster the samples of each; returns the data.

    The larger the sample weight of a class, the more experts it gets; it has at least one.
    """
    n_classes = data.labels.shape[1]
    samples_of_class = data.labels.T.tocsr()
    counts = samples_of_class @ data.sample_weight.astype(np.float64)
    n_clusters = np.ones(n_classes, np.int64)
    # The next expert goes to the class with the most samples per expert.
    heap = [(-count / 2, c) for c, count in enumerate(counts)]
    heapq.heapify(heap)
    for _ in range(n_experts - n_classes):
        _, c = heap[0]
        n_clusters[c] += 1
        heapq.heapreplace(heap, (-counts[c] / (n_clusters[c] + 1), c))
    experts, edges = [], samples_of_class.indptr
    direction = random_state.normal(size=data.X.shape[1]).astype(data.X.dtype)
    for c, first in enumerate(np.cumsum(n_clusters) - n_clusters):
        rows = samples_of_class.indices[edges[c] : edges[c + 1]]
        weight = data.sample_weight[rows]
        experts.append(first + cluster_rows(data.X[rows], weight, n_clusters[c], direction))
    indptr = np.concatenate([[0], np.cumsum(n_clusters)])
    parts = np.ones(n_experts), np.arange(n_experts), indptr
    class_experts = sparse.csr_array(parts, shape=(n_classes, n_experts))
    entries = np.ones(data.labels.nnz), (samples_of_class.indices, np.concatenate(experts))
    shape = data.labels.shape[0], n_experts
    return with_experts(data, class_experts, sparse.csr_array(entries, shape=shape))


def cluster_rows(X, weight, n_clusters, direction):
    """Cluster rows by spherical k-means; returns the cluster of each, (n_rows,).

    It begins with parts of equal weight along a random ``direction`` (n_features,). So a row of
    weight two is clustered as two equal rows are, in any order of the rows.
    """
    n_rows = X.shape[0]
    if n_clusters == 1 or n_rows == 0:
        return np.zeros(n_rows, np.int64)
    weight = weight / weight.max()
    norms = np.sqrt(with_values(X, X.data**2).sum(axis=1))
    norms = np.maximum(norms, np.finfo(X.dtype).tiny)
    places, group = np.unique((X @ direction) / norms, return_inverse=True)
    totals = np.cumsum(np.bincount(group, weight))
    middle = (np.concatenate([[0], totals[:-1]]) + totals) / (2 * totals[-1])
    # Beside a huge weight, the middle of a small one is rounded to 1.
    clusters = np.minimum(np.floor(n_clusters * middle), n_clusters - 1).astype(np.int64)[group]
    # Only the features that the rows have, so that the centroids are small.
    features, indices = np.unique(X.indices, return_inverse=True)
    X = sparse.csr_array((X.data, indices, X.indptr), shape=(n_rows, len(features)))
    for _ in range(ITERATIONS):
        parts = weight / norms, clusters, np.arange(n_rows + 1)
        members = sparse.csr_array(parts, shape=(n_rows, n_clusters))
        centroids = (members.T.tocsr() @ X).tocsr()
        lengths = np.sqrt(with_values(centroids, centroids.data**2).sum(axis=1))
        lengths = np.maximum(lengths, np.finfo(X.dtype).tiny)
        centroids.data /= np.repeat(lengths, np.diff(centroids.indptr))
        centroids = centroids.T.tocsr()
        if len(features) * n_clusters <= DENSE_CENTROIDS:  # faster
            centroids = centroids.toarray()
        clusters = (X @ centroids).argmax(axis=1)
    return clusters


def assign_experts(problem, draft):
    """Give the samples of a fitted model, or of a stream, to one of the experts of their classes.

    It is the one with the highest score. Without a model, the classes are split.
    """
    data, model = draft.data, draft.model
    n_classes, n_experts = data.class_experts.shape
    if model is None:
        wanted = problem.options.n_experts or 0
        if wanted <= n_classes:
            return draft
        return replace(draft, data=split_classes(data, wanted, problem.random_state))
    if n_experts <= n_classes:
        return draft
    is_own = data.class_experts.toarray() > 0
    rows = np.repeat(np.arange(data.X.shape[0]), np.diff(data.labels.indptr))
    experts, size = [], max(1, DENSE_MARGINS // n_experts)
    for first in range(0, len(rows), size):
        part = slice(first, first + size)
        scores = (data.X[rows[part]] @ model.router).toarray() + model.router_intercept
        scores[~is_own[data.labels.indices[part]]] = -np.inf
        experts.append(scores.argmax(axis=1))
    entries = np.ones(len(rows)), (rows, np.concatenate(experts))
    shape = data.X.shape[0], n_experts
    return replace(
        draft, data=with_experts(data, data.class_experts, sparse.csr_array(entries, shape=shape))
    )


def with_experts(data, class_experts, sample_experts):
    """Return the data with one expert per sample and class; the others become siblings."""
    class_experts, sample_experts = map(with_smallest_index_dtype, (class_experts, sample_experts))
    siblings = (data.labels @ class_experts - sample_experts).tocsr()
    siblings.eliminate_zeros()
    weight = np.repeat(data.sample_weight, np.diff(sample_experts.indptr)).astype(np.float64)
    load = np.bincount(sample_experts.indices, weight, minlength=class_experts.shape[1])
    return replace(
        data,
        class_experts=class_experts,
        sample_experts=sample_experts,
        siblings=siblings,
        exposure=data.exposure._replace(expert=load),
        binary=False,
    )
