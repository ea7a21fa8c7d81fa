"""Samples of a fit: the experts of classes, exposure, and the scales of the samples."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from word_counts import draw_counts

from skparse import SparseExpertClassifier
from skparse import _csr as csr
from skparse._training import data as training_data
from skparse._training.data import Exposure, build_training_data, share_experts
from skparse.datasets import make_topic_documents


def draw_labels(n_samples=40, n_classes=4, *, multilabel=False):
    """Draw labels: a CSR array (n_samples, n_classes) of ones."""
    rng = np.random.RandomState(1)
    if multilabel:
        return sparse.csr_array((rng.uniform(size=(n_samples, n_classes)) < 0.4).astype(float))
    return sparse.csr_array(np.eye(n_classes)[rng.randint(n_classes, size=n_samples)])


def geometry_of(X, weight=None):
    """Return the geometry of samples of one class."""
    X = sparse.csr_array(X)
    ones = np.ones(X.shape[0])
    labels = sparse.csr_array(ones[:, None])
    weight = ones if weight is None else weight
    return build_training_data(X, labels, weight, sparse.csr_array([[1.0]])).geometry


def use_small_blocks(monkeypatch, n_entries):
    """Divide the rows of matrices into blocks of about so many entries."""
    monkeypatch.setattr(
        training_data, "row_blocks", lambda indptr, n=None: csr.row_blocks(indptr, n_entries)
    )


def experts_for(n_experts, n_classes):
    """Connect classes and experts as the estimator does."""
    if n_experts < n_classes:
        return share_experts(n_experts, n_classes)
    return sparse.eye_array(n_classes, format="csr")


@pytest.mark.parametrize(
    ("n_experts", "n_classes"), [(1, 2), (1, 7), (2, 3), (2, 12), (3, 7), (5, 7), (7, 12)]
)
def test_every_class_has_an_expert_and_every_expert_has_a_class(n_experts, n_classes):
    pairs = share_experts(n_experts, n_classes)
    assert pairs.shape == (n_classes, n_experts)
    assert set(pairs.data) == {1.0}
    assert pairs.sum(axis=1).min() >= 1
    assert pairs.sum(axis=0).min() >= 1


@pytest.mark.parametrize("n_experts", [3, 4, 5, 8])
def test_with_few_experts_classes_have_different_pairs_as_long_as_there_are_pairs(n_experts):
    for n_classes in range(n_experts + 1, n_experts * (n_experts - 1) // 2 + 1):
        pairs = share_experts(n_experts, n_classes).toarray()
        assert_array_equal(pairs.sum(axis=1), 2)
        assert len({tuple(row) for row in pairs}) == n_classes


@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize("n_experts", [2, 4, 9])
def test_a_sample_has_the_experts_of_its_labels(n_experts, multilabel):
    X, labels = draw_counts(), draw_labels(multilabel=multilabel)
    pairs = experts_for(n_experts, 4)
    data = build_training_data(X, labels, np.ones(40), pairs)
    pairs = pairs.toarray() > 0
    expected = [pairs[row > 0].any(axis=0) for row in labels.toarray()]
    assert_array_equal(data.sample_experts.toarray() > 0, expected)
    assert_array_equal(data.class_experts.toarray() > 0, pairs)


@pytest.mark.parametrize("block", [1, 7, 2**20])
@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize("n_experts", [2, 4, 9])
def test_exposure_is_the_sample_weight_with_each_feature_and_expert(
    n_experts, multilabel, block, monkeypatch
):
    use_small_blocks(monkeypatch, block)
    X, labels = draw_counts(), draw_labels(multilabel=multilabel)
    weight = np.random.RandomState(2).uniform(0.2, 3.0, size=40).astype(np.float32)
    data = build_training_data(X, labels, weight, experts_for(n_experts, 4))
    wide = weight.astype(float)
    assert_allclose(data.exposure.feature, wide @ (X.toarray() != 0), rtol=1e-14)
    assert_allclose(data.exposure.expert, wide @ (data.sample_experts.toarray() > 0), rtol=1e-14)
    assert type(data.exposure.total) is float
    assert data.exposure.total == pytest.approx(wide.sum(), rel=1e-14)


def test_exposures_are_added_part_by_part():
    first = Exposure(np.array([1.0, 2.0]), np.array([3.0]), 4.0)
    second = Exposure(np.array([10.0, 20.0]), np.array([30.0]), 40.0)
    both = first.plus(second)
    assert_array_equal(both.feature, [11.0, 22.0])
    assert_array_equal(both.expert, [33.0])
    assert both.total == 44.0
    assert_array_equal(first.feature, [1.0, 2.0])


def test_geometry_measures_the_samples_as_numpy_does():
    rng = np.random.RandomState(0)
    X = rng.poisson(0.5, size=(50, 20)).astype(float)
    weight = rng.uniform(0.5, 2, size=50)
    geometry = geometry_of(X, weight)
    mean_square = np.average((X**2).sum(axis=1), weights=weight)
    per_row = np.average((X != 0).sum(axis=1), weights=weight)
    moment = (X * weight[:, None]).T @ X / weight.sum()
    assert_allclose(geometry.mean_square, mean_square)
    assert_allclose(geometry.bias_feature, np.sqrt(mean_square / per_row))
    largest_share = np.linalg.eigvalsh(moment)[-1] / np.trace(moment)
    assert_allclose(geometry.crowding, largest_share, rtol=0.01)


@pytest.mark.parametrize("n_features", [1, 2])
def test_crowding_is_one_where_all_samples_are_equal(n_features):
    assert_allclose(geometry_of(np.ones((10, n_features))).crowding, 1.0)


def test_crowding_is_one_where_all_samples_lie_on_a_line_of_any_direction():
    line = np.array([1.0, -1.0, 2.0, -2.0])
    assert_allclose(geometry_of(np.outer([1.0, 2.0, -1.0, 0.5], line)).crowding, 1.0)


def test_samples_without_entries_have_a_geometry():
    geometry = geometry_of(sparse.csr_array((4, 3)))
    assert_array_equal(geometry.squared_norms, np.zeros(4))
    assert geometry.nonzeros_per_row == 0
    scales = geometry.mean_square, geometry.bias_feature, geometry.crowding
    assert min(scales) > 0
    assert np.isfinite(scales).all()


@pytest.mark.parametrize("block", [1, 7, 2**20])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_squared_norms_equal_numpy_with_empty_rows_anywhere(dtype, block, monkeypatch):
    use_small_blocks(monkeypatch, block)
    X = np.random.RandomState(0).normal(size=(9, 5)).astype(dtype)
    X[[0, 3, 4, 8]] = 0
    norms = geometry_of(X).squared_norms
    assert norms.dtype == dtype
    assert_allclose(norms, (X**2).sum(axis=1), rtol=1e-6)


def test_the_norm_of_a_small_row_stays_exact_beside_large_rows():
    X = np.array([[1e9, 0], [1, 2], [1e9, 1e9], [3, 0]])
    assert_allclose(geometry_of(X).squared_norms, [1e18, 5, 2e18, 9], rtol=1e-15)


@pytest.mark.parametrize("n_samples", [60, 300])
@pytest.mark.parametrize("factor", [2.0**-10, 1e-3, 37.0, 1e4])
def test_the_unit_of_the_features_does_not_change_the_predictions(factor, n_samples):
    X, y = make_topic_documents(
        n_samples, 80, 4, n_classes=4, dtype=np.float64, random_state=0, return_X_y=True
    )
    model = SparseExpertClassifier(random_state=0).fit(X, y)
    scaled = SparseExpertClassifier(random_state=0).fit(factor * X, y)
    assert_array_equal(scaled.predict(factor * X), model.predict(X))
    assert_allclose(scaled.predict_proba(factor * X), model.predict_proba(X), rtol=1e-6, atol=1e-9)
