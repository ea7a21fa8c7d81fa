"""One-vs-rest linear classifiers, one per expert, by implicit stochastic gradient steps.

Every expert is a linear classifier of its own classes against the rest (Huberised squared
hinge, L2 penalty). The experts do not interact, so threads take blocks of experts and the
result does not depend on the number of threads.
"""

from typing import NamedTuple

import numpy as np
from scipy import sparse

from .._averages import move_towards
from .._csr import csr_arrays, with_values
from .._engines.arguments import LinearRows, Pattern, StepSchedule

STREAM_HORIZON = 6


class ExpertBlock(NamedTuple):
    """Some of the experts in linear epochs, and their average so far."""

    inside: np.ndarray  # (nnz,) of bool: which of all connections are theirs
    targets: sparse.csr_array  # (n_samples, n_experts), stores an entry where the target is +1
    ignored: sparse.csr_array  # the same shape: experts that take no step for a sample
    margins: sparse.csr_array  # (n_features, n_experts), after the last epoch
    bias: np.ndarray  # (n_experts,), multiplies the bias feature
    mean_margins: np.ndarray  # values on the same pattern
    mean_bias: np.ndarray


class LinearRun(NamedTuple):
    """Linear epochs of all experts; nothing of it changes in place."""

    margins: sparse.csr_array  # (n_features, n_experts), before the first epoch
    blocks: list  # of `ExpertBlock`, one for each thread
    n_epochs: int = 0  # in the average
    seen: float = 0.0  # sample weight visited so far

    def average(self):
        """Average the epochs; returns (margins, bias)."""
        values = np.empty_like(self.margins.data)
        for block in self.blocks:
            values[block.inside] = block.mean_margins
        bias = np.concatenate([block.mean_bias for block in self.blocks])
        return with_values(self.margins, values), bias


def begin_run(problem, data, margins, bias):
    """Divide the experts into a block for each thread, before the first epoch.

    Parameters
    ----------
    problem : Problem
    data : TrainingData
    margins : csr_array (n_features, n_experts)
        Where the margins start, on the pattern of the connections. Two classes are trained as a
        single margin, if ``data.binary``.
    bias : ndarray (n_experts,), multiplies the bias feature

    Returns
    -------
    LinearRun
    """
    targets = data.sample_experts
    if data.binary:
        targets = targets[:, [1]].tocsr()
    siblings = sparse.csr_array(targets.shape) if data.siblings is None else data.siblings
    n_blocks = min(problem.threads.n_threads, margins.shape[1])
    edges = np.linspace(0, margins.shape[1], n_blocks + 1).astype(int)
    block_of_entry = np.searchsorted(edges[1:], margins.indices, side="right").astype(np.int16)
    blocks = []
    for k, (first, last) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        inside = block_of_entry == k
        before = np.zeros(len(inside) + 1, margins.indptr.dtype)
        np.cumsum(inside, out=before[1:])
        indices = margins.indices[inside] - margins.indices.dtype.type(first)
        parts = margins.data[inside], indices, before[margins.indptr]
        own_margins = sparse.csr_array(parts, shape=(margins.shape[0], last - first))
        own_targets, own_bias = targets[:, first:last].tocsr(), bias[first:last]
        ignored = siblings[:, first:last].tocsr()
        means = np.zeros_like(own_margins.data), np.zeros_like(own_bias)
        blocks.append(ExpertBlock(inside, own_targets, ignored, own_margins, own_bias, *means))
    return LinearRun(margins, blocks)


def run_epochs(problem, data, run, orders, alpha, *, earlier=0.0):
    """Take the margins of all experts through further epochs.

    Parameters
    ----------
    problem : Problem
    data : TrainingData
    run : LinearRun
    orders : list of ndarray
        The rows in the order of their visits, one array an epoch.
    alpha : float
        Strength of the penalty.
    earlier : float, default=0.0
        Sample weight of a stream before ``data``.

    Returns
    -------
    LinearRun
    """
    weights = [float(data.sample_weight[order].sum(dtype=np.float64)) for order in orders]
    horizon, geometry, options = earlier + data.exposure.total, data.geometry, problem.options
    # In a stream the horizon moves on. The weights have to shrink more slowly there, or the
    # first samples would be forgotten.
    horizon = STREAM_HORIZON * horizon if options.in_stream else horizon
    full, batch_size = options.full_batch, options.batch_size
    schedule = StepSchedule(
        seen=run.seen + earlier,
        numerator=horizon / (alpha * geometry.mean_square),
        offset=horizon / alpha,
        row_crowding=0.0 if full else 1.0 + (batch_size - 1) * geometry.crowding,
        batch_crowding=horizon * geometry.crowding if full else 0.0,
        bias_feature=geometry.bias_feature,
    )
    numbers = range(run.n_epochs, run.n_epochs + len(orders))
    epochs = list(zip(numbers, orders, weights, strict=True))
    blocks = problem.threads.map(
        lambda block: _run_block(problem, data, block, schedule, epochs), run.blocks
    )
    # Added one by one, so that the sum does not depend on how the epochs are grouped.
    seen = sum(weights, run.seen)
    return run._replace(blocks=blocks, n_epochs=run.n_epochs + len(orders), seen=seen)


def _run_block(problem, data, block, schedule, epochs):
    """Run epochs, a list of (epoch, order, visited weight), on a copy of a block of experts."""
    margins = with_values(block.margins, block.margins.data.copy())
    block = block._replace(
        margins=margins,
        bias=block.bias.copy(),
        mean_margins=block.mean_margins.copy(),
        mean_bias=block.mean_bias.copy(),
    )
    targets, ignored = (
        Pattern(matrix.indptr, matrix.indices) for matrix in (block.targets, block.ignored)
    )
    for epoch, order, weight in epochs:
        rows = LinearRows(order, data.geometry.squared_norms, data.sample_weight)
        scale = problem.engine.linear_epoch(
            csr_arrays(data.X), rows, targets, ignored, csr_arrays(margins), block.bias, schedule,
            problem.options.batch_size,
        )  # fmt: skip
        margins.data[:] *= margins.dtype.type(scale)
        schedule = schedule._replace(seen=schedule.seen + weight)
        # In the average, epoch t counts in proportion to t.
        means = block.mean_margins, block.mean_bias
        move_towards(means, (margins.data, block.bias), 2 / (epoch + 2))
    return block
