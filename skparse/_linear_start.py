"""A linear start for the experts: one-vs-rest margins by implicit stochastic gradient steps.

Every expert is a linear classifier of its own classes against the rest (Huberised squared
hinge, L2 penalty). The experts do not interact, so threads take blocks of experts and the
result does not depend on how many there are.
"""

from typing import NamedTuple

import numpy as np
from scipy import sparse

from ._parameters import csr_parts, row_blocks, with_values
from ._threads import map_threads

LINEAR_EPOCHS = 8
EPOCHS_APART = 6  # of them, before the rows that are kept apart join
STREAM_EPOCHS = 2
STREAM_HORIZON = 6


class Geometry(NamedTuple):
    """Scales of the training rows that make the step lengths independent of units."""

    mean_square: float  # weighted mean of squared row norms
    bias_feature: float  # typical nonzero value: the value of the constant feature
    crowding: float  # largest eigenvalue of the second moment over its trace, in (0, 1]


class StepClock(NamedTuple):
    """Schedule of the implicit steps: rate = numerator / (seen + offset)."""

    seen: float  # weight of the samples visited so far
    numerator: float
    offset: float
    crowd_row: float  # multiplies a row's own weight in its implicit step
    crowd_batch: float  # added to it: the weight of the rows that move the same score
    bias_feature: float


def measure_geometry(X, sample_weight, squares):
    """Measure the `Geometry` of weighted rows with their squared norms.

    Four power iterations give the crowding.
    """
    weight = sample_weight.astype(np.float64)
    total = weight.sum()
    mean_square = float(weight @ squares) / total
    if mean_square == 0:
        return Geometry(1.0, 1.0, 1.0)
    per_row = float(weight @ np.diff(X.indptr)) / total
    # Positive for counts, and at right angles to no X that is not made for it.
    direction = np.random.RandomState(0).uniform(0.5, 1.5, X.shape[1]).astype(X.dtype)
    largest = 0.0
    for _ in range(4):
        direction /= np.linalg.norm(direction)
        scores = X @ direction
        moved = X.T @ (scores * sample_weight)
        largest = float(np.linalg.norm(moved)) / total
        if largest == 0:
            break
        direction = moved
    crowding = min(1.0, max(largest / mean_square, 1e-4))
    return Geometry(mean_square, float(np.sqrt(mean_square / per_row)), crowding)


def squared_norms(X):
    """Squared Euclidean norm of every row of a CSR matrix, (n_samples,) in its dtype."""
    norms = np.zeros(X.shape[0], X.dtype)
    for first, last in row_blocks(X.indptr):
        start, filled = X.indptr[first], np.diff(X.indptr[first : last + 1]) > 0
        values = X.data[start : X.indptr[last]]
        starts = X.indptr[first:last][filled] - start
        if len(starts):
            norms[first:last][filled] = np.add.reduceat(values * values, starts)
    return norms


def build_clock(geometry, settings, *, seen, horizon):
    """Schedule for ``horizon`` of sample weight under the L2 penalty of the settings.

    The horizon of a stream moves on with it: there the weights shrink more slowly, or the
    first samples would be forgotten.
    """
    crowding = geometry.crowding
    horizon = STREAM_HORIZON * horizon if settings.in_stream else horizon
    full = settings.full_batch
    return StepClock(
        seen=seen,
        numerator=horizon / (settings.alpha * geometry.mean_square),
        offset=horizon / settings.alpha,
        crowd_row=0.0 if full else 1.0 + (settings.batch_size - 1) * crowding,
        crowd_batch=horizon * crowding if full else 0.0,
        bias_feature=geometry.bias_feature,
    )


def run_linear_start(data, margins, bias, row_experts, clock, orders, settings, engine):
    """Train the margins of all experts; returns their average over the epochs.

    Parameters
    ----------
    data : `skparse._training.TrainingData`
    margins : csr_array (n_features, n_experts)
        Where the margins start, on the pattern of the connections. Not changed.
    bias : ndarray (n_experts,), multiplies the bias feature
    row_experts : csr_array (n_samples, n_experts), the experts with target +1 of each row
    clock : StepClock
    orders : list of ndarray, the rows in the order of their visits, one array an epoch
    settings : `skparse._training.TrainingSettings`
    engine : see `skparse._engines`

    Returns
    -------
    margins : csr_array (n_features, n_experts)
    bias : ndarray (n_experts,)
    """
    n_blocks = min(settings.n_threads, margins.shape[1])
    edges = np.linspace(0, margins.shape[1], n_blocks + 1).astype(int)
    of_block = np.searchsorted(edges[1:], margins.indices, side="right").astype(np.int16)

    def run(k):
        first, last = edges[k], edges[k + 1]
        block = _cut_columns(margins, of_block == k, first, last)
        targets = row_experts[:, first:last].tocsr()
        return _run_block(data, block, bias[first:last], targets, clock, orders, settings, engine)

    trained = map_threads(run, range(n_blocks), n_threads=n_blocks)
    result = with_values(margins, np.empty_like(margins.data))
    for k, (values, _) in enumerate(trained):
        result.data[of_block == k] = values
    return result, np.concatenate([part for _, part in trained])


def _cut_columns(matrix, inside, first, last):
    """Cut out the columns ``first`` to ``last``, whose entries ``inside`` marks."""
    before = np.zeros(len(inside) + 1, matrix.indptr.dtype)
    np.cumsum(inside, out=before[1:])
    indptr = before[matrix.indptr]
    parts = matrix.data[inside], matrix.indices[inside] - matrix.indices.dtype.type(first), indptr
    return sparse.csr_array(parts, shape=(matrix.shape[0], last - first))


def _run_block(data, start, start_bias, row_experts, clock, orders, settings, engine):
    """Run all epochs for a block of experts; returns the averaged (values, bias)."""
    values, bias = start.data.copy(), start_bias.copy()
    mean_values, mean_bias = np.zeros_like(values), np.zeros_like(bias)
    for epoch, order in enumerate(orders):
        moving = with_values(start, values)
        clock = _run_epoch(data, moving, bias, row_experts, clock, order, settings, engine)
        share = values.dtype.type(average_share(epoch))
        mean_values += share * (values - mean_values)
        mean_bias += share * (bias - mean_bias)
    return mean_values, mean_bias


def _run_epoch(data, margins, bias, row_experts, clock, order, settings, engine):
    """One epoch in place on the values of ``margins`` and on ``bias``; returns the clock."""
    scale = engine.linear_epoch(
        csr_parts(data.X),
        (order, data.squared_norms, data.sample_weight),
        (row_experts.indptr, row_experts.indices),
        (margins.indptr, margins.indices),
        margins.data,
        bias,
        tuple(clock),
        settings.batch_size,
    )
    margins.data *= margins.dtype.type(scale)
    visited = data.sample_weight[order].sum(dtype=np.float64)
    return clock._replace(seen=clock.seen + float(visited))


def average_share(epoch):
    """Weight of the newest iterate in an average in which epoch t counts in proportion to t."""
    return 2.0 / (epoch + 2.0)
