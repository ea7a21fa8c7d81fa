"""Columns that nearly all samples store, beside sparse ones: their factors, and whole fits."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from stages import prepare

from skparse import SparseExpertClassifier
from skparse._training.connections import connect, scale_full_columns
from skparse._training.held_out import hold_out
from skparse.datasets import make_topic_documents


def draw_documents(n_samples=1500, seed=0):
    X, y = make_topic_documents(
        n_samples, 600, 12, n_classes=12, document_length=8, background_share=0.5,
        dtype=np.float64, random_state=seed, return_X_y=True,
    )  # fmt: skip
    return sparse.csr_array(X), y


def beside(X, *blocks):
    return sparse.csr_array(sparse.hstack([X, *map(sparse.csr_array, blocks)]))


def draw_columns(y, n_columns, share, seed=1):
    """Numbers whose means differ by class by ``share`` of their deviation."""
    rng = np.random.RandomState(seed)
    return share * rng.normal(size=(y.max() + 1, n_columns))[y] + rng.normal(
        size=(len(y), n_columns)
    )


def factors_of(X, y, relevance=np.inf, **parameters):
    problem, _ = prepare(X, y, **parameters)
    columns = problem.data.full_columns
    return scale_full_columns(problem.data, columns, np.full(len(columns), relevance))


def test_columns_that_nearly_all_samples_store_are_full():
    X, y = draw_documents()
    numbers = draw_columns(y, 2, 1.0)
    numbers[: len(y) // 10, 1] = 0  # a tenth of the samples does not store it
    problem, _ = prepare(beside(X, numbers), y)
    assert_array_equal(problem.data.full_columns, [600])


@pytest.mark.parametrize("n_samples", [128, 1500])
def test_texts_tables_and_small_data_have_no_full_columns(n_samples):
    X, y = draw_documents(n_samples)
    assert prepare(X, y)[0].data.full_columns is None
    assert prepare(draw_columns(y, 3, 1.0), y)[0].data.full_columns is None
    mixed = prepare(beside(X, draw_columns(y, 3, 1.0)), y)[0].data.full_columns
    assert (mixed is None) == (n_samples == 128)


@pytest.mark.parametrize("weighted", [False, True])
def test_factors_equal_the_share_of_variance_between_classes(weighted):
    X, y = draw_documents()
    numbers = draw_columns(y, 3, 0.5)
    weight = np.random.RandomState(2).uniform(0.5, 2, len(y)) if weighted else np.ones(len(y))
    found = factors_of(beside(X, numbers), y, sample_weight=weight)
    w = weight / weight.sum()
    mean = w @ numbers
    variance = w @ (numbers - mean) ** 2
    between = sum(
        w[y == c].sum() * (w[y == c] @ numbers[y == c] / w[y == c].sum() - mean) ** 2
        for c in range(12)
    )
    share = np.maximum(between / variance - 2 * 12 / len(y), 0)
    rest = w @ np.asarray(X.multiply(X).sum(axis=1)).ravel()
    expected = np.sqrt(rest * share / max(1, share.sum()) / (w @ numbers**2))
    assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("unit", [1e-6, 1e-2, 1e3])
def test_the_unit_of_a_full_column_does_not_matter(unit):
    X, y = draw_documents()
    numbers = draw_columns(y, 4, 0.5)
    factors = factors_of(beside(X, numbers), y)
    assert_allclose(unit * factors_of(beside(X, unit * numbers), y), factors, rtol=1e-6)


def test_columns_without_information_get_hardly_any_weight():
    X, y = draw_documents()
    informative, noise = draw_columns(y, 2, 1.0), draw_columns(y, 2, 0.0)
    factors = factors_of(beside(X, informative, noise), y)
    assert factors[2:].max() < 0.2 * factors[:2].min()


def test_a_constant_column_gets_no_weight():
    X, y = draw_documents()
    assert_array_equal(factors_of(beside(X, np.ones((len(y), 1))), y), 0)


def test_columns_without_negative_values_get_at_most_their_relevance():
    X, y = draw_documents()
    numbers = 1e-3 * np.abs(draw_columns(y, 2, 1.0)) + 1e-6
    assert_array_equal(factors_of(beside(X, numbers), y, relevance=0.5), 0.5)


def test_connect_multiplies_full_columns_by_their_factors():
    X, y = draw_documents()
    problem, draft = prepare(beside(X, draw_columns(y, 3, 0.5)), y)
    draft = connect(problem, hold_out(problem, draft))
    expected = scale_full_columns(problem.data, np.arange(600, 603), np.full(3, np.inf))
    assert_allclose(draft.data.relevance[600:], expected, rtol=1e-12)


def score(X, y, **parameters):
    model = SparseExpertClassifier(random_state=0, n_experts=12, **parameters)
    return model.fit(X[:1000], y[:1000]).score(X[1000:], y[1000:])


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e3])
def test_noise_beside_texts_costs_little_at_any_size(size):
    X, y = draw_documents(2500)
    noise = size * draw_columns(y, 20, 0.0)
    assert score(beside(X, noise), y) > score(X, y) - 0.02


@pytest.mark.parametrize("size", [1e-4, 1.0, 1e3])
def test_numbers_with_information_help_at_any_size(size):
    X, y = draw_documents(2500)
    numbers = size * draw_columns(y, 6, 1.0)
    assert score(beside(X, numbers), y) > score(X, y) + 0.03
