"""Two labellers of semantic roles: candidates of the tree, and tags of tokens."""

import joblib
import numpy as np
from scipy.special import softmax
from sklearn.base import BaseEstimator, clone
from sklearn.feature_extraction.text import TfidfTransformer

from skparse import SparseExpertClassifier

from .candidates import NONE, SpanRules, build_tree, find_candidates, gold_roles
from .decoding import allowed_tags, decode_candidates, log_odds_of_transitions, viterbi
from .features import Table
from .pairs import (
    CANDIDATE_FEATURES,
    OF_CANDIDATE,
    OF_TOKEN,
    TOKEN_FEATURES,
    TREE_FEATURES,
    candidate_strings,
    token_strings,
)
from .sentences import arguments_of_tags, tags_of_arguments

N_BITS = 18
TOP_KS = (2, 4, 8)
SENTENCES_PER_REPORT = 1000
NONE_SHIFT = -0.5  # chosen on the development part of the English Web Treebank
SMALLEST = 1e-12  # probability
MARGIN_FACTOR = 3.0  # from the margins of a linear SVM to logits


class Labeller(BaseEstimator):
    """What both labellers share: features of rows, a classifier, probabilities.

    Parameters
    ----------
    classifier : classifier, default=None
        None is ``SparseExpertClassifier(random_state=0)``.
    n_bits : int, default=18
        X has ``2 ** n_bits`` columns.
    top_ks : tuple of int, default=(2, 4, 8)
        The probabilities are the mean over these sparsity levels of a `SparseExpertClassifier`.
        One fit trains all of them, and one pass predicts them.
    report : callable, default=None
        Called with the number of sentences done and of all, while features are extracted.

    Attributes
    ----------
    classifier_ : classifier
        Fitted.
    weights_ : TfidfTransformer
        Inverse document frequency and norm of the rows of X.
    classes_ : list of str
        The roles or tags of the columns of the probabilities.
    """

    def __init__(self, classifier=None, n_bits=N_BITS, top_ks=TOP_KS, report=None):
        self.classifier = classifier
        self.n_bits = n_bits
        self.top_ks = top_ks
        self.report = report

    def fit(self, sentences):
        """Fit to sentences whose predicates have arguments."""
        rows = self.extract(sentences)
        return self.fit_rows(sentences, rows)

    def fit_rows(self, sentences, rows):
        """Fit to the result of `extract`, to compare classifiers on the same rows."""
        targets = self.targets(sentences, rows)
        if not len(targets):
            raise ValueError("there is no predicate with candidates in the sentences")
        self.weights_ = TfidfTransformer()
        X = self.weights_.fit_transform(rows.X)
        classifier = self.classifier
        if classifier is None:
            classifier = SparseExpertClassifier(random_state=0)
        self.classifier_ = clone(classifier).fit(X, targets)
        self.classes_ = self.classifier_.classes_.tolist()
        return self

    def predict(self, sentences):
        """Return the arguments of every predicate of all sentences, a list for each."""
        return self.predict_rows(sentences, self.extract(sentences))

    def predict_rows(self, sentences, rows):
        """Return the arguments of every predicate, from the result of `extract`."""
        return self.decode(sentences, rows, self.probabilities(rows))

    def probabilities(self, rows):
        """Return the probabilities of `classes_` for all rows."""
        if rows.X.shape[0] == 0:
            return np.zeros((0, len(self.classes_)))
        X, classifier = self.weights_.transform(rows.X), self.classifier_
        if hasattr(classifier, "predict_proba_path"):
            top_ks = [k for k in self.top_ks if k <= classifier.top_k]
            return classifier.predict_proba_path(X, top_ks).mean(axis=0)
        if hasattr(classifier, "predict_proba"):
            # All probabilities of a row of SGDClassifier may be zero, or not a number for it.
            return np.maximum(np.nan_to_num(classifier.predict_proba(X)), SMALLEST)
        return softmax(MARGIN_FACTOR * classifier.decision_function(X), axis=1)

    def save(self, path):
        """Save the labeller with joblib, the router weights in half precision."""
        saved = clone(self).set_params(classifier=None, report=None)
        vars(saved).update({k: v for k, v in vars(self).items() if k.endswith("_")})
        if isinstance(self.classifier_, SparseExpertClassifier):
            saved.classifier_ = self.classifier_.compress()
        joblib.dump(saved, path)

    def _report(self, n_done, n_all):
        if self.report is not None and (n_done % SENTENCES_PER_REPORT == 0 or n_done == n_all):
            self.report(n_done, n_all)


def top_features(labeller, sentences, role, n_features=20, min_count=10):
    """Return the features of a `CandidateLabeller` for a role, the largest weight first.

    The weight of a feature is its mean contribution to the experts of the role.

    Parameters
    ----------
    labeller : CandidateLabeller
        Fitted with a `SparseExpertClassifier`.
    sentences : list of Sentence
        Where the features get their names from.
    role : str
    n_features : int, default=20
    min_count : int, default=10
        Least number of candidates of `sentences` that have the feature.

    Returns
    -------
    list of (str, float)
        Names, such as "sense+r=give.01 nsubj", and weights.
    """
    if role not in labeller.classes_:
        raise ValueError(f"the role {role!r} is none of {', '.join(labeller.classes_)}")
    rows = labeller.extract(sentences)
    classifier, X = labeller.classifier_, labeller.weights_.transform(rows.X)
    outputs = classifier.expert_coef_.toarray()
    toward = outputs[:, labeller.classes_.index(role)] - outputs.mean(axis=1)
    values = np.bincount(X.indices, weights=X.data, minlength=X.shape[1])
    values /= np.maximum(np.bincount(X.indices, minlength=X.shape[1]), 1)
    weights = values * (classifier.router_coef_ @ toward)
    names = rows.table.name_columns(labeller.features, labeller.n_bits)
    columns = [column for column, (_, count) in names.items() if count >= min_count]
    best = sorted(columns, key=weights.__getitem__, reverse=True)[:n_features]
    return [(names[column][0], float(weights[column])) for column in best]


class Rows:
    """Rows of X with what they were made of: trees, predicates, their candidates."""

    def __init__(self, table, features, n_bits, trees, predicates, candidates):
        self.table, self.trees = table, trees
        self.predicates = predicates  # (number of the sentence, Predicate)
        self.candidates = candidates  # a list for each predicate
        self.starts = np.array(table.starts)  # the first row of each predicate
        self.X = table.conjoin(features, n_bits)


class CandidateLabeller(Labeller):
    """Semantic roles of the words that the tree offers, a row of X for each.

    Parameters
    ----------
    none_shift : float, default=-0.5
        Added to the logarithm of the probability of no argument, before decoding.
    """

    features = CANDIDATE_FEATURES

    def __init__(
        self,
        classifier=None,
        n_bits=N_BITS,
        top_ks=TOP_KS,
        report=None,
        none_shift=NONE_SHIFT,
    ):
        super().__init__(classifier, n_bits, top_ks, report)
        self.none_shift = none_shift

    def probabilities(self, rows):
        """Return the probabilities of `classes_` for all rows, with the shift of none."""
        probabilities = super().probabilities(rows)
        if NONE in self.classes_:
            probabilities[:, self.classes_.index(NONE)] *= np.exp(self.none_shift)
            probabilities /= probabilities.sum(axis=1, keepdims=True)
        return probabilities

    def extract(self, sentences):
        """Return the `Rows` of all candidates."""
        table, trees, predicates, candidates = Table(OF_CANDIDATE), [], [], []
        for number, sentence in enumerate(sentences):
            tree = build_tree(sentence)
            trees.append(tree)
            first = table.add_sentence(sentence, tree) if sentence.predicates else None
            for predicate in sentence.predicates:
                found = find_candidates(sentence, tree, predicate)
                strings = candidate_strings(sentence, tree, predicate, found)
                tokens = [candidate.token for candidate in found]
                table.add_predicate(first, sentence, tree, predicate, tokens, strings)
                predicates.append((number, predicate))
                candidates.append(found)
            self._report(number + 1, len(sentences))
        return Rows(table, self.features, self.n_bits, trees, predicates, candidates)

    def targets(self, sentences, rows):
        """Return the role of every candidate, and learn the rules of spans."""
        self.span_rules_, targets = SpanRules(), []
        for (number, predicate), found in zip(rows.predicates, rows.candidates, strict=True):
            sentence, tree = sentences[number], rows.trees[number]
            for candidate, argument in zip(
                found, gold_roles(sentence, found, predicate), strict=True
            ):
                targets.append(argument.role if argument else NONE)
                if argument:
                    self.span_rules_.fit_argument(sentence, tree, candidate, argument)
        return np.array(targets)

    def decode(self, sentences, rows, probabilities):
        """Return the most probable arguments of every predicate."""
        arguments = []
        for order, (number, predicate) in enumerate(rows.predicates):
            sentence, tree, found = sentences[number], rows.trees[number], rows.candidates[order]

            def span_of(candidate, role, sentence=sentence, tree=tree, found=found):
                return self.span_rules_.span(sentence, tree, found[candidate], role)

            part = probabilities[rows.starts[order] : rows.starts[order + 1]]
            arguments.append(decode_candidates(part, self.classes_, span_of, predicate.token))
        return arguments


class TagLabeller(Labeller):
    """Semantic roles as BIO tags of all tokens, a row of X for each token of each predicate.

    Parameters
    ----------
    syntax : bool, default=True
        Whether features use the tree. Without, words and their tags are enough.
    transition_weight : float, default=0.5
        Weight of the transitions between tags in the Viterbi decoding. With 0 they only have to
        be allowed.
    """

    def __init__(
        self,
        classifier=None,
        n_bits=N_BITS,
        top_ks=TOP_KS,
        report=None,
        syntax=True,
        transition_weight=0.5,
    ):
        super().__init__(classifier, n_bits, top_ks, report)
        self.syntax = syntax
        self.transition_weight = transition_weight

    @property
    def features(self):
        """The features of a row."""
        return TOKEN_FEATURES + (TREE_FEATURES if self.syntax else [])

    def extract(self, sentences):
        """Return the `Rows` of all tokens for all predicates."""
        table, trees, predicates = Table(OF_TOKEN), [], []
        for number, sentence in enumerate(sentences):
            tree = build_tree(sentence)
            trees.append(tree)
            first = table.add_sentence(sentence, tree) if sentence.predicates else None
            for predicate in sentence.predicates:
                strings = token_strings(sentence, tree, predicate)
                tokens = range(len(sentence.tokens))
                table.add_predicate(first, sentence, tree, predicate, tokens, strings)
                predicates.append((number, predicate))
            self._report(number + 1, len(sentences))
        return Rows(table, self.features, self.n_bits, trees, predicates, None)

    def targets(self, sentences, rows):
        """Return the tag of every token, and learn which tags follow each other."""
        sequences = [
            tags_of_arguments(predicate.arguments, len(sentences[number].tokens))
            for number, predicate in rows.predicates
        ]
        self.transitions_ = log_odds_of_transitions(sequences)
        return np.array([tag for tags in sequences for tag in tags])

    def decode(self, sentences, rows, probabilities):
        """Return the arguments of the best sequence of tags of every predicate."""
        allowed, may_begin = allowed_tags(self.classes_)
        transitions = self.transition_weight * self.transitions_
        best = viterbi(probabilities, rows.starts, allowed, may_begin, transitions)
        tags = np.array(self.classes_)[best].tolist()
        ends = zip(rows.starts[:-1], rows.starts[1:], strict=True)
        return [arguments_of_tags(tags[start:end]) for start, end in ends]
