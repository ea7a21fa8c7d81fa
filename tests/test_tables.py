"""Fits of dense tables and embeddings: what the model does not depend on, and its accuracy."""

import pickle

import numpy as np
import pytest
from fitted_models import assert_same_model, reference_proba
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.datasets import load_digits, load_wine, make_circles
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from skparse import SparseExpertClassifier


def fit(X, y, sample_weight=None, **parameters):
    return SparseExpertClassifier(**{"random_state": 0, **parameters}).fit(X, y, sample_weight)


def draw_xor(n_samples=600, n_noise=2, seed=0):
    X = np.random.RandomState(seed).uniform(-1, 1, size=(n_samples, 2 + n_noise))
    return X, np.where(X[:, 0] * X[:, 1] > 0, "same", "different")


def split(X, y):
    return train_test_split(X, y, test_size=0.25, random_state=0, stratify=y)


@pytest.fixture(scope="module")
def digits():
    return split(*load_digits(return_X_y=True))


# What the model does not depend on


@pytest.mark.parametrize("container", [sparse.csr_array, sparse.csc_matrix, np.asfortranarray])
def test_the_container_does_not_matter(container, digits):
    X, _, y, _ = digits
    assert_same_model(fit(container(X), y, max_iter=2), fit(X, y, max_iter=2))


def test_the_units_of_the_columns_do_not_matter():
    X, y = draw_xor()
    scale, shift = np.array([1e-3, 2.0, 1e4, 10.0]), np.array([5.0, 0.0, -1e5, 1.0])
    first, second = fit(X, y), fit(X * scale + shift, y)
    assert_allclose(
        second.predict_proba(X * scale + shift), first.predict_proba(X), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("n_jobs", [2, 3])
def test_the_number_of_threads_does_not_matter(n_jobs):
    X, y = draw_xor()
    assert_same_model(fit(X, y, n_jobs=n_jobs), fit(X, y))


def test_both_dtypes_give_nearly_the_same_model():
    X, y = draw_xor()
    single, double = fit(X.astype(np.float32), y), fit(X.astype(np.float32).astype(float), y)
    assert single.predict_proba(X).dtype == np.float32
    assert single.router_coef_.dtype == single.intercept_.dtype == np.float32
    assert_allclose(single.predict_proba(X), double.predict_proba(X), atol=1e-3)


def test_the_scale_of_weights_acts_like_the_penalty():
    X, y = draw_xor()
    assert_same_model(fit(X, y, np.full(600, 4.0), alpha=0.4), fit(X, y, alpha=0.1))


def test_weights_act_like_repeated_rows_up_to_chance():
    X, y = draw_xor(900)
    weight = np.random.RandomState(0).randint(3, size=600)
    repeated = np.repeat(np.arange(600), weight)
    weighted, longer = fit(X[:600], y[:600], weight), fit(X[repeated], y[repeated])
    agreement = (weighted.predict(X[600:]) == longer.predict(X[600:])).mean()
    assert agreement > 0.93
    assert weighted.t_ == longer.t_ == weight.sum()


def test_samples_without_weight_are_absent():
    X, y = draw_xor()
    weight = (np.arange(600) % 3 > 0).astype(float)
    assert_same_model(fit(X, y, weight), fit(X[weight > 0], y[weight > 0]))


# Accuracy


def test_circles_and_xor_are_learnt_where_a_linear_model_cannot():
    for X, y in (make_circles(800, noise=0.1, factor=0.5, random_state=0), draw_xor(800)):
        X_train, X_test, y_train, y_test = split(X, y)
        linear = LogisticRegression().fit(X_train, y_train).score(X_test, y_test)
        model = fit(X_train, y_train)
        assert model.score(X_test, y_test) > max(0.95, linear + 0.3)


def test_digits_are_learnt_better_than_by_a_linear_model(digits):
    X_train, X_test, y_train, y_test = digits
    model = fit(X_train, y_train)
    linear = LogisticRegression(max_iter=300).fit(X_train / 16, y_train)
    assert model.score(X_test, y_test) > linear.score(X_test / 16, y_test) + 0.005
    assert model.score(X_test, y_test) > 0.97
    assert_allclose(model.predict_proba(X_test), reference_proba(model, X_test, 8), atol=1e-8)


def test_a_small_table_as_it_comes_is_learnt():
    X_train, X_test, y_train, y_test = split(*load_wine(return_X_y=True))
    assert fit(X_train, y_train).score(X_test, y_test) > 0.9


@pytest.mark.parametrize("max_iter", [1, 4, 16, 64, 256])
def test_long_runs_do_not_destroy_the_model(max_iter, digits):
    X_train, X_test, y_train, y_test = digits
    model = fit(X_train, y_train, max_iter=max_iter)
    assert model.score(X_test, y_test) > 0.96
    assert 1 <= model.n_iter_ == len(model.loss_curve_) <= max_iter


def test_many_experts_and_epochs_do_not_destroy_the_model(digits):
    X_train, X_test, y_train, y_test = digits
    model = fit(X_train, y_train, n_experts=64, weight_density=1.0, max_iter=100)
    assert model.n_experts_ == 64
    assert model.score(X_test, y_test) > 0.97


def test_several_experts_of_a_class_are_used():
    X, y = draw_xor()
    model = fit(X, y)
    used_by = model.expert_coef_.toarray()[model.expert_load_ > 0] > 0
    assert model.n_experts_ == 32 and used_by.sum(axis=0).min() >= 2


@pytest.mark.parametrize("density", [0.1, 0.5])
def test_a_wished_density_is_kept(density, digits):
    X_train, X_test, y_train, y_test = digits
    model = fit(X_train, y_train, weight_density=density)
    assert model.model_size().weight_density <= density + 1e-3
    assert model.score(X_test, y_test) > 0.95


# Which recipe a fit has


def test_an_epoch_takes_the_default_for_the_density_of_x():
    X, y = draw_xor()
    assert fit(X, y).n_iter_ == 40
    assert fit(np.where(X > 0.3, X, 0), y).n_iter_ <= 4
    assert fit(X, y, max_iter=3, tol=0).n_iter_ == 3


def test_small_data_have_one_expert_per_class():
    X, y = draw_xor()
    assert fit(X[:128], y[:128]).n_experts_ == 2
    assert fit(X[:129], y[:129]).n_experts_ > 2


def test_fewer_experts_than_classes_are_shared(digits):
    X, _, y, _ = digits
    assert fit(X, y, n_experts=6).n_experts_ == 6
    assert fit(X, y, n_experts=10, max_iter=2).n_experts_ == 10


# What comes after a fit


def test_a_dense_model_survives_a_warm_start(digits):
    X_train, X_test, y_train, y_test = digits
    model = fit(X_train, y_train, warm_start=True)
    before = model.score(X_test, y_test)
    model.fit(X_train, y_train)
    assert model.score(X_test, y_test) > before - 0.01
    assert model.n_experts_ == 160


def test_a_dense_model_survives_a_stream(digits):
    X_train, X_test, y_train, y_test = digits
    model = fit(X_train[:700], y_train[:700])
    before = model.score(X_test, y_test)
    for first in range(700, 1300, 100):
        rows = slice(first, first + 100)
        model.partial_fit(X_train[rows], y_train[rows])
    assert model.score(X_test, y_test) > before - 0.005
    model.partial_fit(X_train[:1], y_train[:1])
    assert model.score(X_test, y_test) > before - 0.01
    assert model.t_ == 1301 and len(model.loss_curve_) == 47


def test_a_saved_model_predicts_and_learns_the_same(digits):
    X_train, X_test, y_train, _ = digits
    model = fit(X_train, y_train, max_iter=2)
    loaded = pickle.loads(pickle.dumps(model))
    assert_array_equal(loaded.predict_proba(X_test), model.predict_proba(X_test))
    for one in (model, loaded):
        one.partial_fit(X_train[:100], y_train[:100])
    assert_same_model(loaded, model)


def test_a_sparse_fit_after_a_dense_one_leaves_nothing_of_it():
    X, y = draw_xor()
    sparser = np.where(X > 0.3, X, 0)
    model = fit(X, y).fit(sparser, y)
    assert_same_model(model, fit(sparser, y))
    assert_same_model(model.partial_fit(sparser, y), fit(sparser, y).partial_fit(sparser, y))


def test_the_torch_engine_trains_nearly_the_same_model():
    X, y = draw_xor(150)
    first, second = (fit(X, y, engine=engine, max_iter=3) for engine in ("numba", "torch"))
    assert first.alpha_ == second.alpha_
    assert_allclose(first.predict_proba(X), second.predict_proba(X), atol=0.02)


def test_validation_scores_follow_the_epochs(digits, capsys):
    X_train, X_test, y_train, y_test = digits
    model = SparseExpertClassifier(random_state=0, max_iter=5, early_stopping=True, verbose=1)
    model.fit(X_train, y_train, X_val=X_test, y_val=y_test)
    assert len(model.validation_scores_) == model.n_iter_
    assert model.score(X_test, y_test) == model.best_validation_score_
    assert capsys.readouterr().out.count("/5, loss") == model.n_iter_
