"""Common parts of the displays: axes, colours, and the classifier of an estimator."""

from sklearn.utils.validation import check_is_fitted

from .._pipeline import find_last_step, transform_for_last_step

# Two colours that differ in grey and for colour-blind readers.
BLUE, ORANGE = "#0072B2", "#D55E00"


def choose_axes(ax):
    """Return the given axes, or those of a new figure."""
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            'Displays need matplotlib, the extra "plot": pip install "skparse[plot]".'
        ) from error
    return plt.subplots(figsize=(6.4, 4.2), layout="constrained")[1]


def find_classifier(estimator, X=None):
    """Find the fitted classifier in searches and pipelines; returns (classifier, X for it)."""
    check_is_fitted(estimator)
    if hasattr(estimator, "best_estimator_"):
        return find_classifier(estimator.best_estimator_, X)
    last, _ = find_last_step(estimator)
    if last is estimator:
        return estimator, X
    return find_classifier(last, X if X is None else transform_for_last_step(estimator, X))
