"""Experts from data: the pattern, the naive-Bayes start, and the way from margins to scores."""

from math import log, sqrt

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from reference import prepare_training
from scipy import sparse

from skparse import SparseExpertClassifier
from skparse import _initialization as initialization
from skparse._compression import prune
from skparse._parameters import ModelParameters, with_values
from skparse.datasets import make_topic_documents


def draw_counts(n_samples=40, n_features=12, *, fill=0.2, seed=0, dtype=np.float64):
    """Draw word counts; one feature never occurs, and one occurs in every sample."""
    rng = np.random.RandomState(seed)
    X = rng.poisson(2, size=(n_samples, n_features)) + 1.0
    X *= rng.uniform(size=X.shape) < fill
    X[:, 0], X[:, 1] = 0, 1
    return sparse.csr_array(X.astype(dtype))


def draw_training(n_classes=3, *, negative=False, weighted=True, **parameters):
    """Draw training samples with weights; returns (data, settings)."""
    rng = np.random.RandomState(7)
    X = draw_counts()
    if negative:
        X.data *= rng.choice([-1, 1], size=X.nnz)
    y = np.resize(np.arange(n_classes), X.shape[0])
    y[rng.uniform(size=len(y)) < 0.3] = 0
    weight = rng.randint(1, 4, size=len(y)).astype(float) if weighted else None
    return prepare_training(X, y, weight, **parameters)


def model_of(router):
    """A model with these router weights; all else is of no interest."""
    n_experts = router.shape[1]
    outputs = sparse.csr_array(np.eye(n_experts))
    return ModelParameters(router, np.ones(n_experts), outputs, np.zeros(n_experts))


def sums_by_loops(data):
    """Weighted sum of |x| over the rows of every expert, dense."""
    X, own = data.X.toarray(), data.row_experts.toarray()
    sums = np.zeros((X.shape[1], own.shape[1]))
    for i in range(X.shape[0]):
        for e in range(own.shape[1]):
            if own[i, e]:
                sums[:, e] += data.sample_weight[i] * np.abs(X[i])
    return sums


@pytest.mark.parametrize("n_classes", [1, 2, 3, 7, 12])
@pytest.mark.parametrize("n_experts", [1, 2, 3, 5, 7, 20])
def test_every_class_has_an_expert_and_every_useful_expert_a_class(n_experts, n_classes):
    pairs = initialization.experts_of_classes(n_experts, n_classes)
    assert pairs.shape == (n_classes, n_experts)
    assert set(pairs.data) == {1.0}
    assert pairs.sum(axis=1).min() >= 1
    assert pairs.sum(axis=0).min() >= 1


@pytest.mark.parametrize(("n_experts", "n_classes"), [(4, 4), (9, 4), (8, 4), (5, 1)])
def test_with_enough_experts_each_has_one_class_and_classes_share_evenly(n_experts, n_classes):
    pairs = initialization.experts_of_classes(n_experts, n_classes)
    assert_array_equal(pairs.sum(axis=0), 1)
    assert np.ptp(pairs.sum(axis=1)) <= 1


@pytest.mark.parametrize("n_experts", [3, 4, 5, 8])
def test_with_few_experts_classes_have_different_pairs_as_long_as_there_are_pairs(n_experts):
    for n_classes in range(n_experts + 1, n_experts * (n_experts - 1) // 2 + 1):
        pairs = initialization.experts_of_classes(n_experts, n_classes).toarray()
        assert_array_equal(pairs.sum(axis=1), 2)
        assert len({tuple(row) for row in pairs}) == n_classes


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("n_experts", [2, 3, 5])
def test_feature_sums_equal_the_loop_and_store_what_occurs_together(n_experts, negative):
    data, _ = draw_training(n_experts=n_experts, negative=negative)
    sums = initialization.feature_sums(data.X, data.sample_weight, data.row_experts)
    expected = sums_by_loops(data)
    assert_allclose(sums.toarray(), expected, rtol=1e-14)
    assert sums.nnz == np.count_nonzero(expected)


@pytest.mark.parametrize("count", [0.0, 0.5, 2.0, 5.0, 1e9])
def test_absences_are_the_pairs_that_independence_would_have_shown(count):
    data, _ = draw_training()
    present = data.X.toarray() != 0
    own, weight = data.row_experts.toarray() != 0, data.sample_weight
    sums = initialization.feature_sums(data.X, weight, data.row_experts)
    pattern = initialization.with_absences(sums, data.exposure, count)
    for j in range(present.shape[1]):
        for e in range(own.shape[1]):
            frequency, size = weight[present[:, j]].sum(), weight[own[:, e]].sum()
            expected = frequency * size / weight.sum()
            connected = sums[j, e] > 0 or (frequency > 0 and expected >= count)
            assert (pattern[j, e] != 0) == connected, (j, e)
    assert_allclose(pattern.toarray(), sums.toarray(), rtol=0, atol=1e-29)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_naive_bayes_margins_equal_the_loop(dtype):
    data, _ = draw_training()
    X, weight = data.X.astype(dtype), data.sample_weight.astype(dtype)
    sums = initialization.feature_sums(X, weight, data.row_experts)
    sums = initialization.with_absences(sums, data.exposure)
    margins = initialization.naive_bayes_margins(sums, X, weight, data.geometry)
    assert margins.dtype == dtype
    unit = sqrt(data.geometry.mean_square)
    mass = (data.sample_weight[:, None] * data.X.toarray()).sum(axis=0)
    inside = sums_by_loops(data)
    rows = np.repeat(np.arange(X.shape[1]), np.diff(sums.indptr))
    for j, e, margin in zip(rows, sums.indices, margins, strict=True):
        smoothing = initialization.PRIOR_SMOOTHING * unit
        log_odds = log((mass[j] + smoothing) / (mass[j] - inside[j, e] + smoothing))
        expected = initialization.PRIOR_STRENGTH / data.geometry.bias_feature * log_odds
        assert_allclose(margin, expected, rtol=1e-11 if dtype == np.float64 else 1e-5, atol=1e-12)


def test_naive_bayes_margins_are_zero_for_features_that_are_no_counts():
    data, settings = draw_training(negative=True)
    start = initialization.connect(data, settings.weight_density, np.random.RandomState(0))
    assert start.nnz > 0
    assert_array_equal(start.data, 0)


def test_a_pair_that_never_occurred_together_starts_at_zero():
    data, settings = draw_training()
    start = initialization.connect(data, settings.weight_density, np.random.RandomState(0))
    absent = sums_by_loops(data) == 0
    dense = start.toarray()
    assert_array_equal(dense[absent], 0)
    assert dense[~absent].min() > 0


def test_features_are_hidden_from_experts_that_share_a_class_and_from_no_other():
    documents = make_topic_documents(400, 300, 3, n_classes=3, random_state=0)
    X, y = documents.data, documents.target
    alone, settings = prepare_training(X, y, n_experts=3)
    shared, _ = prepare_training(X, y, n_experts=4)  # experts 0 and 3 share class 0
    whole, partly = (
        initialization.connect(data, settings.weight_density, np.random.RandomState(0))
        for data in (alone, shared)
    )
    of_whole = np.bincount(whole.indices, minlength=3)
    of_partly = np.bincount(partly.indices, minlength=4)
    assert_array_equal(of_partly[1:3], of_whole[1:])
    for e in (0, 3):
        hidden = 1 - of_partly[e] / of_whole[0]
        assert_allclose(hidden, initialization.FEATURE_DROPOUT, atol=0.06)
    own = [set(partly[:, [e]].tocoo().coords[0].tolist()) for e in (0, 3)]
    assert own[0] != own[1]


@pytest.mark.parametrize("weight_density", [0.05, 0.3, 0.8, 1.0])
def test_a_density_keeps_that_share_of_the_weights(weight_density):
    X, y = make_topic_documents(300, 120, 4, n_classes=4, random_state=0, return_X_y=True)
    seen = np.diff(sparse.csc_array(X).indptr) > 0
    X = sparse.csr_array(X)[:, seen]
    model = SparseExpertClassifier(weight_density=weight_density, random_state=0).fit(X, y)
    assert model.router_coef_.nnz == round(weight_density * X.shape[1] * 4)


def test_prune_keeps_the_most_influential_weights_as_they_are():
    rng = np.random.RandomState(1)
    dense = rng.normal(size=(12, 3)) * (rng.uniform(size=(12, 3)) < 0.8)
    scale = rng.uniform(size=12)
    parameters = model_of(sparse.csr_array(dense))
    pruned = prune(parameters, scale, 10 / dense.size).router
    influence = scale[:, None] * np.abs(dense)
    expected = np.where(influence >= np.sort(influence, axis=None)[-10], dense, 0)
    assert pruned.nnz == 10
    assert_array_equal(pruned.toarray(), expected)
    assert_array_equal(parameters.router.toarray(), dense)


def test_prune_leaves_a_model_that_is_sparse_enough():
    parameters = model_of(sparse.csr_array(np.eye(3)))
    assert prune(parameters, np.ones(3), 0.5) is parameters


def test_two_opposite_experts_are_joined_to_half_their_difference_and_split_again():
    rng = np.random.RandomState(1)
    dense = rng.normal(size=(12, 2)) * (rng.uniform(size=(12, 2)) < 0.6)
    bias = rng.normal(size=2)
    joined, joined_bias = initialization.join_pair(sparse.csr_array(dense), bias)
    assert_allclose(joined.toarray()[:, 0], (dense[:, 1] - dense[:, 0]) / 2, rtol=1e-15)
    assert_allclose(joined_bias, [(bias[1] - bias[0]) / 2])
    split, split_bias = initialization.split_pair(joined, joined_bias)
    assert split.data.min() >= 0
    assert np.diff(split.indptr).max() == 1
    again, again_bias = initialization.join_pair(split, split_bias)
    assert_array_equal(again.toarray(), joined.toarray())
    assert_array_equal(again_bias, joined_bias)


def test_connecting_more_keeps_every_weight_and_adds_weights_of_zero():
    data, _ = draw_training()
    old = sparse.random_array(
        (data.X.shape[1], 3), density=0.4, rng=np.random.default_rng(0), format="csr"
    )
    old.data[0] = 0.0  # a stored zero is a connection too
    more = initialization.connect_more(model_of(old), data, data.exposure).router
    assert more.has_canonical_format
    assert_array_equal(more.toarray(), old.toarray())
    stored, asked = (
        set(zip(*(axis.tolist() for axis in pattern.tocoo().coords), strict=True))
        for pattern in (more, initialization.feature_sums(
            data.X, data.sample_weight, data.row_experts
        ))
    )  # fmt: skip
    before = set(zip(*(axis.tolist() for axis in old.tocoo().coords), strict=True))
    assert before | asked <= stored


@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize("n_experts", [2, 3, 5])
def test_margins_and_scores_are_inverse(n_experts, multilabel):
    data, settings = draw_training(n_experts=n_experts)
    score_map = initialization.choose_score_map(3, multilabel)
    start = initialization.connect(data, settings.weight_density, np.random.RandomState(0))
    bias = np.random.RandomState(1).normal(size=n_experts)
    parameters = initialization.scores_from_margins(
        start, bias, data.geometry, data.class_experts, score_map
    )
    margins, back = initialization.margins_from_scores(parameters, data.geometry, score_map)
    assert_array_equal(margins.indices, start.indices)
    assert_allclose(margins.data, start.data, rtol=1e-14)
    assert_allclose(back, bias, rtol=1e-13, atol=1e-14)


def test_sharpening_can_be_undone_and_leaves_the_model_it_was_given():
    data, settings = draw_training()
    start = initialization.connect(data, settings.weight_density, np.random.RandomState(0))
    parameters = initialization.scores_from_margins(
        start, np.ones(3), data.geometry, data.class_experts, settings.score_map
    )
    before = parameters.copy()
    sharper = initialization.sharpen(parameters, settings.score_map)
    again = initialization.sharpen(sharper, settings.score_map, undo=True)
    for mine, copy, back in zip(parameters.arrays(), before.arrays(), again.arrays(), strict=True):
        assert_array_equal(mine, copy)
        assert_allclose(back, copy, rtol=1e-14)


def test_an_unconnected_model_keeps_every_expert_alike():
    data, settings = draw_training()
    model = initialization.unconnected(data, settings.score_map)
    assert model.router.shape == (data.X.shape[1], 3)
    assert model.router.nnz == 0
    assert model.router_intercept.min() == model.router_intercept.max() > 0


@pytest.mark.parametrize("n_samples", [60, 300])
@pytest.mark.parametrize("factor", [2.0**-10, 1e-3, 37.0, 1e4])
def test_the_unit_of_the_features_does_not_matter(factor, n_samples):
    X, y = make_topic_documents(
        n_samples, 80, 4, n_classes=4, dtype=np.float64, random_state=0, return_X_y=True
    )
    model = SparseExpertClassifier(random_state=0).fit(X, y)
    scaled = SparseExpertClassifier(random_state=0).fit(factor * X, y)
    assert_array_equal(scaled.predict(factor * X), model.predict(X))
    assert_allclose(scaled.predict_proba(factor * X), model.predict_proba(X), rtol=1e-6, atol=1e-9)


def test_only_new_features_start_at_log_odds_in_a_stream():
    data, _ = draw_training()
    sums = initialization.feature_sums(data.X, data.sample_weight, data.row_experts)
    margins = with_values(sums, np.full(sums.nnz, 7.0))
    known = np.arange(sums.shape[0]) % 2 == 0
    started = initialization.start_new_features(margins, known, data)
    log_odds = initialization.naive_bayes_margins(sums, data.X, data.sample_weight, data.geometry)
    of_known = np.repeat(known, np.diff(sums.indptr))
    assert_array_equal(started.data, np.where(of_known, 7.0, log_odds))
