"""What the features of a sample contribute to the score of an expert or of a class."""

from typing import Any, Literal

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator

from .._typing import SamplesLike
from ._subject import best_experts, find_best_classes, find_subject, prepare, router_scores

ROWS = 1024  # of which all scores are held at a time


def feature_contributions(
    estimator: BaseEstimator,
    X: SamplesLike,
    *,
    of: Literal["expert", "class"] = "expert",
    target: Any = None,
) -> sparse.csr_array:
    """Compute what every feature of a sample adds to the score of an expert.

    The score of an expert, ``W1 x + b1`` before the ReLU, is a sum over the features. It
    decides whether a sample keeps the expert, and with which gate weight: of two kept experts, the
    logarithm of the ratio of their gate weights is the difference of their scores.

    Parameters
    ----------
    estimator : estimator
        Fitted :class:`~skparse.SparseExpertClassifier`, a pipeline that ends in one, or a search
        that has fitted one.
    X : array-like
        Samples as `estimator` takes them; texts for a pipeline with a vectorizer.
    of : {"expert", "class"}, default="expert"
        Whether the score is that of an expert, or of a class. The score of a class is that of
        its best expert for the sample, among the experts whose largest output is for the
        class.
    target : int, label or array-like of shape (n_samples,), default=None
        Expert (its number) or class (its label), one for all samples or one for each. ``None``
        is the expert with the largest score, or the predicted class. With several labels per
        sample that is the most probable label.

    Returns
    -------
    contributions : csr_array of shape (n_samples, n_features + 1) of float64
        Features in the columns of the classifier, and in the last column the bias. Every row
        adds up to the score of its target. For models of dense X, the contribution of a
        feature is that of its distance from its mean in the training samples.

    Raises
    ------
    ValueError
        If `of` is unknown, a target does not exist, or their number is not that of the samples.

    See Also
    --------
    explain : The largest contributions of every sample, with names.

    Examples
    --------
    >>> from sklearn.feature_extraction.text import TfidfVectorizer
    >>> from sklearn.pipeline import make_pipeline
    >>> from skparse import SparseExpertClassifier
    >>> from skparse.inspection import feature_contributions
    >>> model = make_pipeline(TfidfVectorizer(), SparseExpertClassifier(random_state=0))
    >>> texts = ["sparse matrix", "matrix product", "violin concerto", "piano concerto"]
    >>> _ = model.fit(texts, ["algebra", "algebra", "music", "music"])
    >>> contributions = feature_contributions(model, ["a piano product"], of="class")
    >>> contributions.shape
    (1, 7)
    """
    if of not in ("expert", "class"):
        raise ValueError(f"of has to be 'expert' or 'class', got {of!r}.")
    subject, (given, X) = find_subject(estimator), prepare(estimator, X)
    target = _check_target(subject.classifier, target, of, X.shape[0])
    if of == "class" and target is None:
        target = find_best_classes(subject.classifier, given)[0][:, 0]
    if of == "expert" and target is not None:
        return contributions_to(subject.classifier, X, target)
    experts = np.empty(X.shape[0], np.intp)
    for first in range(0, X.shape[0], ROWS):
        rows = slice(first, first + ROWS)
        scores = router_scores(subject.classifier, X[rows])
        if of == "expert":
            experts[rows] = scores.argmax(axis=1)
        else:
            experts[rows] = best_experts(subject, scores, target[rows])
    return contributions_to(subject.classifier, X, experts)


def contributions_to(classifier, X, experts):
    """Contributions to the score of one expert for each row of X, a CSR array as above."""
    if hasattr(classifier, "_columns"):  # a model of dense X
        firsts = range(0, X.shape[0], ROWS)
        blocks = (slice(first, first + ROWS) for first in firsts)
        parts = [_contributions_of_dense(classifier, X[rows], experts[rows]) for rows in blocks]
        return sparse.vstack(parts, format="csr")
    router = classifier.router_coef_
    bias = classifier.router_intercept_.astype(np.float64)[experts]
    sizes = np.diff(X.indptr)
    weights = router[X.indices, np.repeat(experts, sizes)]
    weights = weights.toarray() if sparse.issparse(weights) else np.asarray(weights)
    n_samples, n_features = X.shape
    # A bias after the entries of every row.
    indptr = X.indptr + np.arange(n_samples + 1)
    data = np.insert(X.data.astype(np.float64) * weights, X.indptr[1:], bias)
    indices = np.insert(X.indices, X.indptr[1:], n_features)
    contributions = sparse.csr_array((data, indices, indptr), shape=(n_samples, n_features + 1))
    contributions.sum_duplicates()
    contributions.eliminate_zeros()
    return contributions


def _contributions_of_dense(classifier, X, experts):
    """Contributions of the distances from the means of the training samples."""
    offset = classifier._columns[0]
    weights = classifier.router_coef_[:, experts].toarray().T.astype(np.float64)
    bias = classifier.router_intercept_.astype(np.float64)[experts] + weights @ offset
    return sparse.csr_array(np.column_stack([(X.toarray() - offset) * weights, bias]))


def _check_target(classifier, target, of, n_samples):
    """Validate targets; returns numbers of experts or positions of classes, or None."""
    if target is None:
        return None
    target = np.asarray(target)
    if target.ndim > 1 or (target.ndim == 1 and len(target) != n_samples):
        raise ValueError(
            f"target has to be one {of} or one for each of the {n_samples} samples, got an array "
            f"of shape {target.shape}."
        )
    target = np.broadcast_to(target, n_samples)
    if of == "class":
        classes = classifier.classes_
        places = np.minimum(np.searchsorted(classes, target), len(classes) - 1)
        if (classes[places] != target).any():
            unknown = target[classes[places] != target][0]
            raise ValueError(f"target {unknown!r} is not a class of the classifier.")
        return places
    if target.dtype.kind not in "iu" or (
        n_samples and not 0 <= target.min() <= target.max() < classifier.n_experts_
    ):
        raise ValueError(
            f"target has to be the number of an expert, from 0 to {classifier.n_experts_ - 1}, "
            f"got {target.tolist()[:5]}."
        )
    return target
