"""Held-out samples inside a fit: which they are, how a model is measured, what is calibrated."""

from dataclasses import replace

import numpy as np
import pytest
from documents import draw_noisy_documents
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from stages import prepare, run

from skparse._engines import get_engine
from skparse._predictor import Predictor
from skparse._training import held_out
from skparse._training.connections import connect
from skparse._training.held_out import (
    FACTOR_PENALTY,
    OUTPUT_FACTORS,
    SCORE_FACTORS,
    calibrate,
    hold_out,
    measure_held_out,
)
from skparse._training.linear import run_linear, start_linear
from skparse._training.scores import multiply_scores
from skparse._training.text_clusters import choose_experts

ENGINES = ["numba", "torch"]
PARAMETERS = [{}, {"top_k": 1}, {"n_experts": 4, "top_k": 3}, {"n_experts": 9, "top_k": 64}]


def draw_held_out(n_samples, *, multilabel=False):
    """Return the held-out samples of data of one feature, (n_samples,) of bool."""
    X = sparse.csr_array(np.ones((n_samples, 1)))
    y = np.ones((n_samples, 2), int) if multilabel else np.arange(n_samples) % 2
    return run(*prepare(X, y), hold_out).held_out


def train_linear(X, y, sample_weight=None, *, engine="numba", **parameters):
    """Run all stages before the calibration; returns (problem, draft)."""
    problem, draft = prepare(X, y, sample_weight, engine=get_engine(engine, "cpu"), **parameters)
    return problem, run(
        problem, draft, hold_out, choose_experts, connect, start_linear, run_linear
    )


def with_data(draft, **changes):
    return replace(draft, data=replace(draft.data, **changes))


def factors_of(draft):
    return np.array([draft.scaling.score_factor, draft.scaling.output_factor])


@pytest.fixture(scope="module")
def trained():
    """A problem and a draft before its calibration; three labels in ten are wrong."""
    return train_linear(*draw_noisy_documents(wrong=0.3))


@pytest.fixture(scope="module")
def with_empty_rows(trained):
    """The same, but a third of the held-out samples have no feature and keep no expert."""
    problem, draft = trained
    empty = np.flatnonzero(draft.held_out)[::3]
    X = draft.data.X.tolil()
    X[empty] = 0
    model = draft.model._replace(router_intercept=np.zeros(6))
    codes = Predictor(model, problem.engine, 1).codes(X.tocsr()[empty], 6)
    assert codes.nnz == 0
    return problem, replace(with_data(draft, X=X.tocsr()), model=model), empty


def with_other_training_rows(draft):
    """Change features, labels and weights of all samples that are not held out."""
    data, others = draft.data, np.flatnonzero(~draft.held_out)
    X, labels = data.X.tolil(), data.labels.tolil()
    X[others] = 0
    labels[others] = 1 - data.labels[others].toarray()
    weight = np.where(draft.held_out, data.sample_weight, 77.0)
    return with_data(draft, X=X.tocsr(), labels=labels.tocsr(), sample_weight=weight)


def measure_by_brute_force(problem, draft):
    """Build the model of every pair of factors and score its probabilities.

    Returns the log-losses with the penalty of the factors, and at the best pair the loss: the
    log-loss and the probabilities of the wrong classes.
    """
    data, rows = draft.data, np.flatnonzero(draft.held_out)
    own, weight = data.labels.toarray()[rows] > 0, data.sample_weight[rows].astype(float)
    max_k = min(problem.options.top_k, data.class_experts.shape[1])
    shape = len(held_out.SCORE_FACTORS), len(held_out.OUTPUT_FACTORS)
    losses, misses = np.zeros(shape), np.zeros(shape)
    for i, of_scores in enumerate(held_out.SCORE_FACTORS):
        for j, of_outputs in enumerate(held_out.OUTPUT_FACTORS):
            factors = factors_of(draft) * (of_scores, of_outputs)
            predictor = Predictor(multiply_scores(draft.model, *factors), problem.engine, 1)
            distance = np.log(of_scores) ** 2 + np.log(of_outputs) ** 2
            losses[i, j] = FACTOR_PENALTY * weight.mean() * distance
            proba = predictor.logits(data.X[rows], max_k, as_probabilities=True)
            losses[i, j] -= weight @ np.log(proba[own].astype(float))
            misses[i, j] = weight @ (1 - proba[own].astype(float))
    best = losses.argmin()
    return losses, losses.flat[best] + misses.flat[best]


# hold_out


@pytest.mark.parametrize("n_samples", [1, 128, 1023])
def test_no_sample_of_small_data_is_held_out(n_samples):
    assert_array_equal(draw_held_out(n_samples), np.zeros(n_samples, bool), strict=True)


@pytest.mark.parametrize("n_samples", [100, 1024, 100_000])
def test_no_sample_of_a_multilabel_target_is_held_out(n_samples):
    found = draw_held_out(n_samples, multilabel=True)
    assert_array_equal(found, np.zeros(n_samples, bool), strict=True)


@pytest.mark.parametrize("n_samples", [1024, 1025, 3000, 15_999, 16_000])
def test_one_sample_in_sixteen_is_held_out(n_samples):
    found = draw_held_out(n_samples)
    assert found.shape == (n_samples,)
    assert found.dtype == bool
    for first in range(0, n_samples - 15, 16):
        assert found[first : first + 16].sum() == 1


def test_samples_at_all_places_of_their_sixteen_are_held_out():
    # Data whose classes take turns have held-out samples of every class.
    assert set(np.flatnonzero(draw_held_out(3000)) % 8) == set(range(8))


@pytest.mark.parametrize("n_samples", [16_001, 17_001, 63_999, 64_001, 100_000, 999_999])
def test_a_thousand_or_one_in_64_are_held_out_and_from_all_parts_of_the_data(n_samples):
    found = draw_held_out(n_samples)
    most = max(1000, n_samples // 64)
    assert 0.9 * most <= found.sum() <= most
    of_parts = [part.sum() for part in np.array_split(found, 10)]
    assert max(of_parts) - min(of_parts) <= 3


# measure_held_out


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("dtype", "rtol"), [(np.float64, 1e-10), (np.float32, 1e-5)])
@pytest.mark.parametrize("parameters", PARAMETERS, ids=str)
@pytest.mark.parametrize("n_classes", [2, 6])
def test_held_out_losses_equal_those_of_the_models_of_all_factors(
    n_classes, parameters, dtype, rtol, engine
):
    X, y = draw_noisy_documents(n_classes=n_classes, wrong=0.2, dtype=dtype)
    weight = np.random.RandomState(3).uniform(0.2, 3.0, size=len(y))
    problem, draft = train_linear(X, y, weight, engine=engine, **parameters)
    by_factors, loss = measure_held_out(problem, draft, draft.model)
    expected = measure_by_brute_force(problem, draft)
    assert_allclose(by_factors, expected[0], rtol=rtol)
    assert type(loss) is float
    assert loss == pytest.approx(expected[1], rel=rtol)


def test_samples_that_keep_no_expert_have_losses_like_the_others(with_empty_rows):
    problem, draft, empty = with_empty_rows
    by_factors, loss = measure_held_out(problem, draft, draft.model)
    expected = measure_by_brute_force(problem, draft)
    assert_allclose(by_factors, expected[0], rtol=1e-10)
    assert loss == pytest.approx(expected[1], rel=1e-10)
    only_empty = np.isin(np.arange(len(draft.held_out)), empty)
    loss = measure_held_out(problem, replace(draft, held_out=only_empty), draft.model).loss
    assert loss == pytest.approx(len(empty) * (np.log(6) + 5 / 6), rel=1e-12)


def test_the_held_out_loss_is_that_of_the_calibrated_model_plus_the_penalty(trained, monkeypatch):
    problem, draft = trained
    calibrated = calibrate(problem, draft)
    loss = measure_held_out(problem, draft, draft.model).loss
    monkeypatch.setattr(held_out, "SCORE_FACTORS", np.ones(1))
    monkeypatch.setattr(held_out, "OUTPUT_FACTORS", np.ones(1))
    of_default, of_calibrated = (
        measure_held_out(problem, d, draft.model).loss for d in (draft, calibrated)
    )
    moved = np.log(factors_of(calibrated) / factors_of(draft))
    assert np.abs(moved).max() > 0.2
    penalty = FACTOR_PENALTY * (moved**2).sum()  # all samples have the weight 1
    assert loss == pytest.approx(of_calibrated + penalty, rel=1e-12)
    assert loss < of_default


def test_measuring_reads_held_out_samples_only_and_leaves_the_model(trained):
    problem, draft = trained
    before = draft.model.copy()
    losses = measure_held_out(problem, draft, draft.model)
    changed = measure_held_out(problem, with_other_training_rows(draft), draft.model)
    assert_array_equal(changed.by_factors, losses.by_factors)
    assert changed.loss == losses.loss
    for mine, copy in zip(draft.model.values(), before.values(), strict=True):
        assert_array_equal(mine, copy)


@pytest.mark.parametrize("factor", [0.0, 1e-3, 8.0])
def test_held_out_losses_are_summed_in_sample_weight(factor, trained):
    problem, draft = trained
    losses = measure_held_out(problem, draft, draft.model)
    weighted = with_data(draft, sample_weight=factor * draft.data.sample_weight)
    found = measure_held_out(problem, weighted, draft.model)
    assert found.loss == pytest.approx(factor * losses.loss, rel=1e-12)
    assert_allclose(found.by_factors, factor * losses.by_factors, rtol=1e-12)


# calibrate


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("parameters", PARAMETERS, ids=str)
def test_calibration_finds_the_factors_of_the_best_of_all_models(
    parameters, dtype, engine, monkeypatch
):
    # A grid of small steps, so that a small mistake in the losses chooses another pair.
    factors = 2.0 ** (np.arange(-8, 4) / 6)
    monkeypatch.setattr(held_out, "SCORE_FACTORS", factors)
    monkeypatch.setattr(held_out, "OUTPUT_FACTORS", factors)
    X, y = draw_noisy_documents(wrong=0.2, dtype=dtype)
    weight = np.random.RandomState(3).uniform(0.2, 3.0, size=len(y))
    problem, draft = train_linear(X, y, weight, engine=engine, **parameters)
    losses, _ = measure_by_brute_force(problem, draft)
    first, second = np.sort(losses.ravel())[:2]
    assert first < second - 1e-4
    of_scores, of_outputs = np.unravel_index(losses.argmin(), losses.shape)
    expected = factors_of(draft) * (factors[of_scores], factors[of_outputs])
    assert (expected != factors_of(draft)).any()
    calibrated = calibrate(problem, draft)
    assert_allclose(factors_of(calibrated), expected, rtol=1e-12)
    assert all(type(value) is float for value in calibrated.scaling[-2:])


def test_samples_that_keep_no_expert_are_calibrated_with_the_others(with_empty_rows):
    problem, draft, _ = with_empty_rows
    losses, _ = measure_by_brute_force(problem, draft)
    best = np.unravel_index(losses.argmin(), losses.shape)
    expected = factors_of(draft) * (SCORE_FACTORS[best[0]], OUTPUT_FACTORS[best[1]])
    assert_allclose(factors_of(calibrate(problem, draft)), expected, rtol=1e-12)


@pytest.mark.parametrize("engine", ENGINES)
def test_calibration_changes_nothing_but_factors_and_temperatures(engine, trained):
    problem, draft = trained
    problem = replace(problem, engine=get_engine(engine, "cpu"))
    before = draft.model.copy()
    calibrated = calibrate(problem, draft)
    assert calibrated.scaling[:-3] == draft.scaling[:-3]
    assert calibrated.scaling != draft.scaling
    assert calibrated.temperatures.shape == (6,)
    unchanged = replace(calibrated, scaling=draft.scaling, temperatures=None)
    assert all(getattr(unchanged, name) is part for name, part in vars(draft).items())
    for mine, copy in zip(draft.model.values(), before.values(), strict=True):
        assert_array_equal(mine, copy)


def test_calibration_reads_held_out_samples_only(trained):
    problem, draft = trained
    changed = with_other_training_rows(draft)
    assert calibrate(problem, changed).scaling == calibrate(problem, draft).scaling


def test_held_out_samples_without_weight_leave_the_default(trained):
    problem, draft = trained
    weight = np.where(draft.held_out, 0.0, draft.data.sample_weight)
    weightless = with_data(draft, sample_weight=weight)
    assert calibrate(problem, weightless).scaling == draft.scaling
    assert calibrate(problem, draft).scaling != draft.scaling


def test_without_held_out_samples_nothing_is_calibrated(trained):
    problem, draft = trained
    draft = replace(draft, held_out=np.zeros_like(draft.held_out))
    assert calibrate(problem, draft) is draft


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_the_unit_of_the_weights_does_not_change_the_calibration(factor, trained):
    problem, draft = trained
    scaled = with_data(draft, sample_weight=factor * draft.data.sample_weight)
    assert calibrate(problem, scaled).scaling == calibrate(problem, draft).scaling


def test_one_sample_moves_the_factors_less_than_all_held_out_samples(trained):
    problem, draft = trained
    one = np.arange(len(draft.held_out)) == np.flatnonzero(draft.held_out)[0]
    of_one, of_all = (
        factors_of(calibrate(problem, d)) for d in (replace(draft, held_out=one), draft)
    )
    moves = [np.abs(np.log(found / factors_of(draft))).sum() for found in (of_one, of_all)]
    assert moves[0] < moves[1]
