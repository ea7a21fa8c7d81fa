"""Helpers for CSR arrays; each exists once."""

import numpy as np
from scipy import sparse

from ._engines.arguments import Csr


def csr_arrays(matrix):
    """Return the three arrays of a CSR matrix, as engines take them."""
    return Csr(matrix.indptr, matrix.indices, matrix.data)


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
