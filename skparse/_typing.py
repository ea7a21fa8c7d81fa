"""Types of the public signatures."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

# What scikit-learn takes as samples: arrays, data frames, sequences of texts, sparse containers.
SamplesLike: TypeAlias = ArrayLike | sparse.sparray | sparse.spmatrix

Array: TypeAlias = NDArray[Any]
FloatArray: TypeAlias = NDArray[np.floating]
RandomState: TypeAlias = int | np.random.RandomState | None
ClassWeight: TypeAlias = (
    Mapping[Any, float] | Sequence[Mapping[Any, float]] | Literal["balanced"] | None
)

_Function = TypeVar("_Function", bound=Callable[..., Any])


def typed(decorator: Any) -> Callable[[_Function], _Function]:
    """Return a decorator of scikit-learn, which has no types, as one that keeps the signature."""
    return decorator
