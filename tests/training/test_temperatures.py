"""Temperatures of the sparsity levels: the least log-loss at each, and no other prediction."""

import numpy as np
import pytest
from documents import draw_noisy_documents
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.datasets import make_classification

from skparse import SparseExpertClassifier
from skparse._model import SparseExpertModel
from skparse._training.temperatures import (
    TEMPERATURES,
    choose_temperatures,
    find_temperature,
    keep_largest,
    level_logits,
)


def draw_logits(factor, n_samples=3000, n_classes=5, seed=0):
    """Draw labels from the softmax of logits; return the logits times a factor, and labels."""
    rng = np.random.RandomState(seed)
    logits = rng.normal(0, 2, (n_samples, n_classes))
    noise = rng.gumbel(size=logits.shape)
    return factor * logits, (logits + noise).argmax(axis=1)


def loss_at(temperature, logits, labels, weight):
    return weight @ -log_softmax(logits / temperature, axis=1)[np.arange(len(labels)), labels]


@pytest.mark.parametrize("factor", [0.8, 1.0, 3.0, 20.0])
def test_a_temperature_has_the_least_log_loss(factor):
    logits, labels = draw_logits(factor)
    weight = np.random.RandomState(1).uniform(0.2, 3.0, len(labels))
    found = find_temperature(logits, labels, weight)
    losses = [loss_at(t, logits, labels, weight) for t in TEMPERATURES]
    assert found == TEMPERATURES[np.argmin(losses)]
    least = minimize_scalar(
        lambda log: loss_at(np.exp(log), logits, labels, weight), bounds=(-2, 5), method="bounded"
    ).x
    assert abs(np.log(found) - least) < np.log(TEMPERATURES[1] / TEMPERATURES[0])
    assert_allclose(found, factor, rtol=0.2)


def test_the_levels_between_powers_of_two_are_interpolated():
    pairs = {1: draw_logits(8.0), 2: draw_logits(4.0), 4: draw_logits(2.0)}
    labels = pairs[1][1]
    found = choose_temperatures(lambda k: pairs[k][0], labels, np.ones(len(labels)), 5)
    assert len(found) == 5
    assert found[-1] == 1.0
    assert_allclose(found[[0, 1, 3]], [8, 4, 2], rtol=0.2)
    third = np.interp(np.log2(3), [1, 2], np.log2(found[[1, 3]]))
    assert_allclose(found[2], 2**third, rtol=1e-12)


def test_of_one_level_the_temperature_is_one():
    def no_logits(level):
        raise AssertionError

    assert_array_equal(choose_temperatures(no_logits, np.zeros(3, int), np.ones(3), 1), [1.0])


def test_the_largest_entries_of_a_row_are_kept_the_first_of_equal_ones():
    rows = np.array([[0.2, 0.0, 0.5, 0.3], [0.4, 0.2, 0.2, 0.2], [0, 0, 0, 0], [1.0, 0, 0, 0]])
    codes = sparse.csr_array(rows)
    kept = keep_largest(codes, 2).toarray()
    expected = [[0, 0, 0.5, 0.3], [0.4, 0.2, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]]
    assert_array_equal(kept, expected)
    assert_array_equal(codes.toarray(), rows)


@pytest.mark.parametrize("level", [1, 2, 5])
def test_logits_of_a_level_are_those_of_the_model_with_factors(level):
    X, y = draw_noisy_documents(400)
    classifier = SparseExpertClassifier(top_k=5, random_state=0).fit(X, y)
    before, codes = classifier._model, classifier.transform(X)
    wider = before._replace(
        router=2.0 * before.router, router_intercept=2 * before.router_intercept,
        outputs=3.0 * before.outputs, intercept=3 * before.intercept, temperatures=None,
    )  # fmt: skip
    classifier.router_coef_, classifier.expert_coef_ = wider.router, wider.outputs
    classifier.router_intercept_, classifier.intercept_ = wider.router_intercept, wider.intercept
    classifier.temperatures_ = None
    expected = classifier.set_params(top_k=level).decision_function(X)
    logits = level_logits(codes, before, level, of_scores=2.0, of_outputs=3.0)
    assert_allclose(logits, expected, rtol=1e-9, atol=1e-9)


def dense_table(n_samples):
    return make_classification(
        n_samples, 10, n_informative=6, n_classes=3, n_clusters_per_class=2, random_state=0
    )


@pytest.mark.parametrize(
    ("draw", "parameters"),
    [
        (lambda n: draw_noisy_documents(n, wrong=0.2), {}),
        (lambda n: draw_noisy_documents(n, wrong=0.2), {"max_iter": 4}),
        (lambda n: draw_noisy_documents(3 * n, wrong=0.2), {"max_iter": 4}),
        (dense_table, {}),
    ],
    ids=["mixture", "cross-fitted", "held out", "dense"],
)
def test_every_level_is_calibrated_and_predicts_the_same(draw, parameters):
    X, y = draw(2000)
    n_test = X.shape[0] // 2
    model = SparseExpertClassifier(random_state=0, **parameters).fit(X[n_test:], y[n_test:])
    temperatures = model.temperatures_
    assert len(temperatures) == model.top_k_
    assert temperatures[-1] == 1.0
    rows = np.arange(n_test)
    for level in (1, 2, 4):
        model.set_params(top_k=level)
        tempered, predicted = model.predict_proba(X[:n_test]), model.predict(X[:n_test])
        model.temperatures_ = None
        assert_array_equal(model.predict(X[:n_test]), predicted)
        plain = model.decision_function(X[:n_test])
        model.temperatures_ = temperatures
        expected = np.exp(log_softmax(plain / temperatures[level - 1], axis=1))
        assert_allclose(tempered, expected, rtol=1e-9, atol=1e-12)
        loss = -np.log(tempered[rows, y[:n_test]]).mean()
        losses = [loss_at(t, plain, y[:n_test], np.ones(n_test)) / n_test for t in TEMPERATURES]
        assert loss < min(losses) + 0.02


def test_a_level_above_the_known_ones_has_the_temperature_one():
    X, y = draw_noisy_documents(400)
    model = SparseExpertClassifier(top_k=2, warm_start=True, random_state=0).fit(X, y)
    first = model.temperatures_
    model.set_params(top_k=4).fit(X, y)
    assert_array_equal(model.temperatures_, first)
    assert model._model.temperature(1) == first[0]
    assert model._model.temperature(3) == model._model.temperature(4) == 1.0


def test_multilabel_targets_and_the_smallest_data_have_no_temperatures():
    X, y = draw_noisy_documents(300)
    labels = SparseExpertClassifier(random_state=0).fit(X, np.eye(6, dtype=int)[y])
    small = SparseExpertClassifier(random_state=0).fit(X[:100], y[:100])
    assert labels.temperatures_ is None
    assert small.temperatures_ is None


@pytest.mark.parametrize(
    "wrong", [[0.0, 1.0], [-1.0, 1.0], [np.nan, 1.0], [[1.0]], [], "hot", 2.0]
)
def test_temperatures_that_are_none_are_refused(wrong):
    X, y = draw_noisy_documents(300)
    model = SparseExpertClassifier(random_state=0).fit(X, y)
    model.temperatures_ = np.array(wrong)
    with pytest.raises(ValueError, match="temperatures_"):
        model.predict(X)


def test_a_copy_of_a_model_has_its_temperatures_and_prior_logits():
    X, y = draw_noisy_documents(300)
    model = SparseExpertClassifier(random_state=0).fit(X, y)._model
    copy = model.copy()
    assert isinstance(copy, SparseExpertModel)
    assert_array_equal(copy.temperatures, model.temperatures)
    assert_array_equal(copy.prior_logits, model.prior_logits)
