"""Naive-Bayes log-odds, where the linear margins start."""

import numpy as np
from scipy import sparse

from .._csr import entry_keys, with_values

# Chosen by held-out accuracy on training parts; docs/design/ has the records.
# Margin at the start per unit of log-odds and nonzero of typical size: the longer the texts,
# the larger its share of the margin.
PRIOR_STRENGTH = 0.12
# With held-out samples, the strength is so many times the slope of the least-squares fit of their
# targets, within a range.
PRIOR_STRENGTH_PER_SLOPE = 7.0
PRIOR_STRENGTH_RANGE = 0.03, 0.2
PRIOR_SMOOTHING = 0.1  # pseudo mass per feature, in units of the row norm


def expert_mass(X, sample_weight, sample_experts):
    """Weighted sum of every feature's absolute values over the samples of every expert.

    Returns a CSR array (n_features, n_experts) that stores the pairs that occur together.
    """
    weight = np.repeat(sample_weight, np.diff(sample_experts.indptr)).astype(X.dtype)
    samples_of_experts = with_values(sample_experts, weight).T.tocsr()
    magnitudes = X if X.nnz == 0 or X.data.min() >= 0 else with_values(X, np.abs(X.data))
    mass = (samples_of_experts @ magnitudes).T.tocsr()
    return sparse.csr_array(mass)


def log_odds(mass, X, sample_weight, geometry):
    """Complement naive-Bayes log-odds on the pattern of ``mass``, per nonzero of typical size.

    log(mass of the feature / mass of the feature outside the expert's classes), smoothed;
    zero where the feature was never seen with the expert, and for features with negative values,
    which are no counts.
    """
    is_count = np.ones(X.shape[1], mass.dtype)
    is_count[X.indices[X.data < 0]] = 0
    unit = np.sqrt(geometry.mean_square)
    smoothing = mass.dtype.type(PRIOR_SMOOTHING * unit)
    of_feature = np.maximum(X.T @ sample_weight, 0).astype(mass.dtype)
    inside = np.repeat(of_feature, np.diff(mass.indptr))
    outside = np.maximum(inside - mass.data, 0)
    odds = np.log((inside + smoothing) / (outside + smoothing))
    odds *= np.repeat(is_count, np.diff(mass.indptr))
    return odds / mass.dtype.type(geometry.bias_feature)


def choose_prior_strength(margins, data, held_out, sums=None):
    """Choose the factor on the log-odds by how well they explain held-out samples.

    The better naive Bayes alone explains the targets of samples that it was not made of, the
    larger is the factor. Where the samples are divided, ``sums`` are the sums of
    `sum_prior_products` over all parts.
    """
    sums = sum_prior_products(margins, data, held_out) if sums is None else sums
    size, total, square, of_targets, product = sums
    if size == 0 or square * size <= total**2:
        return PRIOR_STRENGTH
    slope = (product - total * of_targets / size) / (square - total**2 / size)
    return float(np.clip(PRIOR_STRENGTH_PER_SLOPE * slope, *PRIOR_STRENGTH_RANGE))


def sum_prior_products(margins, data, held_out):
    """Sum what the least-squares fit of the held-out targets needs, (5,)."""
    rows = np.flatnonzero(held_out)
    scores = sparse.csr_array(data.X[rows] @ margins)
    weight = data.sample_weight[rows].astype(np.float64)
    per_entry = np.repeat(weight, np.diff(scores.indptr))
    targets = data.sample_experts[rows]  # +1 where it stores an entry, -1 elsewhere
    size = weight.sum() * scores.shape[1]
    total = (per_entry * scores.data).sum()
    square = (per_entry * scores.data.astype(np.float64) ** 2).sum()
    of_targets = 2 * (weight * np.diff(targets.indptr)).sum() - size
    product = 2 * (weight * scores.multiply(targets).sum(axis=1)).sum() - total
    return np.array([size, total, square, of_targets, product])


def start_new_features(margins, new_features, data):
    """Replace the margins of new features, (n_features,) of bool, by naive-Bayes log-odds."""
    mass = expert_mass(data.X, data.sample_weight, data.sample_experts)
    start = log_odds(mass, data.X, data.sample_weight, data.geometry)
    values = np.zeros_like(margins.data)
    places = np.searchsorted(entry_keys(margins), entry_keys(mass))
    values[places] = mass.dtype.type(PRIOR_STRENGTH) * start
    is_new = np.repeat(new_features, np.diff(margins.indptr))
    return with_values(margins, np.where(is_new, values, margins.data))
