"""Helpers for CSR arrays; each exists once."""

import numpy as np
from scipy import sparse

from ._engines.arguments import Csr


def csr_arrays(matrix):
    """Return the three arrays of a CSR matrix, as engines take them."""
    arrays = matrix.indptr, matrix.indices, matrix.data
    return Csr(*(array if array.flags.writeable else unlock(array) for array in arrays))


def unlock(array):
    """Return a view of a read-only array that is not read-only.

    Kernels are compiled anew for read-only arrays, such as those of a memory map. They never write
    to X or to a model that predicts.
    """
    return np.asarray(Unlocked(array))


class Unlocked:
    """Owner of the memory of a view that numpy takes as writable."""

    def __init__(self, array):
        interface = array.__array_interface__
        self.array = array  # keeps the memory
        self.__array_interface__ = {**interface, "data": (interface["data"][0], False)}


def as_views(matrix):
    """Return a CSR matrix of views of the arrays of another one.

    scipy copies arrays that are views of longer ones, such as those that another process has sent:
    views of bytes. It takes these as they are.
    """
    # A view of a view, whose base is then an array of the same length.
    arrays = (unlock(part)[:] for part in (matrix.data, matrix.indices, matrix.indptr))
    return type(matrix)(tuple(arrays), shape=matrix.shape)


def check_csr(matrix, shape, name):
    """Raise ValueError unless an object is a CSR array of a shape, sorted, without duplicates."""
    if not sparse.issparse(matrix) or matrix.format != "csr":
        raise ValueError(f"{name} has to be a CSR array, got {type(matrix).__name__}.")
    if matrix.shape != shape:
        raise ValueError(f"{name} has shape {matrix.shape}, it needs {shape}.")
    check_pattern(matrix, name)
    indptr, indices = matrix.indptr, matrix.indices
    if len(indices) != indptr[-1] or len(matrix.data) != indptr[-1]:
        raise ValueError(f"The arrays of {name} have different lengths.")
    if indptr.dtype != indices.dtype:
        raise ValueError(f"The index arrays of {name} have different dtypes.")
    steps = np.diff(indices.astype(np.int64))
    is_first = np.zeros(len(indices) + 1, bool)
    is_first[indptr] = True  # of its row
    if (steps[~is_first[1:-1]] <= 0).any():
        raise ValueError(f"The column indices of {name} are not sorted, or not unique in a row.")


def check_pattern(matrix, name):
    """Raise ValueError unless the indices of a CSR matrix are native integers within its shape."""
    indptr, indices = matrix.indptr, matrix.indices
    native = all(a.dtype.kind == "i" and a.dtype.isnative for a in (indptr, indices))
    if not native or min(indptr.dtype.itemsize, indices.dtype.itemsize) < 4:
        raise ValueError(
            f"The indices of {name} have to be int32 or int64 in native byte order, got "
            f"{indices.dtype} and {indptr.dtype}."
        )
    n_rows, n_columns = matrix.shape
    rows_fit = len(indptr) == n_rows + 1 and indptr[0] == 0 and (indptr[1:] >= indptr[:-1]).all()
    n_entries = int(indptr[-1]) if rows_fit else 0
    if not rows_fit or n_entries > min(len(indices), len(matrix.data)):
        raise ValueError(f"The row pointers of {name} do not fit its entries.")
    # As unsigned numbers, negative ones are large.
    used = indices[:n_entries].view(f"u{indices.dtype.itemsize}")
    if n_entries and used.max() >= n_columns:
        raise ValueError(f"{name} has a column index outside of [0, {n_columns - 1}].")


def with_values(matrix, values):
    """Return a CSR array with the pattern of ``matrix`` and other values."""
    return sparse.csr_array((values, matrix.indices, matrix.indptr), shape=matrix.shape)


def keep_entries(matrix, kept):
    """Return a CSR array with those entries of ``matrix`` that ``kept`` (nnz,) marks."""
    before = np.concatenate([[0], np.cumsum(kept)])
    indptr = before[matrix.indptr].astype(matrix.indptr.dtype)
    parts = matrix.data[kept], matrix.indices[kept], indptr
    return sparse.csr_array(parts, shape=matrix.shape)


def with_smallest_index_dtype(matrix):
    """Sort a CSR array and hold its pattern in 32-bit integers where they suffice."""
    matrix.sort_indices()
    index = np.int32 if matrix.nnz <= np.iinfo(np.int32).max else np.int64
    parts = matrix.data, matrix.indices.astype(index), matrix.indptr.astype(index)
    return sparse.csr_array(parts, shape=matrix.shape)


def row_blocks(indptr, n_entries=2**20):
    """Cut the rows of a CSR pattern into (first, last) with about that many entries each.

    What is computed for one block at a time needs little memory.
    """
    cuts = np.searchsorted(indptr, np.arange(n_entries, indptr[-1], n_entries))
    edges = np.unique(np.concatenate([[0], cuts, [len(indptr) - 1]]))
    return zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)


def entry_keys(matrix):
    """Return a number for each entry of a CSR pattern, ascending with row and column, of int64."""
    rows = np.repeat(np.arange(matrix.shape[0], dtype=np.int64), np.diff(matrix.indptr))
    return rows * matrix.shape[1] + matrix.indices
