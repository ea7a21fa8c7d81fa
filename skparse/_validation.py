"""Validation: user input becomes one CSR matrix, class indices and weights, or a clear error."""

from typing import NamedTuple

import numpy as np
from scipy import sparse
from sklearn.utils import compute_class_weight, compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import (
    _check_n_features,
    _check_sample_weight,
    _check_y,
    check_array,
    column_or_1d,
    validate_data,
)

from ._csr import row_blocks

DTYPES = (np.float64, np.float32)


class Samples(NamedTuple):
    """Validated training or validation samples."""

    X: sparse.csr_array  # neither duplicates nor explicit zeros, in any order
    labels: sparse.csr_array  # (n_samples, n_classes) of ones
    sample_weight: np.ndarray  # (n_samples,), positive, in the dtype of X
    classes: np.ndarray  # (n_classes,)
    multilabel: bool

    def take(self, rows):
        """Return some of the samples, chosen by indices or by an array of bool."""
        return self._replace(
            X=self.X[rows], labels=self.labels[rows], sample_weight=self.sample_weight[rows]
        )


def check_features(estimator, X):
    """Validate the X of a prediction: CSR in the dtype of the fitted model."""
    options = {"accept_sparse": "csr", "dtype": estimator.router_coef_.dtype}
    if sparse.issparse(X) and not hasattr(estimator, "feature_names_in_"):
        # What validate_data does, but for looking for feature names, which no sparse X has:
        # that takes a fifth of the time of predicting one row.
        X = check_array(X, estimator=type(estimator).__name__, input_name="X", **options)
        _check_n_features(estimator, X, reset=False)
        return X
    return sparse.csr_array(validate_data(estimator, X, reset=False, **options))


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


def check_labels(estimator, y):
    """Validate class labels of which subsets will be taken.

    Returns
    -------
    y : ndarray (n_samples,) or (n_samples, n_labels)

    Raises
    ------
    ValueError
        If y is None or is no classification target.
    """
    if y is None:
        raise ValueError(
            f"{type(estimator).__name__} requires y to be passed, but the target y is None."
        )
    y = _check_y(y, multi_output=True, estimator=estimator)
    _, _, multilabel = check_targets(y)
    if multilabel:
        return y.toarray() if sparse.issparse(y) else y
    return y.ravel()


def check_weight(sample_weight, y):
    """Validate sample weights of which subsets will be taken; None if there are none."""
    if sample_weight is None:
        return None
    return _check_sample_weight(sample_weight, y, dtype=np.float64, ensure_non_negative=True)


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
    Samples
        Without the samples of weight zero.

    Raises
    ------
    ValueError
        If the shapes disagree, y is no classification target, holds other labels than
        ``classes``, or the weights are negative or all zero.
    """
    X, y = validate_data(
        estimator, X, y, reset=reset, accept_sparse="csr", dtype=DTYPES, multi_output=True
    )
    labels, classes, multilabel = check_targets(y, classes)
    weight = _check_sample_weight(sample_weight, X, dtype=X.dtype, ensure_non_negative=True)
    if estimator.class_weight is not None:
        weight = weight * balance_classes(estimator.class_weight, labels, classes, multilabel)
        weight = weight.astype(X.dtype, copy=False)
    samples = Samples(merge_entries(sparse.csr_array(X)), labels, weight, classes, multilabel)
    has_weight = weight > 0
    if has_weight.all():
        return samples
    if not has_weight.any():
        raise ValueError(
            "sample_weight (times class_weight) must have at least one non-zero value: "
            "all samples have a weight of zero."
        )
    return samples.take(has_weight)


def merge_entries(X):
    """Sum duplicates and drop explicit zeros, on a copy if there are any.

    The entries of a row may be in any order: those of a TF-IDF matrix are not sorted, and
    sorting them would need a copy of every X.
    """
    has_duplicates = X.has_sorted_indices and not X.has_canonical_format
    if not X.has_sorted_indices:
        # Transposed, the entries of a block are in order, in a time linear in their number.
        for first, last in row_blocks(X.indptr, max(2**20, X.shape[1])):
            start, stop = X.indptr[first], X.indptr[last]
            anything = np.empty(stop - start, np.int8)
            parts = anything, X.indices[start:stop], X.indptr[first : last + 1] - start
            block = sparse.csr_array(parts, shape=(last - first, X.shape[1]))
            has_duplicates = has_duplicates or not block.tocsc().has_canonical_format
    merged = X
    if has_duplicates:
        merged = X.copy()
        merged.sum_duplicates()
    if not merged.data.all():
        merged = merged.copy() if merged is X else merged
        merged.eliminate_zeros()
    return merged


def balance_classes(class_weight, labels, classes, multilabel):
    """Weight of every sample by its classes, (n_samples,)."""
    if multilabel:
        return compute_sample_weight(class_weight, labels.toarray())
    y = classes[labels.indices]
    return compute_class_weight(class_weight, classes=classes, y=y)[labels.indices]


def check_targets(y, classes=None, multilabel=None):
    """Check targets and encode them.

    Parameters
    ----------
    y : array-like
    classes : ndarray, default=None
        The classes that y may hold; found in y if None.
    multilabel : bool, default=None
        Whether y has to be a multilabel indicator matrix; it may be one or not if None.

    Returns
    -------
    labels : csr_array (n_samples, n_classes) of ones
    classes : ndarray (n_classes,)
        ``arange(n_labels)`` for multilabel targets without given classes.
    multilabel : bool

    Raises
    ------
    ValueError
        If y is no classification target, or holds other labels than ``classes``.
    """
    check_classification_targets(y)
    kind = type_of_target(y, input_name="y")
    if multilabel is not None and multilabel != (kind == "multilabel-indicator"):
        raise ValueError("y_val must have the same type of target as y.")
    if kind == "multilabel-indicator":
        classes = np.arange(y.shape[1]) if classes is None else classes
        if y.shape[1] != len(classes):
            raise ValueError(
                f"y has {y.shape[1]} labels, but the classifier was given {len(classes)}."
            )
        y = y.toarray() if sparse.issparse(y) else y
        return sparse.csr_array((y != 0).astype(np.float64)), classes, True
    if kind not in ("binary", "multiclass"):
        raise ValueError(
            f"Unknown label type: {kind!r}. y must be binary, multiclass or a multilabel "
            "indicator matrix."
        )
    y = column_or_1d(y, warn=True)
    classes = np.unique(y) if classes is None else classes
    codes = np.minimum(np.searchsorted(classes, y), len(classes) - 1)
    unknown = classes[codes] != y
    if unknown.any():
        raise ValueError(
            f"y contains labels that are not among the classes: {np.unique(y[unknown])}; "
            f"classes are {classes}."
        )
    n = len(y)
    parts = (np.ones(n), codes.astype(np.int32), np.arange(n + 1, dtype=np.int32))
    return sparse.csr_array(parts, shape=(n, len(classes))), classes, False


def check_validation_set(estimator, X_val, y_val, samples):
    """Validate X_val and y_val against the features and classes of the training samples.

    Returns
    -------
    Samples

    Raises
    ------
    ValueError
        If one of them is None, or they do not fit the training samples.
    """
    if X_val is None or y_val is None:
        missing = "X_val" if X_val is None else "y_val"
        raise ValueError(f"X_val and y_val go together, but {missing} is None.")
    X_val, y_val = validate_data(
        estimator, X_val, y_val, reset=False, accept_sparse="csr", dtype=DTYPES, multi_output=True
    )
    labels, classes, multilabel = check_targets(y_val, samples.classes, samples.multilabel)
    weight = np.ones(labels.shape[0], X_val.dtype)
    return Samples(sparse.csr_array(X_val), labels, weight, classes, multilabel)
