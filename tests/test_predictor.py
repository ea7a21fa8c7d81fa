"""Threads share the rows of a large prediction, and leave a small one alone."""

from threading import Barrier, get_ident

import numpy as np
import pytest
from engine_problems import draw_problem
from numpy.testing import assert_array_equal
from scipy import sparse

from skparse import SparseExpertClassifier, _predictor
from skparse._predictor import Predictor, densify_two_experts
from skparse.datasets import make_topic_documents


def rows_of(n_rows, n_columns):
    return sparse.csr_array(np.ones((n_rows, n_columns)))


def run(n_rows, n_columns, n_threads, n_together=1):
    """Blocks that `run_blocks` makes, and the threads that worked on them.

    Every thread waits in its first block until ``n_together`` have come.
    """
    threads, barrier = set(), Barrier(n_together, timeout=60)

    def block(first, last):
        if get_ident() not in threads:
            threads.add(get_ident())
            barrier.wait()
        return first, last

    predictor = Predictor(draw_problem().model, engine=None, n_threads=n_threads)
    return predictor.run_blocks(block, rows_of(n_rows, n_columns)), threads


@pytest.mark.parametrize("n_rows", [0, 1, 3, 4, 5, 1001])
@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_blocks_are_all_rows_in_order(n_rows, n_threads, monkeypatch):
    monkeypatch.setattr(_predictor, "MIN_WORK_FOR_THREADS", 0)
    blocks, _ = run(n_rows, 2, n_threads)
    assert_array_equal(
        np.concatenate([np.arange(*block) for block in blocks] or [np.arange(0)]),
        np.arange(n_rows),
    )


def test_little_work_stays_in_the_calling_thread():
    blocks, threads = run(2000, 10, n_threads=2)
    assert blocks == [(0, 2000)] and threads == {get_ident()}


@pytest.mark.parametrize("shape", [(20_000, 10), (200, 1000)])
def test_many_nonzeros_are_shared_however_few_the_rows(shape):
    blocks, threads = run(*shape, n_threads=2, n_together=2)
    assert len(blocks) == 4 and get_ident() in threads and len(threads) == 2


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_row_among_many_has_the_same_bits_as_alone(dtype):
    X, y = make_topic_documents(
        600, 40, 4, n_classes=2, document_length=30, dtype=dtype, random_state=0, return_X_y=True
    )
    model = SparseExpertClassifier(random_state=0).fit(X, y)
    connected = densify_two_experts(X, model._model).router
    assert connected.nnz == 2 * 40 > model.router_coef_.nnz
    assert_array_equal(connected.toarray(), model.router_coef_.toarray())
    few = X[:3]
    assert densify_two_experts(few, model._model).router is model.router_coef_
    for method in (model.predict_proba, model.decision_function, model.predict):
        assert_array_equal(method(X)[:3], method(few))
    assert_array_equal(model.transform(X)[:3].toarray(), model.transform(few).toarray())
