"""The fitted estimator: attributes, codes, validation, early stopping, and known special cases."""

import re
import subprocess
import sys

import numpy as np
import pytest
from fitted_models import assert_same_model, reference_codes, reference_proba
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.utils.validation import check_is_fitted

from skparse import SparseExpertClassifier
from skparse.datasets import make_topic_documents


@pytest.fixture(scope="module")
def documents():
    """Noisy documents in two halves, to learn from and to validate on."""
    X, y = make_topic_documents(
        1000, 300, 8, n_classes=4, document_length=15, background_share=0.6, dtype=np.float64,
        random_state=0, return_X_y=True,
    )  # fmt: skip
    return X[:700], X[700:], y[:700], y[700:]


@pytest.fixture(scope="module")
def model(documents):
    X, _, y, _ = documents
    return fit(X, y)


def fit(X, y, *args, **parameters):
    return SparseExpertClassifier(random_state=0, **parameters).fit(X, y, *args)


def test_fitted_attributes_have_the_documented_shapes_and_types(documents, model):
    X, _, y, _ = documents
    assert_array_equal(model.classes_, [0, 1, 2, 3])
    assert (model.n_features_in_, model.n_experts_, model.top_k_) == (300, 4, 4)
    for name, shape in {"router_coef_": (300, 4), "expert_coef_": (4, 4)}.items():
        matrix = getattr(model, name)
        assert isinstance(matrix, sparse.csr_array)
        assert matrix.shape == shape
        assert matrix.has_canonical_format
        assert np.isfinite(matrix.data).all()
    assert model.router_intercept_.shape == model.intercept_.shape == (4,)
    assert model.t_ == 700
    assert not hasattr(model, "feature_names_in_")


def test_fitted_state_is_numpy_scipy_and_plain_values(documents):
    X, _, y, _ = documents
    for engine in ("auto", "torch"):
        state = vars(fit(X[:100], y[:100], engine=engine, max_iter=1))
        allowed = (np.ndarray, sparse.csr_array, int, float, str, list, bool, type(None))
        assert {name for name, value in state.items() if not isinstance(value, allowed)} == set()


def test_the_loss_curve_has_one_finite_value_an_epoch(documents):
    X, _, y, _ = documents
    model = fit(X, y, max_iter=7, tol=0, n_iter_no_change=100)
    assert model.n_iter_ == len(model.loss_curve_) == 7
    assert all(isinstance(loss, float) and 0 < loss < np.log(4) for loss in model.loss_curve_)


def test_training_stops_when_the_loss_stops_improving(documents):
    X, _, y, _ = documents
    assert fit(X, y, max_iter=10, tol=10.0, n_iter_no_change=1).n_iter_ == 2
    assert fit(X, y, max_iter=10, tol=10.0, n_iter_no_change=3).n_iter_ == 4


@pytest.mark.parametrize("top_k", [1, 3, 8])
def test_the_expert_load_counts_the_samples_that_keep_each_expert(documents, top_k):
    X, _, y, _ = documents
    model = fit(X, y, top_k=top_k)
    codes = model.transform(X)
    assert_array_equal(model.expert_load_, np.bincount(codes.indices, minlength=4))
    assert model.expert_load_.sum() == codes.nnz
    assert model.expert_load_.dtype.kind == "i"
    if top_k == 1:
        assert 0 < model.expert_load_.sum() <= 700


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "parameters",
    [{}, {"top_k": 1}, {"n_experts": 11, "top_k": 3}, {"n_experts": 2}, {"weight_density": 0.1}],
    ids=str,
)
def test_the_outputs_are_those_of_the_equation(documents, parameters, dtype):
    X, X_test, y, _ = documents
    model = fit(X.astype(dtype), y, **parameters)
    expected = reference_codes(model, X_test, model.top_k)
    codes = model.transform(X_test)
    rtol = 1e-3 if dtype == np.float32 else 1e-9
    assert codes.shape == (300, model.n_experts_)
    assert np.diff(codes.indptr).max() <= min(model.top_k, model.n_experts_)
    assert_allclose(codes.toarray(), expected, rtol=rtol, atol=rtol / 100)
    assert_allclose(model.predict_proba(X_test), reference_proba(model, X_test, model.top_k), rtol)


def test_rows_of_the_codes_sum_to_one(documents, model):
    codes = model.transform(documents[1])
    assert isinstance(codes, sparse.csr_array)
    assert codes.has_canonical_format
    assert codes.data.min() > 0
    assert_allclose(codes.sum(axis=1)[np.diff(codes.indptr) > 0], 1)


def test_the_features_out_are_the_experts(model):
    names = model.get_feature_names_out()
    assert names.tolist() == [f"sparseexpertclassifier{e}" for e in range(4)]


def test_the_codes_are_features_for_another_model(documents, model):
    X, X_test, y, y_test = documents
    linear = LogisticRegression().fit(model.transform(X), y)
    assert linear.score(model.transform(X_test), y_test) > 0.7


def test_a_softmax_regression_is_a_special_case(documents, model):
    """With one expert a class, all kept, and scores above the ReLU the gate is its softmax."""
    X, X_test, y, _ = documents
    linear = LogisticRegression().fit(X, y)
    special = clone(model).fit(X, y)
    special.router_coef_ = sparse.csr_array(linear.coef_.T)
    special.router_intercept_ = linear.intercept_ + 100
    special.expert_coef_ = sparse.csr_array(50 * np.eye(4))
    special.intercept_ = np.zeros(4)
    proba = linear.predict_proba(X_test)
    assert_allclose(special.transform(X_test).toarray(), proba, rtol=1e-9)
    assert_allclose(special.decision_function(X_test), 50 * proba, rtol=1e-9)
    for top_k in (1, 2, 8):
        special.set_params(top_k=top_k)
        assert_array_equal(special.predict(X_test), linear.predict(X_test))


def test_the_model_is_as_accurate_as_a_linear_one_on_linear_data(documents, model):
    X, X_test, y, y_test = documents
    linear = LogisticRegression(C=0.1, max_iter=1000).fit(X, y).score(X_test, y_test)
    assert model.score(X_test, y_test) > linear - 0.05


def test_router_weights_exist_where_a_feature_and_a_class_occur_together(documents, model):
    X, _, y, _ = documents
    together = np.array([np.asarray((X[y == c] > 0).sum(axis=0)).ravel() for c in range(4)]).T
    stored = np.zeros(model.router_coef_.shape, dtype=bool)
    stored[model.router_coef_.nonzero()] = True
    assert stored[together > 0].mean() > 0.99


@pytest.mark.parametrize("density", [0.01, 0.1, 0.3, 1.0])
def test_the_weight_density_bounds_the_router_weights(documents, density):
    X, _, y, _ = documents
    model = fit(X, y, weight_density=density)
    wanted = density * 300 * 4
    assert 0.9 * wanted <= model.router_coef_.nnz <= np.ceil(wanted)


def test_a_tenth_of_the_weights_keeps_most_of_the_accuracy(documents, model):
    X, X_test, y, y_test = documents
    pruned = fit(X, y, weight_density=0.25)
    assert pruned.score(X_test, y_test) > model.score(X_test, y_test) - 0.1


@pytest.mark.parametrize("n_experts", [4, 5, 8, 30])
def test_any_number_of_experts_from_one_a_class_upwards_learns(documents, n_experts):
    X, X_test, y, y_test = documents
    model = fit(X, y, n_experts=n_experts)
    assert model.n_experts_ == n_experts
    assert model.router_coef_.shape == (300, n_experts)
    assert model.expert_load_.shape == (n_experts,)
    auto = fit(X, y).score(X_test, y_test)
    assert model.score(X_test, y_test) > auto - 0.05


def test_experts_of_one_class_are_different(documents):
    X, _, y, _ = documents
    weights = fit(X, y, n_experts=8).router_coef_.toarray()
    assert (weights[:, :4] != weights[:, 4:]).any(axis=0).all()


def test_both_engines_predict_the_same(documents, model):
    X, X_test, y, _ = documents
    numba, other = fit(X, y, engine="numba"), fit(X, y)
    assert_same_model(numba, other)
    other.set_params(engine="torch")
    assert_allclose(other.predict_proba(X_test), numba.predict_proba(X_test), rtol=1e-9)
    assert_array_equal(other.transform(X_test).indices, numba.transform(X_test).indices)


def test_the_numba_engine_computes_on_the_cpu_only(documents):
    X, _, y, _ = documents
    with pytest.raises(ValueError, match="engine='numba'.*device='cuda'"):
        fit(X, y, engine="numba", device="cuda")


def test_a_validation_set_is_scored_and_changes_nothing_else(documents, model):
    X, X_val, y, y_val = documents
    validated = SparseExpertClassifier(random_state=0).fit(X, y, X_val=X_val, y_val=y_val)
    assert_same_model(validated, model)
    assert len(validated.validation_scores_) == validated.n_iter_
    assert validated.validation_scores_[-1] == pytest.approx(validated.score(X_val, y_val))
    assert validated.best_validation_score_ == max(validated.validation_scores_)
    assert not hasattr(model, "validation_scores_")


def test_early_stopping_keeps_the_model_of_the_best_epoch(documents):
    X, X_val, y, y_val = documents
    model = SparseExpertClassifier(random_state=0, early_stopping=True, max_iter=15, tol=0)
    model.set_params(n_iter_no_change=100).fit(X, y, X_val=X_val, y_val=y_val)
    assert model.t_ == 700
    assert model.n_iter_ == 15
    assert model.score(X_val, y_val) == pytest.approx(model.best_validation_score_)


def test_early_stopping_holds_out_samples_and_stops(documents):
    X, _, y, _ = documents
    model = fit(X, y, early_stopping=True, validation_fraction=0.2, max_iter=50)
    assert model.t_ == 560
    assert model.n_iter_ == len(model.validation_scores_) < 50
    assert model.best_validation_score_ == max(model.validation_scores_) > 0.7
    codes = model.transform(X)
    assert (model.expert_load_ < np.bincount(codes.indices, minlength=4)).all()


def test_small_data_are_never_split(documents):
    X, _, y, _ = documents
    model = fit(X[:128], y[:128], early_stopping=True)
    assert model.t_ == 128
    assert not hasattr(model, "validation_scores_")
    assert fit(X[:129], y[:129], early_stopping=True).t_ == 116


def test_early_stopping_works_with_a_class_of_one_sample(documents):
    X, _, y, _ = documents
    rare = y.copy()
    rare[5] = 9
    assert fit(X, rare, early_stopping=True).classes_.tolist() == [0, 1, 2, 3, 9]


def test_a_validation_set_may_be_dense_or_of_another_dtype_and_lack_classes(documents):
    X, X_val, y, y_val = documents
    few = y_val < 2
    expected = SparseExpertClassifier(random_state=0).fit(X, y, X_val=X_val[few], y_val=y_val[few])
    for other in (X_val[few].toarray(), X_val[few].astype(np.float32), X_val[few].tocoo()):
        model = SparseExpertClassifier(random_state=0).fit(X, y, X_val=other, y_val=y_val[few])
        assert model.validation_scores_ == expected.validation_scores_


def test_attributes_of_an_earlier_fit_do_not_stay(documents, model):
    X, X_val, y, y_val = documents
    refitted = SparseExpertClassifier(random_state=0, early_stopping=True).fit(X, y)
    assert hasattr(refitted, "validation_scores_")
    refitted.set_params(early_stopping=False).fit(X, y)
    assert set(vars(refitted)) == set(vars(model))
    assert_same_model(refitted, model)


def test_a_verbose_fit_prints_a_line_an_epoch(documents, capsys):
    X, X_val, y, y_val = documents
    model = SparseExpertClassifier(random_state=0, verbose=1)
    model.fit(X, y, X_val=X_val, y_val=y_val)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == model.n_iter_
    for line, *values in zip(lines, model.loss_curve_, model.validation_scores_, strict=True):
        printed = re.search(r"loss (\S+), validation score (\S+)", line).groups()
        assert [float(value) for value in printed] == pytest.approx(values, abs=1e-4)


def test_a_silent_fit_prints_nothing(documents, capfd):
    X, _, y, _ = documents
    fit(X, y, early_stopping=True).partial_fit(X, y).predict(X)
    assert capfd.readouterr() == ("", "")


def test_a_clone_is_unfitted_and_fits_to_the_same_model(documents, model):
    copy = clone(model)
    assert copy.get_params() == model.get_params()
    with pytest.raises(NotFittedError):
        check_is_fitted(copy)
    for name in ("predict", "predict_proba", "decision_function", "transform"):
        with pytest.raises(NotFittedError):
            getattr(copy, name)(documents[0])
    assert_same_model(copy.fit(documents[0], documents[2]), model)


def test_fit_does_not_change_the_parameters(documents):
    X, _, y, _ = documents
    parameters = SparseExpertClassifier(random_state=0).get_params()
    assert fit(X, y).partial_fit(X, y).get_params() == parameters


def test_predicting_stores_nothing_on_the_model(documents):
    X, _, y, _ = documents
    model = fit(X, y)
    before = {name: id(value) for name, value in vars(model).items()}
    model.predict(X), model.predict_proba(X), model.transform(X), model.score(X, y)
    assert {name: id(value) for name, value in vars(model).items()} == before


def test_the_estimator_shows_itself_in_a_notebook(model):
    assert "SparseExpertClassifier" in model._repr_html_()
    assert repr(model) == "SparseExpertClassifier(random_state=0)"


@pytest.mark.parametrize(("engine", "needs_torch"), [("auto", False), ("torch", True)])
def test_torch_is_imported_where_it_is_used_and_no_warning_is_raised(engine, needs_torch):
    code = (
        "import sys\n"
        "from skparse import SparseExpertClassifier\n"
        f"model = SparseExpertClassifier(engine={engine!r}, max_iter=1)\n"
        "model.fit([[0.0, 1.0], [1.0, 0.0]] * 9, ['a', 'b'] * 9)\n"
        "print(model.predict([[0.0, 1.0]]).tolist(), 'torch' in sys.modules)\n"
    )
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == f"['a'] {needs_torch}"
