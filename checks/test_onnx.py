"""ONNX graphs in ONNX Runtime, against the models that they were made of.

Needs onnx, skl2onnx and onnxruntime: pip install -c constraints.txt -e ".[test,onnx]" onnxruntime
"""

import pickle

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from skl2onnx.common.data_types import StringTensorType
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_digits, load_wine
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer, TfidfVectorizer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from skparse import SparseExpertClassifier
from skparse.datasets import load_api_docs, make_topic_documents
from skparse.onnx import to_onnx

pytest_plugins = ("conftest",)  # that of tests/: where the data sets are
ROWS = 250  # at a time: the graph makes them dense
ODD_TEXTS = ["", " ", "a", "?!", "ÄÖÜ straße ПРИВЕТ İstanbul 中文 हिन्दी ½½ x_y", "the " * 200]


def run(graph, inputs):
    """Return the outputs of a graph for arrays of many rows."""
    onnx.checker.check_model(graph)
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    n_rows = len(next(iter(inputs.values())))
    parts = [
        session.run(None, {name: array[first : first + ROWS] for name, array in inputs.items()})
        for first in range(0, n_rows, ROWS)
    ]
    return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]


def assert_equal_predictions(model, X, inputs, **options):
    """Fail unless a graph has the labels of a model, and its probabilities within 1e-5."""
    labels, probabilities = run(to_onnx(model, **options), inputs)
    assert probabilities.dtype == np.float32
    assert_allclose(probabilities, model.predict_proba(X), rtol=0, atol=1e-5)
    assert_array_equal(labels, model.predict(X))


@pytest.fixture(scope="module")
def documents():
    X, y = make_topic_documents(
        900, 600, 10, n_classes=5, document_length=20, random_state=0, return_X_y=True
    )
    return X.astype(np.float32), y


def two_labels(y):
    return np.eye(5, dtype=int)[y] | np.eye(5, dtype=int)[(y + 1) % 5]


MODELS = {
    "default": ({}, lambda y: y),
    "strings": ({}, lambda y: np.array(["a", "bb", "ccc", "d", "e"])[y]),
    "objects": ({}, lambda y: np.array(["a", "bb", "ccc", "d", "e"], dtype=object)[y]),
    "bool": ({}, lambda y: y > 2),
    "small integers": ({}, lambda y: y.astype(np.int8)),
    "several labels": ({}, two_labels),
    "several experts per class": ({"n_experts": 40}, lambda y: y),
    "shared experts": ({"n_experts": 2}, lambda y: y),
    "all experts": ({"n_experts": 40, "top_k": 40}, lambda y: y),
    "few connections": ({"n_experts": 40, "weight_density": 0.05}, lambda y: y),
}


@pytest.mark.parametrize(("parameters", "relabel"), MODELS.values(), ids=MODELS)
def test_a_graph_predicts_what_the_model_does_at_every_k(documents, parameters, relabel):
    X, y = documents
    model = SparseExpertClassifier(random_state=0, **parameters).fit(X, relabel(y))
    # Rows of zeros, and rows that reach experts with scores below zero only.
    rows = sparse.vstack([X, sparse.csr_array((2, X.shape[1]), dtype=X.dtype), -X[:50]]).tocsr()
    for top_k in {1, 2, model.top_k_}:
        model.set_params(top_k=top_k)
        assert_equal_predictions(model, rows, {"X": rows.toarray()})


@pytest.mark.parametrize("load", [load_digits, load_wine])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_graph_of_dense_columns_predicts_what_the_model_does(load, dtype):
    X, y = load(return_X_y=True)
    model = SparseExpertClassifier(random_state=0).fit(X.astype(dtype), y)
    assert_equal_predictions(model, X.astype(dtype), {"X": X.astype(np.float32)})


def test_columns_far_from_zero_lose_no_digits():
    X, y = load_wine(return_X_y=True)
    X = np.round(1000 * X + 1e6)  # numbers that float32 holds
    model = SparseExpertClassifier(random_state=0).fit(X, y)
    assert_equal_predictions(model, X, {"X": X.astype(np.float32)})


VECTORIZERS = {
    "default": {},
    "pairs of words": {"sublinear_tf": True, "ngram_range": (1, 2), "min_df": 2},
    "three words": {"use_idf": False, "norm": None, "ngram_range": (2, 3), "min_df": 2},
    "binary": {"binary": True, "norm": "l1"},
    "stop words": {"stop_words": "english"},
    "single letters": {"token_pattern": r"(?u)\b\w+\b", "lowercase": False},
    "anything": {"token_pattern": r"\S+"},
}


@pytest.mark.parametrize("parameters", VECTORIZERS.values(), ids=VECTORIZERS)
def test_a_graph_takes_texts(parameters):
    texts, labels = load_api_docs(return_X_y=True)
    vectorizer = TfidfVectorizer(dtype=np.float32, **parameters)
    pipeline = make_pipeline(vectorizer, SparseExpertClassifier(random_state=0))
    pipeline.fit(texts[::4], labels[::4])
    held_out = np.array([*texts[1:2000:4], *ODD_TEXTS], dtype=object)
    assert_equal_predictions(pipeline, held_out, {"texts": held_out})


def test_counts_and_their_weights_may_be_two_steps_and_the_pipeline_in_a_search():
    texts, labels = load_api_docs(return_X_y=True)
    pipeline = make_pipeline(
        CountVectorizer(), TfidfTransformer(sublinear_tf=True), SparseExpertClassifier()
    )
    search = GridSearchCV(pipeline, {"sparseexpertclassifier__top_k": [1, 2]}, cv=2)
    search.fit(texts[::4], labels[::4])
    held_out = np.array([*texts[1:800:4], *ODD_TEXTS], dtype=object)
    assert_equal_predictions(search, held_out, {"texts": held_out})


def test_columns_of_texts_are_joined():
    pandas = pytest.importorskip("pandas")
    texts, labels = load_api_docs(return_X_y=True)
    frame = pandas.DataFrame({"first": [t[:200] for t in texts], "rest": [t[200:] for t in texts]})
    columns = ColumnTransformer(
        [("a", TfidfVectorizer(), "first"), ("b", TfidfVectorizer(min_df=2), "rest")]
    )
    pipeline = make_pipeline(columns, SparseExpertClassifier(random_state=0))
    pipeline.fit(frame[::4], labels[::4])
    held_out = frame[1:800:4]
    inputs = {name: held_out[[name]].to_numpy(dtype=object) for name in frame}
    with pytest.raises(ValueError, match="initial_types has to be given.*ColumnTransformer"):
        to_onnx(pipeline)
    types = [(name, StringTensorType([None, 1])) for name in frame]
    assert_equal_predictions(pipeline, held_out, inputs, initial_types=types)


@pytest.mark.parametrize("name", ["banking77", "clinc150", "r52_raw", "onet_titles", "ag_news"])
def test_data_sets_are_predicted_alike(load_corpus, name):
    texts, labels = load_corpus(name)
    vectorizer = TfidfVectorizer(sublinear_tf=True, min_df=2, dtype=np.float32)
    pipeline = make_pipeline(vectorizer, SparseExpertClassifier(random_state=0))
    pipeline.fit(texts[:20_000], labels[:20_000])
    held_out = np.array(load_corpus(name, "test")[0][:2_000], dtype=object)
    assert_equal_predictions(pipeline, held_out, {"texts": held_out})
    size, pickled = len(to_onnx(pipeline).SerializeToString()), len(pickle.dumps(pipeline))
    print(f"{name}: {size:,} bytes as ONNX, {pickled:,} as a pickle")  # shown by pytest -s


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"analyzer": "char"}, "analyzer='char'.*has to be \"word\""),
        ({"strip_accents": "unicode"}, "strip_accents='unicode'"),
        ({"stop_words": ["the"], "ngram_range": (1, 2)}, "stop_words"),
        ({"token_pattern": r"[a-z]+(?=x)|\d"}, "token_pattern"),
    ],
)
def test_what_a_graph_cannot_do_is_an_error(parameters, message):
    texts = ["the sparse matrix 1", "the violin concerto 2"]
    pipeline = make_pipeline(TfidfVectorizer(**parameters), SparseExpertClassifier())
    pipeline.fit(texts, [0, 1])
    with pytest.raises(ValueError, match=message):
        to_onnx(pipeline)


def test_classes_that_a_graph_cannot_hold_are_an_error():
    model = SparseExpertClassifier().fit([[0.0], [1.0]], [1.0, 2.0])
    with pytest.raises(ValueError, match="integers, strings or bool.*float64"):
        to_onnx(model)
