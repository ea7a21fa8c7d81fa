"""Several experts per class of sparse X: clusters of its samples, the trial, and further fits."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from documents import draw_documents, draw_noisy_documents
from linear_epochs import draw_documents as draw_unit_documents
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from stages import RecordingEngine, prepare, run

from skparse import SparseExpertClassifier
from skparse._training import text_clusters
from skparse._training.connections import connect
from skparse._training.held_out import hold_out
from skparse._training.linear import start_linear
from skparse._training.linear_run import run_epochs
from skparse._training.text_clusters import (
    EXPERTS_PER_CLASS,
    assign_experts,
    choose_experts,
    cluster_rows,
    split_classes,
)
from skparse.datasets import make_topic_documents


def draw_rows(n_rows=60, n_features=30, *, seed=0, dtype=np.float64):
    """Draw sparse rows; returns (X, weight, direction)."""
    rng = np.random.RandomState(seed)
    X = rng.poisson(0.4, size=(n_rows, n_features)).astype(dtype)
    return (
        sparse.csr_array(X),
        rng.randint(1, 4, n_rows).astype(dtype),
        rng.normal(size=n_features),
    )


def draw_unrelated_topics(n_samples, n_classes=2, n_topics=16, *, seed=0):
    """Draw documents of classes that no linear model separates: each has unrelated topics."""
    return make_topic_documents(
        n_samples, 600, n_topics, n_classes=n_classes, facet_share=1.0, document_length=25,
        background_share=0.5, random_state=seed, return_X_y=True,
    )  # fmt: skip


def draw_topics_as_classes(n_samples, n_classes=2):
    """Draw documents of ten words with one topic per class."""
    return make_topic_documents(
        n_samples, 600, n_classes, n_classes=n_classes, document_length=10, random_state=0,
        return_X_y=True,
    )  # fmt: skip


def split(X, y, n_experts, sample_weight=None):
    """Return the data of samples, and the same with so many experts."""
    data = prepare(X, y, sample_weight)[1].data
    return data, split_classes(data, n_experts, np.random.RandomState(0))


def n_experts_chosen(X, y, sample_weight=None, **parameters):
    problem, draft = prepare(X, y, sample_weight, **parameters)
    return choose_experts(problem, hold_out(problem, draft)).data.class_experts.shape[1]


# cluster_rows


def test_equal_rows_and_rows_that_differ_by_a_factor_are_in_one_cluster():
    X, _, direction = draw_rows()
    again = sparse.vstack([X, X, 3.0 * X], format="csr")
    first, second, scaled = np.split(cluster_rows(again, np.ones(180), 7, direction), 3)
    assert_array_equal(first, second)
    assert_array_equal(first, scaled)
    assert len(set(first)) == 7


def test_a_row_of_weight_two_is_clustered_as_two_equal_rows():
    X, weight, direction = draw_rows()
    rows = np.repeat(np.arange(60), weight.astype(int))
    by_rows = cluster_rows(X[rows], np.ones(len(rows)), 5, direction)
    assert_array_equal(by_rows, cluster_rows(X, weight, 5, direction)[rows])


def test_the_order_of_the_rows_does_not_change_their_clusters():
    X, weight, direction = draw_rows()
    order = np.random.RandomState(1).permutation(60)
    in_order = cluster_rows(X, weight, 5, direction)
    assert_array_equal(cluster_rows(X[order], weight[order], 5, direction), in_order[order])


def test_the_unit_of_the_weights_does_not_change_the_clusters():
    X, weight, direction = draw_rows()
    expected = cluster_rows(X, weight, 5, direction)
    assert_array_equal(cluster_rows(X, 2.0**20 * weight, 5, direction), expected)


@pytest.mark.parametrize(("n_rows", "n_clusters"), [(0, 1), (0, 3), (1, 1), (60, 1)])
def test_no_row_or_one_cluster_is_cluster_zero(n_rows, n_clusters):
    X, weight, direction = draw_rows()
    found = cluster_rows(X[:n_rows], weight[:n_rows], n_clusters, direction)
    assert_array_equal(found, np.zeros(n_rows, np.int64))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("n_clusters", [2, 5, 80])
def test_clusters_are_numbers_below_that_of_the_clusters(n_clusters, dtype):
    X, weight, direction = draw_rows(dtype=dtype)
    X = sparse.vstack([sparse.csr_array((1, 30), dtype=dtype), X[1:]], format="csr")
    found = cluster_rows(X, weight, n_clusters, direction.astype(dtype))
    assert found.shape == (60,)
    assert 0 <= found.min() <= found.max() < n_clusters


@pytest.mark.parametrize("seed", range(5))
def test_separated_groups_are_found(seed):
    rng = np.random.RandomState(seed)
    group = rng.permutation(np.arange(300) % 2)
    X = np.zeros((300, 40))
    for c in range(2):
        own = group == c
        X[own, 20 * c : 20 * (c + 1)] = rng.poisson(1.0, size=(own.sum(), 20)) + 0.1
    found = cluster_rows(sparse.csr_array(X), np.ones(300), 2, rng.normal(size=40))
    assert len(set(zip(group.tolist(), found.tolist(), strict=True))) == 2


# split_classes


@pytest.mark.parametrize("n_experts", [4, 5, 11, 40, 300])
def test_a_split_has_exactly_so_many_experts_and_each_class_at_least_one(n_experts):
    X, y = draw_documents(200)
    data = split(X, y, n_experts)[1]
    assert data.class_experts.shape == (4, n_experts)
    assert_array_equal(data.class_experts.sum(axis=0), 1)
    assert data.class_experts.sum(axis=1).min() >= 1
    assert data.sample_experts.shape == data.siblings.shape == (200, n_experts)


def test_experts_are_divided_by_the_sample_weight_of_the_classes():
    X, y = draw_documents(200)
    y = np.where((y == 3) & (np.arange(200) % 10 > 0), 0, y)
    for weight in (np.ones(200), np.where(y == 1, 10.0, 1.0), np.where(y == 2, 0.0, 1.0)):
        totals = np.bincount(y, weight)
        numbers = split(X, y, 24, weight)[1].class_experts.sum(axis=1)
        for c in range(4):
            for other in range(4):
                # No expert would be better in another class.
                if numbers[c] > 1:
                    assert totals[c] / numbers[c] >= totals[other] / (numbers[other] + 1) - 1e-9
        assert numbers.argmax() == totals.argmax()


@pytest.mark.parametrize("multilabel", [False, True])
def test_a_sample_has_one_expert_per_class_and_the_others_are_its_siblings(multilabel):
    X, y = draw_documents(200)
    if multilabel:
        y = np.column_stack([y == 0, y % 2, y > 1]).astype(int)
    weight = np.random.RandomState(0).randint(1, 4, 200) / 2
    before, data = split(X, y, 11, weight)
    labels, owners = data.labels.toarray() > 0, data.class_experts.toarray() > 0
    own, siblings = data.sample_experts.toarray() > 0, data.siblings.toarray() > 0
    of_its_classes = (labels.astype(int) @ owners) > 0
    assert_array_equal(own.astype(int) @ owners.T, labels)
    assert_array_equal(own & siblings, False)
    assert_array_equal(own | siblings, of_its_classes)
    assert own.any(axis=0).sum() > 8
    assert_allclose(data.exposure.expert, weight @ own)
    assert_array_equal(data.exposure.feature, before.exposure.feature)
    assert data.exposure.total == before.exposure.total
    assert not data.binary
    assert data.X is before.X


def test_the_experts_of_a_sample_are_the_clusters_of_its_class():
    X, y = draw_documents(200)
    data = split(X, y, 12)[1]
    direction = np.random.RandomState(0).normal(size=X.shape[1])
    for c in range(4):
        rows, experts = np.flatnonzero(y == c), data.class_experts[[c]].indices
        clusters = cluster_rows(data.X[rows], np.ones(len(rows)), len(experts), direction)
        assert_array_equal(data.sample_experts.indices[rows], experts[clusters])


def test_two_classes_with_more_experts_are_no_single_margin():
    X, y = draw_documents(200, 2)
    before, data = split(X, y, 3)
    assert before.binary and not data.binary


# Siblings in the linear epochs


def test_siblings_take_no_step_in_the_linear_epochs():
    X, y = draw_unit_documents(200, n_classes=2)
    problem, draft = prepare(X, y, n_experts=7, engine=RecordingEngine())
    draft = run(problem, draft, hold_out, choose_experts, connect, start_linear)
    data = draft.data
    run_epochs(problem, data, draft.run, draft.orders[0][:1], 1.0)
    _, _, targets, ignored, *_ = problem.engine.calls["linear_epoch"][0]
    for pattern, expected in ((targets, data.sample_experts), (ignored, data.siblings)):
        assert_array_equal(pattern.indptr, expected.indptr)
        assert_array_equal(pattern.indices, expected.indices)


def test_the_start_of_an_expert_does_not_depend_on_samples_it_ignores():
    X, y = draw_unit_documents(200, n_classes=2)
    problem, draft = prepare(X, y, n_experts=2)
    draft = run(problem, draft, hold_out, connect)
    everyone = sparse.csr_array(np.ones((200, 2)))
    ignoring = replace(draft.data, siblings=everyone, binary=False)
    draft = start_linear(problem, replace(draft, data=ignoring))
    moved = run_epochs(problem, ignoring, draft.run, draft.orders[0][:2], 1.0)
    assert_array_equal(moved.average()[1], 0)


# choose_experts


def test_a_number_above_that_of_the_classes_always_splits_and_another_never():
    X, y = draw_documents(60, 4)
    for n_experts in (5, 9, 70):
        assert n_experts_chosen(X, y, n_experts=n_experts) == n_experts
    X, y = draw_unrelated_topics(1500)
    assert n_experts_chosen(X, y) == 2 * EXPERTS_PER_CLASS
    assert n_experts_chosen(X, y, n_experts=2) == 2
    assert n_experts_chosen(X, y, n_experts=1) == 1


@pytest.mark.parametrize("n_classes", [2, 4])
def test_classes_of_unrelated_topics_get_several_experts(n_classes):
    X, y = draw_unrelated_topics(2000, n_classes)
    assert n_experts_chosen(X, y) == EXPERTS_PER_CLASS * n_classes


@pytest.mark.parametrize("n_classes", [2, 4])
def test_classes_that_are_topics_get_one_expert_each(n_classes):
    X, y = draw_topics_as_classes(2000, n_classes)
    assert n_experts_chosen(X, y) == n_classes


def test_labels_at_random_get_one_expert_per_class():
    X, _ = draw_unrelated_topics(2000)
    assert n_experts_chosen(X, np.random.RandomState(1).randint(2, size=2000)) == 2


@pytest.mark.parametrize(
    ("n_samples", "parameters", "n_epochs"),
    [
        (1023, {}, 0),
        (1024, {}, 4),
        (1024, {"alpha": 2.0}, 2),
        (1500, {"weight_density": 1.0}, 0),
        (1500, {"n_experts": 2}, 0),
    ],
    ids=str,
)
def test_a_trial_needs_enough_samples_and_no_wish_of_the_user(n_samples, parameters, n_epochs):
    X, y = draw_unrelated_topics(n_samples)
    problem, draft = prepare(X, y, engine=RecordingEngine(), **parameters)
    choose_experts(problem, hold_out(problem, draft))
    n_runs = len(problem.engine.calls["linear_epoch"]) / text_clusters.TRIAL_EPOCHS
    assert n_runs == n_epochs


def test_a_trial_needs_samples_for_each_expert_also_after_the_limit_of_nonzeros(monkeypatch):
    X, y = draw_unrelated_topics(1500)
    assert n_experts_chosen(X, y) > 2
    monkeypatch.setattr(text_clusters, "TRIAL_NONZEROS", X.nnz // 2)
    assert n_experts_chosen(X, y) == 2
    X, y = draw_documents(1500, 5)
    assert 1500 < EXPERTS_PER_CLASS * text_clusters.MIN_SAMPLES_PER_EXPERT * 5
    problem, draft = prepare(X, y, engine=RecordingEngine())
    assert choose_experts(problem, hold_out(problem, draft)).data is draft.data
    assert not problem.engine.calls["linear_epoch"]


def test_multilabel_targets_have_no_trial_but_may_be_split():
    X, y = draw_unrelated_topics(1500)
    y = np.eye(2, dtype=int)[y]
    problem, draft = prepare(X, y, engine=RecordingEngine())
    assert choose_experts(problem, hold_out(problem, draft)).data is draft.data
    assert not problem.engine.calls["linear_epoch"]
    assert n_experts_chosen(X, y, n_experts=6) == 6


def test_the_trial_visits_so_many_nonzeros_at_most(monkeypatch):
    X, y = draw_unrelated_topics(3000)
    monkeypatch.setattr(text_clusters, "TRIAL_NONZEROS", X.nnz // 2)
    problem, draft = prepare(X, y, engine=RecordingEngine())
    choose_experts(problem, hold_out(problem, draft))
    for order in problem.engine.orders("linear_epoch"):
        assert len(np.unique(order)) == 1500 - int(0.2 * 1500)


def test_a_trial_does_not_advance_the_random_state():
    X, y = draw_topics_as_classes(1500)
    problem, draft = prepare(X, y, engine=RecordingEngine())
    before = problem.random_state.get_state()[1].copy()
    chosen = choose_experts(problem, replace(draft, held_out=np.zeros(1500, bool)))
    assert problem.engine.calls["linear_epoch"]
    assert chosen.data is draft.data
    assert_array_equal(problem.random_state.get_state()[1], before)


def test_a_fit_that_tried_several_experts_and_kept_one_is_a_fit_without_a_trial():
    X, y = draw_topics_as_classes(1500)
    tried, asked = (SparseExpertClassifier(n, random_state=0).fit(X, y) for n in ("auto", 2))
    assert_array_equal(tried.router_coef_.data, asked.router_coef_.data)
    assert_array_equal(tried.intercept_, asked.intercept_)


def test_a_fit_that_chose_several_experts_is_a_fit_with_that_number():
    X, y = draw_unrelated_topics(1500)
    chosen, asked = (SparseExpertClassifier(n, random_state=0).fit(X, y) for n in ("auto", 16))
    assert chosen.n_experts_ == 16
    assert_array_equal(chosen.router_coef_.data, asked.router_coef_.data)


# assign_experts


def test_samples_of_a_fitted_model_go_to_the_highest_of_the_scores_of_their_class(monkeypatch):
    X, y = draw_noisy_documents(300, 3)
    model = SparseExpertClassifier(10, random_state=0).fit(X, y)
    problem, draft = prepare(X, y, n_experts=10)
    owners = model.expert_coef_.T.tocsr().astype(bool).astype(float)
    draft = replace(draft, model=model._model, data=replace(draft.data, class_experts=owners))
    scores = X @ model.router_coef_.toarray() + model.router_intercept_
    scores[owners.toarray()[y] == 0] = -np.inf
    for size in (1, 77 * 10, 2**18):
        monkeypatch.setattr(text_clusters, "DENSE_MARGINS", size)
        data = assign_experts(problem, draft).data
        assert_array_equal(data.sample_experts.indices, scores.argmax(axis=1))
        both = data.sample_experts.toarray() + data.siblings.toarray()
        assert_array_equal(both, owners.toarray()[y])


def test_with_one_expert_per_class_or_shared_experts_the_draft_stays():
    X, y = draw_documents(100)
    for n_experts in ("auto", 4, 3):
        problem, draft = prepare(X, y, n_experts=n_experts)
        assert assign_experts(problem, draft) is draft
        fitted = SparseExpertClassifier(n_experts, random_state=0).fit(X, y)._model
        with_model = replace(draft, model=fitted)
        assert assign_experts(problem, with_model) is with_model


def test_the_first_samples_of_a_stream_are_split_if_the_user_wishes():
    problem, draft = prepare(*draw_documents(100), n_experts=9)
    data = assign_experts(problem, draft).data
    assert data.sample_experts.shape == (100, 9)
    assert data.siblings.nnz + 100 == (data.labels @ data.class_experts).nnz


@pytest.mark.parametrize("n_experts", ["auto", 7])
@pytest.mark.parametrize("name", ["fit", "partial_fit"])
def test_training_further_keeps_the_experts_and_their_classes(name, n_experts):
    X, y = draw_unrelated_topics(2500)
    model = SparseExpertClassifier(n_experts, random_state=0, warm_start=True)
    model.fit(X[:1500], y[:1500])
    assert model.n_experts_ == (16 if n_experts == "auto" else 7)
    outputs, accuracy = model.expert_coef_, model.score(X[2000:], y[2000:])
    further = getattr(pickle.loads(pickle.dumps(model)), name)(X[1500:2000], y[1500:2000])
    assert further.n_experts_ == model.n_experts_
    assert_array_equal(further.expert_coef_.indices, outputs.indices)
    assert_array_equal(further.expert_coef_.indptr, outputs.indptr)
    assert further.score(X[2000:], y[2000:]) >= accuracy - 0.01


def test_a_stream_keeps_the_number_of_experts_it_began_with():
    X, y = draw_unrelated_topics(2000)
    for n_experts, expected in (("auto", 2), (12, 12)):
        model = SparseExpertClassifier(n_experts, random_state=0)
        for rows in np.array_split(np.arange(1500), 3):
            model.partial_fit(X[rows], y[rows], classes=[0, 1])
            assert model.n_experts_ == expected
            owners = model.expert_coef_.toarray() != 0
            assert_array_equal(owners.sum(axis=1), 1)


# Whole fits


@pytest.mark.parametrize("n_classes", [2, 4])
def test_several_experts_per_class_are_more_accurate_and_more_of_them_at_once_no_worse(n_classes):
    X, y = draw_unrelated_topics(4000, n_classes)
    one, several = (
        SparseExpertClassifier(n, random_state=0).fit(X[:2500], y[:2500])
        for n in (n_classes, 8 * n_classes)
    )
    accuracy = several.score(X[2500:], y[2500:])
    assert accuracy > one.score(X[2500:], y[2500:]) + 0.2
    assert accuracy >= several.set_params(top_k=1).score(X[2500:], y[2500:])
