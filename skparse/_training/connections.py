"""Stages that choose which router weights exist.

A feature is connected to the experts of the classes that it occurs in. A frequent feature is also
connected to the classes from which it is unexpectedly absent.
"""

from dataclasses import replace

import numpy as np
from scipy import sparse

from .._compression import prune
from .._csr import entry_keys, row_blocks, with_smallest_index_dtype, with_values
from .naive_bayes import PRIOR_STRENGTH, choose_prior_strength, expert_mass, log_odds
from .scores import model_from_margins, multiply_scores

# Chosen by held-out accuracy on training parts; docs/design/ has the records.
# Relevance of a feature: (information + floor) ** power, smoothed with samples of all classes.
RELEVANCE_SMOOTHING = 12.0
RELEVANCE_FLOOR = 0.1
RELEVANCE_POWER = 0.35
# Expected samples of a class from which an absence is evidence: 1, and fewer from 20 experts on,
# where the pattern is a smaller part of the dense one.
ABSENCE_COUNT = 1.0
LOWEST_ABSENCE_COUNT = 0.4
CONNECTION_EPSILON = 1e-30  # stored for a connection that has no mass
COUNTED_PAIRS = 2**20  # at most, whose expected counts give the one for a density
FEATURE_DROPOUT = 0.1  # share of the features that an expert of a shared class is started without


def connect(problem, draft):
    """Choose the pattern of the router weights and where its margins start.

    The features of the draft's data are multiplied by their relevance. Labels of held-out samples
    are used for the pattern only.
    """
    data, held_out = draft.data, draft.held_out
    epsilon = data.sample_weight.dtype.type(CONNECTION_EPSILON)
    weight = np.where(held_out, epsilon, data.sample_weight)
    mass = expert_mass(data.X, weight, data.sample_experts)
    power = RELEVANCE_POWER if draft.relevance_power is None else draft.relevance_power
    relevance = measure_relevance(mass, data.exposure, data.full_columns, power)
    full = data.full_columns
    if full is not None:
        relevance[full] = data.full_factor * scale_full_columns(data, full, relevance[full])
    values = relevance[data.X.indices]
    values *= data.X.data
    factors = relevance if data.relevance is None else data.relevance * relevance
    data = replace(data, X=with_values(data.X, values), relevance=factors)
    mass = with_values(mass, mass.data * np.repeat(relevance, np.diff(mass.indptr)))
    density, count = problem.options.weight_density, None
    if density is not None:
        count = absence_count_for_density(data.exposure, density)
    mass = add_absences(mass, data.exposure, count)
    if data.siblings is None and data.class_experts.nnz > data.class_experts.shape[0]:
        mass = drop_features(mass, data.class_experts, problem.random_state)
    mass = with_smallest_index_dtype(mass)
    margins = with_values(mass, log_odds(mass, data.X, weight, data.geometry))
    strength = PRIOR_STRENGTH if draft.prior_strength is None else draft.prior_strength
    if held_out.any():
        strength = choose_prior_strength(margins, data, held_out)
    margins.data *= margins.dtype.type(strength)
    return replace(draft, data=data, margins=margins, prior_strength=strength)


def grow_connections(problem, draft):
    """Add the connections of new samples to a calibrated model, with weights of zero.

    Without a model so far, the stage begins with one that has zero margins.
    """
    data = draft.data
    if draft.model is None:
        shape = data.X.shape[1], data.class_experts.shape[1]
        margins = sparse.csr_array(shape, dtype=data.X.dtype)
        if data.binary:
            margins = sparse.csr_array((shape[0], 1), dtype=data.X.dtype)
        bias = np.zeros(margins.shape[1], data.X.dtype)
        model = model_from_margins(draft, margins, bias)
    else:
        scaling = draft.scaling  # calibrated, which is undone
        model = multiply_scores(draft.model, *(1 / factor for factor in scaling.factors))
    old = model.router
    mass = expert_mass(data.X, data.sample_weight, data.sample_experts)
    mass = add_absences(mass, draft.exposure)
    union = with_smallest_index_dtype(mass + with_values(old, np.ones_like(old.data)))
    values = np.zeros(union.nnz, old.dtype)
    values[np.searchsorted(entry_keys(union), entry_keys(old))] = old.data
    new_features = np.diff(old.indptr) == 0
    model = model._replace(router=with_values(union, values))
    return replace(draft, model=model, new_features=new_features)


def scale_full_columns(data, columns, relevance):
    """Choose factors for columns that nearly all rows store, such as numbers beside texts.

    All of them together get at most the mean squared norm of the other columns, whatever their
    unit. Each gets a part in proportion to the share of its variance that lies between experts,
    beyond what chance gives: columns without information get hardly any. Columns without a
    negative value may be frequent words: they get at most their relevance.
    """
    weight = data.sample_weight.astype(np.float64) / data.exposure.total
    load = data.exposure.expert / data.exposure.total
    by_expert, rest = np.zeros((len(load), len(columns))), 0.0
    mean, squares = np.zeros((2, len(columns)))
    is_negative = np.zeros(len(columns), bool)
    for first, last in row_blocks(data.X.indptr):  # a block of them is dense at a time
        rows = data.X[first:last]
        others = ~np.isin(rows.indices, columns)
        mass = np.repeat(weight[first:last], np.diff(rows.indptr))
        rest += (mass[others] * rows.data[others].astype(np.float64) ** 2).sum()
        X = rows[:, columns].toarray().astype(np.float64)
        weighted = weight[first:last, None] * X
        by_expert += data.sample_experts[first:last].T.tocsr() @ weighted
        mean += weighted.sum(axis=0)
        squares += (weighted * X).sum(axis=0)
        is_negative |= (X < 0).any(axis=0)
    by_expert -= load[:, None] * mean
    used = load > 0
    between = (by_expert[used] ** 2 / load[used, None]).sum(axis=0)
    chance = used.sum() / data.X.shape[0]
    variance = squares - mean**2
    constant = variance <= 1e-12 * squares
    share = np.maximum(between / np.where(constant, np.inf, variance) - 2 * chance, 0)
    factors = np.sqrt(rest * share / max(1.0, share.sum()) / np.maximum(squares, 1e-300))
    return np.where(is_negative, factors, np.minimum(factors, relevance))


def limit_density(problem, draft):
    """Prune the router weights to the density that the user wishes, if any."""
    density, data = problem.options.weight_density, draft.data
    if density is None:
        return draft
    squares = with_values(data.X, data.X.data**2)
    feature_scale = np.sqrt(squares.T @ data.sample_weight)
    return replace(draft, model=prune(draft.model, feature_scale, density))


def absence_count_for_density(exposure, weight_density):
    """Find the expected count from which absences are connected so that enough weights exist.

    It is a quantile of the expected counts of all pairs (feature, expert), or of those of every
    n-th feature where there are very many pairs.
    """
    if weight_density == 1.0:
        return 0.0
    n_pairs = len(exposure.feature) * len(exposure.expert)
    features = exposure.feature[:: -(-n_pairs // COUNTED_PAIRS)]
    expected = np.multiply.outer(features, exposure.expert) / exposure.total
    return float(np.quantile(expected, 1 - weight_density))


def add_absences(mass, exposure, count=None):
    """Add the pairs (feature, expert) with at least ``count`` expected samples to ``mass``.

    They are stored with a mass of 1e-30: the feature was never seen with the expert, although
    it would have been if the two were independent. Features without an entry in ``mass`` get
    none. Without a count it is chosen by the number of experts.
    """
    if count is None:
        count = max(LOWEST_ABSENCE_COUNT, min(ABSENCE_COUNT, 20 / mass.shape[1]))
    by_size = np.argsort(-exposure.expert, kind="stable")
    needed = np.full(mass.shape[0], np.inf)
    seen = np.diff(mass.indptr) > 0
    needed[seen] = count * exposure.total / exposure.feature[seen]
    reach = np.searchsorted(-exposure.expert[by_size], -needed, side="right")
    # Kernels read a feature that is connected to all experts faster than one with most.
    reach[2 * np.maximum(reach, np.diff(mass.indptr)) > mass.shape[1]] = mass.shape[1]
    indptr = np.concatenate([[0], np.cumsum(reach)])
    index = sparse.get_index_dtype(maxval=indptr[-1])
    position = np.arange(indptr[-1], dtype=index)
    position -= np.repeat(indptr[:-1].astype(index), reach)
    values = np.full(len(position), CONNECTION_EPSILON, dtype=mass.dtype)
    parts = values, by_size.astype(index)[position], indptr.astype(index)
    expected = sparse.csr_array(parts, shape=mass.shape)
    expected.sort_indices()
    return mass + expected


def drop_features(mass, class_experts, random_state):
    """Remove a random share of the features from experts that share a class.

    Experts of one class start different because they have different features.
    """
    shared = np.diff(class_experts.indptr) > 1
    is_shared = (shared @ class_experts) > 0
    dropped = is_shared[mass.indices] & (random_state.uniform(size=mass.nnz) < FEATURE_DROPOUT)
    rows = np.repeat(np.arange(mass.shape[0]), np.diff(mass.indptr))
    entries = (mass.data[~dropped], (rows[~dropped], mass.indices[~dropped]))
    return sparse.csr_array(entries, shape=mass.shape)


def measure_relevance(mass, exposure, full_columns=None, power=RELEVANCE_POWER):
    """Measure how much information each feature has about the experts of a sample, (n_features,).

    The divergence of the experts of the samples with the feature from those of all samples, in
    units of the entropy of the latter. Training on features that are multiplied by their
    relevance shrinks the weights of those with little information the most. The mass of full
    columns does not count for the smoothing.
    """
    if mass.nnz == 0:
        return np.ones(mass.shape[0], mass.dtype)
    background = (exposure.expert / exposure.expert.sum()).astype(mass.dtype)
    used = background[background > 0]
    entropy = -float((used * np.log(used)).sum())
    if entropy <= 0:  # all samples have the same expert
        return np.ones(mass.shape[0], mass.dtype)
    total, frequency, all_mass = mass.sum(axis=1), exposure.feature, mass.sum()
    if full_columns is not None:
        frequency = np.delete(frequency, full_columns)
        all_mass = np.delete(total, full_columns).sum()
    smoothing = mass.dtype.type(RELEVANCE_SMOOTHING * all_mass / frequency.sum())
    # What the smoothing alone leaves to an expert that was never seen with the feature.
    left = smoothing / (total + smoothing)
    expected = np.maximum(background[mass.indices], np.finfo(mass.dtype).tiny)
    ratio = mass.data / np.repeat(total + smoothing, np.diff(mass.indptr)) / expected
    ratio += np.repeat(left, np.diff(mass.indptr))
    terms = with_values(mass, expected * ratio * np.log(ratio)).sum(axis=1)
    unseen = np.maximum(1 - with_values(mass, expected).sum(axis=1), 0)
    divergence = np.maximum(terms + unseen * left * np.log(left), 0)
    return (divergence / entropy + RELEVANCE_FLOOR) ** power
