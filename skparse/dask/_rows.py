"""Rows of a partition, with their columns scaled: what an epoch visits next, or held-out ones.

A scaled copy of all samples would be as large as these. So each function takes some rows at a
time.
"""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from .._csr import with_values
from .._engines.arguments import Pattern
from .._training.data import Geometry, TrainingData

# That a task scales at a time, or as many as the model has connections: after each block of
# visits an epoch multiplies all weights by its shrinkage.
VISITED_ENTRIES = 2**20
SCALED_ENTRIES = 2**13
MEASURED_ROWS = 2**12  # that are measured at a time


@dataclass(frozen=True)
class RowData(TrainingData):
    """Some samples of a partition with the scales of all samples."""

    geometry: Geometry = None


def scale_rows(partition, rows, columns):
    """Return some rows of X, an index or a slice, with their columns multiplied by factors."""
    X = sparse.csr_array(partition.X[rows])
    for first in range(0, X.nnz, SCALED_ENTRIES):
        part = slice(first, first + SCALED_ENTRIES)
        X.data[part] *= columns[X.indices[part]]
    return X


def build_data(partition, rows, frame):
    """Build the training data of some rows, with their columns multiplied by the relevance."""
    labels = partition.labels(rows)
    return RowData(
        scale_rows(partition, rows, frame.relevance), labels, partition.sample_weight[rows],
        sparse.eye_array(partition.n_classes, format="csr"), labels, frame.exposure,
        geometry=frame.geometry,
    )  # fmt: skip


def square_norms(X):
    """Compute the squared norms of all rows."""
    return with_values(X, X.data**2).sum(axis=1)


def label_pattern(partition, rows):
    """Return the labels of some rows as engines take them."""
    return Pattern(np.arange(len(rows) + 1, dtype=np.int32), partition.classes[rows])


def draw_visits(partition, setting, epoch, rows, n_visits=None):
    """Draw the rows in the order of their visits; returns (order, random state)."""
    random_state = np.random.RandomState([setting.seed, partition.position, 1 + epoch])
    rows, n_visits = rows.astype(np.int32), n_visits or setting.n_visits
    orders = [random_state.permutation(rows) for _ in range(n_visits)]
    return np.concatenate(orders), random_state


def cut_visits(partition, frame, order, batch_size):
    """Cut an order of visits into blocks of whole batches; yields a slice of it for each."""
    n_entries = max(VISITED_ENTRIES, frame.pattern.nnz)
    mean = max(1.0, partition.X.nnz / partition.X.shape[0])
    size = batch_size * max(1, int(n_entries / mean / batch_size))
    for first in range(0, len(order), size):
        yield slice(first, first + size)


def some_rows(partition):
    """Return a slice of the rows, every so many of them, with a bounded number of entries."""
    return slice(None, None, max(1, -(-partition.X.nnz // VISITED_ENTRIES)))


def row_slices(partition):
    """Cut all rows into blocks; yields a slice for each."""
    for first in range(0, partition.X.shape[0], MEASURED_ROWS):
        yield slice(first, first + MEASURED_ROWS)


def held_out_blocks(partition):
    """Cut the held-out samples into blocks; yields the rows of each."""
    rows = np.flatnonzero(partition.held_out)
    for first in range(0, len(rows), MEASURED_ROWS):
        yield rows[first : first + MEASURED_ROWS]
