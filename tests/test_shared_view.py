"""The shared view: when it is trained, what it depends on, how it joins a model, and its use."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from fitted_models import assert_same_model, reference_proba
from numpy.testing import assert_allclose, assert_array_equal
from reference import draw_problem, prepare_training
from scipy import sparse
from skparse._parameters import ModelParameters
from skparse._shared_view import SharedView

from skparse import SparseExpertClassifier, _numba_engine
from skparse import _initialization as initialization
from skparse import _shared_view as shared_view
from skparse import _training as training
from skparse.datasets import make_topic_documents

N_CLASSES = 20


def draw_documents(n_samples=400, n_classes=N_CLASSES, *, seed=0, dtype=np.float64):
    """Draw short documents, about five words long, with a topic per class."""
    X, y = make_topic_documents(
        n_samples, 300, n_classes, n_classes=n_classes, document_length=5, dtype=dtype,
        random_state=seed, return_X_y=True,
    )  # fmt: skip
    return sparse.csr_array(X), y


def draw_synonyms(n_samples, n_classes=40, *, seed=0):
    """Draw documents of five words about four things each class has; all things have 15 names.

    Every word is rare, and says what its synonyms say.
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


def draw_model(data, *, seed=0):
    """Draw a model for training data, with half of all connections and random weights."""
    rng = np.random.RandomState(seed)
    n_classes, n_experts = data.class_experts.shape
    shape, dtype = (data.X.shape[1], n_experts), data.X.dtype
    router = np.where(rng.uniform(size=shape) < 0.5, rng.normal(size=shape), 0)
    return ModelParameters(
        sparse.csr_array(router.astype(dtype)),
        rng.normal(size=n_experts).astype(dtype),
        sparse.csr_array(3 * np.eye(n_experts, n_classes, dtype=dtype)),
        np.zeros(n_classes, dtype),
    )


def draw_view(parameters, rank=7, *, seed=0):
    rng = np.random.RandomState(seed)
    n_features, n_experts = parameters.router.shape
    shapes = (n_features, rank), (n_experts, rank), n_experts
    return SharedView(*(rng.normal(size=shape).astype(parameters.dtype) for shape in shapes))


@pytest.fixture(scope="module")
def problem():
    """Training data, and a model to which a view is fitted."""
    data, _ = prepare_training(*draw_documents())
    return data, draw_model(data)


def train_view(data, parameters, rows=None, *, engine=_numba_engine, seed=0):
    rows = np.arange(data.X.shape[0]) if rows is None else rows
    rng = np.random.RandomState(seed)
    view = shared_view.train_shared_view(data, rows, engine, rng)
    return shared_view.fit_to_scores(view, data, parameters)


def assert_same_view(mine, theirs, **tolerance):
    for left, right in zip(mine, theirs, strict=True):
        if tolerance:
            assert_allclose(left, right, **tolerance)
        else:
            assert_array_equal(left, right, strict=True)


def scores_of(view, X):
    return X @ view.embedding @ view.output.T


def with_labels(data, labels):
    """Training data with other labels, given as numbers of classes."""
    ones = sparse.csr_array(np.eye(data.labels.shape[1])[labels])
    return training.TrainingData(data.X, ones, data.sample_weight, data.class_experts)


class ListeningEngine:
    """The kernel, with a record of the epochs it was asked for."""

    def __init__(self):
        self.calls = []

    def embedding_epoch(self, *arguments):
        self.calls.append(arguments)
        return _numba_engine.embedding_epoch(*arguments)


def no_view(monkeypatch):
    monkeypatch.setattr(shared_view, "is_worthwhile", lambda data, settings: False)


def listen_to_training(monkeypatch):
    """Record the rows of every view that is trained from now on."""
    rows, original = [], shared_view.train_shared_view

    def listen(*arguments):
        rows.append(arguments[1])
        return original(*arguments)

    monkeypatch.setattr(shared_view, "train_shared_view", listen)
    return rows


# When it is trained


def test_short_texts_with_many_classes_are_worth_a_view():
    assert shared_view.is_worthwhile(*prepare_training(*draw_documents()))


@pytest.mark.parametrize("more", [0, 1])
def test_texts_of_up_to_32_words_on_average_are_short(more):
    X, y = fill_rows(200, 300, 32)
    X = X.toarray()
    X[0, 299] = more
    assert np.count_nonzero(X) == 32 * 200 + more
    assert shared_view.is_worthwhile(*prepare_training(X, y)) == (not more)


def test_texts_without_a_word_are_not_worth_a_view():
    X, y = draw_documents()
    assert not shared_view.is_worthwhile(*prepare_training(0 * X.toarray(), y))


@pytest.mark.parametrize(("n_classes", "expected"), [(2, False), (15, False), (16, True)])
def test_from_16_classes_on_there_are_many(n_classes, expected):
    documents = draw_documents(n_classes=n_classes)
    assert shared_view.is_worthwhile(*prepare_training(*documents)) == expected


@pytest.mark.parametrize(("n_experts", "expected"), [(10, False), (20, True), (40, False)])
def test_every_class_needs_an_expert_of_its_own(n_experts, expected):
    prepared = prepare_training(*draw_documents(), n_experts=n_experts)
    assert shared_view.is_worthwhile(*prepared) == expected


def test_several_labels_are_not_worth_a_view():
    X, y = draw_documents()
    data, settings = prepare_training(X, np.eye(N_CLASSES, dtype=int)[y])
    assert settings.multilabel
    assert data.class_experts.shape == (N_CLASSES, N_CLASSES)
    assert not shared_view.is_worthwhile(data, settings)


@pytest.mark.parametrize(
    ("n_samples", "parameters", "expected"),
    [(128, {}, False), (129, {}, True), (400, {"batch_size": 400}, False)],
)
def test_full_batches_are_not_worth_a_view(n_samples, parameters, expected):
    prepared = prepare_training(*draw_documents(n_samples), **parameters)
    assert shared_view.is_worthwhile(*prepared) == expected


@pytest.mark.parametrize("more", [0, 1])
def test_the_embeddings_have_to_stay_small(more):
    X, y = fill_rows(200, shared_view.MOST_NUMBERS // shared_view.RANK + more, 5)
    assert shared_view.is_worthwhile(*prepare_training(X, y)) == (not more)


def test_a_fit_trains_one_view_where_it_is_worthwhile(monkeypatch):
    X, y = draw_documents()
    trained = listen_to_training(monkeypatch)
    SparseExpertClassifier(random_state=0).fit(X, y)
    assert len(trained) == 1
    SparseExpertClassifier(random_state=0, n_experts=10).fit(X, y)
    assert len(trained) == 1


def test_rows_kept_apart_for_calibration_are_kept_from_the_view(monkeypatch):
    X, y = draw_documents(1100)
    trained = listen_to_training(monkeypatch)
    SparseExpertClassifier(random_state=0, max_iter=1).fit(X, y)
    apart = training.calibration.choose_held_out(1100, False, np.random.RandomState(0))
    assert apart.any()
    assert_array_equal(trained[0], np.flatnonzero(~apart))


# What it depends on


def test_training_a_view_leaves_data_and_model_as_they_were(problem):
    data, parameters = problem
    arrays = (
        data.X.indptr, data.X.indices, data.X.data, data.labels.indices, data.sample_weight,
        data.row_experts.indices, parameters.router.indices, *parameters.arrays(),
    )  # fmt: skip
    before = [array.copy() for array in arrays]
    rows = np.arange(0, 400, 3)
    train_view(data, parameters, rows)
    assert_array_equal(rows, np.arange(0, 400, 3))
    for array, copy in zip(arrays, before, strict=True):
        assert_array_equal(array, copy)


def test_the_random_state_decides(problem):
    view = train_view(*problem)
    assert_same_view(train_view(*problem), view)
    assert np.abs(train_view(*problem, seed=1).embedding - view.embedding).max() > 0.01


def test_a_view_is_given_in_the_precision_of_the_data():
    for dtype in (np.float32, np.float64):
        data, _ = prepare_training(*draw_documents(dtype=dtype))
        parameters = draw_model(data)
        view = train_view(data, parameters)
        assert [part.dtype for part in view] == [dtype] * 3
        added = shared_view.add_view(parameters, view)
        assert [array.dtype for array in added.arrays()] == [dtype] * 4


def test_single_precision_trains_nearly_the_same_view():
    views = []
    for dtype in (np.float32, np.float64):
        data, _ = prepare_training(*draw_documents(dtype=dtype))
        views.append(train_view(data, draw_model(data)))
    assert_same_view(*views, rtol=1e-5, atol=1e-5)


def test_labels_of_other_rows_do_not_matter(problem):
    data, parameters = problem
    given = np.arange(0, 400, 2)
    view = train_view(data, parameters, given)
    labels = data.labels.indices.copy()
    labels[1::2] = (labels[1::2] + 3) % N_CLASSES
    assert_same_view(train_view(with_labels(data, labels), parameters, given), view)
    labels[0] = (labels[0] + 3) % N_CLASSES
    changed = train_view(with_labels(data, labels), parameters, given)
    assert np.abs(changed.embedding - view.embedding).max() > 1e-4


def test_words_of_other_rows_set_the_scale_at_most(problem):
    data, parameters = problem
    given = np.arange(0, 400, 2)
    X = data.X.toarray()
    X[1::2] = np.roll(X[1::2], 7, axis=1)  # other words, rows of the same length
    other = training.TrainingData(
        sparse.csr_array(X), data.labels, data.sample_weight, data.class_experts
    )
    mine, theirs = (train_view(d, parameters, given) for d in (data, other))
    factor = np.linalg.norm(theirs.embedding) / np.linalg.norm(mine.embedding)
    assert_allclose(theirs.embedding, factor * mine.embedding, rtol=1e-9, atol=1e-12)
    assert_allclose(theirs.bias, factor * mine.bias, rtol=1e-9, atol=1e-12)
    assert_allclose(theirs.output, mine.output, rtol=1e-9, atol=1e-12)


def test_rows_without_weight_teach_nothing(problem):
    data, parameters = problem
    weight = np.where(np.arange(400) % 5 == 0, 0, data.sample_weight)
    labels = data.labels.indices.copy()
    labels[::5] = (labels[::5] + 3) % N_CLASSES
    mine, theirs = (
        training.TrainingData(d.X, d.labels, weight, d.class_experts)
        for d in (data, with_labels(data, labels))
    )
    views = (train_view(data, parameters) for data in (mine, theirs))
    for left, right in zip(*views, strict=True):
        assert_allclose(right, left, rtol=1e-9, atol=1e-12)


def test_the_unit_of_sample_weights_does_not_matter(problem):
    data, parameters = problem
    weight = np.random.RandomState(0).uniform(0.5, 2, size=400)
    mine, theirs = (
        training.TrainingData(data.X, data.labels, unit * weight, data.class_experts)
        for unit in (1, 37)
    )
    view = train_view(mine, parameters)
    assert_same_view(train_view(theirs, parameters), view, rtol=1e-7, atol=1e-9)
    assert np.abs(train_view(data, parameters).embedding - view.embedding).max() > 1e-3


def test_the_unit_of_the_features_does_not_matter(problem):
    data, parameters = problem
    scaled = training.TrainingData(
        37 * data.X, data.labels, data.sample_weight, data.class_experts
    )
    view = train_view(data, parameters)
    # The model says the same of the scaled samples: so does the view.
    same_scores = parameters._replace(router=parameters.router / 37)
    expected = view._replace(embedding=view.embedding / 37)
    assert_same_view(train_view(scaled, same_scores), expected, rtol=1e-7, atol=1e-9)
    # The scores of the model are larger: so are those of the view.
    expected = view._replace(bias=37 * view.bias)
    assert_same_view(train_view(scaled, parameters), expected, rtol=1e-7, atol=1e-9)


def test_a_fit_with_a_view_does_not_depend_on_the_unit_of_the_features():
    X, y = draw_documents()
    mine, theirs = (SparseExpertClassifier(random_state=0).fit(u * X, y) for u in (1, 37))
    assert_allclose(theirs.predict_proba(37 * X), mine.predict_proba(X), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("n_drawn", [256, 8])
def test_the_engine_gets_drawn_experts_where_there_are_many(n_drawn, problem, monkeypatch):
    monkeypatch.setattr(shared_view, "DRAWN_EXPERTS", n_drawn)
    engine = ListeningEngine()
    train_view(*problem, np.arange(100), engine=engine)
    assert len(engine.calls) == shared_view.EPOCHS
    for *_, drawn, rates, batch_size in engine.calls:
        assert batch_size == shared_view.BATCH_SIZE
        if n_drawn == 256:
            assert_array_equal(drawn, [np.arange(N_CLASSES)])
        else:
            assert drawn.shape == (shared_view.DRAWS, n_drawn)
        assert_allclose(rates[2], 0 if n_drawn == 256 else np.log(N_CLASSES / n_drawn))
    orders = [arguments[1][0] for arguments in engine.calls]
    assert not np.array_equal(*orders)
    for order in orders:
        assert_array_equal(np.sort(order), np.arange(100))


@pytest.mark.parametrize("n_drawn", [256, 8])
def test_a_view_alone_tells_the_classes_of_new_texts(n_drawn, monkeypatch):
    monkeypatch.setattr(shared_view, "DRAWN_EXPERTS", n_drawn)
    X, y = draw_documents(2000)
    data, _ = prepare_training(X, y)
    view = train_view(data, draw_model(data), np.arange(1000))
    said = (scores_of(view, X) + view.bias)[1000:].argmax(axis=1)
    assert np.mean(said == y[1000:]) > 0.5  # ten times chance


# How it fits to the scores


def test_products_and_biases_are_centred_over_the_experts(problem):
    view = train_view(*problem)
    products = view.embedding @ view.output.T
    assert np.abs(products).max() > 0.1
    assert_allclose(products.mean(axis=1), 0, atol=1e-12)
    assert np.abs(view.bias).max() > 0.01
    assert_allclose(view.bias.mean(), 0, atol=1e-12)


@pytest.mark.parametrize("measured", [2**18, 401, 400 * N_CLASSES // 3])
def test_what_is_added_spreads_by_its_share_of_the_scores(measured, problem, monkeypatch):
    monkeypatch.setattr(shared_view, "MEASURED_SCORES", measured)
    data, parameters = problem
    view = train_view(data, parameters)
    sample = data.X[:: -(-400 * N_CLASSES // measured)]
    assert sample.shape[0] * N_CLASSES <= measured
    scores = (sample @ parameters.router).toarray()
    assert_allclose(scores_of(view, sample).std(), shared_view.SHARE * scores.std())


def test_centring_and_scaling_leave_the_order_of_the_experts(problem):
    data, parameters = problem
    trained = draw_view(parameters)
    unit = 1 / np.sqrt(data.geometry.mean_square)  # it is of rows over their typical norm
    view = shared_view.fit_to_scores(trained, data, parameters)
    before = unit * scores_of(trained, data.X) + trained.bias
    after = scores_of(view, data.X) + view.bias
    before -= before.mean(axis=1, keepdims=True)
    assert_allclose(after, before * (after.std() / before.std()), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", ["X", "router", "view"])
def test_where_nothing_speaks_nothing_is_added(size, problem):
    data, parameters = problem
    view = draw_view(parameters)
    if size == "X":
        data = training.TrainingData(
            0 * data.X, data.labels, data.sample_weight, data.class_experts
        )
    elif size == "router":
        parameters = parameters._replace(router=0 * parameters.router)
    else:
        view = view._replace(embedding=0 * view.embedding)
    fitted = shared_view.fit_to_scores(view, data, parameters)
    assert all(np.isfinite(part).all() for part in fitted)
    assert_array_equal(scores_of(fitted, problem[0].X), 0)


# How it joins a model


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("connected", [0.0, 0.3, 1.0])
def test_a_view_is_added_to_the_weights_that_exist(connected, dtype):
    parameters = draw_problem(
        n_features=40, n_experts=9, n_classes=9, connected=connected, dtype=dtype
    ).parameters
    before = parameters.copy()
    view = draw_view(parameters)
    added = shared_view.add_view(parameters, view)
    router = parameters.router.toarray()
    dense = np.where(router != 0, router + view.embedding @ view.output.T, 0)
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == np.float32 else {"rtol": 1e-12}
    assert_allclose(added.router.toarray(), dense, **tolerance)
    assert added.router.dtype == dtype
    assert_array_equal(added.router.indptr, parameters.router.indptr)
    assert_array_equal(added.router.indices, parameters.router.indices)
    assert_array_equal(added.router_intercept, parameters.router_intercept + view.bias)
    assert_array_equal(added.expert.toarray(), parameters.expert.toarray())
    assert_array_equal(added.intercept, parameters.intercept)
    for mine, theirs in zip(parameters.arrays(), before.arrays(), strict=True):
        assert_array_equal(mine, theirs)


def test_a_weight_of_zero_that_exists_gets_its_product():
    parameters = draw_problem(n_features=40, n_experts=9, n_classes=9).parameters
    parameters.router.data[::2] = 0
    view = draw_view(parameters)
    added = shared_view.add_view(parameters, view)
    products = view.embedding @ view.output.T
    rows = np.repeat(np.arange(40), np.diff(parameters.router.indptr))
    own = products[rows, parameters.router.indices]
    assert_allclose(added.router.data, parameters.router.data + own)


@pytest.mark.parametrize("at_a_time", [1, 7, 10**6])
def test_a_view_is_added_in_blocks_of_any_size(at_a_time, monkeypatch):
    parameters = draw_problem(n_features=40, n_experts=9, n_classes=9).parameters
    view = draw_view(parameters)
    expected = shared_view.add_view(parameters, view).router.data
    monkeypatch.setattr(shared_view, "BLOCK_NUMBERS", at_a_time * shared_view.RANK)
    assert_allclose(shared_view.add_view(parameters, view).router.data, expected, rtol=1e-12)


def test_a_finished_model_is_the_sharpened_sum_in_units_of_the_features():
    data, settings = prepare_training(*draw_documents())
    rng = np.random.RandomState(0)
    relevance = rng.uniform(0.5, 2, size=data.X.shape[1])
    data, parameters = data.with_relevance(relevance), draw_model(data)
    view = draw_view(parameters)
    finished = training.finish(parameters, data, replace(settings, view=view))
    expected = initialization.sharpen(shared_view.add_view(parameters, view), settings.score_map)
    router = expected.router.toarray() * relevance[:, None]
    assert_allclose(finished.router.toarray(), router, rtol=1e-12)
    for mine, theirs in zip(finished.arrays()[1:], expected.arrays()[1:], strict=True):
        assert_array_equal(mine, theirs)


def test_a_view_of_zeros_changes_nothing(monkeypatch):
    monkeypatch.setattr(shared_view, "FLATTER", 1.0)
    X, y = draw_documents()

    def train_nothing(data, *_):
        n_features, n_experts = data.X.shape[1], data.class_experts.shape[1]
        return SharedView(*map(np.zeros, ((n_features, 3), (n_experts, 3), n_experts)))

    with monkeypatch.context() as patch:
        patch.setattr(shared_view, "train_shared_view", train_nothing)
        mine = SparseExpertClassifier(random_state=0).fit(X, y)
    no_view(monkeypatch)
    assert_same_model(mine, SparseExpertClassifier(random_state=0).fit(X, y))


def test_a_view_makes_small_data_less_sure_of_the_wider_scores(monkeypatch):
    X, y = draw_documents(500)
    model = SparseExpertClassifier(random_state=0).fit(X, y)
    monkeypatch.setattr(shared_view, "FLATTER", 1.0)
    as_sharp = SparseExpertClassifier(random_state=0).fit(X, y)
    weights = model.router_coef_.data / as_sharp.router_coef_.data
    assert_allclose(weights, 0.6, rtol=1e-5)


@pytest.mark.parametrize("early_stopping", [False, True])
def test_the_model_is_validated_with_its_view(early_stopping):
    X, y = draw_documents(1000)
    model = SparseExpertClassifier(random_state=0, max_iter=3, early_stopping=early_stopping)
    model.fit(X[:400], y[:400], X_val=X[400:], y_val=y[400:])
    scores = model.validation_scores_
    returned = max(scores) if early_stopping else scores[-1]
    assert model.score(X[400:], y[400:]) == returned


def test_scores_are_calibrated_with_the_view(monkeypatch):
    X, y = draw_documents(1100)
    fit_view, calibrate, expected, calibrated = (
        shared_view.fit_to_scores, training.calibration.calibrate, [], []
    )  # fmt: skip

    def listen_to_view(view, data, parameters):
        view = fit_view(view, data, parameters)
        expected.append(shared_view.add_view(parameters, view))
        return view

    def listen_to_calibration(parameters, *rest):
        calibrated.append(parameters)
        return calibrate(parameters, *rest)

    monkeypatch.setattr(shared_view, "fit_to_scores", listen_to_view)
    monkeypatch.setattr(training.calibration, "calibrate", listen_to_calibration)
    SparseExpertClassifier(random_state=0, max_iter=1).fit(X, y)
    assert len(calibrated) == len(expected) == 1
    for mine, theirs in zip(calibrated[0].arrays(), expected[0].arrays(), strict=True):
        assert_array_equal(mine, theirs)


# Models with a view


@pytest.fixture(scope="module")
def fitted():
    """A model with a view, its documents, and the model without."""
    X, y = draw_documents(800)
    model = SparseExpertClassifier(random_state=0).fit(X[:400], y[:400])
    with pytest.MonkeyPatch.context() as patch:
        no_view(patch)
        without = SparseExpertClassifier(random_state=0).fit(X[:400], y[:400])
    return model, without, X, y


def test_a_view_changes_the_weights_and_no_connection(fitted):
    model, without, *_ = fitted
    mine, theirs = model.router_coef_, without.router_coef_
    assert_array_equal(mine.indptr, theirs.indptr)
    assert_array_equal(mine.indices, theirs.indices)
    assert np.abs(mine.data - theirs.data).max() > 0.1


def test_a_model_with_a_view_predicts_by_the_same_equation(fitted):
    model, _, X, _ = fitted
    for top_k in (1, 3, model.top_k_):
        model_at_k = pickle.loads(pickle.dumps(model)).set_params(top_k=top_k)
        assert_allclose(
            model_at_k.predict_proba(X), reference_proba(model, X, top_k), rtol=1e-9, atol=1e-12
        )


@pytest.mark.parametrize("n_samples", [400, 5000])
def test_any_number_of_threads_gives_the_same_model(n_samples, monkeypatch):
    X, y = draw_documents(n_samples)
    trained = listen_to_training(monkeypatch)
    models = [
        SparseExpertClassifier(random_state=0, max_iter=2, n_jobs=n_jobs).fit(X, y)
        for n_jobs in (1, 2)
    ]
    assert len(trained) == 2
    assert_same_model(*models)


def test_pickle_keeps_a_model_with_a_view(fitted):
    model, _, X, _ = fitted
    copy = pickle.loads(pickle.dumps(model))
    assert_same_model(copy, model)
    assert_array_equal(copy.predict_proba(X), model.predict_proba(X))


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_a_model_with_a_view_can_be_compressed(dtype, fitted):
    model, _, X, _ = fitted
    small = model.compress(dtype, X=X[:400])
    assert small.compression_.n_bytes < model.model_size().n_bytes
    assert small.compression_.changed_predictions < 0.01
    assert small.compression_.largest_probability_change < 0.05
    half = model.compress(dtype, density=model.model_size().weight_density / 2, X=X[:400])
    assert half.router_coef_.nnz <= model.router_coef_.nnz / 2
    assert half.compression_.changed_predictions < 0.1


def test_a_warm_start_keeps_the_view_and_trains_no_other(fitted, monkeypatch):
    model, _, X, y = fitted
    trained = listen_to_training(monkeypatch)
    further = pickle.loads(pickle.dumps(model))
    # With steps of next to nothing what changes is what was lost.
    further.set_params(warm_start=True, max_iter=1, learning_rate_init=1e-12)
    further.fit(X[:400], y[:400])
    assert not trained
    assert_allclose(further.predict_proba(X), model.predict_proba(X), rtol=1e-3, atol=1e-4)
    accuracy = model.score(X[400:], y[400:])
    further.set_params(max_iter=5, learning_rate_init=model.learning_rate_init)
    further.fit(X[:400], y[:400])
    assert not trained
    assert np.abs(further.predict_proba(X) - model.predict_proba(X)).max() > 0.01
    assert further.score(X[400:], y[400:]) > accuracy - 0.05


def test_a_stream_goes_on_from_a_model_with_a_view(fitted, monkeypatch):
    model, without, X, y = fitted
    trained = listen_to_training(monkeypatch)
    further, other = (
        pickle.loads(pickle.dumps(m)).partial_fit(X[400:], y[400:]) for m in (model, without)
    )
    assert not trained
    assert further.t_ == 800
    assert further.score(X[400:], y[400:]) > model.score(X[400:], y[400:])
    # What the view had to say of the first samples is not lost.
    assert further.score(X[:400], y[:400]) > other.score(X[:400], y[:400]) + 0.05


def test_a_stream_from_its_beginning_has_no_view(monkeypatch):
    X, y = draw_documents()
    trained = listen_to_training(monkeypatch)
    SparseExpertClassifier(random_state=0).partial_fit(X, y, classes=np.arange(N_CLASSES))
    assert not trained


@pytest.mark.parametrize("density", [0.3, 1.0])
def test_the_weight_density_stays_as_asked_for(density, monkeypatch):
    X, y = draw_documents(800)
    used = np.diff(X[:400].tocsc().indptr) > 0
    model = SparseExpertClassifier(random_state=0, weight_density=density).fit(X[:400], y[:400])
    no_view(monkeypatch)
    without = SparseExpertClassifier(random_state=0, weight_density=density)
    without.fit(X[:400], y[:400])
    per_feature = np.diff(model.router_coef_.indptr)
    if density == 1.0:
        assert_array_equal(per_feature, np.where(used, N_CLASSES, 0))
    assert model.router_coef_.nnz <= density * 300 * N_CLASSES
    assert_array_equal(model.router_coef_.indices, without.router_coef_.indices)
    assert np.abs(model.router_coef_.data - without.router_coef_.data).max() > 0.1
    assert model.score(X[400:], y[400:]) > without.score(X[400:], y[400:]) - 0.03


@pytest.mark.parametrize(("density", "gain"), [("auto", 0.03), (1.0, 0.06)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_words_that_are_rare_gain_from_their_synonyms(seed, density, gain, monkeypatch):
    X, y = draw_synonyms(3000, seed=seed)
    model = SparseExpertClassifier(random_state=0, weight_density=density)
    with_view = model.fit(X[:1000], y[:1000]).score(X[1000:], y[1000:])
    no_view(monkeypatch)
    without = model.fit(X[:1000], y[:1000]).score(X[1000:], y[1000:])
    assert with_view > without + gain
