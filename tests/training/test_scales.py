"""Large rows and columns of sparse X are made smaller for the training."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.datasets import make_classification
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.svm import LinearSVC

from skparse import SparseExpertClassifier
from skparse._training import scales
from skparse._training.data import build_training_data
from skparse._training.problem import Draft
from skparse._training.scales import bound_scales, column_factors, row_factors
from skparse._training.scores import default_scaling
from skparse.datasets import load_api_docs


def build(X, weight=None, dtype=np.float64):
    X = sparse.csr_array(X, dtype=dtype)
    n = X.shape[0]
    weight = np.ones(n, dtype) if weight is None else np.asarray(weight, dtype)
    labels = sparse.csr_array(np.eye(3)[np.arange(n) % 3])
    return build_training_data(X, labels, weight, sparse.eye_array(3, format="csr"))


def draw(n_samples=200, n_features=60, seed=0):
    """Draw rows of norm one with a fifth of the entries."""
    rng = np.random.RandomState(seed)
    X = rng.uniform(0.5, 2.0, (n_samples, n_features)) * (rng.rand(n_samples, n_features) < 0.2)
    X[:, 0] = 1e-3 * (rng.rand(n_samples) < 0.5)
    X[0, 1] = 1.0  # no empty row
    return X / np.maximum(np.linalg.norm(X, axis=1, keepdims=True), 1e-9)


def slow_factors(X, weight):
    """Compute both kinds of factors entry by entry."""
    n, d = X.shape
    logs = [[np.log2(abs(v)) if v else None for v in row] for row in X]
    levels = [np.mean([v for v in row if v is not None] or [0]) for row in logs]
    columns = np.ones(d)
    for j in range(d):
        entries = [(weight[i], logs[i][j] - levels[i]) for i in range(n) if logs[i][j] is not None]
        if entries:
            size = sum(w * v for w, v in entries) / sum(w for w, _ in entries)
            columns[j] = min(1.0, scales.MAX_COLUMN_SIZE / 2**size)
    squares = [sum((columns[j] * X[i, j]) ** 2 for j in range(d)) for i in range(n)]
    pairs = sorted((s, w) for s, w in zip(squares, weight, strict=True) if s > 0)
    half = sum(w for _, w in pairs) / 2
    median = min(s for s, _ in pairs if sum(w for other, w in pairs if other <= s) >= half)
    largest = scales.MAX_ROW_SQUARE * median
    rows = np.array([min(1.0, np.sqrt(largest / s)) if s > 0 else 1.0 for s in squares])
    return columns, np.where(rows > 1 - 1e-3, 1.0, rows)


@pytest.mark.parametrize("seed", [0, 1])
def test_factors_are_those_of_a_slow_loop(seed):
    rng = np.random.RandomState(seed)
    X = draw(seed=seed)
    X[3] *= 1e4
    X[:, 5] *= 300
    X[7] = 0
    weight = rng.uniform(0.1, 3, len(X))
    data = build(X, weight)
    columns, rows = slow_factors(X, weight)
    assert columns[5] < 0.1 and rows[3] < 1e-3
    assert_allclose(column_factors(data), columns, rtol=1e-12)
    assert_allclose(row_factors(data, columns), rows, rtol=1e-12)


def test_texts_of_norm_one_are_left_as_they_are():
    X = TfidfVectorizer().fit_transform(load_api_docs().data[:300])
    data = build(X)
    draft = Draft(data=data, scaling=default_scaling(3, False), alpha=1.0)
    columns = column_factors(data)
    assert (columns < 1).mean() < 0.05
    assert row_factors(data, np.ones(X.shape[1])).min() == 1
    plain = build(np.ones((10, 4)))
    assert bound_scales(None, replace(draft, data=plain)).data is plain


@pytest.mark.parametrize("factor", [1e-3, 1e3, 1e6])
def test_one_row_or_column_does_not_change_the_factors_of_the_others(factor):
    X = draw()
    changed = X.copy()
    changed[11] *= factor
    before, after = column_factors(build(X)), column_factors(build(changed))
    assert_allclose(after, before, rtol=1e-9)
    rows = row_factors(build(changed), after)
    norms = rows * np.linalg.norm(changed * after, axis=1)
    assert norms.max() < 2.1 * np.median(norms)
    changed = X.copy()
    changed[:, 11] *= factor
    after = column_factors(build(changed))
    kept = np.arange(X.shape[1]) != 11
    # A row has some ten entries: the mean of its logarithms moves by a tenth.
    assert (after[kept] > 0.25 * before[kept]).all()
    sizes = np.abs(changed * after).max(axis=0)
    assert sizes[11] < 10 * sizes[kept].max()


def test_a_weight_of_two_is_two_equal_rows():
    X = draw(80)
    X[:, 3] *= 50
    X[5] *= 30
    weight = np.random.RandomState(0).randint(1, 4, len(X))
    repeated = np.repeat(np.arange(len(X)), weight)
    once, often = build(X, weight), build(X[repeated])
    assert_allclose(column_factors(once), column_factors(often), rtol=1e-12)
    columns = column_factors(once)
    rows = row_factors(often, columns)
    assert_allclose(row_factors(once, columns)[repeated], rows, rtol=1e-12)


def test_a_model_that_is_continued_keeps_its_scores():
    X = draw()
    X[:, 5] *= 1e3
    y = np.arange(len(X)) % 3
    model = SparseExpertClassifier(random_state=0).fit(sparse.csr_array(X), y)._model
    data = build(X)
    draft = Draft(data=data, scaling=default_scaling(3, False), alpha=1.0, model=model)
    bounded = bound_scales(None, draft)
    assert_array_equal(draft.data.X.toarray(), X)
    columns, rows = bounded.data.relevance, bounded.data.row_factors
    assert_allclose(bounded.data.X.toarray(), X * columns * rows[:, None], rtol=1e-12)
    scores = (bounded.data.X @ bounded.model.router).toarray()
    assert_allclose(scores, rows[:, None] * (X @ model.router.toarray()), rtol=1e-9, atol=1e-12)


# Whole fits

may_not_converge = pytest.mark.filterwarnings("ignore:Liblinear failed to converge")


@pytest.fixture(scope="module")
def documents():
    found = load_api_docs()
    texts, y = np.array(found.data, object), np.asarray(found.target)
    return texts[::2], texts[1::2], y[::2], y[1::2]


@pytest.fixture(scope="module")
def tfidf(documents):
    train, test, *targets = documents
    vectorizer = TfidfVectorizer(sublinear_tf=True)
    return vectorizer.fit_transform(train), vectorizer.transform(test), *targets


def compare(X, Z, y, target):
    """Accuracy of the default model and of LinearSVC, which warns about such X."""
    models = SparseExpertClassifier(random_state=0), LinearSVC(random_state=0)
    return [model.fit(X, y).score(Z, target) for model in models]


@may_not_converge
@pytest.mark.parametrize("factor", [1e2, 1e8])
@pytest.mark.parametrize("step", [None, 30])
def test_large_rows_do_not_ruin_the_others(factor, step, tfidf):
    X, Z, y, target = tfidf
    rows = [7] if step is None else np.arange(0, X.shape[0], step)
    sizes = np.ones(X.shape[0])
    sizes[rows] = factor
    own, peer = compare(sparse.diags_array(sizes) @ X, Z, y, target)
    assert own >= peer - 0.02 and own > 0.92


COLUMNS = {
    "number of words": lambda n, rng: n,
    "logarithm": lambda n, rng: np.log1p(n),
    "hundredth": lambda n, rng: n / 100,
    "0 or 10": lambda n, rng: 10.0 * (rng.rand(len(n)) < 0.5),
    "rarely 10": lambda n, rng: 10.0 * (rng.rand(len(n)) < 0.1),
    "very rarely 1000": lambda n, rng: 1000.0 * (rng.rand(len(n)) < 0.01),
    "five of noise": lambda n, rng: rng.exponential(10, (len(n), 5)) * (rng.rand(len(n), 5) < 0.3),
}


@may_not_converge
@pytest.mark.parametrize("name", COLUMNS)
def test_large_columns_beside_texts_do_not_ruin_the_others(name, tfidf, documents):
    X, Z, y, target = tfidf
    rng, parts = np.random.RandomState(0), []
    for matrix, texts in ((X, documents[0]), (Z, documents[1])):
        n_words = np.array([len(text.split()) for text in texts], float)
        column = COLUMNS[name](n_words, rng).reshape(len(texts), -1)
        parts.append(sparse.hstack([matrix, sparse.csr_array(column)]).tocsr())
    own, peer = compare(*parts, y, target)
    assert own >= peer - 0.02 and own > 0.9


@may_not_converge
@pytest.mark.parametrize(
    "vectorizer",
    [CountVectorizer(), CountVectorizer(binary=True), TfidfVectorizer(norm=None)],
    ids=["counts", "binary", "no norm"],
)
def test_raw_counts_are_as_good_as_with_a_linear_peer(vectorizer, documents):
    train, test, *targets = documents
    X, Z = vectorizer.fit_transform(train), vectorizer.transform(test)
    own, peer = compare(X.astype(float), Z.astype(float), *targets)
    assert own >= peer - 0.005


@pytest.mark.parametrize("unit", [1e-12, 1e-3, 1e3, 1e12])
def test_the_unit_of_all_features_does_not_matter(unit, tfidf):
    X, Z, y, target = tfidf
    plain = SparseExpertClassifier(random_state=0).fit(X, y).predict_proba(Z)
    scaled = SparseExpertClassifier(random_state=0).fit(unit * X, y).predict_proba(unit * Z)
    assert_allclose(scaled, plain, atol=1e-3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["matrix", "row", "column"])
@pytest.mark.parametrize("size", [1e-30, 1e-20, 1e19, 1e30])
@pytest.mark.parametrize("density", [0.2, 1.0])
def test_any_finite_size_gives_a_finite_model(size, kind, dtype, density):
    X, y = make_classification(150, 20, n_informative=8, n_classes=3, random_state=0)
    X = X * (np.random.RandomState(0).rand(*X.shape) < density)
    if kind == "matrix":
        X = X * size
    elif kind == "row":
        X[3] *= size
    else:
        X[:, 3] *= size
    X = sparse.csr_array(X.astype(dtype))
    model = SparseExpertClassifier(random_state=0).fit(X, y)
    assert all(np.isfinite(array).all() for array in model._model.values())
    assert_allclose(model.predict_proba(X).sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize("density", [0.2, 1.0])
@pytest.mark.parametrize("kind", ["all", "one", "small"])
def test_weights_of_any_size_give_a_finite_model(kind, density, method):
    X, y = make_classification(300, 20, n_informative=8, n_classes=3, random_state=0)
    X = sparse.csr_array(X * (np.random.RandomState(0).rand(*X.shape) < density))
    weight = {"all": np.full(300, 1e30), "one": np.ones(300), "small": np.full(300, 1e-30)}[kind]
    weight[3] = 1e30 if kind == "one" else weight[3]
    model = SparseExpertClassifier(random_state=0)
    if method == "fit":
        model.fit(X.astype(np.float32), y, sample_weight=weight)
    else:
        for part in (slice(0, 150), slice(150, 300)):
            rows = X[part].astype(np.float32)
            model.partial_fit(rows, y[part], classes=[0, 1, 2], sample_weight=weight[part])
    assert all(np.isfinite(array).all() for array in model._model.values())


@pytest.mark.parametrize("size", [1e-30, 1e19, 1e30])
@pytest.mark.parametrize("density", [0.2, 1.0])
def test_a_stream_of_any_finite_size_gives_a_finite_model(size, density):
    X, y = make_classification(300, 20, n_informative=8, n_classes=3, random_state=0)
    X *= np.random.RandomState(0).rand(*X.shape) < density
    plain, scaled = SparseExpertClassifier(random_state=0), SparseExpertClassifier(random_state=0)
    for part in (slice(0, 150), slice(150, 300)):
        plain.partial_fit(sparse.csr_array(X[part].astype(np.float32)), y[part], classes=[0, 1, 2])
        rows = sparse.csr_array((X[part] * size).astype(np.float32))
        scaled.partial_fit(rows, y[part], classes=[0, 1, 2])
    rows = (X * size).astype(np.float32)
    assert_allclose(scaled.predict_proba(rows), plain.predict_proba(X), atol=0.02)


# Dense X


@pytest.mark.parametrize("what", ["one row", "far row", "one value"])
def test_odd_values_of_a_table_do_not_ruin_the_others(what):
    X, y = make_classification(
        1500, 10, n_informative=4, n_redundant=0, n_clusters_per_class=4, random_state=1
    )
    train, test = slice(0, None, 2), slice(1, None, 2)
    plain = SparseExpertClassifier(random_state=0).fit(X[train], y[train])
    odd = X.copy()
    if what == "one value":
        odd[6, 0] = 1e9
    else:
        odd[6] *= 100 if what == "one row" else 1e6
    found = SparseExpertClassifier(random_state=0).fit(odd[train], y[train])
    assert found.score(X[test], y[test]) > plain.score(X[test], y[test]) - 0.02


def test_a_rare_class_that_one_column_separates_is_found():
    rng = np.random.RandomState(0)
    X, y = rng.normal(size=(10_000, 3)), np.zeros(10_000, int)
    y[rng.permutation(10_000)[:19]] = 1
    X[y == 1, 0] = rng.uniform(5.5, 8, 19)
    predicted = SparseExpertClassifier(random_state=0).fit(X, y).predict(X)
    assert predicted[y == 1].mean() > 0.9
    assert predicted[y == 0].mean() < 1e-3
