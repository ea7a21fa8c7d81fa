"""The samples of a fit, with their experts and their scales."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy import sparse

from .._csr import row_blocks, with_smallest_index_dtype

# Of the entries of X, from which on it is dense: a dense array is then no larger than a CSR array.
DENSE_SHARE = 0.5
# Up to this many samples are trained in full batches, and none of them is held out.
SMALL_SAMPLE = 128
# Of the samples, from which on a column of sparse X that they store is no word but a number.
FULL_COLUMN_SHARE = 0.95


class Exposure(NamedTuple):
    """Sample weight that features and experts have been seen with."""

    feature: np.ndarray  # (n_features,)
    expert: np.ndarray  # (n_experts,)
    total: float

    def plus(self, other):
        """Add two exposures."""
        return Exposure(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


class Geometry(NamedTuple):
    """Scales of the samples that make the step lengths independent of their units."""

    squared_norms: np.ndarray  # (n_samples,), of the rows of X
    mean_square: float  # weighted mean of the squared norms
    nonzeros_per_row: float  # weighted mean, without those of columns that most rows store
    bias_feature: float  # typical nonzero value: the value of the constant feature
    crowding: float  # largest eigenvalue of the second moment over its trace, in (0, 1]


@dataclass(frozen=True)
class TrainingData:
    """Samples with their classes and experts, ready for the engines."""

    X: sparse.csr_array  # (n_samples, n_features)
    labels: sparse.csr_array  # (n_samples, n_classes) of ones
    sample_weight: np.ndarray  # (n_samples,)
    class_experts: sparse.csr_array  # (n_classes, n_experts) of ones: which experts a class has
    sample_experts: sparse.csr_array  # (n_samples, n_experts): experts that a sample belongs to
    exposure: Exposure
    siblings: sparse.csr_array | None = None  # (n_samples, n_experts): others of the same classes
    binary: bool = False  # two classes, two experts: trained as a single margin
    full_columns: np.ndarray | None = None  # of X, that nearly all samples store, if any
    full_factor: float = 1.0  # on the full columns, see `choose_full_factor`
    relevance: np.ndarray | None = None  # (n_features,), what the columns of X were multiplied by
    row_factors: np.ndarray | None = None  # (n_samples,), what the rows of X were multiplied by

    @cached_property
    def geometry(self):
        """The `Geometry` of the weighted samples; the crowding by four power iterations."""
        X, weight = self.X, self.sample_weight.astype(np.float64)
        squares = np.zeros(X.shape[0], X.dtype)
        for first, last in row_blocks(X.indptr):
            start, filled = X.indptr[first], np.diff(X.indptr[first : last + 1]) > 0
            values = X.data[start : X.indptr[last]]
            starts = X.indptr[first:last][filled] - start
            if len(starts):
                squares[first:last][filled] = np.add.reduceat(values * values, starts)
        total = weight.sum()
        mean_square = float((weight * squares).sum()) / total
        if not squares.any():
            return Geometry(squares, 1.0, 0.0, 1.0, 1.0)
        nonzeros_per_row = float((weight * np.diff(X.indptr)).sum()) / total
        if self.full_columns is not None:
            of_full = float(self.exposure.feature[self.full_columns].sum()) / total
            # Where a sample of large weight has no other columns, they count.
            nonzeros_per_row -= of_full if of_full < (1 - 1e-6) * nonzeros_per_row else 0
        # Positive, so that it is not orthogonal to counts; random, so that hardly any X is.
        direction = np.random.RandomState(0).uniform(0.5, 1.5, X.shape[1]).astype(X.dtype)
        largest, shares = 0.0, (weight / total).astype(X.dtype)
        for _ in range(4):
            direction /= np.sqrt((direction * direction).sum())
            scores = X @ direction
            moved = X.T @ (scores * shares)
            largest = float(np.sqrt((moved * moved).sum()))
            if largest == 0:
                break
            direction = moved
        crowding = min(1.0, max(largest / mean_square, 1e-4))
        bias_feature = float(np.sqrt(mean_square / nonzeros_per_row))
        return Geometry(squares, mean_square, nonzeros_per_row, bias_feature, crowding)


def build_training_data(X, labels, sample_weight, class_experts, *, binary=False):
    """Find the experts of every sample and what features and experts are seen with.

    Parameters
    ----------
    X : csr_array (n_samples, n_features)
    labels : csr_array (n_samples, n_classes) of ones
    sample_weight : ndarray (n_samples,)
    class_experts : csr_array (n_classes, n_experts) of ones
    binary : bool, default=False

    Returns
    -------
    TrainingData
        Every sample belongs to all experts of its classes.
    """
    sample_experts = (labels @ class_experts).tocsr()
    totals = []
    for matrix in (X, sample_experts):
        totals.append(np.zeros(matrix.shape[1]))
        for first, last in row_blocks(matrix.indptr, max(2**20, matrix.shape[1])):
            indptr = matrix.indptr[first : last + 1]
            weight = np.repeat(sample_weight[first:last].astype(np.float64), np.diff(indptr))
            indices = matrix.indices[indptr[0] : indptr[-1]]
            totals[-1] += np.bincount(indices, weight, minlength=matrix.shape[1])
    exposure = Exposure(*totals, float(sample_weight.sum(dtype=np.float64)))
    parts = X, labels, sample_weight, class_experts, sample_experts, exposure
    is_full = exposure.feature > FULL_COLUMN_SHARE * exposure.total
    # A table has no other columns, and the statistics of small data would decide by chance.
    has_full = is_full.any() and not is_full.all() and X.shape[0] > SMALL_SAMPLE
    full_columns = np.flatnonzero(is_full) if has_full else None
    return TrainingData(*parts, binary=binary, full_columns=full_columns)


def take_samples(data, rows):
    """Take some of the samples, with their experts and siblings; returns `TrainingData`."""

    def part(array):
        return None if array is None else array[rows]

    X, weight, experts = data.X[rows], data.sample_weight[rows], data.sample_experts[rows]
    exposure = Exposure(
        np.bincount(X.indices, np.repeat(weight, np.diff(X.indptr)), minlength=X.shape[1]),
        np.bincount(
            experts.indices, np.repeat(weight, np.diff(experts.indptr)),
            minlength=experts.shape[1],
        ),
        float(weight.sum(dtype=np.float64)),
    )  # fmt: skip
    return replace(
        data, X=X, labels=data.labels[rows], sample_weight=weight, sample_experts=experts,
        exposure=exposure, siblings=part(data.siblings), row_factors=part(data.row_factors),
    )  # fmt: skip


def share_experts(n_experts, n_classes):
    """Connect more classes than experts: a CSR array (n_classes, n_experts) of ones.

    Every class shares two experts with others, a different pair for each class as long as there
    are pairs.
    """
    first = np.arange(n_classes) % n_experts
    second = (first + 1 + np.arange(n_classes) // n_experts) % n_experts
    classes, experts = np.tile(np.arange(n_classes), 2), np.concatenate([first, second])
    ones = np.ones(len(experts))
    pairs = sparse.csr_array((ones, (classes, experts)), shape=(n_classes, n_experts))
    pairs.data[:] = 1.0
    return with_smallest_index_dtype(pairs)
