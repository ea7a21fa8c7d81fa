"""The samples of a fit, with their experts and their scales."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy import sparse

from .._csr import row_blocks, with_smallest_index_dtype


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
    bias_feature: float  # typical nonzero value: the value of the constant feature
    crowding: float  # largest eigenvalue of the second moment over its trace, in (0, 1]


@dataclass(frozen=True)
class TrainingData:
    """Samples with their classes and experts, ready for the engines."""

    X: sparse.csr_array  # (n_samples, n_features)
    labels: sparse.csr_array  # (n_samples, n_classes) of ones
    sample_weight: np.ndarray  # (n_samples,)
    class_experts: sparse.csr_array  # (n_classes, n_experts) of ones: which experts a class has
    sample_experts: sparse.csr_array  # (n_samples, n_experts): experts of the labels of a sample
    exposure: Exposure
    relevance: np.ndarray | None = None  # (n_features,), what the columns of X were multiplied by

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
        if mean_square == 0:
            return Geometry(squares, 1.0, 1.0, 1.0)
        nonzeros_per_row = float((weight * np.diff(X.indptr)).sum()) / total
        # Positive, so that it is not orthogonal to counts; random, so that hardly any X is.
        direction = np.random.RandomState(0).uniform(0.5, 1.5, X.shape[1]).astype(X.dtype)
        largest = 0.0
        for _ in range(4):
            direction /= np.sqrt((direction * direction).sum())
            scores = X @ direction
            moved = X.T @ (scores * self.sample_weight)
            largest = float(np.sqrt((moved * moved).sum())) / total
            if largest == 0:
                break
            direction = moved
        crowding = min(1.0, max(largest / mean_square, 1e-4))
        bias_feature = float(np.sqrt(mean_square / nonzeros_per_row))
        return Geometry(squares, mean_square, bias_feature, crowding)


def build_training_data(X, labels, sample_weight, n_experts):
    """Find the experts of every sample and what features and experts are seen with.

    Parameters
    ----------
    X : csr_array (n_samples, n_features)
    labels : csr_array (n_samples, n_classes) of ones
    sample_weight : ndarray (n_samples,)
    n_experts : int

    Returns
    -------
    TrainingData
    """
    class_experts = experts_of_classes(n_experts, labels.shape[1])
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
    return TrainingData(X, labels, sample_weight, class_experts, sample_experts, exposure)


def experts_of_classes(n_experts, n_classes):
    """Connect classes and experts: a CSR array (n_classes, n_experts) of ones.

    With at least as many experts as classes, expert e belongs to class e mod n_classes.
    With fewer, every class shares two experts with others, a different pair for each class
    as long as there are pairs.
    """
    if n_experts >= n_classes:
        experts = np.arange(n_experts)
        classes = experts % n_classes
    else:
        first = np.arange(n_classes) % n_experts
        second = (first + 1 + np.arange(n_classes) // n_experts) % n_experts
        classes = np.tile(np.arange(n_classes), 2)
        experts = np.concatenate([first, second])
    ones = np.ones(len(experts))
    pairs = sparse.csr_array((ones, (classes, experts)), shape=(n_classes, n_experts))
    pairs.data[:] = 1.0
    return with_smallest_index_dtype(pairs)
