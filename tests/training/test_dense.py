"""The stages for dense X: columns, number of experts, choices on held-out samples, epochs."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from stages import RecordingEngine, prepare, run, run_recipe

from skparse._predictor import Predictor
from skparse._training import dense
from skparse._training.columns import (
    SCORE_RANGE,
    Columns,
    build_dense_model,
    centre_router,
    measure_columns,
    prune_router,
    router_of_model,
    standardise,
)
from skparse._training.completion import complete_model
from skparse._training.dense import (
    CANDIDATES,
    LOWEST_RELEVANCE,
    MAX_EXPERTS,
    begin_dense,
    choose_candidate,
    draw_parts,
    experts_per_class,
    measure_dense_relevance,
    outputs_of,
    resume_dense,
    scale_by_relevance,
    start_dense,
    train_dense,
)
from skparse._training.dense_run import run_dense_epochs, start_experts
from skparse._training.problem import Monitor
from skparse._training.recipes import DENSE, DENSE_FURTHER


def draw_table(n_samples=400, n_noise=2, seed=0):
    """Two features whose signs decide by an exclusive or, and noise, in different units."""
    rng = np.random.RandomState(seed)
    X = rng.uniform(-1, 1, size=(n_samples, 2 + n_noise))
    y = (X[:, 0] * X[:, 1] > 0).astype(int)
    return X * 10.0 ** np.arange(2 + n_noise) + 3, y


def prepare_dense(n_samples=400, **parameters):
    problem, draft = prepare(*draw_table(n_samples), **parameters)
    return problem, begin_dense(problem, draft)


def started(**parameters):
    problem, draft = prepare_dense(**parameters)
    return problem, start_dense(problem, draft)


def all_rows(problem):
    return np.arange(problem.data.X.shape[0])


# Columns


def test_columns_have_mean_zero_and_standard_deviation_one():
    weight = np.random.RandomState(0).uniform(size=400)
    X, y = draw_table()
    X[X[:, 1] < 5, 1] = 0  # what a CSR array does not store counts as well
    problem, _ = prepare(X, y, weight)
    columns = standardise(problem.data.X, *measure_columns(problem.data))
    assert columns.values.dtype == np.float32
    assert_allclose(np.average(columns.values, axis=0, weights=weight), np.zeros(4), atol=1e-6)
    assert_allclose(np.average(columns.values**2, axis=0, weights=weight), np.ones(4), rtol=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e6])
def test_a_constant_column_is_zero(value):
    X, y = draw_table()
    X[:, 2] = value
    problem, _ = prepare(X, y)
    columns = standardise(problem.data.X, *measure_columns(problem.data))
    assert_array_equal(columns.values[:, 2], np.zeros(400))
    assert columns.factor[2] == 0


def test_the_model_has_the_gate_of_the_router_for_its_columns():
    problem, draft = started()
    router = draft.experts.router
    h = draft.columns.values @ router.weights + router.bias
    expected = np.exp(h - h.max(axis=1, keepdims=True))
    codes = Predictor(draft.model, problem.engine, 1).codes(problem.data.X, 100).toarray()
    assert_allclose(codes, expected / expected.sum(axis=1, keepdims=True), atol=1e-4)


@pytest.mark.parametrize("score_factor", [0.25, 1.0, 2.5])
def test_the_largest_score_of_any_sample_passes_the_relu(score_factor):
    _, draft = started()
    scaling = draft.scaling._replace(score_factor=score_factor)
    model = build_dense_model(
        draft.columns, centre_router(draft.experts.router), draft.model.outputs, scaling
    )
    anywhere = np.random.RandomState(0).normal(scale=1e4, size=(100, 4))
    h = score_factor * (anywhere @ model.router.toarray() + model.router_intercept)
    assert h.max(axis=1).min() >= SCORE_RANGE - 1e-6


def test_the_router_of_a_model_is_the_one_that_it_was_built_from():
    _, draft = started()
    router = router_of_model(draft.columns, draft.model)
    for mine, theirs in zip(
        centre_router(router), centre_router(draft.experts.router), strict=True
    ):
        assert_allclose(mine, theirs, atol=1e-4)


def test_pruning_keeps_the_weights_with_most_influence():
    _, draft = started()
    columns = draft.columns.scaled(np.array([1.0, 0.0, 2.0, 1.0]))
    router = centre_router(draft.experts.router)
    pruned = prune_router(columns, router, 0.25).weights
    influence = np.abs(router.weights) * columns.values.std(axis=0)[:, None]
    assert np.count_nonzero(pruned) == round(0.25 * pruned.size)
    assert influence[pruned != 0].min() >= influence[pruned == 0].max()
    assert_array_equal(pruned[pruned != 0], router.weights[pruned != 0])


# The number of experts


def numbers_for(sizes, **parameters):
    y = np.repeat(np.arange(len(sizes)), sizes)
    X = np.random.RandomState(0).normal(size=(len(y), 2))
    return experts_per_class(prepare(X, y, **parameters)[0])


def test_a_class_has_as_many_experts_as_its_samples_support():
    assert_array_equal(numbers_for([1000, 40, 9, 1]), [16, 5, 1, 1])


def test_many_classes_share_a_limited_number_of_experts():
    assert_array_equal(numbers_for([100] * 100), [MAX_EXPERTS // 100] * 100)
    assert_array_equal(numbers_for([10] * 300), [1] * 300)


@pytest.mark.parametrize("n_experts", [4, 5, 12, 30, 500])
def test_a_given_number_of_experts_is_shared_out(n_experts):
    numbers = numbers_for([200, 100, 50, 3], n_experts=n_experts)
    assert numbers.sum() == n_experts and numbers.min() >= 1
    assert list(numbers) == sorted(numbers, reverse=True)


def test_a_small_class_gets_fewer_experts_than_a_large_one():
    assert_array_equal(numbers_for([200, 200, 8], n_experts=21), [10, 10, 1])


def test_every_expert_is_connected_to_its_class():
    _, draft = started()
    outputs = outputs_of(draft.experts, 6.0, np.float32)
    assert outputs.dtype == np.float32
    classes = np.repeat([0, 1], np.diff(draft.experts.class_starts))
    assert_array_equal(outputs.toarray(), 6.0 * np.eye(2)[classes])


# The start


def test_experts_start_with_the_squared_distances_to_centres_of_their_class():
    problem, draft = started(n_experts=2)
    X, y = draft.columns.values, problem.data.labels.indices
    centres = np.array([X[y == c].mean(axis=0) for c in (0, 1)])
    distances = ((X[:, None] - centres) ** 2).sum(axis=2)
    h = X @ draft.experts.router.weights + draft.experts.router.bias
    differences = distances[:, 0] - distances[:, 1]
    factor = (h[:, 1] - h[:, 0]) / differences
    assert_allclose(factor, np.full(400, np.median(factor)), rtol=0.05)
    assert np.median(factor) > 0


def test_a_class_whose_samples_are_all_held_out_has_finite_experts():
    problem, draft = prepare_dense()
    rows = np.flatnonzero(problem.data.labels.indices == 0)
    experts = start_experts(problem, draft, rows, np.array([3, 2]))
    assert_array_equal(experts.class_starts, [0, 3, 5])
    assert all(np.isfinite(part).all() for part in experts.router)


# Held-out parts and relevance


@pytest.mark.parametrize("n_samples", [129, 400, 1001, 5000])
def test_held_out_parts_share_no_sample_and_hold_their_share(n_samples):
    problem, _ = prepare(np.ones((n_samples, 1)), np.arange(n_samples) % 2)
    parts = np.array(draw_parts(problem))
    assert 1 <= len(parts) <= 4 and parts.sum(axis=0).max() == 1
    assert all(abs(part.mean() - 0.25) < 0.01 for part in parts)


def test_columns_without_information_have_little_relevance():
    problem, draft = prepare_dense(2000)
    relevance = measure_dense_relevance(problem, draft, np.ones(2000, bool), 0)
    assert relevance[:2].min() > 1.4 * relevance[2:].max()
    assert relevance.min() >= LOWEST_RELEVANCE


def test_columns_are_multiplied_by_the_power_of_their_relevance():
    problem, draft = prepare_dense(2000)
    scaled = scale_by_relevance(problem, replace(draft, power=0.0))
    assert_allclose(scaled.columns.values, draft.columns.values)
    scaled = scale_by_relevance(problem, replace(draft, power=2.0))
    ratio = scaled.columns.factor / draft.columns.factor
    assert ratio[:2].min() > 2 * ratio[2:].max()
    values = standardise(problem.data.X, scaled.columns.offset, scaled.columns.factor).values
    assert_allclose(scaled.columns.values, values, rtol=1e-4, atol=1e-6)


def test_one_of_the_candidates_is_chosen_and_calibrated():
    problem, draft = prepare_dense()
    chosen = choose_candidate(problem, draft)
    assert (chosen.alpha, chosen.power) in CANDIDATES
    assert chosen.scaling != draft.scaling


def test_a_given_penalty_is_the_only_one_that_is_tried():
    problem, draft = prepare_dense(alpha=0.7)
    chosen = choose_candidate(problem, draft)
    assert chosen.alpha == 0.7 and chosen.power in {power for _, power in CANDIDATES}


def test_another_candidate_has_to_gain_a_margin(monkeypatch):
    problem, draft = prepare_dense()
    monkeypatch.setattr(dense, "CANDIDATE_ADVANTAGE", np.inf)
    chosen = choose_candidate(problem, draft)
    assert (chosen.alpha, chosen.power) == CANDIDATES[0]


# Epochs


def losses_of(problem, draft, n_epochs):
    experts = draft.experts.copy()
    return list(run_dense_epochs(problem, draft, experts, all_rows(problem), n_epochs)), experts


def test_the_loss_falls():
    losses, _ = losses_of(*started(), 40)
    assert losses[-1] < 0.7 * losses[0]


def test_a_stronger_penalty_leaves_smaller_weights():
    problem, draft = started()
    sizes = [
        np.abs(losses_of(problem, replace(draft, alpha=alpha), 20)[1].router.weights).mean()
        for alpha in (0.01, 1.0, 100.0)
    ]
    assert sizes == sorted(sizes, reverse=True)


def test_the_steps_follow_a_cosine_down_to_zero():
    engine = RecordingEngine()
    problem, draft = started(engine=engine, learning_rate_init=0.2)
    losses_of(problem, draft, 10)
    rates = np.concatenate([call[-1].rates for call in engine.calls["dense_epoch"]])
    assert rates[0] == pytest.approx(0.04) and rates[-1] < 1e-4
    assert (np.diff(rates) < 0).all()
    first_steps = [call[-1].n_steps for call in engine.calls["dense_epoch"]]
    assert first_steps == [7 * epoch for epoch in range(10)]


def test_an_epoch_visits_every_sample_once():
    engine = RecordingEngine()
    problem, draft = started(engine=engine)
    losses_of(problem, draft, 2)
    orders = engine.orders("dense_epoch")
    assert all(sorted(order) == list(range(400)) for order in orders)
    assert (orders[0] != orders[1]).any()


def test_multiplying_all_weights_weakens_the_penalty_and_nothing_else():
    X, y = draw_table()
    arguments = []
    for factor in (1.0, 4.0):
        engine = RecordingEngine()
        problem, draft = prepare(X, y, np.full(400, factor), engine=engine)
        draft = run(problem, draft, begin_dense, start_dense)
        losses_of(problem, draft, 1)
        arguments += engine.calls["dense_epoch"]
    (_, rows, *_, options), (_, other_rows, *_, other_options) = arguments
    assert_array_equal(rows.sample_weight, other_rows.sample_weight)
    assert options.penalty == pytest.approx(4 * other_options.penalty)


def test_early_stopping_keeps_the_model_of_the_best_epoch():
    models, scores = [], iter([0.3, 0.9, 0.5, 0.4, 0.3, 0.2, 0.1, 0.1])

    def validate(model):
        models.append(model)
        return next(scores)

    problem, draft = started(
        monitor=Monitor(validate=validate), early_stopping=True, max_iter=6, tol=0.0
    )
    trained = train_dense(problem, draft)
    assert trained.validation_scores == (0.3, 0.9, 0.5, 0.4, 0.3)
    assert_array_equal(trained.model.router.data, models[1].router.data)


def test_training_does_not_stop_while_the_steps_are_long():
    problem, draft = started(max_iter=20, tol=100.0)
    assert len(train_dense(problem, draft).loss_curve) == 11


def test_the_training_loss_never_stops_the_default_number_of_epochs():
    problem, draft = started(tol=100.0)
    assert len(train_dense(problem, draft).loss_curve) == 40


def test_the_monitor_follows_the_start_and_every_epoch():
    steps, models = [], []

    def begin_step(name):
        steps.append(name)
        return lambda build_model: models.append(build_model())

    problem, draft = prepare(*draw_table(), max_iter=2, monitor=Monitor(begin_step=begin_step))
    trained = run_recipe(DENSE, problem, draft)
    assert steps == ["start", "epoch", "epoch"]
    assert_array_equal(models[-1].router.data, train_model_values(trained))


def train_model_values(draft):
    return draft.model.router.data


# Training a fitted model further


def test_a_fitted_model_is_resumed_as_it_is():
    problem, draft = prepare(*draw_table())
    fitted = run_recipe(DENSE, problem, draft)
    columns = Columns(None, fitted.columns.offset, fitted.columns.factor)
    draft = replace(
        draft, model=fitted.model, scaling=fitted.scaling, columns=columns,
        temperatures=fitted.temperatures,
    )  # fmt: skip
    resumed = resume_dense(problem, draft)
    model = complete_model(problem, resumed, dense._model_of(problem, resumed, resumed.experts))
    for top_k in (1, 8):
        expected = Predictor(fitted.model, problem.engine, 1).logits(problem.data.X, top_k)
        actual = Predictor(model, problem.engine, 1).logits(problem.data.X, top_k)
        assert_allclose(actual, expected, atol=1e-2)


def test_both_recipes_complete_the_model_and_its_load():
    problem, draft = prepare(*draw_table(), max_iter=2)
    fitted = run_recipe(DENSE, problem, draft)
    assert fitted.expert_load.sum() > 0 and sparse.issparse(fitted.model.router)
    assert DENSE_FURTHER.train == DENSE.train
