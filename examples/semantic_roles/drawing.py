"""A picture of a labelled sentence: its words, and a line of coloured spans per predicate."""

import matplotlib.pyplot as plt

from .sentences import PREDICATE, Argument

COLOURS = {"ARG0": "#9ecae1", "ARG1": "#a1d99b", "ARG2": "#fdd0a2", PREDICATE: "#d9d9d9"}
OTHER = "#dadaeb"
GAP = 1.5  # between words, in letters


def draw_sentence(sentence, arguments):
    """Draw a sentence and the arguments of its predicates; return the figure.

    Parameters
    ----------
    sentence : Sentence
    arguments : list of list of Argument
        A list for each predicate.
    """
    starts, place = [], 0.0
    for token in sentence.tokens:
        starts.append(place)
        place += len(token) + GAP
    ends = [start + len(token) for start, token in zip(starts, sentence.tokens, strict=True)]
    n_lines = len(sentence.predicates)
    figure, ax = plt.subplots(figsize=(0.11 * place + 1.2, 0.45 * (n_lines + 1) + 0.1))
    for start, token in zip(starts, sentence.tokens, strict=True):
        ax.text(start, 0, token, family="monospace", fontsize=9, va="center")
    for line, (predicate, found) in enumerate(
        zip(sentence.predicates, arguments, strict=True), start=1
    ):
        itself = Argument(predicate.token, predicate.token + 1, PREDICATE)
        ax.text(
            -GAP, -line, predicate.roleset, fontsize=8, va="center", ha="right", style="italic"
        )
        for start, end, role in [itself, *found]:
            left, right = starts[start] - 0.4, ends[end - 1] + 0.4
            colour = COLOURS.get(role, OTHER)
            ax.barh(-line, right - left, 0.62, left, color=colour, edgecolor="gray", linewidth=0.6)
            label = role.removeprefix("ARGM-")
            ax.text((left + right) / 2, -line, label, fontsize=7, va="center", ha="center")
    longest = max((len(predicate.roleset) for predicate in sentence.predicates), default=0)
    ax.set(xlim=(-GAP - longest, place), ylim=(-n_lines - 0.6, 0.6))
    ax.axis("off")
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.02, top=0.98)
    return figure
