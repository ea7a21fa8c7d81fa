"""Smaller models: fewer router weights, fewer bits for each, and what that changes."""

import numpy as np
from scipy import sparse

from ._parameters import with_values

LEVELS = 127  # of an int8 code, on either side of zero


def prune(parameters, feature_scale, weight_density):
    """Keep the share ``weight_density`` of all router weights: the most influential ones.

    Parameters
    ----------
    parameters : ModelParameters
    feature_scale : ndarray (n_features,)
        The influence of a weight is its magnitude times the scale of its feature.
    weight_density : float
        Share of n_features x n_experts.

    Returns
    -------
    ModelParameters
        The same object if it has no more weights than that.
    """
    router = parameters.router
    n_kept = max(1, round(weight_density * router.shape[0] * router.shape[1]))
    if router.nnz <= n_kept:
        return parameters
    influence = np.repeat(feature_scale, np.diff(router.indptr)) * np.abs(router.data)
    kept = np.zeros(router.nnz, bool)
    kept[np.argsort(-influence, kind="stable")[:n_kept]] = True
    return parameters._replace(router=_keep_entries(router, kept))


def prune_experts(parameters, experts):
    """Take the router weights and b1 from some experts: nothing keeps them any more.

    Parameters
    ----------
    parameters : ModelParameters
    experts : ndarray (n_experts,) of bool

    Returns
    -------
    ModelParameters
        The same object if there are no such experts.
    """
    if not experts.any():
        return parameters
    router = parameters.router
    return parameters._replace(
        router=_keep_entries(router, ~experts[router.indices]),
        router_intercept=np.where(experts, 0, parameters.router_intercept).astype(router.dtype),
    )


def _keep_entries(matrix, kept):
    """Keep the entries of a CSR array that ``kept`` (nnz,) marks."""
    before = np.concatenate([[0], np.cumsum(kept)])
    indptr = before[matrix.indptr].astype(matrix.indptr.dtype)
    parts = matrix.data[kept], matrix.indices[kept], indptr
    return sparse.csr_array(parts, shape=matrix.shape)


def encode_values(matrix, dtype):
    """Encode the values of a CSR array in fewer bits.

    Parameters
    ----------
    matrix : csr_array
    dtype : {"float16", "int8"}
        int8 codes are relative to the largest magnitude of each column.

    Returns
    -------
    codes : ndarray (nnz,) of ``dtype``
    scales : ndarray (n_columns,) in the dtype of the matrix, or None for float16
    """
    if dtype == "float16":
        largest = np.finfo(np.float16).max
        return np.clip(matrix.data, -largest, largest).astype(np.float16), None
    magnitude = np.zeros(matrix.shape[1], matrix.dtype)
    np.maximum.at(magnitude, matrix.indices, np.abs(matrix.data))
    scales = magnitude / matrix.dtype.type(LEVELS)
    scales[scales == 0] = 1
    return np.rint(matrix.data / scales[matrix.indices]).astype(np.int8), scales


def decode_values(codes, scales, columns, dtype):
    """Undo `encode_values`; what comes back is encoded to the same codes again."""
    if scales is None:
        return codes.astype(dtype)
    return codes.astype(dtype) * scales[columns]


def round_values(matrix, dtype):
    """Round the values of a CSR array to those that its encoding can hold."""
    codes, scales = encode_values(matrix, dtype)
    return with_values(matrix, decode_values(codes, scales, matrix.indices, matrix.dtype))
