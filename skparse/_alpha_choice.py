"""The choice of the penalty inside a fit: by what the linear start says of rows kept apart.

Clean labels want a weak penalty, noisy ones a strong one, and nothing that can be computed from
the rows tells beforehand which they are. So the first linear epochs are run with the weakest
penalty and with the next one, and on to stronger ones for as long as that pays.
"""

from typing import NamedTuple

import numpy as np

from . import _linear_start as linear_start

ALPHAS = 1.0, 3.0, 9.0
# With fewer rows kept apart, chance would choose.
ROWS_NEEDED = 128
HINGE_ROWS = 256  # about so many tell the hinge loss
# Linear epochs after which two penalties are compared. A stronger one is given up after the first
# if nothing speaks for it, and after the second unless everything does.
COMPARED_AFTER = 1, 4


class Trial(NamedTuple):
    """Linear epochs with one penalty."""

    alpha: float
    run: linear_start.LinearRun
    losses: list  # of arrays: on the rows kept apart, after each of COMPARED_AFTER


def choose_alpha(start, advance, measure):
    """Find the penalty of `ALPHAS` after which no stronger one is better.

    Parameters
    ----------
    start : LinearRun
        Before the first epoch.
    advance : callable
        ``advance(run, alpha, n_epochs)`` takes a run to that many epochs.
    measure : callable
        ``measure(run)`` is an array of its losses on the rows kept apart. A stronger penalty
        is better if it lowers all of them.

    Returns
    -------
    Trial
    """
    chosen = None
    for alpha in ALPHAS:
        trial = Trial(alpha, start, [])
        for n_epochs, speaks_for_it in zip(COMPARED_AFTER, (np.any, np.all), strict=True):
            trial = trial._replace(run=advance(trial.run, alpha, n_epochs))
            losses = measure(trial.run)
            if chosen and not speaks_for_it(losses < chosen.losses[len(trial.losses)]):
                return chosen
            trial.losses.append(losses)
        chosen = trial
    return chosen
