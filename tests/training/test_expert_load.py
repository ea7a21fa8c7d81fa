"""The expert load: how many samples keep each expert, and experts that none keeps."""

from dataclasses import replace

import numpy as np
import pytest
from documents import draw_documents
from numpy.testing import assert_array_equal
from scipy import sparse
from stages import prepare

from skparse._model import SparseExpertModel
from skparse._predictor import MIN_WORK_FOR_THREADS, Predictor
from skparse._training.expert_load import measure_load

N_EXPERTS = 12
UNUSED = [3, 7]


def prepare_load(n_samples=300, *, unused=UNUSED, **parameters):
    """Return a problem, and a draft with a random model of which no sample keeps some experts."""
    X, y = draw_documents(n_samples)
    problem, draft = prepare(X, y, n_experts=N_EXPERTS, **parameters)
    rng = np.random.RandomState(0)
    router = sparse.csr_array(rng.normal(size=(X.shape[1], N_EXPERTS)))
    intercept = rng.normal(size=N_EXPERTS)
    intercept[unused] = -1e6
    outputs = sparse.csr_array(rng.normal(size=(N_EXPERTS, 4)))
    model = SparseExpertModel(router, intercept, outputs, rng.normal(size=4))
    return problem, replace(draft, model=model)


def count_by_hand(problem, model, top_k):
    codes = Predictor(model, problem.engine, 1).codes(problem.data.X, top_k)
    return (codes.toarray() > 0).sum(axis=0)


@pytest.mark.parametrize("top_k", [1, 3, N_EXPERTS, 100])
def test_the_load_counts_the_samples_that_keep_each_expert(top_k):
    problem, draft = prepare_load(top_k=top_k)
    load = measure_load(problem, draft).expert_load
    assert_array_equal(load, count_by_hand(problem, draft.model, min(top_k, N_EXPERTS)))
    assert load.dtype.kind == "i"
    assert load.sum() > 0


def test_the_load_is_that_of_the_largest_k_of_all_fits():
    problem, draft = prepare_load(top_k=1)
    problem = replace(problem, options=replace(problem.options, largest_top_k=5))
    load = measure_load(problem, draft).expert_load
    assert_array_equal(load, count_by_hand(problem, draft.model, 5))
    assert load.sum() > 300


def test_the_load_is_measured_on_the_samples_as_the_user_gave_them():
    problem, draft = prepare_load()
    in_training = replace(draft.data, X=0 * draft.data.X)
    load = measure_load(problem, replace(draft, data=in_training)).expert_load
    assert_array_equal(load, measure_load(problem, draft).expert_load)


def test_the_load_is_added_to_that_of_earlier_samples():
    problem, draft = prepare_load()
    load = measure_load(problem, draft).expert_load
    earlier = np.arange(N_EXPERTS)
    total = measure_load(problem, replace(draft, expert_load=earlier)).expert_load
    assert_array_equal(total, load + earlier)
    assert_array_equal(earlier, np.arange(N_EXPERTS))


def test_experts_that_no_sample_keeps_are_pruned_and_all_else_stays():
    problem, draft = prepare_load()
    model, before = draft.model, draft.model.copy()
    after = measure_load(problem, draft)
    unused = after.expert_load == 0
    assert_array_equal(np.flatnonzero(unused), UNUSED)
    router = after.model.router
    assert_array_equal(np.bincount(router.indices, minlength=N_EXPERTS) == 0, unused)
    assert_array_equal(router.toarray()[:, ~unused], model.router.toarray()[:, ~unused])
    assert_array_equal(after.model.router_intercept, np.where(unused, 0, model.router_intercept))
    assert after.model.outputs is model.outputs
    assert after.model.intercept is model.intercept
    X, top_k = problem.data.X, problem.options.top_k
    mine, theirs = (Predictor(m, problem.engine, 1).logits(X, top_k) for m in (after.model, model))
    assert_array_equal(mine, theirs)
    for array, copy in zip(model.values(), before.values(), strict=True):
        assert_array_equal(array, copy)


def test_pruning_keeps_the_dtype_of_the_model():
    problem, draft = prepare_load()
    X = problem.data.X.astype(np.float32)
    problem = replace(problem, data=replace(problem.data, X=X))
    router, b1, outputs, b2, *_ = draft.model
    single = SparseExpertModel(*(part.astype(np.float32) for part in (router, b1, outputs, b2)))
    model = measure_load(problem, replace(draft, model=single)).model
    assert model.router.nnz < single.router.nnz
    assert [array.dtype for array in model.values()] == [np.float32] * 4


def test_without_unused_experts_nothing_is_pruned():
    problem, draft = prepare_load(unused=[])
    after = measure_load(problem, draft)
    assert after.expert_load.min() > 0
    assert after.model is draft.model


def test_a_fit_that_may_be_continued_keeps_unused_experts():
    problem, draft = prepare_load(warm_start=True)
    assert problem.options.keeps_unused_experts
    after = measure_load(problem, draft)
    assert_array_equal(np.flatnonzero(after.expert_load == 0), UNUSED)
    assert after.model is draft.model


def test_an_expert_that_only_earlier_samples_kept_is_pruned_unless_it_is_to_be_kept():
    earlier = np.ones(N_EXPERTS, int)
    for warm_start in (False, True):
        problem, draft = prepare_load(warm_start=warm_start)
        after = measure_load(problem, replace(draft, expert_load=earlier))
        assert after.expert_load.min() > 0
        assert (after.model is draft.model) == warm_start


def test_the_load_is_the_same_for_one_thread_and_two():
    (one, draft), (two, _) = (prepare_load(3000, n_jobs=n_jobs) for n_jobs in (1, 2))
    assert one.data.X.nnz * N_EXPERTS // 16 > MIN_WORK_FOR_THREADS
    loads = [measure_load(problem, draft).expert_load for problem in (one, two)]
    assert_array_equal(*loads)
