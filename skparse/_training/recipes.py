"""The ways to train: each recipe is made of two tuples of stages.

A stage takes a `Problem`, which does not change, and a `Draft`, and returns a new draft.
"""

from typing import NamedTuple

import numpy as np

from .._threads import open_threads
from .completion import complete_model
from .connections import connect, grow_connections, limit_density
from .dense import (
    begin_dense,
    choose_candidate,
    resume_dense,
    scale_by_relevance,
    start_dense,
    train_dense,
)
from .expert_load import measure_load
from .held_out import calibrate, hold_out
from .linear import advance_linear, run_linear, start_linear
from .low_rank import add_low_rank, start_low_rank
from .nested import train_nested
from .penalty import choose_penalty
from .problem import Draft, Monitor, Problem
from .scales import bound_scales
from .text_clusters import assign_experts, choose_experts


class Recipe(NamedTuple):
    """Stages in the order in which they run."""

    start: tuple  # of stages: one step for the monitor
    train: tuple  # of stages: each epoch is a step


# A new model. The linear epochs run twice: without the held-out samples, and with all.
TEXT = Recipe(
    start=(
        hold_out,
        bound_scales,
        choose_experts,
        connect,
        start_linear,
        start_low_rank,
        choose_penalty,
        run_linear,
        add_low_rank,
        calibrate,
        run_linear,
        limit_density,
    ),
    train=(train_nested, measure_load),
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
    with open_threads(options.n_threads) as threads:
        problem = Problem(data, options, engine, threads, random_state, monitor)
        draft = Draft(data=data, **known)
        end_step = monitor.begin_step("start")
        for stage in recipe.start:
            draft = stage(problem, draft)
        end_step(lambda: complete_model(problem, draft, draft.model))
        for stage in recipe.train:
            draft = stage(problem, draft)
    if not all(np.isfinite(array).all() for array in draft.model.values()):
        raise ValueError(
            "X or sample_weight holds values too large or too small to train on: a weight of the "
            f"model is not finite in {data.X.dtype}. Scale X, for example with MaxAbsScaler."
        )
    return draft
