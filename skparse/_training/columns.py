"""The columns of a dense X, standardised, and the way back to those of the user."""

from typing import NamedTuple

import numpy as np
from scipy import sparse

from .._csr import with_smallest_index_dtype
from .._engines.arguments import DenseRouter
from .._model import SparseExpertModel
from .scales import weighted_quantile

# A score passes the ReLU if it is at most so far below the largest of its sample: an expert with
# a lower one would have a gate weight of nearly zero.
SCORE_RANGE = 48.0
ROUNDING = 1e-12  # of the deviation of a constant column, relative to its value
ROWS = 1024  # that are standardised at a time
# Entries of a column count as at most so many times as far from its median as the upper quartile
# of those that are not equal to it.
MAX_QUARTILES = 20.0
# A standardised value that is trained on is at most so large. The squared norm of a row is at most
# that of one such value, plus the square of MAX_ROW_DEVIATION for each column.
MAX_DEVIATIONS = 10.0
MAX_ROW_DEVIATION = 3.0


class Columns(NamedTuple):
    """Standardised columns: ``values = (X - offset) * factor``, of mean zero."""

    values: np.ndarray  # (n_samples, n_features)
    offset: np.ndarray  # (n_features,) of float64
    factor: np.ndarray  # (n_features,) of float64, zero for a constant column

    def scaled(self, factor):
        """Multiply the columns by further factors."""
        values = self.values * factor.astype(self.values.dtype)
        return self._replace(values=values, factor=self.factor * factor)


def measure_columns(data):
    """Measure the weighted mean and standard deviation of every column.

    Entries that are far from all others count as if they were nearer, so that a single one does
    not make the others equal.

    Returns
    -------
    offset : ndarray (n_features,) of float64
    factor : ndarray (n_features,) of float64
        One over the standard deviation, zero for a constant column.
    """
    X, share = data.X.tocsc(), data.sample_weight.astype(np.float64)
    share /= share.sum()
    offset, variance = np.empty(X.shape[1]), np.empty(X.shape[1])
    for j in range(X.shape[1]):
        part = slice(X.indptr[j], X.indptr[j + 1])
        weight, values = share[X.indices[part]], X.data[part].astype(np.float64)
        # The rows that store nothing are zeros.
        rest = max(1 - weight.sum(), 0) if len(weight) < X.shape[0] else 0
        values = _draw_in(np.append(values, 0.0), np.append(weight, rest))[:-1]
        offset[j] = (weight * values).sum()
        variance[j] = (weight * (values - offset[j]) ** 2).sum() + rest * offset[j] ** 2
    deviation = np.sqrt(variance)
    constant = deviation <= ROUNDING * np.abs(offset)
    return offset, np.where(constant, 0, 1 / np.where(constant, 1, deviation))


def _draw_in(values, weight):
    """Move entries that are far from all others nearer to the median; returns the values."""
    median = weighted_quantile(values, weight, 0.5)
    distances = np.abs(values - median)
    far = distances > 0
    if not (weight[far] > 0).any():
        return values
    limit = MAX_QUARTILES * weighted_quantile(distances[far], weight[far], 0.75)
    return np.clip(values, median - limit, median + limit)


def standardise(X, offset, factor):
    """Subtract an offset from every column of a CSR array, and multiply it by a factor.

    Values beyond `MAX_DEVIATIONS` are moved there, and rows that are still long are made shorter.

    Standardised columns have float32, which is precise enough to train on. So they are not larger
    than X, more than half of whose entries are nonzero and have an index beside them.

    Returns
    -------
    Columns
    """
    values = np.empty(X.shape, np.float32)
    largest = MAX_ROW_DEVIATION**2 * X.shape[1] + MAX_DEVIATIONS**2
    for first in range(0, len(values), ROWS):
        block = slice(first, first + ROWS)
        part = ((X[block].toarray() - offset) * factor).clip(-MAX_DEVIATIONS, MAX_DEVIATIONS)
        squares = np.einsum("ij,ij->i", part, part)
        values[block] = part * np.sqrt(largest / np.maximum(squares, largest))[:, None]
    return Columns(values, offset, factor)


def build_dense_model(columns, router, outputs, scaling):
    """Turn a router for standardised columns into a model of X as the user gave it.

    A constant is added to the scores, with which the ReLU cuts no score that matters, also after
    the calibration.

    Parameters
    ----------
    columns : Columns
    router : DenseRouter of float64
    outputs : csr_array (n_experts, n_classes)
    scaling : ScoreScaling
        Its factors multiply the model later.

    Returns
    -------
    SparseExpertModel
    """
    kind = outputs.dtype
    weights = router.weights * columns.factor[:, None]
    bias = (
        router.bias
        + SCORE_RANGE / scaling.score_factor
        - (columns.offset[:, None] * weights).sum(axis=0)
    )
    matrix = with_smallest_index_dtype(sparse.csr_array(weights.astype(kind)))
    intercept = np.zeros(outputs.shape[1], kind)
    return SparseExpertModel(matrix, bias.astype(kind), outputs, intercept)


def router_of_model(columns, model):
    """Undo `build_dense_model`; returns a `DenseRouter`. Constant columns get no weights."""
    weights, bias = model.router.toarray().astype(np.float64), model.router_intercept
    bias = bias + (columns.offset[:, None] * weights).sum(axis=0)
    varies = columns.factor > 0
    weights[varies] /= columns.factor[varies, None]
    weights[~varies] = 0
    return DenseRouter(weights.astype(np.float32), (bias - bias.mean()).astype(np.float32))


def centre_router(router):
    """Subtract what the scores of all experts have in common; the gate does not depend on it.

    Then the mean score of any sample is zero, and the largest one is not negative.
    """
    parts = (part.astype(np.float64) for part in router)
    return DenseRouter(*(part - part.mean(axis=-1, keepdims=True) for part in parts))


def prune_router(columns, router, weight_density):
    """Set all but the share ``weight_density`` of the weights to zero: the least influential ones.

    The influence of a weight is its magnitude times the standard deviation of its column.
    """
    weights, (n_features, n_experts) = router.weights.copy(), router.weights.shape
    spread = np.array([columns.values[:, j].std(dtype=np.float64) for j in range(n_features)])
    influence = (np.abs(weights) * spread[:, None]).ravel()
    n_kept = max(1, round(weight_density * n_features * n_experts))
    weights.ravel()[np.argsort(-influence, kind="stable")[n_kept:]] = 0
    return router._replace(weights=weights)
