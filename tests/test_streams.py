"""Streams that begin with `partial_fit`: their state, new classes, forgetting, files."""

import copy
import pickle
import tracemalloc

import numpy as np
import pytest
from fitted_models import assert_same_model
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.linear_model import SGDClassifier
from sklearn.preprocessing import normalize

from skparse import SparseExpertClassifier, _stream_fit
from skparse._training import reservoir, stream, stream_choices, stream_term
from skparse.datasets import make_topic_documents


def draw(n_samples, n_classes=6, *, n_features=2000, seed=0, **options):
    X, y = make_topic_documents(
        n_samples, n_features, 30, n_classes=n_classes, document_length=12, random_state=seed,
        return_X_y=True, **options,
    )  # fmt: skip
    return normalize(X), y


@pytest.fixture(scope="module")
def documents():
    X, y = draw(8000)
    return X[:6000], X[6000:], y[:6000], y[6000:]


def new_model(**parameters):
    return SparseExpertClassifier(random_state=0, **parameters)


def pass_in(model, X, y, n_rows, classes=None):
    for first in range(0, X.shape[0], n_rows):
        part = slice(first, first + n_rows)
        model.partial_fit(X[part], y[part], classes=classes)
    return model


def test_what_is_learnt_hardly_depends_on_how_the_samples_are_cut(documents):
    X, X_test, y, y_test = documents
    scores = [
        pass_in(new_model(), X, y, n_rows, np.unique(y)).score(X_test, y_test)
        for n_rows in (50, 700, 6000)
    ]
    assert max(scores) - min(scores) <= 0.005
    assert min(scores) > new_model(n_experts=6).fit(X, y).score(X_test, y_test) - 0.01


def test_without_held_out_samples_the_cuts_change_nothing(documents):
    X, _, y, _ = documents
    one, other = (
        pass_in(new_model(), X[:1000], y[:1000], n_rows, np.unique(y)) for n_rows in (8, 1000)
    )
    assert_allclose(one.predict_proba(X), other.predict_proba(X), atol=1e-5)
    assert_array_equal(one.expert_load_, other.expert_load_)


@pytest.mark.parametrize("n_rows", [50, 500])
def test_samples_sorted_by_class_are_learnt_at_least_as_well_as_by_sgd(documents, n_rows):
    X, X_test, y, y_test = documents
    order = np.argsort(y[:5000], kind="stable")
    scores = [
        pass_in(model, X[order], y[order], n_rows, np.unique(y)).score(X_test, y_test)
        for model in (new_model(), SGDClassifier(random_state=0))
    ]
    assert scores[0] >= scores[1] - 0.02


def test_a_call_allocates_nothing_of_the_size_of_the_features():
    n_features = 2**22
    rng = np.random.default_rng(0)
    X = sparse.random_array(
        (500, n_features), density=20 / n_features, format="csr", dtype=np.float32, rng=rng
    )
    y = np.arange(500) % 10
    model = new_model().partial_fit(X[:400], y[:400], classes=np.arange(10))
    for first in (400, 401):  # the first call compiles
        tracemalloc.start()
        try:
            model.partial_fit(X[[first]], y[[first]]).predict(X[[first]])
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < n_features / 8


def test_the_file_does_not_grow_with_the_calls():
    X, y = draw(300)
    model = new_model().partial_fit(X, y, classes=np.unique(y))
    pass_in(model, X[np.arange(4000) % 300], y[np.arange(4000) % 300], 100)
    size, n_held_out = len(pickle.dumps(model)), model._stream.reservoir.X.shape[0]
    pass_in(model, X[np.arange(2000) % 300], y[np.arange(2000) % 300], 1)
    per_row = 200  # bytes of a held-out row of 12 words
    more = model._stream.reservoir.X.shape[0] - n_held_out
    losses = 9 * 2000
    assert len(pickle.dumps(model)) <= size + per_row * more + losses


def test_the_reservoir_is_bounded_and_holds_rows_that_were_not_learnt(documents, monkeypatch):
    monkeypatch.setattr(reservoir, "MAX_RESERVOIR_ROWS", 40)
    X, _, y, _ = documents
    model = pass_in(new_model(), X, y, 300, np.unique(y))
    held = model._stream.reservoir
    assert held.X.shape[0] == 40
    assert 100 < held.n_offered < 220  # one of 32 after the first 1,024
    learnt = model._stream.totals[0]
    assert learnt == 6000 - 40
    # Each is one of the samples, with its label.
    is_same = (held.X @ X.T).toarray() > 1 - 1e-6
    assert all(held.labels[i] in y[is_same[i]] for i in range(40))


def test_rows_are_held_out_by_their_place_in_the_stream():
    whole = reservoir.draw_numbers(7, 0, 5000)
    parts = [reservoir.draw_numbers(7, first, 500) for first in range(0, 5000, 500)]
    assert_array_equal(whole, np.concatenate(parts))
    assert (whole[:1024, 0] == 1).all() and (whole >= 0).all() and (whole[1024:] < 1).all()
    assert abs(whole[1024:].mean() - 0.5) < 0.02
    assert not np.array_equal(whole[1024:], reservoir.draw_numbers(8, 0, 5000)[1024:])


# New classes


@pytest.mark.parametrize("begins", ["partial_fit", "fit"])
def test_a_later_call_can_add_classes(documents, begins):
    X, X_test, y, y_test = documents
    names = np.array(["b", "d", "f", "a", "e", "c"])  # new ones come between the others
    known, late = y < 4, y >= 4
    model = new_model()
    if begins == "fit":
        model.fit(X[known], names[y[known]])
    else:
        pass_in(model, X[known], names[y[known]], 500, names[:4])
    rest = y_test < 4
    before = model.score(X_test[rest], names[y_test[rest]])
    with pytest.raises(ValueError, match="not among the classes"):
        model.partial_fit(X[late], names[y[late]])
    order = np.flatnonzero(np.arange(6000) % 2 == 0)
    pass_in(model, X[order], names[y[order]], 500, names)
    assert model.classes_.tolist() == list("abcdef")
    assert model.predict_proba(X_test).shape == (2000, 6)
    assert len(model.expert_load_) == model.n_experts_ >= 6
    late = y_test >= 4
    assert model.score(X_test[late], names[y_test[late]]) > 0.8
    assert model.score(X_test[rest], names[y_test[rest]]) > before - 0.05
    restored = pickle.loads(pickle.dumps(model))
    assert_same_model(restored, model)


def test_a_class_that_comes_late_is_found_after_ten_examples_and_the_others_lose_nothing():
    X, y = draw(9000, 30, n_features=4000, facet_share=0.0)
    X, X_test, y, y_test = X[:7000], X[7000:], y[:7000], y[7000:]
    recalls, losses = [], []
    for late in range(5):
        model, known = new_model(), y != late
        pass_in(model, X[known], y[known], 500, np.delete(np.arange(30), late))
        rest, own = y_test != late, y_test == late
        before = model.score(X_test[rest], y_test[rest])
        few = np.flatnonzero(y == late)[:10]
        model.partial_fit(X[few], y[few], classes=np.arange(30))
        recalls.append(model.score(X_test[own], y_test[own]))
        losses.append(before - model.score(X_test[rest], y_test[rest]))
    assert np.mean(recalls) >= 0.9
    assert np.mean(losses) <= 0.01


def test_classes_cannot_be_added_where_they_share_experts_or_x_is_dense():
    X, y = draw(600)
    model = new_model(n_experts=3).partial_fit(X, y, classes=np.arange(6))
    with pytest.raises(ValueError, match="classes cannot be added"):
        model.partial_fit(X, y, classes=np.arange(7))
    assert model.classes_.tolist() == list(range(6))
    table = np.random.default_rng(0).normal(size=(600, 5))
    dense = new_model(max_iter=2).fit(table, y)
    with pytest.raises(ValueError, match="classes cannot be added"):
        dense.partial_fit(table, y, classes=np.arange(7))


# Drift


def test_a_stream_with_a_horizon_follows_data_that_change():
    X, y = draw(8000)
    swapped = (y + 1) % 6
    plain, forgetful = new_model(), new_model(stream_horizon=500)
    for model in (plain, forgetful):
        pass_in(model, X[:4000], y[:4000], 200, np.unique(y))
        assert model.score(X[7000:], y[7000:]) > 0.8
        pass_in(model, X[4000:6000], swapped[4000:6000], 200)
    scores = [model.score(X[7000:], swapped[7000:]) for model in (plain, forgetful)]
    assert scores[1] > scores[0] + 0.1


def test_nothing_is_forgotten_by_default_and_a_bad_horizon_is_refused(documents):
    X, X_test, y, y_test = documents
    assert SparseExpertClassifier().stream_horizon is None
    for value in (0, -1, 0.5, "long", True):
        with pytest.raises(ValueError, match="'stream_horizon' parameter"):
            new_model(stream_horizon=value).partial_fit(X, y, classes=np.unique(y))
    long, none = (
        pass_in(new_model(stream_horizon=h), X, y, 1000, np.unique(y)) for h in (1e12, None)
    )
    assert abs(long.score(X_test, y_test) - none.score(X_test, y_test)) < 0.005


# The model of the state


def test_the_router_weights_are_those_that_predictions_use(documents):
    X, X_test, y, _ = documents
    model = pass_in(new_model(), X, y, 1000, np.unique(y))
    few = X_test[:20]
    proba = model.predict_proba(few)
    assert "router_coef_" not in vars(model)
    assert model._stream.router is None
    assert model.router_coef_.shape == (2000, 6)
    assert model.router_coef_ is model.router_coef_
    assert_array_equal(model.predict_proba(few), proba)
    scores = few @ model.router_coef_.toarray() + model.router_intercept_
    codes = model.transform(few)
    assert_array_equal(codes.argmax(axis=1), scores.argmax(axis=1))


def test_many_predictions_build_the_router_weights_once(documents):
    X, X_test, y, _ = documents
    model = pass_in(new_model(), X, y, 1000, np.unique(y))
    proba = model.predict_proba(X_test)
    assert model._stream.router is None or model._stream.n_gathered > model._stream.n_slots
    for _ in range(4):
        assert_array_equal(model.predict_proba(X_test), proba)
    assert model._stream.router is not None
    model.partial_fit(X[:1], y[:1])
    assert model._stream.router is None


def test_router_weights_that_the_user_sets_are_used_and_trained_on(documents):
    X, X_test, y, _ = documents
    model = pass_in(new_model(), X, y, 1000, np.unique(y))
    model.router_coef_ = 0 * model.router_coef_
    assert len(np.unique(model.predict(X_test))) == 1
    restored = pickle.loads(pickle.dumps(model))
    for one in (model, restored):
        assert len(np.unique(one.partial_fit(X, y).predict(X_test))) == 6
        assert not hasattr(one, "_stream")


def test_a_copy_learns_by_itself(documents):
    X, X_test, y, _ = documents
    model = pass_in(new_model(), X[:3000], y[:3000], 1000, np.unique(y))
    proba, whole = model.predict_proba(X_test), pickle.dumps(model)
    for duplicate in (copy.copy(model), copy.deepcopy(model), pickle.loads(whole)):
        duplicate.partial_fit(X[3000:], y[3000:])
        assert_array_equal(model.predict_proba(X_test), proba)
        assert pickle.dumps(model) == whole
        other = pickle.loads(whole).partial_fit(X[3000:], y[3000:])
        assert_same_model(duplicate, other)


def test_a_float_density_limits_the_router_weights(documents):
    X, X_test, y, y_test = documents
    model = pass_in(new_model(weight_density=0.1), X, y, 1000, np.unique(y))
    assert model.router_coef_.nnz <= 0.1 * 2000 * 6
    assert model.score(X_test, y_test) > 0.8


def test_features_of_negative_values_are_learnt_like_their_magnitudes(documents):
    X, X_test, y, y_test = documents
    signs = np.where(np.arange(2000) % 2, 1.0, -1.0).astype(np.float32)
    plain, signed = (
        pass_in(new_model(), sparse.csr_array(X.multiply(s)), y, 1000, np.unique(y))
        for s in (np.ones_like(signs), signs)
    )
    proba = signed.predict_proba(sparse.csr_array(X_test.multiply(signs)))
    assert_allclose(proba, plain.predict_proba(X_test), atol=1e-4)


def test_a_stream_of_one_large_row_recovers(documents):
    X, X_test, y, y_test = documents
    model = pass_in(new_model(), X[:3000], y[:3000], 500, np.unique(y))
    model.partial_fit(1e6 * X[:1], y[:1])
    pass_in(model, X[3000:], y[3000:], 500)
    expected = pass_in(new_model(), X, y, 500, np.unique(y)).score(X_test, y_test)
    assert model.score(X_test, y_test) > expected - 0.02


def test_what_cannot_be_learnt_in_the_dtype_is_refused_and_leaves_the_model(documents):
    X, X_test, y, _ = documents
    model = pass_in(new_model(), X, y, 3000, np.unique(y))
    proba = model.predict_proba(X_test)
    with pytest.raises(ValueError, match="too large or too small to train on"):
        rows = np.zeros(50, int)
        model.partial_fit(X[rows], y[rows], sample_weight=np.full(50, 3e37))
    assert_array_equal(model.predict_proba(X_test), proba)


def test_the_tables_grow_with_the_features_that_occur():
    state = stream.begin_stream(10**6, 3, np.float32, 0, None, False)
    X = sparse.csr_array(np.ones((1, 5), np.float32))
    X.resize(1, 10**6)
    assert_array_equal(stream.find_slots(state, X), np.arange(5))
    wide = sparse.csr_array((np.ones(300, np.float32), np.arange(0, 600, 2), [0, 300]))
    slots = stream.find_slots(state, wide)
    assert state.n_slots == 5 + 300 - 3
    assert_array_equal(state.features[slots], wide.indices)
    assert len(state.features) == len(state.tables.weights) == 453
    assert not state.tables.weights.any()


@pytest.mark.parametrize(
    ("rows", "targets"),
    [
        ([[0.0], [1e-42]], np.zeros(2, int)),
        ([[-1.8e-30], [1e30]], np.zeros((2, 2), int)),
    ],
    ids=["weights", "scores"],
)
def test_rows_whose_weights_or_scores_would_overflow_are_refused(rows, targets):
    X = np.array(rows, np.float32)
    model = SparseExpertClassifier(random_state=0)
    classes = [0] if targets.ndim == 1 else None
    model.partial_fit(X[:1], targets[:1], classes=classes)
    before = model.predict_proba(X[:1])
    with pytest.raises(ValueError, match="too large or too small"):
        model.partial_fit(X[1:], targets[1:])
    assert_array_equal(model.predict_proba(X[:1]), before)


# The low-rank term of short texts with many classes


def draw_synonyms(n_samples, n_classes=60, *, n_concepts=30, n_words=60, length=6):
    """Draw short texts: each class has four concepts, each concept many words."""
    rng = np.random.default_rng(0)
    concepts = [rng.choice(n_concepts, 4, replace=False) for _ in range(n_classes)]
    y = rng.integers(n_classes, size=n_samples)
    own = np.array(concepts)[y[:, None], rng.integers(4, size=(n_samples, length))]
    words = n_words * own + rng.integers(n_words, size=own.shape)
    indptr = np.arange(0, words.size + 1, length)
    parts = np.ones(words.size, np.float32), words.ravel(), indptr
    X = sparse.csr_array(parts, shape=(n_samples, n_concepts * n_words))
    X.sum_duplicates()
    return X, y


@pytest.fixture(scope="module")
def short_texts():
    X, y = draw_synonyms(8000)
    return X[:6000], X[6000:], y[:6000], y[6000:]


def has_term(model):
    return model._stream.term.expert_vectors.shape[1] > 0


def test_short_texts_with_many_classes_gain_by_the_term(short_texts, monkeypatch):
    X, X_test, y, y_test = short_texts
    model = pass_in(new_model(), X, y, 500, np.unique(y))
    assert has_term(model) and model._stream.term_strength > 0
    monkeypatch.setattr(stream_term, "MIN_EXPERTS", 61)
    plain = pass_in(new_model(), X, y, 500, np.unique(y))
    assert not has_term(plain) and plain._stream.term_strength == 0
    assert model.score(X_test, y_test) > plain.score(X_test, y_test) + 0.05


def test_the_term_hardly_depends_on_how_the_samples_are_cut(short_texts):
    X, X_test, y, y_test = short_texts
    scores = [
        pass_in(new_model(), X, y, n_rows, np.unique(y)).score(X_test, y_test)
        for n_rows in (20, 500, 6000)
    ]
    assert max(scores) - min(scores) <= 0.01


@pytest.mark.parametrize("case", ["few classes", "long rows", "many features", "forgetting"])
def test_other_streams_have_no_term(short_texts, documents, case):
    X, _, y, _ = short_texts
    parameters = {"stream_horizon": 1000} if case == "forgetting" else {}
    if case == "few classes":
        X, _, y, _ = documents
    elif case == "long rows":
        X = sparse.csr_array(sum(X[200 * i : 200 * i + 200] for i in range(1, 8)))
    elif case == "many features":
        X = X.copy()
        X.resize(6000, 2**19)
    model = new_model(**parameters).partial_fit(X[:200], y[:200], classes=np.unique(y))
    assert not has_term(model)


def test_a_term_that_raises_the_held_out_loss_is_left_out(monkeypatch):
    monkeypatch.setattr(stream_choices, "TERM_SPREAD", 10.0)
    X, y = draw(4000, 30, n_features=4000)
    model = pass_in(new_model(), X[:3000], y[:3000], 1000, np.unique(y))
    assert has_term(model) and model._stream.term_strength == 0
    assert model.score(X[3000:], y[3000:]) > 0.9


def test_an_error_restores_the_term_and_a_file_keeps_it(short_texts, monkeypatch):
    X, X_test, y, _ = short_texts
    model = pass_in(new_model(), X[:5000], y[:5000], 1000, np.unique(y))
    assert model._stream.term_strength > 0
    twin = pickle.loads(pickle.dumps(model))
    assert_same_model(twin, model)
    with monkeypatch.context() as patch:
        patch.setattr(_stream_fit, "choose_by_reservoir", raise_error)
        with pytest.raises(RuntimeError, match="stopped"):
            model.partial_fit(X[5000:], y[5000:])
    for one in (model, twin):
        one.partial_fit(X[5000:], y[5000:])
    assert_array_equal(model.predict_proba(X_test), twin.predict_proba(X_test))


def raise_error(*_):
    raise RuntimeError("stopped")


def test_an_error_takes_back_a_term_that_began_and_its_new_classes(short_texts, monkeypatch):
    X, X_test, y, _ = short_texts
    known = np.flatnonzero(y < 20)[:50]  # fewer rows than show whether a term is worth its time
    model = new_model().partial_fit(X[known], y[known], classes=np.arange(50))
    twin = copy.deepcopy(model)
    with monkeypatch.context() as patch:
        patch.setattr(_stream_fit, "choose_by_reservoir", raise_error)
        with pytest.raises(RuntimeError, match="stopped"):
            model.partial_fit(X, y, classes=np.arange(60))
    assert not has_term(model)
    for one in (model, twin):
        one.partial_fit(X, y, classes=np.arange(60))
        assert has_term(one)
    assert_array_equal(model.predict_proba(X_test), twin.predict_proba(X_test))


def test_a_late_class_of_short_texts_can_be_found_after_ten_examples(short_texts):
    X, X_test, y, y_test = short_texts
    recalls, losses = [], []
    for late in range(5):
        model, known = new_model(), y != late
        pass_in(model, X[known], y[known], 500, np.delete(np.arange(60), late))
        assert model._stream.term_strength > 0
        rest, own = y_test != late, y_test == late
        before = model.score(X_test[rest], y_test[rest])
        few = np.flatnonzero(y == late)[:10]
        model.partial_fit(X[few], y[few], classes=np.arange(60))
        recalls.append(model.score(X_test[own], y_test[own]))
        losses.append(before - model.score(X_test[rest], y_test[rest]))
    assert np.mean(recalls) >= 0.2  # each has 240 words, and the examples have 60 of them
    assert np.mean(losses) <= 0.02


def test_the_unit_of_sample_weights_does_not_change_the_term(short_texts):
    X, X_test, y, _ = short_texts
    one, other = (
        new_model().partial_fit(
            X[:900], y[:900], classes=np.arange(60), sample_weight=np.full(900, weight)
        )
        for weight in (1.0, 16.0)
    )
    for mine, theirs in zip(one._stream.term, other._stream.term, strict=True):
        assert np.abs(mine).max() > 0
        assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)
