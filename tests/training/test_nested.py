"""Epochs on the model's own loss: levels of K, orders, steps, averages, and when they stop."""

from dataclasses import replace

import numpy as np
import pytest
from documents import draw_documents
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from stages import IdleEngine, prepare, run

from skparse import SparseExpertClassifier
from skparse._model import SparseExpertModel
from skparse._training.completion import complete_model
from skparse._training.nested import (
    SHARD_ROWS,
    draw_batch_top_k,
    run_epoch,
    step_lengths,
    train_nested,
)
from skparse._training.problem import UPDATES_PER_EPOCH, Monitor, draw_order
from skparse.datasets import make_topic_documents


class ScriptedEngine:
    """Sets all numbers of a model to the next of ``values`` and returns the next of ``losses``."""

    def __init__(self, values, losses):
        self._script = iter(zip(values, losses, strict=True))

    def find_empty(self, X, first, last, router):
        return np.zeros(last - first, bool)

    def nested_epoch(self, X, rows, model, *_):
        value, loss = next(self._script)
        for array in (model.router.data, model.router_intercept, model.outputs.data):
            array[:] = value
        model.intercept[:] = value
        return 1.0, loss * len(rows.order)


def draw_model(n_features, n_experts=4, *, seed=0):
    rng = np.random.RandomState(seed)
    return SparseExpertModel(
        sparse.csr_array(rng.normal(size=(n_features, n_experts))),
        rng.normal(size=n_experts) + 5,
        sparse.csr_array(np.eye(n_experts)),
        np.zeros(n_experts),
    )


def prepare_nested(n_samples=300, *, seed=0, **parameters):
    """Return a problem and a draft with a random model and no calibration factors."""
    X, y = draw_documents(n_samples, seed=seed)
    problem, draft = prepare(X, y, **parameters)
    scaling = draft.scaling._replace(score_factor=1.0, output_factor=1.0)
    return problem, replace(draft, model=draw_model(X.shape[1]), scaling=scaling)


def run_script(values, losses, scores=None, *, stop_after=None, **parameters):
    """Run nested epochs by a script of values, losses and validation scores.

    Returns the draft, and the values of the models that were validated.
    """
    validated, remaining, n_ended = [], iter(scores or []), []

    def validate(model):
        validated.append(float(model.intercept[0]))
        return next(remaining)

    def begin_step(name):
        assert name == "epoch"

        def end_step(build_model):
            n_ended.append(float(build_model().intercept[0]))
            return len(n_ended) == stop_after

        return end_step

    problem, draft = prepare_nested(
        engine=ScriptedEngine(values, losses),
        max_iter=len(values),
        monitor=Monitor(begin_step, validate if scores else None),
        **parameters,
    )
    draft = train_nested(problem, draft)
    epochs = range(1, len(draft.loss_curve) + 1)
    assert_allclose(n_ended, [average(values[:n]) for n in epochs])
    return draft, validated


def average(values):
    """Average in which value t counts in proportion to t."""
    return sum(t * v for t, v in enumerate(values, start=1)) / sum(range(1, len(values) + 1))


# Levels of K


@pytest.mark.parametrize("top_k", [1, 2, 3, 4, 8, 13, 64])
def test_batches_keep_from_two_experts_to_top_k(top_k):
    problem, _ = prepare_nested()
    levels = np.unique(draw_batch_top_k(problem, 10_000, top_k))
    assert levels[0] == 2
    assert levels[-1] == max(2, top_k)
    assert np.all(levels[1:] <= 2 * levels[:-1])


@pytest.mark.parametrize(("n_rows", "n_batches"), [(1, 1), (32, 1), (33, 2), (1000, 32)])
def test_every_mini_batch_has_a_level(n_rows, n_batches):
    problem, _ = prepare_nested()
    found = draw_batch_top_k(problem, n_rows, 8)
    assert found.shape == (n_batches,)
    assert found.dtype == np.int64


@pytest.mark.parametrize(
    ("top_k", "levels"), [(1, {2}), (2, {2}), (3, {2, 3}), (8, {2, 4, 8}), (64, {2, 4, 8, 12})]
)
def test_every_level_is_trained_in_an_epoch(top_k, levels):
    X, y = make_topic_documents(1000, 200, 12, n_classes=12, random_state=0, return_X_y=True)
    problem, draft = prepare(X, y, top_k=top_k, engine=IdleEngine(), max_iter=3, tol=0.0)
    train_nested(problem, replace(draft, model=draw_model(200, 12)))
    calls = problem.engine.calls["nested_epoch"]
    assert len(calls) == 3
    for *_, batch_top_k, _, _ in calls:
        assert set(batch_top_k) == levels


# Orders


@pytest.mark.parametrize("n_samples", [1, 2, 31, 33, 65, 128, 129, 200, 1000, 3000])
@pytest.mark.parametrize("batch_size", ["auto", 1, 7, 32, 500])
def test_an_epoch_visits_every_row_equally_often_and_makes_enough_updates(n_samples, batch_size):
    X = sparse.csr_array(np.ones((n_samples, 1)))
    problem, draft = prepare(X, np.arange(n_samples) % 2, batch_size=batch_size)
    order = draw_order(problem, draft.data)
    visits = np.bincount(order, minlength=n_samples)
    assert visits.min() == visits.max() >= 1
    assert -(-len(order) // problem.options.batch_size) >= UPDATES_PER_EPOCH


def test_an_epoch_of_many_rows_visits_each_once_in_random_order():
    problem, draft = prepare_nested(3000)
    order = draw_order(problem, draft.data)
    assert_array_equal(np.sort(order), np.arange(3000))
    assert not np.array_equal(order, np.arange(3000))
    assert not np.array_equal(order, draw_order(problem, draft.data))


def test_full_batches_leave_the_rows_in_place():
    problem, draft = prepare_nested(50)
    order = draw_order(problem, draft.data)
    assert problem.options.batch_size == 50
    assert_array_equal(order.reshape(-1, 50), np.tile(np.arange(50), (len(order) // 50, 1)))


def test_an_epoch_of_a_stream_visits_few_rows_once():
    problem, draft = prepare_nested(50, batch_size=10)
    problem = replace(problem, options=replace(problem.options, in_stream=True))
    assert_array_equal(np.sort(draw_order(problem, draft.data)), np.arange(50))


# Steps


def steps_of(X, weight, **parameters):
    """Return the steps of all rows, and the shrinkage, for rows of four classes."""
    problem, draft = prepare(X, np.arange(X.shape[0]) % 4, weight, **parameters)
    return step_lengths(draft.data, problem.options, draft.alpha, draft.scaling)


@pytest.mark.parametrize("n_samples", [100, 1000])
def test_steps_do_not_depend_on_the_unit_of_the_features(n_samples):
    X, _ = draw_documents(n_samples)
    weight = np.random.RandomState(0).uniform(0.5, 2, size=n_samples)
    steps, shrinkage = steps_of(X, weight)
    # Scores move by the step times a squared norm.
    scaled, same = steps_of(37 * X, weight)
    assert_allclose(37**2 * scaled, steps, rtol=1e-9)
    assert same == pytest.approx(shrinkage, rel=1e-9)


@pytest.mark.parametrize(("n_samples", "factor"), [(100, 8), (1000, 1)])
def test_larger_sample_weights_leave_the_steps_and_weaken_the_penalty_of_full_batches(
    n_samples, factor
):
    X, _ = draw_documents(n_samples)
    weight = np.random.RandomState(0).uniform(0.5, 2, size=n_samples)
    steps, shrinkage = steps_of(X, weight)
    same, smaller = steps_of(X, 8 * weight)
    assert_allclose(same, steps, rtol=1e-12)
    assert factor * smaller == pytest.approx(shrinkage, rel=1e-12)


def test_a_full_batch_gives_a_sample_of_weight_two_the_steps_of_two_samples():
    X, _ = draw_documents(40)
    weight = np.ones(40)
    weight[4:8] = 2
    rows = np.r_[np.arange(40), 4:8]
    target = np.arange(40) % 4
    (mine, penalty), (theirs, same) = (
        step_lengths(draft.data, problem.options, draft.alpha, draft.scaling)
        for problem, draft in (prepare(X, target, weight), prepare(X[rows], target[rows]))
    )
    both = np.bincount(rows, theirs)
    assert_allclose(mine, both, rtol=1e-9)
    assert same == pytest.approx(penalty, rel=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_steps_have_the_dtype_of_the_data_and_the_shrinkage_stays_below_a_half(dtype):
    X, _ = draw_documents(200, dtype=dtype)
    steps, shrinkage = steps_of(X, None, alpha=1e9)
    assert steps.dtype == dtype
    assert shrinkage == 0.5


# One epoch


@pytest.mark.parametrize("n_samples", [300, SHARD_ROWS - 1])
def test_an_epoch_of_fewer_rows_is_trained_as_a_whole(n_samples):
    problem, draft = prepare_nested(n_samples, engine=IdleEngine())
    run_epoch(problem, draft, draft.model)
    (order,) = problem.engine.orders("nested_epoch")
    assert set(order) == set(range(n_samples))


@pytest.mark.parametrize("n_threads", [1, 2])
def test_an_epoch_of_many_rows_is_the_average_of_two_shards(n_threads):
    engine = IdleEngine()
    problem, draft = prepare_nested(SHARD_ROWS, engine=engine, n_threads=n_threads)
    run_epoch(problem, draft, draft.model)
    shards = engine.orders("nested_epoch")
    assert [len(shard) for shard in shards] == [SHARD_ROWS // 2] * 2
    assert_array_equal(np.sort(np.concatenate(shards)), np.arange(SHARD_ROWS))
    scripted = replace(problem, engine=ScriptedEngine([1.0, 4.0], [3.0, 5.0]))
    model, loss = run_epoch(scripted, draft, draft.model)
    for array in model.values():
        assert_allclose(array, 2.5, rtol=1e-14)
    assert loss == pytest.approx(4.0)


def test_each_shard_takes_steps_of_twice_the_length():
    of_shards, whole = (
        prepare_nested(n, engine=IdleEngine()) for n in (SHARD_ROWS, SHARD_ROWS - 1)
    )
    for (problem, draft), n_shards in ((of_shards, 2), (whole, 1)):
        run_epoch(problem, draft, draft.model)
        data, options = draft.data, problem.options
        steps, shrinkage = step_lengths(data, options, draft.alpha, draft.scaling)
        calls = problem.engine.calls["nested_epoch"]
        assert len(calls) == n_shards
        for _, rows, _, _, nested_options, _ in calls:
            assert_array_equal(rows.step_lengths, n_shards * steps)
            assert nested_options.shrinkage == n_shards * shrinkage


def test_an_epoch_leaves_the_model_that_it_begins_with():
    for n_samples in (300, SHARD_ROWS):
        problem, draft = prepare_nested(n_samples)
        before = draft.model.copy()
        model, _ = run_epoch(problem, draft, draft.model)
        assert np.abs(model.router.data - before.router.data).max() > 0
        for mine, copy in zip(draft.model.values(), before.values(), strict=True):
            assert_array_equal(mine, copy)


@pytest.mark.parametrize(
    ("n_classes", "n_experts", "multilabel", "are_trained"),
    [
        (2, 2, False, False),
        (4, 4, False, False),
        (4, 8, False, False),
        (4, 3, False, True),
        (4, 4, True, True),
    ],
)
def test_outputs_are_trained_where_experts_share_classes_or_samples_have_several_labels(
    n_classes, n_experts, multilabel, are_trained
):
    X, y = draw_documents(n_classes=n_classes)
    y = (y[:, None] == np.arange(n_classes)).astype(int) if multilabel else y
    model = SparseExpertClassifier(n_experts=n_experts, random_state=0).fit(X, y)
    assert model.expert_coef_.shape == (n_experts, n_classes)
    assert (np.ptp(model.expert_coef_.data) > 0) == are_trained


# Averages, and when training stops


def test_the_result_is_the_average_in_which_later_epochs_count_more():
    values = [3.0, -1.0, 4.0, 1.5]
    draft, _ = run_script(values, losses=[4.0, 3.0, 2.0, 1.0])
    for array in draft.model.values():
        assert_allclose(array, average(values), rtol=1e-14)
    assert_allclose(draft.loss_curve, [4.0, 3.0, 2.0, 1.0])
    assert draft.validation_scores == ()


def test_losses_are_appended_to_those_of_earlier_calls_of_a_stream():
    problem, draft = prepare_nested(engine=ScriptedEngine([1.0], [2.0]), max_iter=1)
    draft = train_nested(problem, replace(draft, loss_curve=(5.0, 4.0)))
    assert draft.loss_curve == (5.0, 4.0, 2.0)


def test_the_result_is_calibrated_and_in_the_units_of_the_user():
    problem, draft = prepare_nested(engine=IdleEngine(), max_iter=1)
    relevance = np.random.RandomState(0).uniform(0.5, 2, size=draft.data.X.shape[1])
    scaling = draft.scaling._replace(score_factor=3.0, output_factor=0.5)
    draft = replace(draft, data=replace(draft.data, relevance=relevance), scaling=scaling)
    model, before = train_nested(problem, draft).model, draft.model
    router = 3.0 * relevance[:, None] * before.router.toarray()
    assert_allclose(model.router.toarray(), router, rtol=1e-12)
    assert_allclose(model.router_intercept, 3.0 * before.router_intercept, rtol=1e-12)
    assert_allclose(model.outputs.toarray(), 0.5 * before.outputs.toarray(), rtol=1e-12)


def test_training_leaves_the_model_that_it_begins_with():
    problem, draft = prepare_nested()
    before = draft.model.copy()
    after = train_nested(problem, draft).model
    assert np.abs(after.router.data - before.router.data).max() > 0
    for mine, copy in zip(draft.model.values(), before.values(), strict=True):
        assert_array_equal(mine, copy)


@pytest.mark.parametrize(("n_iter_no_change", "n_epochs"), [(2, 4), (3, 5), (4, 8)])
def test_training_stops_when_the_loss_stalls_for_n_iter_no_change_epochs(
    n_iter_no_change, n_epochs
):
    losses = [5.0, 4.0, 3.9, 3.95, 3.85, 3.0, 2.0, 1.0]
    draft, _ = run_script(losses, losses, tol=0.5, n_iter_no_change=n_iter_no_change)
    assert list(draft.loss_curve) == losses[:n_epochs]


def test_training_continues_while_the_loss_falls_by_more_than_tol():
    losses = [5.0, 4.4, 3.8, 3.2]
    draft, _ = run_script(losses, losses, tol=0.5, n_iter_no_change=1)
    assert list(draft.loss_curve) == losses


def test_training_stops_after_the_epoch_in_which_the_monitor_asks_for_it():
    values, losses = [3.0, -1.0, 4.0, 1.5], [4.0, 3.0, 2.0, 1.0]
    draft, _ = run_script(values, losses, stop_after=2)
    assert list(draft.loss_curve) == losses[:2]
    assert_allclose(draft.model.intercept, average(values[:2]))


def test_early_stopping_returns_the_average_with_the_best_score():
    values = [1.0, 2.0, 3.0, 4.0, 5.0]
    scores = [0.5, 0.7, 0.6, 0.65, 0.9]
    draft, validated = run_script(
        values, [1.0] * 5, scores, early_stopping=True, n_iter_no_change=2
    )
    assert list(draft.validation_scores) == scores[:4]  # two epochs without a better score
    assert_allclose(validated, [average(values[:n]) for n in (1, 2, 3, 4)])
    for array in draft.model.values():
        assert_allclose(array, average(values[:2]), rtol=1e-14)


def test_a_validation_set_without_early_stopping_is_recorded_only():
    values, losses, scores = [1.0, 2.0, 3.0], [3.0, 2.0, 1.0], [0.9, 0.1, 0.2]
    draft, _ = run_script(values, losses, scores, n_iter_no_change=1)
    assert list(draft.validation_scores) == scores
    assert_allclose(draft.model.intercept, average(values))


def test_early_stopping_returns_the_very_model_that_was_validated():
    scores, validated = iter([0.1, 0.2, 0.4, 0.3]), []

    def validate(model):
        validated.append(model.copy())
        return next(scores)

    monitor = Monitor(validate=validate)
    problem, draft = prepare_nested(max_iter=4, early_stopping=True, monitor=monitor)
    draft = run(problem, draft, train_nested)
    for mine, theirs in zip(draft.model.values(), validated[2].values(), strict=True):
        assert_array_equal(mine, theirs)


def test_validated_models_are_complete():
    validated = []
    monitor = Monitor(validate=lambda model: validated.append(model.copy()) or 0.0)
    problem, draft = prepare_nested(max_iter=1, engine=IdleEngine(), monitor=monitor)
    scaling = draft.scaling._replace(score_factor=3.0, output_factor=0.5)
    draft = replace(draft, scaling=scaling)
    train_nested(problem, draft)
    expected = complete_model(problem, draft, draft.model)
    for mine, theirs in zip(validated[0].values(), expected.values(), strict=True):
        assert_allclose(mine, theirs, rtol=1e-14)


@pytest.mark.parametrize("score", [None, 0.25])
def test_every_epoch_is_reported(score):
    reports = []
    monitor = Monitor(
        validate=None if score is None else lambda model: score,
        report=lambda *report: reports.append(report),
    )
    problem, draft = prepare_nested(max_iter=3, tol=0.0, monitor=monitor)
    draft = train_nested(problem, draft)
    expected = [(epoch, loss, score) for epoch, loss in enumerate(draft.loss_curve)]
    assert reports == expected
    assert len(reports) == 3


# Estimators


def test_the_best_validation_score_is_the_score_of_the_model():
    X, y = make_topic_documents(600, 300, 30, n_classes=6, random_state=3, return_X_y=True)
    model = SparseExpertClassifier(early_stopping=True, max_iter=8, random_state=0)
    model.fit(X[:400], y[:400], X_val=X[400:], y_val=y[400:])
    assert model.score(X[400:], y[400:]) == model.best_validation_score_


@pytest.mark.parametrize("n_samples", [100, 600])
def test_the_loss_falls_where_the_penalty_is_weak(n_samples):
    X, y = draw_documents(n_samples)
    model = SparseExpertClassifier(top_k=2, alpha=1e-3, max_iter=8, tol=0.0, random_state=0)
    model.fit(X, y)
    assert len(model.loss_curve_) == model.n_iter_ == 8
    assert np.isfinite(model.loss_curve_).all()
    assert model.loss_curve_[-1] < model.loss_curve_[0]


def test_more_experts_than_classes_solve_an_exclusive_or():
    rng = np.random.RandomState(0)
    bits = rng.randint(2, size=(600, 2))
    y = bits.sum(axis=1) % 2
    X = np.eye(4)[2 * bits[:, 0] + bits[:, 1]]
    model = SparseExpertClassifier(n_experts=4, random_state=0).fit(X, y)
    assert model.score(X, y) == 1.0


@pytest.mark.parametrize(
    ("n_experts", "levels"), [("auto", [4, 2, 1]), (12, [4, 2, 1]), (4, [4, 3, 2])]
)
def test_every_k_that_was_trained_predicts_well(n_experts, levels):
    # Six classes share four experts in pairs: there one kept expert is not enough.
    X, y = make_topic_documents(
        800, 300, 6, n_classes=6, facet_share=0.0, random_state=0, return_X_y=True
    )
    model = SparseExpertClassifier(n_experts, random_state=0).fit(X[:500], y[:500])
    best = model.score(X[500:], y[500:])
    assert best > 0.95
    for top_k in levels:
        assert model.set_params(top_k=top_k).score(X[500:], y[500:]) > best - 0.03


def test_a_k_far_above_the_number_of_experts_needs_no_more_memory():
    X, y = draw_documents()
    huge = SparseExpertClassifier(top_k=10**12, random_state=0).fit(X, y)
    assert huge.score(X, y) > 0.9
