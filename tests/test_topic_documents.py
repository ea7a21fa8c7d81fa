"""Synthetic topic documents: their format, their cost, and that the known topics are true."""

import tracemalloc

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_matrix, issparse, isspmatrix
from sklearn import config_context
from sklearn.linear_model import LogisticRegression

from skparse.datasets import _topic_documents, make_topic_documents


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_topic_documents_are_canonical_counts(dtype):
    documents = make_topic_documents(300, 500, 6, document_length=30, dtype=dtype, random_state=0)
    X = documents.data
    assert issparse(X) and X.format == "csr"
    assert X.shape == (300, 500)
    assert X.dtype == dtype
    assert X.indices.dtype == X.indptr.dtype == np.int32
    unlabelled = csr_matrix((X.data, X.indices, X.indptr), shape=X.shape)
    assert unlabelled.has_canonical_format
    assert_array_equal(X.data, np.round(X.data))
    assert X.data.min() >= 1
    lengths = np.asarray(X.sum(axis=1)).ravel()
    assert lengths.min() >= 1
    assert_allclose(lengths.mean(), 30, atol=2)
    assert documents.feature_names.shape == (500,)
    assert len(set(documents.feature_names)) == 500


def test_topic_documents_are_reproducible():
    first = make_topic_documents(200, 300, random_state=7)
    again = make_topic_documents(200, 300, random_state=np.random.RandomState(7))
    other = make_topic_documents(200, 300, random_state=8)
    assert (first.data != again.data).nnz == 0
    assert (first.data != other.data).nnz > 0
    assert_array_equal(first.target, again.target)
    X, y = make_topic_documents(200, 300, random_state=7, return_X_y=True)
    assert (first.data != X).nnz == 0
    assert_array_equal(first.target, y)


@pytest.mark.parametrize("n_topics", [1, 2, 3, 5, 16, 50])
@pytest.mark.parametrize("n_classes", [1, 2, 3, 4, 7, 49, 50])
def test_every_topic_has_one_class_and_every_class_a_topic(n_topics, n_classes):
    if n_classes > n_topics:
        with pytest.raises(ValueError, match=f"n_classes must be at most n_topics={n_topics}"):
            make_topic_documents(50, n_topics=n_topics, n_classes=n_classes)
        return
    documents = make_topic_documents(111, n_topics=n_topics, n_classes=n_classes, random_state=0)
    assert_array_equal(np.unique(documents.topic_classes), np.arange(n_classes))
    assert_array_equal(documents.target, documents.topic_classes[documents.topic])
    assert np.ptp(np.bincount(documents.topic, minlength=n_topics)) <= 1
    assert documents.topic_terms.shape == (n_topics, 2000)


@pytest.mark.parametrize(("n_topics", "n_classes"), [(1, 1), (2, 2), (7, 2), (20, 5)])
def test_there_are_a_quarter_as_many_classes_as_topics_by_default(n_topics, n_classes):
    documents = make_topic_documents(10, n_topics=n_topics)
    assert len(documents.topic_classes) == n_topics
    assert documents.topic_classes.max() + 1 == n_classes


@pytest.mark.parametrize("background_share", [0, 0.4, 1])
@pytest.mark.parametrize("facet_share", [0, 0.5, 1])
def test_documents_follow_the_distributions_that_are_returned(background_share, facet_share):
    documents = make_topic_documents(
        4000,
        60,
        2,
        terms_per_topic=10,
        background_share=background_share,
        facet_share=facet_share,
        random_state=0,
    )
    topic_terms = documents.topic_terms.toarray()
    assert_allclose(topic_terms.sum(axis=1), 1)
    assert documents.topic_terms.data.min() > 0
    assert_allclose(documents.background.sum(), 1)
    expected = (1 - background_share) * topic_terms + background_share * documents.background
    for topic in range(2):
        counts = np.asarray(documents.data[documents.topic == topic].sum(axis=0)).ravel()
        assert_allclose(counts / counts.sum(), expected[topic], atol=0.008)


def test_known_topics_solve_what_no_linear_model_can():
    documents = make_topic_documents(
        2000, 500, 4, n_classes=2, facet_share=1, background_share=0.2, random_state=0
    )
    X, y = documents.data, documents.target
    experts = 0.8 * documents.topic_terms.toarray() + 0.2 * documents.background
    topic = (X @ np.log(experts).T).argmax(axis=1)
    assert np.mean(documents.topic_classes[topic] == y) > 0.99
    linear = LogisticRegression(max_iter=1000).fit(X[:1000], y[:1000])
    assert linear.score(X[1000:], y[1000:]) < 0.6


def test_topics_without_facets_are_linearly_separable():
    X, y = make_topic_documents(2000, 500, 4, facet_share=0, random_state=0, return_X_y=True)
    assert (
        LogisticRegression(max_iter=1000).fit(X[:1000], y[:1000]).score(X[1000:], y[1000:]) > 0.99
    )


def test_blocks_of_terms_are_disjoint_where_the_vocabulary_suffices():
    documents = make_topic_documents(10, 100, 4, terms_per_topic=10, facet_share=0, random_state=0)
    assert_array_equal(np.diff(documents.topic_terms.indptr), 10)
    assert len(set(documents.topic_terms.indices)) == 40
    crowded = make_topic_documents(10, 10, 4, terms_per_topic=10, facet_share=0, random_state=0)
    assert_array_equal(np.diff(crowded.topic_terms.indptr), 10)


def test_memory_is_linear_in_the_nonzeros():
    n_samples, n_features = 30_000, 2**20
    tracemalloc.start()
    try:
        X, _ = make_topic_documents(
            n_samples, n_features, 500, document_length=50, random_state=0, return_X_y=True
        )
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert X.nnz > 20 * n_samples
    assert peak < 60 * n_samples * 50 + 40 * n_features  # a dense X would be 126 GB


def test_no_document_is_lost_where_they_are_drawn_in_several_parts(monkeypatch):
    monkeypatch.setattr(_topic_documents, "_TOKENS_AT_ONCE", 100)
    documents = make_topic_documents(101, 200, 5, document_length=30, random_state=0)
    assert documents.data.shape == (101, 200)
    assert np.diff(documents.data.indptr).min() >= 1
    own = documents.topic_terms[documents.topic].multiply(documents.data).sum(axis=1)
    assert (np.asarray(own) > 0).all()


def test_a_document_is_at_least_one_term_long():
    X, _ = make_topic_documents(50, 1, 1, terms_per_topic=1, document_length=1, return_X_y=True)
    assert_array_equal(X.toarray(), np.ones((50, 1)))


def test_topic_documents_follow_the_configured_sparse_interface():
    assert isspmatrix(make_topic_documents(10).data)
    with config_context(sparse_interface="sparray"):
        documents = make_topic_documents(10)
    assert not isspmatrix(documents.data) and not isspmatrix(documents.topic_terms)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_samples": 0}, "'n_samples' parameter of make_topic_documents"),
        ({"n_features": 0}, "'n_features' parameter of make_topic_documents"),
        ({"n_topics": 1.5}, "'n_topics' parameter of make_topic_documents"),
        ({"n_classes": 0}, "'n_classes' parameter of make_topic_documents"),
        ({"document_length": 0}, "'document_length' parameter of make_topic_documents"),
        ({"background_share": 1.1}, "'background_share' parameter of make_topic_documents"),
        ({"facet_share": -0.1}, "'facet_share' parameter of make_topic_documents"),
        ({"random_state": "zero"}, "'random_state' parameter of make_topic_documents"),
        ({"dtype": np.int64}, "dtype must be float32 or float64, got <class 'numpy.int64'>"),
        ({"dtype": "spam"}, "dtype must be float32 or float64, got 'spam'"),
        ({"dtype": None}, "dtype must be float32 or float64, got None"),
        (
            {"n_features": 10, "terms_per_topic": 11},
            "terms_per_topic must be at most n_features=10, got 11",
        ),
    ],
)
def test_topic_documents_name_the_bad_parameter(parameters, message):
    with pytest.raises(ValueError, match=message):
        make_topic_documents(**parameters)
