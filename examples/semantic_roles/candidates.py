"""Which words may head an argument of a predicate, and the tokens that belong to them."""

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from .sentences import ancestors

NONE = "_"  # the role of candidates that are no argument
MIN_COUNT = 10  # of children, for a rule of a role of its own


class Tree(NamedTuple):
    """Children, first and last tokens of the subtrees of a sentence, and steps from the root."""

    children: list
    first: list
    last: list
    depth: list


class Candidate(NamedTuple):
    """A word that may head an argument.

    `above` counts the steps from the predicate up to the word, or to its head where the word is
    not above the predicate. `branch` is the child of the word that has the predicate below it,
    -1 where the word is not above the predicate.
    """

    token: int
    above: int
    branch: int


def build_tree(sentence):
    """Return the tree of a sentence."""
    n_tokens = len(sentence.tokens)
    children, depth = [[] for _ in range(n_tokens)], []
    for token, head in enumerate(sentence.heads):
        depth.append(len(ancestors(sentence.heads, token)))
        if head >= 0:
            children[head].append(token)
    first, last = list(range(n_tokens)), list(range(n_tokens))
    for token in sorted(range(n_tokens), key=depth.__getitem__, reverse=True):
        head = sentence.heads[token]
        if head >= 0:
            first[head] = min(first[head], first[token])
            last[head] = max(last[head], last[token])
    return Tree(children, first, last, depth)


def find_candidates(sentence, tree, predicate):
    """Return the children of a predicate, its ancestors, and their children, by position."""
    path = [predicate.token, *ancestors(sentence.heads, predicate.token)]
    found = []
    for above, node in enumerate(path):
        branch = path[above - 1] if above else -1
        found.extend(Candidate(c, above, -1) for c in tree.children[node] if c != branch)
        if above:
            found.append(Candidate(node, above, branch))
    return sorted(found)


def gold_roles(sentence, candidates, predicate):
    """Return the argument whose head each candidate is, or None; one candidate per argument."""
    tokens = {candidate.token for candidate in candidates}
    found = {}
    for argument in predicate.arguments:
        inside = range(argument.start, argument.end)
        heads = [t for t in inside if sentence.heads[t] not in inside and t in tokens]
        if heads:
            found.setdefault(heads[0], argument)
    return [found.get(candidate.token) for candidate in candidates]


@dataclass
class SpanRules:
    """Which children of a head belong to the argument, counted in training sentences.

    Most arguments are whole subtrees. The subject of "happy" in "she is happy" is a child of
    "happy", but the argument of "is" is "happy" alone. A rule depends on the relation of the
    child, its side, the relation of the branch with the predicate, and the role.
    """

    counts: Counter = field(default_factory=Counter)

    def fit_argument(self, sentence, tree, candidate, argument):
        """Count the children of a head that are inside and outside of an argument."""
        start, end, role = argument
        for child in tree.children[candidate.token]:
            if child != candidate.branch:
                inside = start <= tree.first[child] and tree.last[child] < end
                for key in self._keys(sentence, tree, candidate, role, child):
                    self.counts[key, inside] += 1

    def span(self, sentence, tree, candidate, role):
        """Return start and end of the argument that a candidate would be with a role."""
        children, head = tree.children[candidate.token], candidate.token
        before = [child for child in reversed(children) if child < head]
        after = [child for child in children if child > head]
        start = [tree.first[c] for c in self._inside(sentence, tree, candidate, role, before)]
        end = [tree.last[c] for c in self._inside(sentence, tree, candidate, role, after)]
        return min([head, *start]), max([head, *end]) + 1

    def _inside(self, sentence, tree, candidate, role, children):
        """Yield the children that belong to an argument, from the head to the first outside."""
        for child in children:
            if child == candidate.branch:
                return
            if self._belongs(sentence, tree, candidate, role, child):
                yield child
            elif sentence.upos[child] != "PUNCT":  # a comma does not end an argument
                return

    def _belongs(self, sentence, tree, candidate, role, child):
        for key in self._keys(sentence, tree, candidate, role, child):
            inside, outside = self.counts[key, True], self.counts[key, False]
            if inside + outside >= MIN_COUNT:
                return inside >= outside
        return sentence.upos[child] != "PUNCT"

    @staticmethod
    def _keys(sentence, tree, candidate, role, child):
        """Return what a rule depends on, the most special first."""
        branch = sentence.relations[candidate.branch] if candidate.branch >= 0 else ""
        side, relation = child < candidate.token, sentence.relations[child]
        below = [sentence.relations[each] for each in tree.children[child]]
        clause = any(each.startswith(("nsubj", "csubj")) for each in below)
        return (
            (branch, role, side, relation, clause),
            (branch, side, relation, clause),
            (bool(branch), relation),
        )
