"""The penalty that a fit chooses: when, how well, and what a model keeps of it.

A given number of epochs asks for the recipe with held-out samples, for any number of classes.
"""

import pickle

import numpy as np
import pytest
from fitted_models import assert_same_model
from noisy_documents import SAMPLES_NEEDED, draw_documents, draw_noisy
from numpy.testing import assert_array_equal
from sklearn.base import clone
from stages import prepare, run

from skparse import SparseExpertClassifier
from skparse._training import cross_calibration
from skparse._training.connections import connect
from skparse._training.held_out import hold_out
from skparse._training.low_rank import start_low_rank
from skparse.datasets import make_topic_documents
from skparse.model_selection import TopKSearchCV


def fit(X, y, sample_weight=None, **parameters):
    return SparseExpertClassifier(**{"random_state": 0, "max_iter": 4, **parameters}).fit(
        X, y, sample_weight
    )


@pytest.fixture(scope="module")
def noisy():
    """Samples that need a strong penalty, and the model that was fitted to them."""
    X, y = draw_noisy()
    model = fit(X, y)
    assert model.alpha_ > 1
    return X, y, model


@pytest.mark.parametrize("n_classes", [2, 4, 6])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_with_many_wrong_labels_a_strong_penalty_is_chosen_and_more_accurate(n_classes, seed):
    X, noisy = draw_noisy(6500, n_classes=n_classes, seed=seed)
    _, clean = draw_documents(6500, n_classes=n_classes, seed=seed)
    model, weak = (fit(X[:5000], noisy[:5000], alpha=alpha) for alpha in ("auto", 1.0))
    assert model.alpha_ in (3.0, 9.0)
    assert model.score(X[5000:], clean[5000:]) >= weak.score(X[5000:], clean[5000:])


@pytest.mark.parametrize("parameters", [{}, {"n_experts": 9}, {"weight_density": 0.5}], ids=str)
@pytest.mark.parametrize("n_classes", [4, 6])
def test_with_clean_labels_the_weakest_penalty_is_chosen(n_classes, parameters):
    X, y = draw_documents(5000, n_classes=n_classes)
    model = fit(X, y, **parameters)
    assert model.alpha_ == 1.0
    assert_same_model(model, fit(X, y, alpha=1.0, **parameters))


def test_with_clean_labels_of_two_classes_the_weakest_penalty_is_chosen():
    X, y = draw_documents(
        5000, n_classes=2, n_features=300, document_length=20, background_share=0.6
    )
    model = fit(X, y)
    assert model.alpha_ == 1.0
    assert_same_model(model, fit(X, y, alpha=1.0))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    ("n_classes", "parameters"),
    [
        *((n, p) for n in (2, 6) for p in ({}, {"weight_density": 0.5}, {"batch_size": 100})),
        *((n, {"n_experts": 4}) for n in (2, 6)),
        (6, {"n_experts": 9}),
    ],
    ids=str,
)
def test_a_fit_that_chooses_gives_the_model_of_a_fit_with_that_penalty(
    n_classes, parameters, dtype
):
    X, y = draw_noisy(5000, n_classes=n_classes, dtype=dtype)
    weight = np.random.RandomState(3).uniform(0.3, 2.0, size=len(y))
    model = fit(X, y, weight, **parameters)
    assert model.alpha_ > 1
    # Another number of experts might pay with that penalty.
    chosen = {"alpha": model.alpha_, "n_experts": model.n_experts_}
    same = fit(X, y, weight, **{**parameters, **chosen})
    assert_same_model(model, same)
    assert model._score_scaling == same._score_scaling
    assert model.loss_curve_ == same.loss_curve_
    other = fit(X, y, weight, **{**parameters, **chosen, "alpha": 1.0})
    assert np.abs(model.router_coef_.data - other.router_coef_.data).max() > 0.01


def test_a_fit_with_a_low_rank_term_gives_the_model_of_a_fit_with_the_penalty_it_chose():
    X, y = make_topic_documents(
        SAMPLES_NEEDED, 300, 20, n_classes=20, document_length=5, random_state=0, return_X_y=True
    )
    wrong = np.random.RandomState(0).uniform(size=len(y)) < 0.4
    y = np.where(wrong, np.random.RandomState(1).randint(20, size=len(y)), y)
    assert run(*prepare(X, y), hold_out, connect, start_low_rank).low_rank is not None
    model = fit(X, y)
    assert model.alpha_ > 1
    assert_same_model(model, fit(X, y, alpha=model.alpha_))


def test_samples_for_early_stopping_do_not_count(monkeypatch):
    fit_without, n_left_out = cross_calibration.fit_without, []

    def record(problem, draft, rows, seed):
        n_left_out.append(len(rows))
        return fit_without(problem, draft, rows, seed)

    monkeypatch.setattr(cross_calibration, "fit_without", record)
    X, y = draw_noisy(SAMPLES_NEEDED * 5 // 4)
    assert fit(X, y, early_stopping=True, validation_fraction=0.1).alpha_ > 1
    assert not n_left_out
    fit(X, y, early_stopping=True, validation_fraction=0.3)  # too few remain to hold some out
    assert sum(n_left_out[:5]) == len(y) - int(np.ceil(0.3 * len(y)))


@pytest.mark.parametrize("alpha", [0.25, 1.0, 2, 9.0, 100.0])
def test_a_model_has_the_penalty_that_it_is_given(noisy, alpha):
    X, y, _ = noisy
    model = fit(X, y, alpha=alpha, max_iter=1)
    assert model.alpha_ == alpha
    assert type(model.alpha_) is float
    assert model.alpha == alpha


@pytest.mark.parametrize("alpha", [0, 0.0, -1, "strong", None, float("nan")])
def test_a_value_that_is_no_penalty_is_refused(alpha):
    X, y = draw_documents(50)
    with pytest.raises(ValueError, match="'alpha' parameter of SparseExpertClassifier must be"):
        fit(X, y, alpha=alpha)


@pytest.mark.parametrize("n_classes", [2, 6])
def test_a_fit_that_chooses_is_the_same_for_any_number_of_threads(n_classes):
    X, y = draw_noisy(n_classes=n_classes, dtype=np.float32)
    one, two = (fit(X, y, n_jobs=n_jobs) for n_jobs in (1, 2))
    assert one.alpha_ == two.alpha_ > 1
    assert_same_model(one, two)


def test_the_names_of_the_classes_do_not_change_the_choice(noisy):
    X, y, model = noisy
    named = fit(X, np.array(list("abcdef"))[y])
    assert named.alpha_ == model.alpha_
    assert_array_equal(named.predict_proba(X), model.predict_proba(X))


def train_further(model, name, X, y, **parameters):
    """Train a copy of a model by `fit` with ``warm_start`` or by `partial_fit`."""
    copy = pickle.loads(pickle.dumps(model)).set_params(warm_start=True, **parameters)
    return getattr(copy, name)(X, y)


@pytest.mark.parametrize("name", ["fit", "partial_fit"])
def test_a_model_is_trained_further_with_the_penalty_that_was_chosen(noisy, name):
    X, y, model = noisy
    few, alpha = (X[:500], y[:500]), model.alpha_
    for samples in (few, (X, y), few):
        further = train_further(model, name, *samples)
        assert further.alpha_ == alpha
        assert_same_model(further, train_further(model, name, *samples, alpha=alpha))
        other = train_further(model, name, *samples, alpha=1.0)
        assert np.abs(further.router_coef_.data - other.router_coef_.data).max() > 1e-4
        model = further


@pytest.mark.parametrize("name", ["fit", "partial_fit"])
def test_a_model_is_trained_further_with_another_penalty_if_it_is_set(noisy, name):
    X, y, model = noisy
    few = X[:500], y[:500]
    further = train_further(model, name, *few, alpha=2.0)
    assert further.alpha_ == 2.0
    again = train_further(further, name, *few, alpha="auto")
    assert again.alpha_ == 2.0
    assert_same_model(again, train_further(further, name, *few, alpha=2.0))


def test_a_warm_start_does_not_choose(noisy):
    X, y, _ = noisy
    few = draw_documents(500)
    model = fit(*few, warm_start=True)
    assert model.fit(X, y).alpha_ == fit(*few).alpha_ < fit(X, y).alpha_


def test_a_stream_estimates_the_penalty_from_the_share_of_wrong_labels(noisy):
    strengths = []
    for X, y in (draw_documents(), noisy[:2]):
        model, strong = (SparseExpertClassifier(alpha=a, random_state=0) for a in ("auto", 4.0))
        for _ in range(3):
            model.partial_fit(X, y, classes=np.arange(6))
            strong.partial_fit(X, y, classes=np.arange(6))
            assert strong.alpha_ == 4.0
        strengths.append(model.alpha_)
    assert 1 <= strengths[0] < strengths[1] / 2


def test_a_new_fit_chooses_again(noisy):
    X, y, model = noisy
    again = pickle.loads(pickle.dumps(model))
    clean = draw_documents()
    assert again.fit(*clean).alpha_ == 1.0
    assert again.fit(X, y).alpha_ == model.alpha_
    assert_same_model(again, model)
    assert again.fit(X[:500], y[:500]).alpha_ == fit(X[:500], y[:500]).alpha_
    assert not hasattr(clone(model), "alpha_")


def test_a_copy_of_a_model_has_its_penalty_and_is_trained_further_with_it(noisy):
    X, y, model = noisy
    restored = pickle.loads(pickle.dumps(model))
    few = X[:500], y[:500]
    for copy in (restored, model.compress(dtype="int8"), model.compress(dtype=None)):
        assert copy.alpha_ == model.alpha_
        assert type(copy.alpha_) is float
        assert copy.alpha == "auto"
        further = train_further(copy, "partial_fit", *few)
        assert_same_model(further, train_further(copy, "partial_fit", *few, alpha=model.alpha_))
    mine = train_further(model, "partial_fit", *few)
    assert_same_model(restored.partial_fit(*few), mine)


def test_a_search_over_top_k_chooses_in_its_last_fit(noisy):
    X, y, model = noisy
    search = TopKSearchCV(
        SparseExpertClassifier(max_iter=4, random_state=0), top_ks=(1, 8), cv=2
    ).fit(X, y)
    assert search.best_estimator_.alpha_ == model.alpha_
    assert_same_model(search.best_estimator_, model)
    search.set_params(estimator__alpha=2.0).fit(X, y)
    assert search.best_estimator_.alpha_ == 2.0
