"""Temperatures that calibrate every sparsity level of one model."""

import numpy as np

# Chosen by held-out log-loss; docs/design/ has the record.
TEMPERATURES = 2.0 ** (np.arange(-4, 29) / 4)
MAX_LOGITS = 2**16  # about so many, of evenly taken samples, decide


def choose_temperatures(logits_at, labels, weight, top_k):
    """Choose the temperature of each level with the least log-loss; that of ``top_k`` is one.

    The levels 1, 2, 4, ... are measured, and those between them interpolated.

    Parameters
    ----------
    logits_at : callable
        Returns the logits of all samples at a level, (n_samples, n_classes).
    labels : ndarray (n_samples,) of int
    weight : ndarray (n_samples,) of float64
    top_k : int

    Returns
    -------
    ndarray (top_k,) of float64
    """
    levels = [2**i for i in range(int(top_k).bit_length()) if 2**i < top_k]
    found = [find_temperature(logits_at(level), labels, weight) for level in levels]
    places = np.log2(np.arange(1, top_k + 1))
    return np.exp2(np.interp(places, np.log2([*levels, top_k]), np.log2([*found, 1.0])))


def find_temperature(logits, labels, weight):
    """Find the temperature of `TEMPERATURES` with the least log-loss.

    The log-loss is convex in the inverse of the temperature, so halving the list finds it.
    """
    rows = slice(None, None, max(1, logits.size // MAX_LOGITS))
    logits, labels, weight = logits[rows], labels[rows], weight[rows]
    logits = logits - logits.max(axis=1, keepdims=True)
    own = logits[np.arange(len(labels)), labels]

    def loss(place):
        factor = 1 / TEMPERATURES[place]
        return float(weight @ (np.log(np.exp(factor * logits).sum(axis=1)) - factor * own))

    first, last = 0, len(TEMPERATURES) - 1
    while first < last:
        middle = (first + last) // 2
        if loss(middle) <= loss(middle + 1):
            last = middle
        else:
            first = middle + 1
    return float(TEMPERATURES[first])


def level_logits(codes, model, level, *, of_scores=1.0, of_outputs=1.0):
    """Compute the logits at a level from the gate weights at a larger one.

    Parameters
    ----------
    codes : csr_array (n_rows, n_experts)
    model : SparseExpertModel
    level : int
    of_scores, of_outputs : float
        Factors on the scores, and on the outputs and b2.

    Returns
    -------
    ndarray (n_rows, n_classes)
    """
    kept = keep_largest(codes, level)
    kept.data **= of_scores
    kept.data /= np.repeat(kept.sum(axis=1), np.diff(kept.indptr))
    b2 = min(1.0, of_scores) * model.intercept  # see `ScoreScaling.calibrated`
    return of_outputs * ((kept @ model.outputs).toarray() + b2)


def keep_largest(codes, level):
    """Keep the ``level`` largest entries of each row, the first of equal ones; a copy."""
    rows = np.repeat(np.arange(codes.shape[0]), np.diff(codes.indptr))
    order = np.lexsort((-codes.data, rows))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order)) - np.repeat(codes.indptr[:-1], np.diff(codes.indptr))
    kept = codes.copy()
    kept.data[rank >= level] = 0
    kept.eliminate_zeros()
    return kept
