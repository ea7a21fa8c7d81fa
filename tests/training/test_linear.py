"""Stages of linear epochs: which samples they visit, where they begin, and how well they fit."""

from dataclasses import replace

import numpy as np
import pytest
from linear_epochs import assert_same_average, assert_same_run, draw_documents
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.svm import LinearSVC
from stages import prepare, run

from skparse import SparseExpertClassifier
from skparse._training import linear
from skparse._training.connections import connect, grow_connections
from skparse._training.data import SMALL_SAMPLE, Exposure
from skparse._training.held_out import hold_out
from skparse._training.linear import advance_linear, run_linear, start_linear
from skparse._training.linear_run import begin_run, run_epochs
from skparse._training.naive_bayes import start_new_features
from skparse._training.problem import draw_order
from skparse._training.scores import (
    margins_from_model,
    model_from_margins,
    multiply_scores,
    to_single_margin,
)
from skparse._training.text_clusters import choose_experts

# Both turns of the linear epochs: without held-out samples, and with all.
LINEAR_STAGES = hold_out, choose_experts, connect, start_linear, run_linear, run_linear


def train_linear(X, y, sample_weight=None, **parameters):
    """Run all linear epochs of a fit; returns the draft."""
    return run(*prepare(X, y, sample_weight, **parameters), *LINEAR_STAGES)


def scores_of(draft):
    """Return the router scores of the training samples."""
    return draft.data.X @ draft.model.router.toarray() + draft.model.router_intercept


def assert_close_models(mine, theirs, **tolerance):
    assert_array_equal(mine.router.indices, theirs.router.indices)
    for left, right in zip(mine.values(), theirs.values(), strict=True):
        assert_allclose(left, right, **tolerance)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("n_threads", [2, 3, 4, 6, 50])
def test_any_number_of_threads_gives_the_same_bits(n_threads, dtype):
    X, y = draw_documents(dtype=dtype)
    alone, together = (train_linear(X, y, n_threads=n) for n in (1, n_threads))
    assert_close_models(together.model, alone.model, rtol=0, atol=0)


def test_threads_give_the_same_bits_with_shared_classes_and_multilabel_targets():
    X, y = draw_documents()
    labels = np.column_stack([y == 0, y % 2, y > 2]).astype(int)
    for target, n_experts in ((y, 10), (y, 4), (y, 37), (labels, "auto"), (labels, 2)):
        alone = train_linear(X, target, n_experts=n_experts)
        for n_threads in (2, 3, 5):
            together = train_linear(X, target, n_experts=n_experts, n_threads=n_threads)
            assert_close_models(together.model, alone.model, rtol=0, atol=0)


@pytest.mark.parametrize("n_classes", [2, 6])
def test_the_first_linear_epochs_visit_no_held_out_sample_and_the_last_visit_all(n_classes):
    X, y = draw_documents(1100, n_classes=n_classes)
    problem, draft = prepare(X, y)
    draft = run(problem, draft, hold_out, connect, start_linear)
    without, with_all = draft.orders
    n_without = linear.EPOCHS_WITHOUT_HELD_OUT
    assert len(without) == n_without
    assert len(with_all) == linear.LINEAR_EPOCHS - n_without
    visited = np.flatnonzero(~draft.held_out)
    for order in without:
        assert_array_equal(np.unique(order), visited)
    for order in with_all:
        assert_array_equal(np.unique(order), np.arange(1100))


def test_without_held_out_samples_all_linear_epochs_run_at_once():
    problem, draft = prepare(*draw_documents())
    once = run(problem, draft, *LINEAR_STAGES[:-1])
    assert not once.held_out.any()
    assert once.run.n_epochs == linear.LINEAR_EPOCHS
    twice = run_linear(problem, once)
    assert twice.model is once.model
    assert twice.run is once.run


def test_linear_epochs_that_have_run_are_not_run_again():
    problem, draft = prepare(*draw_documents())
    begun = run(problem, draft, hold_out, connect, start_linear)
    some = run_epochs(problem, begun.data, begun.run, begun.orders[0][:3], begun.alpha)
    further = run_linear(problem, replace(begun, run=some))
    assert_same_run(further.run, run_linear(problem, begun).run)


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("n_classes", [2, 6])
def test_the_epochs_with_all_samples_begin_at_the_average_of_those_before(n_classes, n_threads):
    X, y = draw_documents(1100, n_classes=n_classes)
    problem, draft = prepare(X, y, n_threads=n_threads)
    without = run(problem, draft, *LINEAR_STAGES[:-1])
    with_all = run_linear(problem, without)
    orders, data = without.orders[0], without.data
    assert without.run.n_epochs == linear.EPOCHS_WITHOUT_HELD_OUT
    assert with_all.run.n_epochs == len(orders)
    # The step lengths go on: only where the margins begin and what is averaged are new.
    anew = begin_run(problem, data, *without.run.average())
    expected = run_epochs(
        problem, data, anew._replace(seen=without.run.seen), orders, without.alpha
    )
    assert with_all.run.seen == expected.seen
    assert_same_average(with_all.run, expected)
    model = model_from_margins(without, *expected.average())
    assert_close_models(with_all.model, model, rtol=0, atol=0)
    longer_steps = run_epochs(problem, data, anew, orders, without.alpha)
    difference = longer_steps.average()[0].data - expected.average()[0].data
    assert np.abs(difference).max() > 0.001


@pytest.mark.parametrize("n_samples", [100, 600])
@pytest.mark.parametrize("n_classes", [2, 6])
def test_linear_epochs_fit_about_as_well_as_linear_svc(n_classes, n_samples):
    X, y = draw_documents(n_samples, n_classes=n_classes)
    accuracy = np.mean(scores_of(train_linear(X, y)).argmax(axis=1) == y)
    assert accuracy >= LinearSVC(random_state=0).fit(X, y).score(X, y) - 0.01


def test_linear_epochs_separate_dense_data_of_few_features():
    rng = np.random.RandomState(0)
    X = np.concatenate([rng.normal(size=(150, 2)), rng.normal(size=(150, 2)) + [6, 6]])
    y = np.repeat([0, 1], 150)
    assert np.mean(scores_of(train_linear(X, y)).argmax(axis=1) == y) >= 0.99


def test_the_penalty_shrinks_the_weights():
    X, y = draw_documents()
    X.data *= np.random.RandomState(0).choice([-1, 1], size=X.nnz)  # starts at zero margins
    norms = [
        np.linalg.norm(train_linear(X, y, alpha=alpha).model.router.data)
        for alpha in (0.1, 1.0, 10.0, 100.0)
    ]
    assert norms == sorted(norms, reverse=True)
    assert norms[-1] < 0.2 * norms[0]


@pytest.mark.parametrize("factor", [2.0**-10, 37.0, 1e4])
def test_the_margins_do_not_depend_on_the_unit_of_the_features(factor):
    X, y = draw_documents()
    model, scaled = (train_linear(unit * X, y).model for unit in (1.0, factor))
    scaled.router.data[:] *= factor
    assert_close_models(scaled, model, rtol=1e-7, atol=1e-9)


def test_a_weight_of_two_is_a_sample_given_twice_in_full_batches():
    X, y = draw_documents(40, 60, n_classes=3)
    weight = np.random.RandomState(0).randint(1, 4, size=40)
    repeated = np.repeat(np.arange(40), weight)
    by_weight = train_linear(X, y, weight.astype(float))
    by_rows = train_linear(X[repeated], y[repeated])
    assert len(repeated) <= SMALL_SAMPLE
    assert_close_models(by_weight.model, by_rows.model, rtol=1e-9, atol=1e-11)


def test_the_order_of_the_samples_has_no_effect_in_full_batches():
    X, y = draw_documents(60, 60, n_classes=3)
    rows = np.random.RandomState(0).permutation(60)
    in_order, shuffled = (train_linear(X[some], y[some]).model for some in (slice(None), rows))
    assert_close_models(shuffled, in_order, rtol=1e-9, atol=1e-11)


def grow_stream(n_classes):
    """Return (problem, draft) with a model that was trained without most of the features.

    Some samples of the stream have other labels than before.
    """
    X, y = draw_documents(n_classes=n_classes)
    earlier = X.copy()
    earlier.data[earlier.indices >= 30] = 0
    earlier.eliminate_zeros()
    before = train_linear(earlier, y)
    y = np.where(np.arange(len(y)) % 5 == 0, (y + 1) % n_classes, y)
    problem, draft = prepare(X, y, batch_size=32)
    model = multiply_scores(
        before.model, before.scaling.score_factor, before.scaling.output_factor
    )
    outputs, intercept = model.outputs.copy(), model.intercept + 0.3
    outputs.data *= 1.5
    model = model._replace(outputs=outputs, intercept=intercept)
    known = Exposure(*(np.zeros_like(part) for part in before.data.exposure[:2]), 1e4)
    return problem, grow_connections(problem, replace(draft, model=model, earlier=known))


@pytest.mark.parametrize("n_classes", [2, 6])
def test_linear_epochs_of_a_stream_keep_outputs_and_b2(n_classes):
    problem, draft = grow_stream(n_classes)
    assert problem.data.binary == (n_classes == 2)
    moved = advance_linear(problem, draft).model
    assert moved.outputs is draft.model.outputs
    assert moved.intercept is draft.model.intercept
    if n_classes == 6:
        assert_array_equal(moved.router.indices, draft.model.router.indices)
    assert np.abs(moved.router_intercept - draft.model.router_intercept).max() > 0.001


@pytest.mark.parametrize("n_classes", [2, 6])
def test_linear_epochs_of_a_stream_begin_at_its_margins_and_at_log_odds_of_new_features(n_classes):
    moved = advance_linear(*grow_stream(n_classes))
    problem, draft = grow_stream(n_classes)
    data = draft.data
    assert draft.new_features.any() and not draft.new_features.all()
    margins, bias = margins_from_model(draft.model, data, draft.scaling)
    margins = start_new_features(margins, draft.new_features, data)
    if n_classes == 2:
        margins, bias = to_single_margin(margins, bias)
    orders = [draw_order(problem, data) for _ in range(linear.STREAM_EPOCHS)]
    begun = begin_run(problem, data, margins, bias)
    run = run_epochs(problem, data, begun, orders, draft.alpha, earlier=draft.earlier.total)
    expected = model_from_margins(draft, *run.average())
    assert_array_equal(moved.model.router.data, expected.router.data)
    assert_array_equal(moved.model.router_intercept, expected.router_intercept)


def test_linear_epochs_of_a_stream_raise_the_accuracy_on_its_samples():
    problem, draft = grow_stream(6)
    y = draft.data.labels.indices
    before, after = (
        np.mean(scores_of(some).argmax(axis=1) == y)
        for some in (draft, advance_linear(problem, draft))
    )
    assert after > before + 0.05


@pytest.mark.parametrize("n_samples", [100, 500, 6000])
def test_a_whole_fit_is_the_same_for_any_number_of_threads(n_samples):
    X, y = draw_documents(n_samples)
    one, *others = (
        SparseExpertClassifier(n_jobs=n_jobs, random_state=0).fit(X, y) for n_jobs in (1, 2, 5)
    )
    for other in others:
        assert_array_equal(one.router_coef_.data, other.router_coef_.data)
        assert_array_equal(one.router_intercept_, other.router_intercept_)
        assert_array_equal(one.expert_coef_.data, other.expert_coef_.data)
        assert_array_equal(one.predict_proba(X), other.predict_proba(X))
