"""The last steps to a finished model: b2 is calibrated on the held-out samples."""

from dataclasses import replace

import numpy as np
import pytest
from documents import draw_noisy_documents
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax
from stages import prepare, run, run_recipe

from skparse import SparseExpertClassifier
from skparse._engines import get_engine
from skparse._predictor import Predictor
from skparse._training import held_out
from skparse._training.completion import complete_model
from skparse._training.connections import connect
from skparse._training.held_out import INTERCEPT_PENALTY, calibrate_intercept, hold_out
from skparse._training.linear import run_linear, start_linear
from skparse._training.recipes import HELD_OUT
from skparse._training.scores import multiply_scores


def draw_unequal(n_samples=2000, n_classes=5, *, seed=0):
    """Draw noisy documents; the higher the number of a class, the fewer samples it has."""
    X, y = draw_noisy_documents(3 * n_samples, n_classes, wrong=0.2, seed=seed)
    kept = np.random.RandomState(seed).uniform(size=len(y)) < 0.6**y
    return X[kept][:n_samples], y[kept][:n_samples]


def train_linear(X, y, sample_weight=None, **parameters):
    """Return (problem, draft, model): a model in the units of X, before b2 is calibrated."""
    problem, draft = prepare(X, y, sample_weight, **parameters)
    draft = run(problem, draft, hold_out, connect, start_linear, run_linear)
    nothing = np.zeros_like(draft.held_out)
    return problem, draft, complete_model(problem, replace(draft, held_out=nothing), draft.model)


@pytest.fixture(scope="module")
def trained():
    X, y = draw_unequal()
    weight = np.random.RandomState(1).uniform(0.2, 3.0, size=len(y))
    return train_linear(X, y, weight)


def loss_of_shift(problem, draft, model, shift, rows=None, strength=INTERCEPT_PENALTY):
    """Penalised log-loss of the held-out samples with a shifted b2; returns (loss, gradient)."""
    rows = np.flatnonzero(draft.held_out) if rows is None else rows
    top_k = min(problem.options.top_k, len(model.router_intercept))
    z = Predictor(model, problem.engine, 1).logits(problem.data.X[rows], top_k) + shift
    weight, own = problem.data.sample_weight[rows], problem.data.labels[rows].toarray()
    penalty = strength * weight.mean()
    losses = logsumexp(z, axis=1) - (own * z).sum(axis=1)
    gradient = weight @ (softmax(z, axis=1) - own) + penalty * shift
    return weight @ losses + penalty / 2 * shift @ shift, gradient


def least_shift(problem, draft, model, rows=None):
    """Find the shift of b2 with the least loss, by a method of scipy."""
    return minimize(
        lambda shift: loss_of_shift(problem, draft, model, shift, rows),
        np.zeros(len(model.intercept)), jac=True, method="BFGS", options={"gtol": 1e-9},
    ).x  # fmt: skip


def shift_of(problem, draft, model):
    return calibrate_intercept(problem, draft, model).intercept - model.intercept


@pytest.mark.parametrize("engine", ["numba", "torch"])
@pytest.mark.parametrize("top_k", [1, 2, 8])
def test_after_enough_steps_the_shift_has_the_least_loss(top_k, engine, trained, monkeypatch):
    problem, draft, model = trained
    options = replace(problem.options, top_k=top_k)
    problem = replace(problem, options=options, engine=get_engine(engine, "cpu"))
    expected = least_shift(problem, draft, model)
    assert np.abs(expected).max() > 0.05
    monkeypatch.setattr(held_out, "INTERCEPT_STEPS", 2000)
    assert_allclose(shift_of(problem, draft, model), expected, atol=1e-6)


@pytest.mark.parametrize("extreme", [False, True])
def test_no_step_raises_the_loss_and_the_last_is_near_the_least(extreme, trained, monkeypatch):
    problem, draft, model = trained
    if extreme:
        model = model._replace(intercept=np.array([30.0, -30.0, 0.0, 5.0, 0.0]))
    losses = []
    for n_steps in range(held_out.INTERCEPT_STEPS + 1):
        monkeypatch.setattr(held_out, "INTERCEPT_STEPS", n_steps)
        shift = shift_of(problem, draft, model)
        losses.append(loss_of_shift(problem, draft, model, shift)[0])
    assert np.diff(losses).max() <= 1e-9
    assert losses[-1] < losses[0]
    if not extreme:
        least = loss_of_shift(problem, draft, model, least_shift(problem, draft, model))[0]
        assert losses[-1] - least < 0.05 * (losses[0] - least)


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_the_unit_of_the_weights_does_not_change_the_shift(factor, trained):
    problem, draft, model = trained
    weight = factor * problem.data.sample_weight
    scaled = replace(problem, data=replace(problem.data, sample_weight=weight))
    expected = shift_of(problem, draft, model)
    assert_allclose(shift_of(scaled, draft, model), expected, rtol=1e-9, atol=1e-12)


def test_the_shift_depends_on_held_out_samples_only_and_changes_b2_only(trained):
    problem, draft, model = trained
    weight = np.where(draft.held_out, problem.data.sample_weight, 77.0)
    changed = replace(problem, data=replace(problem.data, sample_weight=weight))
    before, calibrated = model.copy(), calibrate_intercept(problem, draft, model)
    assert_array_equal(calibrate_intercept(changed, draft, model).intercept, calibrated.intercept)
    assert calibrated.router is model.router
    assert calibrated.router_intercept is model.router_intercept
    assert calibrated.outputs is model.outputs
    assert calibrated.intercept.dtype == model.intercept.dtype
    assert_array_equal(model.intercept, before.intercept)


@pytest.mark.parametrize("n_rows", [10, 40])
def test_with_many_classes_fewer_held_out_samples_are_used(n_rows, trained, monkeypatch):
    problem, draft, model = trained
    rows = np.flatnonzero(draft.held_out)
    n_classes = len(model.intercept)
    monkeypatch.setattr(held_out, "MAX_LOGITS", n_rows * n_classes)
    monkeypatch.setattr(held_out, "INTERCEPT_STEPS", 2000)
    used = rows[:: -(-len(rows) // n_rows)]
    assert n_rows // 2 < len(used) <= n_rows < len(rows)
    expected = least_shift(problem, draft, model, used)
    assert_allclose(shift_of(problem, draft, model), expected, atol=1e-6)


def test_a_model_is_completed_with_a_calibrated_b2_if_samples_are_held_out(trained):
    problem, draft, model = trained
    expected = calibrate_intercept(problem, draft, model)
    complete = complete_model(problem, draft, draft.model)
    for mine, theirs in zip(complete.values(), expected.values(), strict=True):
        assert_array_equal(mine, theirs)
    without = complete_model(problem, replace(draft, held_out=None), draft.model)
    scaling = draft.scaling
    factors = scaling.score_factor, scaling.output_factor
    assert_array_equal(without.intercept, multiply_scores(draft.model, *factors).intercept)


@pytest.mark.parametrize("parameters", [{}, {"top_k": 1}, {"n_experts": 15}], ids=str)
def test_after_a_fit_no_shift_of_one_class_lowers_the_held_out_loss_much(parameters):
    problem, draft = prepare(*draw_unequal(8000), **parameters)
    draft = run_recipe(HELD_OUT, problem, draft)
    model, n_rows = draft.model, draft.held_out.sum()
    # The penalty keeps b2 near what was trained, so a little of the loss may be left.
    loss = loss_of_shift(problem, draft, model, np.zeros(5), strength=0.0)[0]
    for c in range(5):
        for shift in (-0.3, -0.1, 0.1, 0.3):
            moved = shift * np.eye(5)[c]
            shifted = loss_of_shift(problem, draft, model, moved, strength=0.0)[0]
            assert shifted > loss - 0.005 * n_rows


@pytest.mark.parametrize("parameters", [{}, {"top_k": 1}, {"n_experts": 15}], ids=str)
def test_no_shift_of_one_class_lowers_the_log_loss_of_other_samples_much(parameters):
    X, y = draw_unequal(16000)
    model = SparseExpertClassifier(random_state=0, **parameters).fit(X[:8000], y[:8000])
    z, own = model.predict_log_proba(X[8000:]).astype(float), np.eye(5)[y[8000:]]
    loss = -(own * z).sum()
    for c in range(5):
        for shift in (-1.0, -0.3, -0.1, 0.1, 0.3, 1.0):
            moved = z + shift * np.eye(5)[c]
            assert (logsumexp(moved, axis=1) - (own * moved).sum(axis=1)).sum() > 0.99 * loss


@pytest.mark.parametrize("seed", [0, 1])
def test_long_runs_on_unequal_classes_stay_accurate(seed):
    X, y = draw_unequal(3000, seed=seed)
    accuracies = [
        SparseExpertClassifier(max_iter=max_iter, tol=0.0, n_iter_no_change=100, random_state=0)
        .fit(X[:2000], y[:2000])
        .score(X[2000:], y[2000:])
        for max_iter in (1, 4, 16, 64)
    ]
    for earlier, later in zip(accuracies, accuracies[1:], strict=False):
        assert later >= earlier - 0.02
    assert accuracies[-1] >= accuracies[0] - 0.03
