"""Calibration inside a fit: how sharp scores and outputs have to be, from rows kept apart.

The rows are kept apart from the naive-Bayes start and the first epochs of the linear start; when
they have told how far the margins can be trusted, they join the rest.
"""

import numpy as np

from . import _prediction as prediction
from ._parameters import with_values

# Factors on the default sharpness, among which the held-out log-loss chooses.
FACTORS = 2.0 ** (np.arange(-6, 5) / 3)
# From this many samples on some are kept apart: one in HELD_OUT_EVERY, MOST_HELD_OUT at most.
HOLD_OUT_FROM = 1024
HELD_OUT_EVERY = 16
MOST_HELD_OUT = 1000
# Log-loss, in rows of typical weight, that a factor has to gain per its squared logarithm.
DEFAULT_WORTH = 6.0
# Share of K = 1 in the log-loss; the rest is that of the largest K.
SHARE_OF_ONE = 0.15


def choose_held_out(n_samples, multilabel, random_state):
    """Draw the rows that are kept apart, (n_samples,) of bool; none for several labels.

    One of every so many rows in their order, so that sorted data are held out evenly.
    """
    held_out = np.zeros(n_samples, bool)
    if n_samples >= HOLD_OUT_FROM and not multilabel:
        every = max(HELD_OUT_EVERY, -(-n_samples // MOST_HELD_OUT))
        firsts = np.arange(0, n_samples - every + 1, every)
        held_out[firsts + random_state.randint(every, size=len(firsts))] = True
    return held_out


def calibrate(parameters, data, held_out, settings, engine):
    """Choose the factors on scores and outputs with the least log-loss on the held-out rows.

    Parameters
    ----------
    parameters : ModelParameters
        As `scores_from_margins` returns them: b2 is zero.
    data : `skparse._training.TrainingData`
    held_out : ndarray (n_samples,) of bool
    settings : `skparse._training.TrainingSettings`
    engine : see `skparse._engines`

    Returns
    -------
    ScoreMap
    """
    losses, _ = _losses_by_factors(parameters, data, held_out, settings, engine)
    best_scores, best_outputs = np.unravel_index(losses.argmin(), losses.shape)
    if losses[best_scores, best_outputs] == 0:  # the rows have no weight
        return settings.score_map
    return settings.score_map._replace(
        sharper_scores=float(settings.score_map.sharper_scores * FACTORS[best_scores]),
        sharper_outputs=float(settings.score_map.sharper_outputs * FACTORS[best_outputs]),
    )


def held_out_loss(parameters, data, held_out, settings, engine):
    """Log-loss plus mean probability of the wrong classes, as they would be after `calibrate`.

    Summed over the held-out rows, in sample weight. The second tells more of the accuracy, the
    first of the probabilities.
    """
    losses, misses = _losses_by_factors(parameters, data, held_out, settings, engine)
    best = losses.argmin()
    return float(losses.flat[best] + misses.flat[best])


def _losses_by_factors(parameters, data, held_out, settings, engine):
    """Log-losses and probabilities of the wrong classes, summed in sample weight.

    Both are (n_factors on the scores, n_factors on the outputs).
    """
    score_map = settings.score_map
    weight = data.sample_weight[held_out].astype(np.float64)
    X, classes = data.X[held_out], data.labels[held_out].indices
    sharper_outputs = score_map.sharper_outputs * FACTORS

    def gates(top_k):
        how = engine, settings.n_threads
        return prediction.compute_codes(X, parameters, top_k, *how).astype(np.float64)

    def log_losses(gate):
        return _log_losses(gate @ parameters.expert, classes, sharper_outputs)

    def summed(losses):
        return np.einsum("n,...nf->...f", weight, losses)  # without BLAS, see `inner`

    of_one = summed(log_losses(gates(1)))  # a gate of one weight is as sharp as it can be
    widest = gates(min(settings.top_k, len(parameters.router_intercept)))
    of_widest = np.array(
        [log_losses(_sharper_gate(widest, score_map.sharper_scores * f)) for f in FACTORS]
    )
    distance = DEFAULT_WORTH * np.log(FACTORS) ** 2 * weight.mean()
    losses = SHARE_OF_ONE * of_one + (1 - SHARE_OF_ONE) * summed(of_widest)
    losses += distance[:, None] + distance
    return losses, summed(-np.expm1(-of_widest))


def _sharper_gate(codes, factor):
    """Gate weights as they are when all scores are multiplied by ``factor``."""
    powers = with_values(codes, codes.data**factor)
    powers.data /= np.repeat(powers.sum(axis=1), np.diff(powers.indptr))
    return powers


def _log_losses(logits, classes, factors):
    """Log-loss of every row at every factor on the logits, (n_rows, n_factors).

    ``logits`` is sparse: what it does not store is zero. ``classes`` (n_rows,) are the labels.
    """
    per_row = np.diff(logits.indptr)
    rows = np.repeat(np.arange(len(per_row)), per_row)
    is_own = logits.indices == classes[rows]
    own = np.bincount(rows[is_own], logits.data[is_own], minlength=len(per_row))
    losses = np.empty((len(per_row), len(factors)))
    for k, factor in enumerate(factors):
        totals = np.bincount(rows, np.exp(factor * logits.data), minlength=len(per_row))
        losses[:, k] = np.log(totals + (logits.shape[1] - per_row)) - factor * own
    return losses
