"""The sparsity level K: how it can be changed after the fit, and what it must not be."""

import copy

import numpy as np
import pytest
from fitted_models import reference_codes, reference_proba
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from scipy.special import softmax
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from skparse import SparseExpertClassifier
from skparse.datasets import make_topic_documents

METHODS = ("predict", "predict_proba", "predict_log_proba", "decision_function", "transform")


@pytest.fixture(scope="module")
def documents():
    return make_topic_documents(
        600, 400, 12, n_classes=6, document_length=20, dtype=np.float64, random_state=0,
        return_X_y=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def fitted(documents):
    return SparseExpertClassifier(n_experts=12, random_state=0).fit(*documents)


@pytest.fixture
def model(fitted):
    return copy.deepcopy(fitted)


def dense(result):
    return result.toarray() if sparse.issparse(result) else result


@pytest.mark.parametrize("top_k", range(1, 9))
def test_prediction_follows_top_k_without_another_fit(model, documents, top_k):
    X, _ = documents
    model.set_params(top_k=top_k)
    assert_allclose(dense(model.transform(X)), reference_codes(model, X, top_k), atol=1e-12)
    assert_allclose(model.predict_proba(X), reference_proba(model, X, top_k), rtol=1e-9)
    assert np.diff(model.transform(X).indptr).max() == top_k


@pytest.mark.parametrize("name", METHODS)
def test_setting_top_k_back_gives_the_first_predictions_again(model, documents, name):
    X, _ = documents
    before = dense(getattr(model, name)(X))
    model.set_params(top_k=1)
    if name != "predict":
        assert (dense(getattr(model, name)(X)) != before).any()
    model.set_params(top_k=8)
    assert_array_equal(dense(getattr(model, name)(X)), before)


@pytest.mark.parametrize("name", [*METHODS, "score"])
def test_a_level_above_what_was_trained_is_refused(model, documents, name):
    model.set_params(top_k=9)
    arguments = documents if name == "score" else documents[:1]
    with pytest.raises(ValueError, match=r"top_k=9.*\[1, 8\]"):
        getattr(model, name)(*arguments)


@pytest.mark.parametrize("top_k", [0, -1, 2.5, "many", None])
@pytest.mark.parametrize("name", METHODS)
def test_a_level_that_is_no_positive_integer_is_refused(model, documents, name, top_k):
    model.set_params(top_k=top_k)
    with pytest.raises(ValueError, match="top_k"):
        getattr(model, name)(documents[0])


def test_levels_at_and_above_the_number_of_experts_keep_every_positive_expert(documents):
    X, y = documents
    exact = SparseExpertClassifier(top_k=6, random_state=0).fit(X, y)
    above = SparseExpertClassifier(top_k=500, random_state=0).fit(X, y)
    assert exact.n_experts_ == above.n_experts_ == 6
    for top_k in (6, 7, 500):
        above.set_params(top_k=top_k)
        assert_allclose(dense(above.transform(X)), reference_codes(above, X, 6), atol=1e-12)
    assert exact.top_k_ == above.top_k_ == 6
    assert_array_equal(exact.set_params(top_k=7).predict(X), above.predict(X))


@pytest.mark.parametrize("parameters", [{}, {"n_experts": 18}], ids=["6 experts", "18 experts"])
@pytest.mark.parametrize("trained", [1, 2, 8])
def test_every_level_up_to_the_trained_one_is_learnt(documents, parameters, trained):
    X, y = documents
    model = SparseExpertClassifier(top_k=trained, random_state=0, **parameters)
    model.fit(X[:450], y[:450])
    assert model.top_k_ == min(trained, model.n_experts_)
    for top_k in range(1, trained + 1):
        assert model.set_params(top_k=top_k).score(X[450:], y[450:]) > 0.9


def test_a_numpy_integer_is_a_level(documents):
    X, y = documents
    model = SparseExpertClassifier(top_k=np.int64(2), random_state=0).fit(X, y)
    assert (model.top_k_, type(model.top_k_)) == (2, int)
    assert_array_equal(model.predict(X), clone(model).set_params(top_k=2).fit(X, y).predict(X))


def use_intercepts_alone(model):
    """Make the scores of all samples b1, and no sample one without evidence."""
    model.router_coef_ = sparse.csr_array(model.router_coef_.shape)
    model.prior_logits_ = None


def test_ties_go_to_the_expert_of_the_lowest_index(model, documents):
    X, _ = documents
    use_intercepts_alone(model)
    model.router_intercept_ = np.array([1, 2, 2, 1, 2, 2, 2, 1, 1, 1, 1, 1.0])
    assert model.set_params(top_k=3).transform(X[:2]).indices.tolist() == [1, 2, 4] * 2
    assert model.set_params(top_k=6).transform(X[:1]).indices.tolist() == [0, 1, 2, 4, 5, 6]


def test_experts_that_are_not_positive_are_never_kept(model, documents):
    X, _ = documents
    use_intercepts_alone(model)
    model.router_intercept_ = np.array([-1, 0, 3.0, 0, -2, 3.0 + np.log(2), 0, 0, 0, 0, 0, 0])
    codes = model.transform(X[:1])
    assert codes.indices.tolist() == [2, 5]
    assert_allclose(codes.data, [1 / 3, 2 / 3])


@pytest.mark.parametrize("top_k", [1, 8])
def test_a_row_with_nothing_kept_is_predicted_by_b2_alone(model, documents, top_k):
    X, _ = documents
    model.set_params(top_k=top_k)
    model.router_intercept_ = np.full(12, -100.0)
    model.intercept_ = np.array([0.0, 1.0, 0.5, -1.0, 2.0, 0.0])
    expected = softmax(model.intercept_ / model.temperatures_[top_k - 1])
    assert model.transform(X[:1]).nnz == 0
    assert_allclose(model.predict_proba(X[:1]), expected[None, :])
    assert model.predict(X[:1]).tolist() == [model.classes_[4]]


def test_grid_search_chooses_the_level(documents):
    X, y = documents
    search = GridSearchCV(
        SparseExpertClassifier(random_state=0), {"top_k": [1, 2, 4]}, cv=3, error_score="raise"
    ).fit(X, y)
    assert search.cv_results_["mean_test_score"].min() > 0.9
    best = SparseExpertClassifier(random_state=0, **search.best_params_).fit(X, y)
    assert_array_equal(search.predict_proba(X), best.predict_proba(X))
