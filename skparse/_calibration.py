"""Calibration inside a fit: how sharp scores and outputs have to be, from rows kept apart.

The rows are kept apart from the naive-Bayes start and the first epochs of the linear start; when
they have told how far the margins can be trusted, they join the rest.
"""

import numpy as np

from . import _prediction as prediction

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
    score_map = settings.score_map
    if not data.sample_weight[held_out].any():
        return score_map
    scores = score_map.sharper_scores * FACTORS
    outputs = score_map.sharper_outputs * FACTORS
    weight, labels = data.sample_weight[held_out].astype(np.float64), data.labels[held_out]
    losses = np.zeros((len(scores), len(outputs)))
    widest = min(settings.top_k, len(parameters.router_intercept))
    for top_k, share in ((1, SHARE_OF_ONE), (widest, 1 - SHARE_OF_ONE)):
        codes = prediction.compute_codes(
            data.X[held_out], parameters, top_k, engine, settings.n_threads
        )
        for k, factor in enumerate(scores):
            logits = _sharper_gate(codes, factor) @ parameters.expert
            losses[k] += share * weight @ _log_losses(logits, labels, outputs)
    worth = DEFAULT_WORTH * weight.mean()
    distance = np.log(FACTORS) ** 2
    losses += worth * (distance[:, None] + distance)
    best_scores, best_outputs = np.unravel_index(losses.argmin(), losses.shape)
    return score_map._replace(
        sharper_scores=float(scores[best_scores]), sharper_outputs=float(outputs[best_outputs])
    )


def _sharper_gate(codes, factor):
    """Gate weights as they are when all scores are multiplied by ``factor``."""
    powers = codes.astype(np.float64)
    powers.data **= factor
    totals = np.repeat(powers.sum(axis=1), np.diff(powers.indptr))
    powers.data /= totals
    return powers


def _log_losses(logits, labels, factors):
    """Log-loss of every row at every factor on the logits, (n_rows, n_factors).

    ``logits`` is sparse: what it does not store is zero.
    """
    rows = np.repeat(np.arange(logits.shape[0]), np.diff(logits.indptr))
    n_rest = logits.shape[1] - np.diff(logits.indptr)
    own = np.asarray(logits.multiply(labels).sum(axis=1)).ravel()
    losses = np.empty((logits.shape[0], len(factors)))
    for k, factor in enumerate(factors):
        totals = np.bincount(rows, np.exp(factor * logits.data), minlength=len(n_rest)) + n_rest
        losses[:, k] = np.log(totals) - factor * own
    return losses
