"""How the kernels are compiled, and which of them are cached on disk."""

import hashlib
from pathlib import Path

from numba import njit

# No fast-math: with it the compiler chooses between versions of a loop by the addresses of the
# arrays, and the same seed no longer gives the same bits. It gained nothing measurable.
# Helpers get no wrappers for calls from outside, which take a sixth of the compilation time.
HELPER = {
    "nogil": True, "error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True,
}  # fmt: skip
# Helpers that run once a row take arrays, not tuples of them, and are inlined by LLVM: to count
# the references to the parts of a tuple, or to pass a dozen arrays, made short rows a sixth
# slower. Inlined by numba they would count the references to their arrays: up to a third slower.
EVERY_ROW = {**HELPER, "forceinline": True}
# Helpers that run once a batch, or that others call once, and those that allocate are inlined by
# numba, before compilation. It saves half a second of that: each function is compiled by itself,
# and `np.empty` anew for every dtype and for the options of its caller.
INLINED = {**HELPER, "inline": "always"}
# Kernels that Python calls; they contain the code of their helpers.
_KERNEL = {**HELPER, "no_cpython_wrapper": False, "cache": True}


def digest_sources(folder):
    """Digest of the texts that compiled kernels depend on: those of this folder and its parent.

    It is that of no text if the package is in a zip file or a frozen application. There numba
    compares the whole zip file or application.
    """
    files = sorted([*folder.glob("*.py"), *folder.parent.glob("arguments.py")])
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]


SOURCE_DIGEST = digest_sources(Path(__file__).parent)


def kernel(function):
    """Compile a function that Python calls, and keep the compiled code on disk.

    numba compares the text of the file that a kernel is in with that of the cached one. A change
    in another file, which holds a helper, would leave the old code in use. numba puts the
    qualified name of a function into the names of its cache files, so the name gets the digest of
    all files here: any change makes a new cache file.
    """
    function.__qualname__ = f"{function.__qualname__}_{SOURCE_DIGEST}"
    return njit(**_KERNEL)(function)
