"""Clusters of dense rows, where the experts of a class start."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skparse._training import clusters
from skparse._training.clusters import cluster_rows, draw_centres, nearest_centre


def draw_groups(n_groups, per_group=30, n_features=3, seed=0):
    """Rows around well separated centres; returns (X, group of each row)."""
    rng = np.random.RandomState(seed)
    groups = np.repeat(np.arange(n_groups), per_group)
    centres = 20 * np.eye(max(n_groups, n_features))[:n_groups, :n_features]
    centres += 50 * np.arange(n_groups)[:, None]
    return (centres[groups] + rng.normal(size=(len(groups), n_features))), groups


def cluster(X, n_clusters, sample_weight=None, seed=0):
    weight = np.ones(len(X)) if sample_weight is None else sample_weight
    return cluster_rows(X, weight, n_clusters, np.random.RandomState(seed))


@pytest.mark.parametrize("seed", range(5))
def test_separate_groups_are_found(seed):
    X, groups = draw_groups(4)
    centres = cluster(X, 4, seed=seed)
    means = np.array([X[groups == g].mean(axis=0) for g in range(4)])
    assert_allclose(centres[np.argsort(centres[:, 0])], means[np.argsort(means[:, 0])])


def test_one_cluster_is_the_weighted_mean():
    X, _ = draw_groups(3)
    weight = np.random.RandomState(0).uniform(size=len(X))
    assert_allclose(cluster(X, 1, weight)[0], np.average(X, axis=0, weights=weight))


def test_every_centre_is_the_mean_of_its_rows_after_enough_steps(monkeypatch):
    monkeypatch.setattr(clusters, "LLOYD_STEPS", 200)
    X = np.random.RandomState(0).normal(size=(200, 4))
    centres = cluster(X, 6)
    nearest = nearest_centre(X, centres)
    for k, centre in enumerate(centres):
        assert_allclose(centre, X[nearest == k].mean(axis=0))


def test_a_weight_of_two_is_a_repeated_row_for_the_steps(monkeypatch):
    X, _ = draw_groups(3)
    weight = np.random.RandomState(0).randint(1, 4, size=len(X))
    monkeypatch.setattr(clusters, "draw_centres", lambda X, *_: np.array([[0.0] * 3, [90.0] * 3]))
    repeated = np.repeat(X, weight, axis=0)
    assert_allclose(cluster(X, 2, weight.astype(float)), cluster(repeated, 2))


def test_rows_without_weight_are_never_drawn():
    X, groups = draw_groups(3)
    weight = (groups != 1).astype(float)
    for seed in range(10):
        drawn = draw_centres(X, weight, 20, np.random.RandomState(seed))
        assert not (drawn[:, None] == X[groups == 1]).all(axis=2).any()


def test_more_clusters_than_rows_are_possible():
    X = np.array([[0.0, 1.0], [2.0, 3.0]])
    centres = cluster(X, 5)
    assert centres.shape == (5, 2)
    assert set(map(tuple, centres)) == set(map(tuple, X))


def test_equal_rows_have_equal_centres():
    assert_array_equal(cluster(np.ones((10, 2)), 3), np.ones((3, 2)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_centres_have_the_dtype_of_the_rows(dtype):
    X, _ = draw_groups(3)
    assert cluster(X.astype(dtype), 3, np.ones(len(X), dtype)).dtype == dtype


def test_the_nearest_centre_does_not_depend_on_the_size_of_a_block(monkeypatch):
    X = np.random.RandomState(0).normal(size=(50, 3))
    expected = ((X[:, None] - X[:7]) ** 2).sum(axis=2).argmin(axis=1)
    assert_array_equal(nearest_centre(X, X[:7]), expected)
    monkeypatch.setattr(clusters, "DISTANCES", 20)
    assert_array_equal(nearest_centre(X, X[:7]), expected)
