"""The main job: real texts, in the tools of scikit-learn."""

import numpy as np
import pytest
from fitted_models import assert_same_model
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import VotingClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import f1_score, log_loss
from sklearn.model_selection import (
    GridSearchCV,
    StratifiedKFold,
    cross_val_score,
    train_test_split,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MultiLabelBinarizer
from sklearn.svm import LinearSVC

from skparse import SparseExpertClassifier
from skparse.datasets import load_api_docs


def vectorizer(**parameters):
    return TfidfVectorizer(sublinear_tf=True, min_df=2, dtype=np.float32, **parameters)


def new_model(**parameters):
    return SparseExpertClassifier(random_state=0, **parameters)


@pytest.fixture(scope="module")
def api_docs():
    """Training and test texts of the installed API documentation."""
    docs = load_api_docs()
    y = np.asarray(docs.target_names)[docs.target]
    return train_test_split(docs.data, y, test_size=0.25, random_state=0, stratify=y)


@pytest.fixture(scope="module")
def pipeline(api_docs):
    texts, _, y, _ = api_docs
    return make_pipeline(vectorizer(), new_model()).fit(texts, y)


@pytest.fixture(scope="module")
def few_docs(api_docs):
    """Texts of five classes, for what is fitted many times."""
    texts, _, y, _ = api_docs
    classes, counts = np.unique(y, return_counts=True)
    rows = np.flatnonzero(np.isin(y, classes[np.argsort(-counts)[:5]]))[:500]
    return [texts[i] for i in rows], y[rows]


def test_a_pipeline_learns_the_modules_of_the_api_docs(api_docs, pipeline):
    texts, test_texts, y, y_test = api_docs
    linear = make_pipeline(vectorizer(), LinearSVC()).fit(texts, y).score(test_texts, y_test)
    assert pipeline.score(test_texts, y_test) > linear - 0.01
    assert (
        pipeline[-1].router_coef_.dtype == pipeline.predict_proba(test_texts).dtype == np.float32
    )
    assert pipeline.predict(test_texts).dtype == y.dtype


def test_a_pipeline_predicts_one_new_sentence_and_an_empty_one(pipeline):
    texts = ["Solve a sparse linear system with the conjugate gradient method.", ""]
    assert pipeline.predict(texts[:1]).tolist() == ["scipy.sparse.linalg"]
    assert_allclose(pipeline.predict_proba(texts).sum(axis=1), 1, rtol=1e-5)


def test_grid_search_over_top_k_runs_on_a_pipeline(few_docs):
    texts, y = few_docs
    search = GridSearchCV(
        make_pipeline(vectorizer(), new_model()),
        {"sparseexpertclassifier__top_k": [1, 2, 4, 8]},
        cv=StratifiedKFold(3),
        n_jobs=2,
        error_score="raise",
    ).fit(texts, y)
    assert search.best_params_["sparseexpertclassifier__top_k"] in (1, 2, 4, 8)
    assert search.cv_results_["mean_test_score"].min() > 0.8
    best = make_pipeline(vectorizer(), new_model()).set_params(**search.best_params_).fit(texts, y)
    assert_same_model(search.best_estimator_[-1], best[-1])


def test_cross_validation_runs_on_a_pipeline(few_docs):
    texts, y = few_docs
    scores = cross_val_score(make_pipeline(vectorizer(), new_model()), texts, y, cv=3)
    assert scores.shape == (3,)
    assert scores.min() > 0.8


@pytest.fixture
def metadata_routing():
    with config_context(enable_metadata_routing=True):
        yield


@pytest.mark.usefixtures("metadata_routing")
def test_sample_weights_are_routed_through_a_pipeline(few_docs):
    texts, y = few_docs
    weight = np.random.default_rng(0).random(len(y))
    routed = make_pipeline(vectorizer(), new_model().set_fit_request(sample_weight=True))
    routed.fit(texts, y, sample_weight=weight)
    X = vectorizer().fit_transform(texts)
    assert_same_model(routed[-1], new_model().fit(X, y, sample_weight=weight))
    plain = new_model().fit(X, y)
    assert abs(plain.router_coef_ - routed[-1].router_coef_).max() > 0


@pytest.mark.usefixtures("metadata_routing")
def test_sample_weights_are_routed_through_grid_search(few_docs):
    texts, y = few_docs
    classes, codes = np.unique(y, return_inverse=True)
    weight = np.arange(len(y)) % 2.0
    flipped = np.where(weight > 0, y, np.roll(classes, 1)[codes])
    model = new_model().set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
    search = GridSearchCV(
        make_pipeline(vectorizer(), model),
        {"sparseexpertclassifier__top_k": [1, 4]},
        cv=3,
        error_score="raise",
    ).fit(texts, flipped, sample_weight=weight)
    # Only the true labels have weight: what is learnt from and scored on is clean.
    assert search.cv_results_["mean_test_score"].min() > 0.8
    X = vectorizer().fit_transform(texts)
    top_k = search.best_params_["sparseexpertclassifier__top_k"]
    direct = new_model(top_k=top_k).fit(X, flipped, sample_weight=weight)
    assert_same_model(search.best_estimator_[-1], direct)


@pytest.mark.usefixtures("metadata_routing")
def test_a_pipeline_transforms_the_validation_texts(few_docs):
    texts, y = few_docs
    model = new_model().set_fit_request(X_val=True, y_val=True)
    pipeline = make_pipeline(vectorizer(), model, transform_input=["X_val"])
    pipeline.fit(texts[:400], y[:400], X_val=texts[400:], y_val=y[400:])
    scores = pipeline[-1].validation_scores_
    assert scores[-1] == pytest.approx(pipeline.score(texts[400:], y[400:]))
    assert scores[-1] > 0.8


@pytest.mark.parametrize("method", ["sigmoid", "isotonic"])
def test_the_classifier_can_be_calibrated(few_docs, method):
    texts, y = few_docs
    calibrated = CalibratedClassifierCV(
        make_pipeline(vectorizer(), new_model()), method=method, cv=3
    ).fit(texts, y)
    assert_allclose(calibrated.predict_proba(texts).sum(axis=1), 1, rtol=1e-5)
    assert calibrated.score(texts, y) > 0.9


def test_a_fitted_pipeline_can_be_calibrated_on_other_texts(api_docs, pipeline):
    _, texts, _, y = api_docs
    calibrated = CalibratedClassifierCV(FrozenEstimator(pipeline)).fit(texts[::2], y[::2])
    assert calibrated.score(texts[1::2], y[1::2]) > pipeline.score(texts[1::2], y[1::2]) - 0.03
    proba = calibrated.predict_proba(texts[1::2])
    assert log_loss(y[1::2], proba, labels=calibrated.classes_) < 1


@pytest.mark.parametrize("voting", ["hard", "soft"])
def test_the_classifier_votes_beside_others(few_docs, voting):
    texts, y = few_docs
    X = vectorizer().fit_transform(texts)
    linear = SGDClassifier(loss="log_loss", random_state=0)
    votes = VotingClassifier([("experts", new_model()), ("linear", linear)], voting=voting)
    votes.fit(X[:400], y[:400])
    assert votes.score(X[400:], y[400:]) > 0.8
    if voting == "soft":
        parts = [model.predict_proba(X[400:]) for model in votes.estimators_]
        assert_allclose(votes.predict_proba(X[400:]), np.mean(parts, axis=0))


def test_the_codes_go_through_a_pipeline(api_docs, pipeline):
    _, texts, _, y = api_docs
    codes = pipeline.transform(texts)
    assert codes.shape == (len(y), pipeline[-1].n_experts_)
    assert_array_equal(pipeline.get_feature_names_out(), pipeline[-1].get_feature_names_out())


def test_twenty_newsgroups_reaches_its_accuracy_at_every_level_from_one_fit(load_newsgroups):
    texts, y = load_newsgroups("train")
    test_texts, y_test = load_newsgroups("test")
    tfidf = vectorizer()
    X, X_test = tfidf.fit_transform(texts), tfidf.transform(test_texts)
    model = new_model().fit(X, y)
    assert model.score(X_test, y_test) >= 0.70
    assert model.set_params(top_k=1).score(X_test, y_test) >= 0.69


def test_banking77_reaches_its_accuracy(load_corpus):
    (texts, y), (test_texts, y_test) = (load_corpus("banking77", s) for s in ("train", "test"))
    pipeline = make_pipeline(vectorizer(ngram_range=(1, 2)), new_model())
    assert pipeline.fit(texts, y).score(test_texts, y_test) >= 0.885


def test_several_topics_of_a_newswire_are_learnt(load_corpus):
    (texts, y), (test_texts, y_test) = (
        load_corpus("reuters21578_modapte90", s) for s in ("train", "test")
    )
    binarizer = MultiLabelBinarizer().fit(y)
    pipeline = make_pipeline(vectorizer(), new_model()).fit(texts, binarizer.transform(y))
    predicted = pipeline.predict(test_texts)
    assert f1_score(binarizer.transform(y_test), predicted, average="micro") > 0.8
