"""The compiled kernels compute what the plain loops of `reference` compute."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import reference
from engine_problems import (
    DENSE_PROBLEMS,
    DTYPES,
    PROBLEMS,
    TOLERANCE,
    assert_same_arrays,
    assert_same_epoch,
    assert_same_routes,
    draw_dense_arguments,
    draw_embedding_arguments,
    draw_linear_arguments,
    draw_nested_arguments,
    draw_problem,
    run_dense_epoch,
    run_embedding_epoch,
    run_linear_epoch,
    run_logits,
    run_nested_epoch,
    run_route,
)
from numpy.testing import assert_allclose, assert_array_equal

from skparse._engines import numba_engine
from skparse._engines.arguments import Csr, LowRankTerm, Routes


def levels_of(problem):
    return [1, 2, problem.n_experts, problem.n_experts + 5]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", PROBLEMS)
def test_logits_and_probabilities_equal_the_reference_at_every_k(name, dtype):
    problem = draw_problem(**PROBLEMS[name], dtype=dtype)
    rows = range(problem.n_samples)
    for top_k in levels_of(problem):
        expected = reference.logits(problem.X, rows, problem.model, top_k)
        actual = run_logits(numba_engine, problem, top_k)
        assert actual.dtype == dtype
        assert_allclose(actual, expected, **TOLERANCE[dtype])
        likely = [reference.softmax(list(z)) for z in expected]
        actual = run_logits(numba_engine, problem, top_k, write="probabilities")
        assert actual.dtype == dtype
        assert_allclose(actual, likely, **TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", PROBLEMS)
def test_routes_equal_the_reference_at_every_k(name, dtype):
    problem = draw_problem(**PROBLEMS[name], dtype=dtype)
    rows, (router, router_intercept, *_) = range(problem.n_samples), problem.model
    for top_k in levels_of(problem):
        expected = reference.route(problem.X, rows, router, router_intercept, 1.0, top_k)
        actual = run_route(numba_engine, problem, top_k)
        assert_same_routes(actual, expected, **TOLERANCE[dtype])


@pytest.mark.parametrize("sharpness", [0.5, 3.0])
def test_the_gate_weights_are_the_softmax_of_the_scores_times_the_sharpness(sharpness):
    problem = draw_problem()
    rows, (router, router_intercept, *_) = range(problem.n_samples), problem.model
    expected = reference.route(problem.X, rows, router, router_intercept, sharpness, 4)
    actual = run_route(numba_engine, problem, 4, sharpness=sharpness)
    assert_same_routes(actual, expected, **TOLERANCE[np.float64])


def test_routes_may_have_more_columns_than_experts_are_kept():
    problem = draw_problem()
    assert run_route(numba_engine, problem, 3, width=7) == run_route(numba_engine, problem, 3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize("name", sorted(PROBLEMS.keys() - {"ties"}))
def test_nested_epoch_equals_the_reference(name, multilabel, dtype):
    problem = draw_problem(**PROBLEMS[name], multilabel=multilabel, dtype=dtype)
    for batch_size in (1, 5, problem.n_samples):
        arguments = draw_nested_arguments(problem, levels_of(problem), batch_size)
        expected = reference.nested_epoch(*arguments)
        actual = run_nested_epoch(numba_engine, arguments)
        assert_same_epoch(actual, expected, **TOLERANCE[dtype])


def test_an_epoch_compiled_without_several_labels_gives_the_bits_of_the_other():
    problem = draw_problem(dtype=np.float32)
    arguments = draw_nested_arguments(problem, [1, 2, 4], 5)
    of_both, of_one = (
        run_nested_epoch(numba_engine, arguments._replace(multilabel=multilabel))
        for multilabel in (False, None)
    )
    for mine, theirs in zip((*of_one[0], of_one[1]), (*of_both[0], of_both[1]), strict=True):
        assert_array_equal(mine, theirs)


@pytest.mark.parametrize("top_k", [1, 2, 6, 11])
def test_nested_epoch_equals_the_reference_at_one_fixed_k(top_k):
    problem = draw_problem()
    arguments = draw_nested_arguments(problem, [top_k], 4)
    expected = reference.nested_epoch(*arguments)
    assert_same_epoch(run_nested_epoch(numba_engine, arguments), expected, **TOLERANCE[np.float64])


@pytest.mark.parametrize("top_k", [1, 2, 12])
@pytest.mark.parametrize("multilabel", [False, True])
def test_nested_epoch_with_ties_equals_the_reference(multilabel, top_k):
    # One batch: after an update equal scores are equal up to rounding only.
    problem = draw_problem(**PROBLEMS["ties"], multilabel=multilabel)
    arguments = draw_nested_arguments(problem, [top_k], 2 * problem.n_samples)
    expected = reference.nested_epoch(*arguments)
    assert_same_epoch(run_nested_epoch(numba_engine, arguments), expected, **TOLERANCE[np.float64])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("full_batch", [False, True])
@pytest.mark.parametrize("name", PROBLEMS)
def test_linear_epoch_equals_the_reference(name, full_batch, dtype):
    problem = draw_problem(**PROBLEMS[name], dtype=dtype)
    for batch_size in [problem.n_samples] if full_batch else [1, 5, problem.n_samples]:
        arguments = draw_linear_arguments(problem, batch_size, full_batch=full_batch)
        weights, bias = run_linear_epoch(numba_engine, arguments)
        expected_weights, expected_bias = reference.linear_epoch(*arguments)
        assert_allclose(weights, expected_weights, **TOLERANCE[dtype])
        assert_allclose(bias, expected_bias, **TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_drawn", [0, 2, 9])
@pytest.mark.parametrize("name", PROBLEMS)
def test_embedding_epoch_equals_the_reference(name, n_drawn, dtype):
    problem = draw_problem(**PROBLEMS[name], dtype=dtype)
    for batch_size in (1, 5, problem.n_samples + 1):
        arguments = draw_embedding_arguments(problem, n_drawn, batch_size)
        actual = run_embedding_epoch(numba_engine, arguments)
        for mine, theirs in zip(actual, reference.embedding_epoch(*arguments), strict=True):
            assert all(array.dtype == dtype for array in mine)
            assert_same_arrays(mine, theirs, **TOLERANCE[dtype])


def test_an_epoch_on_embeddings_moves_the_vectors_of_its_rows_and_drawn_experts_only():
    problem = draw_problem(n_samples=7, n_features=60, n_experts=40, fill=0.1)
    arguments = draw_embedding_arguments(problem, 2, 3)
    X, (order, weight, experts), term, _, drawn, _ = arguments
    weight[:] = 1.0
    after, _ = run_embedding_epoch(numba_engine, arguments)
    moved = LowRankTerm(
        *(
            set(np.flatnonzero(np.any((end != start).reshape(len(end), -1), axis=1)))
            for end, start in zip(after, term, strict=True)
        )
    )
    listed = {*experts[order].tolist(), *drawn.ravel().tolist()}
    assert moved.feature_vectors == {j for i in order for j, _ in reference.row_entries(X, i)}
    assert moved.bias == listed
    assert moved.expert_vectors <= listed


def test_an_epoch_on_embeddings_reads_read_only_rows_and_indices_of_64_bits():
    narrow, wide = (draw_problem(index_dtype=dtype) for dtype in (np.int32, np.int64))
    expected = run_embedding_epoch(numba_engine, draw_embedding_arguments(narrow, 2, 5))
    arguments = draw_embedding_arguments(wide, 2, 5)
    assert wide.X.indptr.dtype == wide.X.indices.dtype == np.int64
    for array in wide.X:
        array.flags.writeable = False
    rows = arguments.rows._replace(experts=arguments.rows.experts.astype(np.int64))
    actual = run_embedding_epoch(numba_engine, arguments._replace(rows=rows))
    for mine, theirs in zip(actual, expected, strict=True):
        assert_same_arrays(mine, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("multilabel", [False, True])
def test_indices_of_64_bits_give_the_numbers_of_32_bits(multilabel):
    narrow, wide = (
        draw_problem(multilabel=multilabel, index_dtype=dtype) for dtype in (np.int32, np.int64)
    )
    assert wide.X.indptr.dtype == wide.X.indices.dtype == np.int64
    assert_array_equal(run_logits(numba_engine, wide, 3), run_logits(numba_engine, narrow, 3))
    assert run_route(numba_engine, wide, 3) == run_route(numba_engine, narrow, 3)
    of_wide, of_narrow = (
        run_nested_epoch(numba_engine, draw_nested_arguments(problem, [1, 2, 4], 5))
        for problem in (wide, narrow)
    )
    assert_same_epoch(of_wide, of_narrow, rtol=0, atol=0)
    of_wide, of_narrow = (
        run_linear_epoch(numba_engine, draw_linear_arguments(problem, 5))
        for problem in (wide, narrow)
    )
    assert_array_equal(of_wide[0], of_narrow[0])
    assert_array_equal(of_wide[1], of_narrow[1])


def test_read_only_input_is_read():
    problem = draw_problem()
    expected = run_logits(numba_engine, problem, 3)
    router, router_intercept, outputs, intercept = problem.model
    for array in (*problem.X, *router, *outputs, router_intercept, intercept):
        array.flags.writeable = False
    assert_array_equal(run_logits(numba_engine, problem, 3), expected)
    assert len(run_route(numba_engine, problem, 3)) == problem.n_samples


@pytest.mark.parametrize("connected", [0.1, 0.5, 1.0])
def test_rows_of_any_length_equal_the_reference(connected):
    # Kernels read ahead in a row: it may be shorter than that, empty, or the last of all.
    problem = draw_problem(n_samples=6, n_features=40, n_experts=30, connected=connected, fill=1.0)
    indptr, indices, data = problem.X
    lengths = np.array([1, 2, 8, 9, 19, 0])
    last = indptr[1] + np.cumsum(lengths)
    problem = problem._replace(
        X=Csr(
            np.append(indptr[1], last).astype(indptr.dtype), indices[: last[-1]], data[: last[-1]]
        )
    )
    for top_k in (1, 4, 30):
        expected = reference.logits(problem.X, range(6), problem.model, top_k)
        assert_allclose(
            run_logits(numba_engine, problem, top_k), expected, **TOLERANCE[np.float64]
        )
    arguments = draw_nested_arguments(problem, [4], 2)
    expected = reference.nested_epoch(*arguments)
    assert_same_epoch(run_nested_epoch(numba_engine, arguments), expected, **TOLERANCE[np.float64])


def test_a_range_of_rows_gives_the_rows_of_the_whole():
    problem = draw_problem(n_samples=75)  # more than are routed at once
    whole = run_logits(numba_engine, problem, 3)
    assert_array_equal(run_logits(numba_engine, problem, 3, 5, 70), whole[5:70])


def test_routes_are_those_of_the_requested_rows():
    problem = draw_problem()
    of_all = run_route(numba_engine, problem, 3)
    assert run_route(numba_engine, problem, 3, [8, 5, 8]) == [of_all[i] for i in (8, 5, 8)]


def test_equal_scores_keep_the_lowest_index():
    problem = draw_problem(ties=True, n_experts=12, fill=0.0)
    problem.model.router_intercept[:] = 1.0
    assert run_route(numba_engine, problem, 3) == [dict.fromkeys([0, 1, 2], 1 / 3)] * 24


def kept_of_scores(h, top_k):
    """Experts that the kernel keeps in every row of ``h`` (n_rows, n_experts)."""
    n_rows, n_experts = h.shape
    every_row = np.arange(n_rows + 1)
    X = Csr(every_row, np.arange(n_rows), np.ones(n_rows, h.dtype))  # row i has feature i only
    router = Csr(every_row * n_experts, np.tile(np.arange(n_experts), n_rows), h.ravel())
    experts, counts = np.zeros((n_rows, top_k), np.int64), np.zeros(n_rows, np.int64)
    routes = Routes(experts, np.zeros((n_rows, top_k), h.dtype), counts)
    nothing = np.zeros(n_experts, h.dtype)
    numba_engine.route(X, np.arange(n_rows), router, nothing, 1.0, top_k, routes)
    return [experts[r, :n].tolist() for r, n in enumerate(counts)]


# Around the numbers of scores that are compared, or ordered, at once.
@pytest.mark.parametrize("n_experts", [1, 3, 4, 5, 31, 63, 64, 65, 130, 300])
@pytest.mark.parametrize("top_k", [1, 2, 3, 7, 8, 64])
@pytest.mark.parametrize("n_values", [2, 6, 10_000])
def test_the_largest_scores_are_kept_in_order(n_experts, top_k, n_values):
    rng = np.random.RandomState(0)
    h = rng.randint(n_values, size=(60, n_experts)) - n_values // 2 * rng.randint(2, size=(60, 1))
    h[0], h[1], h[2] = np.arange(n_experts), -1, 1  # ascending, negative, all equal
    top_k = min(top_k, n_experts)
    expected = [reference.kept_experts(list(row), top_k) for row in h]
    for dtype in DTYPES:
        assert kept_of_scores(h.astype(dtype), top_k) == expected


@pytest.mark.parametrize("unit", [1e-45, 1e-39, 1e-30, 1.0, 1e36])
def test_scores_of_any_size_are_kept_in_order(unit):
    h = np.random.RandomState(0).randint(-20, 90, size=(60, 100)) * np.float32(unit)
    h[0, 50], h[1, :40] = np.inf, np.inf
    for top_k in (1, 5, 8, 9):
        expected = [reference.kept_experts(list(row), top_k) for row in h]
        assert kept_of_scores(h, top_k) == expected


def test_a_score_of_zero_is_not_kept():
    problem = draw_problem(fill=0.0)
    problem.model.router_intercept[:] = 0.0
    assert run_route(numba_engine, problem, 6) == [{}] * 24


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("multilabel", [False, True])
def test_extreme_scores_and_outputs_give_the_reference_losses(multilabel, dtype):
    problem = draw_problem(multilabel=multilabel, dtype=dtype)
    for values in (problem.model.router.data, problem.model.router_intercept):
        values *= dtype(1e4)
    problem.model.outputs.data[:] *= dtype(5)
    arguments = draw_nested_arguments(problem, [1, 2, 6], 5)
    expected = reference.nested_epoch(*arguments)
    assert_same_epoch(run_nested_epoch(numba_engine, arguments), expected, **TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_probabilities_stay_exact_where_one_expert_rules_out_a_likely_class(dtype):
    # b2 gives nearly all probability to class 0, and the only kept expert takes it away.
    problem = draw_problem(n_experts=1, n_classes=3, fill=0.0, outputs=1.0, dtype=dtype)
    outputs = Csr(np.array([0, 1]), np.array([0]), np.array([-60.0], dtype))
    problem = problem._replace(model=problem.model._replace(outputs=outputs))
    problem.model.router_intercept[:] = 1.0
    problem.model.intercept[:] = [40.0, 0.0, 1.0]
    arguments = draw_nested_arguments(problem, [1], 5)
    expected = reference.nested_epoch(*arguments)
    assert_same_epoch(run_nested_epoch(numba_engine, arguments), expected, **TOLERANCE[dtype])


def test_two_threads_at_once_give_what_one_gives():
    problems = [draw_problem(n_samples=400, n_features=80, seed=seed) for seed in range(8)]

    def compute(problem):
        return (
            run_linear_epoch(numba_engine, draw_linear_arguments(problem, 32)),
            run_nested_epoch(numba_engine, draw_nested_arguments(problem, [1, 2, 4], 32)),
            run_logits(numba_engine, problem, 3),
            run_route(numba_engine, problem, 3),
            run_embedding_epoch(numba_engine, draw_embedding_arguments(problem, 4, 32)),
        )

    alone = [compute(problem) for problem in problems]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(compute, problems))
    for (linear, nested, z, kept, embedded), expected in zip(together, alone, strict=True):
        assert_array_equal(linear[0], expected[0][0])
        assert_array_equal(linear[1], expected[0][1])
        assert_same_epoch(nested, expected[1], rtol=0, atol=0)
        assert_array_equal(z, expected[2])
        assert kept == expected[3]
        for mine, theirs in zip(embedded, expected[4], strict=True):
            assert_same_arrays(mine, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", DENSE_PROBLEMS)
def test_an_epoch_on_dense_x_equals_the_reference(name, dtype):
    arguments = draw_dense_arguments(**DENSE_PROBLEMS[name], dtype=dtype)
    router, moments, loss = run_dense_epoch(numba_engine, arguments)
    expected_router, expected_moments, expected_loss = reference.dense_epoch(*arguments)
    assert all(part.dtype == dtype for part in router)
    assert_same_arrays(router, expected_router, **TOLERANCE[dtype])
    for moment, expected in zip(moments, expected_moments, strict=True):
        assert_same_arrays(moment, expected, **TOLERANCE[dtype])
    assert_allclose(loss, expected_loss, rtol=TOLERANCE[dtype]["rtol"])


def test_the_gradient_of_the_mixture_is_that_of_its_loss():
    arguments = draw_dense_arguments()
    X, rows, class_starts, router, *_ = arguments
    batch, step = rows.order[:5], 1e-6
    gradients, _ = reference.mixture_gradients(X, batch, rows, class_starts, router)
    for gradient, part in zip(gradients, router, strict=True):
        for place in np.ndindex(part.shape):
            losses = []
            for sign in (1, -1):
                part[place] += sign * step
                losses.append(reference.mixture_gradients(X, batch, rows, class_starts, router)[1])
                part[place] -= sign * step
            assert_allclose((losses[0] - losses[1]) / (2 * step), gradient[place], atol=1e-7)
