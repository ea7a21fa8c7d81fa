"""A linear start for the experts: one-vs-rest margins by implicit stochastic gradient steps.

Every expert is a linear classifier of its own classes against the rest (Huberised squared
hinge, L2 penalty). The experts do not interact, so threads take blocks of experts and the
result does not depend on how many there are.
"""

from typing import NamedTuple

import numpy as np
from scipy import sparse

from ._parameters import csr_parts, inner, move_towards, row_blocks, with_values
from ._threads import Threads

LINEAR_EPOCHS = 8
EPOCHS_APART = 6  # of them, before the rows that are kept apart join
MARGINS_AT_ONCE = 2**18  # are held as a dense block
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
    mean_square = float(inner(weight, squares)) / total
    if mean_square == 0:
        return Geometry(1.0, 1.0, 1.0)
    per_row = float(inner(weight, np.diff(X.indptr))) / total
    # Positive for counts, and at right angles to no X that is not made for it.
    direction = np.random.RandomState(0).uniform(0.5, 1.5, X.shape[1]).astype(X.dtype)
    largest = 0.0
    for _ in range(4):
        direction /= np.sqrt(inner(direction, direction))
        scores = X @ direction
        moved = X.T @ (scores * sample_weight)
        largest = float(np.sqrt(inner(moved, moved))) / total
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


class Block(NamedTuple):
    """Some of the experts on their way through the epochs, and their average so far."""

    inside: np.ndarray  # which of all connections are theirs, (nnz,) of bool
    targets: sparse.csr_array  # (n_samples, n_experts), stores an entry where the target is +1
    margins: sparse.csr_array  # (n_features, n_experts), as the last epoch left them
    bias: np.ndarray  # (n_experts,), multiplies the bias feature
    mean_margins: np.ndarray  # values on the same pattern
    mean_bias: np.ndarray

    def copy(self):
        """Copy the numbers; the patterns are shared."""
        return self._replace(
            margins=with_values(self.margins, self.margins.data.copy()),
            bias=self.bias.copy(),
            mean_margins=self.mean_margins.copy(),
            mean_bias=self.mean_bias.copy(),
        )


class LinearRun(NamedTuple):
    """Linear epochs that have been run on all experts; none of it changes in place."""

    margins: sparse.csr_array  # (n_features, n_experts), where they began
    blocks: list  # of `Block`: experts do not interact, so each thread takes some
    threads: Threads
    n_epochs: int  # in the average
    seen: float  # weight of the samples visited so far

    def average(self, share=0.0):
        """Average the epochs, plus a share of where they began; returns (margins, bias)."""
        values = np.empty_like(self.margins.data)
        for block in self.blocks:
            values[block.inside] = block.mean_margins
        if share:
            values += values.dtype.type(share) * self.margins.data
        bias = np.concatenate([block.mean_bias for block in self.blocks])
        return with_values(self.margins, values), bias

    def restarted(self):
        """Go on from the average, and begin a new one."""
        blocks = [
            _begin_block(
                block.inside,
                block.targets,
                with_values(block.margins, block.mean_margins),
                block.mean_bias,
            )
            for block in self.blocks
        ]
        return self._replace(blocks=blocks, n_epochs=0)


def _begin_block(inside, targets, margins, bias):
    mean_margins, mean_bias = np.zeros_like(margins.data), np.zeros_like(bias)
    return Block(inside, targets, margins, bias, mean_margins, mean_bias)


def begin_run(margins, bias, targets, threads):
    """Cut the experts into a block for each thread, before the first epoch.

    Parameters
    ----------
    margins : csr_array (n_features, n_experts)
        Where the margins start, on the pattern of the connections.
    bias : ndarray (n_experts,), multiplies the bias feature
    targets : csr_array (n_samples, n_experts), stores an entry where the target is +1
    threads : `skparse._threads.Threads`

    Returns
    -------
    LinearRun
    """
    n_blocks = min(threads.n_threads, margins.shape[1])
    edges = np.linspace(0, margins.shape[1], n_blocks + 1).astype(int)
    of_block = np.searchsorted(edges[1:], margins.indices, side="right").astype(np.int16)
    blocks = []
    for k in range(n_blocks):
        first, last = edges[k], edges[k + 1]
        inside = of_block == k
        own_targets = targets[:, first:last].tocsr()
        own_margins = _cut_columns(margins, inside, first, last)
        blocks.append(_begin_block(inside, own_targets, own_margins, bias[first:last]))
    return LinearRun(margins, blocks, threads, 0, 0.0)


def _cut_columns(matrix, inside, first, last):
    """Cut out the columns ``first`` to ``last``, whose entries ``inside`` marks."""
    before = np.zeros(len(inside) + 1, matrix.indptr.dtype)
    np.cumsum(inside, out=before[1:])
    indptr = before[matrix.indptr]
    parts = matrix.data[inside], matrix.indices[inside] - matrix.indices.dtype.type(first), indptr
    return sparse.csr_array(parts, shape=(matrix.shape[0], last - first))


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


def run_epochs(data, run, orders, settings, engine, *, earlier=0.0):
    """Take the margins of all experts through further epochs.

    Parameters
    ----------
    data : `skparse._training.TrainingData`
    run : LinearRun
    orders : list of ndarray, the rows in the order of their visits, one array an epoch
    settings : `skparse._training.TrainingSettings`
    engine : see `skparse._engines`
    earlier : float
        Weight of the samples of a stream before ``data``.

    Returns
    -------
    LinearRun
    """
    horizon = earlier + data.total_weight
    clock = build_clock(data.geometry, settings, seen=run.seen + earlier, horizon=horizon)

    def advance(block):
        return _run_block(data, block.copy(), run.n_epochs, clock, orders, settings, engine)

    blocks = run.threads.map(advance, run.blocks)
    return run._replace(
        blocks=blocks,
        n_epochs=run.n_epochs + len(orders),
        # Added one by one, so that the sum does not depend on how the epochs are grouped.
        seen=sum((_visited_weight(data, order) for order in orders), run.seen),
    )


def _run_block(data, block, n_epochs, clock, orders, settings, engine):
    """Run epochs on a block of experts after its first ``n_epochs``, in place."""
    values = block.margins.data
    for epoch, order in enumerate(orders, start=n_epochs):
        scale = engine.linear_epoch(
            csr_parts(data.X),
            (order, data.squared_norms, data.sample_weight),
            (block.targets.indptr, block.targets.indices),
            (block.margins.indptr, block.margins.indices),
            values,
            block.bias,
            tuple(clock),
            settings.batch_size,
        )
        values *= values.dtype.type(scale)
        clock = clock._replace(seen=clock.seen + _visited_weight(data, order))
        move_towards(block.mean_margins, values, average_share(epoch))
        move_towards(block.mean_bias, block.bias, average_share(epoch))
    return block


def squared_hinge(data, margins, bias, targets, rows):
    """Sum the one-vs-rest squared hinge losses of some rows, in sample weight.

    Parameters
    ----------
    data : `skparse._training.TrainingData`
    margins : csr_array (n_features, n_experts)
    bias : ndarray (n_experts,), multiplies the bias feature
    targets : csr_array (n_samples, n_experts), stores an entry where the target is +1
    rows : ndarray of int

    Returns
    -------
    float
    """
    total = 0.0
    bias = bias * data.geometry.bias_feature
    size = max(1, MARGINS_AT_ONCE // len(bias))
    for first in range(0, len(rows), size):
        block = rows[first : first + size]
        signs = np.where(targets[block].toarray() > 0, 1, -1)
        losses = np.maximum(1 - signs * ((data.X[block] @ margins).toarray() + bias), 0) ** 2
        total += float(inner(data.sample_weight[block], losses.sum(axis=1, dtype=np.float64)))
    return total


def _visited_weight(data, order):
    return float(data.sample_weight[order].sum(dtype=np.float64))


def average_share(epoch):
    """Weight of the newest iterate in an average in which epoch t counts in proportion to t."""
    return 2.0 / (epoch + 2.0)
