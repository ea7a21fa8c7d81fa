"""Explain the predictions of samples: kept experts, contributions, unknown features."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse
from sklearn.base import BaseEstimator

from .._typing import SamplesLike
from ._contributions import ROWS, contributions_to
from ._subject import best_experts, find_best_classes, find_subject, prepare, router_scores


class KeptExpert(NamedTuple):
    """An expert that a sample keeps."""

    expert: int
    weight: float  # its gate weight
    score: float
    votes_for: Any  # label of its largest output


class FeatureContribution(NamedTuple):
    """What a feature of a sample contributes to the scores of two classes."""

    name: str
    value: float  # in the sample
    to_predicted: float
    to_runner_up: float  # zero if there is one class only


@dataclass(frozen=True)
class Explanation:
    """Why a sample is predicted as it is.

    Parameters
    ----------
    predicted, runner_up : label
        The two most probable classes; with several labels per sample the two most probable
        labels. `runner_up` is None if there is one class only.
    probability, runner_up_probability : float
    experts : tuple of KeptExpert
        Named tuples of `expert`, `weight`, `score` and `votes_for`, the largest weight first.
    features : tuple of FeatureContribution
        Named tuples of `name`, `value`, `to_predicted` and `to_runner_up`: what a feature
        contributes to the scores of the two classes. The largest absolute difference is first.
    rest : tuple of two float
        What the other features contribute together.
    bias : tuple of two float
    scores : tuple of two float
        Scores of the two classes: that of its best expert. They are the sums of the
        contributions, the rest and the bias.
    unknown : tuple of str
        Words of a text that are no features of the model.
    unconnected : tuple of str
        Features of the sample that have no router weight.
    """

    predicted: Any
    probability: float
    runner_up: Any
    runner_up_probability: float
    experts: tuple[KeptExpert, ...]
    features: tuple[FeatureContribution, ...]
    rest: tuple[float, float]
    bias: tuple[float, float]
    scores: tuple[float, float]
    unknown: tuple[str, ...]
    unconnected: tuple[str, ...]

    def __str__(self) -> str:
        """Write the explanation as a table."""
        names = [str(feature.name) for feature in self.features]
        heads = [str(self.predicted)]
        first_line = f"{self.predicted} ({self.probability:.3f})"
        if self.runner_up is not None:
            heads.append(str(self.runner_up))
            first_line += f", then {self.runner_up} ({self.runner_up_probability:.3f})"
        width = max(map(len, [*names, "all other features"]))
        widths = [max(9, len(head)) for head in heads]

        def line(name, values):
            numbers = (f"{v:{w}.3f}" for v, w in zip(values, widths, strict=False))
            return f"{name:{width}}  {'  '.join(numbers)}"

        kept = [f"expert {e.expert} for {e.votes_for} ({e.weight:.3f})" for e in self.experts]
        titles = "  ".join(f"{h:>{w}}" for h, w in zip(heads, widths, strict=True))
        lines = [
            first_line,
            f"kept: {', '.join(kept) or 'no expert'}",
            f"{'':{width}}  {titles}",
            *(line(f.name, f[2:]) for f in self.features),
            line("all other features", self.rest),
            line("bias", self.bias),
            line("score", self.scores),
        ]
        for title, terms in (("unknown", self.unknown), ("unconnected", self.unconnected)):
            if terms:
                lines.append(f"{title}: {', '.join(terms)}")
        return "\n".join(lines)


def explain(
    estimator: BaseEstimator,
    X: SamplesLike,
    *,
    feature_names: ArrayLike | None = None,
    n_features: int = 10,
) -> list[Explanation]:
    """Explain predictions.

    Parameters
    ----------
    estimator : estimator
        Fitted :class:`~skparse.SparseExpertClassifier`, a pipeline that ends in one, or a search
        that has fitted one.
    X : array-like
        Samples as `estimator` takes them; texts for a pipeline with a vectorizer.
    feature_names : array-like of str, default=None
        Names of the features of the classifier. By default those of the steps before it.
    n_features : int, default=10
        At most so many features of each sample are listed.

    Returns
    -------
    explanations : list of Explanation
        One per sample. ``print(explanation)`` writes a table; its attributes are described in
        :class:`Explanation`.

    Raises
    ------
    ValueError
        If `n_features` is below one, or `feature_names` has another length.

    See Also
    --------
    feature_contributions : All contributions, as a sparse array.
    ExplanationDisplay : A picture of one explanation.

    Examples
    --------
    >>> from sklearn.feature_extraction.text import TfidfVectorizer
    >>> from sklearn.pipeline import make_pipeline
    >>> from skparse import SparseExpertClassifier
    >>> from skparse.inspection import explain
    >>> model = make_pipeline(TfidfVectorizer(), SparseExpertClassifier(random_state=0))
    >>> texts = ["sparse matrix", "matrix product", "violin concerto", "piano concerto"]
    >>> _ = model.fit(texts, ["algebra", "algebra", "music", "music"])
    >>> explanation = explain(model, ["a concerto for two matrix products"])[0]
    >>> explanation.unknown
    ('for', 'two', 'products')
    >>> sorted(feature.name for feature in explanation.features)
    ['concerto', 'matrix']
    """
    if n_features < 1:
        raise ValueError(f"n_features has to be at least 1, got {n_features!r}.")
    subject = find_subject(estimator, feature_names)
    texts, (given, X) = X, prepare(estimator, X)
    classes, probabilities = find_best_classes(subject.classifier, given)
    codes = subject.classifier.transform(given)
    if not sparse.issparse(codes):  # the user has asked for frames or arrays
        codes = sparse.csr_array(np.asarray(codes))
    unknown = _unknown_words(subject, texts, X.shape[0])
    explanations = []
    for first in range(0, X.shape[0], ROWS):
        rows = slice(first, first + ROWS)
        parts = (part[rows] for part in (X, classes, probabilities, codes, unknown))
        explanations += _explain_block(subject, *parts, n_features)
    return explanations


def _explain_block(subject, X, classes, probabilities, codes, unknown, n_features):
    classifier = subject.classifier
    scores = router_scores(classifier, X)
    parts = [
        contributions_to(classifier, X, best_experts(subject, scores, column))
        for column in classes.T
    ]
    X = X if X.has_canonical_format else X.copy()
    X.sum_duplicates()
    connected = np.diff(classifier.router_coef_.indptr) > 0
    explanations = []
    for i in range(X.shape[0]):
        order = classes[i]
        features, rest, bias, sums = _split(subject, X, parts, i, n_features)
        own = X.indices[X.indptr[i] : X.indptr[i + 1]]
        labels = [subject.labels[c] for c in order] + [None] * (2 - len(order))
        shares = [float(probabilities[i, c]) for c in order] + [0.0] * (2 - len(order))
        explanations.append(
            Explanation(
                labels[0], shares[0], labels[1], shares[1],
                _kept_experts(subject, codes, scores, i),
                features, rest, bias, sums,
                tuple(unknown[i]), tuple(map(str, subject.feature_names[own[~connected[own]]])),
            )
        )  # fmt: skip
    return explanations


def _kept_experts(subject, codes, scores, i):
    part = slice(codes.indptr[i], codes.indptr[i + 1])
    experts, weights = codes.indices[part], codes.data[part]
    order = np.argsort(-scores[i, experts], kind="stable")
    labels = [subject.labels[c] for c in subject.expert_classes[experts]]
    return tuple(
        KeptExpert(int(experts[j]), float(weights[j]), float(scores[i, experts[j]]), labels[j])
        for j in order
    )


def _split(subject, X, parts, i, n_features):
    """Largest contributions, the sum of the others, bias and scores of row ``i``."""
    bias_column = X.shape[1]
    columns = [part.indices[part.indptr[i] : part.indptr[i + 1]] for part in parts]
    features = np.unique(np.concatenate(columns))
    features = features[features < bias_column]
    values = np.zeros((2, len(features)))
    bias = np.zeros(2)
    for k, (part, own) in enumerate(zip(parts, columns, strict=True)):
        data = part.data[part.indptr[i] : part.indptr[i + 1]]
        is_bias = own == bias_column
        values[k, np.searchsorted(features, own[~is_bias])] = data[~is_bias]
        bias[k] = data[is_bias].sum()
    difference = values[0] - values[1]
    order = np.argsort(-np.abs(difference), kind="stable")
    top, others = order[:n_features], order[n_features:]
    own = slice(X.indptr[i], X.indptr[i + 1])
    in_sample = dict(zip(X.indices[own].tolist(), X.data[own].tolist(), strict=True))
    listed = tuple(
        FeatureContribution(
            str(subject.feature_names[features[j]]),
            in_sample.get(int(features[j]), 0.0),
            *values[:, j].tolist(),
        )
        for j in top
    )
    rest, sums = values[:, others].sum(axis=1), values.sum(axis=1) + bias
    return listed, tuple(rest.tolist()), tuple(bias.tolist()), tuple(sums.tolist())


def _unknown_words(subject, texts, n_samples):
    """Words of every text that are no features, in their order, each once."""
    vectorizer = subject.vectorizer
    if vectorizer is None or vectorizer.analyzer != "word":
        return [()] * n_samples
    analyze, known = vectorizer.build_analyzer(), set(subject.feature_names.tolist())
    return [
        [term for term in dict.fromkeys(analyze(text)) if " " not in term and term not in known]
        for text in texts
    ]
