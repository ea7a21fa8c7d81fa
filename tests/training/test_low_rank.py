"""The low-rank term: when it is trained, what it depends on, how it is added, and its use."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from documents import draw_short_documents
from fitted_models import assert_same_model, reference_proba
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from stages import RecordingEngine, prepare, run, run_recipe

from skparse import SparseExpertClassifier
from skparse._csr import with_values
from skparse._engines.arguments import LowRankTerm
from skparse._model import SparseExpertModel
from skparse._training import cross_calibration, held_out, low_rank
from skparse._training.completion import complete_model
from skparse._training.connections import connect
from skparse._training.data import build_training_data
from skparse._training.held_out import calibrate, hold_out
from skparse._training.linear import run_linear, start_linear
from skparse._training.low_rank import add_low_rank, add_products, start_low_rank
from skparse._training.recipes import FURTHER, HELD_OUT, STREAM
from skparse._training.scores import multiply_scores
from skparse._training.text_clusters import choose_experts

N_CLASSES = 20


def draw_synonyms(n_samples, n_classes=40, *, seed=0):
    """Draw documents of five words about four things each class has; all things have 15 names.

    Every word is rare, and its synonyms occur with the same classes.
    """
    n_things, n_names, per_class, length = 40, 15, 4, 5
    rng = np.random.RandomState(seed)
    of_class = np.array([rng.permutation(n_things)[:per_class] for _ in range(n_classes)])
    y = rng.permutation(np.arange(n_samples) % n_classes)
    things = of_class[y[:, None], rng.randint(per_class, size=(n_samples, length))]
    words = things * n_names + rng.randint(n_names, size=things.shape)
    rows = np.repeat(np.arange(n_samples), length)
    ones = np.ones(len(rows))
    X = sparse.csr_array((ones, (rows, words.ravel())), shape=(n_samples, n_things * n_names))
    X.sum_duplicates()
    return X, y


def fill_rows(n_samples, n_features, per_row):
    """Build rows with ``per_row`` nonzeros each, and labels of 20 classes."""
    indices = (np.arange(n_samples)[:, None] + np.arange(per_row)) % n_features
    indptr = per_row * np.arange(n_samples + 1)
    X = sparse.csr_array(
        (np.ones(indices.size), indices.ravel(), indptr), shape=(n_samples, n_features)
    )
    X.sort_indices()
    return X, np.arange(n_samples) % N_CLASSES


def draw_model(n_features=40, n_experts=9, *, connected=0.5, dtype=np.float64, seed=0):
    """Draw a model with a share of all connections and random weights, one class per expert."""
    rng = np.random.RandomState(seed)
    shape = n_features, n_experts
    router = np.where(rng.uniform(size=shape) < connected, rng.normal(size=shape), 0)
    return SparseExpertModel(
        sparse.csr_array(router.astype(dtype)),
        rng.normal(size=n_experts).astype(dtype),
        sparse.csr_array(3 * np.eye(n_experts, dtype=dtype)),
        np.zeros(n_experts, dtype),
    )


def draw_term(model, rank=7, *, seed=0):
    rng = np.random.RandomState(seed)
    n_features, n_experts = model.router.shape
    shapes = (n_features, rank), (n_experts, rank), n_experts
    dtype = model.intercept.dtype
    return LowRankTerm(*(rng.normal(size=shape).astype(dtype) for shape in shapes))


def prepare_short(n_samples=400, *, dtype=np.float64, **parameters):
    """Return a problem of short texts, and a draft with a model whose scores are random."""
    documents = draw_short_documents(n_samples, N_CLASSES, dtype=dtype)
    problem, draft = prepare(*documents, **parameters)
    model = draw_model(draft.data.X.shape[1], N_CLASSES, dtype=dtype)
    return problem, replace(draft, model=model)


@pytest.fixture(scope="module")
def short():
    """A problem and a draft of 400 short texts."""
    return prepare_short()


def train_term(problem, draft, rows=None, *, seed=0):
    """Train a term, centre it and scale it to the model of the draft."""
    problem = replace(problem, random_state=np.random.RandomState(seed))
    rows = np.arange(draft.data.X.shape[0]) if rows is None else rows
    return scale_term(problem, draft, low_rank.train_low_rank(problem, draft.data, rows))


def scale_term(problem, draft, term):
    return add_low_rank(problem, replace(draft, low_rank=lambda: term)).low_rank


def is_started(X, y, **parameters):
    """Whether the stage starts a term on these samples."""
    problem, draft = prepare(X, y, **parameters)
    return run(problem, draft, hold_out, choose_experts, start_low_rank).low_rank is not None


def with_data(draft, **changes):
    """Return a draft with other samples; what follows from them is computed anew."""
    data = draft.data
    parts = {"X": data.X, "labels": data.labels, "sample_weight": data.sample_weight}
    parts |= {"class_experts": data.class_experts, **changes}
    return replace(draft, data=build_training_data(**parts, binary=data.binary))


def with_labels(draft, labels):
    """Return a draft with other labels, given as numbers of classes."""
    return with_data(draft, labels=sparse.csr_array(np.eye(N_CLASSES)[labels]))


def assert_same_term(mine, theirs, **tolerance):
    for left, right in zip(mine, theirs, strict=True):
        if tolerance:
            assert_allclose(left, right, **tolerance)
        else:
            assert_array_equal(left, right, strict=True)


def assert_same_values(mine, theirs):
    for left, right in zip(mine.values(), theirs.values(), strict=True):
        assert_array_equal(left, right)


def scores_of(term, X):
    return X @ term.feature_vectors @ term.expert_vectors.T


def prevent_terms(monkeypatch):
    monkeypatch.setattr(low_rank, "MIN_EXPERTS", 10**9)


@pytest.fixture
def trained_rows(monkeypatch):
    """A list that receives the rows of every term that is trained."""
    rows, train_low_rank = [], low_rank.train_low_rank

    def record(*arguments):
        rows.append(arguments[2])
        return train_low_rank(*arguments)

    monkeypatch.setattr(low_rank, "train_low_rank", record)
    return rows


# When it is trained


def test_a_term_is_started_for_short_texts_with_many_classes():
    assert is_started(*draw_short_documents())


@pytest.mark.parametrize("more", [0, 1])
def test_texts_of_up_to_32_words_on_average_are_short(more):
    X, y = fill_rows(200, 300, 32)
    X = X.toarray()
    X[0, 299] = more
    assert np.count_nonzero(X) == 32 * 200 + more
    assert is_started(X, y) == (not more)


def test_no_term_is_started_for_texts_without_a_word():
    X, y = draw_short_documents()
    assert not is_started(0 * X.toarray(), y)


@pytest.mark.parametrize(("n_classes", "expected"), [(2, False), (15, False), (16, True)])
def test_from_16_classes_on_there_are_many(n_classes, expected):
    assert is_started(*draw_short_documents(n_classes=n_classes)) == expected


@pytest.mark.parametrize(("n_experts", "expected"), [(10, False), (20, True), (40, False)])
def test_every_class_needs_an_expert_of_its_own(n_experts, expected):
    assert is_started(*draw_short_documents(), n_experts=n_experts) == expected


def test_no_term_is_started_for_multilabel_targets():
    X, y = draw_short_documents()
    problem, draft = prepare(X, np.eye(N_CLASSES, dtype=int)[y])
    assert problem.options.multilabel
    assert draft.data.class_experts.shape == (N_CLASSES, N_CLASSES)
    assert run(problem, draft, hold_out, start_low_rank).low_rank is None


@pytest.mark.parametrize(
    ("n_samples", "parameters", "expected"),
    [(128, {}, False), (129, {}, True), (400, {"batch_size": 400}, False)],
)
def test_no_term_is_started_for_full_batches(n_samples, parameters, expected):
    assert is_started(*draw_short_documents(n_samples), **parameters) == expected


@pytest.mark.parametrize("more", [0, 1])
def test_the_feature_vectors_have_to_stay_small(more):
    X, y = fill_rows(200, low_rank.MAX_ENTRIES // low_rank.RANK + more, 5)
    assert is_started(X, y) == (not more)


@pytest.mark.parametrize(("n_experts", "n_epochs"), [("auto", low_rank.EPOCHS), (10, 0)])
def test_a_fit_trains_at_most_one_term(n_experts, n_epochs):
    problem, draft = prepare(
        *draw_short_documents(), engine=RecordingEngine(), n_experts=n_experts, max_iter=1
    )
    run_recipe(HELD_OUT, problem, draft)
    assert len(problem.engine.calls["embedding_epoch"]) == n_epochs


@pytest.mark.parametrize("n_threads", [1, 2])
def test_held_out_samples_are_not_in_the_epochs_of_the_term(n_threads):
    problem, draft = prepare(
        *draw_short_documents(1100), engine=RecordingEngine(), n_threads=n_threads
    )
    draft = run(problem, draft, hold_out, start_low_rank)
    assert draft.held_out.any()
    draft.low_rank()
    for order in problem.engine.orders("embedding_epoch"):
        assert_array_equal(np.sort(order), np.flatnonzero(~draft.held_out))


def test_without_a_started_term_nothing_is_added(short):
    problem, draft = short
    assert add_low_rank(problem, draft) is draft


# What it depends on


def test_training_a_term_leaves_data_and_model_as_they_were(short):
    problem, draft = short
    data, model = draft.data, draft.model
    arrays = (
        data.X.indptr, data.X.indices, data.X.data, data.labels.indices, data.sample_weight,
        data.sample_experts.indices, model.router.indices, *model.values(),
    )  # fmt: skip
    before = [array.copy() for array in arrays]
    rows = np.arange(0, 400, 3)
    train_term(problem, draft, rows)
    assert_array_equal(rows, np.arange(0, 400, 3))
    for array, copy in zip(arrays, before, strict=True):
        assert_array_equal(array, copy)


def test_the_random_state_decides(short):
    term = train_term(*short)
    assert_same_term(train_term(*short), term)
    assert np.abs(train_term(*short, seed=1).feature_vectors - term.feature_vectors).max() > 0.01


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_term_has_the_precision_of_the_data(dtype):
    problem, draft = prepare_short(dtype=dtype)
    term = train_term(problem, draft)
    assert [part.dtype for part in term] == [dtype] * 3
    added = add_products(draft.model, term)
    assert [array.dtype for array in added.values()] == [dtype] * 4


def test_single_precision_trains_nearly_the_same_term():
    terms = [train_term(*prepare_short(dtype=dtype)) for dtype in (np.float32, np.float64)]
    assert_same_term(*terms, rtol=1e-5, atol=1e-5)


def test_labels_of_other_rows_do_not_matter(short):
    problem, draft = short
    given = np.arange(0, 400, 2)
    term = train_term(problem, draft, given)
    labels = draft.data.labels.indices.copy()
    labels[1::2] = (labels[1::2] + 3) % N_CLASSES
    assert_same_term(train_term(problem, with_labels(draft, labels), given), term)
    labels[0] = (labels[0] + 3) % N_CLASSES
    changed = train_term(problem, with_labels(draft, labels), given)
    assert np.abs(changed.feature_vectors - term.feature_vectors).max() > 1e-4


def test_words_of_other_rows_set_the_scale_at_most(short):
    problem, draft = short
    given = np.arange(0, 400, 2)
    X = draft.data.X.toarray()
    X[1::2] = np.roll(X[1::2], 7, axis=1)  # other words, rows of the same length
    other = with_data(draft, X=sparse.csr_array(X))
    mine, theirs = (train_term(problem, d, given) for d in (draft, other))
    factor = np.linalg.norm(theirs.feature_vectors) / np.linalg.norm(mine.feature_vectors)
    expected = LowRankTerm(factor * mine.feature_vectors, mine.expert_vectors, factor * mine.bias)
    assert_same_term(theirs, expected, rtol=1e-9, atol=1e-12)


def test_labels_of_rows_without_weight_do_not_matter(short):
    problem, draft = short
    labels = draft.data.labels.indices.copy()
    labels[::5] = (labels[::5] + 3) % N_CLASSES
    weight = np.where(np.arange(400) % 5 == 0, 0, draft.data.sample_weight)
    mine, theirs = (
        train_term(problem, with_data(d, sample_weight=weight))
        for d in (draft, with_labels(draft, labels))
    )
    assert_same_term(theirs, mine, rtol=1e-9, atol=1e-12)


def test_the_unit_of_sample_weights_does_not_matter(short):
    problem, draft = short
    weight = np.random.RandomState(0).uniform(0.5, 2, size=400)
    term, same = (
        train_term(problem, with_data(draft, sample_weight=unit * weight)) for unit in (1, 37)
    )
    assert_same_term(same, term, rtol=1e-7, atol=1e-9)
    unweighted = train_term(problem, draft)
    assert np.abs(unweighted.feature_vectors - term.feature_vectors).max() > 1e-3


def test_the_unit_of_the_features_does_not_matter(short):
    problem, draft = short
    scaled = with_data(draft, X=37 * draft.data.X)
    term = train_term(problem, draft)
    # The scores of the model are the same, and so are those of the term.
    same_scores = replace(scaled, model=draft.model._replace(router=draft.model.router / 37))
    expected = term._replace(feature_vectors=term.feature_vectors / 37)
    assert_same_term(train_term(problem, same_scores), expected, rtol=1e-7, atol=1e-9)
    # The scores of the model are larger, and so are those of the term.
    expected = term._replace(bias=37 * term.bias)
    assert_same_term(train_term(problem, scaled), expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("n_drawn", [256, 8])
def test_the_engine_gets_drawn_experts_where_there_are_many(n_drawn, short, monkeypatch):
    monkeypatch.setattr(low_rank, "DRAWN_EXPERTS", n_drawn)
    problem, draft = short
    problem = replace(problem, engine=RecordingEngine())
    train_term(problem, draft, np.arange(100))
    calls = problem.engine.calls["embedding_epoch"]
    assert len(calls) == low_rank.EPOCHS
    for *_, drawn, options in calls:
        assert options.batch_size == low_rank.BATCH_SIZE
        if n_drawn == 256:
            assert_array_equal(drawn, [np.arange(N_CLASSES)])
            assert options.negative_sampling_correction == 0
        else:
            assert drawn.shape == (low_rank.DRAWS, n_drawn)
            correction = np.log(N_CLASSES / n_drawn)
            assert options.negative_sampling_correction == pytest.approx(correction)
    orders = problem.engine.orders("embedding_epoch")
    assert not np.array_equal(*orders)
    for order in orders:
        assert_array_equal(np.sort(order), np.arange(100))


@pytest.mark.parametrize("n_drawn", [256, 8])
def test_a_term_alone_predicts_classes_of_new_texts(n_drawn, monkeypatch):
    monkeypatch.setattr(low_rank, "DRAWN_EXPERTS", n_drawn)
    problem, draft = prepare_short(2000)
    term = train_term(problem, draft, np.arange(1000))
    predicted = (scores_of(term, draft.data.X) + term.bias)[1000:].argmax(axis=1)
    assert np.mean(predicted == draft.data.labels.indices[1000:]) > 0.5  # ten times chance


# How it is centred and scaled


def test_products_and_biases_are_centred_over_the_experts(short):
    term = train_term(*short)
    products = term.feature_vectors @ term.expert_vectors.T
    assert np.abs(products).max() > 0.1
    assert_allclose(products.mean(axis=1), 0, atol=1e-12)
    assert np.abs(term.bias).max() > 0.01
    assert_allclose(term.bias.mean(), 0, atol=1e-12)


@pytest.mark.parametrize("measured", [2**18, 401, 400 * N_CLASSES // 3])
def test_the_spread_of_the_added_scores_follows_that_of_the_model(measured, short, monkeypatch):
    monkeypatch.setattr(low_rank, "MEASURED_SCORES", measured)
    problem, draft = short
    term = train_term(problem, draft)
    sample = draft.data.X[:: -(-400 * N_CLASSES // measured)]
    assert sample.shape[0] * N_CLASSES <= measured
    scores = (sample @ draft.model.router).toarray()
    assert_allclose(scores_of(term, sample).std(), low_rank.SPREAD_RATIO * scores.std())


def test_centring_and_scaling_leave_the_order_of_the_experts(short):
    problem, draft = short
    data, trained = draft.data, draw_term(draft.model)
    unit = 1 / np.sqrt(data.geometry.mean_square)  # it is of rows over their typical norm
    term = scale_term(problem, draft, trained)
    before = unit * scores_of(trained, data.X) + trained.bias
    after = scores_of(term, data.X) + term.bias
    before -= before.mean(axis=1, keepdims=True)
    assert_allclose(after, before * (after.std() / before.std()), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("zeros", ["X", "router", "term"])
def test_where_all_scores_are_zero_nothing_is_added(zeros, short):
    problem, draft = short
    X, term = draft.data.X, draw_term(draft.model)
    if zeros == "X":
        draft = with_data(draft, X=0 * X)
    elif zeros == "router":
        draft = replace(draft, model=draft.model._replace(router=0 * draft.model.router))
    else:
        term = term._replace(feature_vectors=0 * term.feature_vectors)
    scaled = scale_term(problem, draft, term)
    assert all(np.isfinite(part).all() for part in scaled)
    assert_array_equal(scores_of(scaled, X), 0)


def test_adding_a_term_leaves_the_model_and_lowers_the_default_factor_on_the_scores(short):
    problem, draft = short
    term = draw_term(draft.model)
    added = add_low_rank(problem, replace(draft, low_rank=lambda: term))
    assert added.model is draft.model
    factor = low_rank.SHARPNESS * draft.scaling.score_factor
    assert added.scaling == draft.scaling._replace(score_factor=factor)


# How it is added to a model


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("connected", [0.0, 0.3, 1.0])
def test_products_are_added_to_the_weights_that_exist(connected, dtype):
    model = draw_model(connected=connected, dtype=dtype)
    before, term = model.copy(), draw_term(model)
    added = add_products(model, term)
    router = model.router.toarray()
    products = term.feature_vectors @ term.expert_vectors.T
    dense = np.where(router != 0, router + products, 0)
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == np.float32 else {"rtol": 1e-12}
    assert_allclose(added.router.toarray(), dense, **tolerance)
    assert added.router.dtype == dtype
    assert_array_equal(added.router.indptr, model.router.indptr)
    assert_array_equal(added.router.indices, model.router.indices)
    assert_array_equal(added.router_intercept, model.router_intercept + term.bias)
    assert_array_equal(added.outputs.toarray(), model.outputs.toarray())
    assert_array_equal(added.intercept, model.intercept)
    assert_same_values(model, before)


def test_a_weight_of_zero_that_exists_gets_its_product():
    model = draw_model()
    values = model.router.data.copy()
    values[::2] = 0
    model = model._replace(router=with_values(model.router, values))
    term = draw_term(model)
    added = add_products(model, term)
    products = term.feature_vectors @ term.expert_vectors.T
    rows = np.repeat(np.arange(40), np.diff(model.router.indptr))
    assert_allclose(added.router.data, values + products[rows, model.router.indices])


@pytest.mark.parametrize("at_a_time", [1, 7, 10**6])
def test_products_are_added_in_blocks_of_any_size(at_a_time, monkeypatch):
    model = draw_model()
    term = draw_term(model)
    expected = add_products(model, term).router.data
    monkeypatch.setattr(low_rank, "BLOCK_ENTRIES", at_a_time * low_rank.RANK)
    assert_allclose(add_products(model, term).router.data, expected, rtol=1e-12)


def test_a_complete_model_is_the_calibrated_sum_in_units_of_the_features(short):
    problem, draft = short
    model, scaling = draft.model, draft.scaling
    relevance = np.random.RandomState(0).uniform(0.5, 2, size=draft.data.X.shape[1])
    term = draw_term(model)
    draft = replace(draft, data=replace(draft.data, relevance=relevance), low_rank=term)
    complete = complete_model(problem, draft, model)
    summed = add_products(model, term)
    expected = multiply_scores(summed, scaling.score_factor, scaling.output_factor)
    router = expected.router.toarray() * relevance[:, None]
    assert_allclose(complete.router.toarray(), router, rtol=1e-12)
    for mine, theirs in zip(complete.values()[1:], expected.values()[1:], strict=True):
        assert_array_equal(mine, theirs)


def test_scores_are_calibrated_with_the_term():
    problem, draft = prepare(*draw_short_documents(1100))
    draft = run(problem, draft, hold_out, connect, start_linear, start_low_rank, run_linear)
    draft = add_low_rank(problem, draft)
    added = replace(draft, model=add_products(draft.model, draft.low_rank), low_rank=None)
    without = replace(draft, low_rank=None)
    scaling = calibrate(problem, draft).scaling
    assert scaling == calibrate(problem, added).scaling
    assert scaling != calibrate(problem, without).scaling


# Estimators with a term


def test_a_fit_with_a_term_does_not_depend_on_the_unit_of_the_features():
    X, y = draw_short_documents()
    mine, theirs = (SparseExpertClassifier(random_state=0).fit(u * X, y) for u in (1, 37))
    assert_allclose(theirs.predict_proba(37 * X), mine.predict_proba(X), rtol=1e-6, atol=1e-8)


def test_a_term_of_zeros_changes_nothing(monkeypatch):
    monkeypatch.setattr(low_rank, "SHARPNESS", 1.0)
    X, y = draw_short_documents()

    def build_zeros(problem, data, rows):
        n_features, n_experts = data.X.shape[1], data.class_experts.shape[1]
        return LowRankTerm(*map(np.zeros, ((n_features, 3), (n_experts, 3), n_experts)))

    with monkeypatch.context() as patch:
        patch.setattr(low_rank, "train_low_rank", build_zeros)
        mine = SparseExpertClassifier(random_state=0).fit(X, y)
    prevent_terms(monkeypatch)
    assert_same_model(mine, SparseExpertClassifier(random_state=0).fit(X, y))


def test_a_term_lowers_the_scores_of_small_data_by_a_factor(monkeypatch):
    X, y = draw_short_documents(500)
    for module in (held_out, cross_calibration):
        monkeypatch.setattr(module, "SCORE_FACTORS", np.ones(1))
        monkeypatch.setattr(module, "OUTPUT_FACTORS", np.ones(1))
    model = SparseExpertClassifier(alpha=1.0, random_state=0).fit(X, y)
    monkeypatch.setattr(low_rank, "SHARPNESS", 1.0)
    as_sharp = SparseExpertClassifier(alpha=1.0, random_state=0).fit(X, y)
    weights = model.router_coef_.data / as_sharp.router_coef_.data
    assert_allclose(weights, 0.6, rtol=1e-5)


@pytest.mark.parametrize("early_stopping", [False, True])
def test_the_model_is_validated_with_its_term(early_stopping):
    X, y = draw_short_documents(1000)
    model = SparseExpertClassifier(random_state=0, max_iter=3, early_stopping=early_stopping)
    model.fit(X[:400], y[:400], X_val=X[400:], y_val=y[400:])
    scores = model.validation_scores_
    returned = max(scores) if early_stopping else scores[-1]
    assert model.score(X[400:], y[400:]) == returned


@pytest.fixture(scope="module")
def fitted():
    """A model with a term, its documents, and the model without."""
    X, y = draw_short_documents(800)
    model = SparseExpertClassifier(alpha=1.0, random_state=0).fit(X[:400], y[:400])
    with pytest.MonkeyPatch.context() as patch:
        prevent_terms(patch)
        without = SparseExpertClassifier(alpha=1.0, random_state=0).fit(X[:400], y[:400])
    return model, without, X, y


def test_a_term_changes_the_weights_and_no_connection(fitted):
    model, without, *_ = fitted
    mine, theirs = model.router_coef_, without.router_coef_
    assert_array_equal(mine.indptr, theirs.indptr)
    assert_array_equal(mine.indices, theirs.indices)
    assert np.abs(mine.data - theirs.data).max() > 0.1


def test_a_model_with_a_term_predicts_by_the_same_equation(fitted):
    model, _, X, _ = fitted
    for top_k in (1, 3, model.top_k_):
        model_at_k = pickle.loads(pickle.dumps(model)).set_params(top_k=top_k)
        assert_allclose(
            model_at_k.predict_proba(X), reference_proba(model, X, top_k), rtol=1e-9, atol=1e-12
        )


@pytest.mark.parametrize("n_samples", [400, 5000])
def test_any_number_of_threads_gives_the_same_model(n_samples, trained_rows):
    X, y = draw_short_documents(n_samples)
    models = [
        SparseExpertClassifier(random_state=0, max_iter=2, n_jobs=n_jobs).fit(X, y)
        for n_jobs in (1, 2)
    ]
    # Beside those of the folds, which calibrate small data.
    in_folds = [rows for rows in trained_rows if len(rows) < 0.9 * n_samples]
    assert len(trained_rows) - len(in_folds) == 2
    assert_same_model(*models)


def test_pickle_keeps_a_model_with_a_term(fitted):
    model, _, X, _ = fitted
    copy = pickle.loads(pickle.dumps(model))
    assert_same_model(copy, model)
    assert_array_equal(copy.predict_proba(X), model.predict_proba(X))


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_a_model_with_a_term_can_be_compressed(dtype, fitted):
    model, _, X, _ = fitted
    small = model.compress(dtype, X=X[:400])
    assert small.compression_.n_bytes < model.model_size().n_bytes
    assert small.compression_.changed_predictions < 0.01
    # Outputs of 20 and more multiply what rounding changes in the gate weights.
    assert small.compression_.largest_probability_change < 0.1
    half = model.compress(dtype, density=model.model_size().weight_density / 2, X=X[:400])
    assert half.router_coef_.nnz <= model.router_coef_.nnz / 2
    assert half.compression_.changed_predictions < 0.1


def test_a_warm_start_keeps_the_term_and_trains_no_other(fitted, trained_rows):
    model, _, X, y = fitted
    further = pickle.loads(pickle.dumps(model))
    # With such small steps, a change of the probabilities is what was lost of the term.
    further.set_params(warm_start=True, max_iter=1, learning_rate_init=1e-12)
    further.fit(X[:400], y[:400])
    assert_allclose(further.predict_proba(X), model.predict_proba(X), rtol=1e-3, atol=1e-4)
    accuracy = model.score(X[400:], y[400:])
    further.set_params(max_iter=5, learning_rate_init=model.learning_rate_init)
    further.fit(X[:400], y[:400])
    assert not trained_rows
    assert np.abs(further.predict_proba(X) - model.predict_proba(X)).max() > 0.01
    assert further.score(X[400:], y[400:]) > accuracy - 0.05


def test_a_stream_continues_a_model_with_a_term(fitted, trained_rows):
    model, without, X, y = fitted
    further, other = (
        pickle.loads(pickle.dumps(m)).partial_fit(X[400:], y[400:]) for m in (model, without)
    )
    assert not trained_rows
    assert further.t_ == 800
    assert further.score(X[400:], y[400:]) > model.score(X[400:], y[400:])
    # What the term adds for the first samples is not lost.
    assert further.score(X[:400], y[:400]) > other.score(X[:400], y[:400]) + 0.05


@pytest.mark.parametrize("recipe", [FURTHER, STREAM])
def test_only_new_models_have_the_stages_of_a_term(recipe):
    for stage in (start_low_rank, add_low_rank):
        assert stage in HELD_OUT.start
        assert stage not in recipe.start + recipe.train


def test_a_stream_from_its_beginning_has_no_term(trained_rows):
    X, y = draw_short_documents()
    SparseExpertClassifier(random_state=0).partial_fit(X, y, classes=np.arange(N_CLASSES))
    assert not trained_rows


@pytest.mark.parametrize("density", [0.3, 1.0])
def test_a_term_leaves_the_weight_density_that_was_asked_for(density, monkeypatch):
    X, y = draw_short_documents(800)
    used = np.diff(X[:400].tocsc().indptr) > 0
    parameters = {"weight_density": density, "alpha": 1.0, "random_state": 0}
    model = SparseExpertClassifier(**parameters).fit(X[:400], y[:400])
    prevent_terms(monkeypatch)
    without = SparseExpertClassifier(**parameters).fit(X[:400], y[:400])
    per_feature = np.diff(model.router_coef_.indptr)
    if density == 1.0:
        assert_array_equal(per_feature, np.where(used, N_CLASSES, 0))
    assert model.router_coef_.nnz <= density * 300 * N_CLASSES
    assert_array_equal(model.router_coef_.indices, without.router_coef_.indices)
    assert np.abs(model.router_coef_.data - without.router_coef_.data).max() > 0.1
    assert model.score(X[400:], y[400:]) > without.score(X[400:], y[400:]) - 0.03


@pytest.mark.parametrize(("density", "gain"), [("auto", 0.03), (1.0, 0.06)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_term_raises_the_accuracy_where_words_are_rare_and_have_synonyms(
    seed, density, gain, monkeypatch
):
    X, y = draw_synonyms(3000, seed=seed)
    model = SparseExpertClassifier(random_state=0, weight_density=density)
    with_term = model.fit(X[:1000], y[:1000]).score(X[1000:], y[1000:])
    prevent_terms(monkeypatch)
    without = model.fit(X[:1000], y[:1000]).score(X[1000:], y[1000:])
    assert with_term > without + gain
