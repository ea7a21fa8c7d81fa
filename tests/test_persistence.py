"""Saved models: what is in the file, and that what comes back is the same model."""

import copy
import io
import pickle
import subprocess
import sys
import warnings

import joblib
import numpy as np
import pytest
import skops.io
from fitted_models import assert_same_model, fitted_arrays
from numpy.testing import assert_array_equal
from scipy import sparse
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.pipeline import make_pipeline

import skparse
from skparse import SparseExpertClassifier
from skparse._csr import csr_arrays
from skparse._persistence import pack, unpack
from skparse.datasets import make_topic_documents

CLASS_NAME = "skparse._classifier.SparseExpertClassifier"


@pytest.fixture(scope="module")
def documents():
    return make_topic_documents(
        900, 600, 10, n_classes=5, document_length=20, random_state=0, return_X_y=True
    )


def two_labels(y):
    return np.eye(5, dtype=int)[y] | np.eye(5, dtype=int)[(y + 1) % 5]


MODELS = {
    "default": ({}, lambda y: y),
    "words as labels": ({}, lambda y: np.array(["a", "bb", "ccc", "d", "e"])[y]),
    "objects as labels": ({}, lambda y: np.array(["a", "bb", "ccc", "d", "e"], dtype=object)[y]),
    "two classes": ({"top_k": 1}, lambda y: y > 2),
    "several labels": ({}, two_labels),
    "early stopping": ({"early_stopping": True, "n_experts": 300}, lambda y: y),
    "torch": ({"engine": "torch", "max_iter": 1, "batch_size": 300}, lambda y: y),
}


@pytest.fixture(scope="module", params=MODELS.values(), ids=MODELS)
def fitted(request, documents):
    X, y = documents
    parameters, relabel = request.param
    model = SparseExpertClassifier(random_state=0, **parameters)
    return model.fit(X, relabel(y)), X, relabel(y)


def by_pickle(model, path):
    return pickle.loads(pickle.dumps(model))


def by_old_pickle(model, path):
    return pickle.loads(pickle.dumps(model, protocol=2))


def by_joblib(model, path):
    joblib.dump(model, path)
    return joblib.load(path)


def by_compressed_joblib(model, path):
    joblib.dump(model, path, compress=3)
    return joblib.load(path)


def by_memory_map(model, path):
    joblib.dump(model, path)
    return joblib.load(path, mmap_mode="r")


def by_copy(model, path):
    return copy.deepcopy(model)


def by_skops(model, path):
    skops.io.dump(model, path)
    return skops.io.load(path, trusted=[CLASS_NAME])


ROUND_TRIPS = [
    by_pickle, by_old_pickle, by_joblib, by_compressed_joblib, by_memory_map, by_copy, by_skops
]  # fmt: skip


@pytest.mark.parametrize("round_trip", ROUND_TRIPS, ids=lambda function: function.__name__)
def test_a_restored_model_is_the_same_bit_by_bit(fitted, tmp_path, round_trip):
    model, X, y = fitted
    restored = round_trip(model, tmp_path / "model")
    assert_same_model(restored, model)
    assert set(vars(restored)) == set(vars(model))
    assert restored.get_params() == model.get_params()
    assert restored.classes_.dtype == model.classes_.dtype
    for name in ("predict", "predict_proba", "decision_function"):
        assert_array_equal(getattr(restored, name)(X), getattr(model, name)(X))
    assert_array_equal(restored.transform(X).toarray(), model.transform(X).toarray())
    lowered = copy.deepcopy(model).set_params(top_k=1)
    assert_array_equal(restored.set_params(top_k=1).predict_proba(X), lowered.predict_proba(X))


@pytest.mark.parametrize("round_trip", ROUND_TRIPS, ids=lambda function: function.__name__)
def test_a_restored_model_learns_on_as_the_first_one_would(fitted, tmp_path, round_trip):
    model, X, y = fitted
    restored = round_trip(model, tmp_path / "model")
    continued = copy.deepcopy(model)
    for part in (slice(0, 400), slice(400, 900)):
        restored.partial_fit(X[part], y[part])
        continued.partial_fit(X[part], y[part])
    assert_same_model(restored, continued)
    assert restored.loss_curve_ == continued.loss_curve_
    assert_array_equal(restored.expert_load_, continued.expert_load_)
    restored.set_params(warm_start=True).fit(X, y)
    assert_same_model(restored, continued.set_params(warm_start=True).fit(X, y))


def test_learning_on_does_not_change_the_file(documents, tmp_path):
    X, y = documents
    path = tmp_path / "model.joblib"
    joblib.dump(SparseExpertClassifier(random_state=0).fit(X, y), path)
    before = path.read_bytes()
    joblib.load(path, mmap_mode="r").partial_fit(X, y)
    assert path.read_bytes() == before


def test_a_copy_shares_nothing_that_changes(documents):
    X, y = documents
    model = SparseExpertClassifier(random_state=0).fit(X, y)
    duplicate = copy.deepcopy(model)
    expected = pickle.dumps(model)
    duplicate.partial_fit(X[:300], y[:300])
    assert pickle.dumps(model) == expected


def test_another_process_predicts_the_same(documents, tmp_path):
    X, y = documents
    model = SparseExpertClassifier(random_state=0).fit(X, y)
    joblib.dump((model, X), tmp_path / "model.joblib")
    code = (
        "import sys, joblib\n"
        "model, X = joblib.load(sys.argv[1])\n"
        "sys.stdout.buffer.write(model.predict_proba(X).tobytes())\n"
    )
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(tmp_path / "model.joblib")],
        capture_output=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr.decode()
    assert run.stdout == model.predict_proba(X).tobytes()


def test_a_pickle_names_only_the_class_and_numpy(fitted):
    named = set()

    class Recorder(pickle.Unpickler):
        def find_class(self, module, name):
            named.add(f"{module}.{name}")
            return super().find_class(module, name)

    Recorder(io.BytesIO(pickle.dumps(fitted[0]))).load()
    assert CLASS_NAME in named
    assert {name.split(".")[0] for name in named - {CLASS_NAME}} == {"numpy"}


def test_the_class_is_the_only_type_that_skops_has_to_trust(fitted):
    assert skops.io.get_untrusted_types(data=skops.io.dumps(fitted[0])) == [CLASS_NAME]


def test_a_compressed_model_needs_no_further_type_to_trust(fitted, documents):
    compressed = fitted[0].compress("int8")
    data = skops.io.dumps(compressed)
    assert skops.io.get_untrusted_types(data=data) == [CLASS_NAME]
    restored = skops.io.loads(data, trusted=[CLASS_NAME])
    assert restored.compression_ == compressed.compression_
    assert restored.compression_.n_bytes == compressed.compression_.n_bytes


def test_a_pipeline_goes_through_skops(documents):
    X, y = documents
    pipeline = make_pipeline(TfidfTransformer(), SparseExpertClassifier(random_state=0)).fit(X, y)
    data = skops.io.dumps(pipeline)
    assert skops.io.get_untrusted_types(data=data) == [CLASS_NAME]
    restored = skops.io.loads(data, trusted=[CLASS_NAME])
    assert_array_equal(restored.predict_proba(X), pipeline.predict_proba(X))


def test_a_saved_model_holds_its_weights_in_small_integers_and_nothing_else(fitted):
    model, _, _ = fitted
    arrays = fitted_arrays(model)
    values = sum(array.nbytes for name, array in arrays.items() if "ind" not in name)
    connections = model.router_coef_.nnz + model.expert_coef_.nnz
    # An expert is one byte, or two above 256; so is the number of connections of a feature.
    width = 1 if model.n_experts_ <= 256 else 2
    counts = model.n_features_in_ + model.n_experts_
    rest = model.expert_load_.nbytes + model.classes_.nbytes
    assert len(pickle.dumps(model)) < values + width * (connections + counts) + rest + 3000


@pytest.mark.parametrize(
    "filled", [[], [0], [69_999], [0, 69_999], range(3, 70_000, 40), range(69_000), range(70_000)]
)
def test_rows_without_entries_take_no_room_and_come_back(filled):
    lengths = np.zeros(70_000, int)
    lengths[list(filled)] = 1 + np.arange(len(filled)) % 3
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    columns = np.concatenate([np.arange(n) for n in lengths] or [[]]).astype(np.int32)
    values = np.arange(indptr[-1], dtype=np.float32)
    matrix = sparse.csr_array((values, columns, indptr), shape=(70_000, 5))
    packed = pack(matrix)
    for mine, theirs in zip(csr_arrays(unpack(packed)), csr_arrays(matrix), strict=True):
        assert_array_equal(mine, theirs)
        assert mine.dtype == theirs.dtype
    of_pattern = sum(np.asarray(packed[name]).nbytes for name in ("counts", "gaps"))
    assert of_pattern <= min(70_000, 5 * len(filled)) + 8


def test_hashed_features_that_no_sample_has_take_no_room():
    X, y = make_topic_documents(
        900, 600, 10, n_classes=5, document_length=20, random_state=0, return_X_y=True
    )
    spread = sparse.csr_array((X.data, 100 * X.indices, X.indptr), shape=(900, 60_000))
    narrow, wide = (
        len(pickle.dumps(SparseExpertClassifier(random_state=0).fit(matrix, y)))
        for matrix in (X, spread)
    )
    assert wide - narrow < 600 + 100


@pytest.mark.parametrize("round_trip", ROUND_TRIPS, ids=lambda function: function.__name__)
def test_another_version_is_warned_of(documents, tmp_path, monkeypatch, round_trip):
    X, y = documents
    model = SparseExpertClassifier(random_state=0).fit(X, y)
    version, pack = skparse.__version__, SparseExpertClassifier.__getstate__

    def pack_as_another_version(self):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(skparse, "__version__", "0.0.1")
            return pack(self)

    monkeypatch.setattr(SparseExpertClassifier, "__getstate__", pack_as_another_version)
    with pytest.warns(UserWarning, match=rf"saved by skparse 0\.0\.1 with skparse {version}"):
        restored = round_trip(model, tmp_path / "model")
    assert_array_equal(restored.predict_proba(X), model.predict_proba(X))


def test_the_same_version_is_restored_without_a_warning_and_leaves_no_stamp(documents):
    X, y = documents
    model = SparseExpertClassifier(random_state=0).fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        restored = pickle.loads(pickle.dumps(model))
    assert set(vars(restored)) == set(vars(model))


def test_an_unfitted_estimator_is_saved_as_well():
    model = SparseExpertClassifier(top_k=3)
    restored = pickle.loads(pickle.dumps(model))
    assert restored.get_params() == model.get_params()
    assert set(vars(restored)) == set(vars(model))
