"""Smaller copies of a fitted model: what is kept, what is rounded, what is reported."""

import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.exceptions import NotFittedError

from skparse import SparseExpertClassifier
from skparse._compression import decode_values, encode_values, round_values
from skparse.datasets import make_topic_documents


@pytest.fixture(scope="module")
def documents():
    documents = make_topic_documents(600, 4000, 6, dtype=np.float32, random_state=0)
    return documents.data, documents.target


@pytest.fixture(scope="module")
def model(documents):
    return SparseExpertClassifier(random_state=0).fit(*documents)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_what_is_decoded_encodes_to_the_same_codes(dtype):
    rng = np.random.RandomState(0)
    matrix = sparse.random_array((50, 7), density=0.4, rng=rng, format="csr", dtype=np.float32)
    matrix.data -= np.float32(0.5)
    codes, scales = encode_values(matrix, dtype)
    assert codes.dtype == dtype
    rounded = round_values(matrix, dtype)
    assert_array_equal(encode_values(rounded, dtype)[0], codes)
    assert_array_equal(decode_values(codes, scales, matrix.indices, matrix.dtype), rounded.data)


def test_int8_rounds_to_half_a_level_of_each_column():
    matrix = sparse.csr_array(np.array([[1.27, 0.0], [0.004, -2.54], [-1.0, 0.011]]))
    rounded = round_values(matrix, "int8").toarray()
    assert_allclose(rounded[:, 0], [1.27, 0.0, -1.0], atol=1e-12)
    assert_allclose(rounded[:, 1], [0.0, -2.54, 0.02], atol=1e-12)


def test_a_column_of_zeros_stays_zero():
    matrix = sparse.csr_array((np.zeros(2), np.array([0, 0]), np.array([0, 1, 2])), shape=(2, 1))
    assert_array_equal(round_values(matrix, "int8").data, 0)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 2e-3), ("int8", 5e-2)])
def test_a_compressed_copy_predicts_nearly_the_same(model, documents, dtype, tolerance):
    X, _ = documents
    smaller = model.compress(dtype, X=X)
    assert (smaller.predict(X) == model.predict(X)).mean() > 0.99
    assert smaller.compression_.n_bytes < smaller.compression_.n_bytes_before
    largest = np.abs(smaller.router_coef_ - model.router_coef_).max()
    assert smaller.compression_.largest_weight_change == pytest.approx(largest)
    assert largest < tolerance * np.abs(model.router_coef_).max()
    changed = np.abs(smaller.predict_proba(X) - model.predict_proba(X)).max()
    assert smaller.compression_.largest_probability_change == pytest.approx(changed)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_saving_a_compressed_copy_loses_nothing_more_and_takes_fewer_bytes(
    model, documents, dtype
):
    X, _ = documents
    smaller = model.compress(dtype)
    saved = pickle.dumps(smaller)
    assert_array_equal(pickle.loads(saved).predict_proba(X), smaller.predict_proba(X))
    assert len(saved) < 0.75 * len(pickle.dumps(model))


def test_density_keeps_the_most_influential_weights(model, documents):
    X, _ = documents
    density = model.model_size().weight_density / 2
    smaller = model.compress(None, density=density, X=X)
    assert smaller.model_size().weight_density == pytest.approx(density, rel=1e-2)
    scale = np.sqrt(X.multiply(X).mean(axis=0)).A1
    influence = np.abs(model.router_coef_.toarray()) * scale[:, None]
    kept = smaller.router_coef_.toarray() != 0
    assert influence[kept].min() >= influence[~kept].max() * (1 - 1e-5)


def test_the_original_stays_as_it_was(model, documents):
    before = pickle.dumps(model)
    model.compress("int8", density=0.01, X=documents[0])
    assert pickle.dumps(model) == before


def test_learning_more_ends_the_compression(model, documents):
    smaller = model.compress("int8")
    smaller.partial_fit(*documents)
    assert not hasattr(smaller, "storage_dtype_")
    assert not hasattr(smaller, "compression_")


def test_without_anything_to_do_nothing_changes(model, documents):
    same = model.compress(None)
    assert_array_equal(same.predict_proba(documents[0]), model.predict_proba(documents[0]))
    assert same.compression_.largest_weight_change == 0


@pytest.mark.parametrize("parameters", [{"dtype": "int4"}, {"density": 0.0}, {"density": 1.5}])
def test_parameters_out_of_range_are_refused(model, parameters):
    name = next(iter(parameters))
    with pytest.raises(ValueError, match=f"The '{name}' parameter of .*compress must be"):
        model.compress(**parameters)


def test_size_counts_what_is_stored(model):
    size = model.model_size()
    n_router, n_outputs = model.router_coef_.nnz, model.expert_coef_.nnz
    assert size.n_weights == n_router + n_outputs + len(model.router_intercept_) + len(
        model.intercept_
    )
    assert size.weights_per_feature == n_router / model.n_features_in_
    assert size.weight_density == n_router / np.prod(model.router_coef_.shape)
    # float32 weights, experts in one byte, entries per feature in one byte
    assert size.n_bytes == pytest.approx(5 * n_router + model.n_features_in_, rel=0.1)
    assert abs(size.n_bytes - len(pickle.dumps(model))) < 4000


def test_size_and_compression_need_a_fitted_model():
    with pytest.raises(NotFittedError):
        SparseExpertClassifier().model_size()
    with pytest.raises(NotFittedError):
        SparseExpertClassifier().compress()


def test_two_classes_have_one_weight_per_feature():
    documents = make_topic_documents(600, 400, 6, n_classes=2, random_state=0)
    model = SparseExpertClassifier(random_state=0).fit(documents.data, documents.target)
    assert np.diff(model.router_coef_.indptr).max() == 1
    assert model.score(documents.data, documents.target) > 0.8


def test_experts_that_no_sample_keeps_have_no_weights_and_all_else_stays(documents):
    X, y = documents
    parameters = {"n_experts": 60, "top_k": 1, "random_state": 0}
    with_all = SparseExpertClassifier(**parameters, warm_start=True).fit(X, y)
    model = SparseExpertClassifier(**parameters).fit(X, y)
    unused = model.expert_load_ == 0
    assert 0 < unused.sum() < 60
    assert_array_equal(model.expert_load_, with_all.expert_load_)
    weights = np.bincount(model.router_coef_.indices, minlength=60)
    assert_array_equal(weights == 0, unused)
    assert model.router_coef_.nnz < with_all.router_coef_.nnz
    assert model.model_size().n_bytes < with_all.model_size().n_bytes
    assert_array_equal(model.predict_proba(X), with_all.predict_proba(X))
    assert model.n_experts_ == model.transform(X).shape[1] == 60


def test_a_stream_trains_experts_without_weights_if_no_other_of_their_class_has_a_score(documents):
    X, y = documents
    model = SparseExpertClassifier(n_experts=60, top_k=1, alpha=1.0, random_state=0).fit(X, y)
    unused = model.expert_load_ == 0

    def weights_after(labels):
        more = pickle.loads(pickle.dumps(model)).partial_fit(X[:300], labels)
        router = more.router_coef_
        return np.bincount(router.indices, router.data != 0, minlength=60)[unused]

    # The samples of the same classes go to the experts that have learnt them.
    assert_array_equal(weights_after(y[:300]), 0)
    # No expert of the other class has a positive score for them.
    assert weights_after(1 - y[:300]).max() > 0
