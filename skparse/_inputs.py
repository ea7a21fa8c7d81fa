"""The door: user input becomes one CSR matrix, label codes and weights, or a clear error."""

from typing import NamedTuple

import numpy as np
from scipy import sparse
from sklearn.utils import compute_class_weight, compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import (
    _check_n_features,
    _check_sample_weight,
    check_array,
    column_or_1d,
    validate_data,
)

from ._parameters import row_blocks

DTYPES = (np.float64, np.float32)


class Samples(NamedTuple):
    """Validated training or validation samples."""

    X: sparse.csr_array  # neither duplicates nor explicit zeros, in any order
    labels: sparse.csr_array  # (n_samples, n_classes) of ones
    sample_weight: np.ndarray  # positive, in the dtype of X


def check_features(estimator, X):
    """Validate the X of a prediction: CSR in the dtype of the fitted model."""
    options = {"accept_sparse": "csr", "dtype": estimator.router_coef_.dtype}
    if sparse.issparse(X) and not hasattr(estimator, "feature_names_in_"):
        # What validate_data does, but for looking for feature names, which no sparse X has:
        # that takes a fifth of the time of predicting one row.
        X = check_array(X, estimator=estimator, input_name="X", **options)
        _check_n_features(estimator, X, reset=False)
        return X
    return as_csr(validate_data(estimator, X, reset=False, **options))


def check_levels(top_ks, largest=None):
    """Validate a list of sparsity levels; returns an array of int.

    Raises
    ------
    ValueError
        If there is none, or one is no integer from 1 to ``largest`` (any if None).
    """
    levels = np.asarray(top_ks)
    integers = levels.ndim == 1 and levels.size > 0 and levels.dtype.kind in "iu"
    if not integers or levels.min() < 1 or (largest is not None and levels.max() > largest):
        allowed = "positive integers" if largest is None else f"integers in [1, {largest}]"
        raise ValueError(f"top_ks has to be a list of {allowed}, not empty, got {top_ks!r}.")
    return levels.astype(np.int64)


def check_rows(estimator, X, y, sample_weight):
    """Validate training samples of which subsets will be taken.

    Returns
    -------
    X : csr_array
    y : ndarray
    sample_weight : ndarray or None
    classes : ndarray (n_classes,)
    """
    X, y = validate_data(estimator, X, y, accept_sparse="csr", dtype=DTYPES, multi_output=True)
    y, classes, _ = check_targets(y)
    if sample_weight is not None:
        sample_weight = _check_sample_weight(
            sample_weight, X, dtype=X.dtype, ensure_non_negative=True
        )
    return as_csr(X), y, sample_weight, classes


def as_csr(X):
    """Convert validated input to a CSR array; sparse input is not copied."""
    return sparse.csr_array(X)


def merge_entries(X):
    """Sum duplicates and drop explicit zeros, on a copy if there are any.

    The entries of a row may be in any order: those of a TF-IDF matrix are not sorted, and
    sorting them would need a copy of every X.
    """
    merged = X
    if _has_duplicates(X):
        merged = X.copy()
        merged.sum_duplicates()
    if not merged.data.all():
        merged = merged.copy() if merged is X else merged
        merged.eliminate_zeros()
    return merged


def _has_duplicates(X):
    """Tell whether a CSR array stores two entries for one place."""
    if X.has_sorted_indices:
        return not X.has_canonical_format
    # Transposed, the entries of a block are in order, and it takes a time linear in them.
    for first, last in row_blocks(X.indptr, max(2**20, X.shape[1])):
        start, stop = X.indptr[first], X.indptr[last]
        anything = np.empty(stop - start, np.int8)
        parts = anything, X.indices[start:stop], X.indptr[first : last + 1] - start
        block = sparse.csr_array(parts, shape=(last - first, X.shape[1]))
        if not block.tocsc().has_canonical_format:
            return True
    return False


def check_samples(estimator, X, y, sample_weight, *, reset, classes=None):
    """Validate training samples.

    Parameters
    ----------
    estimator : SparseExpertClassifier
    X, y, sample_weight : as given by the user
    reset : bool
        Whether this call defines the features, as in `validate_data`.
    classes : ndarray, default=None
        The classes that y may hold; found in y if None.

    Returns
    -------
    samples : Samples
        Without the samples of weight zero.
    classes : ndarray (n_classes,)
    multilabel : bool

    Raises
    ------
    ValueError
        If the shapes disagree, y is no classification target, holds other labels than
        ``classes``, or the weights are negative or all zero.
    """
    X, y = validate_data(
        estimator, X, y, reset=reset, accept_sparse="csr", dtype=DTYPES, multi_output=True
    )
    y, found, multilabel = check_targets(y)
    classes = found if classes is None else classes
    labels = encode_labels(y, classes, multilabel)
    weight = _check_sample_weight(sample_weight, X, dtype=X.dtype, ensure_non_negative=True)
    if estimator.class_weight is not None:
        weight = weight * balance_classes(estimator.class_weight, y, classes, labels, multilabel)
        weight = weight.astype(X.dtype, copy=False)
    return drop_weightless(Samples(merge_entries(as_csr(X)), labels, weight)), classes, multilabel


def balance_classes(class_weight, y, classes, labels, multilabel):
    """Weight of every sample by its classes, (n_samples,)."""
    if multilabel:
        return compute_sample_weight(class_weight, y)
    return compute_class_weight(class_weight, classes=classes, y=y)[labels.indices]


def drop_weightless(samples):
    """Drop the samples of weight zero; raises ValueError if none is left."""
    kept = samples.sample_weight > 0
    if kept.all():
        return samples
    if not kept.any():
        raise ValueError(
            "sample_weight (times class_weight) must have at least one non-zero value: "
            "all samples have a weight of zero."
        )
    return Samples(samples.X[kept], samples.labels[kept], samples.sample_weight[kept])


def check_targets(y):
    """Check the type of the target; returns (y, classes, multilabel)."""
    check_classification_targets(y)
    kind = type_of_target(y, input_name="y")
    if kind == "multilabel-indicator":
        y = y.toarray() if sparse.issparse(y) else y
        return y, np.arange(y.shape[1]), True
    if kind not in ("binary", "multiclass"):
        raise ValueError(
            f"Unknown label type: {kind!r}. y must be binary, multiclass or a multilabel "
            "indicator matrix."
        )
    y = column_or_1d(y, warn=True)
    return y, np.unique(y), False


def encode_labels(y, classes, multilabel):
    """Encode checked targets as a CSR array (n_samples, n_classes) of ones."""
    if multilabel:
        if y.shape[1] != len(classes):
            raise ValueError(
                f"y has {y.shape[1]} labels, but the classifier was given {len(classes)}."
            )
        return sparse.csr_array((y != 0).astype(np.float64))
    codes = np.minimum(np.searchsorted(classes, y), len(classes) - 1)
    unknown = classes[codes] != y
    if unknown.any():
        raise ValueError(
            f"y contains labels that are not among the classes: {np.unique(y[unknown])}; "
            f"classes are {classes}."
        )
    n = len(y)
    parts = (np.ones(n), codes.astype(np.int32), np.arange(n + 1, dtype=np.int32))
    return sparse.csr_array(parts, shape=(n, len(classes)))


def check_validation_set(estimator, X_val, y_val, classes, multilabel):
    """Validate X_val and y_val against the features and classes of the training samples.

    Returns
    -------
    Samples or None
        None if neither is given.
    """
    if X_val is None and y_val is None:
        return None
    if X_val is None or y_val is None:
        missing = "X_val" if X_val is None else "y_val"
        raise ValueError(f"X_val and y_val go together, but {missing} is None.")
    X_val, y_val = validate_data(
        estimator, X_val, y_val, reset=False, accept_sparse="csr", dtype=DTYPES, multi_output=True
    )
    y_val, _, val_multilabel = check_targets(y_val)
    if val_multilabel != multilabel:
        raise ValueError("y_val must have the same type of target as y.")
    labels = encode_labels(y_val, classes, multilabel)
    return Samples(as_csr(X_val), labels, np.ones(len(y_val), X_val.dtype))
