"""From a model in training to the finished one."""

import numpy as np

from .._csr import with_values
from .held_out import calibrate_intercept
from .low_rank import add_products
from .prior import measure_prior
from .scores import multiply_scores


def complete_model(problem, draft, model):
    """Turn a model in training into one for X as the user gave it, calibrated."""
    if draft.low_rank is not None:
        model = add_products(model, draft.low_rank)
    model = multiply_scores(model, *draft.scaling.factors)
    if draft.data.relevance is not None:
        router = model.router
        values = router.data * np.repeat(draft.data.relevance, np.diff(router.indptr))
        model = model._replace(router=with_values(router, values))
    model = model._replace(temperatures=draft.temperatures)
    if draft.held_out is not None and draft.held_out.any():
        model = calibrate_intercept(problem, draft, model)
    if draft.shift is not None:
        intercept = model.intercept + draft.shift
        model = model._replace(intercept=intercept.astype(model.intercept.dtype))
    if draft.columns is None:  # in a dense X, zeros are values like others
        model = model._replace(prior_logits=measure_prior(problem, draft, model.router))
    return model
