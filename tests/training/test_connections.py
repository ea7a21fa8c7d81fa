"""Which router weights exist, and how relevant features are."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from stages import prepare, run
from word_counts import (
    draw_counts,
    mass_by_loops,
    mass_of,
    model_with_router,
    prepare_counts,
    relevance_by_loops,
    stored_pairs,
)

from skparse import SparseExpertClassifier
from skparse._csr import with_values
from skparse._training import connections
from skparse._training.connections import (
    add_absences,
    connect,
    grow_connections,
    limit_density,
    measure_relevance,
)
from skparse._training.data import Exposure
from skparse._training.held_out import hold_out
from skparse._training.text_clusters import choose_experts
from skparse.datasets import make_topic_documents


def relevance_of(data):
    return measure_relevance(mass_of(data), data.exposure)


def data_of(X, y, sample_weight=None, **parameters):
    """Return the training data of samples."""
    return prepare(X, y, sample_weight, **parameters)[1].data


LOWEST_RELEVANCE = connections.RELEVANCE_FLOOR**connections.RELEVANCE_POWER


@pytest.mark.parametrize("count", [0.0, 0.5, 2.0, 5.0, 1e9])
def test_absences_are_the_pairs_that_would_occur_if_feature_and_expert_were_independent(count):
    data = prepare_counts()[1].data
    present = data.X.toarray() != 0
    own, weight = data.sample_experts.toarray() != 0, data.sample_weight
    mass = mass_of(data)
    pattern = add_absences(mass, data.exposure, count)
    for j in range(present.shape[1]):
        frequency, sizes = weight[present[:, j]].sum(), weight @ own
        absent = (frequency > 0) & (frequency * sizes / weight.sum() >= count)
        together = mass[[j]].toarray()[0] > 0
        most = 2 * max(absent.sum(), together.sum()) > len(sizes)
        assert_array_equal(pattern[[j]].toarray()[0] != 0, together | absent | most, str(j))
    assert_allclose(pattern.toarray(), mass.toarray(), rtol=0, atol=1e-29)


@pytest.mark.parametrize("n_experts", [2, 19, 20, 21, 30, 49, 50, 51, 1000, 100_000])
def test_one_expected_sample_makes_an_absence_and_fewer_do_with_many_experts(n_experts):
    count = 1.0 if n_experts <= 20 else 0.4 if n_experts >= 50 else 20 / n_experts
    # Half of the samples have expert 0. Feature 0 has just too few samples, feature 1 enough.
    expected = count * np.array([1 - 1e-9, 1 + 1e-9])
    exposure = Exposure(2 * expected, np.eye(1, n_experts)[0] * 500, 1000.0)
    last = n_experts - 1
    mass = sparse.csr_array(([1.0, 1.0], ([0, 1], [last, last])), shape=(2, n_experts))
    assert stored_pairs(add_absences(mass, exposure)) == {(0, last), (1, 0), (1, last)}


@pytest.mark.parametrize("n_classes", [4, 30])
def test_connect_adds_the_absences_for_that_number_of_experts(n_classes):
    rng = np.random.RandomState(0)
    X = sparse.csr_array((rng.uniform(size=(200, 30)) < rng.uniform(0.01, 0.3, 30)) * 1.0)
    problem, draft = prepare(X, np.arange(200) % n_classes)
    count = 1.0 if n_classes == 4 else 20 / 30
    frequency, size = X.sum(axis=0), problem.data.sample_experts.sum(axis=0)
    together = mass_by_loops(problem.data) > 0
    absent = (frequency[:, None] * size / 200 >= count) & (frequency[:, None] > 0)
    most = 2 * np.maximum(together.sum(axis=1), absent.sum(axis=1)) > n_classes
    expected = together | absent | most[:, None]
    assert together.sum() < expected.sum() < expected.size
    margins = run(problem, draft, hold_out, connect).margins
    assert_array_equal(with_values(margins, np.ones(margins.nnz)).toarray(), expected)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("n_experts", [2, 3, 5])
@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_relevance_equals_the_loop(n_experts, negative, weighted, dtype):
    options = {"n_experts": n_experts, "negative": negative, "weighted": weighted}
    expected = relevance_by_loops(prepare_counts(**options)[1].data)
    assert np.ptp(expected) > 0.005
    relevance = relevance_of(prepare_counts(dtype=dtype, **options)[1].data)
    assert relevance.dtype == dtype
    assert_allclose(relevance, expected, rtol=1e-11 if dtype == np.float64 else 1e-5)


def test_relevance_counts_a_sample_of_weight_two_twice():
    rng = np.random.RandomState(3)
    X, y = draw_counts(), rng.randint(3, size=40)
    weight = rng.randint(1, 4, size=40)
    rows = np.repeat(np.arange(40), weight)
    by_weight = relevance_of(data_of(X, y, weight.astype(float)))
    by_rows = relevance_of(data_of(X[rows], y[rows]))
    assert_allclose(by_weight, by_rows, rtol=1e-12)
    assert np.abs(by_weight - relevance_of(data_of(X, y))).max() > 0.01


@pytest.mark.parametrize("factor", [2.0**-20, 1e-3, 37.0, 1e4])
def test_relevance_does_not_depend_on_the_unit_of_the_features(factor):
    data = prepare_counts()[1].data
    changed = replace(data, X=factor * data.X)
    assert_allclose(relevance_of(changed), relevance_of(data), rtol=1e-12)


def test_relevance_is_larger_the_more_a_feature_is_that_of_one_class():
    y = np.repeat([0, 1, 2], [60, 30, 30])
    own, other = y == 0, np.arange(120) % 6 != 0
    spread, mostly = np.arange(120) % 2 == 0, np.where(own, other, ~other)
    rare = own & (np.arange(120) < 2)
    features = [np.zeros(120), spread, rare, mostly, own]
    relevance = relevance_of(data_of(np.column_stack(features).astype(float), y))
    assert_allclose(relevance[:2], LOWEST_RELEVANCE, rtol=1e-12)
    assert np.all(np.diff(relevance[1:]) > 0.01)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_features_that_were_never_seen_have_the_lowest_relevance(dtype):
    data = prepare_counts(dtype=dtype)[1].data
    seen = np.diff(data.X.tocsc().indptr) > 0
    relevance = relevance_of(data)
    assert (~seen).any()
    assert_allclose(relevance[~seen], LOWEST_RELEVANCE, rtol=1e-6)
    # A feature of every sample has as little information, up to the weights it has in them.
    assert relevance[seen].min() >= LOWEST_RELEVANCE * (1 - 1e-6)
    assert np.median(relevance[seen]) > LOWEST_RELEVANCE + 0.01


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_all_features_have_the_same_relevance_where_none_has_information(dtype):
    X = draw_counts(dtype=dtype)
    one_class = data_of(X, np.zeros(40))
    empty = data_of(sparse.csr_array((6, 4), dtype=dtype), np.arange(6) % 2)
    for data in (one_class, empty):
        relevance = relevance_of(data)
        assert relevance.dtype == dtype
        assert_array_equal(relevance, np.ones(data.X.shape[1]))
    shared = data_of(X, np.zeros(40), n_experts=3)
    assert_allclose(np.ptp(relevance_of(shared)), 0, atol=1e-5)


def test_experts_without_samples_do_not_change_the_relevance():
    data = prepare_counts()[1].data
    mass, exposure = mass_of(data), data.exposure
    wider = sparse.csr_array(np.insert(mass.toarray(), 1, 0.0, axis=1))
    seen = exposure._replace(expert=np.insert(exposure.expert, 1, 0.0))
    assert_allclose(measure_relevance(wider, seen), relevance_of(data), rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_connect_multiplies_the_features_by_their_relevance(dtype):
    problem, draft = prepare_counts(dtype=dtype)
    before, geometry = problem.data.X.copy(), problem.data.geometry
    relevance = relevance_by_loops(prepare_counts()[1].data)
    draft = connect(problem, draft)
    data, tolerance = draft.data, 1e-12 if dtype == np.float64 else 1e-5
    assert data.X.dtype == data.relevance.dtype == draft.margins.dtype == dtype
    assert_allclose(data.relevance, relevance, rtol=tolerance)
    assert_allclose(data.X.toarray(), before.toarray() * relevance, rtol=tolerance)
    norms = (data.X.toarray() ** 2).sum(axis=1)
    assert_allclose(data.geometry.squared_norms, norms, rtol=tolerance)
    assert data.geometry.mean_square != geometry.mean_square
    # The data of the problem stay as they were.
    assert_array_equal(problem.data.X.toarray(), before.toarray())
    assert problem.data.relevance is None
    assert problem.data.geometry is geometry


def connections_of_experts(n_experts):
    """Connect documents of four classes; returns the features of every expert, a list of sets."""
    X, y = make_topic_documents(400, 300, 4, n_classes=4, random_state=0, return_X_y=True)
    problem, draft = prepare(X, y, n_experts=n_experts)
    pairs = stored_pairs(run(problem, draft, hold_out, choose_experts, connect).margins)
    return [{j for j, e in pairs if e == expert} for expert in range(n_experts)]


def test_features_are_dropped_from_experts_that_classes_share(monkeypatch):
    dropped = connections_of_experts(3)
    monkeypatch.setattr(connections, "FEATURE_DROPOUT", 0.0)
    for some, every in zip(dropped, connections_of_experts(3), strict=True):
        assert some < every
        assert_allclose(1 - len(some) / len(every), 0.1, atol=0.06)
    for e, features in enumerate(dropped):
        assert features not in dropped[:e]


@pytest.mark.parametrize("n_experts", [4, 9])
def test_no_feature_is_dropped_from_experts_that_belong_to_one_class(n_experts, monkeypatch):
    found = connections_of_experts(n_experts)
    monkeypatch.setattr(connections, "FEATURE_DROPOUT", 0.9)
    assert connections_of_experts(n_experts) == found


@pytest.mark.parametrize("weight_density", [0.05, 0.3, 0.8, 1.0])
def test_a_density_is_the_share_of_weights_that_a_fit_keeps(weight_density):
    X, y = make_topic_documents(300, 120, 4, n_classes=4, random_state=0, return_X_y=True)
    seen = np.diff(sparse.csc_array(X).indptr) > 0
    X = sparse.csr_array(X)[:, seen]
    model = SparseExpertClassifier(weight_density=weight_density, random_state=0).fit(X, y)
    assert model.router_coef_.nnz == round(weight_density * X.shape[1] * 4)


@pytest.mark.parametrize("weight_density", [0.3, 0.8, 1.0])
def test_connect_makes_at_least_the_weights_of_a_density(weight_density):
    problem, draft = prepare_counts(weight_density=weight_density)
    margins = connect(problem, draft).margins
    n_seen = np.count_nonzero(np.diff(problem.data.X.tocsc().indptr))
    assert margins.nnz >= weight_density * n_seen * 3
    assert margins.nnz <= n_seen * 3


def test_limiting_the_density_keeps_the_most_influential_weights():
    rng = np.random.RandomState(1)
    dense = rng.normal(size=(12, 3)) * (rng.uniform(size=(12, 3)) < 0.8)
    problem, draft = prepare_counts(weight_density=10 / dense.size)
    model = model_with_router(sparse.csr_array(dense))
    router = limit_density(problem, replace(draft, model=model)).model.router
    scale = np.sqrt(draft.data.sample_weight @ draft.data.X.toarray() ** 2)
    influence = scale[:, None] * np.abs(dense)
    expected = np.where(influence >= np.sort(influence, axis=None)[-10], dense, 0)
    assert router.nnz == 10
    assert_array_equal(router.toarray(), expected)
    assert_array_equal(model.router.toarray(), dense)


@pytest.mark.parametrize("weight_density", ["auto", 0.5])
def test_limiting_the_density_does_not_change_a_model_that_is_sparse_enough(weight_density):
    problem, draft = prepare_counts(weight_density=weight_density)
    model = model_with_router(sparse.csr_array(np.eye(12, 3)))
    assert limit_density(problem, replace(draft, model=model)).model is model


def test_grown_connections_keep_every_weight_and_add_weights_of_zero():
    problem, draft = prepare_counts()
    scaling = draft.scaling._replace(score_factor=1.0, output_factor=1.0)
    old = sparse.random_array((12, 3), density=0.4, rng=np.random.default_rng(0), format="csr")
    old.data[0] = 0.0  # a stored zero is a connection too
    draft = replace(draft, model=model_with_router(old), scaling=scaling)
    grown = grow_connections(problem, draft)
    router = grown.model.router
    assert router.has_canonical_format
    assert_array_equal(router.toarray(), old.toarray())
    together = mass_of(draft.data)
    assert stored_pairs(old) | stored_pairs(together) <= stored_pairs(router)
    assert_array_equal(grown.new_features, np.diff(old.indptr) == 0)
    assert grown.new_features.any() and not grown.new_features.all()


def test_growing_connections_undoes_the_calibration_of_the_model():
    problem, draft = prepare_counts()
    scaling = draft.scaling._replace(score_factor=1.5, output_factor=4.0)
    old = sparse.random_array((12, 3), density=0.4, rng=np.random.default_rng(0), format="csr")
    calibrated = model_with_router(old)
    model = grow_connections(problem, replace(draft, model=calibrated, scaling=scaling)).model
    assert_allclose(model.router.toarray(), old.toarray() / 1.5)
    assert_allclose(model.router_intercept, calibrated.router_intercept / 1.5)
    assert_allclose(model.outputs.toarray(), calibrated.outputs.toarray() / 4)
    assert_allclose(model.intercept, calibrated.intercept / 4)


@pytest.mark.parametrize("n_classes", [4, 30])
def test_a_first_model_grows_the_connections_that_connect_makes(n_classes):
    X, y = draw_counts(200, 30, fill=0.1), np.arange(200) % n_classes
    problem, draft = prepare(X, y)
    router = grow_connections(problem, draft).model.router
    margins = run(problem, draft, hold_out, connect).margins
    assert router.nnz < X.shape[1] * n_classes
    assert_array_equal(router.indptr, margins.indptr)
    assert_array_equal(router.indices, margins.indices)


def test_earlier_samples_of_a_stream_count_for_the_absences():
    problem, draft = prepare(draw_counts(200, 30, fill=0.1), np.arange(200) % 30)
    own = problem.data.exposure
    # Seen in proportion, ten times as often: more pairs were to be expected.
    earlier = Exposure(9 * own.feature, 9 * own.expert, 9 * own.total)
    first, later = (
        grow_connections(problem, replace(draft, earlier=known)).model.router
        for known in (None, earlier)
    )
    assert stored_pairs(first) < stored_pairs(later)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_model_without_margins_gives_every_expert_the_same_score(n_classes):
    problem, draft = prepare_counts(n_classes)
    grown = grow_connections(problem, draft)
    model = grown.model
    assert model.router.shape == (12, n_classes)
    assert_array_equal(model.router.data, 0)
    assert model.router_intercept.min() == model.router_intercept.max() > 0
    assert grown.new_features.all()
