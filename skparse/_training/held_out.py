"""Held-out samples inside a fit: what is tried is measured on them, and kept if it is better.

They take no part in the naive-Bayes start and in the first linear epochs. After the choices they
join the other samples.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy import sparse

from .._csr import with_values
from .._predictor import Predictor
from .low_rank import add_products
from .temperatures import choose_temperatures, level_logits

# Factors on the default scores, and on the default outputs, among which the held-out log-loss
# chooses.
SCORE_FACTORS = 2.0 ** (np.arange(-12, 7) / 3)
OUTPUT_FACTORS = 2.0 ** (np.arange(-9, 13) / 3)
# From this many samples on some are held out: one in HELD_OUT_EVERY, at most MAX_HELD_OUT, but
# always one in LARGE_HELD_OUT_EVERY.
MIN_SAMPLES = 1024
HELD_OUT_EVERY = 16
MAX_HELD_OUT = 1000
LARGE_HELD_OUT_EVERY = 64
# Log-loss, in samples of mean weight, that a factor has to gain per its squared logarithm.
FACTOR_PENALTY = 6.0
# Penalty on the squared shift of b2, in samples of mean weight.
INTERCEPT_PENALTY = 20.0
INTERCEPT_STEPS = 15
MAX_INTERCEPT_STEP = 0.5
MAX_LOGITS_AT_ONCE = 2**16  # about so many, of several factors on the scores
MAX_LOGITS = 2**18  # of held-out samples, from which b2 is calibrated


class HeldOutLosses(NamedTuple):
    """Losses on the held-out samples, summed in sample weight."""

    by_factors: np.ndarray  # (n_factors on the scores, n_factors on the outputs), log-loss
    loss: float  # log-loss plus probabilities of the wrong classes, at the best factors


def hold_out(problem, draft):
    """Draw the held-out samples; none of few samples, and none of multilabel targets.

    One of every so many rows in their order, so that sorted data are held out evenly.
    """
    n_samples = problem.data.X.shape[0]
    held_out = np.zeros(n_samples, bool)
    if n_samples >= MIN_SAMPLES and not problem.options.multilabel:
        every = max(HELD_OUT_EVERY, min(-(-n_samples // MAX_HELD_OUT), LARGE_HELD_OUT_EVERY))
        firsts = np.arange(0, n_samples - every + 1, every)
        held_out[firsts + problem.random_state.randint(every, size=len(firsts))] = True
    return replace(draft, held_out=held_out)


def calibrate(problem, draft):
    """Choose the factors on scores and outputs, and the temperature of each level.

    Those with the least log-loss on the held-out samples.
    """
    if not draft.held_out.any():
        return draft
    model = draft.model
    if draft.low_rank is not None:
        model = add_products(model, draft.low_rank)
    losses = measure_held_out(problem, draft, model).by_factors
    of_scores, of_outputs = np.unravel_index(losses.argmin(), losses.shape)
    if losses[of_scores, of_outputs] == 0:  # the samples have no weight
        return draft
    scaling = draft.scaling.calibrated(SCORE_FACTORS[of_scores], OUTPUT_FACTORS[of_outputs])
    codes, classes, weight = held_out_codes(problem, draft, model)
    factors = {"of_scores": scaling.score_factor, "of_outputs": scaling.output_factor}
    temperatures = choose_temperatures(
        lambda level: level_logits(codes, model, level, **factors), classes, weight,
        min(problem.options.top_k, len(model.router_intercept)),
    )  # fmt: skip
    return replace(draft, scaling=scaling, temperatures=temperatures)


def calibrate_intercept(problem, draft, model):
    """Shift b2 of a complete model towards the least log-loss of the held-out samples.

    In training, b2 fits flat scores and samples that the model has learnt.
    """
    rows = np.flatnonzero(draft.held_out)
    rows = rows[:: -(-len(rows) * len(model.intercept) // MAX_LOGITS)]
    weight = problem.data.sample_weight[rows].astype(np.float64)
    X, labels = problem.data.X[rows], problem.data.labels[rows]
    predictor = Predictor(model, problem.engine, problem.options.n_threads)
    top_k = min(problem.options.top_k, len(model.router_intercept))
    codes = predictor.code_block(X, 0, X.shape[0], top_k).astype(np.float64)
    logits = (codes @ model.outputs).toarray() + model.intercept
    penalty = INTERCEPT_PENALTY * weight.mean()
    shift = least_shift(logits, labels.indices, weight, penalty, INTERCEPT_STEPS)
    return model._replace(intercept=(model.intercept + shift).astype(model.intercept.dtype))


def least_shift(logits, labels, weight, penalty, n_steps):
    """Find the shift of b2 with the least log-loss, (n_classes,), by a number of steps.

    Each step divides the gradient by the smaller of two: an upper bound of the curvature, and
    twice its diagonal, which is far below the bound for a class of most samples.

    Parameters
    ----------
    logits : ndarray (n_samples, n_classes)
    labels : ndarray (n_samples,) of int
    weight : ndarray (n_samples,)
    penalty : float
        On half the squared shift.
    n_steps : int
    """
    shift = np.zeros(logits.shape[1])
    of_labels = np.bincount(labels, weight, minlength=len(shift))
    for _ in range(n_steps):
        probabilities = np.exp(logits + shift - (logits + shift).max(axis=1, keepdims=True))
        probabilities *= (weight / probabilities.sum(axis=1))[:, None]
        expected = probabilities.sum(axis=0)
        curvature = expected - (probabilities**2 / weight[:, None]).sum(axis=0)
        curvature = np.minimum(expected, 2 * curvature) + penalty
        step = (of_labels - expected - penalty * shift) / curvature
        shift += step.clip(-MAX_INTERCEPT_STEP, MAX_INTERCEPT_STEP)
    return shift


def measure_held_out(problem, draft, model):
    """Measure a model in training (its b2 is zero) on the held-out samples.

    Returns
    -------
    HeldOutLosses
    """
    codes, classes, weight = held_out_codes(problem, draft, model)
    scaling = draft.scaling
    factors = scaling.score_factor * SCORE_FACTORS, scaling.output_factor * OUTPUT_FACTORS
    by_factors, misses = measure_factors(codes, model, classes, weight, factors)
    by_factors += factor_penalty(weight.mean())
    best = by_factors.argmin()
    return HeldOutLosses(by_factors, float(by_factors.flat[best] + misses.flat[best]))


def held_out_codes(problem, draft, model):
    """Compute the gate weights that a model in training gives the held-out samples.

    Returns
    -------
    codes : csr_array (n_rows, n_experts) of float64
    classes : ndarray (n_rows,) of int
    weight : ndarray (n_rows,) of float64
    """
    data, top_k = draft.data, min(problem.options.top_k, len(model.router_intercept))
    X, classes = data.X[draft.held_out], data.labels[draft.held_out].indices
    if data.row_factors is not None:  # predictions are for rows as they are
        factor = data.row_factors[draft.held_out].astype(X.dtype)
        X = with_values(X, X.data / np.repeat(factor, np.diff(X.indptr)))
    predictor = Predictor(model, problem.engine, problem.options.n_threads)
    codes = predictor.code_block(X, 0, X.shape[0], top_k).astype(np.float64)
    return codes, classes, data.sample_weight[draft.held_out].astype(np.float64)


def measure_factors(codes, model, classes, weight, factors):
    """Measure all pairs of factors on the scores and on the outputs of a model.

    Parameters
    ----------
    codes : csr_array (n_rows, n_experts)
        Gate weights at the K of the user.
    model : SparseExpertModel
    classes : ndarray (n_rows,) of int
        The labels.
    weight : ndarray (n_rows,) of float64
    factors : list of ndarray
        Those on the scores, and those on the outputs and b2.

    Returns
    -------
    losses : ndarray (n_factors on the scores, n_factors on the outputs)
        Log-losses, summed in sample weight.
    misses : ndarray
        The same shape: probabilities of the wrong classes.
    """
    of_scores, of_outputs = factors
    n_logits = codes.nnz * model.outputs.nnz / max(1, codes.shape[1])
    at_once = int(max(1, MAX_LOGITS_AT_ONCE / max(1, n_logits)))
    losses = np.empty((len(of_scores), codes.shape[0], len(of_outputs)))
    for first in range(0, len(of_scores), at_once):
        block = slice(first, first + at_once)
        losses[block] = _log_losses(codes, model, classes, of_scores[block], of_outputs)
    # einsum calls no BLAS
    misses = np.einsum("n,...nf->...f", weight, -np.expm1(-losses))
    return np.einsum("n,...nf->...f", weight, losses), misses


def factor_penalty(mean_weight):
    """Log-loss that each pair of factors has to gain, (n_factors on scores, on outputs)."""
    squares = np.log(SCORE_FACTORS)[:, None] ** 2 + np.log(OUTPUT_FACTORS) ** 2
    return FACTOR_PENALTY * mean_weight * squares


def _log_losses(codes, model, classes, of_scores, of_outputs):
    """Log-loss of every row at all pairs of factors, (n_scores, n_rows, n_outputs).

    The rows are repeated for each factor on the scores. Logits that are not stored are zero.
    """
    n_rows, n_experts = codes.shape
    n_all = len(of_scores) * n_rows
    per_row = np.tile(np.diff(codes.indptr), len(of_scores))
    powers = (codes.data ** of_scores[:, None]).ravel()
    parts = powers, np.tile(codes.indices, len(of_scores)), np.append(0, np.cumsum(per_row))
    powers = sparse.csr_array(parts, shape=(n_all, n_experts))
    powers.data /= np.repeat(powers.sum(axis=1), per_row)
    logits = powers @ model.outputs
    rows = np.repeat(np.arange(n_all), np.diff(logits.indptr))
    # (n_scores, n_classes), see `ScoreScaling.calibrated`
    b2 = np.minimum(1.0, of_scores)[:, None] * model.intercept.astype(np.float64)
    is_own = logits.indices == classes[rows % n_rows]
    own = b2[:, classes].ravel()
    own = own + np.bincount(rows[is_own], logits.data[is_own], minlength=n_all)
    places = rows // n_rows * b2.shape[1] + logits.indices  # in b2
    shifted = logits.data + b2.take(places)
    losses = np.empty((n_all, len(of_outputs)))
    for k, factor in enumerate(of_outputs):
        without = np.exp(factor * b2)
        changes = np.exp(factor * shifted) - without.take(places)
        totals = np.repeat(without.sum(axis=1), n_rows)
        totals += np.bincount(rows, changes, minlength=n_all)
        losses[:, k] = np.log(totals) - factor * own
    return losses.reshape(len(of_scores), n_rows, len(of_outputs))
