"""What out-of-fold margins decide: weights of a mixture, a bias for each class, calibration."""

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize

from .held_out import least_shift
from .temperatures import choose_temperatures

# Chosen by cross-validation on training parts; docs/design/ has the record.
# A weight below this share of the sum counts as zero.
MIN_SHARE = 0.01
STRENGTH_RANGE = 1e-5, 100.0  # of a weight, before their sum is made one
BIAS_PENALTY = 1.0  # on the squared bias of a class, in samples of mean weight
MAX_BIAS = 8.0
GRID = 1 / 32  # of the biases and of the logarithms of the weights
STRENGTH_STEPS = 60
# A sample without any feature, of all classes in their shares, counts as this share of the others.
EMPTY_SHARE = 0.01
# Calibration: factors on the scores and on the outputs, chosen on about so many logits.
MIXED_FACTORS = 2.0 ** (np.arange(-6, 7) / 2)
CALIBRATED_LOGITS = 2**16
SHIFT_PENALTY = 1.0  # on the squared shift of b2, in samples of mean weight
SHIFT_STEPS = 30
# A score passes the ReLU where its margin is above minus the level; b1 is at least the other one.
LEVEL = 2.0
LOWEST_INTERCEPT = 0.5


class OutOfFold(NamedTuple):
    """Margins of samples by folds that they took no part in, for each candidate."""

    margins: np.ndarray  # (n_candidates, n_samples, n_classes)
    labels: np.ndarray  # (n_samples,)
    weight: np.ndarray  # (n_samples,) of float64, of mean one

    def every(self, n_samples):
        """Return about so many of the samples, evenly taken."""
        stride = max(1, len(self.labels) // max(1, n_samples))
        return OutOfFold(self.margins[:, ::stride], self.labels[::stride], self.weight[::stride])


class Mixture(NamedTuple):
    """How candidates become one model."""

    weights: np.ndarray  # (n_candidates,), their sum is one
    bias: np.ndarray  # (n_classes,), added to the margins
    level: float  # shift of the scores, see `ScoreScaling`
    score_factor: float
    output_factor: float
    intercept: np.ndarray  # (n_classes,), b2
    temperatures: np.ndarray  # (top_k,), of each level
    loss: float  # mean log-loss of the samples


def with_empty_samples(samples, empty, shares):
    """Add a sample without features for each class, with the share of the class as weight.

    Parameters
    ----------
    samples : OutOfFold
    empty : ndarray (n_candidates, n_classes)
        Margins of a sample without features.
    shares : ndarray (n_classes,)

    Returns
    -------
    OutOfFold
    """
    labels = np.flatnonzero(shares)
    rows = np.repeat(empty[:, None], len(labels), axis=1)
    weight = EMPTY_SHARE * samples.weight.sum() * shares[labels]
    return OutOfFold(
        np.concatenate([samples.margins, rows], axis=1),
        np.concatenate([samples.labels, labels]),
        np.concatenate([samples.weight, weight]),
    )


def choose_mixture(samples, scaling, top_k):
    """Choose the mixture with the least log-loss, and then its calibration.

    Parameters
    ----------
    samples : OutOfFold
    scaling : ScoreScaling
        How margins become scores and outputs.
    top_k : int
        The K of the calibration.

    Returns
    -------
    Mixture
    """
    strengths, bias = choose_strengths(samples)
    strengths[strengths < MIN_SHARE * strengths.sum()] = 0
    total = strengths.sum()
    margins = np.einsum("a,anc->nc", strengths / total, samples.margins) + bias / total
    # Those of a sample without features are the last: all b1 are positive, so that no sample of
    # two classes keeps one expert only.
    level = max(LEVEL, LOWEST_INTERCEPT - float(margins[-1].min()))
    scores = scaling.scale * (margins + level)
    calibration = calibrate_scores(scores, samples, scaling.gain, top_k)
    return Mixture(strengths / total, bias / total, level, *calibration)


def choose_strengths(samples):
    """Minimise the log-loss of ``softmax(strengths @ margins + bias)``.

    Returns
    -------
    strengths : ndarray (n_candidates,), positive
    bias : ndarray (n_classes,)
    """
    margins, labels, weight = samples
    n_candidates, n_samples, n_classes = margins.shape
    total, rows = weight.sum(), np.arange(n_samples)

    def loss_and_gradient(parameters):
        strengths, bias = np.exp(parameters[:n_candidates]), parameters[n_candidates:]
        logits = np.einsum("a,anc->nc", strengths, margins) + bias
        logits -= logits.max(axis=1, keepdims=True)
        own = logits[rows, labels]
        residuals = np.exp(logits, out=logits)
        sums = residuals.sum(axis=1)
        loss = (weight * (np.log(sums) - own)).sum() + BIAS_PENALTY / 2 * (bias**2).sum()
        residuals *= (weight / sums)[:, None]
        residuals[rows, labels] -= weight
        of_strengths = strengths * np.einsum("nc,anc->a", residuals, margins)
        of_bias = residuals.sum(axis=0) + BIAS_PENALTY * bias
        return loss / total, np.concatenate([of_strengths, of_bias]) / total

    start = np.concatenate([np.full(n_candidates, np.log(2 / n_candidates)), np.zeros(n_classes)])
    bounds = [tuple(np.log(STRENGTH_RANGE))] * n_candidates + [(-MAX_BIAS, MAX_BIAS)] * n_classes
    found = minimize(
        loss_and_gradient, start, jac=True, method="L-BFGS-B", bounds=bounds,
        options={"maxiter": STRENGTH_STEPS, "ftol": 1e-7},
    ).x  # fmt: skip
    # Rounded, because the loss is flat at its least: the order of a sum would change the result.
    logarithms, bias = np.round(found[:n_candidates] / GRID) * GRID, np.round(found / GRID) * GRID
    bias = bias[n_candidates:]
    bias[np.bincount(labels, weight, minlength=n_classes) == 0] = -MAX_BIAS  # never predicted
    return np.exp(logarithms), bias


def calibrate_scores(scores, samples, gain, top_k):
    """Choose the factors on scores and outputs, b2 and temperatures with the least log-loss.

    Returns
    -------
    score_factor, output_factor : float
    intercept : ndarray (n_classes,)
    temperatures : ndarray (top_k,)
    loss : float
        Mean log-loss at the K of the user.
    """
    stride = max(1, scores.size // CALIBRATED_LOGITS)
    labels, weight = samples.labels[::stride], samples.weight[::stride]
    part, rows = scores[::stride], np.arange(len(labels))
    # Transposed, because sums over few classes are slow.
    gates = [gate_weights(factor * part, top_k).T.copy() for factor in MIXED_FACTORS]
    losses = np.empty((len(MIXED_FACTORS), len(MIXED_FACTORS)))
    for j, output_factor in enumerate(MIXED_FACTORS):
        for i, gate in enumerate(gates):
            losses[i, j] = log_losses(gain * output_factor * gate, labels, rows) @ weight
    i, j = np.unravel_index(losses.argmin(), losses.shape)
    score_factor, output_factor = float(MIXED_FACTORS[i]), float(MIXED_FACTORS[j])
    logits = gain * output_factor * gate_weights(score_factor * scores, top_k)
    shift = least_shift(logits, samples.labels, samples.weight, SHIFT_PENALTY, SHIFT_STEPS)
    rows = np.arange(len(samples.labels))
    loss = log_losses((logits + shift).T, samples.labels, rows) @ samples.weight
    temperatures = choose_temperatures(
        lambda k: gain * output_factor * gate_weights(score_factor * scores, k) + shift,
        samples.labels, samples.weight, top_k,
    )  # fmt: skip
    return score_factor, output_factor, shift, temperatures, float(loss / samples.weight.sum())


def gate_weights(scores, top_k):
    """Softmax over the ``top_k`` largest positive scores of every row; zero elsewhere."""
    kept = np.where(scores > 0, scores, -np.inf)
    if top_k < scores.shape[1]:
        smallest = np.partition(kept, -top_k, axis=1)[:, [-top_k]]
        kept[kept < smallest] = -np.inf
    largest = kept.max(axis=1, keepdims=True)
    masses = np.exp(kept - np.where(np.isfinite(largest), largest, 0))
    return masses / np.maximum(masses.sum(axis=1, keepdims=True), np.finfo(float).tiny)


def log_losses(logits, labels, rows):
    """Log-loss of every sample; logits are (n_classes, n_samples)."""
    largest = logits.max(axis=0)
    sums = np.exp(logits - largest).sum(axis=0)
    return np.log(sums) + largest - logits[labels, rows]
