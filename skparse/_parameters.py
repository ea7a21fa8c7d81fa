"""The numbers of one fitted model, in the form that every engine reads."""

from typing import NamedTuple

import numpy as np
from scipy import sparse


class ModelParameters(NamedTuple):
    """Weights of ``y = softmax(W h_sparse + b2)`` with ``h = ReLU(W1 x + b1)``."""

    router: sparse.csr_array  # W1 transposed, (n_features, n_experts)
    router_intercept: np.ndarray  # b1, (n_experts,)
    expert: sparse.csr_array  # W transposed, (n_experts, n_classes)
    intercept: np.ndarray  # b2, (n_classes,)

    @property
    def dtype(self):
        return self.router_intercept.dtype

    @property
    def intercepts(self):
        return self.router_intercept, self.intercept

    def copy(self):
        """Copy the numbers; the patterns, which never change in place, are shared."""
        return ModelParameters(
            with_values(self.router, self.router.data.copy()),
            self.router_intercept.copy(),
            with_values(self.expert, self.expert.data.copy()),
            self.intercept.copy(),
        )

    def moved_towards(self, other, share):
        """Return ``self + share * (other - self)``, computed in place on self."""
        for mine, theirs in zip(self.arrays(), other.arrays(), strict=True):
            move_towards(mine, theirs, share)
        return self

    def arrays(self):
        """Return the four arrays of numbers."""
        return self.router.data, self.router_intercept, self.expert.data, self.intercept


def with_values(matrix, values):
    """Return a CSR array with the pattern of ``matrix`` and other values."""
    return sparse.csr_array((values, matrix.indices, matrix.indptr), shape=matrix.shape)


def csr_parts(matrix):
    """Return (indptr, indices, data) of a CSR matrix or array."""
    return matrix.indptr, matrix.indices, matrix.data


def move_towards(mine, theirs, share, size=2**16):
    """Add ``share * (theirs - mine)`` to ``mine``, in place and without an array of its length."""
    share = mine.dtype.type(share)
    for first in range(0, len(mine), size):
        part = slice(first, first + size)
        mine[part] += share * (theirs[part] - mine[part])


def inner(a, b):
    """Inner product of two vectors, the same for any number of threads.

    BLAS would cut a long sum by its threads, and let them spin for milliseconds when they are
    done, on the processors that the kernels need next: no fit calls it.
    """
    return (a * b).sum()


def row_blocks(indptr, n_entries=2**20):
    """Cut rows of a CSR pattern into (first, last) with about that many entries each.

    What is computed for one block at a time stays small.
    """
    cuts = np.searchsorted(indptr, np.arange(n_entries, indptr[-1], n_entries))
    edges = np.unique(np.concatenate([[0], cuts, [len(indptr) - 1]]))
    return zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
