"""Experts from data: the pattern, the naive-Bayes start, and the way from margins to scores."""

from dataclasses import replace
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


def connect(data, settings, held_out=None):
    """Connect samples of which the ``held_out`` rows, none by default, are kept apart."""
    nobody = np.zeros(data.X.shape[0], bool)
    held_out = nobody if held_out is None else held_out
    rng = np.random.RandomState(0)
    return initialization.connect(data, settings.weight_density, held_out, rng)


def measure_relevance(data):
    """Sum the features over the experts and measure how much each of them tells."""
    sums = initialization.feature_sums(data.X, data.sample_weight, data.row_experts)
    return initialization.measure_relevance(sums, data.exposure)


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
        frequency, sizes = weight[present[:, j]].sum(), weight @ own
        absent = (frequency > 0) & (frequency * sizes / weight.sum() >= count)
        together = sums[[j]].toarray()[0] > 0
        most = 2 * max(absent.sum(), together.sum()) > len(sizes)
        assert_array_equal(pattern[[j]].toarray()[0] != 0, together | absent | most, str(j))
    assert_allclose(pattern.toarray(), sums.toarray(), rtol=0, atol=1e-29)


@pytest.mark.parametrize("n_experts", [1, 2, 19, 20, 21, 30, 49, 50, 51, 1000, 100_000])
def test_an_absence_is_evidence_from_one_expected_sample_on_or_fewer_with_many_experts(n_experts):
    count = initialization.choose_absence_count(n_experts)
    expected = 1.0 if n_experts <= 20 else 0.4 if n_experts >= 50 else 20 / n_experts
    assert count == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("n_classes", [4, 30])
def test_absences_are_connected_as_the_number_of_experts_asks_for(n_classes):
    rng = np.random.RandomState(0)
    X = sparse.csr_array((rng.uniform(size=(200, 30)) < rng.uniform(0.01, 0.3, 30)) * 1.0)
    data, settings = prepare_training(X, np.arange(200) % n_classes)
    count = initialization.choose_absence_count(n_classes)
    frequency, size = X.sum(axis=0), data.row_experts.sum(axis=0)
    connected = sums_by_loops(data) > 0
    absent = (frequency[:, None] * size / 200 >= count) & (frequency[:, None] > 0)
    most = 2 * np.maximum(connected.sum(axis=1), absent.sum(axis=1)) > n_classes
    wanted = connected | absent | most[:, None]
    assert connected.sum() < wanted.sum() < wanted.size
    _, start = connect(data, settings)
    assert_array_equal(with_values(start, np.ones(start.nnz)).toarray(), wanted)


def relevance_by_loops(data):
    """Divergence over entropy from the definition, one feature and expert at a time."""
    X, own, weight = data.X.toarray(), data.row_experts.toarray(), data.sample_weight
    sums = sums_by_loops(data)
    share = [float(weight[own[:, e] != 0].sum()) for e in range(own.shape[1])]
    share = [value / sum(share) for value in share]
    entropy = -sum(p * log(p) for p in share if p > 0)
    # Samples are added in the unit of the sums: what one sample with the feature adds to them.
    per_sample = sums.sum() / (weight[:, None] * (X != 0)).sum()
    added = initialization.RELEVANCE_SMOOTHING * per_sample
    relevance = []
    for j in range(X.shape[1]):
        divergence = 0.0
        for e, p in enumerate(share):
            q = (sums[j, e] + added * p) / (sums[j].sum() + added)
            divergence += q * log(q / p) if q > 0 else 0.0
        information = divergence / entropy + initialization.RELEVANCE_FLOOR
        relevance.append(information**initialization.RELEVANCE_POWER)
    return np.array(relevance)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("n_experts", [2, 3, 5])
@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_relevance_equals_the_loop(n_experts, negative, weighted, dtype):
    data, _ = draw_training(n_experts=n_experts, negative=negative, weighted=weighted)
    expected = relevance_by_loops(data)
    assert np.ptp(expected) > 0.005
    data = replace(data, X=data.X.astype(dtype), sample_weight=data.sample_weight.astype(dtype))
    relevance = measure_relevance(data)
    assert relevance.dtype == dtype
    assert_allclose(relevance, expected, rtol=1e-11 if dtype == np.float64 else 1e-5)


def test_relevance_counts_a_row_of_weight_two_twice():
    rng = np.random.RandomState(3)
    X, y = draw_counts(), rng.randint(3, size=40)
    weight = rng.randint(1, 4, size=40)
    rows = np.repeat(np.arange(40), weight)
    by_weight, _ = prepare_training(X, y, weight.astype(float))
    by_rows, _ = prepare_training(X[rows], y[rows])
    plain, _ = prepare_training(X, y)
    assert_allclose(measure_relevance(by_weight), measure_relevance(by_rows), rtol=1e-12)
    assert np.abs(measure_relevance(by_weight) - measure_relevance(plain)).max() > 0.01


@pytest.mark.parametrize("factor", [2.0**-20, 1e-3, 37.0, 1e4])
def test_relevance_does_not_depend_on_the_unit_of_the_features(factor):
    data, _ = draw_training()
    changed = replace(data, X=factor * data.X)
    assert_allclose(measure_relevance(changed), measure_relevance(data), rtol=1e-12)


def test_relevance_rises_from_what_is_spread_like_the_classes_to_what_one_class_has():
    y = np.repeat([0, 1, 2], [60, 30, 30])
    own, other = y == 0, np.arange(120) % 6 != 0
    spread, mostly = np.arange(120) % 2 == 0, np.where(own, other, ~other)
    rare = own & (np.arange(120) < 2)
    features = [np.zeros(120), spread, rare, mostly, own]
    data, _ = prepare_training(np.column_stack(features).astype(float), y)
    relevance = measure_relevance(data)
    lowest = initialization.RELEVANCE_FLOOR**initialization.RELEVANCE_POWER
    assert_allclose(relevance[:2], lowest, rtol=1e-12)
    assert np.all(np.diff(relevance[1:]) > 0.01)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_features_that_were_never_seen_have_the_lowest_relevance(dtype):
    data, _ = draw_training()
    seen = np.diff(data.X.tocsc().indptr) > 0
    relevance = measure_relevance(replace(data, X=data.X.astype(dtype)))
    lowest = initialization.RELEVANCE_FLOOR**initialization.RELEVANCE_POWER
    assert (~seen).any()
    assert_allclose(relevance[~seen], lowest, rtol=1e-6)
    # A feature of every sample tells as little, up to the weights that it has in them.
    assert relevance[seen].min() >= lowest * (1 - 1e-6)
    assert np.median(relevance[seen]) > lowest + 0.01


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_no_feature_tells_more_than_another_where_there_is_nothing_to_tell(dtype):
    X = draw_counts(dtype=dtype)
    one_class, _ = prepare_training(X, np.zeros(40))
    empty, _ = prepare_training(sparse.csr_array((6, 4), dtype=dtype), np.arange(6) % 2)
    for data in (one_class, empty):
        relevance = measure_relevance(data)
        assert relevance.dtype == dtype
        assert_array_equal(relevance, np.ones(data.X.shape[1]))
    shared, _ = prepare_training(X, np.zeros(40), n_experts=3)
    assert_allclose(np.ptp(measure_relevance(shared)), 0, atol=1e-5)


def test_experts_without_samples_leave_the_relevance_as_it_is():
    data, _ = draw_training()
    more = sparse.csr_array(np.eye(4)[[0, 2, 3]])  # expert 1 belongs to no class
    relevance = measure_relevance(replace(data, class_experts=more))
    assert_allclose(relevance, measure_relevance(data), rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_connecting_multiplies_the_features_by_their_relevance(dtype):
    data, settings = draw_training()
    data = replace(data, X=data.X.astype(dtype), sample_weight=data.sample_weight.astype(dtype))
    before, geometry, norms = data.X.copy(), data.geometry, data.squared_norms
    scaled, start = connect(data, settings)
    relevance = relevance_by_loops(data)
    tolerance = 1e-12 if dtype == np.float64 else 1e-5
    assert scaled.X.dtype == scaled.relevance.dtype == start.dtype == dtype
    assert_allclose(scaled.relevance, relevance, rtol=tolerance)
    assert_allclose(scaled.X.toarray(), before.toarray() * relevance, rtol=tolerance)
    assert_allclose(scaled.squared_norms, (scaled.X.toarray() ** 2).sum(axis=1), rtol=tolerance)
    assert scaled.geometry.mean_square != geometry.mean_square
    afresh = replace(scaled, relevance=None)
    assert scaled.geometry == afresh.geometry
    # The data that were handed over are as they were.
    assert_array_equal(data.X.toarray(), before.toarray())
    assert data.relevance is None
    assert (data.geometry, data.squared_norms.tolist()) == (geometry, norms.tolist())


def test_the_start_is_naive_bayes_on_features_multiplied_by_their_relevance():
    data, settings = draw_training()
    scaled, start = connect(data, settings)
    by_hand = replace(data, X=sparse.csr_array(data.X.toarray() * relevance_by_loops(data)))
    sums, geometry = sums_by_loops(by_hand), by_hand.geometry
    mass = (by_hand.sample_weight[:, None] * by_hand.X.toarray()).sum(axis=0)[:, None]
    smoothing = initialization.PRIOR_SMOOTHING * sqrt(geometry.mean_square)
    log_odds = np.log((mass + smoothing) / (mass - sums + smoothing))
    expected = initialization.PRIOR_STRENGTH / geometry.bias_feature * log_odds
    assert_allclose(start.toarray(), expected, rtol=1e-10, atol=1e-13)


def keep_apart(data, share=0.3, seed=5):
    """Mark some rows as kept apart."""
    return np.random.RandomState(seed).uniform(size=data.X.shape[0]) < share


def strength_by_polyfit(margins, data, held_out):
    """Slope of the targets +-1 on the dense margins of the held-out rows, times PRIOR_SLOPES."""
    said = data.X.toarray()[held_out] @ margins.toarray()
    targets = np.where(data.row_experts.toarray()[held_out] > 0, 1.0, -1.0)
    weight = np.repeat(data.sample_weight[held_out], said.shape[1])
    slope, _ = np.polyfit(said.ravel(), targets.ravel(), 1, w=np.sqrt(weight))
    return initialization.PRIOR_SLOPES * slope


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_experts", [2, 3, 5])
def test_the_prior_strength_equals_least_squares_on_dense_margins(
    n_experts, weighted, dtype, monkeypatch
):
    data, _ = draw_training(n_experts=n_experts, weighted=weighted)
    held_out = keep_apart(data)
    margins = sparse.random_array(
        (data.X.shape[1], n_experts), density=0.6, rng=np.random.default_rng(2), format="csr",
        data_sampler=np.random.default_rng(3).normal,
    )  # fmt: skip
    expected = strength_by_polyfit(margins, data, held_out)
    assert abs(expected) > 1e-3
    narrow = replace(data, X=data.X.astype(dtype), sample_weight=data.sample_weight.astype(dtype))
    monkeypatch.setattr(initialization, "PRIOR_LIMITS", (-np.inf, np.inf))
    strength = initialization.choose_prior_strength(margins.astype(dtype), narrow, held_out)
    assert strength == pytest.approx(expected, rel=1e-10 if dtype == np.float64 else 1e-4)


def test_the_prior_strength_stays_within_limits():
    data, settings = draw_training()
    held_out = keep_apart(data)
    scaled, margins = connect(data, settings)
    by_fit = strength_by_polyfit(margins, scaled, held_out)
    low, high = initialization.PRIOR_LIMITS
    assert by_fit > 0
    for wanted in (0.1 * low, 1.1 * low, 0.9 * high, 10 * high, -low):
        margins_for = with_values(margins, by_fit / wanted * margins.data)
        strength = initialization.choose_prior_strength(margins_for, scaled, held_out)
        assert strength == pytest.approx(min(max(wanted, low), high), rel=1e-9)


def test_a_held_out_row_of_weight_two_counts_twice_for_the_prior_strength(monkeypatch):
    monkeypatch.setattr(initialization, "PRIOR_LIMITS", (-np.inf, np.inf))
    data, settings = draw_training(weighted=True)
    scaled, margins = connect(data, settings)
    rows = np.repeat(np.arange(40), scaled.sample_weight.astype(int))
    repeated = replace(
        scaled, X=scaled.X[rows], labels=scaled.labels[rows], sample_weight=np.ones(len(rows))
    )
    held_out = keep_apart(data)
    by_weight, by_rows = (
        initialization.choose_prior_strength(margins, *samples)
        for samples in ((scaled, held_out), (repeated, held_out[rows]))
    )
    assert by_weight == pytest.approx(by_rows, rel=1e-12)


@pytest.mark.parametrize("reason", ["no margins", "no weight", "no features", "constant margins"])
def test_the_prior_strength_is_the_default_where_held_out_rows_tell_nothing(reason):
    data, _ = draw_training()
    held_out = keep_apart(data)
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
    strength = initialization.choose_prior_strength(margins, data, held_out)
    assert strength == initialization.PRIOR_STRENGTH


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_what_only_held_out_rows_show_is_connected_and_starts_at_zero(dtype):
    # Feature 2 occurs in class 1 in held-out rows only, feature 3 in no other row at all.
    X = np.zeros((60, 4), dtype)
    y, held_out = np.arange(60) % 3, np.arange(60) < 12
    X[:, 0], X[:, 1] = y == 0, y == 1
    X[[1, 4, 15, 18], 2] = 1
    X[[2, 5], 3] = 1
    data, settings = prepare_training(X, y)
    _, start = connect(data, settings, held_out)
    assert {(2, 1), (3, 2)} <= set(
        zip(*(axis.tolist() for axis in start.tocoo().coords), strict=True)
    )
    assert start[2, 1] == start[3, 2] == 0
    assert start[2, 0] > 0
    _, joined = connect(data, settings)
    assert min(joined[2, 1], joined[3, 2]) > 0


@pytest.mark.parametrize("weighted", [False, True])
def test_the_start_is_naive_bayes_of_the_rows_that_are_not_held_out(weighted):
    data, settings = draw_training(weighted=weighted)
    held_out = keep_apart(data)
    scaled, start = connect(data, settings, held_out)
    kept = replace(scaled, sample_weight=np.where(held_out, 0, scaled.sample_weight))
    mass = (kept.sample_weight[:, None] * kept.X.toarray()).sum(axis=0)[:, None]
    smoothing = initialization.PRIOR_SMOOTHING * sqrt(scaled.geometry.mean_square)
    log_odds = np.log((mass + smoothing) / (mass - sums_by_loops(kept) + smoothing))
    margins = log_odds / scaled.geometry.bias_feature
    strength = strength_by_polyfit(sparse.csr_array(margins), scaled, held_out)
    strength = np.clip(strength, *initialization.PRIOR_LIMITS)
    assert_allclose(start.toarray(), strength * margins, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("n_experts", [3, 5])
def test_held_out_labels_change_the_start_by_one_factor_only(n_experts):
    X, y = make_topic_documents(
        300, 120, 3, n_classes=3, dtype=np.float64, random_state=0, return_X_y=True
    )
    rng = np.random.RandomState(0)
    held_out = np.arange(300) % 4 == 0
    shuffled = y.copy()
    shuffled[held_out] = rng.permutation(y[held_out])
    starts = []
    for labels in (y, shuffled):  # every pair is connected, and the classes are as frequent
        data, settings = prepare_training(X, labels, n_experts=n_experts, weight_density=1.0)
        scaled, start = connect(data, settings, held_out)
        starts.append((scaled, start))
    (scaled, start), (scaled_too, start_too) = starts
    assert_array_equal(start.indptr, start_too.indptr)
    assert_array_equal(start.indices, start_too.indices)
    assert_allclose(scaled.relevance, scaled_too.relevance, rtol=1e-12)
    factor = start_too.data.max() / start.data.max()
    assert_allclose(start_too.data, factor * start.data, rtol=1e-11, atol=1e-20)
    assert factor < 0.9  # labels at random: naive Bayes is trusted less


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_naive_bayes_margins_equal_the_loop(dtype):
    data, _ = draw_training()
    X, weight = data.X.astype(dtype), data.sample_weight.astype(dtype)
    sums = initialization.feature_sums(X, weight, data.row_experts)
    sums = initialization.with_absences(sums, data.exposure, initialization.ABSENCE_COUNT)
    margins = initialization.naive_bayes_margins(sums, X, weight, data.geometry)
    assert margins.dtype == dtype
    unit = sqrt(data.geometry.mean_square)
    mass = (data.sample_weight[:, None] * data.X.toarray()).sum(axis=0)
    inside = sums_by_loops(data)
    rows = np.repeat(np.arange(X.shape[1]), np.diff(sums.indptr))
    for j, e, margin in zip(rows, sums.indices, margins, strict=True):
        smoothing = initialization.PRIOR_SMOOTHING * unit
        log_odds = log((mass[j] + smoothing) / (mass[j] - inside[j, e] + smoothing))
        expected = log_odds / data.geometry.bias_feature
        assert_allclose(margin, expected, rtol=1e-11 if dtype == np.float64 else 1e-5, atol=1e-12)


def test_naive_bayes_margins_are_zero_for_features_that_are_no_counts():
    data, settings = draw_training(negative=True)
    _, start = connect(data, settings)
    assert start.nnz > 0
    assert_array_equal(start.data, 0)


def test_a_pair_that_never_occurred_together_starts_at_zero():
    data, settings = draw_training()
    _, start = connect(data, settings)
    absent = sums_by_loops(data) == 0
    dense = start.toarray()
    assert_array_equal(dense[absent], 0)
    assert dense[~absent].min() > 0


def test_features_are_hidden_from_experts_that_share_a_class_and_from_no_other():
    documents = make_topic_documents(400, 300, 3, n_classes=3, random_state=0)
    X, y = documents.data, documents.target
    alone, settings = prepare_training(X, y, n_experts=3)
    shared, _ = prepare_training(X, y, n_experts=4)  # experts 0 and 3 share class 0
    (_, whole), (_, partly) = (connect(data, settings) for data in (alone, shared))
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


@pytest.mark.parametrize("n_classes", [4, 30])
def test_connecting_more_asks_for_the_absences_that_connecting_asks_for(n_classes):
    X, y = draw_counts(200, 30, fill=0.1), np.arange(200) % n_classes
    data, settings = prepare_training(X, y)
    nothing = model_of(sparse.csr_array((30, n_classes)))
    more = initialization.connect_more(nothing, data, data.exposure).router
    _, start = connect(data, settings)
    assert more.nnz < X.shape[1] * n_classes
    assert_array_equal(more.indptr, start.indptr)
    assert_array_equal(more.indices, start.indices)


@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize("n_experts", [2, 3, 5])
def test_margins_and_scores_are_inverse(n_experts, multilabel):
    data, settings = draw_training(n_experts=n_experts)
    score_map = initialization.choose_score_map(3, multilabel)
    _, start = connect(data, settings)
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
    _, start = connect(data, settings)
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
    assert np.abs(log_odds[~of_known]).max() > 0
    expected = np.where(of_known, 7.0, initialization.PRIOR_STRENGTH * log_odds)
    assert_array_equal(started.data, expected)
