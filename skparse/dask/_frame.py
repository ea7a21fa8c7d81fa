"""What all partitions share: the options, and the connections that their statistics give."""

from typing import NamedTuple

import numpy as np
from scipy import sparse

from .._csr import with_smallest_index_dtype, with_values
from .._training.connections import CONNECTION_EPSILON, add_absences, measure_relevance
from .._training.data import Exposure, Geometry
from .._training.naive_bayes import log_odds


class Setting(NamedTuple):
    """What is the same for all partitions and rounds; the options that stages read."""

    engine: str
    device: str
    seed: int
    n_classes: int
    top_k: int
    batch_size: int
    learning_rate: float
    n_samples: int
    n_visits: int  # of each sample in an epoch
    weight: float = 0.0
    train_weight: float = 0.0  # of the samples that are not held out
    crowding: float = 1.0  # see `Geometry`
    n_threads: int = 1
    full_batch: bool = False
    multilabel: bool = False


class Frame(NamedTuple):
    """The connections, and what the statistics of all samples give for them."""

    pattern: sparse.csr_array  # (n_features, n_classes), its values are the naive-Bayes start
    relevance: np.ndarray  # (n_features,)
    overlap: np.ndarray  # (n_features,), in how many partitions a feature counts
    pair_overlap: np.ndarray  # (nnz,), the same for each connection, see `overlap_pairs`
    bias_overlap: float  # how many partitions count
    geometry: Geometry  # of all samples, without norms and crowding
    exposure: Exposure


def build_frame(statistics):
    """Choose relevance and connections as in a fit, and the naive-Bayes start."""
    mass, weight = statistics.mass, statistics.weight
    exposure = Exposure(statistics.exposure, statistics.expert_exposure, weight)
    relevance = measure_relevance(mass, exposure)
    mean_square = float((statistics.squares * relevance.astype(np.float64) ** 2).sum()) / weight
    nonzeros = statistics.nonzeros / weight
    has_entries = mean_square > 0
    geometry = Geometry(
        squared_norms=np.zeros(0),
        mean_square=mean_square if has_entries else 1.0,
        nonzeros_per_row=nonzeros,
        bias_feature=float(np.sqrt(mean_square / nonzeros)) if has_entries else 1.0,
        crowding=1.0,
    )
    mass = with_values(mass, mass.data * np.repeat(relevance, np.diff(mass.indptr)))
    mass = with_smallest_index_dtype(add_absences(mass, exposure))
    # Two rows stand for all samples: the sums of the columns, and without weight which columns
    # have a negative entry.
    rows = [statistics.signed * relevance, -1.0 * statistics.has_negative]
    start = log_odds(mass, sparse.csr_array(np.array(rows)), np.array([1.0, 0.0]), geometry)
    squares = statistics.squared_exposure
    overlap = np.where(squares > 0, exposure.feature**2 / np.where(squares > 0, squares, 1), 1)
    overlap, n_rows = overlap.astype(mass.dtype), exposure.feature * statistics.n_samples / weight
    return Frame(
        with_values(mass, start.astype(mass.dtype)), relevance, overlap,
        overlap_pairs(mass, n_rows, overlap), weight**2 / statistics.squared_weight, geometry,
        exposure,
    )  # fmt: skip


def overlap_pairs(mass, n_rows, overlap):
    """Estimate for each connection in how many partitions it counts, (nnz,).

    It is the mean of two numbers: the overlap of the feature, and the one that is expected of its
    samples of the class if they are anywhere in those partitions. These are few for most
    connections. If there is none, it is the first number.

    Parameters
    ----------
    mass : csr_array (n_features, n_classes)
        See `expert_mass`, on the pattern of the connections.
    n_rows : ndarray (n_features,)
        Number of samples with each feature.
    overlap : ndarray (n_features,)
    """
    per_feature = np.diff(mass.indptr)
    total = np.maximum(mass.sum(axis=1), CONNECTION_EPSILON)
    n_rows = mass.data * np.repeat((n_rows / total).astype(mass.dtype), per_feature)
    of_feature = np.repeat(overlap, per_feature)
    own = of_feature * n_rows / np.maximum(n_rows + of_feature - 1, 0.5)
    return np.where(n_rows < 0.5, of_feature, (own + of_feature) / 2)


def read_totals(statistics):
    """Return the sums that are single numbers, as a dict."""
    return {
        "weight": statistics.weight,
        "train_weight": statistics.train_weight,
        "n_samples": statistics.n_samples,
        "n_held_out": statistics.n_held_out,
    }
