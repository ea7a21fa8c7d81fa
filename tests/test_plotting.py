"""The displays: the numbers they hold, and that they draw them."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import NotFittedError

# HalvingGridSearchCV can be imported only after this.
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection import GridSearchCV, HalvingGridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skparse import SparseExpertClassifier
from skparse.datasets import make_topic_documents
from skparse.model_selection import TopKSearchCV
from skparse.plotting import ExpertUsageDisplay, LossCurveDisplay, SparsityPathDisplay

pytestmark = pytest.mark.usefixtures("closed_figures")


@pytest.fixture(scope="module")
def documents():
    return make_topic_documents(
        400, 300, 12, n_classes=6, document_length=6, dtype=np.float64, random_state=0,
        return_X_y=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def fitted(documents):
    X, y = documents
    names = np.array(["a", "b", "c", "d", "e", "f"])[y]
    return SparseExpertClassifier(12, random_state=0).fit(X[:300], names[:300])


@pytest.fixture
def held_out(documents):
    X, y = documents
    return X[300:], np.array(["a", "b", "c", "d", "e", "f"])[y[300:]]


@pytest.fixture(scope="module")
def search(documents):
    classifier = SparseExpertClassifier(12, random_state=0)
    return TopKSearchCV(classifier, top_ks=(1, 2, 4, 8), cv=3).fit(*documents)


def paired_errors(observations, best):
    differences = observations[:, [best]] - observations
    return differences.std(axis=0, ddof=1) / np.sqrt(len(observations))


def test_the_path_of_an_estimator_holds_its_accuracies_and_costs(fitted, held_out):
    X, y = held_out
    display = SparsityPathDisplay.from_estimator(fitted, X, y)
    assert display.top_ks.tolist() == [1, 2, 4, 8]
    predictions = [a.argmax(axis=1) for a in fitted.predict_proba_path(X, display.top_ks)]
    hits = np.array([fitted.classes_[p] == y for p in predictions], float).T
    assert_array_equal(display.scores, hits.mean(axis=0))
    assert_allclose(display.std_errors, paired_errors(hits, display.scores.argmax()))
    assert display.microseconds.shape == (4,)
    assert (display.microseconds > 0).all()
    assert_array_equal(display.n_bytes, [fitted.model_size().n_bytes] * 4)
    assert display.top_k == 8
    assert fitted.top_k == 8


def test_levels_can_be_given(fitted, held_out):
    display = SparsityPathDisplay.from_estimator(fitted, *held_out, top_ks=[5, 3])
    assert display.top_ks.tolist() == [3, 5]
    assert display.mark_ is None  # 8, the level that is set, is not among them
    with pytest.raises(ValueError, match=r"top_k=9.*\[1, 8\]"):
        SparsityPathDisplay.from_estimator(fitted, *held_out, top_ks=[9])


def test_the_time_can_be_left_out(fitted, held_out):
    display = SparsityPathDisplay.from_estimator(fitted, *held_out, n_repeats=1, show_time=False)
    assert display.time_ax_ is None and len(display.microseconds) == len(display.top_ks)
    assert display.plot().time_ax_ is not None


def test_default_levels_end_with_the_largest_that_was_trained(documents):
    X, y = documents
    model = SparseExpertClassifier(12, top_k=6, random_state=0).fit(X[:300], y[:300])
    display = SparsityPathDisplay.from_estimator(model, X[300:], y[300:], n_repeats=1)
    assert display.top_ks.tolist() == [1, 2, 4, 6]


def test_pipelines_and_searches_give_the_numbers_of_their_classifier(documents, search):
    X, y = documents
    expected = SparsityPathDisplay.from_estimator(search.best_estimator_, X, y)
    pipeline = make_pipeline(FunctionTransformer(), search)
    for estimator in (search, pipeline):
        display = SparsityPathDisplay.from_estimator(estimator, X, y)
        assert_array_equal(display.scores, expected.scores)
        assert display.top_k == search.top_k_
    usage = ExpertUsageDisplay.from_estimator(pipeline)
    assert usage.expert_load.sum() == search.best_estimator_.expert_load_.sum()
    curve = LossCurveDisplay.from_estimator(pipeline).loss_curve
    assert curve == search.best_estimator_.loss_curve_


def test_a_search_over_a_pipeline_gives_the_numbers_of_its_classifier(documents, search):
    X, y = documents
    pipeline = make_pipeline(FunctionTransformer(), SparseExpertClassifier(12, random_state=0))
    over_pipeline = TopKSearchCV(pipeline, top_ks=(1, 2, 4, 8), cv=3).fit(X, y)
    expected = SparsityPathDisplay.from_estimator(search, X, y)
    display = SparsityPathDisplay.from_estimator(over_pipeline, X, y)
    assert_array_equal(display.scores, expected.scores)
    assert display.top_k == search.top_k_
    display = SparsityPathDisplay.from_cv_results(over_pipeline.cv_results_)
    assert_array_equal(display.scores, search.cv_results_["mean_test_score"])
    assert_array_equal(display.std_errors, search.cv_results_["std_error_paired_loss"])
    assert LossCurveDisplay.from_estimator(over_pipeline).loss_curve == (
        search.best_estimator_.loss_curve_
    )


def test_the_path_of_multilabel_targets_counts_whole_sets(documents):
    X, y = documents
    labels = np.eye(6, dtype=int)[y]
    model = SparseExpertClassifier(top_k=2, random_state=0).fit(X, labels)
    display = SparsityPathDisplay.from_estimator(model, X, labels)
    assert display.scores[-1] == model.score(X, labels)


def test_the_path_of_a_search_holds_its_results(search):
    results = search.cv_results_
    for given in (results, pd.DataFrame(results)):
        display = SparsityPathDisplay.from_cv_results(given)
        assert_array_equal(display.top_ks, search.top_ks_)
        assert_array_equal(display.scores, results["mean_test_score"])
        assert_array_equal(display.std_errors, results["std_error_paired_loss"])
        assert_array_equal(display.microseconds, results["mean_microseconds_per_sample"])
        assert_array_equal(display.n_bytes, results["mean_n_bytes"])
        assert display.top_k == search.top_k_


def test_the_path_of_a_grid_search_is_compared_fold_by_fold(documents):
    grid = GridSearchCV(
        SparseExpertClassifier(12, random_state=0), {"top_k": [4, 1, 2]}, cv=4
    ).fit(*documents)
    results = grid.cv_results_
    display = SparsityPathDisplay.from_cv_results(results, n_samples=100, top_k=2)
    assert display.top_ks.tolist() == [1, 2, 4]
    scores = results["mean_test_score"][[1, 2, 0]]
    assert_array_equal(display.scores, scores)
    folds = np.array([results[f"split{i}_test_score"][[1, 2, 0]] for i in range(4)])
    assert_allclose(display.std_errors, paired_errors(folds, scores.argmax()))
    assert_allclose(display.microseconds, 1e4 * results["mean_score_time"][[1, 2, 0]])
    assert display.n_bytes is None
    assert display.top_k == 2


def test_the_level_within_one_standard_error_is_marked_unless_another_is_given():
    results = {
        "param_top_k": np.ma.array([1, 2, 4]),
        "mean_test_score": np.array([0.60, 0.69, 0.70]),
        "split0_test_score": np.array([0.50, 0.58, 0.60]),
        "split1_test_score": np.array([0.70, 0.80, 0.80]),
    }
    display = SparsityPathDisplay.from_cv_results(results)
    assert display.top_k == 2
    assert_allclose(display.std_errors, [0.0, 0.01, 0.0], atol=1e-12)
    assert_allclose(display.mark_.get_xydata(), [[2, 0.69]])
    assert display.time_ax_ is None
    assert SparsityPathDisplay.from_cv_results(results, top_k=4).top_k == 4


def test_a_parameter_of_a_pipeline_and_the_best_of_other_parameters_are_found(documents):
    pipeline = make_pipeline(FunctionTransformer(), SparseExpertClassifier(12, random_state=0))
    grid = {
        "sparseexpertclassifier__top_k": [1, 2],
        "sparseexpertclassifier__alpha": [0.1, 1.0, 300.0],
    }
    results = GridSearchCV(pipeline, grid, cv=2).fit(*documents).cv_results_
    display = SparsityPathDisplay.from_cv_results(results)
    assert display.top_ks.tolist() == [1, 2]
    levels = results["param_sparseexpertclassifier__top_k"]
    for top_k, score in zip([1, 2], display.scores, strict=True):
        assert score == results["mean_test_score"][levels == top_k].max()


def test_one_of_several_metrics_can_be_shown(documents):
    model = SparseExpertClassifier(12, random_state=0)
    results = GridSearchCV(
        model, {"top_k": [1, 2]}, cv=2, scoring=["accuracy", "f1_macro"], refit=False
    ).fit(*documents).cv_results_  # fmt: skip
    display = SparsityPathDisplay.from_cv_results(results, metric="f1_macro")
    assert_array_equal(display.scores, results["mean_test_f1_macro"])
    assert display.ax_.get_ylabel() == "Mean cross-validated f1_macro"


def test_candidates_without_a_level_are_left_out(documents):
    model = SparseExpertClassifier(12, random_state=0)
    grid = [{"top_k": [2, 1]}, {"alpha": [2.0]}]
    results = GridSearchCV(model, grid, cv=2).fit(*documents).cv_results_
    display = SparsityPathDisplay.from_cv_results(results)
    assert display.top_ks.tolist() == [1, 2]
    assert_array_equal(display.scores, results["mean_test_score"][[1, 0]])


def test_results_without_levels_or_of_a_halving_search_are_refused(documents):
    with pytest.raises(ValueError, match="top_k, found none"):
        SparsityPathDisplay.from_cv_results({"param_alpha": np.array([1.0])})
    halving = HalvingGridSearchCV(
        SparseExpertClassifier(12), {"top_k": [1, 2]}, cv=2, random_state=0, min_resources=100
    ).fit(*documents)
    with pytest.raises(ValueError, match="halving"):
        SparsityPathDisplay.from_cv_results(halving.cv_results_)


def test_the_path_is_drawn_as_it_is_held():
    display = SparsityPathDisplay(
        np.array([1, 4, 8]),
        np.array([0.5, 0.7, 0.8]),
        np.array([0.1, 0.05, 0.0]),
        microseconds=np.array([1.0, 2.0, 3.0]),
        n_bytes=np.array([1500.0, 1500.0, 2_500_000.0]),
        top_k=4,
        score_name="Accuracy",
    ).plot(color="green")
    assert_array_equal(display.line_.get_xydata(), [[1, 0.5], [4, 0.7], [8, 0.8]])
    assert display.line_.get_color() == "green"
    corners = display.band_.get_paths()[0].vertices
    assert_allclose([corners[:, 1].min(), corners[:, 1].max()], [0.4, 0.8])
    assert display.ax_.get_xscale() == "log"
    assert [tick.get_text() for tick in display.ax_.get_xticklabels()] == ["1", "4", "8"]
    assert_array_equal(display.mark_.get_xydata(), [[4, 0.7]])
    assert_array_equal(display.time_ax_.lines[0].get_ydata(), [1.0, 2.0, 3.0])
    assert display.ax_.get_title(loc="right") == "model: 1.5 kB to 2.5 MB"
    display.figure_.canvas.draw()


def test_a_difference_of_a_hundredth_of_a_point_does_not_fill_the_picture():
    scores = np.array([0.9, 0.9001])
    display = SparsityPathDisplay(np.array([1, 2]), scores, np.zeros(2)).plot()
    low, high = display.ax_.get_ylim()
    assert high - low > 0.03
    negative = SparsityPathDisplay(np.array([1, 2]), -scores, np.zeros(2)).plot()
    low, high = negative.ax_.get_ylim()
    assert low < -0.9001 < -0.9 < high


def test_expert_usage_is_sorted_and_names_the_class_of_each_expert(fitted):
    display = ExpertUsageDisplay.from_estimator(fitted)
    assert sorted(display.experts) == list(range(12))
    assert (np.diff(display.expert_load) <= 0).all()
    assert_array_equal(display.expert_load, fitted.expert_load_[display.experts])
    outputs = fitted.expert_coef_.toarray()
    expected = fitted.classes_[outputs[display.experts].argmax(axis=1)]
    assert_array_equal(display.class_names, expected)
    assert [bar.get_height() for bar in display.bars_] == display.expert_load.tolist()
    labels = [tick.get_text() for tick in display.ax_.get_xticklabels()]
    pairs = zip(expected, display.experts, strict=True)
    assert labels == [f"{name} ({expert})" for name, expert in pairs]


def test_of_many_experts_only_some_are_labelled():
    load = np.array([5, 4, 3, 3, 2, 1, 0])
    display = ExpertUsageDisplay(load, np.arange(7), np.array(list("abcdefg")))
    display.plot(max_labels=3, color="red")
    labels = [tick.get_text() for tick in display.ax_.get_xticklabels()]
    assert labels == ["a (0)", "d (3)", "g (6)"]
    assert len(display.bars_) == 7
    assert display.ax_.get_title(loc="right") == "7 experts, 1 unused"


def test_the_loss_curve_has_validation_scores_where_there_are_some(documents):
    X, y = documents
    plain = SparseExpertClassifier(max_iter=3, random_state=0).fit(X, y)
    display = LossCurveDisplay.from_estimator(plain)
    assert display.loss_curve == plain.loss_curve_
    assert display.validation_scores is None
    assert display.score_ax_ is None
    epochs = np.arange(1, len(plain.loss_curve_) + 1)
    assert_array_equal(display.line_.get_xydata(), np.transpose([epochs, plain.loss_curve_]))
    stopped = SparseExpertClassifier(early_stopping=True, random_state=0).fit(X, y)
    display = LossCurveDisplay.from_estimator(stopped)
    assert display.validation_scores == stopped.validation_scores_
    assert_array_equal(display.score_ax_.lines[0].get_ydata(), stopped.validation_scores_)


def test_displays_draw_on_the_axes_they_are_given(fitted, held_out, search):
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2)
    displays = [
        SparsityPathDisplay.from_estimator(fitted, *held_out, ax=axes[0, 0]),
        SparsityPathDisplay.from_cv_results(search.cv_results_, ax=axes[0, 1]),
        ExpertUsageDisplay.from_estimator(fitted, ax=axes[1, 0]),
        LossCurveDisplay.from_estimator(fitted, ax=axes[1, 1]),
    ]
    for display, ax in zip(displays, axes.flat, strict=True):
        assert display.ax_ is ax
        assert display.figure_ is figure
    assert len(plt.get_fignums()) == 1


def test_a_figure_of_several_plots_of_one_display_holds_the_same_numbers(search):
    display = SparsityPathDisplay.from_cv_results(search.cv_results_)
    first = display.line_.get_xydata()
    assert_array_equal(display.plot().line_.get_xydata(), first)


@pytest.mark.parametrize("display", [ExpertUsageDisplay, LossCurveDisplay])
def test_models_that_are_not_fitted_are_refused(display):
    with pytest.raises(NotFittedError):
        display.from_estimator(SparseExpertClassifier())


def test_without_matplotlib_a_message_names_the_extra():
    code = (
        "import sys\n"
        "sys.modules['matplotlib'] = sys.modules['matplotlib.pyplot'] = None\n"
        "from skparse.plotting import LossCurveDisplay\n"
        "try:\n"
        "    LossCurveDisplay([1.0]).plot()\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'pip install "skparse[plot]"' in done.stdout
