"""How the kernels are compiled, and which of them are cached on disk."""

import hashlib
import warnings
from pathlib import Path

from numba import config, njit
from numba.core.caching import FunctionCache

if config.DISABLE_JIT:
    raise ImportError(
        "The kernels cannot run with NUMBA_DISABLE_JIT=1. Unset it, or use engine='torch'."
    )

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
_KERNEL = {**HELPER, "no_cpython_wrapper": False}


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
    compiled = njit(**_KERNEL)(function)
    try:
        compiled._cache = KernelCache(function)
    except RuntimeError:  # no folder can be written
        # It is this line for all kernels, so that the default filter shows one warning.
        warnings.warn(
            "Compiled code cannot be kept on disk, because no cache folder can be written: every "
            "process compiles again, for some seconds. Set the environment variable "
            "NUMBA_CACHE_DIR to a folder that can be written.",
            RuntimeWarning,
            stacklevel=1,
        )
    return compiled


class ReadOnlyFolder:
    """Mixed into a locator of numba, accepts a folder with kernels that cannot be written.

    numba itself ignores a cache folder that it cannot write to, such as that of an image.
    """

    def ensure_cache_path(self):
        """Raise OSError unless the folder has kernels of this version of the files."""
        if not any(Path(self.get_cache_path()).glob(f"*{SOURCE_DIGEST}*.nbi")):
            raise FileNotFoundError(f"no compiled kernels in {self.get_cache_path()}")


class KernelFiles(FunctionCache._impl_class):
    """The files of a kernel: each of numba's folders, written if possible, else only read."""

    _locator_classes = [
        variant
        for locator in FunctionCache._impl_class._locator_classes
        for variant in (locator, type(locator.__name__, (ReadOnlyFolder, locator), {}))
    ]


class KernelCache(FunctionCache):
    """Compiled code on disk; a file that cannot be read, or not be written, is no error."""

    _impl_class = KernelFiles

    def load_overload(self, sig, target_context):
        """Load compiled code; None if there is none or the file is damaged."""
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # what unpickling a damaged file raises is not specified
            return None

    def save_overload(self, sig, data):
        """Save compiled code. A damaged index is begun anew."""
        try:
            super().save_overload(sig, data)
        except OSError:  # such as a full disk
            return
        except Exception:
            self.flush()
            super().save_overload(sig, data)
