"""The torch engine computes what the compiled kernels compute."""

from unittest.mock import patch

import numpy as np
import pytest
import torch
from engine_problems import (
    DENSE_PROBLEMS,
    DTYPES,
    PROBLEMS,
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

from skparse import SparseExpertClassifier
from skparse._engines import numba_engine, torch_rows
from skparse._engines.torch_engine import TorchEngine
from skparse._training import completion
from skparse.datasets import make_topic_documents

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=pytest.mark.skipif(
            not torch.cuda.is_available(), reason="torch finds no CUDA device"
        ),
    ),
]


def tolerance_of(dtype, device):
    if device == "cuda":
        return {"rtol": 1e-4, "atol": 1e-4}
    if dtype == np.float64:
        return {"rtol": 1e-11, "atol": 1e-12}
    return {"rtol": 1e-6, "atol": 1e-6}


def assert_same_numbers(actual, expected, **tolerance):
    """Fail unless the arrays are close and have the same dtype."""
    for mine, theirs in zip(actual, expected, strict=True):
        assert mine.dtype == theirs.dtype
        assert_allclose(mine, theirs, **tolerance)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", PROBLEMS)
def test_logits_and_routes_equal_the_kernels(name, dtype, device):
    problem = draw_problem(**PROBLEMS[name], dtype=dtype)
    tolerance = tolerance_of(dtype, device)
    for top_k in (1, 2, problem.n_experts):
        for write in ("logits", "probabilities"):
            mine, theirs = (
                run_logits(engine, problem, top_k, write=write)
                for engine in (TorchEngine(device), numba_engine)
            )
            assert_same_numbers([mine], [theirs], **tolerance)
        mine, theirs = (run_route(e, problem, top_k) for e in (TorchEngine(device), numba_engine))
        assert_same_routes(mine, theirs, **tolerance)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize("name", sorted(PROBLEMS.keys() - {"ties"}))
def test_nested_epoch_equals_the_kernel(name, multilabel, dtype, device):
    problem = draw_problem(**PROBLEMS[name], multilabel=multilabel, dtype=dtype)
    for batch_size in (1, 5, problem.n_samples):
        of_torch, of_kernels = (
            run_nested_epoch(
                engine,
                draw_nested_arguments(problem, [1, 2, problem.n_experts + 5], batch_size),
            )
            for engine in (TorchEngine(device), numba_engine)
        )
        tolerance = tolerance_of(dtype, device)
        assert_same_numbers(of_torch[0], of_kernels[0], **tolerance)
        assert_allclose(of_torch[1], of_kernels[1], rtol=tolerance["rtol"])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("top_k", [1, 2, 12])
def test_nested_epoch_with_ties_equals_the_kernel(top_k, device):
    # One batch: after an update equal scores are equal up to rounding only.
    problem = draw_problem(**PROBLEMS["ties"])
    of_torch, of_kernels = (
        run_nested_epoch(engine, draw_nested_arguments(problem, [top_k], 2 * problem.n_samples))
        for engine in (TorchEngine(device), numba_engine)
    )
    assert_same_numbers(of_torch[0], of_kernels[0], **tolerance_of(np.float64, device))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("full_batch", [False, True])
@pytest.mark.parametrize("name", PROBLEMS)
def test_linear_epoch_equals_the_kernel(name, full_batch, dtype, device):
    problem = draw_problem(**PROBLEMS[name], dtype=dtype)
    for batch_size in [problem.n_samples] if full_batch else [1, 5, problem.n_samples]:
        arguments = draw_linear_arguments(problem, batch_size, full_batch=full_batch)
        assert_same_numbers(
            run_linear_epoch(TorchEngine(device), arguments),
            run_linear_epoch(numba_engine, arguments),
            **tolerance_of(dtype, device),
        )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_drawn", [0, 2, 9])
@pytest.mark.parametrize("name", PROBLEMS)
def test_embedding_epoch_equals_the_kernel(name, n_drawn, dtype, device):
    problem = draw_problem(**PROBLEMS[name], dtype=dtype)
    tolerance = tolerance_of(dtype, device)
    if dtype == np.float32:  # sums in another order, divided by roots
        tolerance["rtol"] = max(tolerance["rtol"], 1e-5)
    for batch_size in (1, 5, problem.n_samples + 1):
        arguments = draw_embedding_arguments(problem, n_drawn, batch_size)
        of_torch, of_kernels = (
            run_embedding_epoch(engine, arguments)
            for engine in (TorchEngine(device), numba_engine)
        )
        for mine, theirs in zip(of_torch, of_kernels, strict=True):
            assert_same_numbers(mine, theirs, **tolerance)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_an_expert_whose_weight_is_rounded_to_zero_is_still_kept(dtype, device):
    problem = draw_problem(n_experts=3, fill=0.0, dtype=dtype)
    problem.model.router_intercept[:] = [1.0, 2000.0, 3.0]
    expected = [{1: 1.0, 2: 0.0, 0: 0.0}] * problem.n_samples
    assert run_route(numba_engine, problem, 3) == expected
    assert run_route(TorchEngine(device), problem, 3) == expected


@pytest.mark.parametrize("device", DEVICES)
def test_routes_of_some_rows_with_a_sharper_gate_equal_the_kernel(device):
    problem = draw_problem()
    mine, theirs = (
        run_route(engine, problem, 3, [8, 0, 5, 8], sharpness=3.0)
        for engine in (TorchEngine(device), numba_engine)
    )
    assert_same_routes(mine, theirs, **tolerance_of(np.float64, device))


@pytest.mark.parametrize("top_k", [1, 3])
def test_routes_may_have_more_columns_than_experts_are_kept(top_k):
    problem, engine = draw_problem(), TorchEngine("cpu")
    assert run_route(engine, problem, top_k, width=7) == run_route(engine, problem, top_k)


def test_indices_of_64_bits_give_the_numbers_of_32_bits():
    narrow, wide = (draw_problem(index_dtype=dtype) for dtype in (np.int32, np.int64))
    engine = TorchEngine("cpu")
    assert_array_equal(run_logits(engine, wide, 3), run_logits(engine, narrow, 3))
    assert run_route(engine, wide, 3) == run_route(engine, narrow, 3)
    of_wide, of_narrow = (
        run_nested_epoch(engine, draw_nested_arguments(problem, [1, 2, 4], 5))
        for problem in (wide, narrow)
    )
    assert_same_numbers(of_wide[0], of_narrow[0], rtol=0, atol=0)
    of_wide, of_narrow = (
        run_linear_epoch(engine, draw_linear_arguments(problem, 5)) for problem in (wide, narrow)
    )
    assert_same_numbers(of_wide, of_narrow, rtol=0, atol=0)
    of_wide, of_narrow = (
        run_embedding_epoch(engine, draw_embedding_arguments(problem, 2, 5))
        for problem in (wide, narrow)
    )
    for mine, theirs in zip(of_wide, of_narrow, strict=True):
        assert_same_numbers(mine, theirs, rtol=0, atol=0)


def test_prediction_reads_read_only_arrays_and_changes_none():
    problem = draw_problem()
    router, router_intercept, outputs, intercept = problem.model
    arrays = (*problem.X, *router, *outputs, router_intercept, intercept)
    before = [array.copy() for array in arrays]
    for array in arrays:
        array.flags.writeable = False
    run_logits(TorchEngine("cpu"), problem, 3)
    run_route(TorchEngine("cpu"), problem, 3)
    for array, copy in zip(arrays, before, strict=True):
        assert_array_equal(array, copy)


def fit_both(X, y, device, **parameters):
    """Fit the same model with the torch engine on a device and with the kernels."""
    return (
        SparseExpertClassifier(random_state=0, **parameters, **how).fit(X, y)
        for how in ({"engine": "torch", "device": device}, {"engine": "numba"})
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"top_k": 1, "n_experts": 9},
        {"n_experts": 3, "top_k": 2},
        {"weight_density": 0.1, "early_stopping": True},
    ],
)
def test_a_fit_with_torch_equals_a_fit_with_the_kernels(parameters, device):
    X, y = make_topic_documents(
        260, 150, 6, n_classes=4, dtype=np.float64, random_state=0, return_X_y=True
    )
    of_torch, of_kernels = fit_both(X, y, device, **parameters)
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if device == "cuda" else {"rtol": 1e-8, "atol": 1e-9}
    for name in ("router_coef_", "expert_coef_"):
        mine, theirs = getattr(of_torch, name), getattr(of_kernels, name)
        assert_array_equal(mine.indptr, theirs.indptr)
        assert_array_equal(mine.indices, theirs.indices)
        assert_allclose(mine.data, theirs.data, **tolerance)
    for name in ("router_intercept_", "intercept_", "loss_curve_"):
        assert_allclose(getattr(of_torch, name), getattr(of_kernels, name), **tolerance)
    assert_array_equal(of_torch.expert_load_, of_kernels.expert_load_)
    assert_allclose(of_torch.predict_proba(X), of_kernels.predict_proba(X), **tolerance)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("parameters", [{}, {"weight_density": 0.3, "early_stopping": True}])
def test_a_fit_on_short_texts_with_torch_equals_a_fit_with_the_kernels(parameters, device):
    X, y = make_topic_documents(
        400, 300, 20, n_classes=20, document_length=5, dtype=np.float64, random_state=0,
        return_X_y=True,
    )  # fmt: skip
    with patch.object(completion, "add_products", wraps=completion.add_products) as add:
        of_torch, of_kernels = fit_both(X, y, device, **parameters)
    assert add.called
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if device == "cuda" else {"rtol": 1e-8, "atol": 1e-9}
    assert_array_equal(of_torch.router_coef_.indices, of_kernels.router_coef_.indices)
    assert_allclose(of_torch.router_coef_.data, of_kernels.router_coef_.data, **tolerance)
    assert_allclose(of_torch.predict_proba(X), of_kernels.predict_proba(X), **tolerance)


@pytest.mark.parametrize("device", DEVICES)
def test_a_multilabel_fit_with_torch_equals_a_fit_with_the_kernels(device):
    X, y = make_topic_documents(
        260, 150, 6, n_classes=4, dtype=np.float64, random_state=0, return_X_y=True
    )
    labels = np.column_stack([y == 0, y % 2, y > 1, y == 7]).astype(int)
    of_torch, of_kernels = fit_both(X, labels, device)
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if device == "cuda" else {"rtol": 1e-8, "atol": 1e-9}
    assert_allclose(of_torch.router_coef_.data, of_kernels.router_coef_.data, **tolerance)
    assert_allclose(of_torch.predict_proba(X), of_kernels.predict_proba(X), **tolerance)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", DENSE_PROBLEMS)
def test_an_epoch_on_dense_x_equals_the_kernel(name, dtype, device):
    arguments = draw_dense_arguments(**DENSE_PROBLEMS[name], dtype=dtype)
    router, moments, loss = run_dense_epoch(TorchEngine(device), arguments)
    expected_router, expected_moments, expected_loss = run_dense_epoch(numba_engine, arguments)
    tolerance = tolerance_of(dtype, device)
    assert_same_numbers(router, expected_router, **tolerance)
    for moment, expected in zip(moments, expected_moments, strict=True):
        assert_same_numbers(moment, expected, **tolerance)
    assert_allclose(loss, expected_loss, rtol=tolerance["rtol"])


def limit_blocks(monkeypatch, limits):
    """Change limits of what is on the device at a time, by name."""
    for name, limit in limits.items():
        monkeypatch.setattr(torch_rows, name, limit)


SMALL_BLOCKS = {
    "few nonzeros": {"MOST_NONZEROS": 9},
    "few rows": {"MOST_NUMBERS": 20},
    "few weights": {"MOST_WEIGHTS": 12},
    "few weights of rare features": {"MOST_WEIGHTS": 40, "RARE": 0},
    "a batch larger than all limits": {"MOST_NONZEROS": 1, "MOST_NUMBERS": 1, "MOST_WEIGHTS": 1},
}


@pytest.mark.parametrize("limits", SMALL_BLOCKS.values(), ids=SMALL_BLOCKS)
@pytest.mark.parametrize(
    "name", ["ordinary", "sparse pattern", "nothing in X", "duplicated entries"]
)
def test_predictions_in_small_blocks_equal_the_kernels(name, limits, monkeypatch):
    problem = draw_problem(**PROBLEMS[name])
    limit_blocks(monkeypatch, limits)
    tolerance = tolerance_of(np.float64, "cpu")
    for write in ("logits", "probabilities"):
        mine, theirs = (
            run_logits(engine, problem, 3, 2, 21, write=write)
            for engine in (TorchEngine("cpu"), numba_engine)
        )
        assert_allclose(mine, theirs, **tolerance)
    mine, theirs = (
        run_route(engine, problem, 3, [8, 0, 5, 8, 9])
        for engine in (TorchEngine("cpu"), numba_engine)
    )
    assert_same_routes(mine, theirs, **tolerance)


@pytest.mark.parametrize("limits", SMALL_BLOCKS.values(), ids=SMALL_BLOCKS)
@pytest.mark.parametrize("batch_size", [1, 5, 100])
@pytest.mark.parametrize(
    "name", ["ordinary", "sparse pattern", "nothing in X", "duplicated entries"]
)
def test_training_in_small_blocks_equals_the_kernels(name, batch_size, limits, monkeypatch):
    problem = draw_problem(**PROBLEMS[name])
    limit_blocks(monkeypatch, limits)
    tolerance = tolerance_of(np.float64, "cpu")
    arguments = draw_linear_arguments(problem, batch_size)
    of_torch, of_kernels = (
        run_linear_epoch(engine, arguments) for engine in (TorchEngine("cpu"), numba_engine)
    )
    assert_same_numbers(of_torch, of_kernels, **tolerance)
    arguments = draw_nested_arguments(problem, [1, 2, 4], batch_size)
    of_torch, of_kernels = (
        run_nested_epoch(engine, arguments) for engine in (TorchEngine("cpu"), numba_engine)
    )
    assert_same_numbers(of_torch[0], of_kernels[0], **tolerance)
    assert_allclose(of_torch[1], of_kernels[1], rtol=tolerance["rtol"])
    arguments = draw_embedding_arguments(problem, 2, batch_size)
    of_torch, of_kernels = (
        run_embedding_epoch(engine, arguments) for engine in (TorchEngine("cpu"), numba_engine)
    )
    for mine, theirs in zip(of_torch, of_kernels, strict=True):
        assert_same_numbers(mine, theirs, **tolerance)


@pytest.mark.parametrize("name", PROBLEMS)
def test_blocks_keep_to_the_limits(name, monkeypatch):
    problem = draw_problem(**PROBLEMS[name])
    n_features, n_columns = problem.n_features, 7
    order, sizes = np.arange(problem.n_samples)[::-1], np.diff(problem.X.indptr)
    for limits in SMALL_BLOCKS.values():
        with monkeypatch.context() as patched:
            limit_blocks(patched, limits)
            most = torch_rows.MOST_NONZEROS
            if n_features * n_columns > torch_rows.MOST_WEIGHTS:
                most = min(most, torch_rows.MOST_WEIGHTS // n_columns)
            parts = list(torch_rows.split_rows(problem.X, order, 3, n_features, n_columns))
            assert np.concatenate([order[part] for part in parts]).tolist() == order.tolist()
            for part in parts:
                rows = order[part]
                assert part.start % 3 == 0
                assert len(rows) <= 3 or sizes[rows].sum() <= most
                assert len(rows) <= 3 or len(rows) * n_columns <= torch_rows.MOST_NUMBERS


def test_the_device_holds_the_weights_of_the_features_of_few_rows_only(monkeypatch):
    problem = draw_problem(n_samples=3, n_features=500, n_experts=4, fill=0.01)
    n_weights = []
    made = torch_rows.RouterPart.__init__

    def record(part, *arguments):
        made(part, *arguments)
        n_weights.append(part.weights.numel())

    monkeypatch.setattr(torch_rows.RouterPart, "__init__", record)
    run_logits(TorchEngine("cpu"), problem, 2)
    assert n_weights == [4 * len(set(problem.X.indices.tolist()))]


def test_an_engine_predicts_with_the_model_that_it_is_given():
    first, second = draw_problem(seed=1), draw_problem(seed=2)
    engine = TorchEngine("cpu")
    for problem in (first, second, first):
        expected = run_logits(numba_engine, problem, 3)
        assert_allclose(run_logits(engine, problem, 3), expected, rtol=1e-11)
    changed = first._replace(
        model=first.model._replace(
            router=first.model.router._replace(data=first.model.router.data)
        )
    )
    changed.model.router.data[:] *= 2  # in place, as between two epochs
    expected = run_logits(numba_engine, changed, 3)
    assert_allclose(run_logits(engine, changed, 3), expected, rtol=1e-11)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("document_length", [5, 60])
def test_the_same_seed_gives_the_same_bits_on_one_device(document_length, device):
    X, y = make_topic_documents(
        400, 300, 20, n_classes=20, document_length=document_length, dtype=np.float32,
        random_state=0, return_X_y=True,
    )  # fmt: skip
    first, second = (
        SparseExpertClassifier(engine="torch", device=device, random_state=0).fit(X, y)
        for _ in range(2)
    )
    assert_array_equal(first.router_coef_.data, second.router_coef_.data)
    assert_array_equal(first.predict_proba(X), second.predict_proba(X))


@pytest.mark.parametrize("seed", range(3))
def test_a_fit_in_single_precision_is_as_accurate_as_one_with_the_kernels(seed):
    X, y = make_topic_documents(
        2400, 800, 20, n_classes=20, document_length=8, dtype=np.float32, random_state=seed,
        return_X_y=True,
    )  # fmt: skip
    X, y, X_test, y_test = X[:1200], y[:1200], X[1200:], y[1200:]
    of_torch, of_kernels = (
        SparseExpertClassifier(engine=engine, random_state=seed).fit(X, y)
        for engine in ("torch", "numba")
    )
    assert abs(of_torch.score(X_test, y_test) - of_kernels.score(X_test, y_test)) <= 0.003


@pytest.mark.skipif(
    torch.cuda.device_count() < 2, reason="torch finds fewer than two CUDA devices"
)
def test_the_second_gpu_can_be_chosen():
    problem = draw_problem()
    expected = run_logits(numba_engine, problem, 3)
    assert_allclose(run_logits(TorchEngine("cuda:1"), problem, 3), expected, rtol=1e-4)


@pytest.mark.skipif(torch.cuda.device_count() > 1, reason="there is a second CUDA device")
def test_a_gpu_that_does_not_exist_is_an_error():
    with pytest.raises(ValueError, match="device='cuda:1' is not available"):
        TorchEngine("cuda:1")
