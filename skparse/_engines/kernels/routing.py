"""Which experts each row keeps, and their gate weights."""

import numpy as np

from .options import kernel
from .router_scores import add_scores
from .selection import allocate_selection, keep_top, write_gate_weights


@kernel
def route(X, rows, router, router_intercept, sharpness, top_k, routes):
    """Write the experts that some rows keep, their gate weights and their number to ``routes``.

    Training and all predictions begin with this.

    Parameters
    ----------
    X : Csr (n_samples, n_features)
    rows : ndarray of int64 (n_rows,)
    router : Csr (n_features, n_experts)
    router_intercept : ndarray (n_experts,)
    sharpness : float
        The gate weights are the softmax of the scores times this.
    top_k : int
    routes : Routes
        Row ``r`` belongs to ``rows[r]``. It is filled from the left, best expert first.
    """
    x_indptr, x_indices, x_data = X
    indptr, indices, values = router
    expert_indices, expert_weights, counts = routes
    scores = np.empty(router_intercept.shape[0], values.dtype)
    candidates, candidate_values, ordered = allocate_selection(scores, top_k)
    for r in range(rows.shape[0]):
        i = rows[r]
        for e in range(scores.shape[0]):
            scores[e] = router_intercept[e]
        add_scores(
            scores, x_indices, x_data, x_indptr[i], x_indptr[i + 1], indptr, indices, values
        )
        kept = expert_indices[r]
        counts[r] = keep_top(scores, top_k, kept, candidates, candidate_values, ordered)
        sharp = scores.dtype.type(sharpness)
        write_gate_weights(scores, kept, counts[r], sharp, expert_weights[r])
