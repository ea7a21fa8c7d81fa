"""Draw a map of experts: experts with similar features stand beside each other."""

from math import ceil, sqrt
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment
from sklearn.base import BaseEstimator

from .._typing import Array
from ..plotting._drawing import choose_axes
from ._features import _scaled_router, top_features
from ._subject import find_subject

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class MapEntry(NamedTuple):
    """An expert on the map."""

    expert: int
    class_name: Any
    expert_load: int  # training samples that keep it
    names: Array  # of its top features
    row: int
    column: int


class ExpertMapDisplay:
    """Map of experts: circles with their class and their top features, the load as their size.

    The experts stand on a grid. Those with similar router weights are near each other. Experts of
    one class have one colour.

    Use `from_estimator` to create it.

    Parameters
    ----------
    entries : list of MapEntry
        Named tuples of `expert`, `class_name`, `expert_load`, `names`, `row` and `column`.
    n_unshown : int, default=0
        Experts that are not on the map.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    circles_ : matplotlib PathCollection

    Examples
    --------
    >>> from sklearn.feature_extraction.text import TfidfVectorizer
    >>> from sklearn.pipeline import make_pipeline
    >>> from skparse import SparseExpertClassifier
    >>> from skparse.inspection import ExpertMapDisplay
    >>> model = make_pipeline(TfidfVectorizer(), SparseExpertClassifier(random_state=0))
    >>> texts = ["sparse matrix", "matrix product", "violin concerto", "piano concerto"]
    >>> _ = model.fit(texts, ["algebra", "algebra", "music", "music"])
    >>> display = ExpertMapDisplay.from_estimator(model)
    >>> [entry.class_name for entry in display.entries]
    ['algebra', 'music']
    """

    def __init__(self, entries: list[MapEntry], n_unshown: int = 0) -> None:
        self.entries = entries
        self.n_unshown = n_unshown

    @classmethod
    def from_estimator(
        cls,
        estimator: BaseEstimator,
        *,
        feature_names: ArrayLike | None = None,
        n_features: int = 3,
        max_experts: int = 30,
        ax: "Axes | None" = None,
        **kwargs: Any,
    ) -> Self:
        """Draw the experts of a fitted model.

        Parameters
        ----------
        estimator : estimator
            Fitted :class:`~skparse.SparseExpertClassifier`, a pipeline that ends in one, or a
            search that has fitted one.
        feature_names : array-like of str, default=None
            Names of the features of the classifier. By default those of the steps before it.
        n_features : int, default=3
            Top features that are written to an expert.
        max_experts : int, default=30
            Of more experts, those with the largest load are drawn.
        ax, **kwargs
            As in `plot`.

        Returns
        -------
        display : ExpertMapDisplay
        """
        if max_experts < 1:
            raise ValueError(f"max_experts has to be at least 1, got {max_experts!r}.")
        subject = find_subject(estimator, feature_names)
        load = subject.classifier.expert_load_
        experts = np.sort(np.argsort(-load, kind="stable")[:max_experts])
        features = top_features(
            subject.classifier, feature_names=subject.feature_names, n_features=n_features
        )
        similarity = compare_experts(_scaled_router(subject.classifier).tocsc()[:, experts])
        places = place_on_grid(similarity)
        entries = [
            MapEntry(int(e), features[e].class_name, int(load[e]), features[e].names, *place)
            for e, place in zip(experts, places, strict=True)
        ]
        return cls(entries, len(load) - len(experts)).plot(ax, **kwargs)

    def plot(self, ax: "Axes | None" = None, **kwargs: Any) -> Self:
        """Draw the map.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; a new figure of a fitting size if None.
        **kwargs : dict
            Passed to `matplotlib.axes.Axes.scatter`.

        Returns
        -------
        display : ExpertMapDisplay
        """
        rows = 1 + max(entry.row for entry in self.entries)
        columns = 1 + max(entry.column for entry in self.entries)
        n_lines = 1 + max(len(entry.names) for entry in self.entries)
        if ax is None:
            ax = choose_axes(None)
            ax.figure.set_size_inches(0.4 + 1.5 * columns, 0.4 + (0.55 + 0.13 * n_lines) * rows)
        self.ax_, self.figure_ = ax, ax.figure
        import matplotlib

        labels = list(dict.fromkeys(entry.class_name for entry in self.entries))
        palette = matplotlib.colormaps["tab10" if len(labels) <= 10 else "tab20"].colors
        load = np.array([entry.expert_load for entry in self.entries], float)
        style = {
            "s": 30 + 470 * load / max(1.0, load.max()),
            "color": [
                palette[labels.index(entry.class_name) % len(palette)] for entry in self.entries
            ],
            **kwargs,
        }
        x = [entry.column for entry in self.entries]
        self.circles_ = ax.scatter(x, [entry.row for entry in self.entries], **style)
        for entry in self.entries:
            style = {
                "textcoords": "offset points", "ha": "center", "va": "top", "fontsize": 7.5,
                "parse_math": False,
            }  # fmt: skip
            place, names = (entry.column, entry.row), "\n".join(map(_shorten, entry.names))
            label = _shorten(entry.class_name)
            ax.annotate(label, place, xytext=(0, -13), fontweight="bold", **style)
            ax.annotate(names, place, xytext=(0, -24), linespacing=1.15, **style)
        below = 0.25 + 0.75 * n_lines / (n_lines + 2)
        ax.set(xlim=(-0.55, columns - 0.45), ylim=(rows - 1 + below, -0.35))
        ax.set_axis_off()
        hidden = f", {self.n_unshown} of smaller load not shown" if self.n_unshown else ""
        ax.set_title(
            f"{len(self.entries)} experts; size: training samples that keep it{hidden}",
            fontsize="medium", loc="left",
        )  # fmt: skip
        return self


def compare_experts(columns):
    """Cosine similarity of router columns, (n_experts, n_experts), without their common mean."""
    columns = columns.toarray()
    columns -= columns.mean(axis=1, keepdims=True)
    norms = np.sqrt((columns**2).sum(axis=0))
    columns /= np.where(norms > 0, norms, 1)
    return columns.T @ columns


def place_on_grid(similarity):
    """Place points on a grid, so that similar ones are near each other.

    Returns
    -------
    list of tuple (row, column)
    """
    n = len(similarity)
    n_columns = min(n, max(1, ceil(sqrt(1.2 * n))))
    cells = np.array([divmod(i, n_columns) for i in range(n)])
    # The two directions in which the similarities differ most (classical scaling).
    centred = similarity - similarity.mean(axis=0) - similarity.mean(axis=1)[:, None]
    values, vectors = np.linalg.eigh(centred + similarity.mean())
    points = vectors[:, ::-1][:, :2] * np.sqrt(np.maximum(values[::-1][:2], 0))
    if n == 1:
        return [(0, 0)]
    signs = np.sign(points[np.abs(points).argmax(axis=0), range(points.shape[1])])
    points = points * np.where(signs == 0, 1, signs)  # those of eigenvectors are arbitrary
    ranks = points.argsort(axis=0, kind="stable").argsort(axis=0) / (n - 1)
    extent = np.maximum(cells.max(axis=0), 1)
    cost = ((ranks[:, None, ::-1] - cells / extent) ** 2).sum(axis=2)
    _, order = linear_sum_assignment(cost)
    return [tuple(map(int, cells[cell])) for cell in order]


def _shorten(name, length=22):
    name = str(name)
    return name if len(name) <= length else name[: length - 1] + "…"
