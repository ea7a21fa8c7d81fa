"""Rounds of training: local epochs on the partitions, whose changes are added.

The partitions share the connections. In a round each partition runs an epoch from the same
parameters, and the changes of all are added. Where many partitions have a feature, they all move
it in the same direction. So the steps on it are as many times as long, and its change is divided
by that number: this is the safe way to add in CoCoA+ (Ma et al., 2015), for each feature by
itself. A rare feature that only one partition has is trained as in a single fit.

The safe way is slow where the samples are few. What moves a connection the most are the samples
of its class, which are in fewer partitions than all samples with the feature. So the changes are
divided by less, see `overlap_pairs` and `NESTED_OVERLAP`.

All functions are pure: Dask may run them again on another worker.
"""

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
from .._training.data import Geometry
from .._training.low_rank import add_products
from .._training.nested import draw_batch_top_k, step_lengths
from .._training.prior import EMPTY_STRENGTH, logits_of
from .._training.problem import Draft, Problem
from .._training.scores import model_from_margins, multiply_scores
from ._rows import (
    RowData,
    cut_visits,
    draw_visits,
    label_pattern,
    row_slices,
    scale_rows,
    square_norms,
)

# Nested steps that are so many times as long as the overlap do not move as much further: each is
# bounded. So of an overlap above 1 only this share divides the changes.
NESTED_OVERLAP = 1 / 3


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
    loss: float = 0.0  # sum over the visits of the epoch

    def plus(self, other):
        """Add changes."""
        return Weights(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


def start_margins(frame, strength):
    """Begin at the margins of naive Bayes."""
    dtype = frame.pattern.dtype
    values = frame.pattern.data * dtype.type(strength)
    return Margins(values, np.zeros(frame.pattern.shape[1], dtype))


class Stretch(NamedTuple):
    """The scales of an epoch: longer steps on features that several partitions have."""

    columns: np.ndarray  # (n_features,), multiply the columns of X
    roots: np.ndarray  # (nnz,), for each connection: divide the weights and multiply the steps
    root_of_bias: float
    geometry: Geometry  # without norms


def stretch(frame, setting):
    """Find the scales of an epoch."""
    roots, root_of_bias = np.sqrt(frame.overlap), np.sqrt(frame.bias_overlap)
    geometry = frame.geometry._replace(
        bias_feature=float(frame.geometry.bias_feature * root_of_bias), crowding=setting.crowding
    )
    per_connection = np.repeat(roots, np.diff(frame.pattern.indptr))
    return Stretch(frame.relevance * roots, per_connection, root_of_bias, geometry)


def train_linear(partition, frame, setting, margins, alpha, seen, epoch, with_held_out):
    """Run a linear epoch on a partition; returns its change of the margins, or None.

    Each partition counts as all samples in the schedule of the steps, so that the weights shrink
    as much in all of them. What remains is divided by the overlap.
    """
    if partition is None or (partition.held_out.all() and not with_held_out):
        return None
    rows = np.flatnonzero(~partition.held_out | with_held_out)
    order, _ = draw_visits(partition, setting, epoch, rows)
    visited = epoch_weight(setting, with_held_out)
    time = visited / float(partition.sample_weight[order].sum(dtype=np.float64))
    scales = stretch(frame, setting)
    schedule = StepSchedule(
        seen=seen,
        numerator=setting.weight / (alpha * scales.geometry.mean_square * time),
        offset=setting.weight / alpha,
        row_crowding=1.0 + (setting.batch_size - 1) * scales.geometry.crowding,
        batch_crowding=0.0,
        bias_feature=scales.geometry.bias_feature,
    )
    moved = with_values(frame.pattern, margins.values / scales.roots)
    values, kind = moved.data, moved.dtype.type
    bias = (margins.bias / scales.root_of_bias).astype(values.dtype)
    for part in cut_visits(partition, frame, order, setting.batch_size):
        schedule = visit_linear(
            partition, order[part], setting, scales, schedule, time, moved, bias
        )
    values *= scales.roots
    values -= kind(linear_shrinkage(setting, alpha, seen, with_held_out)) * margins.values
    values /= frame.pair_overlap
    change = (bias * scales.root_of_bias - margins.bias) / frame.bias_overlap
    return Margins(values, change.astype(values.dtype))


def visit_linear(partition, rows, setting, scales, schedule, time, margins, bias):
    """Take linear steps on some rows, in place; returns the schedule of the next ones."""
    X = scale_rows(partition, rows, scales.columns)
    weight = (partition.sample_weight[rows] * time).astype(X.dtype)
    no_siblings = Pattern(np.zeros(len(rows) + 1, np.int32), np.zeros(0, np.int32))
    scale = get_engine(setting.engine, setting.device).linear_epoch(
        csr_arrays(X), LinearRows(np.arange(len(rows)), square_norms(X), weight),
        label_pattern(partition, rows), no_siblings, csr_arrays(margins), bias, schedule,
        setting.batch_size,
    )  # fmt: skip
    margins.data *= margins.dtype.type(scale)
    return schedule._replace(seen=schedule.seen + float(weight.sum(dtype=np.float64)))


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


def margins_to_model(frame, setting, scaling, margins):
    """Turn margins into a `SparseExpertModel`, as a fit does before its nested epochs."""
    n_classes = setting.n_classes
    eye = sparse.eye_array(n_classes, format="csr")
    empty = sparse.csr_array((0, n_classes))
    data = RowData(empty, empty, np.zeros(0), eye, empty, frame.exposure,
                   geometry=frame.geometry)  # fmt: skip
    draft = Draft(data=data, scaling=scaling, alpha=1.0)
    return model_from_margins(draft, with_values(frame.pattern, margins.values), margins.bias)


def start_weights(frame, setting, scaling, margins):
    """Turn margins into the numbers of a model."""
    model = margins_to_model(frame, setting, scaling, margins)
    return Weights(model.router.data, model.router_intercept)


def weights_to_model(frame, scaling, weights):
    """Turn numbers into a `SparseExpertModel`, in which each expert has one class."""
    dtype, n_classes = weights.router.dtype, len(weights.router_intercept)
    outputs = sparse.csr_array(scaling.gain * sparse.eye_array(n_classes), dtype=dtype)
    return SparseExpertModel(
        with_values(frame.pattern, weights.router), weights.router_intercept,
        with_smallest_index_dtype(outputs), np.zeros(n_classes, dtype),
    )  # fmt: skip


def train_weights(partition, frame, setting, scaling, weights, alpha, epoch):
    """Run a nested epoch on a partition; returns its change of the weights, or None."""
    if partition is None:
        return None
    n_samples, scales = partition.X.shape[0], stretch(frame, setting)
    order, random_state = draw_visits(partition, setting, 1000 + epoch, np.arange(n_samples))
    problem = Problem(None, setting, None, Threads(1), random_state)
    top_ks = draw_batch_top_k(problem, len(order), min(setting.top_k, setting.n_classes))
    batches_per_visit = setting.batch_size / n_samples
    options = NestedOptions(
        batch_size=setting.batch_size,
        bias_square=scales.geometry.bias_feature**2,
        output_rate=0.0,  # each expert has one class
        shrinkage=min(0.5, batches_per_visit * shrinking_speed(frame, setting, scaling, alpha)),
    )
    copy = Weights(weights.router / scales.roots, weights.router_intercept.copy())
    shrunk, loss = 1.0, 0.0
    for part in cut_visits(partition, frame, order, setting.batch_size):
        first = part.start // setting.batch_size
        own_top_ks = top_ks[first : -(-part.stop // setting.batch_size)]
        scale, part_loss = visit_nested(
            partition, order[part], frame, setting, scaling, scales, copy, own_top_ks, options
        )
        shrunk, loss = shrunk * scale, loss + part_loss
    kind, router = copy.router.dtype.type, copy.router
    router *= scales.roots
    router -= kind(shrunk) * weights.router
    router /= 1 + NESTED_OVERLAP * (scales.roots**2 - 1)
    of_bias = 1 + NESTED_OVERLAP * (frame.bias_overlap - 1)
    change = (copy.router_intercept - weights.router_intercept) / of_bias
    return Weights(router, change.astype(router.dtype), float(loss))


def visit_nested(partition, rows, frame, setting, scaling, scales, weights, top_ks, options):
    """Take nested steps on some rows, in place; returns (shrinkage, sum of the losses)."""
    X, labels = scale_rows(partition, rows, scales.columns), label_pattern(partition, rows)
    mean_weight = setting.weight / setting.n_samples
    data = RowData(
        X, None, partition.sample_weight[rows], None, None,
        frame.exposure._replace(total=mean_weight * len(rows)),
        geometry=scales.geometry._replace(squared_norms=square_norms(X)),
    )  # fmt: skip
    # Of all options, only the shrinkage of the weights depends on the number of the rows.
    steps, _ = step_lengths(data, setting, 1.0, scaling)
    scale, loss = get_engine(setting.engine, setting.device).nested_epoch(
        csr_arrays(X), NestedRows(np.arange(len(rows)), steps, labels),
        weights_to_model(frame, scaling, weights).arrays(), top_ks, options, None,
    )  # fmt: skip
    weights.router[:] *= weights.router.dtype.type(scale)
    return scale, loss


def read_loss(change, setting):
    """Return the mean loss of a nested epoch."""
    return change.loss / (setting.n_samples * setting.n_visits)


def shift_intercept(model, shift):
    """Shift b2 of a model."""
    return model._replace(intercept=(model.intercept + shift).astype(model.intercept.dtype))


def shrinking_speed(frame, setting, scaling, alpha):
    """Return how fast the router weights shrink, per visit of all samples."""
    geometry = frame.geometry
    rate = setting.learning_rate * scaling.scale**2 / geometry.mean_square
    norm = geometry.mean_square + geometry.bias_feature**2 * frame.bias_overlap
    crowding = 1.0 + (setting.batch_size - 1) * setting.crowding
    return setting.learning_rate / (1.0 + rate * norm) * alpha / crowding


def nested_shrinkage(frame, setting, scaling, alpha):
    """Return the factor by which a nested epoch shrinks the router weights."""
    speed = shrinking_speed(frame, setting, scaling, alpha)
    return float(np.exp(-setting.n_visits * speed))


def advance_weights(frame, setting, scaling, alpha, weights, change):
    """Add the changes of a nested epoch."""
    return apply_changes(weights, change, nested_shrinkage(frame, setting, scaling, alpha))


def finish_weights(frame, scaling, weights, term, temperatures):
    """Build the model for X as the user gave it, before b2 is calibrated."""
    model = weights_to_model(frame, scaling, weights)
    if term is not None:
        model = add_products(model, term)
    model = multiply_scores(model, *scaling.factors)
    relevance = np.repeat(frame.relevance, np.diff(frame.pattern.indptr))
    router = with_values(model.router, model.router.data * relevance)
    return model._replace(router=router, temperatures=temperatures)


def sum_empty(partition, setting, model):
    """Sum the weights of the samples without a connected feature, (n_classes,)."""
    total = np.zeros(setting.n_classes)
    if partition is None:
        return total
    find_empty = get_engine(setting.engine, setting.device).find_empty
    for part in row_slices(partition):
        X, weight = partition.X[part], partition.sample_weight[part].astype(np.float64)
        empty = find_empty(csr_arrays(X), 0, len(weight), csr_arrays(model.router))
        total += np.bincount(partition.classes[part], empty * weight, minlength=len(total))
    return total


def add_prior(frame, setting, model, of_empty):
    """Add the logits of samples without a connected feature, as `measure_prior` has them."""
    strength = EMPTY_STRENGTH * setting.weight / setting.n_samples
    shares = of_empty + strength * frame.exposure.expert / frame.exposure.total
    logits = logits_of(shares / (of_empty.sum() + strength), multilabel=False)
    return model._replace(prior_logits=logits.astype(model.intercept.dtype))


def count_load(partition, setting, model):
    """Count the samples that keep each expert, (n_classes,)."""
    load = np.zeros(setting.n_classes, np.int64)
    if partition is None:
        return load
    predictor = Predictor(model, get_engine(setting.engine, setting.device), 1)
    top_k = min(setting.top_k, setting.n_classes)
    for part in row_slices(partition):
        X = partition.X[part]
        codes = predictor.code_block(X, 0, X.shape[0], top_k)
        load += np.bincount(codes.indices, minlength=setting.n_classes)
    return load
