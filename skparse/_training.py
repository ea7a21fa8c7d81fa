"""Training: a linear start for the experts, then epochs in which every K is trained at once."""

from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy import sparse

from . import _alpha_choice as alpha_choice
from . import _calibration as calibration
from . import _initialization as initialization
from . import _linear_start as linear_start
from . import _prior_choice as prior_choice
from . import _shared_view as shared_view
from ._compression import prune
from ._parameters import ModelParameters, csr_parts, with_values
from ._threads import Threads, map_threads

# Up to this many samples are trained in full batches, and none of them is held out.
SMALL_SAMPLE = 128
# An epoch makes at least this many updates, however few the samples.
UPDATES_PER_EPOCH = 64
BATCH_SIZE = 32
# The outputs and b2 move this much more slowly than the router (per unit of router step).
OUTPUT_RATE = 0.001
# From this many visits on an epoch is trained in two shards.
SHARD_ROWS = 4096


@dataclass(frozen=True)
class TrainingSettings:
    """What the constructor parameters ask of training, resolved against the data."""

    top_k: int
    weight_density: float | None
    alpha: float
    chooses_alpha: bool  # with enough samples, `alpha` is where the choice begins
    max_iter: int
    batch_size: int
    learning_rate: float
    tol: float
    n_iter_no_change: int
    early_stopping: bool
    full_batch: bool
    n_threads: int
    multilabel: bool
    in_stream: bool  # an epoch visits each row once, however few there are
    score_map: initialization.ScoreMap
    opposite_pair: bool  # two classes, two experts: what speaks for one speaks against the other
    view: shared_view.SharedView | None = None  # what the finished model has in addition


class TrainingResult(NamedTuple):
    """A trained model and the record of its training."""

    parameters: ModelParameters
    score_map: initialization.ScoreMap  # as calibrated
    alpha: float  # as chosen
    loss_curve: list  # mean loss of each epoch, over the sparsity levels it drew
    validation_scores: list  # of the averaged model after each epoch; empty without a set
    exposure: initialization.Exposure  # what the model has learnt from


@dataclass
class TrainingData:
    """Rows, their classes and their experts, ready for the kernels."""

    X: sparse.csr_array
    labels: sparse.csr_array  # (n_samples, n_classes) of ones
    sample_weight: np.ndarray
    class_experts: sparse.csr_array  # (n_classes, n_experts) of ones
    relevance: np.ndarray | None = None  # what X was multiplied by, (n_features,)

    @cached_property
    def row_experts(self):
        """Experts of the labels of each row, (n_samples, n_experts)."""
        return (self.labels @ self.class_experts).tocsr()

    @cached_property
    def geometry(self):
        return linear_start.measure_geometry(self.X, self.sample_weight, self.squared_norms)

    @cached_property
    def squared_norms(self):
        return linear_start.squared_norms(self.X)

    @cached_property
    def total_weight(self):
        return float(self.sample_weight.sum(dtype=np.float64))

    @cached_property
    def exposure(self):
        return initialization.measure_exposure(self)

    def with_relevance(self, relevance):
        """Return the data with every feature multiplied by its relevance."""
        values = relevance[self.X.indices]
        values *= self.X.data
        scaled = copy(self)
        for name in ("geometry", "squared_norms"):
            vars(scaled).pop(name, None)
        scaled.X, scaled.relevance = with_values(self.X, values), relevance
        return scaled


def _tell_nobody(step):
    """Begin a step of training that nobody watches."""
    return lambda build_model: False


def train(data, settings, engine, random_state, *, begin=_tell_nobody, **monitors):
    """Train a model from nothing.

    Parameters
    ----------
    data : TrainingData
    settings : TrainingSettings
    engine : see `skparse._engines`
    random_state : numpy.random.RandomState
    begin, **monitors : see `run_nested_epochs`

    Returns
    -------
    TrainingResult
    """
    end = begin("linear-start")
    held_out = calibration.choose_held_out(data.X.shape[0], settings.multilabel, random_state)
    data, start = initialization.connect(data, settings.weight_density, held_out, random_state)
    parameters, settings = _train_linearly(data, start, held_out, settings, engine, random_state)
    parameters = _limit_density(parameters, data, settings)
    end(lambda: finish(parameters, data, settings))
    return run_nested_epochs(
        parameters, data, settings, engine, random_state, begin=begin, **monitors
    )


def _train_linearly(data, margins, held_out, settings, engine, random_state):
    """Run the linear epochs and train the view, calibrate on the rows that join on the way.

    Returns
    -------
    parameters : ModelParameters
    settings : TrainingSettings
        With the penalty that was chosen, the score map as calibrated, and the shared view if
        there is one.
    """
    orders = [draw_order(data, settings, random_state) for _ in range(linear_start.LINEAR_EPOCHS)]
    n_apart = linear_start.EPOCHS_APART if held_out.any() else len(orders)
    apart = [order[~held_out[order]] for order in orders[:n_apart]]
    bias = np.zeros(margins.shape[1], margins.dtype)
    with Threads(settings.n_threads) as threads:
        trained_view = _start_view(threads, data, held_out, settings, engine, random_state)
        run = _begin_linear(data, margins, bias, settings, threads)
        if settings.chooses_alpha and held_out.sum() >= alpha_choice.ROWS_NEEDED:
            run, settings = _choose_alpha(data, run, held_out, apart, settings, engine)
        run = linear_start.run_epochs(data, run, apart[run.n_epochs :], settings, engine)
        share = _choose_prior_share(data, run, held_out, settings, engine)
        parameters = _as_model(*run.average(share), data, settings)
        if trained_view is not None:
            settings = _take_view(trained_view(), data, parameters, settings)
        if held_out.any():
            score_map = calibration.calibrate(
                _with_view(parameters, settings), data, held_out, settings, engine
            )
            settings = replace(settings, score_map=score_map)
            rest = orders[n_apart:]
            run = linear_start.run_epochs(data, run.restarted(), rest, settings, engine)
            parameters = _as_model(*run.average(share), data, settings)
    return parameters, settings


def _choose_alpha(data, start, held_out, orders, settings, engine):
    """Choose the penalty; returns (the run so far, settings)."""

    def advance(run, alpha, n_epochs):
        with_alpha = replace(settings, alpha=alpha)
        next_orders = orders[run.n_epochs : n_epochs]
        return linear_start.run_epochs(data, run, next_orders, with_alpha, engine)

    def measure(run):
        average = run.average()
        parameters = _as_model(*average, data, settings)
        losses = [calibration.held_out_loss(parameters, data, held_out, settings, engine)]
        if not settings.opposite_pair:  # of one margin a row the hinge loss tells nothing more
            rows = np.flatnonzero(held_out)
            rows = rows[:: max(1, len(rows) // alpha_choice.HINGE_ROWS)]
            losses.append(linear_start.squared_hinge(data, *average, data.row_experts, rows))
        return np.array(losses)

    chosen = alpha_choice.choose_alpha(start, advance, measure)
    return chosen.run, replace(settings, alpha=chosen.alpha)


def _choose_prior_share(data, run, held_out, settings, engine):
    """Choose how much of the naive-Bayes start is added to the average of the epochs."""
    n_samples = data.X.shape[0]
    if not held_out.any() or data.X.nnz > prior_choice.LONGEST_TEXT * n_samples:
        return 0.0

    def measure(share):
        parameters = _as_model(*run.average(share), data, settings)
        return calibration.held_out_loss(parameters, data, held_out, settings, engine)

    typical_weight = float(data.sample_weight[held_out].mean(dtype=np.float64))
    return prior_choice.choose_prior_share(measure, typical_weight)


def _start_view(threads, data, held_out, settings, engine, random_state):
    """Begin to train a shared view beside the linear epochs, if there is to be one.

    Returns what returns the view, or None. Nobody else may draw until it is asked for.
    """
    if not shared_view.is_worthwhile(data, settings):
        return None
    rows = np.flatnonzero(~held_out)
    return threads.start(shared_view.train_shared_view, data, rows, engine, random_state)


def _take_view(view, data, parameters, settings):
    """Return the settings with a trained view, and with the sharpness it asks for."""
    view = shared_view.fit_to_scores(view, data, parameters)
    flatter = shared_view.FLATTER * settings.score_map.sharper_scores
    score_map = settings.score_map._replace(sharper_scores=flatter)
    return replace(settings, view=view, score_map=score_map)


def _as_model(margins, bias, data, settings):
    """Turn the margins of linear epochs into a model."""
    if settings.opposite_pair:
        margins, bias = initialization.split_pair(margins, bias)
    return initialization.scores_from_margins(
        margins, bias, data.geometry, data.class_experts, settings.score_map
    )


def _with_view(parameters, settings):
    return parameters if settings.view is None else shared_view.add_view(parameters, settings.view)


def finish(parameters, data, settings):
    """Turn parameters in training into those of the model: complete, calibrated, for X as is."""
    finished = initialization.sharpen(_with_view(parameters, settings), settings.score_map)
    if data.relevance is None:
        return finished
    return finished._replace(router=initialization.scale_rows(finished.router, data.relevance))


def _limit_density(parameters, data, settings):
    """Prune the router weights to the density that was asked for, if one was."""
    if settings.weight_density is None:
        return parameters
    squares = with_values(data.X, data.X.data**2)
    feature_scale = np.sqrt(squares.T @ data.sample_weight)
    return prune(parameters, feature_scale, settings.weight_density)


def _begin_linear(data, margins, bias, settings, threads):
    """Begin linear epochs on the experts, or on the difference of two opposite ones."""
    targets = data.row_experts
    if settings.opposite_pair:
        margins, bias = initialization.join_pair(margins, bias)
        targets = targets[:, [1]].tocsr()
    return linear_start.begin_run(margins, bias, targets, threads)


def train_further(parameters, data, settings, engine, random_state, **monitors):
    """Train an existing model on, after connecting the features it has not seen."""
    parameters = initialization.sharpen(parameters, settings.score_map, undo=True)
    parameters = initialization.connect_more(parameters, data, data.exposure)
    result = run_nested_epochs(parameters, data, settings, engine, random_state, **monitors)
    # Last, so that new connections have had the time to earn their place.
    return result._replace(parameters=_limit_density(result.parameters, data, settings))


def train_on_stream(parameters, data, settings, engine, random_state, exposure):
    """Learn from the next samples of a stream: linear epochs, then a nested one.

    Parameters
    ----------
    parameters : ModelParameters or None
        The model so far; None at the beginning of the stream.
    exposure : Exposure or None
        What it has learnt from; None at the beginning of the stream.

    Returns
    -------
    TrainingResult
        Its exposure includes that of all calls.
    """
    score_map = settings.score_map
    seen = 0.0 if exposure is None else exposure.total
    exposure = data.exposure if exposure is None else exposure.plus(data.exposure)
    if parameters is None:
        parameters = initialization.unconnected(data, score_map)
    else:
        parameters = initialization.sharpen(parameters, score_map, undo=True)
    known = np.diff(parameters.router.indptr) > 0
    parameters = initialization.connect_more(parameters, data, exposure)
    margins, bias = initialization.margins_from_scores(parameters, data.geometry, score_map)
    margins = initialization.start_new_features(margins, known, data)
    orders = [draw_order(data, settings, random_state) for _ in range(linear_start.STREAM_EPOCHS)]
    with Threads(settings.n_threads) as threads:
        run = _begin_linear(data, margins, bias, settings, threads)
        run = linear_start.run_epochs(data, run, orders, settings, engine, earlier=seen)
    moved = _as_model(*run.average(), data, settings)
    moved = moved._replace(expert=parameters.expert, intercept=parameters.intercept)
    moved = _limit_density(moved, data, settings)
    result = run_nested_epochs(moved, data, settings, engine, random_state)
    return result._replace(exposure=exposure)


def run_nested_epochs(
    parameters,
    data,
    settings,
    engine,
    random_state,
    *,
    validate=None,
    report=None,
    begin=_tell_nobody,
):
    """Train all sparsity levels at once; returns the sharpened average of the epochs' models.

    Parameters
    ----------
    validate : callable, default=None
        Scores `ModelParameters` on held-out samples, larger is better. With
        ``settings.early_stopping`` the best-scoring average is returned.
    report : callable, default=None
        Called with (epoch, loss, score) after every epoch; the score is None without
        ``validate``.
    begin : callable
        Called with "epoch" before every epoch. Returns what is called after it, with a
        function that builds the model so far; training ends if that returns True.

    Returns
    -------
    TrainingResult
    """
    current, mean, best = parameters.copy(), parameters.copy(), None
    monitor = _Progress(settings, validate is not None)
    for epoch in range(settings.max_iter):
        end = begin("epoch")
        current, loss = _run_nested_epoch(current, data, settings, engine, random_state)
        mean.moved_towards(current, linear_start.average_share(epoch))
        score = None
        if validate is not None:
            score = validate(finish(mean, data, settings))
        if monitor.record(loss, score) and settings.early_stopping and score is not None:
            best = mean.copy()
        if report is not None:
            report(epoch, loss, score)
        asked_to_stop = end(lambda: finish(mean, data, settings))
        if asked_to_stop or monitor.stalled:
            break
    trained = finish(best or mean, data, settings)
    return TrainingResult(
        trained,
        settings.score_map,
        settings.alpha,
        monitor.losses,
        monitor.scores,
        data.exposure,
    )


class _Progress:
    """Loss and score after every epoch, and whether they still improve."""

    def __init__(self, settings, has_scores):
        self.losses, self.scores = [], []
        self._by_score = settings.early_stopping and has_scores
        self._settings = settings
        self._best = -np.inf
        self._waited = 0

    def record(self, loss, score):
        """Add an epoch; returns whether it is the best so far."""
        self.losses.append(loss)
        if score is not None:
            self.scores.append(score)
        value = score if self._by_score else -loss
        self._waited = 0 if value > self._best + self._settings.tol else self._waited + 1
        is_best = value > self._best
        self._best = max(self._best, value)
        return is_best

    @property
    def stalled(self):
        return self._waited >= self._settings.n_iter_no_change


def _run_nested_epoch(parameters, data, settings, engine, random_state):
    """Train one epoch; returns (parameters, mean loss).

    Large data are cut into two shards, each of which trains a copy of the model on half of the
    rows; their average is the model after the epoch. The cut depends on the data alone, so the
    result is the same for one thread and two.
    """
    order = draw_order(data, settings, random_state)
    shards = np.array_split(order, 2) if len(order) >= SHARD_ROWS else [order]
    levels = sparsity_levels(min(settings.top_k, len(parameters.router_intercept)))
    grids = [_draw_grids(shard, levels, settings, random_state) for shard in shards]
    steps, shrink = _step_lengths(data, settings)
    steps *= len(shards)
    rates = (
        data.geometry.bias_feature**2,
        # Two opposite experts leave the outputs and b2 nothing to say that b1 does not.
        0.0 if settings.opposite_pair else OUTPUT_RATE * data.geometry.mean_square,
        min(0.5, shrink * len(shards)),
        1.0,
    )

    def run(shard, grid):
        copy = parameters.copy()
        scale, loss = engine.nested_epoch(
            csr_parts(data.X),
            shard,
            (data.labels.indptr, data.labels.indices),
            steps,
            csr_parts(copy.router),
            csr_parts(copy.expert),
            copy.intercepts,
            grid,
            settings.batch_size,
            rates,
            settings.multilabel or None,
        )
        copy.router.data[:] *= copy.dtype.type(scale)
        return copy, loss

    trained, losses = zip(
        *map_threads(run, shards, grids, n_threads=settings.n_threads), strict=True
    )
    moved = trained[0]
    for k, other in enumerate(trained[1:], start=2):
        moved.moved_towards(other, 1 / k)
    return moved, sum(losses) / len(order)


def _draw_grids(order, levels, settings, random_state):
    """Draw how many experts each mini-batch keeps, (n_batches,) of int64."""
    n_batches = -(-len(order) // settings.batch_size)
    return levels[random_state.randint(len(levels), size=n_batches)]


def sparsity_levels(top_k):
    """Numbers of experts that training keeps: 2, 4, 8, ..., top_k.

    One kept expert has a constant gate and no router gradient; K = 1 is read from the
    ranking that the other levels train.
    """
    powers = [2**i for i in range(1, int(top_k).bit_length()) if 2**i < top_k]
    return np.array([*powers, max(2, top_k)])


def _step_lengths(data, settings):
    """Step of every sample, (n_samples,), and the shrinkage of the weights per update.

    Rows of one batch that share features push the same scores: the steps are divided by how
    crowded the batch is. A full batch depends on weights only, so that a sample of weight
    two moves the model as two samples do.
    """
    geometry = data.geometry
    # The step is one of the margins, which the scores scale.
    rate = settings.learning_rate * settings.score_map.scale**2 / geometry.mean_square
    weight = data.sample_weight.astype(np.float64)
    bias_square = geometry.bias_feature**2
    norms = data.squared_norms + bias_square
    if settings.full_batch:
        relative = weight / (data.total_weight * geometry.crowding)
        steps = rate * relative / (1.0 + rate * norms)
        updates = 1.0 / geometry.crowding
    else:
        crowd = 1.0 + (settings.batch_size - 1) * geometry.crowding
        relative = weight * len(weight) / data.total_weight
        steps = rate * relative / (1.0 + rate * relative * norms) / crowd
        updates = settings.batch_size / len(weight) * data.total_weight / crowd
    margin_rate = settings.learning_rate / (1.0 + rate * (geometry.mean_square + bias_square))
    shrink = min(0.5, margin_rate * settings.alpha * updates / data.total_weight)
    return steps.astype(data.X.dtype), shrink


def draw_order(data, settings, random_state):
    """Draw the rows in the order in which an epoch visits them, (n_visits,) of int64."""
    n = data.X.shape[0]
    repeats = 1 if settings.in_stream else -(-UPDATES_PER_EPOCH * settings.batch_size // n)
    if settings.full_batch:
        return np.tile(np.arange(n), repeats)
    return np.concatenate([random_state.permutation(n) for _ in range(repeats)])
