"""From Dask collections to partitions on the workers, and back."""

from importlib import import_module

import numpy as np

from ._partitions import check_partition, read_partition


def import_dask(name):
    """Import a module of Dask, or name the extra that has it."""
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(
            'DaskSparseExpertClassifier needs Dask, the extra "dask": pip install "skparse[dask]".'
        ) from error


def is_dask_array(X):
    """Whether X is a Dask array."""
    return isinstance(X, import_dask("dask.array").Array)


def list_partitions(X, y, sample_weight):
    """List the delayed (X, y, sample_weight) of all partitions.

    Raises
    ------
    TypeError, ValueError
        If they are no Dask collections, or have different numbers of partitions or of samples.
    """
    delayed = import_dask("dask").delayed
    if y is None:
        if sample_weight is not None:
            raise ValueError("Without y, the weights have to be in the partitions of X.")
        blocks = list_blocks(X, "X")
        return [delayed(read_partition)(block) for block in blocks]
    rows = None
    if is_dask_array(X):
        if X.ndim != 2:
            raise ValueError(f"X has to have two dimensions, got {X.ndim}.")
        if X.numblocks[1] > 1:
            X = X.rechunk({1: -1})
        rows = X.chunks[0]
    columns = [list_blocks(X, "X"), list_blocks(y, "y", rows)]
    if sample_weight is not None:
        columns.append(list_blocks(sample_weight, "sample_weight", rows))
    numbers = [len(column) for column in columns]
    if len(set(numbers)) > 1:
        raise ValueError(
            f"X, y and sample_weight have different numbers of partitions: {numbers}."
        )
    return [delayed(read_partition)(*parts) for parts in zip(*columns, strict=True)]


def list_blocks(collection, name, rows=None):
    """List the partitions of a Dask array or bag, or of a list of delayed objects or futures.

    ``rows`` are the numbers of samples in the blocks of X, which y and the weights are divided by.
    """
    array = import_dask("dask.array")
    if isinstance(collection, np.ndarray) and rows is not None and name != "X":
        check_length(len(collection), rows, name)
        collection = array.from_array(collection, chunks=(rows, *collection.shape[1:]))
    if isinstance(collection, array.Array):
        if rows is not None and not np.isnan([*rows, *collection.chunks[0]]).any():
            check_length(collection.shape[0], rows, name)
            collection = collection.rechunk({0: rows})
        return collection.to_delayed().ravel().tolist()
    if hasattr(collection, "to_delayed"):  # a bag
        return list(collection.to_delayed())
    if isinstance(collection, list | tuple) and collection:
        types = import_dask("dask.delayed").Delayed, import_dask("distributed").Future
        if all(isinstance(part, types) for part in collection):
            return list(collection)
    raise TypeError(
        f"{name} has to be a Dask array, a bag, or a list of delayed partitions or futures, got "
        f"{type(collection).__name__}."
    )


def check_length(n_samples, rows, name):
    """Raise ValueError unless there is an entry for each sample of X."""
    if np.isnan(rows).any():
        raise ValueError(
            f"{name} cannot be divided like X, whose blocks have unknown sizes: call "
            "compute_chunk_sizes() on X."
        )
    if n_samples != sum(rows):
        raise ValueError(f"{name} has {n_samples} entries, but X has {sum(rows)} samples.")


def compute_checked(client, X, y, sample_weight):
    """Validate all partitions where they are; returns futures in their order."""
    delayed = import_dask("dask").delayed
    parts = list_partitions(X, y, sample_weight)
    return client.compute([delayed(check_partition)(part) for part in parts])


def find_places(client, partitions):
    """Find where the partitions are; returns arguments of ``submit`` for each.

    Without them, an idle worker could fetch a partition. If its worker dies, any other takes it.
    Dask moves one all the same if its worker is far behind another. Then it is found there.
    """
    import_dask("distributed").wait(partitions)
    workers = client.who_has(partitions)
    return [
        {"workers": list(workers[part.key]), "allow_other_workers": True}
        if workers.get(part.key)
        else {}
        for part in partitions
    ]


def map_rows(function, X, local, dtype, n_columns=None):
    """Predict lazily, block by block; returns a Dask array.

    ``function(block, local)`` returns one number per row, or ``n_columns`` of them.
    """
    delayed = import_dask("dask").delayed
    if X.numblocks[1] > 1:
        X = X.rechunk({1: -1})
    shape = (0,) if n_columns is None else (0, 0)
    chunks = (X.chunks[0],) if n_columns is None else (X.chunks[0], (n_columns,))
    return X.map_blocks(
        function, local=delayed(local, traverse=False), dtype=dtype, chunks=chunks,
        drop_axis=1 if n_columns is None else None, meta=np.empty(shape, dtype),
    )  # fmt: skip
