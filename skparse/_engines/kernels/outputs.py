"""Logits, probabilities and losses of one row.

A row reaches the classes that its kept experts are connected to. The logits of all other classes
are those of b2 alone, the prior. What the prior contributes to sums over the classes is computed
once for many rows, so that a row visits only the classes that it reaches.
"""

import numpy as np
from numba import njit

from .options import HELPER, INLINED


@njit(**HELPER)
def sigmoid(logit):
    """Logistic function, without overflow."""
    small = np.exp(-abs(logit))
    return 1.0 / (1.0 + small) if logit >= 0 else small / (1.0 + small)


@njit(**HELPER)
def log1p_exp(logit):
    """log(1 + exp(logit)), the loss of a logit whose label is absent."""
    return max(logit, logit * 0) + np.log1p(np.exp(-abs(logit)))


@njit(**HELPER)
def write_prior(intercept, multilabel, prior_exp):
    """Write what b2 alone gives to ``prior_exp`` (n_classes,); returns (total, max, loss).

    Softmax: exp(b2 - max), their sum and the max. Multilabel: probabilities, their sum, the max
    and the loss of a row without labels.
    """
    largest = intercept[0]
    for c in range(1, intercept.shape[0]):
        largest = max(largest, intercept[c])
    total = intercept.dtype.type(0)
    loss = 0.0
    for c in range(intercept.shape[0]):
        if multilabel is None or not multilabel:
            prior_exp[c] = np.exp(intercept[c] - largest)
        else:
            prior_exp[c] = sigmoid(intercept[c])
            loss += log1p_exp(intercept[c])
        total += prior_exp[c]
    return total, largest, loss


@njit(**HELPER)
def write_reached_logits(
    kept, weights, count, indptr, indices, values, intercept, logits, reached_classes, is_reached
):
    """Write the logits of the classes that the kept experts are connected to.

    Parameters
    ----------
    kept, weights : ndarray
        The first ``count`` entries are the kept experts and their gate weights.
    indptr, indices, values : ndarray
        The outputs in CSR form, (n_experts, n_classes).
    intercept, logits : ndarray (n_classes,)
        Logits of classes that are not reached keep their old content.
    reached_classes : ndarray of int64 (n_classes,)
        Filled from the left.
    is_reached : ndarray of bool (n_classes,)
        False on entry, set to True for the reached classes.

    Returns
    -------
    n_reached : int
    """
    n_reached = 0
    for q in range(count):
        e = kept[q]
        for p in range(indptr[e], indptr[e + 1]):
            c = indices[p]
            if not is_reached[c]:
                is_reached[c] = True
                reached_classes[n_reached] = c
                n_reached += 1
                logits[c] = intercept[c]
            logits[c] += weights[q] * values[p]
    return n_reached


@njit(**INLINED)
def _reach_all_classes(
    intercept, logits, reached_classes, n_reached, is_reached, prior_exp, prior_total
):
    """Reach all classes if the reached ones are more than half of the prior; returns n_reached.

    To subtract that much from the total of the prior would lose digits.
    """
    share = prior_total * 0
    for q in range(n_reached):
        share += prior_exp[reached_classes[q]]
    if share <= prior_total / 2:
        return n_reached
    for c in range(logits.shape[0]):
        if not is_reached[c]:
            is_reached[c] = True
            logits[c] = intercept[c]
            reached_classes[n_reached] = c
            n_reached += 1
    return n_reached


@njit(**HELPER)
def softmax_of_reached(
    logits, reached_classes, n_reached, is_reached, intercept, prior_exp, prior_total, prior_max
):
    """Replace the logits of the reached classes by probabilities.

    ``prior_exp`` holds exp(b2 - prior_max) and ``prior_total`` its sum, see `write_prior`. The
    other arguments are those of `write_reached_logits`.

    Returns
    -------
    n_reached : int
        All classes may be reached now.
    factor : float
        Turns ``prior_exp`` into the probabilities of the classes that are not reached: they are
        counted without being visited.
    """
    n_reached = _reach_all_classes(
        intercept, logits, reached_classes, n_reached, is_reached, prior_exp, prior_total
    )
    largest = prior_max
    rest = prior_total
    for q in range(n_reached):
        largest = max(largest, logits[reached_classes[q]])
        rest -= prior_exp[reached_classes[q]]
    factor = np.exp(prior_max - largest)
    if n_reached == logits.shape[0]:
        factor = logits.dtype.type(0)
    total = rest * factor
    for q in range(n_reached):
        c = reached_classes[q]
        logits[c] = np.exp(logits[c] - largest)
        total += logits[c]
    for q in range(n_reached):
        logits[reached_classes[q]] /= total
    return n_reached, factor / total
