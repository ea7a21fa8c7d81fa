"""Validation: user input becomes one CSR matrix, class indices and weights, or a clear error."""

from numbers import Real
from typing import NamedTuple

import numpy as np
from scipy import sparse
from sklearn.model_selection import train_test_split
from sklearn.utils import compute_class_weight
from sklearn.utils._param_validation import InvalidParameterError
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import (
    _check_n_features,
    _check_sample_weight,
    _check_y,
    check_array,
    column_or_1d,
    validate_data,
)

from ._csr import check_pattern, row_blocks

DTYPES = (np.float64, np.float32)
SHOWN_LABELS = 10  # at most, in a message
# Parameters that count something, for which True would pass as 1.
COUNTS = (
    "n_experts", "top_k", "max_iter", "batch_size", "n_iter_no_change", "n_jobs", "alpha",
    "stream_horizon",
)  # fmt: skip


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

    def split(self, fraction, random_state):
        """Split off a share of the samples, stratified where possible; returns both parts."""
        counts, n = np.asarray(self.labels.sum(axis=0)).ravel(), self.X.shape[0]
        n_split_off = int(np.ceil(fraction * n))
        can_stratify = (
            not self.multilabel
            and counts[counts > 0].min() > 1
            and min(n_split_off, n - n_split_off) >= np.count_nonzero(counts)
        )
        parts = train_test_split(
            np.arange(n),
            test_size=fraction,
            random_state=random_state,
            stratify=self.labels.indices if can_stratify else None,
        )
        return map(self.take, parts)

    def with_weight(self):
        """Return the samples of positive weight; raises ValueError if there are none.

        A weight that is lost by rounding beside the largest one counts as zero.
        """
        largest = self.sample_weight.max(initial=0)
        has_weight = self.sample_weight > np.finfo(np.float64).eps * largest
        if has_weight.all():
            return self
        if not has_weight.any():
            raise ValueError(
                "sample_weight (times class_weight) must have at least one non-zero value: "
                "all samples have a weight of zero."
            )
        return self.take(has_weight)


def check_parameters(estimator):
    """Raise InvalidParameterError if a boolean is given where a number is needed."""
    for name in COUNTS:
        value = getattr(estimator, name)
        if isinstance(value, bool):
            raise InvalidParameterError(
                f"The {name!r} parameter of {type(estimator).__name__} must be a number or one of "
                f"its strings, not a boolean. Got {value!r} instead."
            )


def check_features(estimator, X):
    """Validate the X of a prediction: CSR in the dtype of the fitted model."""
    options = {"accept_sparse": "csr", "dtype": estimator.intercept_.dtype}
    if sparse.issparse(X) and "feature_names_in_" not in vars(estimator):
        # What validate_data does, but for looking for feature names, which no sparse X has:
        # that takes a fifth of the time of predicting one row.
        X = check_array(X, estimator=type(estimator).__name__, input_name="X", **options)
        _check_n_features(estimator, X, reset=False)
        check_pattern(X, "X")
        return X
    try:
        return sparse.csr_array(validate_data(estimator, X, reset=False, **options))
    except ValueError as error:
        # Not `from` itself: what follows the causes of an error would not end.
        if (explained := explain_texts(error)) is error:
            raise
        raise explained from error


def explain_texts(error):
    """Return an error that names what to do with texts, if the error is about texts."""
    if "could not convert string to float" not in str(error):
        return error
    return ValueError(
        "X holds texts, which have to be turned into numbers first: put a TfidfVectorizer "
        "before the classifier, for example make_pipeline(TfidfVectorizer(), "
        f"SparseExpertClassifier()). {error}"
    )


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
    check_label_entries(y)
    y = _check_y(y, multi_output=True, estimator=estimator)
    _, _, multilabel = check_targets(y)
    if multilabel:
        return sparse.csr_array(y) if sparse.issparse(y) else y
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
    check_parameters(estimator)
    check_label_entries(y)
    try:
        X, y = validate_data(
            estimator, X, y, reset=reset, accept_sparse="csr", dtype=DTYPES, multi_output=True
        )
    except ValueError as error:
        # Not `from` itself: what follows the causes of an error would not end.
        if (explained := explain_texts(error)) is error:
            raise
        raise explained from error
    X = sparse.csr_array(X)
    check_pattern(X, "X")
    labels, classes, multilabel = check_targets(y, classes)
    weight = _check_sample_weight(sample_weight, X, dtype=X.dtype, ensure_non_negative=True)
    weight = np.require(weight, requirements="W")
    samples = Samples(merge_entries(X), labels, weight, classes, multilabel)
    samples = samples.with_weight()
    if estimator.class_weight is None:
        return samples
    factors = weigh_classes(estimator.class_weight, samples)
    weight = (samples.sample_weight * factors).astype(X.dtype)
    return samples._replace(sample_weight=weight).with_weight()


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
        with np.errstate(over="ignore"):
            merged.sum_duplicates()
        if not np.isfinite(merged.data).all():
            raise ValueError("X has duplicate entries whose sum is not finite in its dtype.")
    if not merged.data.all():
        merged = merged.copy() if merged is X else merged
        merged.eliminate_zeros()
    return merged


def weigh_classes(class_weight, samples):
    """Weight of every sample by its classes, (n_samples,); the samples' own weights count.

    "balanced" gives all classes the same total weight. The weight of a multilabel sample is the
    geometric mean over the labels, because a product of many weights is nearly zero.

    Raises
    ------
    ValueError
        If ``class_weight`` does not fit the targets, or has a weight that is negative or no
        finite number.
    """
    labels, classes = samples.labels, samples.classes
    if isinstance(class_weight, str):  # "balanced"
        weight = samples.sample_weight.astype(np.float64)
        total, present = weight.sum(), labels.T @ weight
        if not samples.multilabel:
            balanced = total / (np.count_nonzero(present) * np.where(present > 0, present, 1))
            return balanced[labels.indices]
        sides = [np.log(total / np.where(x > 0, 2 * x, total)) for x in (total - present, present)]
        return np.exp((sides[0].sum() + labels @ (sides[1] - sides[0])) / labels.shape[1])
    check_class_weight(class_weight, samples)
    if not samples.multilabel:
        y = classes[labels.indices]
        return compute_class_weight(class_weight, classes=classes, y=y)[labels.indices]
    off, on = np.array([[part.get(side, 1.0) for part in class_weight] for side in (0, 1)])
    weight = np.full(labels.shape[0], off.prod())
    for first, last in row_blocks(labels.indptr, max(2**20, labels.shape[1])):
        weight[first:last] = np.where(labels[first:last].toarray() > 0, on, off).prod(axis=1)
    return weight


def check_class_weight(class_weight, samples):
    """Raise ValueError unless it is a dict, or for multilabel targets a list of one per label."""
    parts = class_weight if samples.multilabel else [class_weight]
    if isinstance(class_weight, dict) == samples.multilabel or not all(
        isinstance(part, dict) for part in parts
    ):
        raise ValueError(
            f"class_weight={class_weight!r} does not fit the targets: it has to be 'balanced', a "
            "dict of class to weight, or for multilabel targets a list of dicts, one per label."
        )
    if samples.multilabel and len(parts) != len(samples.classes):
        raise ValueError(
            f"class_weight has {len(parts)} elements, but y has {len(samples.classes)} labels."
        )
    for part in parts:
        for label, weight in part.items():
            if not (isinstance(weight, Real) and np.isfinite(weight) and weight >= 0):
                raise ValueError(
                    f"class_weight of class {label!r} has to be a finite number of at least 0, "
                    f"got {weight!r}."
                )


def check_label_entries(y):
    """Raise ValueError if a label is None, or a collection of labels."""
    if not (isinstance(y, list | tuple) or getattr(getattr(y, "dtype", None), "kind", "") == "O"):
        return
    entries = list(np.ravel(y) if isinstance(y, np.ndarray) else y)
    if any(entry is None for entry in entries):
        raise ValueError("y contains None: every sample needs a label.")
    collections = [entry for entry in entries if isinstance(entry, list | tuple | set | frozenset)]
    holds_text = any(isinstance(tag, str) for entry in collections for tag in entry)
    if holds_text or any(isinstance(entry, set | frozenset) for entry in collections):
        raise ValueError(
            "y holds collections of labels: turn them into an indicator matrix with "
            "sklearn.preprocessing.MultiLabelBinarizer."
        )


def shorten(labels):
    """Format at most `SHOWN_LABELS` labels for a message."""
    shown = ", ".join(repr(label) for label in np.asarray(labels[:SHOWN_LABELS]).tolist())
    return f"[{shown}]" if len(labels) <= SHOWN_LABELS else f"[{shown}, ...] ({len(labels)})"


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
        return *check_indicators(y, classes), True
    if kind == "multiclass-multioutput" and sparse.issparse(y):
        raise ValueError(
            f"A multilabel indicator matrix has to hold 0 and 1 only; y holds "
            f"{shorten(np.unique(y.data))}."
        )
    if kind not in ("binary", "multiclass"):
        raise ValueError(
            f"Unknown label type: {kind!r}. y must be binary, multiclass or a multilabel "
            "indicator matrix. Collections of labels become one with "
            "sklearn.preprocessing.MultiLabelBinarizer."
        )
    y = column_or_1d(y, warn=True)
    classes = np.unique(y) if classes is None else classes
    codes = np.minimum(np.searchsorted(classes, y), len(classes) - 1)
    unknown = classes[codes] != y
    if unknown.any():
        raise ValueError(
            "y contains labels that are not among the classes: "
            f"{shorten(np.unique(y[unknown]))}; classes are {shorten(classes)}."
        )
    n = len(y)
    parts = (np.ones(n), codes.astype(np.int32), np.arange(n + 1, dtype=np.int32))
    return sparse.csr_array(parts, shape=(n, len(classes))), classes, False


def check_indicators(y, classes):
    """Check a multilabel indicator matrix; returns (labels, classes)."""
    classes = np.arange(y.shape[1]) if classes is None else classes
    if y.shape[1] != len(classes):
        raise ValueError(
            f"y has {y.shape[1]} labels, but the classifier was given {len(classes)}."
        )
    y = sparse.csr_array(y) if sparse.issparse(y) else y
    found = np.unique(y.data if sparse.issparse(y) else y)
    if not np.isin(found, [0, 1]).all():
        raise ValueError(
            "A multilabel indicator matrix has to hold 0 and 1, or booleans, only; y holds "
            f"{shorten(found)}."
        )
    return sparse.csr_array((y != 0).astype(np.float64)), classes


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
