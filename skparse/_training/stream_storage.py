"""The state of a stream as plain arrays and numbers, for files."""

import numpy as np
from scipy import sparse

from .._csr import check_csr
from .._engines.arguments import N_FACTS, N_TOTALS, LowRankTerm, StreamExperts, StreamTables
from .low_rank import RANK
from .reservoir import Reservoir
from .scores import ScoreScaling
from .stream import StreamState

# Plain numbers of the state, and the least value of each.
NUMBERS = {
    "seed": 0, "unit": 0, "typical_square": 0, "n_seen": 0, "weight_seen": 0, "alpha": 0,
    "prior_strength": 0, "term_strength": 0, "calibrated_at": 0,
}  # fmt: skip
SIGNED = {"weights", "facts", "bias", "term"}  # arrays that may hold values below zero


def pack_stream(state):
    """Copy a state into a dict of plain arrays and numbers.

    Features that have not occurred, and what can be built from the rest, are left out.
    """
    features = state.features[: state.n_slots]
    order = np.argsort(features)
    held = state.reservoir
    packed = {name: getattr(state, name) for name in NUMBERS}
    packed |= {name: array[order] for name, array in state.tables._asdict().items()}
    for name, (vectors, *of_experts) in ("term", state.term), ("term_squares", state.term_squares):
        packed[name] = (vectors[order], *(array.copy() for array in of_experts))
    packed |= {name: array.copy() for name, array in state.experts._asdict().items()}
    return packed | {
        "features": features[order],
        "totals": state.totals.copy(),
        "scaling": [float(value) for value in state.scaling],
        "shift": state.intercept.copy(),
        "temperatures": None if state.temperatures is None else state.temperatures.copy(),
        "held_out": (held.X.data, held.X.indices, held.X.indptr, held.labels, held.sample_weight),
        "n_offered": held.n_offered,
        "n_features": len(state.slots),
    }


def unpack_stream(packed, n_features, n_classes):
    """Undo `pack_stream`.

    Raises
    ------
    ValueError
        Unless the arrays fit each other, and kernels can use them without leaving their memory.
    """
    check(packed["n_features"] == n_features, "n_features")
    features, totals = packed["features"], packed["totals"]
    check(features.ndim == 1 and features.dtype == np.int64, "features")
    in_order = (np.diff(features) > 0).all()
    inside = not len(features) or (features[0] >= 0 and features[-1] < n_features)
    check(in_order and inside, "features")
    check_array(totals, "totals", (N_TOTALS,), np.float64)
    dtype = packed["weights"].dtype
    check(dtype in (np.dtype(np.float32), np.dtype(np.float64)), "weights")
    tables = StreamTables(*(packed[name] for name in StreamTables._fields))
    for name, array in tables._asdict().items():
        kind, width = (np.float64, N_FACTS) if name == "facts" else (dtype, n_classes)
        check_array(array, name, (len(features), width), kind)
    experts = StreamExperts(*(packed[name] for name in StreamExperts._fields))
    for name, array in experts._asdict().items():
        kinds = {"bias": dtype, "n_kept": np.int64}
        check_array(array, name, (n_classes,), kinds.get(name, np.float64))
    term = unpack_term(packed, len(features), n_classes, dtype)
    check_array(packed["shift"], "bias", (n_classes,), dtype)
    temperatures = packed["temperatures"]
    if temperatures is not None:
        check_array(temperatures, "temperatures", np.shape(temperatures), np.float64)
    numbers = {name: packed[name] for name in NUMBERS}
    for name, least in NUMBERS.items():
        is_number = isinstance(numbers[name], int | float) and np.isfinite(numbers[name])
        check(is_number and numbers[name] >= least, name)
    for name in ("seed", "n_seen", "calibrated_at"):
        check(isinstance(numbers[name], int) and numbers[name] < 2**62, name)
    check(len(packed["scaling"]) == len(ScoreScaling._fields), "scaling")
    scaling = ScoreScaling(*(float(value) for value in packed["scaling"]))
    check(np.isfinite(scaling).all(), "scaling")
    slots = np.full(n_features, -1, np.int32)
    slots[features] = np.arange(len(features))
    # What `learn` changes in place must not be shared with a copy of the model.
    tables, experts = (type(parts)(*map(np.array, parts)) for parts in (tables, experts))
    return StreamState(
        slots, np.array(features), len(features), tables, experts, np.array(totals), *term,
        unpack_reservoir(packed, n_features, n_classes, dtype), scaling=scaling,
        intercept=packed["shift"], temperatures=temperatures, **numbers,
    )  # fmt: skip


def unpack_term(packed, n_features, n_classes, dtype):
    """Check and return the low-rank term of `pack_stream`, and its squared gradients."""
    rank = np.shape(packed["term"][0])[-1]
    check(rank in (0, RANK), "term")
    shapes = {
        "term": ((n_features, rank), (n_classes, rank), (n_classes,)),
        "term_squares": ((n_features,), (n_classes,), (n_classes,)),
    }
    for name, expected in shapes.items():
        check(len(packed[name]) == len(expected), name)
        for array, shape in zip(packed[name], expected, strict=True):
            check_array(array, name, shape, dtype)
    return tuple(LowRankTerm(*map(np.array, packed[name])) for name in shapes)


def unpack_reservoir(packed, n_features, n_classes, dtype):
    """Check and return the held-out samples of `pack_stream`."""
    *parts, labels, sample_weight = packed["held_out"]
    X = sparse.csr_array(tuple(parts), shape=(len(labels), n_features))
    check_csr(X.sorted_indices(), (len(labels), n_features), "held_out")
    check(X.dtype == dtype and bool(np.isfinite(X.data).all()), "held_out")
    check_array(labels, "held_out", (X.shape[0],), np.int64)
    check(not (labels >= n_classes).any(), "held_out")
    check_array(sample_weight, "held_out", (X.shape[0],), dtype)
    n_offered = packed["n_offered"]
    check(isinstance(n_offered, int) and len(labels) <= n_offered < 2**62, "n_offered")
    return Reservoir(X, labels, sample_weight, n_offered)


def check_array(array, name, shape, dtype):
    """Raise ValueError unless an array has a shape, a dtype, and finite numbers."""
    check(isinstance(array, np.ndarray), name)
    check(array.shape == shape and array.dtype == np.dtype(dtype), name)
    is_right = np.isfinite(array) if name in SIGNED else np.isfinite(array) & (array >= 0)
    check(bool(is_right.all()), name)


def check(is_right, name):
    """Raise ValueError if a part of a state is not right."""
    if not is_right:
        raise ValueError(f"{name} of the stream does not fit the model.")
