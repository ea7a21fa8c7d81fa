"""Scores of predictions, and intervals for the difference of two models.

Classes are codes (n_samples,), or 0/1 indicators (n_samples, n_classes) where a sample may have
several labels. For codes the micro-averaged F1 equals the accuracy, so one function serves both.
"""

import numpy as np
from scipy.sparse import csr_matrix

# Lower probabilities are clipped in the log-loss, as some peers return exact zeros.
SMALLEST_PROBABILITY = 1e-7


def to_indicator(y, n_classes):
    """Return classes as a sparse 0/1 matrix of shape (n_samples, n_classes)."""
    if y.ndim == 2:
        return csr_matrix(y, dtype=np.float64)
    rows = np.arange(len(y) + 1)
    return csr_matrix((np.ones(len(y)), y, rows), shape=(len(y), n_classes))


class ClassCounts:
    """Hits, predictions and true labels per class, for any weighting of the samples."""

    def __init__(self, y_true, y_pred):
        n_classes = y_true.shape[1] if y_true.ndim == 2 else max(y_true.max(), y_pred.max()) + 1
        true, pred = to_indicator(y_true, n_classes), to_indicator(y_pred, n_classes)
        self._hits, self._pred, self._true = true.multiply(pred).tocsr().T, pred.T, true.T

    def f1(self, weights):
        """Return micro and macro F1, one of each per row of `weights` (n_weightings, n_samples).

        The macro average is over the classes that occur, true or predicted, in the weighted
        sample, as in scikit-learn.
        """
        hits = self._hits @ weights.T
        total = self._pred @ weights.T + self._true @ weights.T
        occurs = total > 0
        per_class = np.divide(2 * hits, total, out=np.zeros_like(total), where=occurs)
        # Without a predicted and a true label the score is zero.
        micro = 2 * hits.sum(axis=0) / np.maximum(total.sum(axis=0), 1)
        macro = per_class.sum(axis=0) / np.maximum(occurs.sum(axis=0), 1)
        return micro, macro


def score_classes(y_true, y_pred):
    """Return `score` (accuracy; micro-F1 for several labels) and `macro_f1`."""
    micro, macro = ClassCounts(y_true, y_pred).f1(np.ones((1, len(y_true))))
    return {"score": float(micro[0]), "macro_f1": float(macro[0])}


def paired_bootstrap(y_true, y_pred, y_reference, n_resamples=1000, seed=0, batch_size=100):
    """Return score and macro-F1 differences, prediction minus reference, with 95 % intervals.

    Both models are scored on the same resamples of the test rows, so that the difficulty of a
    resample cancels.

    Returns
    -------
    dict
        `score_difference` and `macro_f1_difference`, each a list: the difference on all rows,
        then the lower and the upper end of the interval.
    """
    rng = np.random.default_rng(seed)
    n = len(y_true)
    models = ClassCounts(y_true, y_pred), ClassCounts(y_true, y_reference)

    def differences(weights):
        (micro, macro), (reference_micro, reference_macro) = (m.f1(weights) for m in models)
        return np.stack([micro - reference_micro, macro - reference_macro])

    resampled = []
    for start in range(0, n_resamples, batch_size):
        size = min(batch_size, n_resamples - start)
        rows = rng.integers(n, size=(size, n))
        weights = np.stack([np.bincount(drawn, minlength=n) for drawn in rows])
        resampled.append(differences(weights.astype(np.float64)))
    low, high = np.percentile(np.concatenate(resampled, axis=1), [2.5, 97.5], axis=1)
    observed = differences(np.ones((1, n)))[:, 0]
    return {
        name: [float(observed[i]), float(low[i]), float(high[i])]
        for i, name in enumerate(("score_difference", "macro_f1_difference"))
    }


def calibration_error(confidence, correct, n_bins=15):
    """Return the expected calibration error over bins of equal width.

    The error of a bin is the distance between its mean confidence and its accuracy. The result
    is the mean of these errors, weighted by the samples of the bins.
    """
    confidence, correct = np.asarray(confidence, np.float64), np.asarray(correct, np.float64)
    # Bins are open on the left, (0, 1/n_bins], ..., and zero belongs to the first.
    bins = np.clip(np.ceil(confidence * n_bins).astype(int) - 1, 0, n_bins - 1)
    gaps = np.bincount(bins, correct - confidence, minlength=n_bins)
    return float(np.abs(gaps).sum() / len(confidence))


def score_probabilities(y_true, proba):
    """Return `log_loss` and `ece` of a matrix of probabilities (n_samples, n_classes).

    For one label per sample rows are scaled to sum to one (label trees estimate each label by
    itself) and the calibration error is that of the most likely class. For several labels both
    figures are means over all pairs of sample and label.
    """
    proba = np.asarray(proba, np.float64)
    if y_true.ndim == 2:
        of_truth = np.where(y_true == 1, proba, 1 - proba)
        ece = calibration_error(proba.ravel(), y_true.ravel())
    else:
        total = proba.sum(axis=1, keepdims=True)
        uniform = np.full_like(proba, 1 / proba.shape[1])
        proba = np.divide(proba, total, out=uniform, where=total > 0)
        # A class without training samples has no column, and probability zero.
        seen = y_true < proba.shape[1]
        of_truth = np.zeros(len(y_true))
        of_truth[seen] = proba[seen, y_true[seen]]
        ece = calibration_error(proba.max(axis=1), proba.argmax(axis=1) == y_true)
    log_loss = -np.log(np.clip(of_truth, SMALLEST_PROBABILITY, 1)).mean()
    return {"log_loss": float(log_loss), "ece": ece}
