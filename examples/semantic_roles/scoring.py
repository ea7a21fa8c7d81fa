"""Precision, recall and F1 of arguments, as in the CoNLL-2005 and CoNLL-2012 shared tasks."""

from collections import Counter
from typing import NamedTuple


class Score(NamedTuple):
    """Counts of arguments: right, predicted, in the gold standard."""

    n_right: int
    n_predicted: int
    n_gold: int

    @property
    def precision(self):
        """Share of the predicted arguments that are right."""
        return self.n_right / self.n_predicted if self.n_predicted else 0.0

    @property
    def recall(self):
        """Share of the gold arguments that are found."""
        return self.n_right / self.n_gold if self.n_gold else 0.0

    @property
    def f1(self):
        """Harmonic mean of precision and recall."""
        n_both = self.n_predicted + self.n_gold
        return 2 * self.n_right / n_both if n_both else 0.0


def score_arguments(predicted, gold):
    """Score the arguments of predicates.

    An argument is right if start, end and role are equal. For the unlabelled score the role does
    not count. The predicate itself is no argument; continuations ("C-ARG1") and references
    ("R-ARG1") are roles of their own. All arguments count alike, not predicates.

    Parameters
    ----------
    predicted, gold : lists of lists of Argument
        One list for each predicate, in the same order.

    Returns
    -------
    labelled : Score
    unlabelled : Score
    by_role : dict of str to Score
        Ordered by the number of gold arguments.
    """
    if len(predicted) != len(gold):
        raise ValueError(f"{len(predicted)} predicates have been labelled, {len(gold)} are known")
    right, found, known, n_spans = Counter(), Counter(), Counter(), 0
    for ours, theirs in zip(predicted, gold, strict=True):
        found.update(argument.role for argument in ours)
        known.update(argument.role for argument in theirs)
        right.update(argument.role for argument in set(ours) & set(theirs))
        n_spans += len({a[:2] for a in ours} & {a[:2] for a in theirs})
    roles = sorted({*found, *known}, key=lambda role: (-known[role], role))
    by_role = {role: Score(right[role], found[role], known[role]) for role in roles}
    n_found, n_known = found.total(), known.total()
    labelled = Score(right.total(), n_found, n_known)
    return labelled, Score(n_spans, n_found, n_known), by_role
