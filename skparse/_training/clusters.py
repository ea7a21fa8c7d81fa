"""Clusters of the samples of one class: where its experts start."""

import numpy as np

LLOYD_STEPS = 10
DISTANCES = 2**20  # at most, that are computed at a time


def cluster_rows(X, sample_weight, n_clusters, random_state):
    """Find cluster centres by k-means: a start of k-means++, then Lloyd's steps.

    Parameters
    ----------
    X : ndarray (n_samples, n_features), not empty
    sample_weight : ndarray (n_samples,)
    n_clusters : int
        With more clusters than different rows, some centres are equal.
    random_state : numpy.random.RandomState

    Returns
    -------
    centres : ndarray (n_clusters, n_features) in the dtype of X
    """
    centres = draw_centres(X, sample_weight, n_clusters, random_state)
    for _ in range(LLOYD_STEPS if n_clusters > 1 else 1):
        nearest = nearest_centre(X, centres)
        order = np.argsort(nearest, kind="stable")
        used, firsts = np.unique(nearest[order], return_index=True)
        totals = np.add.reduceat(sample_weight[order], firsts)
        sums = np.add.reduceat(sample_weight[order, None] * X[order], firsts, axis=0)
        moved = centres.copy()  # a centre without samples stays where it is
        moved[used] = sums / totals[:, None]
        if np.array_equal(moved, centres):
            break
        centres = moved
    return centres


def draw_centres(X, sample_weight, n_clusters, random_state):
    """Draw rows, each in proportion to its squared distance to the nearest one so far."""
    mass = sample_weight.astype(np.float64)
    places, distances = [], np.full(X.shape[0], np.inf)
    for _ in range(n_clusters):
        steps = np.cumsum(mass)
        if steps[-1] <= 0:  # every row is a centre
            steps = np.cumsum(sample_weight, dtype=np.float64)
        place = np.searchsorted(steps, random_state.uniform() * steps[-1], side="right")
        places.append(min(int(place), X.shape[0] - 1))
        np.minimum(distances, ((X - X[places[-1]]) ** 2).sum(axis=1), out=distances)
        mass = sample_weight * distances
    return X[places]


def nearest_centre(X, centres):
    """Position of the nearest centre of every row, (n_samples,) of int."""
    nearest = np.empty(X.shape[0], np.intp)
    size = max(1, DISTANCES // len(centres))
    for first in range(0, X.shape[0], size):
        block = slice(first, first + size)
        nearest[block] = squared_distances(X[block], centres).argmin(axis=1)
    return nearest


def squared_distances(X, centres):
    """Squared distances of rows and centres, (n_samples, n_centres), up to rounding."""
    # einsum calls no BLAS
    products = np.einsum("ij,kj->ik", X, centres)
    norms = np.einsum("ij,ij->i", X, X)[:, None] + np.einsum("kj,kj->k", centres, centres)
    return np.maximum(norms - 2 * products, 0)
