"""What X may be: every container, dtype and frame, and the corner cases, without a dense copy."""

import tracemalloc

import numpy as np
import pandas as pd
import polars as pl
import pytest
from fitted_models import assert_same_model
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.base import clone

from skparse import SparseExpertClassifier
from skparse._engines import numba_engine
from skparse._validation import (
    Samples,
    check_labels,
    check_targets,
    merge_entries,
    weigh_classes,
)
from skparse.datasets import make_topic_documents
from skparse.model_selection import TopKSearchCV

METHODS = ("predict", "predict_proba", "predict_log_proba", "decision_function", "transform")
FORMATS = ("csr", "csc", "coo", "dok", "lil", "dia", "bsr")


@pytest.fixture(scope="module")
def documents():
    return make_topic_documents(
        300, 200, 6, n_classes=3, document_length=20, dtype=np.float64, random_state=0,
        return_X_y=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def model(documents):
    return fit(*documents)


def fit(X, y, **parameters):
    return SparseExpertClassifier(random_state=0, **parameters).fit(X, y)


def dense(result):
    return result.toarray() if sparse.issparse(result) else np.asarray(result)


def assert_same_predictions(model, X, other, rtol=0, atol=0):
    """Fail unless all methods say of ``other`` what they say of X."""
    for name in METHODS:
        expected, got = (dense(getattr(model, name)(part)) for part in (X, other))
        if name == "predict":
            assert_array_equal(got, expected)
        else:
            assert_allclose(got, expected, rtol=rtol, atol=atol, err_msg=name)


@pytest.mark.filterwarnings("ignore:Constructing a DIA matrix")  # made for the test
@pytest.mark.parametrize("kind", ["matrix", "array"])
@pytest.mark.parametrize("format", FORMATS)
def test_every_sparse_container_gives_the_same_model(documents, model, format, kind):
    X, y = documents
    container = getattr(sparse, f"{format}_{kind}")(X)
    assert_same_model(fit(container, y), model)
    assert_same_predictions(model, X, container)


@pytest.mark.parametrize("container", [sparse.csr_array, sparse.csc_array, sparse.csr_matrix])
def test_64_bit_indices_give_the_same_model(documents, model, container):
    X, y = documents
    wide = container(X)
    wide.indices, wide.indptr = wide.indices.astype(np.int64), wide.indptr.astype(np.int64)
    assert wide.indices.dtype == wide.indptr.dtype == np.int64
    assert_same_model(fit(wide, y), model)
    assert_same_predictions(model, X, wide)


def test_dense_input_gives_the_same_model(documents, model):
    X, y = documents
    for array in (X.toarray(), np.asfortranarray(X.toarray()), X.toarray().tolist()):
        assert_same_model(fit(array, y), model)
        assert_same_predictions(model, X, array)


def test_explicit_zeros_change_nothing(documents, model):
    X, y = documents
    rng = np.random.default_rng(0)
    rows, columns = (rng.integers(n, size=500) for n in X.shape)
    stored = X.tocoo()
    padded = sparse.coo_array(
        (
            np.concatenate([stored.data, np.zeros(500)]),
            (np.concatenate([stored.row, rows]), np.concatenate([stored.col, columns])),
        ),
        shape=X.shape,
    ).tocsr()
    assert padded.nnz > X.nnz
    assert_same_model(fit(padded, y), model)
    assert_same_predictions(model, X, padded)
    assert (padded.data == 0).any()


def test_duplicate_entries_count_as_their_sum(documents, model):
    X, y = documents
    halves = sparse.csr_array(
        (np.repeat(X.data / 2, 2), np.repeat(X.indices, 2), 2 * X.indptr), shape=X.shape
    )
    assert not halves.has_canonical_format
    assert_same_model(fit(halves, y), model)
    assert_same_predictions(model, X, halves, rtol=1e-12, atol=1e-14)
    assert halves.nnz == 2 * X.nnz


def backwards(X):
    """The same matrix with the entries of every row stored in the opposite order."""
    order = np.concatenate(
        [np.arange(X.indptr[i], X.indptr[i + 1])[::-1] for i in range(X.shape[0])]
    )
    stored = sparse.csr_array((X.data[order], X.indices[order], X.indptr), shape=X.shape)
    assert not stored.has_sorted_indices
    return stored


def test_the_order_of_the_entries_of_a_row_changes_rounding_alone(documents, model):
    X, y = documents
    numbers, same = (m._model.values() for m in (model, fit(backwards(X), y)))
    for actual, desired in zip(same, numbers, strict=True):
        assert_allclose(actual, desired, rtol=1e-9, atol=1e-12)
    assert_same_predictions(model, X, backwards(X), rtol=1e-12, atol=1e-14)


def test_duplicates_are_found_wherever_a_row_stores_them(documents, model):
    X, y = documents
    apart = sparse.hstack([X / 2, X / 2]).tocsr()  # the two halves of an entry lie apart
    halves = sparse.csr_array((apart.data, apart.indices % X.shape[1], apart.indptr), X.shape)
    assert not halves.has_sorted_indices
    assert_same_model(fit(halves, y), model)
    assert halves.nnz == 2 * X.nnz


def test_a_float_csr_without_duplicates_is_not_copied_however_its_rows_are_ordered(documents):
    X, _ = documents
    assert merge_entries(X) is X
    stored = backwards(X)
    assert merge_entries(stored) is stored
    assert not stored.has_sorted_indices


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("make", [sparse.csr_array, lambda X: X.toarray()], ids=["csr", "dense"])
def test_the_dtype_of_x_is_kept_to_the_output(documents, dtype, make):
    X, y = documents
    X = make(X.astype(dtype))
    model = fit(X, y)
    for name in ("router_coef_", "router_intercept_", "expert_coef_", "intercept_"):
        assert getattr(model, name).dtype == dtype
    for name in METHODS[1:]:
        assert getattr(model, name)(X).dtype == dtype
    binary = fit(X, y == 0)
    assert binary.decision_function(X).dtype == dtype


def test_integers_are_computed_in_float64(documents, model):
    X, y = documents
    assert_array_equal(X.data, np.round(X.data))
    assert_same_model(fit(X.astype(np.int64), y), model)
    assert_same_model(fit(X.astype(np.uint8), y), model)


def test_predictions_come_in_the_dtype_of_the_model(documents):
    X, y = documents
    model = fit(X.astype(np.float32), y)
    assert model.predict_proba(X).dtype == np.float32
    assert_same_predictions(model, X.astype(np.float32), X)


@pytest.mark.parametrize("duplicates", [False, True], ids=["canonical", "duplicates"])
def test_read_only_memory_maps_are_read_and_nothing_is_written(documents, tmp_path, duplicates):
    X, y = documents
    X = X.astype(np.float32)
    if duplicates:
        parts = np.repeat(X.data / 2, 2), np.repeat(X.indices, 2), 2 * X.indptr
        X = sparse.csr_matrix(parts, shape=X.shape)
    mapped = []
    for name in ("data", "indices", "indptr"):
        np.save(tmp_path / f"{name}.npy", getattr(X, name))
        mapped.append(np.load(tmp_path / f"{name}.npy", mmap_mode="r"))
    read_only = sparse.csr_array(tuple(mapped), shape=X.shape)
    assert not read_only.data.flags.writeable
    model = fit(read_only, y)
    assert_same_model(model, fit(X, y))
    assert_same_predictions(model, X, read_only)
    assert_same_model(model.partial_fit(read_only, y), fit(X, y).partial_fit(X, y))


@pytest.mark.parametrize(
    "make",
    [sparse.csr_matrix, sparse.coo_array, lambda X: X.toarray()],
    ids=["csr", "coo", "dense"],
)
def test_x_and_y_and_the_weights_are_never_changed_in_place(documents, make):
    X, y = documents
    X, y, weight = make(X), y.copy(), np.linspace(0, 2, len(y))
    before = dense(X).copy(), y.copy(), weight.copy()
    model = SparseExpertClassifier(random_state=0, class_weight="balanced", early_stopping=True)
    model.fit(X, y, sample_weight=weight)
    model.set_params(class_weight=None).partial_fit(X, y, sample_weight=weight)
    for name in METHODS:
        getattr(model, name)(X)
    for array, expected in zip((dense(X), y, weight), before, strict=True):
        assert_array_equal(array, expected)


def test_the_model_does_not_share_memory_with_x(documents):
    X, y = documents
    X = X.copy()
    model = fit(X, y)
    expected = model.predict_proba(documents[0])
    X.data[:], X.indices[:] = 99.0, 0
    assert_array_equal(model.predict_proba(documents[0]), expected)


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame], ids=["pandas", "polars"])
def test_data_frames_are_read_and_their_column_names_kept(documents, model, frame):
    X, y = documents
    names = [f"term {j}" for j in range(X.shape[1])]
    table = frame(dict(zip(names, X.toarray().T, strict=True)))
    labels = {pd.DataFrame: pd.Series, pl.DataFrame: pl.Series}[frame](y)
    from_table = fit(table, labels)
    assert_same_model(from_table, model)
    assert from_table.feature_names_in_.tolist() == names
    assert_array_equal(from_table.predict_proba(table), model.predict_proba(X))
    with pytest.raises(ValueError, match="feature names should match"):
        from_table.predict(table[names[::-1]])


def test_pandas_frames_of_sparse_columns_are_read(documents, model):
    X, y = documents
    table = pd.DataFrame.sparse.from_spmatrix(X, columns=[f"t{j}" for j in range(X.shape[1])])
    assert_same_model(fit(table, y), model)


def test_an_empty_row_is_predicted_by_the_shares_of_the_classes(documents, model):
    X, y = documents
    empty = sparse.csr_array((2, X.shape[1]))
    shares = np.bincount(np.searchsorted(model.classes_, y)) / len(y)
    assert_allclose(model.predict_proba(empty), [shares, shares], rtol=1e-6)


def test_empty_training_rows_are_learnt_from(documents):
    X, y = documents
    X = sparse.vstack([X, sparse.csr_matrix((60, X.shape[1]))], format="csr")
    model = fit(X, np.concatenate([y, np.full(60, 7)]))
    assert model.predict(X[-60:]).tolist() == [7] * 60
    assert model.score(X[:300], y) > 0.9


def test_a_feature_that_training_never_saw_says_nothing(documents):
    X, y = documents
    X = X.tolil()
    X[:, 17] = 0
    model = fit(X, y)
    assert model.router_coef_[[17], :].nnz == 0
    expected = model.predict_proba(X)
    X[:, 17] = 5.0
    assert_array_equal(model.predict_proba(X), expected)


@pytest.mark.parametrize("n_samples", [40, 400])
def test_rows_without_any_feature_are_predicted_as_the_largest_class(n_samples):
    y = np.array([0, 1, 1, 1] * (n_samples // 4))
    model = fit(sparse.csr_array((n_samples, 5)), y)
    assert model.predict(sparse.csr_array((3, 5))).tolist() == [1, 1, 1]


def test_one_feature_is_enough_to_separate_two_classes():
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=200)
    X = (y * 2 - 1 + 0.1 * rng.standard_normal(200))[:, None]
    assert fit(X, y).score(X, y) == 1
    assert fit(sparse.csr_array(X), y).score(X, y) == 1


def test_negative_values_are_learnt_from(documents):
    X, y = documents
    shifted = X.toarray() - X.mean()
    assert fit(shifted, y).score(shifted, y) > 0.9


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_the_unit_of_x_hardly_matters(documents, factor):
    X, y = documents
    assert fit(X * factor, y).score(X * factor, y) > 0.95


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(documents, model, value):
    X, y = documents
    X = X.copy()
    X.data[3] = value
    with pytest.raises(ValueError, match="NaN|infinity"):
        fit(X, y)
    with pytest.raises(ValueError, match="NaN|infinity"):
        model.predict(X)


def test_another_number_of_features_is_refused(documents, model):
    with pytest.raises(ValueError, match="X has 199 features.*expecting 200"):
        model.predict(documents[0][:, 1:])


def test_a_wide_sparse_x_is_never_made_dense():
    n_samples, n_features, n_classes = 500, 2**20, 64
    X = sparse.random_array(
        (n_samples, n_features), density=30 / n_features, format="csr", dtype=np.float32,
        rng=np.random.default_rng(0),
    )  # fmt: skip
    y = np.arange(n_samples) % n_classes
    dense_bytes, router_bytes = 4 * n_samples * n_features, 4 * n_features * n_classes
    model = fit(X, y)  # compiles
    assert traced_peak(lambda: fit(X, y)) < min(dense_bytes / 10, router_bytes)
    assert traced_peak(lambda: model.partial_fit(X, y)) < min(dense_bytes / 10, router_bytes)
    for name in METHODS:
        assert traced_peak(lambda name=name: getattr(model, name)(X)) < dense_bytes / 1000


def traced_peak(function):
    """Largest number of bytes that were allocated at once while ``function`` ran."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# Kinds of input that would otherwise be misread


COUNTS = "n_experts", "top_k", "max_iter", "batch_size", "n_iter_no_change", "n_jobs"


def draw_classes(n_samples=120, n_classes=3):
    rng = np.random.RandomState(0)
    y = np.arange(n_samples) % n_classes
    X = sparse.csr_array(rng.rand(n_samples, 12) * (rng.rand(n_samples, 12) < 0.4) + np.eye(12)[y])
    return X, y


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.int64])
def test_numpy_integers_are_numbers(name, kind):
    X, y = draw_classes()
    found = SparseExpertClassifier(random_state=0, **{name: kind(2)}).fit(X, y)
    expected = SparseExpertClassifier(random_state=0, **{name: 2}).fit(X, y)
    assert_array_equal(found.predict_proba(X), expected.predict_proba(X))


@pytest.mark.parametrize("name", [*COUNTS, "alpha"])
@pytest.mark.parametrize("value", [True, False, np.bool_(True)])
def test_booleans_are_no_numbers(name, value):
    X, y = draw_classes()
    with pytest.raises(ValueError, match=f"{name!r} parameter .*Got {value!r}"):
        SparseExpertClassifier(**{name: value}).fit(X, y)


@pytest.mark.parametrize("parameters", [{"alpha": 1e300}, {"learning_rate_init": 1e300}], ids=str)
def test_parameters_have_an_upper_limit(parameters):
    with pytest.raises(ValueError, match="in the range"):
        SparseExpertClassifier(**parameters).fit(*draw_classes())


@pytest.mark.parametrize("texts", [["a text", "another"] * 10, [["a text"], ["another"]] * 10])
def test_texts_get_a_hint_at_the_vectorizer(texts):
    y = [0, 1] * 10
    for X in (texts, np.array(texts, object)):
        with pytest.raises(ValueError, match="TfidfVectorizer"):
            SparseExpertClassifier().fit(X, y)
    model = SparseExpertClassifier().fit(np.eye(2)[y], y)
    with pytest.raises(ValueError, match="TfidfVectorizer"):
        model.predict([["a text", "b"]])


@pytest.mark.parametrize(
    "y",
    [[["a", "b"], ["c"]] * 60, [("a", "b"), ("c", "d")] * 60, [{"a"}, {"b", "c"}] * 60],
    ids=["lists", "tuples", "sets"],
)
def test_collections_of_labels_get_a_hint_at_the_binarizer(y):
    X, _ = draw_classes()
    with pytest.raises(ValueError, match="MultiLabelBinarizer"):
        SparseExpertClassifier().fit(X, y)


def test_a_label_that_is_none_is_named():
    X, y = draw_classes()
    labels = np.array(["a", "b", None], object)[y]
    for targets in (labels, labels.tolist()):
        with pytest.raises(ValueError, match="y contains None"):
            SparseExpertClassifier().fit(X, targets)
        with pytest.raises(ValueError, match="y contains None"):
            TopKSearchCV(SparseExpertClassifier()).fit(X, targets)


INDICATORS = {
    "-1 and 1": lambda Y: 2 * Y - 1,
    "1 and 2": lambda Y: Y + 1,
    "0 and 2": lambda Y: 2 * Y,
    "sparse -1 and 1": lambda Y: sparse.csr_array(2 * Y - 1),
    "sparse 0 and 2": lambda Y: sparse.csr_array(2 * Y),
}


@pytest.mark.parametrize("name", INDICATORS)
def test_indicator_matrices_hold_0_and_1_only(name):
    X, _ = draw_classes()
    Y = (np.random.RandomState(0).rand(120, 4) < 0.4).astype(int)
    wrong = INDICATORS[name](Y)
    model = SparseExpertClassifier(random_state=0)
    for call in (
        lambda: model.fit(X, wrong),
        lambda: model.partial_fit(X, wrong),
        lambda: model.fit(X, Y, X_val=X, y_val=wrong),
    ):
        with pytest.raises(ValueError, match="y holds .*2|y holds .*-1|same type of target"):
            call()
    assert not hasattr(model, "classes_")
    expected = model.fit(X, Y).predict(X)
    for right in (Y > 0, Y.astype(float), sparse.csr_array(Y), sparse.lil_array(Y)):
        assert_array_equal(clone(model).fit(X, right).predict(X), expected)


@pytest.mark.parametrize(
    "class_weight",
    [[1, 2, 3], {0: np.nan, 1: 1, 2: 1}, {0: -1, 1: 1, 2: 1}, {0: np.inf, 1: 1, 2: 1}, {0: "a"}],
    ids=str,
)
def test_class_weights_that_are_no_weights_are_refused(class_weight):
    with pytest.raises(ValueError, match="class_weight"):
        SparseExpertClassifier(class_weight=class_weight).fit(*draw_classes())


@pytest.mark.parametrize("class_weight", [{0: 1, 1: 2}, [{0: 1, 1: 2}] * 3, [{0: -1}] * 4])
def test_weights_of_labels_are_a_dict_for_each(class_weight):
    X, _ = draw_classes()
    Y = (np.random.RandomState(0).rand(120, 4) < 0.4).astype(int)
    with pytest.raises(ValueError, match="class_weight"):
        SparseExpertClassifier(class_weight=class_weight).fit(X, Y)


def test_early_stopping_takes_fewer_held_out_samples_than_classes():
    X, y = draw_classes(200, 12)
    labels = np.arange(200) % 70
    model = SparseExpertClassifier(early_stopping=True, random_state=0).fit(X, labels)
    assert len(model.classes_) == 70 and len(model.validation_scores_) >= 1


def test_messages_list_at_most_ten_classes():
    X, _ = draw_classes(200, 12)
    model = SparseExpertClassifier(random_state=0)
    model.partial_fit(X, np.arange(200) % 100, classes=np.arange(100))
    unknown = r"\[50, .*, 59, \.\.\.\] \(50\); classes are .*9, \.\.\.\] \(50\)"
    with pytest.raises(ValueError, match=unknown):
        clone(model).partial_fit(X, np.arange(200) % 100, classes=np.arange(50))
    with pytest.raises(ValueError, match=r"9, \.\.\.\] \(100\), y has .*9, \.\.\.\] \(50\)"):
        model.set_params(warm_start=True).fit(X, np.arange(200) % 50)


def test_the_sum_of_duplicates_has_to_be_finite():
    value = np.finfo(np.float32).max
    X = sparse.csr_array(
        (np.full(4, value, np.float32), np.zeros(4, int), np.arange(0, 5, 2)), shape=(2, 3)
    )
    with pytest.raises(ValueError, match="duplicate entries"):
        SparseExpertClassifier().fit(X, [0, 1])


def test_a_device_that_is_not_there_is_named():
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("torch finds a CUDA device")
    with pytest.raises(ValueError, match="device='cuda' is not available"):
        SparseExpertClassifier(device="cuda").fit(*draw_classes())


def test_many_labels_are_never_made_dense():
    n_samples, n_labels = 3000, 20_000
    rng = np.random.RandomState(0)
    places = rng.randint(n_labels, size=2 * n_samples)
    parts = np.ones(2 * n_samples), (np.arange(2 * n_samples) // 2, places)
    Y = sparse.csr_array(parts, shape=(n_samples, n_labels))
    Y.data[:] = 1
    tracemalloc.start()
    try:
        labels, classes, multilabel = check_targets(Y)
        samples = Samples(None, labels, np.ones(n_samples), classes, multilabel)
        assert weigh_classes("balanced", samples).shape == (n_samples,)
        assert sparse.issparse(check_labels(SparseExpertClassifier(), Y))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < n_samples * n_labels / 4  # bytes; a dense matrix of bool has four times as many


# Arrays that kernels must not be given


def with_indices(X, indices=None, indptr=None):
    """A copy whose index arrays are replaced, past the checks of scipy."""
    X = sparse.csr_array(X).copy()
    X.indices = X.indices if indices is None else indices(X.indices)
    X.indptr = X.indptr if indptr is None else indptr(X.indptr)
    return X


def with_last(number):
    def replace_last(array):
        array = array.copy()
        array[-1] = number
        return array

    return replace_last


DAMAGES = {
    "big-endian": {"indices": lambda a: a.astype(">i4"), "indptr": lambda a: a.astype(">i4")},
    "unsigned": {"indices": lambda a: a.astype(np.uint32)},
    "floats": {"indices": lambda a: a.astype(float)},
    "short": {"indices": lambda a: a.astype(np.int8), "indptr": lambda a: a.astype(np.int16)},
    "negative": {"indices": with_last(-1)},
    "too large": {"indices": with_last(10**6)},
    "rows too long": {"indptr": with_last(10**6)},
    "rows backwards": {"indptr": lambda a: a[::-1].copy()},
}


@pytest.mark.filterwarnings("ignore:ind.* array has non-integer dtype")
@pytest.mark.parametrize("name", DAMAGES)
def test_indices_that_leave_the_memory_are_refused_by_every_method(name):
    X, y = draw_classes()
    damaged = with_indices(X, **DAMAGES[name])
    model = SparseExpertClassifier(random_state=0).fit(X, y)
    with pytest.raises((ValueError, TypeError)):
        SparseExpertClassifier().fit(damaged, y)
    with pytest.raises((ValueError, TypeError)):
        SparseExpertClassifier().partial_fit(damaged, y, classes=[0, 1, 2])
    for method in METHODS:
        with pytest.raises((ValueError, TypeError)):
            getattr(model, method)(damaged)


def test_read_only_arrays_need_no_further_compilation():
    X, y = draw_classes()
    weight = np.ones(len(y))

    def use(X, weight):
        model = SparseExpertClassifier(random_state=0).fit(X, y, sample_weight=weight)
        for array in (*model._model.values(), model.router_coef_.indices):
            array.flags.writeable = weight.flags.writeable
        probabilities = model.predict_proba(X)
        model.transform(X)
        model.partial_fit(X, y, sample_weight=weight)
        return probabilities

    def count_signatures():
        return {name: len(getattr(numba_engine, name).signatures) for name in numba_engine.__all__}

    expected, before = use(X, weight), count_signatures()
    locked, locked_weight = X.copy(), weight.copy()
    for array in (locked.data, locked.indices, locked.indptr, locked_weight):
        array.flags.writeable = False
    assert_array_equal(use(locked, locked_weight), expected)
    assert count_signatures() == before


def test_an_error_of_scikit_learn_is_not_its_own_cause():
    X = np.array([[np.nan], [0.0]])
    with pytest.raises(ValueError, match="NaN") as raised:
        SparseExpertClassifier().fit(X, [0, 1])
    assert raised.value.__cause__ is None
