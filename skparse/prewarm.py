"""Compile every kernel before it is needed: ``python -m skparse.prewarm``.

numba compiles a kernel when it is first called with a kind of data, which takes some seconds. It
keeps the code in a cache folder: that of the package, or the one that the environment variable
NUMBA_CACHE_DIR names. An image that has run this command starts with a filled cache.
"""

import argparse
from collections.abc import Iterable

import numpy as np
from numpy.typing import DTypeLike
from scipy import sparse

from . import SparseExpertClassifier


def prewarm(dtypes: Iterable[DTypeLike] = (np.float32, np.float64)) -> None:
    """Fit and predict small data of every kind, so that all kernels are compiled.

    Parameters
    ----------
    dtypes : sequence of dtypes, default=(numpy.float32, numpy.float64)
        Of the X that will be used. `TfidfVectorizer` gives float64 unless told otherwise.

    Examples
    --------
    >>> import numpy as np
    >>> from skparse.prewarm import prewarm
    >>> prewarm([np.float64])
    """
    for dtype in dtypes:
        for X, y, parameters in _small_problems(dtype):
            model = SparseExpertClassifier(random_state=0, **parameters).fit(X, y)
            rows = (X[:1], X) if sparse.issparse(X) else (X,)
            for part in rows:
                model.predict(part)
                model.predict_proba(part)
                model.transform(part)
                model.predict_proba_path(part, [1])
            if not sparse.issparse(X):
                continue
            classes = None if np.ndim(y) == 2 else np.unique(y)
            SparseExpertClassifier(random_state=0, **parameters).partial_fit(X, y, classes=classes)


def _small_problems(dtype):
    """Yield X, y and parameters that together take every way through the kernels."""
    rng = np.random.RandomState(0)
    dense = rng.normal(size=(1100, 40))
    words = sparse.csr_array(np.abs(dense) * (rng.uniform(size=dense.shape) < 0.2), dtype=dtype)
    for n_classes in (2, 3, 20):  # one margin, several experts, a term of low rank
        yield words, np.arange(1100) % n_classes, {}
    yield words, np.arange(1100) % 3, {"n_experts": 9, "weight_density": 0.5}
    yield words, (rng.uniform(size=(1100, 5)) < 0.3).astype(int), {}
    yield words[:60], np.arange(60) % 3, {}  # full batches
    yield dense.astype(dtype), np.arange(1100) % 3, {"n_experts": 3, "max_iter": 1}


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m skparse.prewarm", description=prewarm.__doc__)
    parser.add_argument("--dtype", choices=["float32", "float64"], help="both, if left out")
    chosen = parser.parse_args().dtype
    prewarm([np.dtype(chosen)] if chosen else (np.float32, np.float64))


if __name__ == "__main__":
    main()
