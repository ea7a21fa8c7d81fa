"""The partitions of the samples: validation, and the statistics that training starts from.

All functions are pure: Dask may run them again on another worker.
"""

from typing import NamedTuple

import numpy as np
from scipy import sparse

from .. import SparseExpertClassifier
from .._csr import with_values
from .._training.connections import CONNECTION_EPSILON
from .._training.data import build_training_data
from .._training.naive_bayes import expert_mass
from .._validation import check_samples


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
    labels: sparse.csr_array  # (n_samples, n_classes) of ones
    sample_weight: np.ndarray  # (n_samples,)
    held_out: np.ndarray  # (n_samples,) of bool
    position: int  # among the partitions


class Statistics(NamedTuple):
    """Sums over samples; those of disjoint samples can be added."""

    mass: sparse.csr_array  # (n_features, n_classes), see `expert_mass`
    exposure: np.ndarray  # (n_features,), sample weight
    squared_exposure: np.ndarray  # (n_features,), squares of the exposures in each partition
    signed: np.ndarray  # (n_features,), weighted sums of the columns
    squares: np.ndarray  # (n_features,), weighted sums of the squared columns
    n_negative: np.ndarray  # (n_features,), entries below zero
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
    n = len(codes)
    parts = np.ones(n), codes, np.arange(n + 1, dtype=np.int32)
    labels = sparse.csr_array(parts, shape=(n, len(classes)))
    held_out = np.zeros(n, bool)
    if every:
        firsts = np.arange(0, n - every + 1, every)
        draws = np.random.RandomState([seed, position]).randint(every, size=len(firsts))
        held_out[firsts + draws] = True
    return Partition(X, labels, weight, held_out, position)


def sum_statistics(partition):
    """Sum the `Statistics` of a partition, None of one without samples."""
    if partition is None:
        return None
    X, labels, weight, held_out, _ = partition
    data = build_training_data(X, labels, weight, sparse.eye_array(labels.shape[1], format="csr"))
    exposure, exact = data.exposure, weight.astype(np.float64)
    # As in a fit: labels of held-out samples are used for the pattern only.
    trained = np.where(held_out, weight.dtype.type(CONNECTION_EPSILON), weight)
    total = exposure.total
    return Statistics(
        mass=expert_mass(X, trained, data.sample_experts),
        exposure=exposure.feature,
        squared_exposure=exposure.feature**2,
        signed=X.T @ trained.astype(np.float64),
        squares=with_values(X, X.data**2).T @ exact,
        n_negative=np.bincount(X.indices[X.data < 0], minlength=X.shape[1]),
        expert_exposure=exposure.expert,
        weight=total,
        squared_weight=total**2,
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
