"""The classifier at the end of a pipeline: find it, and prepare its samples."""

from sklearn.pipeline import Pipeline


def find_last_step(estimator):
    """Find the last step of a pipeline, through pipelines that end in a pipeline.

    Returns
    -------
    last : estimator
        The estimator itself if it is not a pipeline.
    prefix : str
        What `set_params` of the estimator puts before the names of its parameters; empty if it
        is not a pipeline.
    """
    prefix = ""
    while isinstance(estimator, Pipeline) and estimator.steps:
        name, estimator = estimator.steps[-1]
        prefix += f"{name}__"
    return estimator, prefix


def transform_for_last_step(estimator, X):
    """Apply the fitted transformers of a pipeline that stand before `find_last_step`."""
    while isinstance(estimator, Pipeline):
        *before, (_, estimator) = estimator.steps
        for _, step in before:
            # Not `estimator[:-1].transform`, which refuses a transformer without fitted
            # attributes. "passthrough" has no transform.
            if hasattr(step, "transform"):
                X = step.transform(X)
    return X
