"""Plot the expert load: how many samples keep each expert."""

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.base import BaseEstimator

from .._typing import Array
from ._drawing import BLUE, choose_axes, find_classifier

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class ExpertUsageDisplay:
    """Load of the experts of a fitted classifier, in descending order.

    Use `from_estimator` to create it.

    Parameters
    ----------
    expert_load : ndarray of shape (n_experts,)
        Training samples that keep each expert, in descending order.
    experts : ndarray of shape (n_experts,)
        Number of each expert, a column of what `transform` returns.
    class_names : ndarray of shape (n_experts,)
        Class with the largest output of each expert.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    bars_ : matplotlib BarContainer

    Examples
    --------
    >>> from skparse import SparseExpertClassifier
    >>> from skparse.plotting import ExpertUsageDisplay
    >>> model = SparseExpertClassifier(random_state=0)
    >>> _ = model.fit([[1.0, 0], [1, 0], [0, 1]], ["a", "a", "b"])
    >>> ExpertUsageDisplay.from_estimator(model).class_names.tolist()
    ['a', 'b']
    """

    def __init__(self, expert_load: Array, experts: Array, class_names: Array) -> None:
        self.expert_load = expert_load
        self.experts = experts
        self.class_names = class_names

    @classmethod
    def from_estimator(
        cls,
        estimator: BaseEstimator,
        *,
        max_labels: int = 40,
        ax: "Axes | None" = None,
        **kwargs: Any,
    ) -> Self:
        """Plot the load of the experts of a fitted model.

        Parameters
        ----------
        estimator : estimator
            Fitted :class:`~skparse.SparseExpertClassifier`, a pipeline that ends in one, or a
            search that has fitted one.
        max_labels, ax, **kwargs
            As in `plot`.

        Returns
        -------
        display : ExpertUsageDisplay
        """
        classifier, _ = find_classifier(estimator)
        experts = np.argsort(-classifier.expert_load_, kind="stable")
        top_class = np.asarray(classifier.expert_coef_.argmax(axis=1)).ravel()
        display = cls(
            classifier.expert_load_[experts], experts, classifier.classes_[top_class[experts]]
        )
        return display.plot(ax, max_labels=max_labels, **kwargs)

    def plot(self, ax: "Axes | None" = None, *, max_labels: int = 40, **kwargs: Any) -> Self:
        """Draw a bar per expert.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; a new figure if None.
        max_labels : int, default=40
            With more experts than this, only some are labelled, at equal distances.
        **kwargs : dict
            Passed to `matplotlib.axes.Axes.bar`.

        Returns
        -------
        display : ExpertUsageDisplay
        """
        self.ax_ = ax = choose_axes(ax)
        self.figure_ = ax.figure
        n_experts = len(self.experts)
        style = {"color": BLUE, "width": 0.8 if n_experts <= max_labels else 1.0, **kwargs}
        style = {"edgecolor": style["color"], "linewidth": 0.5, **style}  # thin bars stay visible
        self.bars_ = ax.bar(np.arange(n_experts), self.expert_load, **style)
        labelled = np.arange(0, n_experts, -(-n_experts // max_labels))
        labels = [f"{self.class_names[i]} ({self.experts[i]})" for i in labelled]
        ax.set_xticks(labelled, labels, rotation=90, fontsize="small")
        ax.set_xlim(-0.6, n_experts - 0.4)
        ax.set(xlabel="class (expert)", ylabel="training samples")
        unused = int((self.expert_load == 0).sum())
        ax.set_title(f"{n_experts} experts, {unused} unused", loc="right", fontsize="small")
        return self
