"""What a stream chooses by its held-out samples: naive Bayes, the calibration and b2."""

import numpy as np
from scipy import sparse

from .data import build_training_data
from .held_out import (
    OUTPUT_FACTORS,
    SCORE_FACTORS,
    calibrate_intercept,
    held_out_codes,
    measure_held_out,
)
from .problem import Draft, Problem
from .scores import default_scaling
from .stream import STREAM_PRIOR_STRENGTH, build_model, measure_margins
from .stream_term import term_products
from .temperatures import choose_temperatures, level_logits

# The naive-Bayes log-odds are left out if they raise the loss on the held-out samples by more
# than this factor; the products of the term, if they raise it at all.
MAX_PRIOR_LOSS = 1.1
# Spread of the products, relative to that of the margins with the log-odds.
TERM_SPREAD = 2.0
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
    model, chosen = choose_strengths(
        state, features, X,
        build=lambda **strength: build_model(state, features, scaling=raw, **strength),
        measure=lambda model: measure_held_out(problem, draft, model),
    )  # fmt: skip
    of_scores, of_outputs = np.unravel_index(chosen.by_factors.argmin(), chosen.by_factors.shape)
    factors = SCORE_FACTORS[of_scores], OUTPUT_FACTORS[of_outputs]
    state.scaling = default.calibrated(*factors)
    codes, classes, weight = held_out_codes(problem, draft, model)
    of_scores, of_outputs, _ = state.scaling.factors
    factors = {"of_scores": of_scores, "of_outputs": of_outputs}
    state.temperatures = choose_temperatures(
        lambda level: level_logits(codes, model, level, **factors),
        classes, weight, min(options.top_k, n_classes),
    )  # fmt: skip
    model = calibrate_intercept(problem, draft, build_model(state, features))
    state.intercept = model.intercept
    state.calibrated_at = state.n_seen


def choose_strengths(state, features, X, *, build, measure):
    """Choose whether the model has the log-odds, and then whether it has the products of the term.

    Parameters
    ----------
    state : StreamState
        Changes in place.
    features : ndarray of int
        Those of the held-out samples ``X``.
    build, measure : callable
        The model with a strength, and its `HeldOutLosses`.

    Returns
    -------
    (model, losses) that were chosen
    """
    state.prior_strength = state.term_strength = 0.0
    model = build()
    chosen = measure(model)
    for name, strength, largest in (
        ("prior_strength", STREAM_PRIOR_STRENGTH, MAX_PRIOR_LOSS),
        ("term_strength", measure_term_strength(state, features, X), 1.0),
    ):
        if strength > 0:
            other = build(**{name: strength})
            losses = measure(other)
            if losses.loss <= largest * chosen.loss:
                model, chosen = other, losses
                setattr(state, name, strength)
    return model, chosen


def measure_term_strength(state, features, X):
    """Measure the factor that gives the products of the term their spread; 0 without products."""
    slots = state.slots[features]
    is_known = slots >= 0
    X, slots = X[:, is_known], slots[is_known]
    spread = (X @ measure_margins(state, slots, STREAM_PRIOR_STRENGTH)).std()
    added = (X @ term_products(state, slots)).std()
    return float(TERM_SPREAD * spread / added) if added > 0 else 0.0
