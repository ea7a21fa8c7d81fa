"""All sparsity levels in one pass: equal to one prediction for each level."""

import numpy as np
import pytest
import torch
from engine_problems import PROBLEMS, draw_problem, run_logits
from numpy.testing import assert_allclose, assert_array_equal

from skparse import SparseExpertClassifier, _predictor
from skparse._engines import numba_engine
from skparse._engines.torch_engine import TorchEngine
from skparse.datasets import make_topic_documents

ENGINES = {"numba": numba_engine, "torch": TorchEngine("cpu")}
TOLERANCE = {
    np.float64: {"rtol": 1e-12, "atol": 1e-12},
    np.float32: {"rtol": 1e-5, "atol": 5e-6},
}


def run_path(engine, problem, top_ks, first=0, last=None):
    """Logits that an engine computes for rows ``first`` to ``last`` at every level."""
    last = problem.n_samples if last is None else last
    shape = len(top_ks), last - first, problem.n_classes
    out = np.full(shape, np.nan, problem.dtype)
    engine.logits_path(problem.X, first, last, problem.model, np.array(top_ks, np.int64), out)
    return out


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_path_of_an_engine_equals_its_separate_logits(name, engine, dtype):
    problem = draw_problem(**PROBLEMS[name], dtype=dtype)
    top_ks = sorted({1, 2, min(3, problem.n_experts), problem.n_experts})
    path = run_path(engine, problem, top_ks)
    for top_k, logits in zip(top_ks, path, strict=True):
        assert_allclose(logits, run_logits(numba_engine, problem, top_k), **TOLERANCE[dtype])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_path_on_a_gpu_equals_that_of_the_kernel(name):
    problem = draw_problem(**PROBLEMS[name])
    top_ks = [1, 2, problem.n_experts]
    on_gpu, on_cpu = (run_path(e, problem, top_ks) for e in (TorchEngine("cuda"), numba_engine))
    assert_allclose(on_gpu, on_cpu, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
def test_the_path_of_some_rows_is_that_part_of_the_path_of_all(engine):
    problem = draw_problem()
    whole = run_path(engine, problem, [1, 3, 5])
    assert_allclose(run_path(engine, problem, [1, 3, 5], 7, 15), whole[:, 7:15], rtol=1e-12)


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
def test_the_path_does_not_overflow_with_huge_scores(engine):
    problem = draw_problem(n_experts=3, fill=0.0)
    problem.model.router_intercept[:] = [1.0, 2000.0, 1999.0]
    path = run_path(engine, problem, [1, 2, 3])
    for top_k, logits in zip([1, 2, 3], path, strict=True):
        assert_allclose(logits, run_logits(numba_engine, problem, top_k), rtol=1e-12)


def documents(dtype=np.float64):
    return make_topic_documents(
        400, 300, 12, n_classes=6, document_length=15, dtype=dtype, random_state=0,
        return_X_y=True,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("multilabel", [False, True])
def test_probabilities_of_the_path_equal_separate_ones(engine, multilabel, dtype):
    X, y = documents(dtype)
    target = np.eye(6, dtype=int)[y] | np.eye(6, dtype=int)[(y + 1) % 6] if multilabel else y
    model = SparseExpertClassifier(n_experts=12, random_state=0, engine=engine).fit(X, target)
    top_ks = [1, 2, 3, 8]
    path = model.predict_proba_path(X, top_ks)
    assert path.shape == (4, X.shape[0], 6)
    assert path.dtype == dtype
    assert np.abs(path[0] - path[3]).max() > 0.01
    for top_k, probabilities in zip(top_ks, path, strict=True):
        separate = model.set_params(top_k=top_k).predict_proba(X)
        assert_allclose(probabilities, separate, rtol=0, atol=1e-6)


def test_levels_may_come_in_any_order_twice_and_above_the_number_of_experts():
    X, y = documents()
    model = SparseExpertClassifier(top_k=50, random_state=0).fit(X, y)
    path = model.predict_proba_path(X, (40, 2, 6, 2, 50))
    assert_array_equal(path[1], path[3])
    assert_array_equal(path[0], path[2])
    assert_array_equal(path[0], path[4])
    assert_array_equal(path[[1, 2]], model.predict_proba_path(X, np.array([2, 6])))


def test_the_path_does_not_depend_on_the_threads_or_the_level_that_is_set(monkeypatch):
    monkeypatch.setattr(_predictor, "MIN_WORK_FOR_THREADS", 0)
    X, y = documents()
    model = SparseExpertClassifier(random_state=0).fit(X, y)
    several = model.predict_proba_path(X, [1, 4])
    model.set_params(n_jobs=2, top_k=1)
    assert_array_equal(model.predict_proba_path(X, [1, 4]), several)


@pytest.mark.parametrize("top_ks", [[], [0, 1], [-1], [1, 9], [1.5], ["a"], [[1, 2]], 3, [True]])
def test_levels_outside_of_what_was_trained_are_refused(top_ks):
    X, y = documents()
    model = SparseExpertClassifier(top_k=3, random_state=0).fit(X, y)
    with pytest.raises(ValueError, match=r"top_ks .* integers in \[1, 3\], .*got"):
        model.predict_proba_path(X, top_ks)
