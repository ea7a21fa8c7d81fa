"""Training: sparsity levels, the order of rows, averages, and when it stops."""

from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
from fitted_models import reference_codes
from numpy.testing import assert_allclose, assert_array_equal
from reference import prepare_training
from scipy import sparse
from skparse._linear_start import EPOCHS_APART, LINEAR_EPOCHS, StepClock
from skparse._parameters import ModelParameters

from skparse import SparseExpertClassifier, _kernels
from skparse import _calibration as calibration
from skparse import _initialization as initialization
from skparse import _training as training
from skparse._engines import choose_engine
from skparse.datasets import make_topic_documents


def draw_documents(n_samples=300, *, n_classes=4, seed=0):
    return make_topic_documents(
        n_samples, 150, 8, n_classes=n_classes, dtype=np.float64, random_state=seed,
        return_X_y=True,
    )  # fmt: skip


def unsharpened(settings, **changes):
    """Settings under which training returns the average of its epochs as it is."""
    score_map = settings.score_map._replace(sharper_scores=1.0, sharper_outputs=1.0)
    return replace(settings, score_map=score_map, **changes)


class RecordingEngine:
    """The kernels, with a record of the epochs they were asked for."""

    def __init__(self):
        self.orders, self.grids = [], []
        self.linear_orders, self.clocks = [], []

    def __getattr__(self, name):
        return getattr(choose_engine("numba", "cpu"), name)

    def linear_epoch(self, *arguments):
        self.linear_orders.append(arguments[1][0])
        self.clocks.append(StepClock(*arguments[6]))
        return _kernels.linear_epoch(*arguments)

    def nested_epoch(self, *arguments):
        self.orders.append(arguments[1])
        self.grids.append(arguments[7])
        return _kernels.nested_epoch(*arguments)


class ScriptedEngine:
    """Sets all parameters to the next of ``values`` and reports the next of ``losses``."""

    def __init__(self, values, losses):
        self._script = iter(zip(values, losses, strict=True))

    def nested_epoch(self, X, order, labels, steps, router, expert, intercepts, *_):
        value, loss = next(self._script)
        for array in (router[2], expert[2], *intercepts):
            array[:] = value
        return 1.0, loss * len(order)


def run_script(values, losses, scores=None, **parameters):
    """Run nested epochs by a script of values, losses and validation scores."""
    X, y = draw_documents()
    data, settings = prepare_training(X, y, max_iter=len(values), **parameters)
    start = ModelParameters(
        sparse.csr_array(np.ones((X.shape[1], 4))), np.ones(4), sparse.csr_array(np.eye(4)),
        np.ones(4),
    )  # fmt: skip
    seen, remaining = [], iter(scores or [])

    def validate(parameters):
        seen.append(parameters.intercept.copy())
        return next(remaining)

    result = training.run_nested_epochs(
        start, data, unsharpened(settings), ScriptedEngine(values, losses),
        np.random.RandomState(0), validate=validate if scores else None,
    )  # fmt: skip
    return result, [float(intercept[0]) for intercept in seen]


def average(values):
    """Average in which value t counts in proportion to t."""
    return sum(t * v for t, v in enumerate(values, start=1)) / sum(range(1, len(values) + 1))


@pytest.mark.parametrize("top_k", [1, 2, 3, 4, 8, 13, 64])
def test_sparsity_levels_reach_from_few_experts_to_top_k(top_k):
    levels = training.sparsity_levels(top_k)
    assert levels[0] <= 2
    assert levels[-1] == max(2, top_k)
    assert np.all(np.diff(levels) > 0)
    assert np.all(levels[1:] <= 2 * levels[:-1])


@pytest.mark.parametrize("top_k", [1, 2, 8])
def test_every_sparsity_level_is_trained_in_an_epoch(top_k):
    X, y = make_topic_documents(1000, 200, 12, n_classes=12, random_state=0, return_X_y=True)
    data, settings = prepare_training(X, y, top_k=top_k)
    engine = RecordingEngine()
    training.train(data, settings, engine, np.random.RandomState(0))
    assert len(engine.grids) >= settings.max_iter
    for grids in engine.grids:
        assert set(grids) == set(training.sparsity_levels(top_k))


@pytest.mark.parametrize("n_samples", [1, 2, 31, 33, 65, 128, 129, 200, 1000, 3000])
@pytest.mark.parametrize("batch_size", ["auto", 1, 7, 32, 500])
def test_an_epoch_visits_every_row_equally_often_and_makes_enough_updates(n_samples, batch_size):
    X = sparse.csr_array(np.ones((n_samples, 1)))
    data, settings = prepare_training(X, np.arange(n_samples) % 2, batch_size=batch_size)
    order = training.draw_order(data, settings, np.random.RandomState(0))
    visits = np.bincount(order, minlength=n_samples)
    assert visits.min() == visits.max() >= 1
    n_updates = -(-len(order) // settings.batch_size)
    assert n_updates >= training.UPDATES_PER_EPOCH


def test_an_epoch_of_many_rows_visits_each_once():
    X, y = make_topic_documents(3000, 50, random_state=0, return_X_y=True)
    data, settings = prepare_training(X, y)
    order = training.draw_order(data, settings, np.random.RandomState(0))
    assert_array_equal(np.sort(order), np.arange(3000))
    assert not np.array_equal(order, np.arange(3000))


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("n_samples", [1024, 2000])
def test_rows_that_are_kept_apart_join_the_last_linear_epochs(n_samples, n_classes):
    X, y = draw_documents(n_samples, n_classes=n_classes)
    data, settings = prepare_training(X, y)
    held_out = calibration.choose_held_out(n_samples, False, np.random.RandomState(0))
    engine = RecordingEngine()
    training.train(data, settings, engine, np.random.RandomState(0))
    assert len(engine.linear_orders) == LINEAR_EPOCHS
    for epoch, order in enumerate(engine.linear_orders):
        visits = np.bincount(order, minlength=n_samples)
        apart = epoch < EPOCHS_APART
        assert visits[~held_out].min() == visits[~held_out].max() >= 1
        assert set(visits[held_out]) == {0 if apart else visits[~held_out][0]}
    for order in engine.orders:
        assert np.bincount(order, minlength=n_samples).min() >= 1


@pytest.mark.parametrize("multilabel", [False, True])
def test_no_row_is_kept_apart_in_small_data_or_with_several_labels(multilabel):
    X, y = draw_documents(1100 if multilabel else 1023)
    target = np.column_stack([y == 0, y % 2, y > 1]).astype(int) if multilabel else y
    data, settings = prepare_training(X, target)
    engine = RecordingEngine()
    training.train(data, settings, engine, np.random.RandomState(0))
    assert len(engine.linear_orders) == LINEAR_EPOCHS
    for order in engine.linear_orders:
        visits = np.bincount(order, minlength=len(y))
        assert visits.min() == visits.max() >= 1


@pytest.mark.parametrize("n_samples", [300, 1100])
def test_the_clock_of_the_linear_start_counts_the_weight_that_was_visited(n_samples):
    X, y = draw_documents(n_samples)
    weight = np.random.RandomState(1).uniform(0.5, 2, size=n_samples)
    data, settings = prepare_training(X, y, weight)
    engine = RecordingEngine()
    training.train(data, settings, engine, np.random.RandomState(0))
    visited = [weight[order].sum() for order in engine.linear_orders]
    expected = np.concatenate([[0], np.cumsum(visited)[:-1]])
    assert_allclose([clock.seen for clock in engine.clocks], expected, rtol=1e-12)
    assert len({clock._replace(seen=0.0) for clock in engine.clocks}) == 1


class StoppedTraining(Exception):
    """What the test wants to know is known."""


def model_before_calibration(X, y, **parameters):
    """Return what the epochs learnt that some rows are kept apart from."""
    data, settings = prepare_training(X, y, **parameters)
    learnt = []

    def stop(model, *_):
        learnt.append(model)
        raise StoppedTraining

    with patch.object(calibration, "calibrate", stop), pytest.raises(StoppedTraining):
        training.train(data, settings, _kernels, np.random.RandomState(0))
    return learnt[0]


@pytest.mark.parametrize("parameters", [{}, {"n_experts": 6}, {"n_experts": 3}], ids=str)
def test_the_first_linear_epochs_learn_nothing_from_the_labels_of_held_out_rows(
    parameters, monkeypatch
):
    # Every pair is connected and the classes stay as frequent: the rest may not depend on them.
    monkeypatch.setattr(initialization, "choose_prior_strength", lambda *_: 0.1)
    X, y = draw_documents(1100)
    held_out = calibration.choose_held_out(len(y), False, np.random.RandomState(0))
    rng, models = np.random.RandomState(0), []
    for rows in ([], np.flatnonzero(held_out), np.flatnonzero(~held_out)[:50]):
        shuffled = y.copy()
        shuffled[rows] = rng.permutation(shuffled[rows])
        models.append(model_before_calibration(X, shuffled, weight_density=1.0, **parameters))
    model, without_them, other = (m.router.toarray() for m in models)
    assert_allclose(without_them, model, rtol=1e-9, atol=1e-12)
    assert_allclose(models[1].router_intercept, models[0].router_intercept, rtol=1e-9)
    assert np.abs(other - model).max() > 1e-3


def test_full_batches_leave_the_rows_in_place():
    X, y = draw_documents(50)
    data, settings = prepare_training(X, y)
    order = training.draw_order(data, settings, np.random.RandomState(0))
    assert settings.batch_size == 50
    assert_array_equal(order.reshape(-1, 50), np.tile(np.arange(50), (len(order) // 50, 1)))


def test_the_result_is_the_average_in_which_later_epochs_count_more():
    values = [3.0, -1.0, 4.0, 1.5]
    result, _ = run_script(values, losses=[4.0, 3.0, 2.0, 1.0])
    for array in result.parameters.arrays():
        assert_allclose(array, average(values), rtol=1e-14)
    assert_allclose(result.loss_curve, [4.0, 3.0, 2.0, 1.0])


@pytest.mark.parametrize("n_samples", [100, 300, 1100])
@pytest.mark.parametrize("n_classes", [2, 4])
def test_the_model_reads_features_in_the_units_of_the_user(n_classes, n_samples):
    # Training multiplies the features by their relevance; the model takes them as they are.
    X, y = draw_documents(n_samples, n_classes=n_classes)
    data, settings = prepare_training(X, y, max_iter=1)
    in_training = []

    class IdleEngine(RecordingEngine):
        def nested_epoch(self, X, *arguments):
            router, _, (bias, _) = arguments[3:6]
            rows = sparse.csr_array((X[2], X[1], X[0]), shape=data.X.shape)
            weights = sparse.csr_array(
                (router[2], router[1], router[0]), (rows.shape[1], len(bias))
            )
            in_training.append((rows.toarray(), rows @ weights.toarray() + bias))
            return 1.0, 0.0

    result = training.train(data, settings, IdleEngine(), np.random.RandomState(0))
    rows, scores = in_training[0]
    assert np.abs(rows - data.X.toarray()).max() > 0.1
    router, bias = result.parameters.router.toarray(), result.parameters.router_intercept
    sharper = result.score_map.sharper_scores
    assert_allclose(data.X.toarray() @ router + bias, sharper * scores, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("n_samples", [100, 1100])
@pytest.mark.parametrize("multilabel", [False, True])
def test_codes_by_hand_from_the_weights_of_the_model_equal_transform(n_samples, multilabel):
    X, y = draw_documents(n_samples)
    target = np.column_stack([y == 0, y % 2, y > 1]).astype(int) if multilabel else y
    model = SparseExpertClassifier(top_k=2, random_state=0).fit(X, target)
    codes = model.transform(X)
    assert codes.nnz > n_samples
    assert_allclose(codes.toarray(), reference_codes(model, X, top_k=2), rtol=1e-9, atol=1e-12)


def test_training_leaves_the_data_it_was_given():
    X, y = draw_documents(1100)
    data, settings = prepare_training(X, y)
    before = data.X.copy(), data.sample_weight.copy(), data.geometry
    training.train(data, settings, _kernels, np.random.RandomState(0))
    assert_array_equal(data.X.toarray(), before[0].toarray())
    assert_array_equal(data.sample_weight, before[1])
    assert data.geometry == before[2]
    assert data.relevance is None


def test_training_leaves_the_parameters_it_starts_from():
    X, y = draw_documents()
    data, settings = prepare_training(X, y)
    rng = np.random.RandomState(0)
    start = ModelParameters(
        sparse.csr_array(rng.normal(size=(X.shape[1], 4))), rng.normal(size=4) + 5,
        sparse.csr_array(np.eye(4)), np.zeros(4),
    )  # fmt: skip
    before = start.copy()
    training.run_nested_epochs(start, data, settings, _kernels, rng)
    for mine, copy in zip(start.arrays(), before.arrays(), strict=True):
        assert_array_equal(mine, copy)


def test_training_stops_when_the_loss_stalls_for_n_iter_no_change_epochs():
    losses = [5.0, 4.0, 3.9, 3.95, 3.85, 3.0, 2.0, 1.0]
    result, _ = run_script(losses, losses, tol=0.5, n_iter_no_change=2)
    assert result.loss_curve == losses[:4]
    result, _ = run_script(losses, losses, tol=0.5, n_iter_no_change=3)
    assert result.loss_curve == losses[:5]
    result, _ = run_script(losses, losses, tol=0.5, n_iter_no_change=4)
    assert result.loss_curve == losses


def test_training_goes_on_while_the_loss_falls_by_more_than_tol():
    losses = [5.0, 4.4, 3.8, 3.2]
    result, _ = run_script(losses, losses, tol=0.5, n_iter_no_change=1)
    assert result.loss_curve == losses


def test_early_stopping_returns_the_average_with_the_best_score():
    values = [1.0, 2.0, 3.0, 4.0, 5.0]
    scores = [0.5, 0.7, 0.6, 0.65, 0.9]
    result, validated = run_script(
        values, [1.0] * 5, scores, early_stopping=True, n_iter_no_change=2
    )
    assert result.validation_scores == scores[:4]  # two epochs without a better score
    assert_allclose(validated, [average(values[:n]) for n in (1, 2, 3, 4)])
    for array in result.parameters.arrays():
        assert_allclose(array, average(values[:2]), rtol=1e-14)


def test_a_validation_set_without_early_stopping_is_recorded_only():
    values, losses, scores = [1.0, 2.0, 3.0], [3.0, 2.0, 1.0], [0.9, 0.1, 0.2]
    result, _ = run_script(values, losses, scores, n_iter_no_change=1)
    assert result.validation_scores == scores
    assert_allclose(result.parameters.intercept, average(values))


def test_every_epoch_is_reported():
    X, y = draw_documents()
    data, settings = prepare_training(X, y, max_iter=3, tol=0.0)
    reports = []
    result = training.train(
        data, settings, _kernels, np.random.RandomState(0),
        validate=lambda parameters: 0.25, report=lambda *row: reports.append(row),
    )  # fmt: skip
    assert [epoch for epoch, *_ in reports] == [0, 1, 2]
    assert [loss for _, loss, _ in reports] == result.loss_curve
    assert {score for *_, score in reports} == {0.25}


def test_early_stopping_returns_the_very_model_that_was_validated():
    data, settings = prepare_training(*draw_documents(), max_iter=4, early_stopping=True)
    scores, validated = iter([0.1, 0.2, 0.4, 0.3]), []

    def validate(parameters):
        validated.append(parameters.copy())
        return next(scores)

    rng = np.random.RandomState(0)
    result = training.train(data, settings, _kernels, rng, validate=validate)
    best = validated[2]
    for mine, theirs in zip(result.parameters.arrays(), best.arrays(), strict=True):
        assert_array_equal(mine, theirs)


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


def test_training_learns_what_no_linear_model_can_say():
    # One feature is the parity of two others: experts beyond one per class find it.
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
    # Four experts tell six classes apart in pairs: there one kept expert is not enough.
    X, y = make_topic_documents(
        800, 300, 6, n_classes=6, facet_share=0.0, random_state=0, return_X_y=True
    )
    model = SparseExpertClassifier(n_experts, random_state=0).fit(X[:500], y[:500])
    best = model.score(X[500:], y[500:])
    assert best > 0.95
    for top_k in levels:
        assert model.set_params(top_k=top_k).score(X[500:], y[500:]) > best - 0.03


def test_a_k_far_above_the_number_of_experts_costs_no_memory():
    X, y = draw_documents()
    huge = SparseExpertClassifier(top_k=10**12, random_state=0).fit(X, y)
    assert huge.score(X, y) > 0.9


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
    y = np.column_stack([y == 0, y % 2, y > 1]).astype(int) if multilabel else y
    weight = np.random.RandomState(0).randint(0, 4, size=40)
    rows = np.repeat(np.arange(40), weight)
    by_weight, by_rows = (
        SparseExpertClassifier(n_experts=n_experts, random_state=0).fit(*samples)
        for samples in ((X, y, weight), (X[rows], y[rows]))
    )
    assert_allclose(by_weight.predict_proba(X), by_rows.predict_proba(X), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("n_samples", [100, 1000])
def test_features_that_cancel_in_every_row_are_learnt(n_samples):
    y = np.random.RandomState(0).randint(2, size=n_samples)
    x = 2.0 * y - 1
    X = np.column_stack([x, -x])
    assert SparseExpertClassifier(random_state=0).fit(X, y).score(X, y) == 1.0


@pytest.mark.parametrize("n_rows", [20, 100, 150, 500])
def test_a_stream_of_pieces_of_any_size_learns_about_what_fit_learns(n_rows):
    X, y = make_topic_documents(3000, 500, 20, n_classes=10, random_state=0, return_X_y=True)
    classes = np.arange(10)
    stream, whole = (SparseExpertClassifier(random_state=0) for _ in range(2))
    for first in range(0, 2000, n_rows):
        piece = slice(first, min(first + n_rows, 2000))
        stream.partial_fit(X[piece], y[piece], classes=classes)
    accuracy = whole.fit(X[:2000], y[:2000]).score(X[2000:], y[2000:])
    assert stream.score(X[2000:], y[2000:]) >= accuracy - 0.02


@pytest.mark.parametrize("parameters", [{}, {"top_k": 1}, {"class_weight": "balanced"}], ids=str)
def test_two_opposite_experts_vote_with_the_same_weight_and_b2_says_nothing(parameters):
    X, y = draw_documents(1500, n_classes=2)
    y = np.where((y == 1) & (np.arange(1500) % 4 > 0), 0, y)  # few samples of one class
    model = SparseExpertClassifier(random_state=0, **parameters).fit(X, y)
    assert_array_equal(model.intercept_, 0)
    assert len(np.unique(model.expert_coef_.data)) == 1
    assert_array_equal(model.expert_coef_.indices, [0, 1])
    at_any = model.predict_proba_path(X, range(1, model.top_k_ + 1)).argmax(axis=2)
    assert_array_equal(at_any, np.broadcast_to(at_any[0], at_any.shape))
