"""Rows of X in batches on a device, and the router weights that they use as a dense matrix."""

from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from scipy import sparse
from torch.nn.functional import embedding_bag

from .arguments import Csr

# Limits of what is on the device at a time, beside the model and a single batch.
MOST_NONZEROS = 2**20  # of X
MOST_NUMBERS = 2**22  # of dense arrays with a row for each row of X
MOST_WEIGHTS = 2**26  # of the router as a dense matrix
RARE = 16  # nonzeros are few if there are so many times more features


class Batch(NamedTuple):
    """Rows that a step is taken on, and their nonzeros by rows and by features."""

    rows: slice  # of those of the `Block`
    features: torch.Tensor  # (nnz,), of the nonzeros by rows
    x: torch.Tensor  # (nnz,), their values
    row_starts: torch.Tensor  # (n_rows,), the first nonzero of each row
    used: torch.Tensor  # (n_used,), the features that the rows have
    of_rows: torch.Tensor  # (nnz,), the row in the batch of the nonzeros by features
    x_by_feature: torch.Tensor  # (nnz,), their values
    feature_starts: torch.Tensor  # (n_used,), the first nonzero of each feature

    def sum_features(self, weights):
        """Multiply the rows by a matrix (n_features, width); returns (n_rows, width)."""
        return _sum_bags(weights, self.features, self.row_starts, self.x)

    def sum_rows(self, numbers, *, squared=False):
        """Multiply the transposed rows, or their squares, by numbers (n_rows, width).

        Returns
        -------
        torch.Tensor (n_used, width)
        """
        x = self.x_by_feature**2 if squared else self.x_by_feature
        return _sum_bags(numbers, self.of_rows, self.feature_starts, x)


class Block:
    """Some rows of X on a device.

    Parameters
    ----------
    X : Csr of ndarray
    rows : ndarray of int
    n_features : int
    device : torch.device
    renumber : bool
        Whether the features that occur are numbered anew, from zero.

    Attributes
    ----------
    features : ndarray of int (n_used,) or None
        The features that occur, ascending; None if they were not numbered anew.
    """

    def __init__(self, X, rows, n_features, device, *, renumber):
        self.device, self.n_rows, self._n_numbers = device, len(rows), n_features
        self._indptr, numbers, data = take_rows(X, rows)
        self.features = None
        if renumber:
            self.features, numbers = _number(numbers, n_features)
            self._n_numbers = len(self.features)
        self._x, self._numbers = share(data, device), share(numbers, device).long()

    def sum_features(self, weights):
        """Multiply all rows by a matrix (n_used, width); returns (n_rows, width)."""
        starts = share(self._indptr[:-1], self.device)
        return _sum_bags(weights, self._numbers, starts, self._x)

    def batches(self, size):
        """Divide the rows into batches of a size; yields `Batch`."""
        row_edges = np.append(np.arange(0, self.n_rows, size), self.n_rows)
        edges = self._indptr[row_edges]
        row_starts = self._indptr[:-1] - np.repeat(edges[:-1], np.diff(row_edges))
        row_starts = share(row_starts, self.device)
        used, of_rows, x_by_feature, feature_starts, used_edges = self._sort(row_edges, edges)
        bounds = zip(
            *(zip(e[:-1].tolist(), e[1:].tolist(), strict=True)
              for e in (row_edges, edges, used_edges)), strict=True,
        )  # fmt: skip
        for own_rows, own, own_used in bounds:
            rows, nonzeros, features = slice(*own_rows), slice(*own), slice(*own_used)
            yield Batch(
                rows, self._numbers[nonzeros], self._x[nonzeros], row_starts[rows],
                used[features], of_rows[nonzeros], x_by_feature[nonzeros],
                feature_starts[features],
            )  # fmt: skip

    def _sort(self, row_edges, edges):
        """Sort the nonzeros of every batch by their features; see `Batch` for what is returned."""
        numbers = np.arange(len(edges) - 1)
        of_batch = share(np.repeat(numbers, np.diff(edges)), self.device)
        in_batch = np.arange(self.n_rows) - np.repeat(row_edges[:-1], np.diff(row_edges))
        of_rows = share(np.repeat(in_batch, np.diff(self._indptr)), self.device)
        keys, order = torch.sort(of_batch * self._n_numbers + self._numbers, stable=True)
        pairs, counts = torch.unique_consecutive(keys, return_counts=True)
        starts = counts.cumsum(0) - counts
        batches = of_batch[starts]  # sorting moves a nonzero inside its batch
        used = pairs - batches * self._n_numbers
        starts -= share(edges[:-1], self.device)[batches]
        used_edges = torch.searchsorted(
            batches, share(np.append(numbers, len(numbers)), self.device)
        )
        of_rows, x = of_rows.index_select(0, order), self._x.index_select(0, order)
        return used, of_rows, x, starts, used_edges


class RouterPart:
    """The weights of some features of a router as a dense matrix.

    Parameters
    ----------
    router : Csr of ndarray (n_features, n_experts)
    n_experts : int
    device : torch.device
    features : ndarray of int (n_used,), default=None
        All features if None.

    Attributes
    ----------
    weights : torch.Tensor (n_used, n_experts)
        Zero where there is no connection.
    """

    def __init__(self, router, n_experts, device, features=None):
        indptr, indices, data = router
        matrix = sparse.csr_array((data, indices, indptr), shape=(len(indptr) - 1, n_experts))
        matrix = matrix if features is None else matrix[features]
        self._router, self._features = router, features
        self.weights = share(matrix.toarray(), device)

    def subtract(self, batch, gradient):
        """Subtract the product of the transposed rows with (n_rows, n_experts) where connected."""
        change = batch.sum_rows(gradient).mul_(self._is_connected.index_select(0, batch.used))
        change = self.weights.index_select(0, batch.used).sub_(change)
        self.weights.index_copy_(0, batch.used, change)

    def write_back(self):
        """Write the weights to the router that they were read from."""
        places, entries = self._connections
        self._router.data[entries] = self.weights.view(-1)[places].cpu().numpy()

    @cached_property
    def _connections(self):
        """Positions of the connections in the flat weights, and in the router."""
        features = np.arange(len(self._router.indptr) - 1)
        features = features if self._features is None else self._features
        indptr, entries = _find_rows(self._router.indptr, features)
        rows = np.repeat(np.arange(len(features)), np.diff(indptr))
        places = rows * self.weights.shape[1] + self._router.indices[entries]
        return share(places, self.weights.device), entries

    @cached_property
    def _is_connected(self):
        is_connected = torch.zeros_like(self.weights, dtype=torch.bool)
        is_connected.view(-1)[self._connections[0]] = True
        return is_connected


def fits(router, n_experts, n_nonzeros):
    """Whether to have all of a router as a dense matrix for rows with so many nonzeros."""
    n_features = len(router.indptr) - 1
    # For few rows it would take longer than to find the features that they have.
    return n_features <= RARE * int(n_nonzeros) and n_features * n_experts <= MOST_WEIGHTS


def train_blocks(X, rows, batch_size, router, n_experts, n_columns, device):
    """Divide visits of rows into blocks of whole batches.

    Parameters
    ----------
    X : Csr of ndarray (n_samples, n_features)
    rows : ndarray of int64
    batch_size : int
    router : Csr of ndarray (n_features, n_experts)
        The trained weights are in it at the end.
    n_experts : int
    n_columns : int
        The width of the arrays with a row for each row of the block.
    device : torch.device

    Yields
    ------
    part : slice
        Which of the rows.
    block : Block
    weights : RouterPart
        The weights that the block uses.
    """
    n_features = len(router.indptr) - 1
    is_whole = fits(router, n_experts, _row_sizes(X, rows).sum())
    weights = RouterPart(router, n_experts, device) if is_whole else None
    for part in split_rows(X, rows, batch_size, n_features, n_columns):
        block = Block(X, rows[part], n_features, device, renumber=not is_whole)
        if not is_whole:
            weights = RouterPart(router, n_experts, device, block.features)
        yield part, block, weights
        if not is_whole:
            weights.write_back()
    if is_whole:
        weights.write_back()


def split_rows(X, rows, batch_size, n_features, n_columns):
    """Divide rows into runs of whole batches that fit the limits; yields slices of ``rows``.

    A run has at least one batch. ``n_columns`` is the width of the dense arrays.
    """
    most_nonzeros, n_columns = MOST_NONZEROS, max(1, n_columns)
    if n_features * n_columns > MOST_WEIGHTS:  # every nonzero may have a feature of its own
        most_nonzeros = min(most_nonzeros, MOST_WEIGHTS // n_columns)
    ends = np.append(0, np.cumsum(_row_sizes(X, rows)))
    first = 0
    while first < len(rows):
        last = int(np.searchsorted(ends, ends[first] + most_nonzeros, side="right")) - 1
        last = min(last, first + MOST_NUMBERS // n_columns)
        if last < len(rows):
            last = first + max(1, (last - first) // batch_size) * batch_size
        last = min(last, len(rows))
        yield slice(first, last)
        first = last


def take_rows(X, rows):
    """Take some rows, in any order, of CSR arrays; the indptr is of int64."""
    indptr, entries = _find_rows(X.indptr, rows)
    return Csr(indptr, X.indices[entries], X.data[entries])


def _find_rows(indptr, rows):
    """Find rows of CSR arrays; returns their indptr and which of the entries they are."""
    sizes = indptr[rows + 1].astype(np.int64) - indptr[rows]
    own = np.append(0, np.cumsum(sizes))
    if len(rows) and rows[-1] - rows[0] == len(rows) - 1 and (np.diff(rows) == 1).all():
        return own, slice(int(indptr[rows[0]]), int(indptr[rows[-1] + 1]))
    return own, np.repeat(indptr[rows] - own[:-1], sizes) + np.arange(own[-1])


def share(array, device):
    """Tensor of an array on a device; it shares the memory of the array if it can."""
    array = np.ascontiguousarray(array)
    # PyTorch has no read-only tensors, and a memory map may be read-only.
    return torch.from_numpy(array if array.flags.writeable else array.copy()).to(device)


def add_at(size, places, values):
    """Sum values at places of a flat tensor of a size, in an order that never changes."""
    total = values.new_zeros(size)
    if values.device.type == "cpu":
        return total.index_add_(0, places, values)
    # On a GPU `index_add_` adds in any order.
    return total.index_put_((places,), values, accumulate=True)


def _row_sizes(X, rows):
    return (X.indptr[rows + 1] - X.indptr[rows]).astype(np.int64)


def _number(indices, n_features):
    """List the features that occur, and number the nonzeros by them."""
    if RARE * len(indices) < n_features:
        return np.unique(indices, return_inverse=True)
    is_used = np.zeros(n_features, bool)
    is_used[indices] = True
    return np.flatnonzero(is_used), (np.cumsum(is_used) - 1)[indices]


def _sum_bags(weights, indices, starts, factors):
    if len(weights) == 0:  # no features: `embedding_bag` refuses it
        return weights.new_zeros(len(starts), weights.shape[1])
    return embedding_bag(indices, weights, starts, mode="sum", per_sample_weights=factors)
