"""Small data are calibrated by models that did not learn from the samples they are measured on."""

import numpy as np
import pytest
from documents import draw_noisy_documents
from fitted_models import assert_same_model
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import log_softmax
from stages import prepare, run

from skparse import SparseExpertClassifier
from skparse._training import cross_calibration
from skparse._training.cross_calibration import cross_calibrate, cross_fit_model
from skparse._training.held_out import FACTOR_PENALTY, OUTPUT_FACTORS, SCORE_FACTORS, hold_out
from skparse._training.penalty import ALPHAS
from skparse._training.temperatures import level_logits


def begin(X, y, sample_weight=None, **parameters):
    problem, draft = prepare(X, y, sample_weight, max_iter=4, **parameters)
    return problem, run(problem, draft, hold_out)


@pytest.fixture
def folds_left_out(monkeypatch):
    """Rows that each fit of a fold left out."""
    rows, fit_without = [], cross_calibration.fit_without

    def record(problem, draft, left_out, seed):
        rows.append(left_out)
        return fit_without(problem, draft, left_out, seed)

    monkeypatch.setattr(cross_calibration, "fit_without", record)
    return rows


@pytest.mark.parametrize("n_samples", [129, 1100, 2047])
def test_every_sample_is_left_out_once_and_none_is_held_out(n_samples, folds_left_out):
    X, y = draw_noisy_documents(n_samples)
    draft = run(*begin(X, y, alpha=2.0), cross_calibrate)
    assert_array_equal(np.sort(np.concatenate(folds_left_out)), np.arange(n_samples))
    assert len(folds_left_out) == 5
    assert not draft.held_out.any()
    assert draft.alpha == 2.0


@pytest.mark.parametrize("kind", ["smallest", "large", "labels"])
def test_other_data_are_not_cross_fitted(kind, folds_left_out):
    X, y = draw_noisy_documents(2048)
    n_samples = {"smallest": 128, "large": 2048, "labels": 500}[kind]
    targets = np.eye(6, dtype=int)[y] if kind == "labels" else y
    problem, draft = begin(X[:n_samples], targets[:n_samples])
    assert cross_calibrate(problem, draft) is draft
    assert not folds_left_out


@pytest.mark.parametrize("parameters", [{}, {"top_k": 1}, {"n_experts": 4}, {"n_experts": 9}])
def test_the_factors_are_those_with_the_least_penalised_loss(parameters):
    X, y = draw_noisy_documents(400, wrong=0.3)
    weight = np.random.RandomState(2).uniform(0.2, 3.0, 400)
    problem, draft = begin(X, y, weight, **parameters)
    folds = np.array_split(np.random.RandomState(0).permutation(400), 5)
    fit = cross_fit_model(problem, draft, folds, np.arange(5))
    top_k = min(problem.options.top_k, len(fit.models[0].router_intercept))
    losses = {}
    for of_scores in SCORE_FACTORS:
        for of_outputs in OUTPUT_FACTORS:
            squares = np.log(of_scores) ** 2 + np.log(of_outputs) ** 2
            losses[of_scores, of_outputs] = FACTOR_PENALTY * weight.mean() * squares
            for rows, codes, model in zip(folds, fit.codes, fit.models, strict=True):
                factors = {"of_scores": of_scores, "of_outputs": of_outputs}
                logits = level_logits(codes, model, top_k, **factors)
                own = log_softmax(logits, axis=1)[np.arange(len(rows)), y[rows]]
                losses[of_scores, of_outputs] -= weight[rows] @ own
    assert_allclose(losses[fit.factors], min(losses.values()), rtol=1e-9)
    assert fit.loss > losses[fit.factors]  # the probabilities of the wrong classes come on top


def test_a_stronger_penalty_is_taken_while_it_lowers_the_loss():
    X, y = draw_noisy_documents(500, wrong=0.5)
    problem, draft = begin(X, y)
    losses = []

    def record(problem, draft, *arguments):
        fit = cross_fit_model(problem, draft, *arguments)
        losses.append((draft.alpha, fit.loss))
        return fit

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cross_calibration, "cross_fit_model", record)
        chosen = cross_calibrate(problem, draft).alpha
    tried, values = zip(*losses, strict=True)
    assert tried == ALPHAS[: len(tried)]
    assert chosen == tried[int(np.argmin(values))] > 1


@pytest.mark.parametrize("wrong", [0.0, 0.3, 0.6])
@pytest.mark.parametrize("n_samples", [300, 1500])
def test_the_confidence_of_small_data_is_close_to_the_accuracy(n_samples, wrong):
    X, y = draw_noisy_documents(n_samples + 2000, wrong=wrong)
    model = SparseExpertClassifier(max_iter=4, random_state=0).fit(X[2000:], y[2000:])
    confidence = model.predict_proba(X[:2000]).max(axis=1).mean()
    assert confidence == pytest.approx(model.score(X[:2000], y[:2000]), abs=0.08)


@pytest.mark.parametrize("parameters", [{}, {"n_experts": 4}, {"n_experts": 9}], ids=str)
def test_a_cross_fitted_model_is_the_same_for_one_thread_and_two(parameters):
    X, y = draw_noisy_documents(1000, dtype=np.float32)
    one, two = (
        SparseExpertClassifier(max_iter=4, random_state=0, n_jobs=n_jobs, **parameters).fit(X, y)
        for n_jobs in (1, 2)
    )
    assert_same_model(one, two)
    assert one._score_scaling == two._score_scaling
    assert_array_equal(one.temperatures_, two.temperatures_)


def test_the_calibration_does_not_depend_on_the_number_of_epochs():
    X, y = draw_noisy_documents(500, wrong=0.3)
    short, long = (
        SparseExpertClassifier(max_iter=n, tol=0, random_state=0).fit(X, y) for n in (1, 6)
    )
    assert short._score_scaling == long._score_scaling
    assert short.alpha_ == long.alpha_
    assert_array_equal(short.temperatures_, long.temperatures_)
