"""What a stream chooses by its held-out samples: naive Bayes, the calibration and b2."""

import numpy as np
from scipy import sparse

from .data import build_training_data
from .held_out import CALIBRATION_FACTORS, calibrate_intercept, measure_held_out
from .problem import Draft, Problem
from .scores import default_scaling
from .stream import STREAM_PRIOR_STRENGTH, build_model

# The naive-Bayes log-odds are left out if they raise the loss on the held-out samples by more
# than this factor.
MAX_PRIOR_LOSS = 1.1
MIN_RESERVOIR_ROWS = 32  # with fewer, chance would choose
# The choices are made anew when the rows that were seen have grown by this factor.
CHOICE_GROWTH = 1.5


def choose_by_reservoir(state, options, engine):
    """Choose again, if the stream has grown enough since the last time; changes the state."""
    held = state.reservoir
    is_due = state.n_seen >= CHOICE_GROWTH * state.calibrated_at
    if held.X.shape[0] < MIN_RESERVOIR_ROWS or not is_due:
        return
    n_classes = len(state.experts.bias)
    features, indices = np.unique(held.X.indices, return_inverse=True)
    shape = held.X.shape[0], len(features)
    X = sparse.csr_array((held.X.data, indices, held.X.indptr), shape=shape)
    parts = np.ones(shape[0]), held.labels, np.arange(shape[0] + 1)
    labels = sparse.csr_array(parts, shape=(shape[0], n_classes))
    class_experts = sparse.eye_array(n_classes, format="csr")
    data = build_training_data(X, labels, held.sample_weight, class_experts)
    problem = Problem(data, options, engine, None, None)
    default = default_scaling(n_classes, options.multilabel)
    draft = Draft(data, default, state.alpha, held_out=np.ones(shape[0], bool))
    state.intercept = np.zeros_like(state.intercept)
    raw = default._replace(score_factor=1.0, output_factor=1.0)
    losses = {}
    for strength in (0.0, STREAM_PRIOR_STRENGTH):
        model = build_model(state, features, scaling=raw, prior_strength=strength)
        losses[strength] = measure_held_out(problem, draft, model)
    without, chosen = losses.values()
    if chosen.loss > MAX_PRIOR_LOSS * without.loss:
        chosen = without
    state.prior_strength = STREAM_PRIOR_STRENGTH if chosen is not without else 0.0
    of_scores, of_outputs = np.unravel_index(chosen.by_factors.argmin(), chosen.by_factors.shape)
    state.scaling = default._replace(
        score_factor=float(default.score_factor * CALIBRATION_FACTORS[of_scores]),
        output_factor=float(default.output_factor * CALIBRATION_FACTORS[of_outputs]),
    )
    model = calibrate_intercept(problem, draft, build_model(state, features))
    state.intercept = model.intercept
    state.calibrated_at = state.n_seen
