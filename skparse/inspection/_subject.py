"""What is inspected: the classifier of an estimator, the names of its features, its input."""

from typing import Any, NamedTuple

import numpy as np
from scipy import sparse
from sklearn.pipeline import Pipeline

from .. import _validation as validation
from ..plotting._drawing import find_classifier


class Subject(NamedTuple):
    """A fitted classifier with what is around it."""

    classifier: Any
    feature_names: np.ndarray  # (n_features,) of str
    vectorizer: Any  # that makes the features of texts, a CountVectorizer or its like, or None
    labels: list  # of the classes, plain values
    expert_classes: np.ndarray  # (n_experts,), position of the class of its largest output

    def experts_of(self, classes):
        """Experts that vote for some classes, a bool array (n_classes, n_experts).

        Of a class that no expert votes for most, the one with the largest output for it.
        """
        votes = self.expert_classes == classes[:, None]
        for i in np.flatnonzero(~votes.any(axis=1)):
            outputs = self.classifier.expert_coef_[:, [classes[i]]].toarray()
            votes[i, outputs.argmax()] = True
        return votes


def find_subject(estimator, feature_names=None):
    """Find the classifier in searches and pipelines, and the names of its features.

    Raises
    ------
    TypeError
        If there is no `SparseExpertClassifier`.
    ValueError
        If ``feature_names`` has another length than the classifier has features.
    """
    classifier, _ = find_classifier(estimator)
    if not hasattr(classifier, "router_coef_"):
        raise TypeError(
            "estimator has to be a SparseExpertClassifier, or a pipeline or a search that ends in "
            f"one, got {type(classifier).__name__}."
        )
    steps = list(_steps_before(estimator))
    n_features = classifier.n_features_in_
    if feature_names is None:
        names = _names_from_steps(steps)
        if names is None or len(names) != n_features:
            names = getattr(classifier, "feature_names_in_", None)
        if names is None:
            names = [f"x{j}" for j in range(n_features)]
    else:
        names = feature_names
        if len(names) != n_features:
            raise ValueError(
                f"feature_names has to have {n_features} names, one for each feature of the "
                f"classifier, got {len(names)}."
            )
    return Subject(
        classifier,
        np.asarray(names, dtype=object),
        _find_vectorizer(steps, names),
        classifier.classes_.tolist(),
        np.asarray(classifier.expert_coef_.argmax(axis=1)).ravel(),
    )


class Inputs(NamedTuple):
    """Samples as the classifier takes them."""

    given: Any  # what the steps before it put out, with names of columns if they have some
    X: sparse.csr_array


def prepare(estimator, X):
    """Apply the steps before the classifier; returns `Inputs`."""
    classifier, given = find_classifier(estimator, X)
    return Inputs(given, validation.check_features(classifier, given))


def find_best_classes(classifier, given):
    """Find the two most probable classes (n_samples, 2) and all probabilities."""
    probabilities = classifier.predict_proba(given).astype(np.float64)
    return np.argsort(-probabilities, axis=1, kind="stable")[:, :2], probabilities


def _steps_before(estimator):
    """Yield the transformers before the classifier, through searches and nested pipelines."""
    while True:
        estimator = getattr(estimator, "best_estimator_", estimator)
        if not isinstance(estimator, Pipeline):
            return
        *before, (_, estimator) = estimator.steps
        yield from (step for _, step in before if hasattr(step, "transform"))


def _names_from_steps(steps):
    """Names of what the last step puts out, or None if a step does not name it."""
    names = None
    for step in steps:
        if not hasattr(step, "get_feature_names_out"):
            return None
        names = step.get_feature_names_out(names)
    return names


def _find_vectorizer(steps, names):
    """Return the first step if it makes the features, by their names, of texts; else None."""
    if not steps or not hasattr(steps[0], "build_analyzer"):
        return None
    vocabulary = getattr(steps[0], "vocabulary_", {})  # a HashingVectorizer has none
    return steps[0] if all(name in vocabulary for name in names) else None


def router_scores(classifier, X):
    """Scores ``W1 x + b1`` of all experts, before the ReLU, (n_samples, n_experts) of float64."""
    scores = (X.astype(np.float64) @ classifier.router_coef_.astype(np.float64)).toarray()
    return scores + classifier.router_intercept_


def best_experts(subject, scores, classes):
    """Expert with the largest score among those that vote for a class, for every sample.

    Parameters
    ----------
    subject : Subject
    scores : ndarray (n_samples, n_experts)
    classes : ndarray (n_samples,) of int
        Positions of the classes.

    Returns
    -------
    experts : ndarray (n_samples,) of int
    """
    wanted, places = np.unique(classes, return_inverse=True)
    return np.where(subject.experts_of(wanted)[places], scores, -np.inf).argmax(axis=1)
