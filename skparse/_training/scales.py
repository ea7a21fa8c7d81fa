"""The stage that bounds what single rows and columns of sparse X can move.

Step lengths and the penalty follow the mean squared norm of the rows. One row, or one column, of
large values would shorten the steps for all others. So such rows and columns are made smaller for
the training. The weights of the model are for X as the user gave it.
"""

from dataclasses import replace

import numpy as np

from .._csr import row_blocks, with_values

# Chosen by cross-validation on training parts; docs/design/ has the record.
# A column is at most so many times as large as the other entries of its rows, on the mean of the
# logarithms.
MAX_COLUMN_SIZE = 4.0
# The squared norm of a row is at most so many times the median.
MAX_ROW_SQUARE = 4.0
# Values of X outside 2 ** -MAX_EXPONENT and 2 ** MAX_EXPONENT are trained in another unit.
MAX_EXPONENT = 16


def bound_scales(problem, draft):
    """Multiply large columns and large rows of the draft's data by factors below one.

    A model that is continued is changed with the columns, so that its scores stay as they are.
    """
    data, model = draft.data, draft.model
    columns = column_factors(data)
    rows = row_factors(data, columns)
    if (columns == 1).all() and (rows == 1).all():
        return draft
    values = np.empty_like(data.X.data)
    for first, last in row_blocks(data.X.indptr):
        start, stop = data.X.indptr[first], data.X.indptr[last]
        factors = columns[data.X.indices[start:stop]]
        factors *= np.repeat(rows[first:last], np.diff(data.X.indptr[first : last + 1]))
        values[start:stop] = factors * data.X.data[start:stop]
    if model is not None:
        inverse = np.repeat(1 / columns, np.diff(model.router.indptr))
        router = with_values(model.router, (model.router.data * inverse).astype(values.dtype))
        model = model._replace(router=router)
    return replace(
        draft,
        data=replace(
            data,
            X=with_values(data.X, values),
            relevance=columns.astype(values.dtype),
            row_factors=None if (rows == 1).all() else rows,
        ),
        model=model,
    )


def column_factors(data):
    """Choose the factor of each column, (n_features,) of float64.

    The size of a column is the mean of the logarithms of its entries, each relative to the mean
    of its row. So neither a large row nor a large column changes the sizes of the others much.
    """
    X, weight = data.X, data.sample_weight.astype(np.float64)
    mass, sizes = np.zeros((2, X.shape[1]))
    levels = np.zeros(X.shape[0])
    for first, last in row_blocks(X.indptr, max(2**20, X.shape[1])):
        part = slice(X.indptr[first], X.indptr[last])
        per_row = np.diff(X.indptr[first : last + 1])
        logarithms = np.log2(np.abs(X.data[part])).astype(np.float64)
        rows = np.repeat(np.arange(last - first), per_row)
        level = np.bincount(rows, logarithms, minlength=last - first) / np.maximum(per_row, 1)
        levels[first:last] = level
        weights = weight[first:last][rows]
        logarithms -= level[rows]
        mass += np.bincount(X.indices[part], weights, minlength=X.shape[1])
        sizes += np.bincount(X.indices[part], weights * logarithms, minlength=X.shape[1])
    sizes /= np.where(mass > 0, mass, 1)
    factors = np.exp2(np.minimum(0, np.log2(MAX_COLUMN_SIZE) - sizes))
    filled = np.diff(X.indptr) > 0
    if filled.any():
        typical = weighted_quantile(levels[filled], weight[filled], 0.5)
        if abs(typical) > MAX_EXPONENT:
            factors *= np.exp2(-np.round(typical))
    return factors


def row_factors(data, columns):
    """Choose the factor of each row, (n_samples,) of float64, beside those of the columns.

    Columns that most rows store do not count: they have factors of their own.
    """
    X, weight = data.X, data.sample_weight.astype(np.float64)
    counted = columns.copy()
    if data.full_columns is not None:
        counted[data.full_columns] = 0
    squares = np.zeros(X.shape[0])
    for first, last in row_blocks(X.indptr):
        part = slice(X.indptr[first], X.indptr[last])
        rows = np.repeat(np.arange(last - first), np.diff(X.indptr[first : last + 1]))
        values = counted[X.indices[part]] * X.data[part]
        squares[first:last] = np.bincount(rows, values * values, minlength=last - first)
    filled = squares > 0
    if not filled.any():
        return np.ones(X.shape[0])
    largest = MAX_ROW_SQUARE * weighted_quantile(squares[filled], weight[filled], 0.5)
    factors = np.sqrt(largest / np.maximum(squares, largest))
    # Rounding alone changes no row: those of a TF-IDF matrix have the same norm.
    factors[factors > 1 - 1e-3] = 1
    return factors


def weighted_quantile(values, weight, share):
    """Find the least value that, with those below it, has a share of the weight."""
    order = np.argsort(values, kind="stable")
    totals = np.cumsum(weight[order])
    return float(values[order][np.searchsorted(totals, share * totals[-1])])
