"""What stages work with: a problem that does not change, and a draft that grows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from .._engines.arguments import LowRankTerm
from .._model import SparseExpertModel
from .._threads import Threads
from .columns import Columns
from .data import Exposure, TrainingData
from .dense_run import DenseExperts
from .linear_run import LinearRun
from .mixture import Mixture
from .scores import ScoreScaling

# Epochs and batch size of "auto": of sparse X and, with True, of dense X.
SCHEDULES = {False: (4, 32), True: (40, 64)}
# An epoch makes at least this many updates, however few the samples.
UPDATES_PER_EPOCH = 64


@dataclass(frozen=True)
class FitOptions:
    """The wishes of the user, resolved against the data; they never change."""

    n_experts: int | None  # None for "auto"
    top_k: int
    largest_top_k: int  # of this fit and of the fits that it continues
    weight_density: float | None  # None for "auto"
    alpha: float | None  # None for "auto"
    max_iter: int
    automatic_epochs: bool  # max_iter is "auto"
    may_stop: bool  # before max_iter, by the training loss
    batch_size: int
    learning_rate: float
    tol: float
    n_iter_no_change: int
    early_stopping: bool
    n_threads: int
    multilabel: bool
    full_batch: bool  # every step takes all samples
    in_stream: bool  # an epoch visits each sample once, however few there are
    dense: bool  # X is dense, and its columns are standardised
    keeps_unused_experts: bool  # that no training sample keeps


class Monitor(NamedTuple):
    """Who follows the training, and how.

    `begin_step` is called with a name before each step. It returns what is called after the
    step, with a function that builds the model so far. If that call returns True after an epoch,
    it is the last one.
    `validate` scores a `SparseExpertModel` on validation samples, larger is better. `report` is
    called with (epoch, loss, score) after every epoch; the score is None without `validate`.
    """

    begin_step: Callable = lambda name: lambda build_model: False
    validate: Callable | None = None
    report: Callable | None = None


@dataclass(frozen=True)
class Problem:
    """What a fit is about; no stage changes it."""

    data: TrainingData  # as the user gave it
    options: FitOptions
    engine: Any  # see `skparse._engines`
    threads: Threads
    random_state: np.random.RandomState
    monitor: Monitor = Monitor()


@dataclass(frozen=True)
class Draft:
    """What training has found so far; every stage returns a new one."""

    data: TrainingData  # as it is trained on: columns may be multiplied by their relevance
    scaling: ScoreScaling  # calibrated by `calibrate`
    alpha: float  # strength of the penalty
    model: SparseExpertModel | None = None  # complete after `train_nested`
    held_out: np.ndarray | None = None  # (n_samples,) of bool, see `hold_out`
    shift: np.ndarray | None = None  # (n_classes,), added to b2 of the complete model
    temperatures: np.ndarray | None = None  # of each level, see `SparseExpertModel`
    prior_logits: np.ndarray | None = None  # of a stream before these samples
    margins: sparse.csr_array | None = None  # (n_features, n_experts), start of the linear epochs
    orders: tuple = ()  # two lists: orders of the linear epochs without and with held-out samples
    run: LinearRun | None = None  # the linear epochs so far
    mixture: Mixture | None = None  # of penalties, if the fit is cross-fitted
    prior_strength: float | None = None  # factor on the naive-Bayes log-odds
    relevance_power: float | None = None  # of the features; None for the default
    low_rank: LowRankTerm | Callable | None = None  # callable while it may still be in training
    new_features: np.ndarray | None = None  # (n_features,) of bool, without an earlier connection
    columns: Columns | None = None  # of a dense X
    experts_per_class: np.ndarray | None = None  # (n_classes,) of int
    power: float = 1.0  # of the relevance of the columns
    experts: DenseExperts | None = None  # of a dense X, for its columns
    loss_curve: tuple = ()  # mean loss of each epoch
    validation_scores: tuple = ()  # after each epoch; empty without a validation set
    expert_load: np.ndarray | int = 0  # (n_experts,), see `measure_load`
    earlier: Exposure | None = None  # what a stream has seen before these samples

    @property
    def exposure(self):
        """What the model has learnt from, samples of earlier calls of a stream included."""
        own = self.data.exposure
        return own if self.earlier is None else self.earlier.plus(own)


def draw_order(problem, data):
    """Draw the rows in the order in which an epoch visits them, (n_visits,) of int64."""
    options, n = problem.options, data.X.shape[0]
    repeats = 1 if options.in_stream else -(-UPDATES_PER_EPOCH * options.batch_size // n)
    if options.full_batch:
        return np.tile(np.arange(n), repeats)
    return np.concatenate([problem.random_state.permutation(n) for _ in range(repeats)])
