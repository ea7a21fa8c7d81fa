"""What y may be: any labels, two classes, one class, one sample, several labels a sample."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
from fitted_models import assert_same_model
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from scipy.special import expit, softmax
from sklearn.exceptions import DataConversionWarning
from sklearn.metrics import f1_score
from sklearn.preprocessing import normalize

from skparse import SparseExpertClassifier
from skparse.datasets import make_topic_documents


@pytest.fixture(scope="module")
def documents():
    return make_topic_documents(
        300, 200, 6, n_classes=3, document_length=20, random_state=0, return_X_y=True
    )


@pytest.fixture(scope="module")
def labelled_twice():
    """Documents about two topics each, and the indicator matrix of the topics."""
    X, y = make_topic_documents(
        1200, 400, 6, document_length=30, facet_share=0.2, random_state=0, return_X_y=True
    )
    Y = np.eye(6, dtype=int)[y]
    return normalize(X[:600] + X[600:]), np.maximum(Y[:600], Y[600:])


def fit(X, y, **parameters):
    return SparseExpertClassifier(random_state=0, **parameters).fit(X, y)


LABELS = {
    "str": np.array(["wood", "metal", "stone"]),
    "object": np.array(["wood", "metal", "stone"], dtype=object),
    "int": np.array([10, -5, 3]),
    "int8": np.array([10, -5, 3], dtype=np.int8),
    "float": np.array([2.0, 0.0, 1.0]),
}


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_labels_of_every_type_come_back_as_they_were(documents, labels):
    X, y = documents
    model = fit(X, labels[y])
    assert_array_equal(model.classes_, np.sort(labels))
    assert model.classes_.dtype == model.predict(X).dtype == labels.dtype
    assert model.score(X, labels[y]) > 0.95
    codes = np.argsort(np.argsort(labels))[y]
    assert_array_equal(model.predict_proba(X), fit(X, codes).predict_proba(X))


def test_booleans_are_labels(documents):
    X, y = documents
    model = fit(X, y == 1)
    assert model.classes_.tolist() == [False, True]
    assert model.predict(X).dtype == bool
    assert model.score(X, y == 1) > 0.95


@pytest.mark.parametrize("make", [list, pd.Series, pl.Series], ids=["list", "pandas", "polars"])
def test_labels_come_in_any_sequence(documents, make):
    X, y = documents
    names = np.array(["b", "a", "c"])[y]
    assert_same_model(fit(X, make(names.tolist())), fit(X, names))


def test_a_column_of_labels_is_read_with_a_warning(documents):
    X, y = documents
    with pytest.warns(DataConversionWarning, match="column-vector y"):
        model = fit(X, y[:, None])
    assert_same_model(model, fit(X, y))


def test_the_binary_decision_function_is_one_dimensional_and_agrees(documents):
    X, y = documents
    model = fit(X, np.where(y == 1, "yes", "no"))
    scores = model.decision_function(X)
    assert scores.shape == (300,)
    assert_allclose(model.predict_proba(X)[:, 1], expit(scores), rtol=1e-5)
    assert_array_equal(model.predict(X), np.where(scores > 0, "yes", "no"))


def test_the_multiclass_decision_function_has_one_column_a_class(documents):
    X, y = documents
    model = fit(X, y)
    scores, proba = model.decision_function(X), model.predict_proba(X)
    assert scores.shape == proba.shape == (300, 3)
    assert_allclose(proba, softmax(scores, axis=1), rtol=1e-5)
    assert_allclose(proba.sum(axis=1), 1, rtol=1e-5)
    assert_allclose(model.predict_log_proba(X), np.log(proba), rtol=1e-4, atol=1e-6)
    assert_array_equal(model.predict(X), scores.argmax(axis=1))


@pytest.mark.parametrize("label", ["only", 7, False])
@pytest.mark.parametrize("n_samples", [1, 30, 300])
def test_one_class_is_always_predicted(documents, n_samples, label):
    X = documents[0][:n_samples]
    model = fit(X, [label] * n_samples)
    assert model.classes_.tolist() == [label]
    assert model.predict(documents[0]).tolist() == [label] * 300
    assert_array_equal(model.predict_proba(X), np.ones((n_samples, 1)))


def test_two_samples_are_told_apart(documents):
    X, _ = documents
    assert fit(X[:2], ["first", "second"]).predict(X[:2]).tolist() == ["first", "second"]


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.linspace(0, 1, 300), "continuous"),
        (np.arange(600).reshape(300, 2) % 3, "multiclass-multioutput"),
        (np.zeros(299), "inconsistent numbers of samples"),
        (np.full(300, np.nan), "NaN"),
        (None, "requires y to be passed"),
    ],
    ids=["continuous", "multioutput", "short", "nan", "none"],
)
def test_what_is_no_classification_target_is_refused(documents, y, message):
    with pytest.raises(ValueError, match=message):
        fit(documents[0], y)


def test_several_labels_a_sample_are_learnt(labelled_twice):
    X, Y = labelled_twice
    model = fit(X[:450], Y[:450])
    predicted, proba = model.predict(X[450:]), model.predict_proba(X[450:])
    assert model.classes_.tolist() == list(range(6))
    assert predicted.shape == (150, 6)
    assert predicted.dtype == np.int64
    assert f1_score(Y[450:], predicted, average="micro") > 0.9
    assert proba.min() > 0
    assert proba.max() < 1
    assert_array_equal(predicted, proba > 0.5)
    assert_allclose(proba, expit(model.decision_function(X[450:])), rtol=1e-5)


@pytest.mark.parametrize("n_labels", [2, 3])
def test_the_multilabel_decision_function_is_two_dimensional(labelled_twice, n_labels):
    X, Y = labelled_twice
    model = fit(X, Y[:, :n_labels])
    assert model.decision_function(X).shape == (600, n_labels)


SPARSE = [
    getattr(sparse, f"{f}_{k}") for f in ("csr", "csc", "coo", "lil") for k in ("matrix", "array")
]
INDICATORS = [*SPARSE, np.asarray, np.ndarray.tolist, lambda Y: Y.astype(bool), lambda Y: Y * 1.0]
INDICATOR_IDS = [*[container.__name__ for container in SPARSE], "int", "list", "bool", "float"]


@pytest.mark.parametrize("make", INDICATORS, ids=INDICATOR_IDS)
def test_every_kind_of_indicator_matrix_gives_the_same_model(labelled_twice, make):
    X, Y = labelled_twice
    model = fit(X, make(Y))
    assert_same_model(model, fit(X, Y))
    assert_array_equal(model.predict(X), fit(X, Y).predict(X))


@pytest.mark.parametrize("make", INDICATORS, ids=INDICATOR_IDS)
def test_a_stream_may_begin_with_every_kind_of_indicator_matrix(labelled_twice, make):
    X, Y = labelled_twice
    expected = SparseExpertClassifier(random_state=0).partial_fit(X, Y, classes=np.arange(6))
    assert_same_model(SparseExpertClassifier(random_state=0).partial_fit(X, make(Y)), expected)


def test_a_label_that_all_or_no_samples_have_is_predicted_for_all_or_none(labelled_twice):
    X, Y = labelled_twice
    Y = np.column_stack([Y, np.zeros(600, int), np.ones(600, int)])
    predicted = fit(X, Y).predict(X)
    assert predicted[:, 6].max() == 0
    assert predicted[:, 7].min() == 1


def test_samples_without_any_label_are_learnt_from(labelled_twice):
    X, Y = labelled_twice
    none = fit(X, np.zeros_like(Y))
    assert none.predict(X).max() == 0
    Y = Y * (Y[:, [0]] == 0)  # whatever is about topic 0 gets no label at all
    model = fit(X, Y)
    assert f1_score(Y, model.predict(X), average="micro") > 0.85


def test_the_subset_accuracy_is_the_score_of_several_labels(labelled_twice):
    X, Y = labelled_twice
    model = fit(X, Y)
    assert model.score(X, Y) == (model.predict(X) == Y).all(axis=1).mean()
