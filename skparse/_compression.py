"""Smaller models: fewer router weights, and fewer bits per weight."""

import numpy as np

from ._csr import keep_entries, with_values

INT8_MAX = 127  # of an int8 code, on either side of zero


def prune(model, feature_scale, weight_density):
    """Keep the share ``weight_density`` of all router weights: the most influential ones.

    Parameters
    ----------
    model : SparseExpertModel
    feature_scale : ndarray (n_features,)
        The influence of a weight is its magnitude times the scale of its feature.
    weight_density : float
        Share of n_features x n_experts.

    Returns
    -------
    SparseExpertModel
        The same object if it has no more weights than that.
    """
    router = model.router
    n_kept = max(1, round(weight_density * router.shape[0] * router.shape[1]))
    if router.nnz <= n_kept:
        return model
    influence = np.repeat(feature_scale, np.diff(router.indptr)) * np.abs(router.data)
    kept = np.zeros(router.nnz, bool)
    kept[np.argsort(-influence, kind="stable")[:n_kept]] = True
    return model._replace(router=keep_entries(router, kept))


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
    scales = magnitude / matrix.dtype.type(INT8_MAX)
    scales[scales == 0] = 1
    return np.rint(matrix.data / scales[matrix.indices]).astype(np.int8), scales


def decode_values(codes, scales, columns, dtype):
    """Undo `encode_values`; the values are encoded to the same codes again."""
    if scales is None:
        return codes.astype(dtype)
    return codes.astype(dtype) * scales[columns]


def round_values(matrix, dtype):
    """Round the values of a CSR array to those that the encoding can represent."""
    codes, scales = encode_values(matrix, dtype)
    return with_values(matrix, decode_values(codes, scales, matrix.indices, matrix.dtype))


def measure_change(before, after, X=None):
    """Measure what compression has changed.

    Parameters
    ----------
    before, after : SparseExpertClassifier
        Fitted models.
    X : array-like or sparse matrix of shape (n_samples, n_features), default=None
        Samples on which the change of the predictions is measured.

    Returns
    -------
    dict
        What `SparseExpertClassifier.compress` documents.
    """
    weights = abs(after.router_coef_ - before.router_coef_)
    change = {
        "n_bytes_before": before.model_size().n_bytes,
        "n_bytes": after.model_size().n_bytes,
        "largest_weight_change": float(weights.data.max(initial=0)),
    }
    if X is not None:
        probabilities = np.abs(after.predict_proba(X) - before.predict_proba(X))
        changed = after.predict(X) != before.predict(X)
        change["changed_predictions"] = float(changed.mean())
        change["largest_probability_change"] = float(probabilities.max(initial=0))
    return change
