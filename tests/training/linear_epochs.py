"""Documents of a linear task, and comparisons of linear runs bit by bit."""

import numpy as np
from numpy.testing import assert_array_equal
from scipy import sparse

from skparse.datasets import make_topic_documents


def draw_documents(n_samples=500, n_features=300, *, n_classes=6, seed=0, dtype=np.float64):
    """Draw documents of a linear task, scaled to unit rows as TF-IDF is."""
    X, y = make_topic_documents(
        n_samples, n_features, 12, n_classes=n_classes, facet_share=0.0, dtype=dtype,
        random_state=seed, return_X_y=True,
    )  # fmt: skip
    X = sparse.csr_array(X)
    norms = np.sqrt(X.multiply(X).sum(axis=1))
    return sparse.csr_array(X.multiply(1 / norms[:, None]).astype(dtype)), y


def arrays_of(run):
    """Return all numbers of a run, as a list of arrays."""
    of_blocks = [
        (b.inside, b.targets.data, b.margins.data, b.bias, b.mean_margins, b.mean_bias)
        for b in run.blocks
    ]
    return [run.margins.data, *(array for arrays in of_blocks for array in arrays)]


def assert_same_run(mine, theirs):
    assert (mine.n_epochs, mine.seen) == (theirs.n_epochs, theirs.seen)
    for left, right in zip(arrays_of(mine), arrays_of(theirs), strict=True):
        assert_array_equal(left, right, strict=True)


def assert_same_average(mine, theirs):
    (margins, bias), (other_margins, other_bias) = mine.average(), theirs.average()
    for part in ("indptr", "indices", "data"):
        assert_array_equal(getattr(margins, part), getattr(other_margins, part), strict=True)
    assert_array_equal(bias, other_bias, strict=True)
