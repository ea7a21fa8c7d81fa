"""Rounds of training: local epochs on the partitions, whose changes are added.

The partitions share the connections. In a round each partition runs an epoch from the same
parameters, and the changes of all are added. Where many partitions have a feature, they all move
it in the same direction. So its change is divided by their number, and the steps on it are that
many times as long: this is the safe way to add in CoCoA+ (Ma et al., 2015), for each feature by
itself. A rare feature that only one partition has is trained as in a single fit.

All functions are pure: Dask may run them again on another worker.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import sparse

from .._averages import move_towards
from .._csr import csr_arrays, with_smallest_index_dtype, with_values
from .._engines import get_engine
from .._engines.arguments import LinearRows, NestedOptions, NestedRows, Pattern, StepSchedule
from .._model import SparseExpertModel
from .._predictor import Predictor
from .._threads import Threads
from .._training.connections import add_absences, measure_relevance
from .._training.data import Exposure, Geometry, TrainingData
from .._training.held_out import CALIBRATION_FACTORS, held_out_codes, measure_factors
from .._training.low_rank import add_products
from .._training.naive_bayes import log_odds, sum_prior_products
from .._training.nested import OUTPUT_RATE, draw_batch_top_k, step_lengths
from .._training.penalty import COMPARED_ROWS, margin_losses
from .._training.prior import EMPTY_STRENGTH, logits_of
from .._training.problem import Draft, Problem
from .._training.scores import model_from_margins, multiply_scores


class Setting(NamedTuple):
    """What is the same for all partitions and rounds; the options that stages read."""

    engine: str
    device: str
    seed: int
    n_classes: int
    top_k: int
    batch_size: int
    learning_rate: float
    n_samples: int
    n_visits: int  # of each sample in an epoch
    weight: float = 0.0
    train_weight: float = 0.0  # of the samples that are not held out
    crowding: float = 1.0  # see `Geometry`
    n_threads: int = 1
    full_batch: bool = False
    multilabel: bool = False


class Frame(NamedTuple):
    """The connections, and what the statistics of all samples give for them."""

    pattern: sparse.csr_array  # (n_features, n_classes), its values are the naive-Bayes start
    relevance: np.ndarray  # (n_features,)
    overlap: np.ndarray  # (n_features,), in how many partitions a feature counts
    bias_overlap: float  # how many partitions count
    geometry: Geometry  # of all samples, without norms and crowding
    exposure: Exposure


class Margins(NamedTuple):
    """Linear margins on the pattern of a `Frame`, or changes of them."""

    values: np.ndarray  # (nnz,)
    bias: np.ndarray  # (n_classes,), multiplies the bias feature

    def plus(self, other):
        """Add changes."""
        return Margins(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


class Weights(NamedTuple):
    """The numbers of a model on the pattern of a `Frame`, or changes of them."""

    router: np.ndarray  # (nnz,)
    router_intercept: np.ndarray  # (n_classes,)
    outputs: np.ndarray  # (n_classes,), each expert has one
    intercept: np.ndarray  # (n_classes,)
    loss: float = 0.0  # sum over the visits of the epoch

    def plus(self, other):
        """Add changes."""
        return Weights(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


@dataclass(frozen=True)
class PartitionData(TrainingData):
    """Samples of one partition with the scales of all samples."""

    geometry: Geometry = None


def build_frame(statistics):
    """Choose relevance and connections as in a fit, and the naive-Bayes start."""
    mass, weight = statistics.mass, statistics.weight
    exposure = Exposure(statistics.exposure, statistics.expert_exposure, weight)
    relevance = measure_relevance(mass, exposure)
    mean_square = float((statistics.squares * relevance.astype(np.float64) ** 2).sum()) / weight
    nonzeros = statistics.nonzeros / weight
    has_entries = mean_square > 0
    geometry = Geometry(
        squared_norms=np.zeros(0),
        mean_square=mean_square if has_entries else 1.0,
        nonzeros_per_row=nonzeros,
        bias_feature=float(np.sqrt(mean_square / nonzeros)) if has_entries else 1.0,
        crowding=1.0,
    )
    mass = with_values(mass, mass.data * np.repeat(relevance, np.diff(mass.indptr)))
    mass = with_smallest_index_dtype(add_absences(mass, exposure))
    # Two rows stand for all samples: the sums of the columns, and without weight which columns
    # have a negative entry.
    rows = [statistics.signed * relevance, -1.0 * (statistics.n_negative > 0)]
    start = log_odds(mass, sparse.csr_array(np.array(rows)), np.array([1.0, 0.0]), geometry)
    squares = statistics.squared_exposure
    overlap = np.where(squares > 0, exposure.feature**2 / np.where(squares > 0, squares, 1), 1)
    return Frame(
        with_values(mass, start.astype(mass.dtype)), relevance, overlap.astype(mass.dtype),
        weight**2 / statistics.squared_weight, geometry, exposure,
    )  # fmt: skip


def build_data(partition, frame, *, columns=None, geometry=None):
    """Build the training data of a partition, with its columns multiplied by factors."""
    factors = frame.relevance if columns is None else columns
    X, labels = partition.X, partition.labels
    X = with_values(X, factors[X.indices] * X.data)
    class_experts = sparse.eye_array(labels.shape[1], format="csr")
    parts = X, labels, partition.sample_weight, class_experts, labels, frame.exposure
    return PartitionData(*parts, geometry=frame.geometry if geometry is None else geometry)


def build_training(partition, frame, setting, scaling, alpha=1.0):
    """Build problem and draft of a partition, as stages take them."""
    data = build_data(partition, frame)
    engine = get_engine(setting.engine, setting.device)
    seeds = [setting.seed, partition.position]
    problem = Problem(data, setting, engine, Threads(1), np.random.RandomState(seeds))
    draft = Draft(data=data, scaling=scaling, alpha=alpha, held_out=partition.held_out)
    return problem, draft


def measure_start(partition, frame):
    """Measure what the start needs of scaled samples, (6,): crowding and held-out products."""
    if partition is None:
        return np.zeros(6)
    data = build_data(partition, frame)
    own = TrainingData(
        data.X, data.labels, data.sample_weight, data.class_experts, data.labels, frame.exposure
    )
    weight = float(data.sample_weight.sum(dtype=np.float64))
    products = np.zeros(5)
    if partition.held_out.any():
        products = sum_prior_products(frame.pattern, data, partition.held_out)
    return np.array([weight * own.geometry.crowding, *products])


def read_totals(statistics):
    """Return the sums that are single numbers, as a dict."""
    return {
        "weight": statistics.weight,
        "train_weight": statistics.train_weight,
        "n_samples": statistics.n_samples,
        "n_held_out": statistics.n_held_out,
    }


def start_margins(frame, strength):
    """Begin at the margins of naive Bayes."""
    dtype = frame.pattern.dtype
    values = frame.pattern.data * dtype.type(strength)
    return Margins(values, np.zeros(frame.pattern.shape[1], dtype))


def stretched_data(partition, frame, setting):
    """Build the data of an epoch: longer steps on features that several partitions have."""
    roots = np.sqrt(frame.overlap)
    whole = frame.geometry
    data = build_data(partition, frame, columns=frame.relevance * roots)
    squares = with_values(data.X, data.X.data**2).sum(axis=1)
    bias_feature = float(whole.bias_feature * np.sqrt(frame.bias_overlap))
    geometry = whole._replace(
        squared_norms=squares, bias_feature=bias_feature, crowding=setting.crowding
    )
    return data.X, geometry, np.repeat(roots, np.diff(frame.pattern.indptr))


def draw_visits(partition, setting, epoch, rows):
    """Draw the rows in the order of their visits; returns (order, random state)."""
    random_state = np.random.RandomState([setting.seed, partition.position, 1 + epoch])
    orders = [random_state.permutation(rows) for _ in range(setting.n_visits)]
    return np.concatenate(orders), random_state


def train_linear(partition, frame, setting, margins, alpha, seen, epoch, with_held_out):
    """Run a linear epoch on a partition; returns its change of the margins, or None.

    Each partition counts as all samples in the schedule of the steps, so that the weights shrink
    as much in all of them. What remains is divided by the overlap.
    """
    if partition is None:
        return None
    rows = np.flatnonzero(~partition.held_out | with_held_out)
    if len(rows) == 0:
        return None
    X, geometry, roots = stretched_data(partition, frame, setting)
    order, _ = draw_visits(partition, setting, epoch, rows)
    visited = epoch_weight(setting, with_held_out)
    time = visited / float(partition.sample_weight[order].sum(dtype=np.float64))
    moved = with_values(frame.pattern, margins.values / roots)
    dtype, root_of_bias = moved.dtype, np.sqrt(frame.bias_overlap)
    bias = (margins.bias / root_of_bias).astype(dtype)
    schedule = StepSchedule(
        seen=seen,
        numerator=setting.weight / (alpha * geometry.mean_square * time),
        offset=setting.weight / alpha,
        row_crowding=1.0 + (setting.batch_size - 1) * geometry.crowding,
        batch_crowding=0.0,
        bias_feature=geometry.bias_feature,
    )
    no_siblings = Pattern(np.zeros(X.shape[0] + 1, np.int32), np.zeros(0, np.int32))
    labels = Pattern(partition.labels.indptr, partition.labels.indices)
    weight = (partition.sample_weight * time).astype(dtype)
    scale = get_engine(setting.engine, setting.device).linear_epoch(
        csr_arrays(X), LinearRows(order, geometry.squared_norms, weight), labels, no_siblings,
        csr_arrays(moved), bias, schedule, setting.batch_size,
    )  # fmt: skip
    shrunk = linear_shrinkage(setting, alpha, seen, with_held_out)
    values = dtype.type(scale) * moved.data * roots - dtype.type(shrunk) * margins.values
    values /= roots**2
    change = (bias * root_of_bias - margins.bias) / frame.bias_overlap
    return Margins(values, change.astype(dtype))


def epoch_weight(setting, with_held_out):
    """Sum the weights of all visits of an epoch."""
    return setting.n_visits * (setting.weight if with_held_out else setting.train_weight)


def linear_shrinkage(setting, alpha, seen, with_held_out):
    """Return the factor by which a linear epoch shrinks all weights."""
    offset = setting.weight / alpha
    return (seen + offset) / (seen + epoch_weight(setting, with_held_out) + offset)


def apply_changes(old, change, shrinkage):
    """Add the changes of all partitions to parameters whose first array was shrunk."""
    first, *others = old
    kind = first.dtype.type
    if change is None:
        return old._replace(**{old._fields[0]: kind(shrinkage) * first})
    parts = (mine + theirs for mine, theirs in zip(others, change[1:], strict=True))
    return type(old)(kind(shrinkage) * first + change[0], *parts)


def average(mean, new, epoch):
    """Move the average of the epochs towards a new one: epoch t counts in proportion to t."""
    arrays = [array.copy() for array in mean if isinstance(array, np.ndarray)]
    targets = [array for array in new if isinstance(array, np.ndarray)]
    move_towards(arrays, targets, 2 / (epoch + 2))
    return type(mean)(*arrays)


def measure_penalty(partition, frame, setting, scaling, margins, n_held_out):
    """Sum the losses of `margin_losses` on the held-out samples; None without any."""
    if partition is None or not partition.held_out.any():
        return None
    _, draft = build_training(partition, frame, setting, scaling)
    rows = np.flatnonzero(partition.held_out)
    rows = rows[:: max(1, n_held_out // COMPARED_ROWS)]
    router = with_values(frame.pattern, margins.values)
    return margin_losses(draft.data, router, margins.bias, rows)


def measure_margins(partition, frame, setting, scaling, margins, term):
    """Sum the losses of a model on the held-out samples of a partition.

    Returns
    -------
    (log-losses at all factors, misses at all factors, weight, n_held_out), or None without
    held-out samples
    """
    if partition is None or not partition.held_out.any():
        return None
    codes, classes, weight, model = code_held_out(
        partition, frame, setting, scaling, margins, term
    )
    factors = (
        scaling.score_factor * CALIBRATION_FACTORS,
        scaling.output_factor * CALIBRATION_FACTORS,
    )
    by_factors, misses = measure_factors(codes, model, classes, weight, factors)
    return by_factors, misses, float(weight.sum()), len(weight)


def code_held_out(partition, frame, setting, scaling, margins, term):
    """Compute the gate weights of the held-out samples, and the model that gives them.

    Returns
    -------
    (codes, classes, weight) of `held_out_codes`, and the model
    """
    problem, draft = build_training(partition, frame, setting, scaling)
    model = model_from_margins(draft, with_values(frame.pattern, margins.values), margins.bias)
    if term is not None:
        model = add_products(model, term)
    return *held_out_codes(problem, draft, model), model


def measure_codes(partition, frame, setting, scaling, margins, term, every):
    """Compute the gate weights of some held-out samples, which choose the temperatures.

    Returns
    -------
    (codes, classes, weight), or None without held-out samples
    """
    if partition is None or not partition.held_out.any():
        return None
    held_out = np.zeros_like(partition.held_out)
    held_out[np.flatnonzero(partition.held_out)[::every]] = True
    partition = partition._replace(held_out=held_out)
    return code_held_out(partition, frame, setting, scaling, margins, term)[:3]


def start_weights(frame, setting, scaling, margins):
    """Turn margins into the numbers of a model."""
    n_classes = setting.n_classes
    eye = sparse.eye_array(n_classes, format="csr")
    empty = sparse.csr_array((0, n_classes))
    data = PartitionData(empty, empty, np.zeros(0), eye, empty, frame.exposure,
                         geometry=frame.geometry)  # fmt: skip
    draft = Draft(data=data, scaling=scaling, alpha=1.0)
    model = model_from_margins(draft, with_values(frame.pattern, margins.values), margins.bias)
    return Weights(*model.values())


def weights_to_model(frame, weights):
    """Turn numbers into a `SparseExpertModel`."""
    n_classes = len(weights.intercept)
    outputs = sparse.eye_array(n_classes, format="csr", dtype=weights.outputs.dtype)
    outputs = with_smallest_index_dtype(sparse.csr_array(outputs))
    return SparseExpertModel(
        with_values(frame.pattern, weights.router), weights.router_intercept,
        with_values(outputs, weights.outputs), weights.intercept,
    )  # fmt: skip


def train_weights(partition, frame, setting, scaling, weights, alpha, epoch):
    """Run a nested epoch on a partition; returns its change of the weights, or None."""
    if partition is None:
        return None
    X, geometry, roots = stretched_data(partition, frame, setting)
    order, random_state = draw_visits(
        partition, setting, 1000 + epoch, np.arange(len(partition.held_out))
    )
    mean_weight = setting.weight / setting.n_samples
    exposure = frame.exposure._replace(total=mean_weight * X.shape[0])
    labels = partition.labels
    data = PartitionData(X, labels, partition.sample_weight, None, labels, exposure,
                         geometry=geometry)  # fmt: skip
    engine = get_engine(setting.engine, setting.device)
    problem = Problem(data, setting, engine, Threads(1), random_state)
    top_ks = draw_batch_top_k(problem, len(order), min(setting.top_k, setting.n_classes))
    steps, shrinkage = step_lengths(data, setting, alpha, scaling)
    options = NestedOptions(
        batch_size=setting.batch_size,
        bias_square=geometry.bias_feature**2,
        output_rate=OUTPUT_RATE * geometry.mean_square * frame.bias_overlap,
        shrinkage=shrinkage,
    )
    copy = Weights(weights.router / roots, *(part.copy() for part in weights[1:4]))
    scale, loss = engine.nested_epoch(
        csr_arrays(X), NestedRows(order, steps, Pattern(labels.indptr, labels.indices)),
        weights_to_model(frame, copy).arrays(), top_ks, options, None,
    )  # fmt: skip
    kind = copy.router.dtype.type
    router = (kind(scale) * copy.router * roots - kind(scale) * weights.router) / roots**2
    others = (
        ((new - old) / frame.bias_overlap).astype(old.dtype)
        for new, old in zip(copy[1:4], weights[1:4], strict=True)
    )
    return Weights(router, *others, float(loss))


def read_loss(change, setting):
    """Return the mean loss of a nested epoch."""
    return change.loss / (setting.n_samples * setting.n_visits)


def shift_intercept(model, shift):
    """Shift b2 of a model."""
    return model._replace(intercept=(model.intercept + shift).astype(model.intercept.dtype))


def nested_shrinkage(frame, setting, scaling, alpha):
    """Return the factor by which a nested epoch shrinks the router weights."""
    geometry = frame.geometry
    rate = setting.learning_rate * scaling.scale**2 / geometry.mean_square
    norm = geometry.mean_square + geometry.bias_feature**2 * frame.bias_overlap
    crowding = 1.0 + (setting.batch_size - 1) * setting.crowding
    speed = setting.learning_rate / (1.0 + rate * norm) * alpha / crowding
    return float(np.exp(-setting.n_visits * speed))


def advance_weights(frame, setting, scaling, alpha, weights, change):
    """Add the changes of a nested epoch."""
    return apply_changes(weights, change, nested_shrinkage(frame, setting, scaling, alpha))


def finish_weights(frame, scaling, weights, term, temperatures):
    """Build the model for X as the user gave it, before b2 is calibrated."""
    model = weights_to_model(frame, weights)
    if term is not None:
        model = add_products(model, term)
    model = multiply_scores(model, *scaling.factors)
    relevance = np.repeat(frame.relevance, np.diff(frame.pattern.indptr))
    router = with_values(model.router, model.router.data * relevance)
    return model._replace(router=router, temperatures=temperatures)


def sum_empty(partition, setting, model):
    """Sum the weights of the samples without a connected feature, (n_classes,)."""
    if partition is None:
        return np.zeros(setting.n_classes)
    X, router = csr_arrays(partition.X), csr_arrays(model.router)
    weight = partition.sample_weight.astype(np.float64)
    empty = get_engine(setting.engine, setting.device).find_empty(X, 0, len(weight), router)
    return partition.labels.T @ (empty * weight)


def add_prior(frame, setting, model, of_empty):
    """Add the logits of samples without a connected feature, as `measure_prior` has them."""
    strength = EMPTY_STRENGTH * setting.weight / setting.n_samples
    shares = of_empty + strength * frame.exposure.expert / frame.exposure.total
    logits = logits_of(shares / (of_empty.sum() + strength), multilabel=False)
    return model._replace(prior_logits=logits.astype(model.intercept.dtype))


def measure_logits(partition, setting, model, every):
    """Compute logits of held-out samples; returns (logits, classes, weights) or None."""
    if partition is None or not partition.held_out.any():
        return None
    rows = np.flatnonzero(partition.held_out)[::every]
    predictor = Predictor(model, get_engine(setting.engine, setting.device), 1)
    X = partition.X[rows]
    codes = predictor.code_block(X, 0, len(rows), min(setting.top_k, setting.n_classes))
    logits = (codes.astype(np.float64) @ model.outputs).toarray() + model.intercept
    weight = partition.sample_weight[rows].astype(np.float64)
    return logits, partition.labels.indices[rows], weight


def count_load(partition, setting, model):
    """Count the samples that keep each expert, (n_classes,)."""
    load = np.zeros(setting.n_classes, np.int64)
    if partition is None:
        return load
    predictor = Predictor(model, get_engine(setting.engine, setting.device), 1)
    top_k, size = min(setting.top_k, setting.n_classes), 2**15
    for first in range(0, partition.X.shape[0], size):
        last = min(first + size, partition.X.shape[0])
        codes = predictor.code_block(partition.X, first, last, top_k)
        load += np.bincount(codes.indices, minlength=setting.n_classes)
    return load
