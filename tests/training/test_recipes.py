"""Recipes as wholes: the order of stages and of steps, and what training leaves as it was.

A given number of epochs asks for the recipe with held-out samples, for any number of classes.
"""

from dataclasses import replace

import numpy as np
import pytest
from documents import draw_documents
from fitted_models import reference_codes
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.utils.class_weight import compute_sample_weight
from stages import IdleEngine, RecordingEngine, prepare, run, run_recipe

from skparse import SparseExpertClassifier
from skparse._training import connections
from skparse._training.connections import connect
from skparse._training.data import Exposure
from skparse._training.held_out import calibrate_intercept, hold_out
from skparse._training.linear import (
    EPOCHS_WITHOUT_HELD_OUT,
    LINEAR_EPOCHS,
    STREAM_EPOCHS,
    run_linear,
    start_linear,
)
from skparse._training.problem import Monitor
from skparse._training.recipes import FURTHER, HELD_OUT, STREAM, Recipe
from skparse._training.text_clusters import TRIAL_ALPHAS, TRIAL_EPOCHS
from skparse.datasets import make_topic_documents


def targets_of(y, multilabel):
    return np.column_stack([y == 0, y % 2, y > 1]).astype(int) if multilabel else y


def record_steps(steps, models=None):
    """Return a monitor that appends the name of each step, and the model after it, to lists."""

    def begin_step(name):
        steps.append(f"begin {name}")

        def end_step(build_model):
            steps.append(f"end {name}")
            if models is not None:
                models.append(build_model())
            return False

        return end_step

    return Monitor(begin_step)


def continue_training(X, y, model, *, in_stream=False, **parameters):
    """Return a problem, and a draft with a model that was trained before."""
    problem, draft = prepare(X, y, engine=RecordingEngine(), **parameters)
    if in_stream:
        options = replace(problem.options, in_stream=True, full_batch=False, max_iter=1)
        problem = replace(problem, options=options)
    return problem, replace(draft, model=model)


def assert_same_values(mine, theirs):
    for left, right in zip(mine.values(), theirs.values(), strict=True):
        assert_array_equal(left, right)


# Stages and steps


def test_stages_run_in_their_order_and_each_gets_the_draft_of_the_last():
    problem, draft = prepare(*draw_documents())
    steps = []
    problem = replace(problem, monitor=record_steps(steps))
    model = run_recipe(HELD_OUT, problem, draft).model
    steps.clear()

    def build_stage(name):
        def stage(given, draft):
            assert given.data is problem.data
            assert given.options is problem.options
            steps.append(name)
            return replace(draft, model=model, loss_curve=(*draft.loss_curve, name))

        return stage

    recipe = Recipe((build_stage("a"), build_stage("b")), (build_stage("c"), build_stage("d")))
    draft = run_recipe(recipe, problem, draft)
    assert steps == ["begin start", "a", "b", "end start", "c", "d"]
    assert draft.loss_curve == ("a", "b", "c", "d")


@pytest.mark.parametrize("recipe", [HELD_OUT, FURTHER])
def test_the_steps_are_one_start_and_every_epoch(recipe):
    X, y = draw_documents()
    problem, draft = prepare(X, y, max_iter=3, tol=0.0)
    model = run_recipe(HELD_OUT, problem, draft).model
    steps = []
    problem = replace(problem, monitor=record_steps(steps))
    if recipe is FURTHER:
        draft = replace(draft, model=model)
    run_recipe(recipe, problem, draft)
    assert steps == ["begin start", "end start", *["begin epoch", "end epoch"] * 3]


def test_the_model_of_every_step_is_complete():
    models = []
    problem, draft = prepare(
        *draw_documents(1100), engine=IdleEngine(), max_iter=2, monitor=record_steps([], models)
    )
    draft = run_recipe(HELD_OUT, problem, draft)
    # The engine has taken no step, so all models are the last one.
    assert len(models) == 3
    for model in models:
        for mine, theirs in zip(model.values(), draft.model.values(), strict=True):
            assert_allclose(mine, theirs, rtol=1e-12)


def test_following_the_steps_does_not_change_the_model():
    problem, draft = prepare(*draw_documents())
    model = run_recipe(HELD_OUT, problem, draft).model
    problem, draft = prepare(*draw_documents(), monitor=record_steps([], []))
    assert_same_values(run_recipe(HELD_OUT, problem, draft).model, model)


# What training leaves as it was


def test_training_leaves_the_data_it_was_given():
    problem, draft = prepare(*draw_documents(1100))
    data = problem.data
    before = data.X.copy(), data.sample_weight.copy(), data.labels.indices.copy(), data.geometry
    trained = run_recipe(HELD_OUT, problem, draft)
    assert_array_equal(data.X.toarray(), before[0].toarray())
    assert_array_equal(data.sample_weight, before[1])
    assert_array_equal(data.labels.indices, before[2])
    assert data.geometry == before[3]
    assert data.relevance is None
    assert trained.data.relevance is not None


@pytest.mark.parametrize("in_stream", [False, True])
def test_training_leaves_the_model_it_begins_with(in_stream):
    X, y = draw_documents()
    model = run_recipe(HELD_OUT, *prepare(X, y)).model
    before = model.copy()
    problem, draft = continue_training(X, y, model, in_stream=in_stream)
    trained = run_recipe(STREAM if in_stream else FURTHER, problem, draft).model
    assert np.abs(trained.router.toarray() - model.router.toarray()).max() > 0
    assert_same_values(model, before)


# The recipe of a new model


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("n_samples", [1024, 2000])
def test_held_out_samples_join_the_last_linear_epochs(n_samples, n_classes):
    problem, draft = prepare(*draw_documents(n_samples, n_classes), engine=RecordingEngine())
    held_out = run_recipe(HELD_OUT, problem, draft).held_out
    assert held_out.any()
    orders = problem.engine.orders("linear_epoch")
    n_trial = 2 * len(TRIAL_ALPHAS) * TRIAL_EPOCHS if n_classes == 2 or n_samples == 2000 else 0
    assert len(orders) == n_trial + LINEAR_EPOCHS
    for epoch, order in enumerate(orders[n_trial:]):
        visits = np.bincount(order, minlength=n_samples)
        is_without = epoch < EPOCHS_WITHOUT_HELD_OUT
        assert visits[~held_out].min() == visits[~held_out].max() >= 1
        assert set(visits[held_out]) == {0 if is_without else visits[~held_out][0]}
    for order in problem.engine.orders("nested_epoch"):
        assert np.bincount(order, minlength=n_samples).min() >= 1


@pytest.mark.parametrize("multilabel", [False, True])
def test_all_linear_epochs_visit_all_samples_of_small_data_or_multilabel_targets(multilabel):
    X, y = draw_documents(1100 if multilabel else 1023)
    problem, draft = prepare(X, targets_of(y, multilabel), engine=RecordingEngine())
    run_recipe(HELD_OUT, problem, draft)
    orders = problem.engine.orders("linear_epoch")
    assert len(orders) == LINEAR_EPOCHS
    for order in orders:
        visits = np.bincount(order, minlength=len(y))
        assert visits.min() == visits.max() >= 1


@pytest.mark.parametrize("n_samples", [300, 1100])
def test_the_step_schedule_of_the_linear_epochs_counts_the_visited_weight(n_samples):
    X, y = draw_documents(n_samples)
    weight = np.random.RandomState(1).uniform(0.5, 2, size=n_samples)
    problem, draft = prepare(X, y, weight, engine=RecordingEngine())
    run_recipe(HELD_OUT, problem, draft)
    visited = [weight[order].sum() for order in problem.engine.orders("linear_epoch")]
    schedules = [schedule for *_, schedule, _ in problem.engine.calls["linear_epoch"]]
    expected = np.concatenate([[0], np.cumsum(visited)[:-1]])
    assert_allclose([schedule.seen for schedule in schedules], expected, rtol=1e-12)
    assert len({schedule._replace(seen=0.0) for schedule in schedules}) == 1


@pytest.mark.parametrize("parameters", [{}, {"n_experts": 6}, {"n_experts": 3}], ids=str)
def test_the_first_linear_epochs_do_not_depend_on_the_labels_of_held_out_samples(
    parameters, monkeypatch
):
    # Every pair is connected and the classes stay as frequent: the rest may not depend on them.
    monkeypatch.setattr(connections, "choose_prior_strength", lambda *_: 0.1)
    X, y = draw_documents(1100)
    stages = hold_out, connect, start_linear, run_linear
    held_out = run(*prepare(X, y), hold_out).held_out
    rng, models = np.random.RandomState(0), []
    for rows in ([], np.flatnonzero(held_out), np.flatnonzero(~held_out)[:50]):
        shuffled = y.copy()
        shuffled[rows] = rng.permutation(shuffled[rows])
        draft = run(*prepare(X, shuffled, weight_density=1.0, **parameters), *stages)
        assert_array_equal(draft.held_out, held_out)
        models.append(draft.model)
    model, without_them, other = (m.router.toarray() for m in models)
    assert_allclose(without_them, model, rtol=1e-9, atol=1e-12)
    assert_allclose(models[1].router_intercept, models[0].router_intercept, rtol=1e-9)
    assert np.abs(other - model).max() > 1e-3


@pytest.mark.parametrize("n_samples", [100, 300, 1100])
@pytest.mark.parametrize("n_classes", [2, 4])
def test_the_model_takes_features_in_the_units_of_the_user(n_classes, n_samples):
    # Training multiplies the features by their relevance; the model takes them as they are.
    X, y = draw_documents(n_samples, n_classes)
    problem, draft = prepare(X, y, max_iter=1, engine=IdleEngine())
    trained = run_recipe(HELD_OUT, problem, draft)
    indptr, indices, values = problem.engine.calls["nested_epoch"][0][0]
    rows = sparse.csr_array((values, indices, indptr), shape=X.shape)
    in_training = problem.engine.calls["nested_epoch"][0][2]
    router = in_training.router
    router = sparse.csr_array(
        (router.data, router.indices, router.indptr), (X.shape[1], n_classes)
    )
    assert np.abs(rows.toarray() - X.toarray()).max() > 0.1
    if trained.data.row_factors is not None:
        rows = sparse.diags_array(1 / trained.data.row_factors) @ rows
    scores = rows @ router.toarray() + in_training.router_intercept
    found = X @ trained.model.router.toarray() + trained.model.router_intercept
    expected = trained.scaling.score_factor * scores
    assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


# Recipes that continue


def test_further_training_has_epochs_of_the_own_loss_only_and_keeps_the_scaling():
    X, y = draw_documents(1100)
    first = run_recipe(HELD_OUT, *prepare(X, y))
    problem, draft = continue_training(X, y, first.model, max_iter=2, tol=0.0)
    draft = replace(draft, scaling=first.scaling, alpha=2.5)
    further = run_recipe(FURTHER, problem, draft)
    n_calls = {name: len(calls) for name, calls in problem.engine.calls.items()}
    assert n_calls.pop("nested_epoch") == 2 and set(n_calls.values()) == {0}
    assert further.scaling == first.scaling
    assert further.alpha == 2.5
    assert len(further.loss_curve) == 2


def test_further_training_prunes_after_new_connections_have_been_trained():
    X, y = draw_documents(600)
    X = sparse.hstack([X, sparse.csr_array(5.0 * np.eye(4)[y])], format="csr")
    unseen = X.toarray()
    unseen[:, -4:] = 0
    first = run_recipe(HELD_OUT, *prepare(unseen, y, weight_density=0.3))
    assert first.model.router[-4:].nnz == 0
    # Other labels than before, so that the epochs change the model much.
    problem, draft = continue_training(
        X, (y + 1) % 4, first.model, weight_density=0.3, max_iter=10, learning_rate_init=1.0
    )
    router = run_recipe(FURTHER, problem, replace(draft, scaling=first.scaling)).model.router
    # Connections begin at zero, so pruning before the epochs would have taken these first.
    assert router.nnz <= round(0.3 * np.prod(router.shape))
    assert np.abs(router[-4:].toarray()).max() > 0


def test_a_stream_visits_its_samples_once_in_each_of_its_three_epochs():
    X, y = draw_documents(100)
    first = run_recipe(HELD_OUT, *prepare(X, y))
    problem, draft = continue_training(X, y, first.model, in_stream=True, batch_size=10)
    earlier = Exposure(np.zeros(X.shape[1]), np.zeros(4), 1000.0)
    streamed = run_recipe(STREAM, problem, replace(draft, earlier=earlier))
    orders = [problem.engine.orders(name) for name in ("linear_epoch", "nested_epoch")]
    assert [len(of_name) for of_name in orders] == [STREAM_EPOCHS, 1]
    for order in [*orders[0], *orders[1]]:
        assert_array_equal(np.sort(order), np.arange(100))
    assert not problem.engine.calls["embedding_epoch"]
    seen = [schedule.seen for *_, schedule, _ in problem.engine.calls["linear_epoch"]]
    assert seen == [1000.0, 1100.0]
    assert streamed.exposure.total == 1100.0
    assert streamed.scaling == draft.scaling


def test_a_stream_begins_without_a_model():
    problem, draft = continue_training(*draw_documents(), None, in_stream=True)
    streamed = run_recipe(STREAM, problem, draft)
    assert streamed.held_out is None
    assert streamed.scaling == draft.scaling
    assert streamed.exposure.total == 300.0
    assert len(streamed.loss_curve) == 1


# Estimators


@pytest.mark.parametrize("n_samples", [100, 1100])
@pytest.mark.parametrize("multilabel", [False, True])
def test_codes_by_hand_from_the_weights_of_the_model_equal_transform(n_samples, multilabel):
    X, y = draw_documents(n_samples)
    model = SparseExpertClassifier(top_k=2, random_state=0).fit(X, targets_of(y, multilabel))
    codes = model.transform(X)
    assert codes.nnz > n_samples
    assert_allclose(codes.toarray(), reference_codes(model, X, top_k=2), rtol=1e-9, atol=1e-12)


def test_the_same_seed_gives_the_same_model_and_another_seed_another():
    X, y = draw_documents()
    first, again, other = (
        SparseExpertClassifier(random_state=seed).fit(X, y) for seed in (0, 0, 1)
    )
    assert_array_equal(first.router_coef_.data, again.router_coef_.data)
    assert_array_equal(first.expert_coef_.data, again.expert_coef_.data)
    assert np.abs(first.router_coef_.data - other.router_coef_.data).max() > 0


@pytest.mark.parametrize("n_experts", ["auto", 9, 3])
@pytest.mark.parametrize("multilabel", [False, True])
def test_a_weight_of_two_is_a_row_given_twice_in_full_batches(n_experts, multilabel):
    X, y = draw_documents(40)
    y = targets_of(y, multilabel)
    weight = np.random.RandomState(0).randint(0, 4, size=40)
    rows = np.repeat(np.arange(40), weight)
    by_weight, by_rows = (
        SparseExpertClassifier(n_experts=n_experts, random_state=0).fit(*samples)
        for samples in ((X, y, weight), (X[rows], y[rows]))
    )
    assert_allclose(by_weight.predict_proba(X), by_rows.predict_proba(X), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("n_samples", [100, 1000])
def test_classes_that_differ_in_the_sign_of_two_opposite_features_are_separated(n_samples):
    y = np.random.RandomState(0).randint(2, size=n_samples)
    x = 2.0 * y - 1
    X = np.column_stack([x, -x])
    assert SparseExpertClassifier(random_state=0).fit(X, y).score(X, y) == 1.0


@pytest.mark.parametrize("n_rows", [20, 100, 150, 500])
def test_a_stream_of_pieces_of_any_size_is_about_as_accurate_as_a_fit(n_rows):
    X, y = make_topic_documents(3000, 500, 20, n_classes=10, random_state=0, return_X_y=True)
    classes = np.arange(10)
    stream, whole = (SparseExpertClassifier(random_state=0) for _ in range(2))
    for first in range(0, 2000, n_rows):
        piece = slice(first, min(first + n_rows, 2000))
        stream.partial_fit(X[piece], y[piece], classes=classes)
    accuracy = whole.fit(X[:2000], y[:2000]).score(X[2000:], y[2000:])
    assert stream.score(X[2000:], y[2000:]) >= accuracy - 0.02


def draw_unequal_classes(n_samples):
    """Draw documents of two classes, one of which has few samples."""
    X, y = draw_documents(n_samples, 2)
    return X, np.where((y == 1) & (np.arange(n_samples) % 4 > 0), 0, y)


TWO_EXPERTS = [{}, {"top_k": 1}, {"class_weight": "balanced"}]


@pytest.mark.parametrize("parameters", TWO_EXPERTS, ids=str)
def test_with_held_out_samples_two_experts_have_the_same_output_and_b2_is_calibrated(parameters):
    X, y = draw_unequal_classes(2500)
    model = SparseExpertClassifier(n_experts=2, max_iter=4, random_state=0, **parameters)
    model.fit(X, y)
    assert len(np.unique(model.expert_coef_.data)) == 1
    assert_array_equal(model.expert_coef_.indices, [0, 1])
    options = {"n_experts": 2, "top_k": model.top_k, "max_iter": 4}
    problem, draft = prepare(X, y, balanced_weight(model, y), **options)
    draft = run_recipe(HELD_OUT, problem, draft)
    assert_array_equal(draft.model.router.data, model.router_coef_.data)
    uncalibrated = draft.model._replace(intercept=np.zeros(2))
    shifted = calibrate_intercept(problem, draft, uncalibrated)
    assert_array_equal(model.intercept_, shifted.intercept)
    assert np.abs(model.intercept_).max() > 0.001


def balanced_weight(model, y):
    """Return the weights of the samples by the class weights of a model."""
    return compute_sample_weight(model.class_weight, y)


@pytest.mark.parametrize("parameters", TWO_EXPERTS, ids=str)
def test_of_few_samples_two_experts_have_the_same_output_and_b2_is_zero(parameters):
    X, y = draw_unequal_classes(128)
    model = SparseExpertClassifier(max_iter=4, random_state=0, **parameters).fit(X, y)
    assert_array_equal(model.intercept_, 0)
    assert len(np.unique(model.expert_coef_.data)) == 1
    assert_array_equal(model.expert_coef_.indices, [0, 1])
    at_any = model.predict_proba_path(X, range(1, model.top_k_ + 1)).argmax(axis=2)
    assert_array_equal(at_any, np.broadcast_to(at_any[0], at_any.shape))
