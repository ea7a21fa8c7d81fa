"""Calibration inside a fit: the rows that are kept apart, what they choose, and that it helps."""

import pickle
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
from fitted_models import assert_same_model
from numpy.testing import assert_allclose, assert_array_equal
from reference import prepare_training

from skparse import SparseExpertClassifier
from skparse import _calibration as calibration
from skparse import _initialization as initialization
from skparse import _prediction as prediction
from skparse import _training as training
from skparse._engines import choose_engine
from skparse.datasets import make_topic_documents

ENGINES = ["numba", "torch"]


def draw_documents(n_samples=1200, *, wrong=0.0, n_classes=6, seed=0, dtype=np.float64):
    """Draw documents of which a share has another label, drawn at random."""
    X, y = make_topic_documents(
        n_samples, 300, 12, n_classes=n_classes, document_length=20, background_share=0.6,
        dtype=dtype, random_state=seed, return_X_y=True,
    )  # fmt: skip
    rng = np.random.RandomState(seed + 1)
    return X, np.where(rng.uniform(size=n_samples) < wrong, rng.randint(n_classes, size=len(y)), y)


def fit(X, y, **parameters):
    return SparseExpertClassifier(**{"random_state": 0, **parameters}).fit(X, y)


def sharper(model):
    """Factors on scores and outputs of a model."""
    return np.array(model._score_map[-2:])


def default_map(n_classes=6):
    return initialization.choose_score_map(n_classes, multilabel=False)


def log_loss(model, X, y):
    """Mean log-loss; the labels are 0, 1, 2, ..."""
    return -np.log(model.predict_proba(X)[np.arange(len(y)), y]).mean()


def calibrated_map(X, y, sample_weight=None, *, engine="numba", **parameters):
    """Intercept `calibrate` inside of a fit; returns (its arguments, its result)."""
    data, settings = prepare_training(X, y, sample_weight, **parameters)
    calls = []

    def record(*arguments):
        calls.append((arguments, calibrate(*arguments)))
        raise InterruptedError

    calibrate = calibration.calibrate
    with patch.object(calibration, "calibrate", record), pytest.raises(InterruptedError):
        training.train(data, settings, choose_engine(engine, "cpu"), np.random.RandomState(0))
    return calls[0]


def best_map_by_brute_force(parameters, data, held_out, settings, engine):
    """Build and score the model of every pair of factors; returns (map, losses)."""
    score_map, losses = settings.score_map, {}
    rows = np.flatnonzero(held_out)
    own = data.labels.toarray()[rows] > 0
    weight = data.sample_weight[rows]
    for of_scores in calibration.FACTORS:
        for of_outputs in calibration.FACTORS:
            candidate = score_map._replace(
                sharper_scores=score_map.sharper_scores * of_scores,
                sharper_outputs=score_map.sharper_outputs * of_outputs,
            )
            model = initialization.sharpen(parameters, candidate)
            distance = np.log(of_scores) ** 2 + np.log(of_outputs) ** 2
            loss = calibration.DEFAULT_WORTH * weight.mean() * distance
            for top_k, share in (
                (1, calibration.SHARE_OF_ONE),
                (min(settings.top_k, data.class_experts.shape[1]), 1 - calibration.SHARE_OF_ONE),
            ):
                proba = prediction.compute_probabilities(data.X[rows], model, top_k, engine, 1)
                loss -= share * weight @ np.log(proba[own].astype(float))
            losses[candidate] = float(loss)
    return min(losses, key=losses.get), losses


@pytest.mark.parametrize("n_samples", [1, 128, 1023])
def test_no_row_of_small_data_is_kept_apart(n_samples):
    assert_array_equal(
        calibration.choose_held_out(n_samples, False, np.random.RandomState(0)),
        np.zeros(n_samples, bool),
    )


@pytest.mark.parametrize("n_samples", [100, 1024, 100_000])
def test_no_row_with_several_labels_is_kept_apart(n_samples):
    assert_array_equal(
        calibration.choose_held_out(n_samples, True, np.random.RandomState(0)),
        np.zeros(n_samples, bool),
    )


@pytest.mark.parametrize("n_samples", [1024, 1025, 3000, 15_999, 16_000])
def test_one_row_in_sixteen_is_kept_apart(n_samples):
    held_out = calibration.choose_held_out(n_samples, False, np.random.RandomState(0))
    assert held_out.shape == (n_samples,)
    assert held_out.dtype == bool
    for first in range(0, n_samples - 15, 16):
        assert held_out[first : first + 16].sum() == 1


def test_classes_in_turn_are_all_kept_apart():
    held_out = calibration.choose_held_out(3000, False, np.random.RandomState(0))
    assert set(np.flatnonzero(held_out) % 8) == set(range(8))


@pytest.mark.parametrize("n_samples", [16_001, 17_001, 100_000, 999_999, 1_000_001])
def test_at_most_a_thousand_rows_are_kept_apart_all_over_the_data(n_samples):
    held_out = calibration.choose_held_out(n_samples, False, np.random.RandomState(0))
    assert 900 <= held_out.sum() <= 1000
    of_parts = [part.sum() for part in np.array_split(held_out, 10)]
    assert max(of_parts) - min(of_parts) <= 3


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    "parameters",
    [{}, {"top_k": 1}, {"n_experts": 4, "top_k": 3}, {"n_experts": 9, "top_k": 64}],
    ids=str,
)
def test_calibration_equals_brute_force_over_the_grid(parameters, dtype, engine, monkeypatch):
    # A grid of small steps, so that a small mistake in the losses chooses another pair.
    monkeypatch.setattr(calibration, "FACTORS", 2.0 ** (np.arange(-8, 4) / 6))
    X, y = draw_documents(wrong=0.2, dtype=dtype)
    weight = np.random.RandomState(3).uniform(0.2, 3.0, size=len(y))
    arguments, chosen = calibrated_map(X, y, weight, engine=engine, **parameters)
    best, losses = best_map_by_brute_force(*arguments)
    assert losses[best] < min(value for pair, value in losses.items() if pair != best) - 1e-4
    assert best != default_map()
    assert_allclose(chosen, best, rtol=1e-12)
    assert all(type(value) is float for value in chosen[-2:])


@pytest.mark.parametrize("engine", ENGINES)
def test_calibration_leaves_the_model_and_the_rest_of_the_map(engine):
    X, y = draw_documents(wrong=0.3)
    (parameters, data, held_out, settings, how), _ = calibrated_map(X, y)
    before = parameters.copy()
    chosen = calibration.calibrate(
        parameters, data, held_out, settings, choose_engine(engine, "cpu")
    )
    assert chosen[:-2] == settings.score_map[:-2]
    for mine, copy in zip(parameters.arrays(), before.arrays(), strict=True):
        assert_array_equal(mine, copy)


def test_calibration_reads_held_out_rows_only():
    arguments, chosen = calibrated_map(*draw_documents(wrong=0.3))
    parameters, data, held_out, *rest = arguments
    others = np.flatnonzero(~held_out)
    X, labels = data.X.tolil(), data.labels.tolil()
    X[others] = 0
    labels[others] = 1 - data.labels[others].toarray()
    weight = np.where(held_out, data.sample_weight, 77.0)
    changed = replace(data, X=X.tocsr(), labels=labels.tocsr(), sample_weight=weight)
    assert calibration.calibrate(parameters, changed, held_out, *rest) == chosen


def test_held_out_rows_without_weight_leave_the_default():
    arguments, chosen = calibrated_map(*draw_documents(wrong=0.3))
    parameters, data, held_out, settings, engine = arguments
    weightless = replace(data, sample_weight=np.where(held_out, 0.0, data.sample_weight))
    unchanged = calibration.calibrate(parameters, weightless, held_out, settings, engine)
    assert unchanged == settings.score_map != chosen


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_the_unit_of_the_weights_does_not_change_the_calibration(factor):
    arguments, chosen = calibrated_map(*draw_documents(wrong=0.3))
    parameters, data, *rest = arguments
    scaled = replace(data, sample_weight=factor * data.sample_weight)
    assert calibration.calibrate(parameters, scaled, *rest) == chosen


def test_little_evidence_leaves_the_default_and_much_does_not():
    X, y = draw_documents(wrong=0.4)
    (parameters, data, held_out, settings, engine), chosen = calibrated_map(X, y)
    assert chosen != settings.score_map
    one = np.arange(len(held_out)) == np.flatnonzero(held_out)[0]
    of_one = calibration.calibrate(parameters, data, one, settings, engine)
    moves = [np.abs(np.log(np.divide(m[-2:], settings.score_map[-2:]))) for m in (of_one, chosen)]
    assert moves[0].sum() < moves[1].sum()


def silence_some_rows():
    """Empty a third of the held-out rows, so that they keep no expert.

    Returns the arguments of `calibrate` and those rows.
    """
    (parameters, data, held_out, *rest), _ = calibrated_map(*draw_documents(wrong=0.3))
    silent = np.flatnonzero(held_out)[::3]
    X = data.X.tolil()
    X[silent] = 0
    parameters.router_intercept[:] = 0.0
    return (parameters, replace(data, X=X.tocsr()), held_out, *rest), silent


def test_rows_that_keep_no_expert_are_calibrated_with_the_others():
    (parameters, data, held_out, settings, engine), silent = silence_some_rows()
    assert prediction.compute_codes(data.X[silent], parameters, 6, engine, 1).nnz == 0
    best, _ = best_map_by_brute_force(parameters, data, held_out, settings, engine)
    chosen = calibration.calibrate(parameters, data, held_out, settings, engine)
    assert_allclose(chosen, best, rtol=1e-12)


def held_out_loss_by_brute_force(parameters, data, held_out, settings, engine):
    """Loss of the best model of all pairs of factors, plus its probability of wrong classes."""
    best, losses = best_map_by_brute_force(parameters, data, held_out, settings, engine)
    model, total = initialization.sharpen(parameters, best), losses[best]
    top_k = min(settings.top_k, data.class_experts.shape[1])
    for i in np.flatnonzero(held_out):
        row = data.X[[i]]
        proba = prediction.compute_probabilities(row, model, top_k, engine, 1)[0].astype(float)
        own = data.labels[[i]].toarray()[0] > 0
        total += float(data.sample_weight[i]) * proba[~own].sum()
    return total


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("dtype", "rtol"), [(np.float64, 1e-10), (np.float32, 1e-5)])
@pytest.mark.parametrize(
    "parameters",
    [{}, {"top_k": 1}, {"n_experts": 4, "top_k": 3}, {"n_experts": 9, "top_k": 64}],
    ids=str,
)
@pytest.mark.parametrize("n_classes", [2, 6])
def test_the_held_out_loss_equals_that_of_the_best_of_all_models(
    n_classes, parameters, dtype, rtol, engine
):
    X, y = draw_documents(wrong=0.2, dtype=dtype, n_classes=n_classes)
    weight = np.random.RandomState(3).uniform(0.2, 3.0, size=len(y))
    arguments, _ = calibrated_map(X, y, weight, engine=engine, **parameters)
    loss = calibration.held_out_loss(*arguments)
    assert type(loss) is float
    assert loss == pytest.approx(held_out_loss_by_brute_force(*arguments), rel=rtol)


def test_the_held_out_loss_is_that_of_the_calibrated_model_and_its_distance_to_the_default():
    arguments, chosen = calibrated_map(*draw_documents(wrong=0.4))
    parameters, data, held_out, settings, engine = arguments
    loss = calibration.held_out_loss(*arguments)
    calibrated = replace(settings, score_map=chosen)
    with patch.object(calibration, "FACTORS", np.array([1.0])):
        of_default = calibration.held_out_loss(*arguments)
        of_chosen = calibration.held_out_loss(parameters, data, held_out, calibrated, engine)
    moved = np.log(np.divide(chosen[-2:], settings.score_map[-2:]))
    assert np.abs(moved).max() > 0.2
    distance = calibration.DEFAULT_WORTH * (moved**2).sum()  # all rows have the weight 1
    assert loss == pytest.approx(of_chosen + distance, rel=1e-12)
    assert loss < of_default


def test_the_held_out_loss_reads_held_out_rows_only_and_leaves_the_model():
    arguments, _ = calibrated_map(*draw_documents(wrong=0.3))
    parameters, data, held_out, *rest = arguments
    before, others = parameters.copy(), np.flatnonzero(~held_out)
    X, labels = data.X.tolil(), data.labels.tolil()
    X[others] = 0
    labels[others] = 1 - data.labels[others].toarray()
    weight = np.where(held_out, data.sample_weight, 77.0)
    changed = replace(data, X=X.tocsr(), labels=labels.tocsr(), sample_weight=weight)
    loss = calibration.held_out_loss(*arguments)
    assert calibration.held_out_loss(parameters, changed, held_out, *rest) == loss
    for mine, copy in zip(parameters.arrays(), before.arrays(), strict=True):
        assert_array_equal(mine, copy)


def test_rows_that_keep_no_expert_have_a_held_out_loss():
    (parameters, data, held_out, settings, engine), silent = silence_some_rows()
    loss = calibration.held_out_loss(parameters, data, held_out, settings, engine)
    expected = held_out_loss_by_brute_force(parameters, data, held_out, settings, engine)
    assert loss == pytest.approx(expected, rel=1e-10)
    only_silent = np.isin(np.arange(len(held_out)), silent)
    loss = calibration.held_out_loss(parameters, data, only_silent, settings, engine)
    assert loss == pytest.approx(len(silent) * (np.log(6) + 5 / 6), rel=1e-12)


def test_the_held_out_loss_adds_up_sample_weight():
    arguments, _ = calibrated_map(*draw_documents(wrong=0.3))
    parameters, data, held_out, *rest = arguments
    loss = calibration.held_out_loss(*arguments)
    for factor in (0.0, 1e-3, 8.0):
        weighted = replace(data, sample_weight=factor * data.sample_weight)
        assert calibration.held_out_loss(parameters, weighted, held_out, *rest) == pytest.approx(
            factor * loss, rel=1e-12
        )


@pytest.mark.parametrize("wrong", [0.2, 0.4])
@pytest.mark.parametrize("n_classes", [2, 6])
def test_calibration_lowers_the_log_loss_where_labels_are_wrong(n_classes, wrong):
    X, y = draw_documents(2400, wrong=wrong, n_classes=n_classes)
    model = fit(X[:1400], y[:1400])
    with patch.object(calibration, "FACTORS", np.array([1.0])):
        default = fit(X[:1400], y[:1400])
    assert_allclose(sharper(default), default_map(n_classes)[-2:], rtol=1e-15)
    assert log_loss(model, X[1400:], y[1400:]) < log_loss(default, X[1400:], y[1400:]) - 0.01
    for either in (model, default):
        either.set_params(top_k=1)
    assert log_loss(model, X[1400:], y[1400:]) < log_loss(default, X[1400:], y[1400:])


@pytest.mark.parametrize("wrong", [0.0, 0.3, 0.6])
def test_the_model_is_about_as_sure_as_it_is_right(wrong):
    X, y = draw_documents(4000, wrong=wrong)
    model = fit(X[:2500], y[:2500])
    sure = model.predict_proba(X[2500:]).max(axis=1).mean()
    assert sure == pytest.approx(model.score(X[2500:], y[2500:]), abs=0.06)


def test_small_data_and_several_labels_keep_the_default():
    X, y = draw_documents(1100, wrong=0.4)
    assert tuple(fit(X[:1023], y[:1023])._score_map) == default_map()
    assert tuple(fit(X, y)._score_map) != default_map()
    labels = np.eye(6, dtype=int)[y]
    expected = initialization.choose_score_map(6, multilabel=True)
    assert tuple(fit(X, labels)._score_map) == expected


def test_rows_without_weight_are_not_kept_apart():
    X, y = draw_documents(1100, wrong=0.3)
    weight = np.ones(1100)
    weight[::16] = 0
    absent = SparseExpertClassifier(random_state=0).fit(X[weight > 0], y[weight > 0])
    weightless = SparseExpertClassifier(random_state=0).fit(X, y, weight)
    assert_same_model(weightless, absent)
    assert weightless._score_map == absent._score_map


@pytest.mark.parametrize("n_experts", ["auto", 4, 9])
def test_a_calibrated_fit_is_the_same_for_one_thread_and_two(n_experts):
    X, y = draw_documents(2100, wrong=0.3, dtype=np.float32)
    one, two = (fit(X, y, n_experts=n_experts, n_jobs=n_jobs) for n_jobs in (1, 2))
    assert_same_model(one, two)
    assert one._score_map == two._score_map
    assert tuple(one._score_map) != default_map()


@pytest.mark.parametrize("parameters", [{}, {"n_experts": 4}, {"weight_density": 0.3}], ids=str)
def test_a_calibrated_fit_with_torch_equals_one_with_the_kernels(parameters):
    X, y = draw_documents(1040, wrong=0.3)
    of_kernels, of_torch = (
        fit(X, y, engine=engine, max_iter=1, **parameters) for engine in ENGINES
    )
    assert_allclose(of_torch._score_map, of_kernels._score_map, rtol=1e-12)
    assert tuple(of_torch._score_map) != default_map()
    proba = of_kernels.predict_proba(X)
    assert_allclose(of_torch.predict_proba(X), proba, rtol=1e-7, atol=1e-9)


def test_the_unit_of_the_features_does_not_change_the_calibration():
    X, y = draw_documents(1100, wrong=0.3)
    model, scaled = fit(X, y), fit(1e3 * X, y)
    assert model._score_map == scaled._score_map
    assert_allclose(scaled.predict_proba(1e3 * X), model.predict_proba(X), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    "parameters",
    [{}, {"n_experts": 4}, {"n_experts": 9, "top_k": 3}, {"weight_density": 0.3}],
    ids=str,
)
@pytest.mark.parametrize("n_classes", [2, 6])
def test_a_warm_start_that_learns_next_to_nothing_changes_next_to_nothing(n_classes, parameters):
    X, y = draw_documents(1100, wrong=0.4, n_classes=n_classes)
    model = fit(X, y, max_iter=2, warm_start=True, **parameters)
    before, score_map = model.predict_proba(X), model._score_map
    assert tuple(score_map) != default_map(n_classes)
    model.set_params(learning_rate_init=1e-12, max_iter=1).fit(X, y)
    assert model._score_map == score_map
    assert_allclose(model.predict_proba(X), before, rtol=1e-6, atol=1e-8)


def test_a_warm_start_trains_in_the_units_of_the_calibrated_fit():
    # What is handed to the epochs is the model without its factors, as in the fit itself.
    X, y = draw_documents(1100, wrong=0.4)
    model = fit(X, y, max_iter=1, warm_start=True)
    started = []

    def record(parameters, *arguments, **monitors):
        started.append(parameters.copy())
        raise InterruptedError

    with patch.object(training, "run_nested_epochs", record), pytest.raises(InterruptedError):
        model.fit(X, y)
    of_scores, of_outputs = sharper(model)
    router, bias, outputs, _ = started[0]
    assert_allclose(of_scores * router.toarray(), model.router_coef_.toarray(), rtol=1e-12)
    assert_allclose(of_scores * bias, model.router_intercept_, rtol=1e-12)
    assert_allclose(of_outputs * outputs.toarray(), model.expert_coef_.toarray(), rtol=1e-12)


def test_a_stream_goes_on_from_the_margins_of_a_calibrated_fit():
    X, y = draw_documents(1100, wrong=0.4)
    model = fit(X, y)
    started = []

    def record(data, run, *arguments, **options):
        (block,) = run.blocks
        started.append((data.geometry, block.margins, block.bias))
        raise InterruptedError

    with (
        patch.object(training.linear_start, "run_epochs", record),
        pytest.raises(InterruptedError),
    ):
        model.partial_fit(X, y)
    geometry, margins, bias = started[0]
    score_map = initialization.ScoreMap(*model._score_map)
    factor = score_map.sharper_scores * score_map.scale
    assert_allclose(factor * margins.toarray(), model.router_coef_.toarray(), rtol=1e-12)
    shifted = factor * (bias * geometry.bias_feature + score_map.shift)
    assert_allclose(shifted, model.router_intercept_, rtol=1e-12)


@pytest.mark.parametrize("n_classes", [2, 6])
def test_a_stream_keeps_the_sharpness_of_a_calibrated_fit(n_classes):
    X, y = draw_documents(2600, wrong=0.4, n_classes=n_classes)
    model = fit(X[:1500], y[:1500])
    score_map = model._score_map
    before = log_loss(model, X[2000:], y[2000:])
    confidence = model.predict_proba(X[2000:]).max(axis=1).mean()
    for rows in (slice(1500, 1700), slice(1700, 2000)):
        model.partial_fit(X[rows], y[rows])
        assert model._score_map == score_map
        assert log_loss(model, X[2000:], y[2000:]) < before + 0.05
        proba = model.predict_proba(X[2000:])
        assert abs(proba.max(axis=1).mean() - confidence) < 0.08


def test_a_stream_that_fit_did_not_begin_is_not_calibrated():
    X, y = draw_documents(1200, wrong=0.4)
    model = SparseExpertClassifier(random_state=0).partial_fit(X, y, classes=np.arange(6))
    assert tuple(model._score_map) == default_map()
    model.partial_fit(X, y)
    assert tuple(model._score_map) == default_map()


def test_a_new_fit_forgets_the_calibration_of_the_last_one():
    X, y = draw_documents(1100, wrong=0.4)
    small = X[:200], y[:200]
    again, fresh = fit(X, y).fit(*small), fit(*small)
    assert tuple(again._score_map) == default_map()
    assert_same_model(again, fresh)


def test_a_copy_of_a_calibrated_model_learns_on_as_the_model_does():
    X, y = draw_documents(1100, wrong=0.4)
    model = fit(X, y, max_iter=1, warm_start=True)
    restored = pickle.loads(pickle.dumps(model))
    compressed = model.compress(dtype=None)
    for copy in (restored, compressed):
        assert copy._score_map == model._score_map
        assert all(type(value) is float for value in copy._score_map)
        assert_array_equal(copy.predict_proba(X), model.predict_proba(X))
    for name in ("fit", "partial_fit"):
        mine, theirs = (pickle.loads(pickle.dumps(m)) for m in (model, restored))
        getattr(mine, name)(X[:500], y[:500])
        getattr(theirs, name)(X[:500], y[:500])
        assert_same_model(mine, theirs)
        assert tuple(mine._score_map) != default_map()
