"""The way from linear margins to the scores of a model and back."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from word_counts import prepare_counts

from skparse._training.completion import complete_model
from skparse._training.connections import connect
from skparse._training.scores import (
    default_scaling,
    margins_from_model,
    model_from_margins,
    multiply_scores,
    to_single_margin,
)


def connect_counts(**parameters):
    """Return (problem, draft) with connected word counts, and a bias for every expert."""
    problem, draft = prepare_counts(**parameters)
    draft = connect(problem, draft)
    n_columns = 1 if problem.data.binary else draft.margins.shape[1]
    return problem, draft, np.random.RandomState(1).normal(size=n_columns)


def scores_of(model, X):
    return X @ model.router.toarray() + model.router_intercept


@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize("n_experts", [2, 3, 5])
def test_margins_and_models_are_inverse(n_experts, multilabel):
    problem, draft, bias = connect_counts(n_experts=n_experts)
    draft = replace(draft, scaling=default_scaling(3, multilabel))
    model = model_from_margins(draft, draft.margins, bias)
    margins, back = margins_from_model(model, draft.data, draft.scaling)
    assert_array_equal(margins.indices, draft.margins.indices)
    assert_allclose(margins.data, draft.margins.data, rtol=1e-14)
    assert_allclose(back, bias, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("n_experts", [2, 3, 5])
def test_scores_are_scaled_and_shifted_margins(n_experts, dtype):
    problem, draft, bias = connect_counts(n_experts=n_experts, dtype=dtype)
    model = model_from_margins(draft, draft.margins, bias.astype(dtype))
    data, scaling = draft.data, draft.scaling
    margins = data.X @ draft.margins.toarray() + bias * data.geometry.bias_feature
    expected = scaling.scale * (margins + scaling.shift)
    assert {array.dtype for array in model.values()} == {np.dtype(dtype)}
    assert_allclose(scores_of(model, data.X), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("n_experts", [2, 3, 5])
def test_an_expert_has_the_gain_as_output_of_its_classes(n_experts):
    problem, draft, bias = connect_counts(n_experts=n_experts)
    model = model_from_margins(draft, draft.margins, bias)
    own, gain = draft.data.class_experts.toarray().T, draft.scaling.gain
    assert_allclose(model.outputs.toarray(), gain * own)
    # Experts that classes share store an output for every class, so that it can be learnt.
    assert model.outputs.nnz == (own.size if n_experts < 3 else own.sum())
    assert_allclose(model.intercept, -gain * draft.scaling.threshold)


def test_the_margins_of_two_experts_become_half_their_difference():
    rng = np.random.RandomState(1)
    dense = rng.normal(size=(12, 2)) * (rng.uniform(size=(12, 2)) < 0.6)
    bias = rng.normal(size=2)
    single, single_bias = to_single_margin(sparse.csr_array(dense), bias)
    assert_allclose(single.toarray()[:, 0], (dense[:, 1] - dense[:, 0]) / 2, rtol=1e-15)
    assert_allclose(single_bias, [(bias[1] - bias[0]) / 2])


def test_a_single_margin_is_half_the_difference_of_two_scores():
    problem, draft, bias = connect_counts(n_classes=2)
    assert problem.data.binary
    single, _ = to_single_margin(draft.margins, np.zeros(2))
    model = model_from_margins(draft, single, bias)
    assert model.router.data.min() >= 0  # of the expert that a weight is positive for
    assert np.diff(model.router.indptr).max() == 1
    data, scores = draft.data, scores_of(model, draft.data.X)
    margin = (data.X @ single.toarray())[:, 0] + bias * data.geometry.bias_feature
    assert np.abs(margin).max() > 0.1
    assert_allclose(scores[:, 1] - scores[:, 0], 2 * draft.scaling.scale * margin, rtol=1e-10)


def test_multiplied_scores_can_be_divided_again_and_the_first_model_stays():
    problem, draft, bias = connect_counts()
    model = model_from_margins(draft, draft.margins, bias)
    model = model._replace(intercept=np.array([0.3, -0.1, 0.7]))
    before = model.copy()
    multiplied = multiply_scores(model, 5 / 3, 1.5)
    assert_allclose(multiplied.router.data, 5 / 3 * model.router.data)
    assert_allclose(multiplied.router_intercept, 5 / 3 * model.router_intercept)
    assert_allclose(multiplied.outputs.data, 1.5 * model.outputs.data)
    assert_allclose(multiplied.intercept, 1.5 * model.intercept)
    again = multiply_scores(multiplied, 3 / 5, 1 / 1.5)
    for mine, copy, back in zip(model.values(), before.values(), again.values(), strict=True):
        assert_array_equal(mine, copy)
        assert_allclose(back, copy, rtol=1e-14)


def test_a_complete_model_is_calibrated_and_takes_features_without_their_relevance():
    problem, draft, bias = connect_counts()
    model = model_from_margins(draft, draft.margins, bias)
    complete, scaling = complete_model(problem, draft, model), draft.scaling
    expected = scaling.score_factor * scores_of(model, draft.data.X)
    assert_allclose(scores_of(complete, problem.data.X), expected, rtol=1e-12)
    assert_allclose(complete.outputs.data, scaling.output_factor * model.outputs.data)
