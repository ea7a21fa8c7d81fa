"""The partitions of the samples: validation, and the statistics that training starts from.

All functions are pure: Dask may run them again on another worker.
"""

from typing import NamedTuple

import numpy as np
from scipy import sparse

from .. import SparseExpertClassifier
from .._csr import as_views, row_blocks, with_values
from .._training.connections import CONNECTION_EPSILON
from .._training.naive_bayes import expert_mass
from .._validation import check_samples

# Of blocks of rows that statistics are summed over: what each makes is much smaller than X.
SUMMED_ENTRIES = 2**20


class Content(NamedTuple):
    """What has to be known of all partitions before their statistics can be added."""

    n_features: int
    classes: np.ndarray | None = None  # (n_classes,), sorted; None without samples of weight
    class_weights: np.ndarray | None = None  # (n_classes,), sums of the sample weights
    n_samples: int = 0
    dtype: np.dtype | None = None
    feature_names: np.ndarray | None = None


class Partition(NamedTuple):
    """Validated samples of one partition, with numbers for classes."""

    X: sparse.csr_array  # (n_samples, n_features)
    classes: np.ndarray  # (n_samples,) of int32, one class each
    sample_weight: np.ndarray  # (n_samples,)
    held_out: np.ndarray  # (n_samples,) of bool
    position: int  # among the partitions
    n_classes: int  # of all partitions

    def labels(self, rows):
        """Return the labels of some rows, a CSR array (n_rows, n_classes) of ones."""
        classes = self.classes[rows]
        n = len(classes)
        parts = np.ones(n, self.X.dtype), classes, np.arange(n + 1, dtype=np.int32)
        return sparse.csr_array(parts, shape=(n, self.n_classes))


class Statistics(NamedTuple):
    """Sums over samples; those of disjoint samples can be added."""

    mass: sparse.csr_array  # (n_features, n_classes), see `expert_mass`
    exposure: np.ndarray  # (n_features,), sample weight
    squared_exposure: np.ndarray  # (n_features,), squares of the exposures in each partition
    signed: np.ndarray  # (n_features,), weighted sums of the columns
    squares: np.ndarray  # (n_features,), weighted sums of the squared columns
    has_negative: np.ndarray  # (n_features,) of bool, whose sum is the logical or
    expert_exposure: np.ndarray  # (n_classes,), sample weight
    weight: float
    squared_weight: float  # squares of the weights of each partition
    nonzeros: float  # weighted
    train_weight: float  # of the samples that are not held out
    n_samples: int
    n_held_out: int

    def plus(self, other):
        """Add the statistics of other samples."""
        return Statistics(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


def read_partition(X, y=None, sample_weight=None):
    """Return (X, y, sample_weight) of a partition.

    Without y, X is a tuple of (X, y) or (X, y, sample_weight), or a list of such tuples, whose
    samples follow each other.
    """
    if y is not None:
        y = join_blocks(y)
        return join_blocks(X), y, None if sample_weight is None else join_blocks(sample_weight)
    tuples = [X] if isinstance(X, tuple) else list(X)
    if not tuples or not all(isinstance(p, tuple) and len(p) in (2, 3) for p in tuples):
        raise ValueError(
            "Without y, a partition has to be a tuple (X, y) or (X, y, sample_weight), or a "
            f"list of such tuples that is not empty, got {type(X).__name__}."
        )
    if len({len(part) for part in tuples}) > 1:
        raise ValueError("Some tuples of a partition have sample weights, and others have none.")
    blocks, *columns = zip(*tuples, strict=True)
    return (join_blocks(list(blocks)), *(join_blocks(list(c)) for c in columns), None)[:3]


def join_blocks(blocks):
    """Join a list of blocks, or return the only one; a list of numbers becomes an array."""
    if not isinstance(blocks, list):
        return blocks
    if blocks and sparse.issparse(blocks[0]):
        return blocks[0] if len(blocks) == 1 else sparse.vstack(blocks, format="csr")
    if len(blocks) == 1 and np.ndim(blocks[0]) > 0:
        return blocks[0]
    return np.concatenate(blocks) if blocks and np.ndim(blocks[0]) > 0 else np.asarray(blocks)


def check_partition(part):
    """Validate what `read_partition` returns; returns (`Content`, Samples or None)."""
    X, y, weight = part
    has_samples = X.shape[0] > 0 and (weight is None or np.any(weight))
    if not has_samples:
        return Content(X.shape[1]), None
    if sparse.issparse(X) and X.format == "csr":
        X = as_views(X)
    local = SparseExpertClassifier()
    samples = check_samples(local, X, y, weight, reset=True)
    if samples.multilabel:
        raise NotImplementedError(
            "DaskSparseExpertClassifier needs one label per sample, but y is an indicator "
            "matrix; fit a SparseExpertClassifier to it."
        )
    weights = samples.labels.T @ samples.sample_weight.astype(np.float64)
    names = getattr(local, "feature_names_in_", None)
    n_samples, n_features = samples.X.shape
    content = Content(n_features, samples.classes, weights, n_samples, samples.X.dtype, names)
    return content, samples


def build_partition(checked, classes, class_factors, dtype, position, every, seed):
    """Turn checked samples into a `Partition`, None if it has no sample of positive weight.

    Parameters
    ----------
    checked : (Content, Samples or None)
    classes : ndarray (n_classes,), of all partitions
    class_factors : ndarray (n_classes,), that multiply the sample weights
    dtype : numpy.dtype
    position : int
    every : int
        One of so many samples is held out, none if it is zero.
    seed : int
    """
    content, samples = checked
    if samples is None:
        return None
    codes = np.searchsorted(classes, content.classes).astype(np.int32)[samples.labels.indices]
    weight = (samples.sample_weight * class_factors[codes]).astype(dtype)
    used = weight > 0
    if not used.any():
        return None
    X = samples.X.astype(dtype, copy=False)
    if not used.all():
        X, codes, weight = X[used], codes[used], weight[used]
    held_out = np.zeros(len(codes), bool)
    if every:
        firsts = np.arange(0, len(codes) - every + 1, every)
        draws = np.random.RandomState([seed, position]).randint(every, size=len(firsts))
        held_out[firsts + draws] = True
    return Partition(X, codes, weight, held_out, position, len(classes))


def sum_statistics(partition):
    """Sum the `Statistics` of a partition, None of one without samples."""
    if partition is None:
        return None
    X, weight, held_out = partition.X, partition.sample_weight, partition.held_out
    n_features, mass = X.shape[1], None
    exposure, signed, squares = np.zeros((3, n_features))
    has_negative = np.zeros(n_features, bool)
    for first, last in row_blocks(X.indptr, max(SUMMED_ENTRIES, n_features)):
        rows, exact = X[first:last], weight[first:last].astype(np.float64)
        # As in a fit: labels of held-out samples are used for the pattern only.
        trained = np.where(held_out[first:last], CONNECTION_EPSILON, weight[first:last])
        part = expert_mass(rows, trained, partition.labels(slice(first, last)))
        mass = part if mass is None else mass + part
        per_entry = np.repeat(exact, np.diff(rows.indptr))
        exposure += np.bincount(rows.indices, per_entry, minlength=n_features)
        signed += rows.T @ trained.astype(np.float64)
        squares += with_values(rows, rows.data**2).T @ exact
        has_negative[rows.indices[rows.data < 0]] = True
    exact = weight.astype(np.float64)
    return Statistics(
        mass=mass,
        exposure=exposure,
        squared_exposure=exposure**2,
        signed=signed,
        squares=squares,
        has_negative=has_negative,
        expert_exposure=np.bincount(partition.classes, exact, minlength=partition.n_classes),
        weight=float(exact.sum()),
        squared_weight=float(exact.sum()) ** 2,
        nonzeros=float((exact * np.diff(X.indptr)).sum()),
        train_weight=float(exact[~held_out].sum()),
        n_samples=len(weight),
        n_held_out=int(held_out.sum()),
    )


def add_parts(one, other):
    """Add two sums, of which each may be None: that of no samples."""
    if one is None or other is None:
        return other if one is None else one
    return one.plus(other)
