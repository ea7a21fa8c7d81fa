"""The linear start: its scales, its independence of threads and units, and how well it fits."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from reference import prepare_training
from scipy import sparse
from sklearn.svm import LinearSVC

from skparse import SparseExpertClassifier, _kernels
from skparse import _linear_start as linear_start
from skparse import _training as training
from skparse.datasets import make_topic_documents


def draw_documents(n_samples=500, n_features=300, *, n_classes=6, seed=0, dtype=np.float64):
    """Draw documents of a linear task, scaled to unit rows as TF-IDF is."""
    X, y = make_topic_documents(
        n_samples, n_features, 12, n_classes=n_classes, facet_share=0.0, dtype=dtype,
        random_state=seed, return_X_y=True,
    )  # fmt: skip
    X = sparse.csr_array(X)
    norms = np.sqrt(X.multiply(X).sum(axis=1))
    return sparse.csr_array(X.multiply(1 / norms[:, None]).astype(dtype)), y


class OnlyLinearEngine:
    """The kernels, without the epochs that follow the linear start."""

    linear_epoch = staticmethod(_kernels.linear_epoch)

    @staticmethod
    def nested_epoch(*arguments):
        return 1.0, 0.0


def train_start(data, settings):
    """Model that the linear start hands to the nested epochs, up to the scale of its scores."""
    rng = np.random.RandomState(0)
    return training.train(data, settings, OnlyLinearEngine(), rng).parameters


def scores_of_start(data, settings):
    """Router scores of the training samples after the linear start."""
    model = train_start(data, settings)
    return data.X @ model.router.toarray() + model.router_intercept


def assert_same_start(mine, theirs, **tolerance):
    for left, right in zip(mine.arrays(), theirs.arrays(), strict=True):
        assert_allclose(left, right, **tolerance)


def geometry_of(X, weight):
    return linear_start.measure_geometry(X, weight, linear_start.squared_norms(X))


def test_geometry_measures_the_rows_as_numpy_does():
    rng = np.random.RandomState(0)
    X = rng.poisson(0.5, size=(50, 20)).astype(float)
    weight = rng.uniform(0.5, 2, size=50)
    geometry = geometry_of(sparse.csr_array(X), weight)
    mean_square = np.average((X**2).sum(axis=1), weights=weight)
    per_row = np.average((X != 0).sum(axis=1), weights=weight)
    moment = (X * weight[:, None]).T @ X / weight.sum()
    assert_allclose(geometry.mean_square, mean_square)
    assert_allclose(geometry.bias_feature, np.sqrt(mean_square / per_row))
    largest_share = np.linalg.eigvalsh(moment)[-1] / np.trace(moment)
    assert_allclose(geometry.crowding, largest_share, rtol=0.01)


@pytest.mark.parametrize("n_features", [1, 2])
def test_crowding_is_one_where_all_rows_are_alike(n_features):
    X = sparse.csr_array(np.ones((10, n_features)))
    geometry = geometry_of(X, np.ones(10))
    assert_allclose(geometry.crowding, 1.0)


def test_crowding_is_one_where_all_rows_lie_on_a_line_of_any_direction():
    line = np.array([1.0, -1.0, 2.0, -2.0])
    X = sparse.csr_array(np.outer([1.0, 2.0, -1.0, 0.5], line))
    geometry = geometry_of(X, np.ones(4))
    assert_allclose(geometry.crowding, 1.0)


def test_rows_without_entries_have_a_geometry():
    X = sparse.csr_array((4, 3))
    geometry = geometry_of(X, np.ones(4))
    assert min(geometry) > 0
    assert np.isfinite(geometry).all()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_squared_norms_equal_numpy_with_empty_rows_anywhere(dtype):
    X = np.random.RandomState(0).normal(size=(9, 5)).astype(dtype)
    X[[0, 3, 4, 8]] = 0
    norms = linear_start.squared_norms(sparse.csr_array(X))
    assert norms.dtype == dtype
    assert_allclose(norms, (X**2).sum(axis=1), rtol=1e-6)


def test_the_norm_of_a_small_row_survives_large_neighbours():
    X = np.array([[1e9, 0], [1, 2], [1e9, 1e9], [3, 0]])
    norms = linear_start.squared_norms(sparse.csr_array(X))
    assert_allclose(norms, [1e18, 5, 2e18, 9], rtol=1e-15)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("n_threads", [2, 3, 4, 6, 50])
def test_any_number_of_threads_gives_the_same_bits(n_threads, dtype):
    data, settings = prepare_training(*draw_documents(dtype=dtype))
    alone, together = (train_start(data, replace(settings, n_threads=n)) for n in (1, n_threads))
    assert_same_start(together, alone, rtol=0, atol=0)


def test_threads_give_the_same_bits_with_shared_classes_and_multilabel_targets():
    X, y = draw_documents()
    labels = np.column_stack([y == 0, y % 2, y > 2]).astype(int)
    for target, n_experts in ((y, 10), (y, 4), (y, 37), (labels, "auto"), (labels, 2)):
        data, settings = prepare_training(X, target, n_experts=n_experts)
        alone = train_start(data, settings)
        for n_threads in (2, 3, 5):
            together = train_start(data, replace(settings, n_threads=n_threads))
            assert_same_start(together, alone, rtol=0, atol=0)


@pytest.mark.parametrize("n_samples", [100, 600])
@pytest.mark.parametrize("n_classes", [2, 6])
def test_the_start_fits_about_as_well_as_linear_svc(n_classes, n_samples):
    X, y = draw_documents(n_samples, n_classes=n_classes)
    accuracy = np.mean(scores_of_start(*prepare_training(X, y)).argmax(axis=1) == y)
    assert accuracy >= LinearSVC(random_state=0).fit(X, y).score(X, y) - 0.01


def test_the_start_separates_dense_data_of_few_features():
    rng = np.random.RandomState(0)
    X = np.concatenate([rng.normal(size=(150, 2)), rng.normal(size=(150, 2)) + [6, 6]])
    y = np.repeat([0, 1], 150)
    assert np.mean(scores_of_start(*prepare_training(X, y)).argmax(axis=1) == y) >= 0.99


def test_the_penalty_shrinks_the_weights():
    X, y = draw_documents()
    X.data *= np.random.RandomState(0).choice([-1, 1], size=X.nnz)  # starts at zero margins
    norms = [
        np.linalg.norm(train_start(*prepare_training(X, y, alpha=alpha)).router.data)
        for alpha in (0.1, 1.0, 10.0, 100.0)
    ]
    assert norms == sorted(norms, reverse=True)
    assert norms[-1] < 0.2 * norms[0]


@pytest.mark.parametrize("factor", [2.0**-10, 37.0, 1e4])
def test_the_margins_do_not_depend_on_the_unit_of_the_features(factor):
    X, y = draw_documents()
    model, scaled = (train_start(*prepare_training(unit * X, y)) for unit in (1.0, factor))
    scaled.router.data[:] *= factor
    assert_same_start(scaled, model, rtol=1e-7, atol=1e-9)


def test_a_weight_of_two_is_a_row_given_twice_in_full_batches():
    X, y = draw_documents(40, 60, n_classes=3)
    weight = np.random.RandomState(0).randint(1, 4, size=40)
    repeated = np.repeat(np.arange(40), weight)
    by_weight = train_start(*prepare_training(X, y, weight.astype(float)))
    by_rows = train_start(*prepare_training(X[repeated], y[repeated]))
    assert len(repeated) <= training.SMALL_SAMPLE
    assert_same_start(by_weight, by_rows, rtol=1e-9, atol=1e-11)


def test_the_order_of_the_rows_does_not_matter_in_full_batches():
    X, y = draw_documents(60, 60, n_classes=3)
    rows = np.random.RandomState(0).permutation(60)
    in_order, shuffled = (
        train_start(*prepare_training(X[some], y[some])) for some in (slice(None), rows)
    )
    assert_same_start(shuffled, in_order, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("n_samples", [100, 500, 6000])
def test_a_whole_fit_is_the_same_for_any_number_of_threads(n_samples):
    X, y = draw_documents(n_samples)
    one, *others = (
        SparseExpertClassifier(n_jobs=n_jobs, random_state=0).fit(X, y) for n_jobs in (1, 2, 5)
    )
    for other in others:
        assert_array_equal(one.router_coef_.data, other.router_coef_.data)
        assert_array_equal(one.router_intercept_, other.router_intercept_)
        assert_array_equal(one.expert_coef_.data, other.expert_coef_.data)
        assert_array_equal(one.predict_proba(X), other.predict_proba(X))
