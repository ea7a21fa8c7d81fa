"""`partial_fit` of a model that began as a stream, and classes that are added later.

Such an estimator has a `StreamState` and no router weights of its own. They are built from the
state where they are needed.
"""

import numpy as np
from scipy import sparse
from sklearn.utils import Bunch, check_random_state

from ._compression import prune
from ._engines import get_engine
from ._engines.arguments import SQUARES
from ._fit_options import resolve_options
from ._model import SparseExpertModel
from ._training.data import Exposure
from ._training.new_classes import add_experts
from ._training.prior import logits_of
from ._training.scores import ScoreScaling, default_scaling
from ._training.stream import Undo, add_classes, begin_stream, build_model, check_finite, learn
from ._training.stream_choices import choose_by_reservoir
from ._training.stream_storage import pack_stream, unpack_stream

KEY = "_stream"


def is_stream(estimator, samples, *, begins):
    """Whether the model is that of a stream; if it ``begins`` one, the state is allocated.

    A stream begins with one expert per class. A model that the user has replaced is none.
    """
    n_classes = len(samples.classes)
    if begins and estimator.n_experts in ("auto", n_classes):
        seed = check_random_state(estimator.random_state).randint(2**31)
        scaling, X = default_scaling(n_classes, samples.multilabel), samples.X
        estimator._stream = begin_stream(
            X.shape[1], n_classes, X.dtype, seed, scaling, samples.multilabel
        )
    return continues_stream(estimator)


def continues_stream(estimator):
    """Whether the model is that of a stream, which has not been replaced by the user."""
    return KEY in vars(estimator) and "router_coef_" not in vars(estimator)


def widen_classes(estimator, classes):
    """Add the classes of a later call to `classes_`, if all old ones are among them.

    Returns where the old ones are among all, or None if there are no new ones.
    """
    known, multilabel = estimator.classes_, estimator._multilabel
    if classes is None or multilabel:
        return None
    wanted = np.unique(classes)
    if len(wanted) <= len(known) or not np.isin(known, wanted).all():
        return None  # scikit-learn's check compares them
    estimator.classes_ = wanted
    return np.searchsorted(wanted, known)


def widen_model(estimator, places):
    """Add experts for new classes to a fitted estimator, whose classes are at ``places``."""
    if hasattr(estimator, "_columns") or estimator.n_experts_ < len(places):
        raise ValueError(
            "classes cannot be added to a model of dense X, or to one whose classes share "
            "experts: fit it again with all classes."
        )
    n_classes = len(estimator.classes_)
    scaling = ScoreScaling(*estimator._score_scaling)
    model = add_experts(estimator._model, places, n_classes, scaling)
    n_new = n_classes - len(places)
    estimator.router_coef_, estimator.router_intercept_, *_ = model
    estimator.expert_coef_, estimator.intercept_ = model.outputs, model.intercept
    estimator.prior_logits_ = model.prior_logits
    estimator.n_experts_ = len(model.router_intercept)
    estimator.expert_load_ = np.append(estimator.expert_load_, np.zeros(n_new, np.int64))
    if hasattr(estimator, "_exposure"):
        of_features, of_experts, total = estimator._exposure
        estimator._exposure = of_features, np.append(of_experts, np.zeros(n_new)), total


def earlier_exposure(estimator):
    """Return what a model has learnt from; of one from `fit` only the total is known."""
    if hasattr(estimator, "_exposure"):
        return Exposure(*estimator._exposure)
    n_features, n_experts = estimator.n_features_in_, estimator.n_experts_
    return Exposure(np.zeros(n_features), np.zeros(n_experts), estimator.t_)


def learn_stream(estimator, samples, places, max_losses):
    """Learn from the next samples of a stream; after an error its state is as it was.

    Parameters
    ----------
    estimator : SparseExpertClassifier
    samples : Samples
    places : ndarray or None
        Where the classes of the state are among those of the samples, if these are more.
    max_losses : int
        That are kept.
    """
    state = estimator._stream
    n_classes, undo = len(samples.classes), Undo(state)
    X = samples.X.astype(state.tables.weights.dtype, copy=False)
    pattern = Bunch(X=X, class_experts=sparse.eye_array(n_classes, format="csr"))
    further = state.n_seen > 0
    options = resolve_options(estimator, pattern, samples, further=further, in_stream=True)
    engine = get_engine(estimator.engine, estimator.device)
    horizon = estimator.stream_horizon
    try:
        if places is not None:
            add_classes(state, places, n_classes)
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is found below
            loss = learn(
                state, X, samples.labels, samples.sample_weight, options, engine,
                horizon=np.inf if horizon is None else float(horizon), undo=undo,
            )  # fmt: skip
            check_finite(state, undo, X)
        if not options.multilabel:
            choose_by_reservoir(state, options, engine)
        attributes = describe(state, options)
    except BaseException:
        undo.restore()
        raise
    losses, n_iter = vars(estimator).get("loss_curve_", []), vars(estimator).get("n_iter_", 0)
    attributes |= {"loss_curve_": [*losses, loss][-max_losses:], "n_iter_": n_iter + 1}
    vars(estimator).update(attributes)


def describe(state, options):
    """Return the fitted attributes of a stream, but for its router weights."""
    model, n_experts = build_model(state, np.zeros(0, np.int64)), len(state.experts.bias)
    held = state.reservoir
    load = state.experts.load + np.bincount(held.labels, held.sample_weight, minlength=n_experts)
    prior = logits_of(load / max(state.weight_seen, load.max()), options.multilabel)
    return {
        "temperatures_": state.temperatures,
        "prior_logits_": prior.astype(model.intercept.dtype),
        "router_intercept_": model.router_intercept,
        "expert_coef_": model.outputs,
        "intercept_": model.intercept,
        "n_experts_": n_experts,
        "top_k_": min(options.largest_top_k, n_experts),
        "expert_load_": state.experts.n_kept.copy(),
        "alpha_": state.alpha,
        "t_": state.weight_seen,
        "_multilabel": options.multilabel,
        "_score_scaling": [float(value) for value in state.scaling],
    }


def build_router(estimator):
    """Build the router weights of a stream, of all features; they are kept until it goes on."""
    state = vars(estimator)[KEY]
    if state.router is None:
        model = build_model(state, None)
        if estimator.weight_density != "auto":
            scale = np.zeros(len(state.slots))
            used = state.features[: state.n_slots]
            scale[used] = np.sqrt(state.tables.facts[: state.n_slots, SQUARES])
            model = prune(model, scale, estimator.weight_density)
        state.router = model.router
    return state.router


def select_features(estimator, X):
    """Return X with the features that it stores alone, and the model for them.

    So a prediction takes time in proportion to the nonzeros of X. After many of them, the router
    weights of all features are built.
    """
    state = vars(estimator)[KEY]
    router = state.router
    if router is None and estimator.weight_density == "auto":
        features, indices = np.unique(X.indices, return_inverse=True)
        state.n_gathered += len(features)
        if state.n_gathered <= state.n_slots:
            indices, shape = indices.astype(X.indices.dtype), (X.shape[0], len(features))
            X = sparse.csr_array((X.data, indices, X.indptr), shape=shape)
            router = build_model(state, features).router
    names = "router_intercept_", "expert_coef_", "intercept_", "temperatures_", "prior_logits_"
    rest = (getattr(estimator, name) for name in names)
    return X, SparseExpertModel(build_router(estimator) if router is None else router, *rest)


def pack(state):
    """Return the state of an estimator with that of its stream as plain arrays, if it has one."""
    if KEY not in state:
        return state
    if "router_coef_" in state:  # the user has replaced the model of the stream
        return {key: value for key, value in state.items() if key != KEY}
    return {**state, KEY: pack_stream(state[KEY])}


def unpack(state):
    """Undo `pack`, in place."""
    if KEY in state:
        sizes = state["n_features_in_"], len(state["classes_"])
        state[KEY] = unpack_stream(state[KEY], *sizes)
