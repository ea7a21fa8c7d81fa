"""From a model in training to the finished one."""

import numpy as np

from .._csr import with_values
from .held_out import calibrate_intercept
from .low_rank import add_products
from .scores import multiply_scores


def complete_model(problem, draft, model):
    """Turn a model in training into one for X as the user gave it, calibrated."""
    if draft.low_rank is not None:
        model = add_products(model, draft.low_rank)
    model = multiply_scores(model, draft.scaling.score_factor, draft.scaling.output_factor)
    if draft.data.relevance is not None:
        router = model.router
        values = router.data * np.repeat(draft.data.relevance, np.diff(router.indptr))
        model = model._replace(router=with_values(router, values))
    if draft.held_out is not None and draft.held_out.any():
        model = calibrate_intercept(problem, draft, model)
    if draft.shift is not None:
        intercept = model.intercept + draft.shift
        model = model._replace(intercept=intercept.astype(model.intercept.dtype))
    return model
