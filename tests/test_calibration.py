"""Calibrated estimators: that it helps, and what warm starts, streams and copies make of it.

A given number of epochs asks for the recipe with held-out samples, for any number of classes.
"""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from documents import draw_noisy_documents
from fitted_models import assert_same_model
from numpy.testing import assert_allclose, assert_array_equal
from stages import IdleEngine, prepare, run

from skparse import SparseExpertClassifier
from skparse._training import cross_calibration, held_out, stream_choices
from skparse._training.completion import complete_model
from skparse._training.connections import grow_connections
from skparse._training.linear import advance_linear
from skparse._training.scores import ScoreScaling, default_scaling

ENGINES = ["numba", "torch"]


def fit(X, y, **parameters):
    return SparseExpertClassifier(**{"random_state": 0, "max_iter": 4, **parameters}).fit(X, y)


def scaling_of(model):
    return ScoreScaling(*model._score_scaling)


def without_calibration(n_classes=6):
    return default_scaling(n_classes, multilabel=False)


def log_loss(model, X, y):
    """Mean log-loss; the labels are 0, 1, 2, ..."""
    return -np.log(model.predict_proba(X)[np.arange(len(y)), y]).mean()


def continue_fit(model, X, y, **options):
    """Return what another fit of a fitted model begins with: (problem, draft)."""
    problem, draft = prepare(X, y, engine=IdleEngine())
    problem = replace(problem, options=replace(problem.options, **options))
    return problem, replace(draft, model=model._model, scaling=scaling_of(model))


@pytest.mark.parametrize("wrong", [0.2, 0.4])
@pytest.mark.parametrize("n_classes", [2, 6])
def test_calibration_lowers_the_log_loss_where_labels_are_wrong(n_classes, wrong, monkeypatch):
    X, y = draw_noisy_documents(2400, n_classes, wrong=wrong)
    model = fit(X[:1400], y[:1400])
    for module in (held_out, cross_calibration):
        monkeypatch.setattr(module, "SCORE_FACTORS", np.ones(1))
        monkeypatch.setattr(module, "OUTPUT_FACTORS", np.ones(1))
    default = fit(X[:1400], y[:1400])
    assert_allclose(scaling_of(default), without_calibration(n_classes), rtol=1e-15)
    assert log_loss(model, X[1400:], y[1400:]) < log_loss(default, X[1400:], y[1400:]) - 0.01


@pytest.mark.parametrize("wrong", [0.0, 0.3, 0.6])
def test_the_mean_probability_of_the_predicted_class_is_close_to_the_accuracy(wrong):
    X, y = draw_noisy_documents(4000, wrong=wrong)
    model = fit(X[:2500], y[:2500])
    confidence = model.predict_proba(X[2500:]).max(axis=1).mean()
    assert confidence == pytest.approx(model.score(X[2500:], y[2500:]), abs=0.06)


def test_the_smallest_data_and_multilabel_targets_are_not_calibrated():
    X, y = draw_noisy_documents(1100, wrong=0.4)
    assert scaling_of(fit(X[:128], y[:128])) == without_calibration()
    for n_samples in (129, 1023, 1100):
        assert scaling_of(fit(X[:n_samples], y[:n_samples])) != without_calibration()
    of_labels = scaling_of(fit(X, np.eye(6, dtype=int)[y]))
    assert of_labels == default_scaling(6, multilabel=True)


def test_samples_without_weight_are_not_held_out():
    X, y = draw_noisy_documents(1100)
    weight = np.ones(1100)
    weight[::16] = 0
    absent = SparseExpertClassifier(max_iter=4, random_state=0).fit(X[weight > 0], y[weight > 0])
    weightless = SparseExpertClassifier(max_iter=4, random_state=0).fit(X, y, weight)
    assert_same_model(weightless, absent)
    assert scaling_of(weightless) == scaling_of(absent)


@pytest.mark.parametrize("n_experts", ["auto", 4, 9])
def test_a_calibrated_fit_is_the_same_for_one_thread_and_two(n_experts):
    X, y = draw_noisy_documents(2100, dtype=np.float32)
    one, two = (fit(X, y, n_experts=n_experts, n_jobs=n_jobs) for n_jobs in (1, 2))
    assert_same_model(one, two)
    assert scaling_of(one) == scaling_of(two) != without_calibration()


@pytest.mark.parametrize("parameters", [{}, {"n_experts": 4}, {"weight_density": 0.3}], ids=str)
def test_a_calibrated_fit_with_torch_equals_one_with_numba(parameters):
    X, y = draw_noisy_documents(1040)
    of_numba, of_torch = (fit(X, y, engine=engine, max_iter=1, **parameters) for engine in ENGINES)
    assert_allclose(scaling_of(of_torch), scaling_of(of_numba), rtol=1e-12)
    assert scaling_of(of_torch) != without_calibration()
    proba = of_numba.predict_proba(X)
    assert_allclose(of_torch.predict_proba(X), proba, rtol=1e-7, atol=1e-9)


def test_the_unit_of_the_features_does_not_change_the_calibration():
    X, y = draw_noisy_documents(1100)
    model, scaled = fit(X, y), fit(1e3 * X, y)
    assert scaling_of(model) == scaling_of(scaled)
    assert_allclose(scaled.predict_proba(1e3 * X), model.predict_proba(X), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    "parameters",
    [{}, {"n_experts": 4}, {"n_experts": 9, "top_k": 3}, {"weight_density": 0.3}],
    ids=str,
)
@pytest.mark.parametrize("n_classes", [2, 6])
def test_a_warm_start_with_tiny_steps_hardly_changes_the_probabilities(n_classes, parameters):
    X, y = draw_noisy_documents(1100, n_classes, wrong=0.4)
    model = fit(X, y, max_iter=2, warm_start=True, **parameters)
    before, scaling = model.predict_proba(X), scaling_of(model)
    assert scaling != without_calibration(n_classes)
    model.set_params(learning_rate_init=1e-12, max_iter=1).fit(X, y)
    assert scaling_of(model) == scaling
    assert_allclose(model.predict_proba(X), before, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("n_classes", [2, 6])
def test_a_warm_start_trains_the_model_without_its_calibration(n_classes):
    X, y = draw_noisy_documents(1100, n_classes, wrong=0.4)
    model = fit(X, y, max_iter=1)
    in_training = run(*continue_fit(model, X, y), grow_connections).model
    of_scores, of_outputs, of_b2 = scaling_of(model).factors
    assert scaling_of(model) != without_calibration(n_classes)
    router, bias, outputs, intercept, *_ = in_training
    assert_allclose(of_scores * router.toarray(), model.router_coef_.toarray(), rtol=1e-12)
    assert_allclose(of_scores * bias, model.router_intercept_, rtol=1e-12)
    assert_allclose(of_outputs * outputs.toarray(), model.expert_coef_.toarray(), rtol=1e-12)
    assert_allclose(of_outputs * of_b2 * intercept, model.intercept_, rtol=1e-12)


@pytest.mark.parametrize("n_classes", [2, 6])
def test_the_linear_epochs_of_a_stream_begin_at_a_calibrated_fit(n_classes):
    X, y = draw_noisy_documents(1100, n_classes, wrong=0.4)
    model = fit(X, y)
    problem, draft = continue_fit(model, X, y, in_stream=True, full_batch=False)
    draft = run(problem, draft, grow_connections, advance_linear)
    assert len(problem.engine.calls["linear_epoch"]) == 2
    # The engine has taken no step, so the epochs end where they began.
    after = complete_model(problem, draft, draft.model)
    router, expected = after.router.toarray(), model.router_coef_.toarray()
    if n_classes == 2:  # a single margin: of the two experts, only the difference is trained
        router, expected = (np.diff(weights, axis=1) for weights in (router, expected))
    assert_allclose(router, expected, rtol=1e-12, atol=1e-15)
    assert_allclose(after.router_intercept, model.router_intercept_, rtol=1e-12)
    assert_allclose(after.outputs.toarray(), model.expert_coef_.toarray(), rtol=1e-12)
    assert_allclose(after.intercept, model.intercept_, rtol=1e-12)


@pytest.mark.parametrize("n_classes", [2, 6])
def test_a_stream_keeps_the_calibration_of_a_fit(n_classes):
    X, y = draw_noisy_documents(2600, n_classes, wrong=0.4)
    model = fit(X[:1500], y[:1500])
    scaling = scaling_of(model)
    before = log_loss(model, X[2000:], y[2000:])
    confidence = model.predict_proba(X[2000:]).max(axis=1).mean()
    for rows in (slice(1500, 1700), slice(1700, 2000)):
        model.partial_fit(X[rows], y[rows])
        assert scaling_of(model) == scaling
        assert log_loss(model, X[2000:], y[2000:]) < before + 0.05
        proba = model.predict_proba(X[2000:])
        assert abs(proba.max(axis=1).mean() - confidence) < 0.08


def test_a_stream_that_does_not_begin_with_fit_is_calibrated_from_enough_samples(monkeypatch):
    X, y = draw_noisy_documents(6000, wrong=0.4)
    model, without = (SparseExpertClassifier(random_state=0) for _ in range(2))
    model.partial_fit(X[:1000], y[:1000], classes=np.arange(6))
    assert scaling_of(model) == without_calibration()
    assert_array_equal(model.intercept_, 0)
    without.partial_fit(X[:1000], y[:1000], classes=np.arange(6))
    model.partial_fit(X[1000:5000], y[1000:5000])
    monkeypatch.setattr(stream_choices, "MIN_RESERVOIR_ROWS", 10**6)
    without.partial_fit(X[1000:5000], y[1000:5000])
    assert scaling_of(model) != scaling_of(without) == without_calibration()
    assert log_loss(model, X[5000:], y[5000:]) < log_loss(without, X[5000:], y[5000:])


def test_a_new_fit_does_not_use_the_calibration_of_the_last_one():
    X, y = draw_noisy_documents(1100, wrong=0.4)
    small = X[:100], y[:100]
    again, fresh = fit(X, y).fit(*small), fit(*small)
    assert scaling_of(again) == without_calibration()
    assert_same_model(again, fresh)


def test_a_copy_of_a_calibrated_model_is_trained_further_like_the_model():
    X, y = draw_noisy_documents(1100, wrong=0.4)
    model = fit(X, y, max_iter=1, warm_start=True)
    restored = pickle.loads(pickle.dumps(model))
    compressed = model.compress(dtype=None)
    for copy in (restored, compressed):
        assert scaling_of(copy) == scaling_of(model)
        assert all(type(value) is float for value in scaling_of(copy))
        assert_array_equal(copy.predict_proba(X), model.predict_proba(X))
    for name in ("fit", "partial_fit"):
        mine, theirs = (pickle.loads(pickle.dumps(m)) for m in (model, restored))
        getattr(mine, name)(X[:500], y[:500])
        getattr(theirs, name)(X[:500], y[:500])
        assert_same_model(mine, theirs)
        assert scaling_of(mine) != without_calibration()
