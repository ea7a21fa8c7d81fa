"""The stage that chooses the penalty, by the losses of linear epochs on held-out samples.

Clean labels need a weak penalty, noisy ones a strong one, and nothing that can be computed from
the rows beforehand shows which they are. So the first linear epochs are run with the weakest
penalty and with the next one, and on to stronger ones for as long as these are better.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from .held_out import measure_held_out
from .linear_run import LinearRun, run_epochs, squared_hinge
from .scores import model_from_margins

ALPHAS = 1.0, 3.0, 9.0
# With fewer held-out samples, chance would choose.
MIN_HELD_OUT = 128
HINGE_ROWS = 256  # about so many held-out samples give the hinge loss
# Linear epochs after which two penalties are compared. A stronger one is given up after the first
# if it lowers no loss, and after the second unless it lowers all of them.
COMPARED_AFTER = 1, 4


class Trial(NamedTuple):
    """Linear epochs with one penalty."""

    alpha: float
    run: LinearRun
    losses: list  # of arrays: the held-out losses after each of COMPARED_AFTER


def choose_penalty(problem, draft):
    """Choose the penalty of `ALPHAS` after which no stronger one is better."""
    if problem.options.alpha is not None or draft.held_out.sum() < MIN_HELD_OUT:
        return draft

    data, rows = draft.data, np.flatnonzero(draft.held_out)
    rows = rows[:: max(1, len(rows) // HINGE_ROWS)]

    def attempt(alpha, kept):
        trial = Trial(alpha, draft.run, [])
        for n_epochs, lowers in zip(COMPARED_AFTER, (np.any, np.all), strict=True):
            orders = draft.orders[0][trial.run.n_epochs : n_epochs]
            run = run_epochs(problem, data, trial.run, orders, alpha)
            margins, bias = run.average()
            model = model_from_margins(draft, margins, bias)
            losses = [measure_held_out(problem, draft, model).loss]
            if not data.binary:  # of a single margin, the hinge loss adds nothing
                losses.append(squared_hinge(data, margins, bias, data.sample_experts, rows))
            losses = np.array(losses)
            if kept and not lowers(losses < kept.losses[len(trial.losses)]):
                return None
            trial = trial._replace(run=run, losses=[*trial.losses, losses])
        return trial

    chosen = None
    for alpha in ALPHAS:
        trial = attempt(alpha, chosen)
        if trial is None:
            break
        chosen = trial
    return replace(draft, alpha=chosen.alpha, run=chosen.run)
