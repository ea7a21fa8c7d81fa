"""The state of a saved model: packed sparse arrays and the version that saved it."""

import warnings

import numpy as np
from scipy import sparse

from ._compression import decode_values, encode_values
from ._model import SparseExpertModel

VERSION_KEY = "_skparse_version"
CHECKED_KEY = "_checked_model"  # the arrays that were checked; not saved
# What a damaged state can raise.
_DAMAGE = ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError


def pack_state(state, version):
    """Copy the state of an estimator, with packed sparse arrays and the version."""
    packed = {**state, VERSION_KEY: version}
    packed.pop(CHECKED_KEY, None)
    if "compression_" in state:  # a plain dict is no further type to trust
        packed["compression_"] = dict(state["compression_"])
    if "router_coef_" in state:
        packed["router_coef_"] = pack(state["router_coef_"], state.get("storage_dtype_"))
    if "expert_coef_" in state:
        packed["expert_coef_"] = pack(state["expert_coef_"])
    return packed


def unpack_state(state, version, name, unpack_stream=None):
    """Undo `pack_state`; warns if another version of the package saved the state.

    ``unpack_stream`` is called with the state: it replaces that of a stream, and raises where it
    is damaged.
    """
    state = dict(state)
    written_by = state.pop(VERSION_KEY, "unknown")
    if written_by != version:
        warnings.warn(
            f"Restoring a {name} that was saved by skparse {written_by} with skparse {version}. "
            "This might lead to breaking code or invalid results; fit it again or use the "
            "version that saved it.",
            UserWarning,
            stacklevel=3,
        )
    try:
        for key in {"router_coef_", "expert_coef_"} & state.keys():
            state[key] = unpack(state[key])
        if unpack_stream is not None:
            unpack_stream(state)
        if "router_coef_" in state:
            state[CHECKED_KEY] = list(check_state(state))
        elif "_stream" in state:
            n_features, n_experts = state["n_features_in_"], len(state["classes_"])
            router = sparse.csr_array((n_features, n_experts), dtype=state["intercept_"].dtype)
            check_state({**state, "router_coef_": router})
    except _DAMAGE as error:
        raise ValueError(f"The saved {name} is damaged: {error}") from error
    return state


def check_state(state):
    """Raise ValueError unless the fitted attributes of a saved estimator fit each other.

    Returns
    -------
    SparseExpertModel
    """
    model = SparseExpertModel(
        state["router_coef_"],
        state["router_intercept_"],
        state["expert_coef_"],
        state["intercept_"],
        state.get("temperatures_"),
        state.get("prior_logits_"),
    )
    n_features, n_classes = state["n_features_in_"], len(state["classes_"])
    model.check(n_features, n_classes)
    n_experts = len(model.router_intercept)
    top_k = state["top_k_"]
    is_right = {
        "n_experts_": state["n_experts_"] == n_experts,
        "top_k_": isinstance(top_k, int) and top_k >= 1,
    }
    # Estimators that callbacks get have what predictions need, not more.
    if "expert_load_" in state:
        is_right["expert_load_"] = np.shape(state["expert_load_"]) == (n_experts,)
    if "_score_scaling" in state:
        is_right["_score_scaling"] = _are_finite(state["_score_scaling"], 7)
    if "_exposure" in state:
        of_features, of_experts, total = state["_exposure"]
        is_right["_exposure"] = (
            _are_finite(of_features, n_features)
            and _are_finite(of_experts, n_experts)
            and bool(np.isfinite(total))
        )
    if "_columns" in state:
        is_right["_columns"] = all(_are_finite(part, n_features) for part in state["_columns"])
    for name, right in is_right.items():
        if not right:
            raise ValueError(f"{name} does not fit the model.")
    return model


def _are_finite(numbers, size):
    """Whether something is an array, or a list, of so many finite numbers."""
    array = np.asarray(numbers)
    return array.shape == (size,) and array.dtype.kind == "f" and bool(np.isfinite(array).all())


def pack(matrix, dtype=None):
    """Pack a CSR array into the smallest integers that hold its pattern.

    Parameters
    ----------
    matrix : csr_array
    dtype : {"float16", "int8"}, default=None
        Encoding of the values, which have to be representable in it. With None they are stored
        unchanged.

    Returns
    -------
    dict
        Shape, entries per row, column indices, values and, for int8, scales of the columns.
        If it is smaller, only rows with entries are stored, with the gaps between them.
    """
    counts = _smallest(np.diff(matrix.indptr))
    used = np.flatnonzero(counts)
    gaps = _smallest(np.diff(used, prepend=0))
    if gaps.nbytes + counts[used].nbytes < counts.nbytes:
        counts = counts[used]
    else:
        gaps = None
    codes, scales = (matrix.data, None) if dtype is None else encode_values(matrix, dtype)
    return {
        "shape": matrix.shape,
        "dtype": matrix.dtype.name,
        "counts": counts,
        "gaps": gaps,
        "indices": matrix.indices.astype(np.min_scalar_type(max(0, matrix.shape[1] - 1))),
        "data": codes,
        "scales": scales,
    }


def _smallest(numbers):
    """Convert non-negative integers to the smallest dtype that holds them."""
    return numbers.astype(np.min_scalar_type(numbers.max(initial=0)))


def unpack(packed):
    """Undo `pack`."""
    if packed["indices"].dtype.kind not in "iu":
        raise ValueError("The column indices are no integers.")
    index = np.int32 if len(packed["data"]) <= np.iinfo(np.int32).max else np.int64
    indptr = np.zeros(packed["shape"][0] + 1, index)
    if packed["gaps"] is None:
        indptr[1:] = packed["counts"]
    else:
        indptr[1 + np.cumsum(packed["gaps"], dtype=np.int64)] = packed["counts"]
    np.cumsum(indptr, out=indptr)
    indices = packed["indices"].astype(index)
    values = packed["data"]
    if values.dtype.name != packed["dtype"]:
        values = decode_values(values, packed["scales"], indices, np.dtype(packed["dtype"]))
    return sparse.csr_array((values, indices, indptr), shape=tuple(packed["shape"]))


def packed_bytes(model, dtype=None):
    """Bytes of the arrays of a saved model."""
    packs = [pack(model.router, dtype), pack(model.outputs)]
    arrays = [a for p in packs for a in p.values() if isinstance(a, np.ndarray)]
    return sum(array.nbytes for array in (*arrays, model.router_intercept, model.intercept))
