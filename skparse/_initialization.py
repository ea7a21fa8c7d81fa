"""Experts from data: which features an expert reads, and what it votes for.

The pattern connects a feature to the experts of the classes it occurs in, and a frequent
feature also to the classes from which it is surprisingly absent. `skparse._linear_start`
trains the weights on that pattern; here its margins become the scores of the router.
"""

from typing import NamedTuple

import numpy as np
from scipy import sparse

from ._parameters import ModelParameters, inner, row_blocks, with_values

# Chosen by held-out accuracy on training parts of ten text sets (docs/design.md).
# Margin at the start per unit of log-odds and nonzero of typical size: the longer the texts,
# the more naive Bayes has to say. With rows kept apart, so many times the slope of the least
# squares fit of their targets, within limits.
PRIOR_STRENGTH = 0.12
PRIOR_SLOPES = 7.0
PRIOR_LIMITS = 0.03, 0.2
PRIOR_SMOOTHING = 0.1  # pseudo mass per feature, in units of the row norm
# Relevance of a feature: (information + floor) ** power, smoothed with samples of all classes.
RELEVANCE_SMOOTHING = 12.0
RELEVANCE_FLOOR = 0.1
RELEVANCE_POWER = 0.35
# Expected samples of a class from which an absence is evidence: 1, and fewer from 20 experts on,
# where the pattern is a smaller part of the dense one.
ABSENCE_COUNT = 1.0
LOWEST_ABSENCE_COUNT = 0.4
NEXT_TO_NOTHING = 1e-30  # connects without telling anything
FEATURE_DROPOUT = 0.1  # share of the features hidden from each expert of a shared class


class ScoreMap(NamedTuple):
    """How linear margins become a model: router scores, expert outputs and b2."""

    scale: float  # router score of one unit of margin
    shift: float  # a score passes the ReLU where its margin is above -shift
    gain: float  # output of an expert for its own classes
    threshold: float  # gate weight at which a logit is zero
    sharper_scores: float  # factor on the router after training
    sharper_outputs: float  # factor on the outputs after training


def choose_score_map(n_classes, multilabel):
    """Constants of the `ScoreMap`, chosen by held-out accuracy and log-loss (docs/design.md).

    Training likes flat scores and small gains, which keep a gradient on every sample;
    calibrated probabilities want sharper ones, so both are raised after training. The labels
    of a multilabel sample share the gate, so its scores are flatter still.
    """
    if multilabel:
        return ScoreMap(1.0, 0.5, 6.0, 0.15, 1.0, 5.0)
    gain = 2.0 + np.log(max(n_classes, 2))
    return ScoreMap(3.0, 1.0, gain, 0.0, 5 / 3, (gain + 2.0) / gain)


def experts_of_classes(n_experts, n_classes):
    """Connect classes and experts: a CSR array (n_classes, n_experts) of ones.

    With at least as many experts as classes, expert e belongs to class e mod n_classes.
    With fewer, every class shares two experts with others, a different pair for each class
    as long as there are pairs.
    """
    if n_experts >= n_classes:
        experts = np.arange(n_experts)
        classes = experts % n_classes
    else:
        first = np.arange(n_classes) % n_experts
        second = (first + 1 + np.arange(n_classes) // n_experts) % n_experts
        classes = np.tile(np.arange(n_classes), 2)
        experts = np.concatenate([first, second])
    ones = np.ones(len(experts))
    pairs = sparse.csr_array((ones, (classes, experts)), shape=(n_classes, n_experts))
    pairs.data[:] = 1.0
    return in_small_integers(pairs)


def feature_sums(X, sample_weight, row_experts):
    """Weighted sum of every feature's absolute values over the rows of every expert.

    Returns a CSR array (n_features, n_experts) that stores the pairs that occur together.
    """
    weight = np.repeat(sample_weight, np.diff(row_experts.indptr)).astype(X.dtype)
    by_expert = with_values(row_experts, weight).T.tocsr()
    magnitudes = X if X.nnz == 0 or X.data.min() >= 0 else with_values(X, np.abs(X.data))
    sums = (by_expert @ magnitudes).T.tocsr()
    return sparse.csr_array(sums)


class Exposure(NamedTuple):
    """Sample weight that features and experts have been seen with."""

    feature: np.ndarray  # (n_features,)
    expert: np.ndarray  # (n_experts,)
    total: float

    def plus(self, other):
        """Add two exposures."""
        return Exposure(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


def measure_exposure(data):
    """Measure the `Exposure` of training data."""
    return Exposure(
        _weight_per_column(data.X, data.sample_weight),
        _weight_per_column(data.row_experts, data.sample_weight),
        data.total_weight,
    )


def _weight_per_column(matrix, row_weight):
    """Sum the weights of the rows that store an entry in each column."""
    totals = np.zeros(matrix.shape[1])
    for first, last in row_blocks(matrix.indptr, max(2**20, matrix.shape[1])):
        indptr = matrix.indptr[first : last + 1]
        weight = np.repeat(row_weight[first:last].astype(np.float64), np.diff(indptr))
        indices = matrix.indices[indptr[0] : indptr[-1]]
        totals += np.bincount(indices, weight, minlength=matrix.shape[1])
    return totals


def choose_absence_count(n_experts):
    """Choose from how many expected samples on an absence is connected."""
    return max(LOWEST_ABSENCE_COUNT, min(ABSENCE_COUNT, 20 / n_experts))


def with_absences(sums, exposure, count):
    """Add the pairs (feature, expert) with at least ``count`` expected samples to ``sums``.

    They enter with next to nothing: the feature was never seen with the expert, although
    it would have been if the two were independent. Features without an entry in ``sums``
    get none.
    """
    by_size = np.argsort(-exposure.expert, kind="stable")
    needed = np.full(sums.shape[0], np.inf)
    seen = np.diff(sums.indptr) > 0
    needed[seen] = count * exposure.total / exposure.feature[seen]
    reach = np.searchsorted(-exposure.expert[by_size], -needed, side="right")
    # Kernels read a feature that is connected to all experts faster than one with most.
    reach[2 * np.maximum(reach, np.diff(sums.indptr)) > sums.shape[1]] = sums.shape[1]
    indptr = np.concatenate([[0], np.cumsum(reach)])
    index = sparse.get_index_dtype(maxval=indptr[-1])
    position = np.arange(indptr[-1], dtype=index)
    position -= np.repeat(indptr[:-1].astype(index), reach)
    values = np.full(len(position), NEXT_TO_NOTHING, dtype=sums.dtype)
    parts = values, by_size.astype(index)[position], indptr.astype(index)
    expected = sparse.csr_array(parts, shape=sums.shape)
    expected.sort_indices()
    return sums + expected


def drop_features(sums, class_experts, share, random_state):
    """Hide a random ``share`` of the features from experts that share a class.

    Experts of one class start different because they read different features.
    """
    shared = np.diff(class_experts.indptr) > 1
    is_shared = (shared @ class_experts) > 0
    if not is_shared.any():
        return sums
    hidden = is_shared[sums.indices] & (random_state.uniform(size=sums.nnz) < share)
    rows = np.repeat(np.arange(sums.shape[0]), np.diff(sums.indptr))
    entries = (sums.data[~hidden], (rows[~hidden], sums.indices[~hidden]))
    return sparse.csr_array(entries, shape=sums.shape)


def measure_relevance(sums, exposure):
    """Measure how much each feature tells about the experts of a sample, (n_features,).

    The divergence of the experts of the samples with the feature from those of all samples, in
    units of the entropy of the latter. Training on features that are multiplied by their
    relevance shrinks the weights of those that tell little the most.
    """
    if sums.nnz == 0:
        return np.ones(sums.shape[0], sums.dtype)
    background = (exposure.expert / exposure.expert.sum()).astype(sums.dtype)
    used = background[background > 0]
    entropy = -float(inner(used, np.log(used)))
    if entropy <= 0:  # all samples have the same expert
        return np.ones(sums.shape[0], sums.dtype)
    smoothing = sums.dtype.type(RELEVANCE_SMOOTHING * sums.sum() / exposure.feature.sum())
    total = sums.sum(axis=1)
    # What the smoothing alone leaves to an expert that was never seen with the feature.
    left = smoothing / (total + smoothing)
    expected = np.maximum(background[sums.indices], np.finfo(sums.dtype).tiny)
    ratio = sums.data / np.repeat(total + smoothing, np.diff(sums.indptr)) / expected
    ratio += np.repeat(left, np.diff(sums.indptr))
    terms = with_values(sums, expected * ratio * np.log(ratio)).sum(axis=1)
    unseen = np.maximum(1 - with_values(sums, expected).sum(axis=1), 0)
    divergence = np.maximum(terms + unseen * left * np.log(left), 0)
    return (divergence / entropy + RELEVANCE_FLOOR) ** RELEVANCE_POWER


def naive_bayes_margins(sums, X, sample_weight, geometry):
    """Complement naive-Bayes log-odds on the pattern of ``sums``, per nonzero of typical size.

    log(mass of the feature / mass of the feature outside the expert's classes), smoothed;
    zero where the feature was never seen with the expert. Zero throughout if X has negative
    values, which are no counts.
    """
    if X.nnz == 0 or X.data.min() < 0:
        return np.zeros_like(sums.data)
    unit = np.sqrt(geometry.mean_square)
    smoothing = sums.dtype.type(PRIOR_SMOOTHING * unit)
    mass = (X.T @ sample_weight).astype(sums.dtype)
    inside = np.repeat(mass, np.diff(sums.indptr))
    outside = np.maximum(inside - sums.data, 0)
    log_odds = np.log((inside + smoothing) / (outside + smoothing))
    return log_odds / sums.dtype.type(geometry.bias_feature)


def choose_prior_strength(margins, data, held_out):
    """Choose the factor on naive-Bayes margins by what they say of rows they were not made of.

    The better naive Bayes alone explains the targets of the held-out rows, the larger it is.
    """
    rows = np.flatnonzero(held_out)
    said = sparse.csr_array(data.X[rows] @ margins)
    weight = data.sample_weight[rows].astype(np.float64)
    per_entry = np.repeat(weight, np.diff(said.indptr))
    targets = data.row_experts[rows]  # +1 where it stores an entry, -1 elsewhere
    size = weight.sum() * said.shape[1]
    total = inner(per_entry, said.data)
    square = inner(per_entry, said.data.astype(np.float64) ** 2)
    of_targets = 2 * inner(weight, np.diff(targets.indptr)) - size
    product = 2 * inner(weight, said.multiply(targets).sum(axis=1)) - total
    if size == 0 or square * size <= total**2:
        return PRIOR_STRENGTH
    slope = (product - total * of_targets / size) / (square - total**2 / size)
    return float(np.clip(PRIOR_SLOPES * slope, *PRIOR_LIMITS))


def connect(data, weight_density, held_out, random_state):
    """Choose the pattern of the router weights and where its margins start.

    Parameters
    ----------
    data : `skparse._training.TrainingData`
    weight_density : float or None
    held_out : ndarray (n_samples,) of bool
        Rows whose features' classes are not looked at, but for the pattern.
    random_state : numpy.random.RandomState

    Returns
    -------
    data : `skparse._training.TrainingData`
        With features multiplied by their relevance.
    start : csr_array (n_features, n_experts)
        Naive-Bayes log-odds as margins of linear classifiers.
    """
    weight = np.where(held_out, data.sample_weight.dtype.type(NEXT_TO_NOTHING), data.sample_weight)
    sums = feature_sums(data.X, weight, data.row_experts)
    relevance = measure_relevance(sums, data.exposure)
    data = data.with_relevance(relevance)
    sums = scale_rows(sums, relevance)
    count = choose_absence_count(sums.shape[1])
    if weight_density is not None:
        count = _count_for_density(data.exposure, weight_density)
    sums = with_absences(sums, data.exposure, count)
    sums = drop_features(sums, data.class_experts, FEATURE_DROPOUT, random_state)
    sums = in_small_integers(sums)
    margins = with_values(sums, naive_bayes_margins(sums, data.X, weight, data.geometry))
    strength = PRIOR_STRENGTH
    if held_out.any():
        strength = choose_prior_strength(margins, data, held_out)
    margins.data *= margins.dtype.type(strength)
    return data, margins


def scale_rows(matrix, factors):
    """Multiply every row of a CSR array by its factor."""
    return with_values(matrix, matrix.data * np.repeat(factors, np.diff(matrix.indptr)))


def in_small_integers(matrix):
    """Sort a CSR array and hold its pattern in 32-bit integers where they suffice."""
    matrix.sort_indices()
    index = np.int32 if matrix.nnz <= np.iinfo(np.int32).max else np.int64
    parts = matrix.data, matrix.indices.astype(index), matrix.indptr.astype(index)
    return sparse.csr_array(parts, shape=matrix.shape)


def _count_for_density(exposure, weight_density):
    """Find the expected count from which absences are connected so that enough weights exist."""
    if weight_density == 1.0:
        return 0.0
    size = np.sort(exposure.expert)
    low, high = 0.0, exposure.total
    wanted = weight_density * len(exposure.feature) * len(size)
    for _ in range(40):
        middle = (low + high) / 2
        with np.errstate(divide="ignore"):
            needed = middle * exposure.total / exposure.feature
        reached = (len(size) - np.searchsorted(size, needed)).sum()
        low, high = (middle, high) if reached > wanted else (low, middle)
    return high


def connect_more(parameters, data, exposure):
    """Add the connections that new samples ask for to a model, with weights of zero."""
    sums = feature_sums(data.X, data.sample_weight, data.row_experts)
    sums = with_absences(sums, exposure, choose_absence_count(sums.shape[1]))
    old = parameters.router
    union = in_small_integers(sums + with_values(old, np.ones_like(old.data)))
    values = np.zeros(union.nnz, old.dtype)
    values[np.searchsorted(_keys(union), _keys(old))] = old.data
    return parameters._replace(router=with_values(union, values))


def start_new_features(margins, known, data):
    """Start the features that are not ``known`` (n_features,) yet at naive-Bayes log-odds."""
    sums = feature_sums(data.X, data.sample_weight, data.row_experts)
    start = naive_bayes_margins(sums, data.X, data.sample_weight, data.geometry)
    values = np.zeros_like(margins.data)
    values[np.searchsorted(_keys(margins), _keys(sums))] = sums.dtype.type(PRIOR_STRENGTH) * start
    is_new = np.repeat(~known, np.diff(margins.indptr))
    return with_values(margins, np.where(is_new, values, margins.data))


def _keys(matrix):
    """Compute a number for each entry of a CSR pattern, row by row, (nnz,) of int64."""
    rows = np.repeat(np.arange(matrix.shape[0], dtype=np.int64), np.diff(matrix.indptr))
    return rows * matrix.shape[1] + matrix.indices


def join_pair(margins, bias):
    """Half the difference of two opposite experts, as one linear classifier for the second.

    Returns
    -------
    margins : csr_array (n_features, 1)
    bias : ndarray (1,)
    """
    sign = np.where(margins.indices == 1, 0.5, -0.5).astype(margins.dtype)
    halves = with_values(margins, sign * margins.data)
    totals = np.asarray(halves.sum(axis=1)).ravel()
    connected = np.diff(margins.indptr) > 0
    indptr = np.concatenate([[0], np.cumsum(connected)]).astype(margins.indptr.dtype)
    indices = np.zeros(indptr[-1], margins.indices.dtype)
    joined = sparse.csr_array((totals[connected], indices, indptr), shape=(len(connected), 1))
    return joined, ((bias[1:] - bias[:1]) / 2)


def split_pair(margins, bias):
    """Undo `join_pair` with one weight per feature: each speaks for one of the two experts."""
    experts = (margins.data > 0).astype(margins.indices.dtype)
    shape = margins.shape[0], 2
    split = sparse.csr_array((2 * np.abs(margins.data), experts, margins.indptr), shape=shape)
    return split, np.concatenate([-bias, bias])


def start_outputs(class_experts, gain):
    """Start the outputs of the experts: each votes for its own classes."""
    n_classes, n_experts = class_experts.shape
    own = class_experts.T.tocsr()
    if n_experts < n_classes:
        # Few experts speak about every class: their outputs are learnt in full.
        own = sparse.csr_array(own.toarray() + 1.0)
        own.data -= 1.0
    own.data = own.data * gain
    return own


def scores_from_margins(margins, bias, geometry, class_experts, score_map):
    """Turn linear margins into a model whose scores pass the ReLU.

    Parameters
    ----------
    margins : csr_array (n_features, n_experts)
    bias : ndarray (n_experts,), multiplies the bias feature

    Returns
    -------
    ModelParameters
    """
    dtype = margins.dtype
    scale, shift = dtype.type(score_map.scale), dtype.type(score_map.shift)
    n_classes = class_experts.shape[0]
    return ModelParameters(
        with_values(margins, scale * margins.data),
        scale * (bias * dtype.type(geometry.bias_feature) + shift),
        start_outputs(class_experts, score_map.gain).astype(dtype),
        np.full(n_classes, -score_map.threshold * score_map.gain, dtype),
    )


def margins_from_scores(parameters, geometry, score_map):
    """Undo `scores_from_margins`; returns (margins, bias)."""
    dtype = parameters.dtype
    scale = dtype.type(score_map.scale)
    bias = parameters.router_intercept / scale - dtype.type(score_map.shift)
    margins = with_values(parameters.router, parameters.router.data / scale)
    return margins, bias / dtype.type(geometry.bias_feature)


def sharpen(parameters, score_map, *, undo=False):
    """Scale scores and outputs of a trained model to calibrate it, or undo that."""
    scores, outputs = score_map.sharper_scores, score_map.sharper_outputs
    if undo:
        scores, outputs = 1 / scores, 1 / outputs
    kind = parameters.dtype.type
    return ModelParameters(
        with_values(parameters.router, kind(scores) * parameters.router.data),
        kind(scores) * parameters.router_intercept,
        with_values(parameters.expert, kind(outputs) * parameters.expert.data),
        kind(outputs) * parameters.intercept,
    )


def unconnected(data, score_map):
    """Build a model of zero margins and no connections, for a stream to grow."""
    shape = data.X.shape[1], data.class_experts.shape[1]
    margins = sparse.csr_array(shape, dtype=data.X.dtype)
    bias = np.zeros(shape[1], data.X.dtype)
    return scores_from_margins(margins, bias, data.geometry, data.class_experts, score_map)
