"""The stage that counts the load of the experts and prunes those that no sample keeps."""

from dataclasses import replace

import numpy as np

from .._csr import keep_entries
from .._predictor import BLOCK_ENTRIES, Predictor


def measure_load(problem, draft):
    """Count the training samples that keep each expert; prune experts that none keeps."""
    model, options, X = draft.model, problem.options, problem.data.X
    n_experts = len(model.router_intercept)
    top_k = min(options.largest_top_k, n_experts)
    predictor = Predictor(model, problem.engine, options.n_threads)
    size = max(1, BLOCK_ENTRIES // (3 * top_k))
    counts = problem.threads.map(
        lambda first: np.bincount(
            predictor.code_block(X, first, min(first + size, X.shape[0]), top_k).indices,
            minlength=n_experts,
        ),
        range(0, X.shape[0], size),
    )
    load = np.sum(counts, axis=0)
    unused = load == 0
    if unused.any() and not options.keeps_unused_experts:
        model = prune_unused(model, unused)
    return replace(draft, model=model, expert_load=draft.expert_load + load)


def prune_unused(model, unused):
    """Remove the router weights of unused experts, (n_experts,) of bool."""
    router = model.router
    intercept = np.where(unused, 0, model.router_intercept).astype(router.dtype)
    router = keep_entries(router, ~unused[router.indices])
    return model._replace(router=router, router_intercept=intercept)
