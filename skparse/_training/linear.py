"""Stages that run linear epochs: the start of the experts, and its continuation in a stream."""

from dataclasses import replace

import numpy as np

from .linear_run import begin_run, run_epochs
from .naive_bayes import start_new_features
from .problem import draw_order
from .scores import margins_from_model, model_from_margins, to_single_margin

LINEAR_EPOCHS = 8
EPOCHS_WITHOUT_HELD_OUT = 6  # of them, before the held-out samples join
STREAM_EPOCHS = 2


def start_linear(problem, draft):
    """Draw the orders of all linear epochs, and begin at the margins of naive Bayes."""
    orders = [draw_order(problem, draft.data) for _ in range(LINEAR_EPOCHS)]
    n_without = EPOCHS_WITHOUT_HELD_OUT if draft.held_out.any() else LINEAR_EPOCHS
    without = [order[~draft.held_out[order]] for order in orders[:n_without]]
    margins, bias = draft.margins, np.zeros(draft.margins.shape[1], draft.margins.dtype)
    if draft.data.binary:
        margins, bias = to_single_margin(margins, bias)
    run = begin_run(problem, draft.data, margins, bias)
    return replace(draft, run=run, orders=(without, orders[n_without:]))


def run_linear(problem, draft):
    """Run the next linear epochs: first those without held-out samples, then those with all.

    The latter begin at the average of the former, and form an average of their own.
    """
    (orders, *later), run = draft.orders, draft.run
    if draft.model is not None:
        run = begin_run(problem, draft.data, *run.average())._replace(seen=run.seen)
    orders = orders[run.n_epochs :]
    if not orders:
        return draft
    run = run_epochs(problem, draft.data, run, orders, draft.alpha)
    model = model_from_margins(draft, *run.average())
    return replace(draft, run=run, model=model, orders=later)


def advance_linear(problem, draft):
    """Run linear epochs on the next samples of a stream; outputs and b2 stay as they are."""
    data, model = draft.data, draft.model
    margins, bias = margins_from_model(model, data, draft.scaling)
    margins = start_new_features(margins, draft.new_features, data)
    orders = [draw_order(problem, data) for _ in range(STREAM_EPOCHS)]
    earlier = 0.0 if draft.earlier is None else draft.earlier.total
    if data.binary:
        margins, bias = to_single_margin(margins, bias)
    run = begin_run(problem, data, margins, bias)
    run = run_epochs(problem, data, run, orders, draft.alpha, earlier=earlier)
    moved = model_from_margins(draft, *run.average())
    return replace(draft, model=moved._replace(outputs=model.outputs, intercept=model.intercept))
