"""What a saved model holds: small integers for the pattern, and the version that wrote it."""

import warnings

import numpy as np
from scipy import sparse

VERSION_KEY = "_skparse_version"
PACKED = ("router_coef_", "expert_coef_")


def pack_state(state, version):
    """Copy the state of an estimator, with its sparse arrays packed and its version stamped."""
    packed = {name: _pack(v) if name in PACKED else v for name, v in state.items()}
    return {**packed, VERSION_KEY: version}


def unpack_state(state, version, name):
    """Undo `pack_state`; warns if another version of the package wrote the state."""
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
    return {name: _unpack(v) if name in PACKED else v for name, v in state.items()}


def _pack(matrix):
    """Pack a CSR array: entries per row and column indices in the smallest integers."""
    counts = np.diff(matrix.indptr)
    return {
        "shape": matrix.shape,
        "counts": counts.astype(np.min_scalar_type(counts.max(initial=0))),
        "indices": matrix.indices.astype(np.min_scalar_type(max(0, matrix.shape[1] - 1))),
        "data": matrix.data,
    }


def _unpack(packed):
    index = np.int32 if len(packed["data"]) <= np.iinfo(np.int32).max else np.int64
    indptr = np.zeros(len(packed["counts"]) + 1, index)
    np.cumsum(packed["counts"], out=indptr[1:])
    parts = packed["data"], packed["indices"].astype(index), indptr
    return sparse.csr_array(parts, shape=tuple(packed["shape"]))
