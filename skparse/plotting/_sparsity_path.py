"""Score and cost against the sparsity level."""

from collections.abc import Mapping
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, clone

from .._top_k_choice import choose_level, compare_levels
from .._typing import Array, SamplesLike
from ._drawing import BLUE, ORANGE, choose_axes, find_classifier

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class SparsityPathDisplay:
    """Score and cost of every sparsity level K.

    Use `from_estimator` or `from_cv_results` to create it.

    Parameters
    ----------
    top_ks : ndarray of shape (n_top_ks,)
        Levels in ascending order.
    scores : ndarray of shape (n_top_ks,)
        Score of each level, larger is better.
    std_errors : ndarray of shape (n_top_ks,)
        Standard error of the paired difference between each level and the best one. Where
        ``scores + std_errors`` reaches the best score, a level is within one standard error.
    microseconds : ndarray of shape (n_top_ks,), default=None
        Microseconds per sample.
    n_bytes : ndarray of shape (n_top_ks,), default=None
        Bytes of the model.
    top_k : int, default=None
        The chosen level, which is marked.
    score_name : str, default="Score"
        Label of the scores.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes of the scores.
    time_ax_ : matplotlib Axes or None
        Axes of the microseconds, at the right.
    figure_ : matplotlib Figure
    line_ : matplotlib Line2D
    band_ : matplotlib PolyCollection
    mark_ : matplotlib Line2D or None

    See Also
    --------
    skparse.model_selection.TopKSearchCV : Chooses the level.

    Examples
    --------
    >>> from skparse import SparseExpertClassifier
    >>> from skparse.datasets import make_topic_documents
    >>> from skparse.plotting import SparsityPathDisplay
    >>> X, y = make_topic_documents(300, 200, 8, n_classes=4, random_state=0, return_X_y=True)
    >>> model = SparseExpertClassifier(top_k=4, random_state=0).fit(X[:200], y[:200])
    >>> display = SparsityPathDisplay.from_estimator(model, X[200:], y[200:])
    >>> display.top_ks.tolist()
    [1, 2, 4]
    """

    def __init__(
        self,
        top_ks: Array,
        scores: Array,
        std_errors: Array,
        *,
        microseconds: Array | None = None,
        n_bytes: Array | None = None,
        top_k: int | None = None,
        score_name: str = "Score",
    ) -> None:
        self.top_ks = top_ks
        self.scores = scores
        self.std_errors = std_errors
        self.microseconds = microseconds
        self.n_bytes = n_bytes
        self.top_k = top_k
        self.score_name = score_name

    @classmethod
    def from_estimator(
        cls,
        estimator: BaseEstimator,
        X: SamplesLike,
        y: ArrayLike,
        *,
        top_ks: ArrayLike | None = None,
        n_repeats: int = 5,
        show_time: bool = True,
        ax: "Axes | None" = None,
        **kwargs: Any,
    ) -> Self:
        """Measure accuracy and time of a fitted model at several levels, and plot them.

        Parameters
        ----------
        estimator : estimator
            Fitted :class:`~skparse.SparseExpertClassifier`, a pipeline that ends in one, or a
            search that has fitted one. Its own level is marked.
        X : array-like
            Samples that it has not learnt from, as `estimator` takes them.
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            True labels.
        top_ks : array-like of int, default=None
            Levels; by default the powers of two up to the largest that was trained, and it.
        n_repeats : int, default=5
            Predictions of all samples to take the median time of.
        show_time, ax, **kwargs
            As in `plot`.

        Returns
        -------
        display : SparsityPathDisplay
        """
        classifier, X = find_classifier(estimator, X)
        largest = classifier.top_k_
        if top_ks is None:
            top_ks = [*2 ** np.arange(largest.bit_length()), largest]
        top_ks = np.unique(top_ks)
        hits, microseconds = [], []
        for top_k in top_ks:
            predicted, seconds = _time_predictions(classifier, int(top_k), X, n_repeats)
            right = predicted == np.asarray(y)
            hits.append(right.all(axis=1) if right.ndim == 2 else right)
            microseconds.append(1e6 * seconds / len(right))
        hits = np.transpose(hits).astype(np.float64)
        scores = hits.mean(axis=0)
        return cls(
            top_ks,
            scores,
            compare_levels(hits, scores.argmax())[1],
            microseconds=np.array(microseconds),
            n_bytes=np.full(len(top_ks), classifier.model_size().n_bytes),
            top_k=int(min(classifier.top_k, largest)),
            score_name="Accuracy",
        ).plot(ax, show_time=show_time, **kwargs)

    @classmethod
    def from_cv_results(
        cls,
        cv_results: Mapping[str, Any] | Any,
        *,
        top_k: int | None = None,
        metric: str = "score",
        n_samples: int | None = None,
        show_time: bool = True,
        ax: "Axes | None" = None,
        **kwargs: Any,
    ) -> Self:
        """Plot the results of a search over `top_k`.

        Parameters
        ----------
        cv_results : dict or DataFrame
            `cv_results_` of :class:`~skparse.model_selection.TopKSearchCV`, of
            :class:`~sklearn.model_selection.GridSearchCV` or of its likes, over the `top_k` of
            a classifier or of a step of a pipeline. With other parameters in the grid, each
            level is shown with the best of them.
        top_k : int, default=None
            Level to mark. ``None`` marks the smallest one within one standard error.
        metric : str, default="score"
            Name of the score, for searches with several.
        n_samples : int, default=None
            Samples scored per fold, to get microseconds per sample from `mean_score_time`; not
            needed for the results of `TopKSearchCV`.
        show_time, ax, **kwargs
            As in `plot`.

        Returns
        -------
        display : SparsityPathDisplay

        Raises
        ------
        ValueError
            If there is not one parameter `top_k`, or the scores of the candidates come from
            different numbers of samples, as in a halving search.
        """
        top_ks, rows = _best_rows(cv_results, f"mean_test_{metric}")
        scores = np.asarray(cv_results[f"mean_test_{metric}"])[rows]
        loss, std_errors = _compare_rows(cv_results, rows, metric, scores.argmax())
        if top_k is None:
            columns = "mean_paired_log_loss", "std_error_paired_log_loss"
            of_log_loss = None
            if metric == "score" and columns[0] in cv_results:
                of_log_loss = [np.asarray(cv_results[name])[rows] for name in columns]
            choice = choose_level(
                loss, std_errors, scores.argmax(), "one_standard_error", of_log_loss
            )
            top_k = int(top_ks[choice])
        microseconds = n_bytes = None
        if "mean_microseconds_per_sample" in cv_results:
            microseconds = np.asarray(cv_results["mean_microseconds_per_sample"])[rows]
        elif n_samples is not None:
            microseconds = 1e6 * np.asarray(cv_results["mean_score_time"])[rows] / n_samples
        if "mean_n_bytes" in cv_results:
            n_bytes = np.asarray(cv_results["mean_n_bytes"])[rows]
        return cls(
            top_ks,
            scores,
            std_errors,
            microseconds=microseconds,
            n_bytes=n_bytes,
            top_k=top_k,
            score_name=f"Mean cross-validated {metric}",
        ).plot(ax, show_time=show_time, **kwargs)

    def plot(self, ax: "Axes | None" = None, *, show_time: bool = True, **kwargs: Any) -> Self:
        """Draw the scores with their band, the time at the right, and mark the chosen level.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; a new figure if None.
        show_time : bool, default=True
            Whether to draw the microseconds per sample, where they are known. Of small data they
            are the noise of the machine.
        **kwargs : dict
            Passed to `matplotlib.axes.Axes.plot` for the line.

        Returns
        -------
        display : SparsityPathDisplay
        """
        self.ax_ = ax = choose_axes(ax)
        self.figure_ = ax.figure
        style = {"color": BLUE, "marker": "o", "label": self.score_name, **kwargs}
        (self.line_,) = ax.plot(self.top_ks, self.scores, **style)
        self.band_ = ax.fill_between(
            self.top_ks,
            self.scores - self.std_errors,
            self.scores + self.std_errors,
            color=self.line_.get_color(),
            alpha=0.2,
            linewidth=0,
            label="± one standard error of the difference to the best",
        )
        ax.axhline(self.scores.max(), color="0.4", linestyle=":", linewidth=1, label="best score")
        self.mark_ = self._mark_chosen(ax)
        ax.set_xscale("log", base=2)
        ax.set_xticks(self.top_ks, [str(top_k) for top_k in self.top_ks])
        ax.minorticks_off()
        ax.set(xlabel="top_k", ylabel=self.score_name)
        ax.set_ylim(self._score_limits())
        with_time = show_time and self.microseconds is not None
        self.time_ax_ = self._plot_time(ax) if with_time else None
        if self.n_bytes is not None:
            ax.set_title(f"model: {_format_bytes(self.n_bytes)}", loc="right", fontsize="small")
        ax.legend(
            loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, fontsize="small",
            frameon=False,
        )  # fmt: skip
        return self

    def _score_limits(self):
        """Limits of the score axis: at least 4 % of the best score, lest noise looks large."""
        low, high = (self.scores - self.std_errors).min(), (self.scores + self.std_errors).max()
        half = max(0.6 * (high - low), 0.02 * abs(self.scores.max()))
        return (low + high) / 2 - half, (low + high) / 2 + half

    def _mark_chosen(self, ax):
        chosen = np.flatnonzero(self.top_ks == self.top_k)
        if len(chosen) == 0:
            return None
        (mark,) = ax.plot(
            self.top_ks[chosen], self.scores[chosen], "o", markersize=13, fillstyle="none",
            color="black", label=f"chosen: top_k={self.top_k}",
        )  # fmt: skip
        return mark

    def _plot_time(self, ax):
        time_ax = ax.twinx()
        time_ax.plot(
            self.top_ks, self.microseconds, color=ORANGE, marker="s", markersize=4, linestyle="--"
        )
        time_ax.set_ylim(0, 1.25 * self.microseconds.max())
        time_ax.set_ylabel("µs per sample", color=ORANGE)
        time_ax.tick_params(axis="y", colors=ORANGE)
        return time_ax


def _time_predictions(classifier, top_k, X, n_repeats):
    """Predict at one level; returns (predicted, median seconds)."""
    view = clone(classifier)
    vars(view).update(vars(classifier))
    predicted = view.set_params(top_k=top_k).predict(X)
    seconds = []
    for _ in range(n_repeats):
        start = perf_counter()
        view.predict(X)
        seconds.append(perf_counter() - start)
    return predicted, median(seconds)


def _best_rows(cv_results, mean_score):
    """Levels in ascending order and, for each, the row of the candidate with the best score."""
    names = [n for n in cv_results if n == "param_top_k" or str(n).endswith("__top_k")]
    if len(names) != 1:
        raise ValueError(f"cv_results has to have one parameter top_k, found {names or 'none'}.")
    if "n_resources" in cv_results:
        raise ValueError(
            "The scores of a halving search come from different numbers of samples and cannot "
            "be compared in one picture."
        )
    levels = np.ma.masked_invalid(np.ma.asarray(cv_results[names[0]]).astype(np.float64))
    scores = np.asarray(cv_results[mean_score])
    top_ks = np.unique(levels.compressed()).astype(np.int64)
    rows = [max(np.ma.where(levels == k)[0], key=lambda row: scores[row]) for k in top_ks]
    return top_ks, np.array(rows)


def _compare_rows(cv_results, rows, metric, best):
    """Paired losses against the best row and their standard errors."""
    if "std_error_paired_loss" in cv_results:
        columns = "mean_paired_loss", "std_error_paired_loss"
        return tuple(np.asarray(cv_results[name])[rows] for name in columns)
    splits = [n for n in cv_results if n.startswith("split") and n.endswith(f"_test_{metric}")]
    scores = np.array([np.asarray(cv_results[name])[rows] for name in splits])
    return compare_levels(scores, best)


def _format_bytes(n_bytes):
    texts = []
    for size in dict.fromkeys((n_bytes.min(), n_bytes.max())):
        unit, factor = ("MB", 1e6) if size >= 1e6 else ("kB", 1e3)
        texts.append(f"{size / factor:.3g} {unit}")
    return " to ".join(dict.fromkeys(texts))
