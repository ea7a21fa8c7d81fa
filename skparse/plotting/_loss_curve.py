"""Plot the loss and the validation scores of the epochs of a fit."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.base import BaseEstimator

from .._typing import Array
from ._drawing import BLUE, ORANGE, choose_axes, find_classifier

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class LossCurveDisplay:
    """Loss of every epoch and, if available, its validation score.

    Use `from_estimator` to create it.

    Parameters
    ----------
    loss_curve : array-like of shape (n_epochs,)
        Mean loss of every epoch.
    validation_scores : array-like of shape (n_epochs,), default=None
        Validation score after every epoch.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes of the loss.
    score_ax_ : matplotlib Axes or None
        Axes of the validation scores, at the right.
    figure_ : matplotlib Figure
    line_ : matplotlib Line2D

    Examples
    --------
    >>> from skparse import SparseExpertClassifier
    >>> from skparse.plotting import LossCurveDisplay
    >>> model = SparseExpertClassifier(max_iter=2, random_state=0)
    >>> _ = model.fit([[1.0, 0], [1, 0], [0, 1]], ["a", "a", "b"])
    >>> len(LossCurveDisplay.from_estimator(model).loss_curve)
    2
    """

    def __init__(
        self,
        loss_curve: Sequence[float] | Array,
        validation_scores: Sequence[float] | Array | None = None,
    ) -> None:
        self.loss_curve = loss_curve
        self.validation_scores = validation_scores

    @classmethod
    def from_estimator(
        cls, estimator: BaseEstimator, *, ax: "Axes | None" = None, **kwargs: Any
    ) -> Self:
        """Plot the loss curve of a fitted model.

        Parameters
        ----------
        estimator : estimator
            Fitted :class:`~skparse.SparseExpertClassifier`, a pipeline that ends in one, or a
            search that has fitted one.
        ax, **kwargs
            As in `plot`.

        Returns
        -------
        display : LossCurveDisplay
        """
        classifier, _ = find_classifier(estimator)
        scores = getattr(classifier, "validation_scores_", None)
        return cls(classifier.loss_curve_, scores).plot(ax, **kwargs)

    def plot(self, ax: "Axes | None" = None, **kwargs: Any) -> Self:
        """Draw the curve.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; a new figure if None.
        **kwargs : dict
            Passed to `matplotlib.axes.Axes.plot` for the loss.

        Returns
        -------
        display : LossCurveDisplay
        """
        self.ax_ = ax = choose_axes(ax)
        self.figure_, self.score_ax_ = ax.figure, None
        epochs = np.arange(1, len(self.loss_curve) + 1)
        (self.line_,) = ax.plot(
            epochs, self.loss_curve, **{"color": BLUE, "marker": "o", "label": "loss", **kwargs}
        )
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.set(xlabel="epoch", ylabel="training loss", ylim=(0, 1.1 * max(self.loss_curve)))
        if self.validation_scores is not None:
            self.score_ax_ = ax.twinx()
            self.score_ax_.plot(epochs, self.validation_scores, "s--", color=ORANGE)
            self.score_ax_.set_ylabel("validation score", color=ORANGE)
            self.score_ax_.tick_params(axis="y", colors=ORANGE)
        return self
