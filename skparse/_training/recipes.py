"""The ways to train: each recipe is made of two tuples of stages.

A stage takes a `Problem`, which does not change, and a `Draft`, and returns a new draft.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .._threads import open_threads
from .completion import complete_model
from .connections import connect, grow_connections, limit_density
from .cross_calibration import cross_calibrate
from .cross_fit import complete_mixture, cross_fit, is_for_mixing, is_mixed, mix_linear
from .dense import (
    begin_dense,
    choose_candidate,
    resume_dense,
    scale_by_relevance,
    start_dense,
    train_dense,
)
from .expert_load import measure_load
from .full_columns import choose_full_factor
from .held_out import calibrate, hold_out
from .linear import advance_linear, run_linear, start_linear
from .low_rank import add_low_rank, start_low_rank
from .nested import train_nested
from .penalty import choose_penalty
from .problem import Draft, Monitor, Problem
from .scales import bound_scales
from .scores import out_of_range
from .text_clusters import assign_experts, choose_experts


class Recipe(NamedTuple):
    """Stages in the order in which they run."""

    start: tuple  # of stages: one step for the monitor
    train: tuple  # of stages: each epoch is a step


class Branch(NamedTuple):
    """A stage that runs one of two tuples of stages."""

    condition: Callable  # of problem and draft
    if_true: tuple
    if_false: tuple

    def __call__(self, problem, draft):
        """Run the stages; returns the draft."""
        for stage in self.if_true if self.condition(problem, draft) else self.if_false:
            draft = stage(problem, draft)
        return draft


# A new model. The linear epochs run twice: without the held-out samples, and with all.
_PREPARE = bound_scales, choose_experts
_TRAIN_LINEAR = (
    connect,
    start_linear,
    start_low_rank,
    choose_penalty,
    run_linear,
    add_low_rank,
    calibrate,
    run_linear,
)
HELD_OUT = Recipe(
    start=(*_PREPARE, hold_out, *_TRAIN_LINEAR, limit_density), train=(train_nested, measure_load)
)
# The same; but of few classes, a mixture of linear margins is better.
TEXT = Recipe(
    start=(
        *_PREPARE,
        choose_full_factor,
        Branch(
            is_for_mixing,
            (cross_fit, mix_linear),
            (hold_out, cross_calibrate, *_TRAIN_LINEAR),
        ),
        limit_density,
    ),
    train=(Branch(is_mixed, (complete_mixture,), (train_nested,)), measure_load),
)
# More epochs on a fitted model, for `warm_start`. Pruning comes last, so that new connections
# have been trained before their influence is compared.
FURTHER = Recipe(
    start=(bound_scales, assign_experts, grow_connections),
    train=(train_nested, limit_density, measure_load),
)
# The next samples of a stream.
STREAM = Recipe(
    start=(bound_scales, assign_experts, grow_connections, advance_linear, limit_density),
    train=(train_nested, measure_load),
)
# A new model for dense X, and more epochs on it, for `warm_start` and for streams.
DENSE = Recipe(
    start=(
        begin_dense,
        choose_candidate,
        scale_by_relevance,
        start_dense,
    ),
    train=(train_dense, measure_load),
)
DENSE_FURTHER = Recipe(start=(resume_dense,), train=(train_dense, measure_load))


def train(recipe, data, options, engine, random_state, monitor=None, **known):
    """Run the stages of a recipe.

    Parameters
    ----------
    recipe : Recipe
    data : TrainingData
    options : FitOptions
    engine : see `skparse._engines`
    random_state : numpy.random.RandomState
    monitor : Monitor, default=None
    **known : dict
        What is known before: fields of the first `Draft`; `scaling` and `alpha` are needed.

    Returns
    -------
    Draft

    Raises
    ------
    ValueError
        If X or the weights are so large that a parameter of the model is not finite.
    """
    monitor = Monitor() if monitor is None else monitor
    # What overflows is found at the end.
    with open_threads(options.n_threads) as threads, np.errstate(over="ignore", invalid="ignore"):
        problem = Problem(data, options, engine, threads, random_state, monitor)
        draft = Draft(data=data, **known)
        end_step = monitor.begin_step("start")
        for stage in recipe.start:
            draft = stage(problem, draft)
        end_step(lambda: complete_model(problem, draft, draft.model))
        for stage in recipe.train:
            draft = stage(problem, draft)
        check_range(data.X, draft.model)
    return draft


def check_range(X, model):
    """Raise ValueError if a weight of the model, or its product with an entry of X, overflows."""
    is_finite = all(np.isfinite(array).all() for array in model.values())
    largest = np.finfo(X.dtype).max / (4 * X.shape[1])
    if is_finite and model.router.nnz and X.nnz:
        weights = np.abs(model.router.data)
        if float(np.abs(X.data).max()) * float(weights.max()) > largest:
            of_features = np.zeros(X.shape[1])
            features = np.repeat(np.arange(X.shape[1]), np.diff(model.router.indptr))
            np.maximum.at(of_features, features, weights)
            is_finite = (of_features[X.indices] * np.abs(X.data) <= largest).all()
    if not is_finite:
        raise ValueError(out_of_range(X.dtype))
