"""Naive Bayes, where the linear margins start: log-odds and how strongly they count."""

from dataclasses import replace
from math import log, sqrt

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from stages import prepare
from word_counts import (
    hold_out_some,
    mass_by_loops,
    mass_of,
    prepare_counts,
    relevance_by_loops,
    stored_pairs,
)

from skparse._csr import with_values
from skparse._training import naive_bayes
from skparse._training.connections import add_absences, connect
from skparse._training.held_out import hold_out
from skparse._training.naive_bayes import choose_prior_strength, log_odds, start_new_features
from skparse.datasets import make_topic_documents


def log_odds_by_hand(data, geometry):
    """Log-odds of every pair (feature, expert), dense; one formula for all of them."""
    feature_mass = (data.sample_weight[:, None] * data.X.toarray()).sum(axis=0)[:, None]
    smoothing = naive_bayes.PRIOR_SMOOTHING * sqrt(geometry.mean_square)
    outside = feature_mass - mass_by_loops(data)
    return np.log((feature_mass + smoothing) / (outside + smoothing)) / geometry.bias_feature


def strength_by_polyfit(margins, data, held_out):
    """Multiply the slope of the targets +-1 on the dense held-out margins by the constant."""
    scores = data.X.toarray()[held_out] @ margins.toarray()
    targets = np.where(data.sample_experts.toarray()[held_out] > 0, 1.0, -1.0)
    weight = np.repeat(data.sample_weight[held_out], scores.shape[1])
    slope, _ = np.polyfit(scores.ravel(), targets.ravel(), 1, w=np.sqrt(weight))
    return naive_bayes.PRIOR_STRENGTH_PER_SLOPE * slope


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("n_experts", [2, 3, 5])
def test_expert_mass_equals_the_loop_and_stores_what_occurs_together(n_experts, negative):
    _, draft = prepare_counts(n_experts=n_experts, negative=negative)
    mass, expected = mass_of(draft.data), mass_by_loops(draft.data)
    assert_allclose(mass.toarray(), expected, rtol=1e-14)
    assert mass.nnz == np.count_nonzero(expected)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_log_odds_equal_the_loop(dtype):
    wide, narrow = (prepare_counts(dtype=kind)[1].data for kind in (np.float64, dtype))
    mass = add_absences(mass_of(narrow), narrow.exposure)
    odds = log_odds(mass, narrow.X, narrow.sample_weight, narrow.geometry)
    assert odds.dtype == dtype
    inside, unit = mass_by_loops(wide), sqrt(wide.geometry.mean_square)
    feature_mass = (wide.sample_weight[:, None] * wide.X.toarray()).sum(axis=0)
    smoothing = naive_bayes.PRIOR_SMOOTHING * unit
    rows = np.repeat(np.arange(mass.shape[0]), np.diff(mass.indptr))
    assert (inside[rows, mass.indices] == 0).any()
    for j, e, value in zip(rows, mass.indices, odds, strict=True):
        outside = feature_mass[j] - inside[j, e]
        expected = log((feature_mass[j] + smoothing) / (outside + smoothing))
        expected /= wide.geometry.bias_feature
        assert_allclose(value, expected, rtol=1e-11 if dtype == np.float64 else 1e-5, atol=1e-12)


def test_the_margins_start_at_log_odds_of_features_multiplied_by_their_relevance():
    problem, draft = prepare_counts()
    data = problem.data
    by_hand = replace(data, X=sparse.csr_array(data.X.toarray() * relevance_by_loops(data)))
    expected = naive_bayes.PRIOR_STRENGTH * log_odds_by_hand(by_hand, by_hand.geometry)
    start = connect(problem, draft).margins
    assert_allclose(start.toarray(), expected, rtol=1e-10, atol=1e-13)


def test_the_margins_start_at_zero_for_features_that_are_no_counts():
    problem, draft = prepare_counts(negative=True)
    start = connect(problem, draft).margins
    assert start.nnz > 0
    assert_array_equal(start.data, 0)


def test_a_pair_that_never_occurred_together_starts_at_zero():
    problem, draft = prepare_counts()
    start = connect(problem, draft).margins.toarray()
    absent = mass_by_loops(problem.data) == 0
    assert absent.any()
    assert_array_equal(start[absent], 0)
    assert start[~absent].min() > 0


@pytest.mark.parametrize("weighted", [False, True])
def test_the_margins_start_at_log_odds_of_the_samples_that_are_not_held_out(weighted):
    problem, draft = prepare_counts(weighted=weighted)
    draft = connect(problem, hold_out_some(draft))
    data, held_out = draft.data, draft.held_out
    others = replace(data, sample_weight=np.where(held_out, 0, data.sample_weight))
    odds = log_odds_by_hand(others, data.geometry)  # the scales are those of all samples
    strength = strength_by_polyfit(sparse.csr_array(odds), data, held_out)
    strength = np.clip(strength, *naive_bayes.PRIOR_STRENGTH_RANGE)
    assert_allclose(draft.margins.toarray(), strength * odds, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_pairs_that_occur_in_held_out_samples_only_are_connected_and_start_at_zero(dtype):
    # Feature 2 occurs in class 1 in held-out samples only, feature 3 in no other sample at all.
    X = np.zeros((60, 4), dtype)
    y = np.arange(60) % 3
    X[:, 0], X[:, 1] = y == 0, y == 1
    X[[1, 4, 15, 18], 2] = 1
    X[[2, 5], 3] = 1
    problem, draft = prepare(X, y)
    start = connect(problem, replace(draft, held_out=np.arange(60) < 12)).margins
    assert {(2, 1), (3, 2)} <= stored_pairs(start)
    assert start[2, 1] == start[3, 2] == 0
    assert start[2, 0] > 0
    joined = connect(problem, hold_out(problem, draft)).margins
    assert min(joined[2, 1], joined[3, 2]) > 0


@pytest.mark.parametrize("n_experts", [3, 5])
def test_held_out_labels_change_the_start_by_one_factor_only(n_experts):
    X, y = make_topic_documents(
        300, 120, 3, n_classes=3, dtype=np.float64, random_state=0, return_X_y=True
    )
    held_out = np.arange(300) % 4 == 0
    shuffled = y.copy()
    shuffled[held_out] = np.random.RandomState(0).permutation(y[held_out])
    drafts = []
    for labels in (y, shuffled):  # every pair is connected, and the classes are as frequent
        problem, draft = prepare(X, labels, n_experts=n_experts, weight_density=1.0)
        drafts.append(connect(problem, replace(draft, held_out=held_out)))
    first, second = drafts
    assert_array_equal(first.margins.indptr, second.margins.indptr)
    assert_array_equal(first.margins.indices, second.margins.indices)
    assert_allclose(first.data.relevance, second.data.relevance, rtol=1e-12)
    factor = second.margins.data.max() / first.margins.data.max()
    assert_allclose(second.margins.data, factor * first.margins.data, rtol=1e-11, atol=1e-20)
    assert factor < 0.9  # labels at random: the log-odds count less


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_experts", [2, 3, 5])
def test_the_prior_strength_equals_least_squares_on_dense_margins(
    n_experts, weighted, dtype, monkeypatch
):
    monkeypatch.setattr(naive_bayes, "PRIOR_STRENGTH_RANGE", (-np.inf, np.inf))
    wide, narrow = (
        hold_out_some(prepare_counts(n_experts=n_experts, weighted=weighted, dtype=kind)[1])
        for kind in (np.float64, dtype)
    )
    margins = sparse.random_array(
        (12, n_experts), density=0.6, rng=np.random.default_rng(2), format="csr",
        data_sampler=np.random.default_rng(3).normal,
    )  # fmt: skip
    expected = strength_by_polyfit(margins, wide.data, wide.held_out)
    assert abs(expected) > 1e-3
    strength = choose_prior_strength(margins.astype(dtype), narrow.data, narrow.held_out)
    assert strength == pytest.approx(expected, rel=1e-10 if dtype == np.float64 else 1e-4)


def test_the_prior_strength_stays_within_limits():
    problem, draft = prepare_counts()
    held_out = hold_out_some(draft).held_out
    draft = connect(problem, draft)
    by_fit = strength_by_polyfit(draft.margins, draft.data, held_out)
    low, high = naive_bayes.PRIOR_STRENGTH_RANGE
    assert by_fit > 0
    for best in (0.1 * low, 1.1 * low, 0.9 * high, 10 * high, -low):
        margins = with_values(draft.margins, by_fit / best * draft.margins.data)
        strength = choose_prior_strength(margins, draft.data, held_out)
        assert strength == pytest.approx(min(max(best, low), high), rel=1e-9)


def test_a_held_out_sample_of_weight_two_counts_twice_for_the_prior_strength(monkeypatch):
    monkeypatch.setattr(naive_bayes, "PRIOR_STRENGTH_RANGE", (-np.inf, np.inf))
    problem, draft = prepare_counts()
    held_out = hold_out_some(draft).held_out
    draft = connect(problem, draft)
    data, rows = draft.data, np.repeat(np.arange(40), draft.data.sample_weight.astype(int))
    repeated = replace(
        data,
        X=data.X[rows],
        labels=data.labels[rows],
        sample_experts=data.sample_experts[rows],
        sample_weight=np.ones(len(rows)),
    )
    by_weight = choose_prior_strength(draft.margins, data, held_out)
    by_rows = choose_prior_strength(draft.margins, repeated, held_out[rows])
    assert by_weight == pytest.approx(by_rows, rel=1e-12)


@pytest.mark.parametrize("reason", ["no margins", "no weight", "no features", "constant margins"])
def test_the_prior_strength_is_the_default_where_held_out_samples_have_no_information(reason):
    draft = hold_out_some(prepare_counts()[1])
    data, held_out = draft.data, draft.held_out
    margins = sparse.csr_array(np.random.RandomState(0).normal(size=(12, 3)))
    if reason == "no margins":
        margins.data[:] = 0
    elif reason == "no weight":
        data = replace(data, sample_weight=np.where(held_out, 0.0, data.sample_weight))
    elif reason == "no features":
        held_out = np.diff(data.X[:, [2]].tocsr().indptr) > 0
        margins = sparse.csr_array(margins.toarray() * (np.arange(12) == 0)[:, None])
    else:
        margins = sparse.csr_array(np.ones((12, 3)) * (np.arange(12) == 1)[:, None])
    assert choose_prior_strength(margins, data, held_out) == naive_bayes.PRIOR_STRENGTH


def test_only_new_features_start_at_log_odds_in_a_stream():
    _, draft = prepare_counts()
    data, mass = draft.data, mass_of(draft.data)
    margins = with_values(mass, np.full(mass.nnz, 7.0))
    is_new = np.arange(mass.shape[0]) % 2 == 1
    started = start_new_features(margins, is_new, data)
    odds = log_odds(mass, data.X, data.sample_weight, data.geometry)
    of_new = np.repeat(is_new, np.diff(mass.indptr))
    assert np.abs(odds[of_new]).max() > 0
    expected = np.where(of_new, naive_bayes.PRIOR_STRENGTH * odds, 7.0)
    assert_array_equal(started.data, expected)
    assert_array_equal(margins.data, 7.0)
