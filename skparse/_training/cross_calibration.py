"""The stage that calibrates a fit of few samples and many classes by cross-fitting.

The losses of few held-out samples would follow chance. So the same fit is run on the
samples of all folds but one, once for each fold, and every sample gets the gate weights of a model
that it took no part in. Those of all folds together choose the calibration.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from .._predictor import Predictor
from .._threads import Threads
from .connections import connect
from .cross_fit import FOLDS, draw_folds
from .data import take_samples
from .held_out import OUTPUT_FACTORS, SCORE_FACTORS, factor_penalty, least_shift, measure_factors
from .linear import run_linear, start_linear
from .low_rank import add_low_rank, start_low_rank
from .nested import train_nested
from .penalty import ALPHAS
from .problem import SCHEDULES, Monitor
from .temperatures import choose_temperatures, level_logits

# Chosen by cross-validation on training parts; docs/design/ has the record.
MAX_SAMPLES = 2048  # fewer are cross-fitted
MAX_LOGITS = 2**20  # from which b2 is calibrated
SHIFT_PENALTY = 2.0  # on half the squared shift of b2, in samples of mean weight
SHIFT_STEPS = 15


class CrossFit(NamedTuple):
    """What the models of all folds give the samples that they took no part in."""

    alpha: float
    models: list  # of SparseExpertModel, one for each fold
    codes: list  # of csr_array (n_rows, n_experts), gate weights at the K of the user
    factors: tuple  # the best on scores and outputs
    loss: float  # log-loss plus probabilities of the wrong classes, with these


def cross_calibrate(problem, draft):
    """Choose the penalty, the factors on scores and outputs, and a shift of b2, for few samples.

    Then none are held out. Samples of several labels, and so few that they are trained in full
    batches, keep the default.
    """
    options, n_samples = problem.options, problem.data.X.shape[0]
    if n_samples >= MAX_SAMPLES or options.multilabel or options.full_batch:
        return draft
    draft = replace(draft, held_out=np.zeros(n_samples, bool))
    fold_of = draw_folds(problem)
    folds = [np.flatnonzero(fold_of == fold) for fold in range(FOLDS)]
    seeds = problem.random_state.randint(2**31 - 1, size=FOLDS)
    best = None
    for alpha in ALPHAS if options.alpha is None else (options.alpha,):
        fit = cross_fit_model(problem, replace(draft, alpha=alpha), folds, seeds)
        if best is not None and not fit.loss < best.loss:
            break
        best = fit
    scaling = draft.scaling.calibrated(*best.factors)
    shift, temperatures = calibrate_levels(problem, folds, best)
    return replace(
        draft, alpha=best.alpha, scaling=scaling, shift=shift, temperatures=temperatures
    )


def cross_fit_model(problem, draft, folds, seeds):
    """Fit a model without each of the folds, a list of rows; returns a `CrossFit`."""
    data, options = problem.data, problem.options
    models = problem.threads.map(
        lambda rows, seed: fit_without(problem, draft, rows, seed), folds, seeds
    )
    classes, weight = data.labels.indices, data.sample_weight.astype(np.float64)
    losses, misses, codes = factor_penalty(weight.mean()), 0.0, []
    for model, rows in zip(models, folds, strict=True):
        predictor, X = Predictor(model, problem.engine, 1), data.X[rows]
        top_k = min(options.top_k, len(model.router_intercept))
        own = predictor.code_block(X, 0, len(rows), top_k).astype(np.float64)
        factors = SCORE_FACTORS, OUTPUT_FACTORS
        measured = measure_factors(own, model, classes[rows], weight[rows], factors)
        losses, misses = losses + measured[0], misses + measured[1]
        codes.append(own)
    best = losses.argmin()
    i, j = np.unravel_index(best, losses.shape)
    factors = float(SCORE_FACTORS[i]), float(OUTPUT_FACTORS[j])
    return CrossFit(
        draft.alpha, models, codes, factors, float(losses.flat[best] + misses.flat[best])
    )


def calibrate_levels(problem, folds, fit):
    """Choose the shift of b2 (n_classes,), and then the temperatures of the levels (top_k,)."""
    data, (of_scores, of_outputs) = problem.data, fit.factors
    rows = np.concatenate(folds)
    used = slice(None, None, -(-len(rows) * data.labels.shape[1] // MAX_LOGITS))
    rows = rows[used]
    classes, weight = data.labels.indices[rows], data.sample_weight[rows].astype(np.float64)

    def logits_at(level):
        parts = [
            level_logits(codes, model, level, of_scores=of_scores, of_outputs=of_outputs)
            for codes, model in zip(fit.codes, fit.models, strict=True)
        ]
        return np.concatenate(parts)[used]

    top_k = min(problem.options.top_k, len(fit.models[0].router_intercept))
    penalty = SHIFT_PENALTY * weight.mean()
    shift = least_shift(logits_at(top_k), classes, weight, penalty, SHIFT_STEPS)
    temperatures = choose_temperatures(
        lambda level: logits_at(level) + shift, classes, weight, top_k
    )
    return shift, temperatures


def fit_without(problem, draft, left_out, seed):
    """Fit a model as this fit does, without some samples, an array of rows; returns it."""
    # The usual number of epochs, so that the calibration of one epoch is that of the next.
    options = replace(problem.options, max_iter=SCHEDULES[False][0], early_stopping=False)
    rows = np.setdiff1d(np.arange(problem.data.X.shape[0]), left_out, assume_unique=True)
    alone = replace(
        problem, data=take_samples(problem.data, rows), options=options, threads=Threads(1),
        random_state=np.random.RandomState(seed), monitor=Monitor(),
    )  # fmt: skip
    draft = replace(draft, data=take_samples(draft.data, rows), held_out=draft.held_out[rows])
    for stage in (connect, start_linear, start_low_rank, run_linear, add_low_rank, train_nested):
        draft = stage(alone, draft)
    return draft.model
