"""The stage that chooses the penalty, by the losses of one linear epoch on held-out samples.

Clean labels need a weak penalty, noisy ones a strong one, and nothing that can be computed from
the rows beforehand shows which they are. So the first linear epoch is run with the weakest
penalty and with the next one, and with stronger ones for as long as these are better.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from .linear_run import LinearRun, run_epochs

ALPHAS = 1.0, 3.0, 9.0
# With fewer held-out samples, chance would choose.
MIN_HELD_OUT = 128
COMPARED_AFTER = 1  # linear epochs
DENSE_MARGINS = 2**18  # at most, that are computed at a time
COMPARED_ROWS = 1000  # held-out samples, about and at most twice as many
# The log-loss is the least one of the softmax of the margins, multiplied by these.
MARGIN_FACTORS = 2.0 ** (np.arange(-2, 9) / 2)
# A stronger penalty may raise the hinge loss and the log-loss by these shares: labels that are
# wrong in the held-out samples, too, hide a part of what it gains.
TOLERANCES = 0.005, 0.02


class Trial(NamedTuple):
    """Linear epochs with one penalty."""

    alpha: float
    run: LinearRun
    losses: np.ndarray  # of the held-out samples, see `margin_losses`


def choose_penalty(problem, draft):
    """Choose the penalty of `ALPHAS` after which the next stronger one is not better."""
    if problem.options.alpha is not None or draft.held_out.sum() < MIN_HELD_OUT:
        return draft
    data, orders, chosen = draft.data, draft.orders[0][:COMPARED_AFTER], None
    rows = np.flatnonzero(draft.held_out)
    rows = rows[:: max(1, len(rows) // COMPARED_ROWS)]
    for alpha in ALPHAS:
        run = run_epochs(problem, data, draft.run, orders, alpha)
        trial = Trial(alpha, run, margin_losses(data, *run.average(), rows))
        if chosen is not None and not are_better(trial.losses, chosen.losses):
            break
        chosen = trial
    return replace(draft, alpha=chosen.alpha, run=chosen.run)


def are_better(losses, kept):
    """Whether a stronger penalty raises neither loss by more than `TOLERANCES`."""
    pairs = (losses[0], kept[0]), (losses[1:].min(), kept[1:].min())
    return all(
        loss < (1 + tolerance) * other
        for (loss, other), tolerance in zip(pairs, TOLERANCES, strict=True)
    )


def margin_losses(data, margins, bias, rows):
    """Sum losses of some rows, in sample weight.

    The hinge loss of a row is 1 - (margin of its class - largest margin of another class), or 0
    if that is negative [1]_. The margin of a class is the largest one of its experts.

    Parameters
    ----------
    data : TrainingData
        With one label per sample.
    margins : csr_array (n_features, n_experts)
        Of the single margin if ``data.binary``.
    bias : ndarray (n_experts,), multiplies the bias feature
    rows : ndarray of int

    Returns
    -------
    ndarray (1 + len(MARGIN_FACTORS),) of float64
        The hinge loss, and the log-losses at all factors on the margins.

    References
    ----------
    .. [1] K. Crammer and Y. Singer, "On the algorithmic implementation of multiclass
       kernel-based vector machines", Journal of Machine Learning Research 2, 2001.
    """
    totals, experts = np.zeros(1 + len(MARGIN_FACTORS)), data.class_experts
    size = max(1, DENSE_MARGINS // len(experts.indices))
    for first in range(0, len(rows), size):
        block = rows[first : first + size]
        scores = (data.X[block] @ margins).toarray() + bias * data.geometry.bias_feature
        if data.binary:
            scores = np.concatenate([-scores, scores], axis=1)
        scores = np.maximum.reduceat(scores[:, experts.indices], experts.indptr[:-1], axis=1)
        own = np.arange(len(block)), data.labels[block].indices
        gaps = (scores - scores[own][:, None]).astype(np.float64)
        others = gaps.copy()
        others[own] = -np.inf
        losses = [np.maximum(1 + others.max(axis=1), 0)]
        largest = gaps.max(axis=1, keepdims=True)
        for factor in MARGIN_FACTORS:
            sums = np.exp(factor * (gaps - largest)).sum(axis=1)
            losses.append(np.log(sums) + factor * largest[:, 0])
        weight = data.sample_weight[block].astype(np.float64)
        totals += [float((loss * weight).sum()) for loss in losses]
    return totals
