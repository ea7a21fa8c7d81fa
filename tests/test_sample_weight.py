"""Weights of samples and classes: what they are equivalent to."""

import numpy as np
import pytest
from fitted_models import assert_same_model
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.utils import compute_sample_weight

from skparse import SparseExpertClassifier
from skparse.datasets import make_topic_documents


@pytest.fixture(scope="module")
def documents():
    return make_topic_documents(
        400, 200, 6, n_classes=3, document_length=20, dtype=np.float64, random_state=0,
        return_X_y=True,
    )  # fmt: skip


def fit(X, y, sample_weight=None, **parameters):
    return SparseExpertClassifier(random_state=0, **parameters).fit(X, y, sample_weight)


def test_weights_of_one_are_no_weights(documents):
    X, y = documents
    assert_same_model(fit(X, y, np.ones(400)), fit(X, y))
    assert_same_model(fit(X, y, [1] * 400), fit(X, y))


def test_a_weight_of_zero_is_an_absent_sample(documents):
    X, y = documents
    weight = np.arange(400) % 3 / 2.0
    kept = weight > 0
    weighted, shorter = fit(X, y, weight), fit(X[kept], y[kept], weight[kept])
    assert_same_model(weighted, shorter)
    assert_array_equal(weighted.expert_load_, shorter.expert_load_)
    assert weighted.loss_curve_ == shorter.loss_curve_


@pytest.mark.parametrize(
    "parameters", [{}, {"top_k": 1}, {"n_experts": 7}, {"weight_density": 0.2}]
)
def test_in_small_data_a_weight_of_two_is_a_repeated_sample(documents, parameters):
    X, y = documents[0][:60], documents[1][:60]
    weight = np.arange(60) % 3
    rows = np.random.default_rng(0).permutation(np.repeat(np.arange(60), weight))
    weighted, repeated = fit(X, y, weight, **parameters), fit(X[rows], y[rows], **parameters)
    for method in ("predict_proba", "decision_function"):
        assert_allclose(
            getattr(weighted, method)(documents[0]),
            getattr(repeated, method)(documents[0]),
            rtol=1e-7,
            atol=1e-9,
        )


def test_a_heavier_class_becomes_more_probable(documents):
    X, y = documents
    noisy = np.where(np.arange(400) % 4 == 0, (y + 1) % 3, y)
    heavy = fit(X, noisy, np.where(noisy == 2, 5.0, 1.0)).predict_proba(X).mean(axis=0)
    assert heavy[2] > fit(X, noisy).predict_proba(X).mean(axis=0)[2] + 0.01


def test_class_weights_multiply_the_sample_weights(documents):
    X, y = documents
    weight, class_weight = np.linspace(0.5, 2, 400), {0: 1.0, 1: 0.5, 2: 4.0}
    factors = compute_sample_weight(class_weight, y)
    model = fit(X, y, weight, class_weight=class_weight)
    assert_same_model(model, fit(X, y, weight * factors))


def test_balanced_classes_have_the_same_total_weight(documents):
    X, y = documents
    y = np.where(np.arange(400) % 2, 0, y)
    weight = np.linspace(0.5, 2, 400)
    totals = np.bincount(y, weight)
    balanced = weight * (weight.sum() / (3 * totals))[y]
    assert_same_model(fit(X, y, weight, class_weight="balanced"), fit(X, y, balanced))
    factors = compute_sample_weight("balanced", y)
    assert_same_model(fit(X, y, class_weight="balanced"), fit(X, y, factors))


@pytest.mark.parametrize("n_labels", [0, 4])
def test_balanced_weights_are_those_of_repeated_samples_and_ignore_weights_of_zero(n_labels):
    rng = np.random.RandomState(0)
    X = sparse.random_array((100, 20), density=0.4, rng=rng, format="csr")
    y = rng.randint(3, size=100) if not n_labels else (rng.rand(100, n_labels) < 0.3).astype(int)
    weight = rng.randint(0, 3, size=100)
    model = fit(X, y, weight, class_weight="balanced")
    used = weight > 0
    assert_same_model(model, fit(X[used], y[used], weight[used], class_weight="balanced"))
    rows = np.repeat(np.arange(100), weight)
    repeated = fit(X[rows], y[rows], class_weight="balanced", batch_size=len(rows))
    weighted = fit(X, y, weight, class_weight="balanced", batch_size=len(rows))
    assert_allclose(weighted.predict_proba(X), repeated.predict_proba(X), atol=1e-9)


def test_balanced_weights_of_a_hundred_labels_are_the_geometric_mean_over_the_labels():
    rng = np.random.RandomState(0)
    Y = (rng.rand(300, 100) < 0.05).astype(int)
    X = sparse.csr_array(Y @ rng.rand(100, 150) * (rng.rand(300, 150) < 0.5))
    sides = np.where(Y == 1, 300 / (2 * Y.sum(axis=0)), 300 / (2 * (300 - Y.sum(axis=0))))
    expected = fit(X, Y, np.exp(np.log(sides).mean(axis=1)))
    found = fit(X, Y, class_weight="balanced")
    assert_allclose(found.predict_proba(X), expected.predict_proba(X), rtol=1e-6)


def test_class_weights_of_several_labels_multiply(documents):
    X, y = documents
    Y = np.eye(3, dtype=int)[y]
    weights = [{0: 1.0, 1: 3.0}, {0: 1.0, 1: 1.0}, {0: 2.0, 1: 1.0}]
    product = np.where(Y[:, 0], 3.0, 1.0) * np.where(Y[:, 2], 1.0, 2.0)
    assert_same_model(fit(X, Y, class_weight=weights), fit(X, Y, product))


def test_a_class_without_weight_stays_a_class_and_is_never_predicted(documents):
    X, y = documents
    model = fit(X, y, np.where(y == 1, 0.0, 1.0))
    assert model.classes_.tolist() == [0, 1, 2]
    assert (model.predict(X) != 1).all()
    assert model.predict_proba(X)[:, 1].max() < 0.5


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (np.zeros(400), "Sample weights must contain at least one non-zero number"),
        (np.linspace(-1, 1, 400), "[Nn]egative values"),
        (np.ones(399), "sample_weight.shape"),
        (np.ones((400, 2)), "Sample weights must be 1D"),
        (np.full(400, np.nan), "sample_weight contains NaN"),
    ],
    ids=["zero", "negative", "short", "two-dimensional", "nan"],
)
def test_impossible_weights_are_refused(documents, method, weight, message):
    X, y = documents
    model = SparseExpertClassifier(random_state=0).partial_fit(X, y, classes=[0, 1, 2])
    with pytest.raises(ValueError, match=message):
        getattr(model, method)(X, y, sample_weight=weight)


def test_a_stream_drops_samples_without_weight(documents):
    X, y = documents
    kept = np.arange(400) % 2 == 0
    weighted, shorter = (SparseExpertClassifier(random_state=0) for _ in range(2))
    weighted.partial_fit(X, y, classes=[0, 1, 2], sample_weight=kept * 2.0)
    shorter.partial_fit(X[kept], y[kept], classes=[0, 1, 2], sample_weight=np.full(200, 2.0))
    assert_same_model(weighted, shorter)


def test_class_weights_of_a_stream_may_name_classes_that_a_batch_lacks(documents):
    X, y = documents
    model = SparseExpertClassifier(random_state=0, class_weight={0: 2.0, 3: 4.0})
    weight = np.where(y == 0, 2.0, 1.0)
    expected = SparseExpertClassifier(random_state=0)
    expected.partial_fit(X, y, classes=[0, 1, 2, 3], sample_weight=weight)
    assert_same_model(model.partial_fit(X, y, classes=[0, 1, 2, 3]), expected)


def test_the_weight_that_a_model_has_seen_is_recorded(documents):
    X, y = documents
    weight = np.arange(400) % 3
    model = fit(X, y, weight)
    assert model.t_ == pytest.approx(weight.sum())
    assert model.partial_fit(X[:100], y[:100]).t_ == pytest.approx(weight.sum() + 100)


def test_a_stream_refuses_weights_that_need_all_samples():
    X, y = np.eye(4), np.arange(4)
    model = SparseExpertClassifier(class_weight="balanced")
    with pytest.raises(ValueError, match="class_weight='balanced' is not possible in partial_fit"):
        model.partial_fit(X, y, classes=y)
