"""From probabilities to arguments: the most probable set that keeps the constraints."""

import numpy as np

from .candidates import NONE
from .sentences import Argument

CORE = tuple(f"ARG{letter}" for letter in "012345A")  # each occurs once per predicate
FLOOR = 1e-6  # a probability of zero would forbid a role
SMOOTHING = 0.01  # added to the count of every pair of tags


def decode_candidates(probabilities, roles, span_of, predicate):
    """Return the most probable arguments of a predicate.

    Arguments do not overlap, and each core role occurs once. Among such sets the result has the
    largest product of probabilities. A dynamic programme finds it: candidates are ordered by the
    start of their spans, and a state is the end of the last argument with the core roles so far.
    A role that is less probable than none is never a gain.

    Parameters
    ----------
    probabilities : ndarray (n_candidates, n_roles)
    roles : list of str
        The role of each column.
    span_of : callable
        ``span_of(number, role)`` returns start and end of a candidate with a role.
    predicate : int
        The token of the predicate, which is in no argument.

    Returns
    -------
    list of Argument
        Ordered by start.
    """
    logs = np.log(np.maximum(probabilities, FLOOR))
    none = logs[:, roles.index(NONE)] if NONE in roles else np.full(len(logs), np.log(FLOOR))
    gains = logs - none[:, np.newaxis]
    options = []
    for number, column in zip(*np.nonzero(gains > 0), strict=True):
        start, end = span_of(number, roles[column])
        if not start <= predicate < end:
            options.append((start, end, roles[column], gains[number, column]))
    states = {(0, 0): (0.0, ())}  # end and core roles -> gain and arguments
    for start, end, role, gain in sorted(options):
        bit = 1 << CORE.index(role) if role in CORE else 0
        for (last, core), (total, chosen) in list(states.items()):
            key = end, core | bit
            if last <= start and not core & bit and states.get(key, (0.0,))[0] < total + gain:
                states[key] = total + gain, (*chosen, Argument(start, end, role))
    return list(max(states.values(), key=lambda state: state[0])[1])


def allowed_tags(tags):
    """Return which tag may follow which (rows: the one before), and which may begin."""
    continues = np.array([tag.startswith("I-") for tag in tags])
    roles = np.array([tag[2:] for tag in tags])
    same = (roles[:, np.newaxis] == roles) & (roles != "")[:, np.newaxis]
    return ~continues | same, ~continues


def log_odds_of_transitions(sequences):
    """Return log(P(tag | tag before) / P(tag)) of sequences of tags, ordered by tag.

    A classifier has given P(tag | token), where the frequency of the tag is in already.
    """
    tags = sorted({tag for sequence in sequences for tag in sequence})
    numbers = {tag: number for number, tag in enumerate(tags)}
    pairs = np.full((len(tags), len(tags)), SMOOTHING)
    for sequence in sequences:
        codes = [numbers[tag] for tag in sequence]
        np.add.at(pairs, (codes[:-1], codes[1:]), 1)
    joint = pairs / pairs.sum()
    return np.log(joint / np.outer(joint.sum(axis=1), joint.sum(axis=0)))


def viterbi(probabilities, starts, allowed, may_begin, transitions):
    """Return the best sequence of tags for many sequences at a time.

    The score of a sequence is the sum of the logarithms of its probabilities and of its
    transitions.

    Parameters
    ----------
    probabilities : ndarray (n_tokens, n_tags)
        Of the tokens of all sequences, one sequence after the other.
    starts : ndarray (n_sequences + 1,)
        The first row of each sequence, and `n_tokens`.
    allowed : ndarray (n_tags, n_tags) of bool
        Whether the tag of a column may follow the tag of a row.
    may_begin : ndarray (n_tags,) of bool
        Whether a sequence may begin with the tag.
    transitions : ndarray (n_tags, n_tags)
        Scores of pairs of tags.

    Returns
    -------
    ndarray (n_tokens,)
        Positions of tags.
    """
    lengths = np.diff(starts)
    order = np.argsort(-lengths, kind="stable")  # those that go on are the first ones
    firsts, n_steps, n_tags = starts[:-1][order], int(lengths.max(initial=0)), len(allowed)
    n_going = np.searchsorted(-lengths[order], -np.arange(n_steps), side="left")
    steps = np.where(allowed, transitions, -np.inf).T  # a row for the tag that follows
    logs = np.log(np.maximum(probabilities, FLOOR))
    before = np.zeros((n_steps, len(order), n_tags), dtype=np.int16)
    final = np.zeros((len(order), n_tags))
    for step, going in enumerate(n_going):
        here = logs[firsts[:going] + step]
        if step == 0:
            scores = here + np.where(may_begin, 0, -np.inf)
        else:
            scores, last = here.copy(), scores[:going]
            for tag in range(n_tags):
                paths = last + steps[tag]
                best = paths.argmax(axis=1)
                before[step, :going, tag] = best
                scores[:, tag] += paths[np.arange(going), best]
        final[:going] = scores
    tags = np.zeros(len(logs), dtype=np.intp)
    now = final.argmax(axis=1)
    for step in range(n_steps - 1, -1, -1):
        going = n_going[step]
        tags[firsts[:going] + step] = now[:going]
        now[:going] = before[step, np.arange(going), now[:going]]
    return tags
