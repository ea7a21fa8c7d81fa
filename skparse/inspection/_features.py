"""The features with the largest weights of experts and classes."""

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator

from .._typing import Array, FloatArray
from ._subject import find_subject


class TopFeatures(NamedTuple):
    """The features that raise the score of an expert, or of the experts of a class, the most.

    Parameters
    ----------
    class_name : label
        Class; of an expert, that of its largest output.
    expert : int or None
        Number of the expert; None for a class.
    names : ndarray of shape (n_top,)
    weights : ndarray of shape (n_top,)
        In descending order, all positive.
    """

    class_name: Any
    expert: int | None
    names: Array
    weights: FloatArray

    def __str__(self) -> str:
        """Write the names in a line."""
        expert = "" if self.expert is None else f" ({self.expert})"
        return f"{self.class_name}{expert}: {', '.join(map(str, self.names))}"


def top_features(
    estimator: BaseEstimator,
    *,
    feature_names: ArrayLike | None = None,
    n_features: int = 10,
    by: Literal["expert", "class"] = "expert",
) -> list[TopFeatures]:
    """Find the features with the largest router weights.

    Parameters
    ----------
    estimator : estimator
        Fitted :class:`~skparse.SparseExpertClassifier`, a pipeline that ends in one, or a search
        that has fitted one.
    feature_names : array-like of str, default=None
        Names of the features of the classifier. By default those of the steps before it.
    n_features : int, default=10
        At most so many features each. Only those with a positive weight are listed.
    by : {"expert", "class"}, default="expert"
        Whether to list the features of every expert or of every class. With several experts per
        class, the weight of a feature for a class is the largest that one of its experts
        has, and every expert shows a sub-topic of its class.

    Returns
    -------
    features : list of TopFeatures
        Named tuples of `class_name`, `expert`, `names` and `weights`: one per expert in the
        order of what `transform` returns, or one per class in the order of `classes_`. The
        weights of a model of dense X are those of its standardised columns.

    Raises
    ------
    ValueError
        If a parameter is out of range, or `feature_names` has another length.

    Examples
    --------
    >>> from sklearn.feature_extraction.text import TfidfVectorizer
    >>> from sklearn.pipeline import make_pipeline
    >>> from skparse import SparseExpertClassifier
    >>> from skparse.inspection import top_features
    >>> model = make_pipeline(TfidfVectorizer(), SparseExpertClassifier(random_state=0))
    >>> texts = ["sparse matrix", "matrix product", "violin concerto", "piano concerto"]
    >>> _ = model.fit(texts, ["algebra", "algebra", "music", "music"])
    >>> for features in top_features(model, n_features=1, by="class"):
    ...     print(features)
    algebra: matrix
    music: concerto
    """
    if by not in ("expert", "class"):
        raise ValueError(f"by has to be 'expert' or 'class', got {by!r}.")
    if n_features < 1:
        raise ValueError(f"n_features has to be at least 1, got {n_features!r}.")
    subject = find_subject(estimator, feature_names)
    columns = _scaled_router(subject.classifier).tocsc()
    names, labels = subject.feature_names, subject.labels
    if by == "expert":
        return [
            TopFeatures(labels[c], e, *_largest(columns[:, [e]], names, n_features))
            for e, c in enumerate(subject.expert_classes)
        ]
    votes = subject.experts_of(np.arange(len(labels)))
    return [
        TopFeatures(label, None, *_largest(columns[:, np.flatnonzero(own)], names, n_features))
        for label, own in zip(labels, votes, strict=True)
    ]


def feature_importances(estimator: BaseEstimator) -> FloatArray:
    """Measure the importance of every feature of a fitted classifier.

    It is the root mean square of the router weights of the feature, without what they have in
    common for all experts: that changes no gate weight. Weights of a model of dense X are those
    of its standardised columns.

    Parameters
    ----------
    estimator : SparseExpertClassifier
        Fitted, or a pipeline or search as in `top_features`.

    Returns
    -------
    importances : ndarray of shape (n_features,) of float64
        In the order of the features of the classifier; not negative.

    Examples
    --------
    It is the getter that :class:`~sklearn.feature_selection.SelectFromModel` asks for:

    >>> from sklearn.feature_selection import SelectFromModel
    >>> from skparse import SparseExpertClassifier
    >>> from skparse.inspection import feature_importances
    >>> selector = SelectFromModel(
    ...     SparseExpertClassifier(random_state=0), importance_getter=feature_importances
    ... )
    >>> X = [[1.0, 0.0, 0.1], [1.0, 0.0, 0.1], [0.0, 1.0, 0.1]]
    >>> selector.fit(X, ["a", "a", "b"]).get_support().tolist()
    [True, True, False]
    """
    router = _scaled_router(find_subject(estimator).classifier)
    n_experts = router.shape[1]
    mean = np.asarray(router.sum(axis=1)).ravel() / n_experts
    square = np.asarray((router**2).sum(axis=1)).ravel() / n_experts
    return np.sqrt(np.maximum(square - mean**2, 0))


def _scaled_router(classifier):
    """Router weights of comparable columns, a CSR array of float64."""
    router = classifier.router_coef_.astype(np.float64)
    if hasattr(classifier, "_columns"):
        factor = classifier._columns[1]
        varies = factor > 0
        deviation = np.divide(1.0, factor, out=np.zeros_like(factor), where=varies)
        router = router.multiply(deviation[:, None]).tocsr()
    return router


def _largest(columns, names, n_features):
    """Names and weights of the features with the largest of their weights in some columns."""
    if columns.shape[1] == 1:
        features, weights = columns.indices, columns.data
    else:
        columns = columns.max(axis=1).tocoo()
        features, weights = columns.coords[0], columns.data
    positive = weights > 0
    features, weights = features[positive], weights[positive]
    order = np.lexsort([features, -weights])[:n_features]
    return names[features[order]], weights[order]
