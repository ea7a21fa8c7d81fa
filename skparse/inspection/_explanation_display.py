"""Draw an explanation: the text with shaded words, and bars of the contributions."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator

from .._typing import SamplesLike
from ..plotting._drawing import BLUE, ORANGE, choose_axes
from ._contributions import contributions_to
from ._explanation import Explanation, explain
from ._subject import best_experts, find_best_classes, find_subject, prepare, router_scores
from ._words import Word, split_contributions

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Columns of a line of text, and lines that are shown at most.
LINE_LENGTH, MAX_LINES = 76, 12
CHARACTER_WIDTH = 0.602  # of DejaVu Sans Mono, in units of the font size
BAR_LABEL_LENGTH = 36


class ExplanationDisplay:
    """Text with its words shaded, and bars: contributions for a class and against it.

    Blue is for the predicted class, orange for the runner-up: the difference of what a word
    contributes to the scores of the two. The bars of the other features and of the bias are pale.

    Use `from_estimator` to create it.

    Parameters
    ----------
    explanation : Explanation
        Result of :func:`explain`.
    words : list of tuple (text, contribution, known), default=()
        Words of the text, with the difference of their contributions to the two scores. Words
        that are not known are drawn grey. Without words only the bars are drawn.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes that hold the two parts.
    text_ax_ : matplotlib Axes or None
    bar_ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    bars_ : matplotlib BarContainer

    Examples
    --------
    >>> from sklearn.feature_extraction.text import TfidfVectorizer
    >>> from sklearn.pipeline import make_pipeline
    >>> from skparse import SparseExpertClassifier
    >>> from skparse.inspection import ExplanationDisplay
    >>> model = make_pipeline(TfidfVectorizer(), SparseExpertClassifier(random_state=0))
    >>> texts = ["sparse matrix", "matrix product", "violin concerto", "piano concerto"]
    >>> _ = model.fit(texts, ["algebra", "algebra", "music", "music"])
    >>> display = ExplanationDisplay.from_estimator(model, "Concerto for a matrix")
    >>> [word.text for word in display.words if word.known]
    ['Concerto', 'matrix']
    """

    def __init__(self, explanation: Explanation, words: Sequence[Word] = ()) -> None:
        self.explanation = explanation
        self.words = words

    @classmethod
    def from_estimator(
        cls,
        estimator: BaseEstimator,
        text: str | SamplesLike,
        *,
        feature_names: ArrayLike | None = None,
        n_features: int = 10,
        ax: "Axes | None" = None,
        **kwargs: Any,
    ) -> Self:
        """Explain the prediction of one sample, and draw it.

        Parameters
        ----------
        estimator : estimator
            As in :func:`explain`.
        text : str, or one sample as an array or a sparse row of shape (1, n_features)
            A text needs a pipeline that begins with a vectorizer.
        feature_names, n_features
            As in :func:`explain`.
        ax, **kwargs
            As in `plot`.

        Returns
        -------
        display : ExplanationDisplay
        """
        is_text = isinstance(text, str)
        sample = [text] if is_text else text
        explanations = explain(
            estimator, sample, feature_names=feature_names, n_features=n_features
        )
        if len(explanations) != 1:
            raise ValueError(f"text has to be one sample, got {len(explanations)}.")
        words = ()
        if is_text:
            subject = find_subject(estimator, feature_names)
            contributions = _differences(subject, *prepare(estimator, sample))
            words = split_contributions(subject.vectorizer, text, contributions)
        return cls(explanations[0], words).plot(ax, **kwargs)

    def plot(self, ax: "Axes | None" = None, **kwargs: Any) -> Self:
        """Draw the text and the bars.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes whose place is divided between the two; those of a new figure if None.
        **kwargs : dict
            Passed to `matplotlib.axes.Axes.barh`.

        Returns
        -------
        display : ExplanationDisplay
        """
        lines = wrap_words(self.words)
        if ax is None:
            height = 1.3 + 0.24 * len(lines) + 0.27 * max(1, len(self.explanation.features))
            ax = choose_axes(None)
            ax.figure.set_size_inches(8, height)
        self.ax_, self.figure_ = ax, ax.figure
        ax.set_axis_off()
        e = self.explanation
        ax.set_title(f"{e.predicted}: {e.probability:.2f}", loc="left", color=BLUE)
        if e.runner_up is not None:
            title = f"{e.runner_up}: {e.runner_up_probability:.2f}"
            ax.set_title(title, loc="right", color=ORANGE)
        # The text gets about as much of the height as its lines need.
        n_rows = len(self.explanation.features) + 2
        share = 0.9 * len(lines) / (0.9 * len(lines) + n_rows) if lines else 0.0
        self.text_ax_ = self._draw_text(ax, lines, share) if lines else None
        self.bar_ax_ = ax.inset_axes([0.3, 0.1, 0.68, 1 - share - 0.13])
        self._draw_bars(self.bar_ax_, kwargs)
        return self

    def _draw_text(self, ax, lines, share):
        from matplotlib.patches import Rectangle

        text_ax = ax.inset_axes([0, 1 - share, 1, share - 0.02])
        text_ax.set(xlim=(0, LINE_LENGTH), ylim=(len(lines), 0))
        text_ax.set_axis_off()
        ax.figure.draw_without_rendering()  # the layout determines the width of the axes
        points = 72 * ax.get_window_extent().width / ax.figure.dpi
        size = min(11.0, points / LINE_LENGTH / CHARACTER_WIDTH)
        step = size * CHARACTER_WIDTH / (points / LINE_LENGTH)
        largest = max((abs(word.contribution) for word in self.words), default=0.0)
        for row, line in enumerate(lines):
            column = 0
            for word in line:
                if word.contribution and largest:
                    color = BLUE if word.contribution > 0 else ORANGE
                    alpha = 0.06 + 0.6 * abs(word.contribution) / largest
                    x, w = (column - 0.3) * step, (len(word.text) + 0.6) * step
                    box = Rectangle((x, row + 0.06), w, 0.88, color=color, alpha=alpha, lw=0)
                    box.set_clip_on(False)
                    text_ax.add_patch(box)
                text_ax.text(
                    column * step, row + 0.5, word.text, va="center", ha="left", fontsize=size,
                    family="monospace", color="black" if word.known else "0.5", parse_math=False,
                )  # fmt: skip
                column += len(word.text) + 1
        return text_ax

    def _draw_bars(self, ax, kwargs):
        e = self.explanation
        rows = [(_shorten(f.name), f.to_predicted - f.to_runner_up) for f in e.features]
        rows.append(("all other features", e.rest[0] - e.rest[1]))
        rows.append(("bias", e.bias[0] - e.bias[1]))
        names, values = zip(*rows, strict=True)
        style = {"color": [BLUE if v > 0 else ORANGE for v in values], "height": 0.75, **kwargs}
        self.bars_ = ax.barh(np.arange(len(rows)), values, **style)
        for bar in self.bars_[-2:]:
            bar.set_alpha(0.4)
        ax.set_yticks(np.arange(len(rows)), names, fontsize="small", parse_math=False)
        ax.invert_yaxis()
        ax.axvline(0, color="0.4", linewidth=0.8)
        for side in ("top", "right", "left"):
            ax.spines[side].set_visible(False)
        ax.tick_params(axis="y", length=0)
        ax.tick_params(axis="x", labelsize="small")
        name = "" if e.runner_up is None else f" minus {e.runner_up}"
        ax.set_xlabel(f"contribution to the score: {e.predicted}{name}", fontsize="small")


def wrap_words(words):
    """Break words into lines; the last of too many lines ends with an ellipsis."""
    lines, used = [], LINE_LENGTH
    for word in words:
        if len(word.text) > LINE_LENGTH:
            word = word._replace(text=word.text[: LINE_LENGTH - 1] + "…")
        if used + 1 + len(word.text) > LINE_LENGTH:
            if len(lines) == MAX_LINES:
                last = lines[-1][-1]
                lines[-1][-1] = last._replace(text="…", contribution=0.0, known=False)
                break
            lines.append([])
            used = -1
        lines[-1].append(word)
        used += 1 + len(word.text)
    return lines


def _differences(subject, given, X):
    """Contributions of all features of one row to the predicted class minus the runner-up."""
    classes, _ = find_best_classes(subject.classifier, given)
    scores = router_scores(subject.classifier, X)
    total = 0
    for sign, column in zip((1, -1), classes.T, strict=False):
        experts = best_experts(subject, scores, column)
        total = total + sign * contributions_to(subject.classifier, X, experts)
    total = total.tocsr()
    names = [*subject.feature_names.tolist(), None]
    # The text has a feature also where both contributions are zero or equal.
    found = dict.fromkeys((names[j] for j in X.indices), 0.0)
    found |= {names[j]: float(v) for j, v in zip(total.indices, total.data, strict=True)}
    found.pop(None, None)
    return found


def _shorten(name):
    return name if len(name) <= BAR_LABEL_LENGTH else name[: BAR_LABEL_LENGTH - 1] + "…"
