"""A saved model that was changed, by accident or on purpose, cannot reach other memory.

Each damaged state is loaded and used in a process of its own: it has to end with a ValueError or
with finite probabilities, never by a signal.
"""

import copy
import os

import numpy as np
import pytest
from scipy import sparse

from skparse import SparseExpertClassifier

# Random damages; CONTRIBUTING names the command for more.
N_RANDOM = int(os.environ.get("SKPARSE_DAMAGED_MODELS", "200"))
FINE, REFUSED = 0, 3  # exit codes


def draw(n_classes, dense=False):
    rng = np.random.RandomState(0)
    y = np.arange(300) % n_classes
    X = rng.rand(300, 30) * (dense or rng.rand(300, 30) < 0.3) + np.eye(30)[y]
    return sparse.csr_array(X), y


@pytest.fixture(scope="module", params=["sparse", "two classes", "dense", "stream", "compressed"])
def saved(request):
    """A fitted model's state as it is saved, and samples."""
    kind = request.param
    X, y = draw(2 if kind == "two classes" else 5, dense=kind == "dense")
    model = SparseExpertClassifier(random_state=0)
    if kind == "stream":
        for _ in range(8):  # until some are held out
            model.partial_fit(X, y, classes=np.unique(y))
    else:
        model.fit(X, y)
    if kind == "compressed":
        model = model.compress("int8")
    for method in ("predict", "predict_proba", "transform"):
        getattr(model, method)(X)  # compiled before the processes are forked
    copy.copy(model).partial_fit(X, y)
    return model.__getstate__(), X, y


def use(state, X, y):
    """Load a state and use the model; returns an exit code."""
    model = SparseExpertClassifier()
    try:
        with np.errstate(all="ignore"):  # weights may be finite, but huge
            return load_and_predict(model, state, X, y)
    except (ValueError, TypeError):  # parameters may be damaged, too
        return REFUSED


def load_and_predict(model, state, X, y):
    model.__setstate__(state)
    found = model.predict_proba(X)
    model.predict(X[:1]), model.transform(X), model.predict_proba_path(X, [1])
    assert np.isfinite(found).all() and abs(found.sum(axis=1) - 1).max() < 1e-3
    model.partial_fit(X, y)
    assert np.isfinite(model.predict_proba(X)).all()
    return FINE


def use_in_a_child(state, X, y):
    """Call `use` in a forked process; returns its exit code, negative for a signal."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            code = use(state, X, y)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def replace_part(state, path, value):
    """A copy of a state with one part replaced, named by a tuple of keys."""
    changed = copy.deepcopy(state)
    part = changed
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return changed


ROUTER = "router_coef_"
NAMED = {
    "index too large": (ROUTER, "indices", lambda a: np.full_like(a, 200)),
    "index negative": (ROUTER, "indices", lambda a: np.full(len(a), -5)),
    "indices missing": (ROUTER, "indices", lambda a: a[:-1]),
    "indices of floats": (ROUTER, "indices", lambda a: a + 0.5),
    "counts too large": (ROUTER, "counts", lambda a: a + np.ones((), a.dtype)),
    "counts missing": (ROUTER, "counts", lambda a: a[:-1]),
    "counts negative": (ROUTER, "counts", lambda a: -a.astype(np.int64)),
    "values missing": (ROUTER, "data", lambda a: a[:-3]),
    "values in big-endian": (ROUTER, "data", lambda a: a.astype(">f8")),
    "NaN": (ROUTER, "data", lambda a: np.full(len(a), np.nan)),
    "shape too large": (ROUTER, "shape", lambda s: (s[0] + 7, s[1])),
    "huge shape": (ROUTER, "shape", lambda s: (10**15, s[1])),
    "fewer columns": (ROUTER, "shape", lambda s: (s[0], 1)),
    "outputs too large": ("expert_coef_", "indices", lambda a: np.full_like(a, 100)),
    "outputs of other shape": ("expert_coef_", "shape", lambda s: (s[0] + 1, s[1])),
    "b1 short": ("router_intercept_", lambda a: a[:-1]),
    "b1 two-dimensional": ("router_intercept_", lambda a: a[None]),
    "b2 short": ("intercept_", lambda a: a[:-1]),
    "b2 of texts": ("intercept_", lambda a: a.astype(str)),
    "classes missing": ("classes_", lambda a: a[:-1]),
    "features": ("n_features_in_", lambda n: n + 5),
    "experts": ("n_experts_", lambda n: n + 5),
    "level": ("top_k_", lambda k: -3),
    "level of a float": ("top_k_", lambda k: 1.5),
    "load": ("expert_load_", lambda a: a[:-1]),
    "scaling": ("_score_scaling", lambda a: a[:-1]),
    "scaling not finite": ("_score_scaling", lambda a: [np.nan] * 7),
    "no router": (ROUTER, lambda a: None),
}


STREAM = "_stream"
NAMED_OF_STREAMS = {
    "weights missing": (STREAM, "weights", lambda a: a[:-1]),
    "weights of other classes": (STREAM, "weights", lambda a: a[:, :-1]),
    "weights of integers": (STREAM, "weights", lambda a: a.astype(int)),
    "weights in big-endian": (STREAM, "weights", lambda a: a.astype(">f8")),
    "weights not finite": (STREAM, "weights", lambda a: a * np.nan),
    "mass below zero": (STREAM, "mass", lambda a: a - 1e9),
    "facts missing": (STREAM, "facts", lambda a: a[:, 1:]),
    "feature too large": (STREAM, "features", lambda a: a + 1000),
    "feature negative": (STREAM, "features", lambda a: a - 5),
    "feature twice": (STREAM, "features", lambda a: np.append(a[:-1], a[-2])),
    "totals missing": (STREAM, "totals", lambda a: a[:-1]),
    "load below zero": (STREAM, "load", lambda a: a - 1e9),
    "unit of text": (STREAM, "unit", lambda a: "1"),
    "unit below zero": (STREAM, "unit", lambda a: -1.0),
    "seed not an integer": (STREAM, "seed", lambda a: 0.5),
    "rows below zero": (STREAM, "n_seen", lambda a: -1),
    "scaling of stream": (STREAM, "scaling", lambda a: a[:-1]),
    "shift of b2": (STREAM, "shift", lambda a: a[:-1]),
    "held-out labels": (STREAM, "held_out", lambda a: (*a[:3], a[3] + 100, a[4])),
    "held-out features": (STREAM, "held_out", lambda a: (a[0], a[1] + 1000, *a[2:])),
    "term without biases": (STREAM, "term", lambda a: a[:-1]),
    "term of another rank": (
        STREAM,
        "term",
        lambda a: (*(np.ones((len(b), 3), b.dtype) for b in a[:2]), a[2]),
    ),
    "term of other features": (STREAM, "term", lambda a: (a[0][1:], *a[1:])),
    "term not finite": (STREAM, "term", lambda a: (*a[:2], a[2] * np.nan)),
    "squares of the term below zero": (STREAM, "term_squares", lambda a: (a[0] - 1, *a[1:])),
    "no stream": (STREAM, lambda a: None),
}


@pytest.mark.parametrize("name", [*NAMED, *NAMED_OF_STREAMS])
def test_a_damage_of_a_kind_is_refused(name, saved):
    state, X, y = saved
    *path, change = (NAMED | NAMED_OF_STREAMS)[name]
    if path[0] not in state:
        pytest.skip("the state of this model has no such part")
    old = state
    for key in path:
        old = old[key]
    damaged = replace_part(state, path, change(old))
    assert use_in_a_child(damaged, X, y) == REFUSED
    with pytest.raises(ValueError, match="The saved SparseExpertClassifier is damaged"):
        SparseExpertClassifier().__setstate__(damaged)


def test_an_undamaged_state_is_fine(saved):
    assert use_in_a_child(*saved) == FINE


def damage_at_random(state, rng):
    """Change one part of a state in one of several ways."""
    arrays = [(key,) for key, value in state.items() if isinstance(value, np.ndarray)]
    packs = [key for key, value in state.items() if isinstance(value, dict)]
    arrays += [
        (key, part) for key in packs for part, value in state[key].items()
        if isinstance(value, np.ndarray)
    ]  # fmt: skip
    path = arrays[rng.randint(len(arrays))]
    array = state[path[0]] if len(path) == 1 else state[path[0]][path[1]]
    kind = rng.randint(7)
    changed = np.array(array)
    if kind == 0:
        changed = changed[: rng.randint(len(changed) + 1)]
    elif kind == 1:
        changed = np.concatenate([changed, changed[: rng.randint(1, len(changed) + 1)]])
    elif kind == 2:
        changed = rng.permutation(changed)
    elif kind == 3:
        changed = changed.astype(rng.choice(["i1", "u8", ">i4", "f2", ">f8", "U3", "O"]))
    elif kind == 4 and changed.dtype.kind in "iuf":
        places = rng.randint(len(changed), size=3)
        changed[places] = rng.choice([0, 1, 127, 100]) if changed.dtype.kind != "f" else np.inf
    elif kind == 5:
        return replace_part(state, path, rng.choice(["text", None, 7]))
    else:
        raw = bytearray(changed.tobytes())
        for place in rng.randint(max(1, len(raw)), size=4):
            raw[place] = rng.randint(256)
        changed = np.frombuffer(bytes(raw), changed.dtype).copy()
    return replace_part(state, path, changed)


def test_random_damages_end_in_an_error_or_a_working_model(saved):
    state, X, y = saved
    rng, codes = np.random.RandomState(0), []
    for _ in range(N_RANDOM // 5):
        codes.append(use_in_a_child(damage_at_random(state, rng), X, y))
    assert set(codes) <= {FINE, REFUSED}
    assert codes.count(REFUSED) > 0


@pytest.mark.parametrize("method", ["predict", "predict_proba", "transform", "decision_function"])
def test_attributes_that_a_user_replaces_are_checked(method):
    X, y = draw(5)
    fitted = SparseExpertClassifier(random_state=0).fit(X, y)
    wrong = {
        "router_coef_": [fitted.router_coef_.tocsc(), fitted.router_coef_[:-1], None],
        "router_intercept_": [fitted.router_intercept_[:-1]],
        "expert_coef_": [fitted.expert_coef_.tocoo(), fitted.expert_coef_[:, :2]],
        "intercept_": [fitted.intercept_[1:], fitted.intercept_ * np.nan],
    }
    for name, values in wrong.items():
        for value in values:
            model = copy.copy(fitted)
            setattr(model, name, value)
            with pytest.raises((ValueError, AttributeError)):
                getattr(model, method)(X)
    model = copy.copy(fitted)
    model.router_coef_ = 2 * model.router_coef_
    assert np.isfinite(getattr(model, method)(X).sum())
