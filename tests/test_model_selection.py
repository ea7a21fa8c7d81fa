"""Choosing K: one fit per fold gives what a search over separate predictions gives."""

import pickle

import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn
import skops.io
from fitted_models import assert_same_model
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.compose import make_column_transformer
from sklearn.exceptions import NotFittedError, UnsetMetadataPassedError
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, log_loss, make_scorer
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    RepeatedStratifiedKFold,
    ShuffleSplit,
    StratifiedKFold,
    cross_val_score,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, MaxAbsScaler
from sklearn.utils import estimator_checks as checks
from sklearn.utils.estimator_checks import estimator_checks_generator
from test_common import FURTHER_CHECKS

from skparse import SparseExpertClassifier
from skparse._top_k_choice import choose_level, compare_levels
from skparse.datasets import make_topic_documents
from skparse.model_selection import TopKSearchCV

TOP_KS = (1, 2, 4, 8)


@pytest.fixture(scope="module")
def documents():
    """Return documents that are hard enough for the levels to differ."""
    return make_topic_documents(
        400, 300, 12, n_classes=6, document_length=6, dtype=np.float64, random_state=0,
        return_X_y=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def texts():
    """Return raw texts of three topics and their labels, with a word that only one text has."""
    rng = np.random.RandomState(0)
    words = np.array([[f"{topic}{i}" for i in range(12)] for topic in "abc"])
    labels = np.arange(90) % 3
    drawn = [
        [*rng.choice(words[label], 4), *rng.choice(words.ravel(), 4), f"only{place}"]
        for place, label in enumerate(labels)
    ]
    return [" ".join(text) for text in drawn], np.array(["x", "y", "z"])[labels]


def build(estimator=None, **parameters):
    estimator = SparseExpertClassifier(12, random_state=0) if estimator is None else estimator
    return TopKSearchCV(estimator, **{"top_ks": TOP_KS, "cv": 3, **parameters})


def build_text_pipeline(**parameters):
    return make_pipeline(CountVectorizer(), SparseExpertClassifier(random_state=0, **parameters))


class Counted(TransformerMixin, BaseEstimator):
    """Transformer without fitted attributes that keeps the length of what it transforms."""

    lengths = []

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        self.lengths.append(X.shape[0])
        return X


def score_folds(documents, folds, scorer=None, weight=None):
    """Scores (n_splits, n_levels) of separate predictions, by plain loops."""
    X, y = documents
    scores = []
    for train, test in folds:
        model = SparseExpertClassifier(12, top_k=8, random_state=0)
        model.fit(X[train], y[train], None if weight is None else weight[train])
        test_weight = None if weight is None else weight[test]
        scores.append(
            [
                model.set_params(top_k=k).score(X[test], y[test], test_weight)
                if scorer is None
                else scorer(model.set_params(top_k=k), X[test], y[test])
                for k in TOP_KS
            ]
        )
    return np.array(scores)


# What the checks of scikit-learn leave out as sample_weight is not in the signature of fit.
WEIGHT_CHECKS = (
    checks.check_classifiers_one_label_sample_weights,
    checks.check_sample_weight_equivalence_on_dense_data,
    checks.check_sample_weight_equivalence_on_sparse_data,
    checks.check_sample_weights_list,
    checks.check_sample_weights_not_an_array,
    checks.check_sample_weights_not_overwritten,
    checks.check_sample_weights_pandas_series,
    checks.check_sample_weights_shape,
)


def conformance_checks():
    # The checks set the random_state of the search, not that of the estimator in it.
    classifier = SparseExpertClassifier(random_state=0)
    for variant, search in {
        "defaults": TopKSearchCV(classifier),
        "another scorer": TopKSearchCV(classifier, cv=2, scoring="f1_micro", selection="best"),
        "pipeline": TopKSearchCV(make_pipeline(MaxAbsScaler(), classifier), cv=2),
    }.items():
        for copy, check in estimator_checks_generator(search):
            name = check.func.__name__
            if name != "check_array_api_input":  # test_common runs it in a process of its own
                options = [str(value) for value in check.keywords.values()]
                yield pytest.param(copy, check, id="-".join([variant, name, *options]))


@pytest.mark.parametrize(("estimator", "check"), list(conformance_checks()))
def test_the_search_passes_every_check_of_scikit_learn(estimator, check):
    check(estimator)


# As in test_common: scikit-learn's own transformers warn in these checks as well.
@pytest.mark.filterwarnings("ignore:X (does not have valid|has) feature names")
@pytest.mark.parametrize("check", FURTHER_CHECKS + WEIGHT_CHECKS, ids=lambda c: c.__name__)
def test_the_search_passes_the_checks_that_check_estimator_leaves_out(check):
    check("TopKSearchCV", TopKSearchCV(SparseExpertClassifier(random_state=0)))


def test_parameters_of_the_estimator_are_those_of_its_steps():
    search = build(make_pipeline(CountVectorizer(), SparseExpertClassifier()))
    search.set_params(
        estimator__countvectorizer__binary=True, estimator__sparseexpertclassifier__alpha=3.0
    )
    parameters = search.get_params()
    assert parameters["estimator__sparseexpertclassifier__alpha"] == 3.0
    assert search.estimator[0].binary
    copy = clone(search)
    assert copy.estimator is not search.estimator
    assert copy.get_params()["estimator__sparseexpertclassifier__alpha"] == 3.0
    assert "SparseExpertClassifier" in copy._repr_html_()


def test_every_level_gets_the_score_of_a_separate_prediction(documents):
    folds = list(StratifiedKFold(3).split(*documents))
    search = build().fit(*documents)
    expected = score_folds(documents, folds)
    assert len(np.unique(expected)) > 4
    assert_array_equal(search.scores_, expected)
    assert_array_equal(search.top_ks_, TOP_KS)
    for i, row in enumerate(expected):
        assert_array_equal(search.cv_results_[f"split{i}_test_score"], row)


def test_the_largest_level_gets_what_grid_search_gets(documents):
    grid = GridSearchCV(
        SparseExpertClassifier(12, top_k=8, random_state=0), {"top_k": [8]}, cv=3
    ).fit(*documents)
    results = build().fit(*documents).cv_results_
    assert results["mean_test_score"][-1] == grid.cv_results_["mean_test_score"][0]
    assert results["std_test_score"][-1] == grid.cv_results_["std_test_score"][0]


def test_results_have_the_keys_and_types_of_grid_search(documents):
    grid = GridSearchCV(SparseExpertClassifier(12), {"top_k": TOP_KS}, cv=3).fit(*documents)
    search = build().fit(*documents)
    assert search.cv_results_.keys() >= grid.cv_results_.keys()
    for key, theirs in grid.cv_results_.items():
        mine = search.cv_results_[key]
        assert type(mine) is type(theirs), key
        if key != "params":
            assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape), key
    assert search.cv_results_["params"] == grid.cv_results_["params"]
    assert_array_equal(search.cv_results_["param_top_k"], grid.cv_results_["param_top_k"])
    assert {len(column) for column in search.cv_results_.values()} == {len(TOP_KS)}
    assert len(pd.DataFrame(search.cv_results_)) == len(TOP_KS)


def test_the_refit_model_is_that_of_the_largest_level_set_to_the_chosen_one(documents):
    X, y = documents
    search = build().fit(X, y)
    plain = SparseExpertClassifier(12, top_k=8, random_state=0).fit(X, y)
    assert_same_model(search.best_estimator_, plain)
    plain.set_params(top_k=search.top_k_)
    for method in ("predict", "predict_proba", "predict_log_proba", "decision_function"):
        assert_array_equal(getattr(search, method)(X), getattr(plain, method)(X))
    assert_array_equal(search.transform(X).toarray(), plain.transform(X).toarray())
    assert_array_equal(search.predict_proba_path(X, TOP_KS), plain.predict_proba_path(X, TOP_KS))
    assert search.score(X, y) == plain.score(X, y)
    assert search.best_estimator_.top_k == search.top_k_
    assert search.best_params_ == {"top_k": search.top_k_}
    assert search.best_score_ == search.cv_results_["mean_test_score"][search.best_index_]
    assert_array_equal(search.classes_, plain.classes_)
    assert search.n_features_in_ == X.shape[1]


def test_the_best_level_is_that_of_rank_one_and_the_smaller_of_two():
    X, y = make_topic_documents(300, 200, 6, n_classes=3, random_state=0, return_X_y=True)
    search = build(selection="best", top_ks=(50, 3, 100)).set_params(estimator__n_experts=3)
    search.fit(X, y)
    assert_array_equal(search.top_ks_, [3, 50, 100])
    assert_array_equal(search.cv_results_["rank_test_score"], [1, 1, 1])
    assert (search.top_k_, search.best_index_) == (3, 0)


def test_the_paired_rule_equals_its_definition():
    hits = np.array([[1, 1, 1], [0, 1, 1], [1, 0, 1], [0, 0, 1], [1, 1, 0.0], [1, 1, 1]])
    loss, standard_error = compare_levels(hits, 2)
    for level in range(3):
        differences = hits[:, 2] - hits[:, level]
        assert_allclose(loss[level], differences.mean())
        assert_allclose(standard_error[level], differences.std(ddof=1) / np.sqrt(6))


def test_a_weight_in_the_paired_rule_is_a_repetition():
    rng = np.random.RandomState(0)
    hits, weights = rng.randint(2, size=(20, 3)).astype(float), rng.randint(4, size=20)
    weighted = compare_levels(hits, 1, weights.astype(float))
    for mine, theirs in zip(
        weighted, compare_levels(hits.repeat(weights, axis=0), 1), strict=True
    ):
        assert_allclose(mine, theirs, rtol=1e-12, atol=1e-15)


def test_a_single_observation_has_no_standard_error_and_the_best_level_is_chosen():
    loss, standard_error = compare_levels(np.array([[0.5, 0.7, 0.6]]), 1)
    assert_array_equal(standard_error, 0)
    assert choose_level(loss, standard_error, 1, "one_standard_error") == 1


@pytest.mark.parametrize(
    ("loss", "selection", "expected"),
    [
        ([0.03, 0.02, 0.0, 0.01], "one_standard_error", 1),
        ([0.03, 0.02, 0.0, 0.01], "best", 2),
        ([0.03, 0.021, 0.0, 0.0], "one_standard_error", 2),
        ([0.0, 0.02, 0.0, 0.01], "one_standard_error", 0),
    ],
)
def test_the_smallest_level_within_one_standard_error_is_chosen(loss, selection, expected):
    standard_error = np.array([0.02, 0.02, 0.0, 0.02])
    assert choose_level(np.array(loss), standard_error, 2, selection) == expected


def test_without_a_scorer_the_log_loss_takes_part_in_the_choice(documents):
    X, y = documents
    by_both, by_accuracy = build().fit(X, y), build(scoring="accuracy").fit(X, y)
    assert_array_equal(by_both.scores_, by_accuracy.scores_)
    losses = np.empty((len(y), len(TOP_KS)))
    for train, test in StratifiedKFold(3).split(X, y):
        model = SparseExpertClassifier(12, top_k=8, random_state=0).fit(X[train], y[train])
        for j, k in enumerate(TOP_KS):
            found = model.set_params(top_k=k).predict_proba(X[test])
            losses[test, j] = -np.log(found[np.arange(len(test)), y[test]])
    accurate = (
        by_both.cv_results_["mean_paired_loss"] <= (by_both.cv_results_["std_error_paired_loss"])
    )
    least = np.flatnonzero(accurate)[losses.mean(axis=0)[accurate].argmin()]
    differences = losses - losses[:, [least]]
    error = differences.std(axis=0, ddof=1) / np.sqrt(len(y))
    good = accurate & (differences.mean(axis=0) <= error)
    assert by_both.best_index_ == np.argmax(good) > by_accuracy.best_index_


def test_the_accuracy_is_compared_sample_by_sample(documents):
    X, y = documents
    search = build(scoring="accuracy").fit(X, y)
    hits = np.empty((len(y), len(TOP_KS)))
    for train, test in StratifiedKFold(3).split(X, y):
        model = SparseExpertClassifier(12, top_k=8, random_state=0).fit(X[train], y[train])
        for j, k in enumerate(TOP_KS):
            hits[test, j] = model.set_params(top_k=k).predict(X[test]) == y[test]
    best = np.argmin(search.cv_results_["rank_test_score"])
    differences = hits[:, [best]] - hits
    error = differences.std(axis=0, ddof=1) / np.sqrt(len(y))
    assert_allclose(search.cv_results_["mean_paired_loss"], differences.mean(axis=0), atol=1e-15)
    assert_allclose(search.cv_results_["std_error_paired_loss"], error)
    assert search.best_index_ == np.flatnonzero(differences.mean(axis=0) <= error)[0]


def test_a_sample_that_is_held_out_several_times_counts_once(documents):
    X, y = documents
    once = build(cv=StratifiedKFold(3)).fit(X, y)
    folds = list(StratifiedKFold(3).split(X, y))
    twice = build(cv=folds + folds).fit(X, y)
    for name in ("mean_paired_loss", "std_error_paired_loss"):
        assert_allclose(twice.cv_results_[name], once.cv_results_[name], atol=1e-15)


def test_another_scorer_is_compared_fold_by_fold(documents):
    search = build(scoring="neg_log_loss", selection="best").fit(*documents)
    folds = list(StratifiedKFold(3).split(*documents))
    expected = score_folds(
        documents, folds, lambda model, X, y: -log_loss(y, model.predict_proba(X))
    )
    assert_allclose(search.scores_, expected, rtol=1e-12)
    best = expected.mean(axis=0).argmax()
    assert search.top_k_ == TOP_KS[best]
    differences = expected[:, [best]] - expected
    error = differences.std(axis=0, ddof=1) / np.sqrt(3)
    assert_allclose(search.cv_results_["std_error_paired_loss"], error)
    X, y = documents
    assert_allclose(search.score(X, y), -log_loss(y, search.predict_proba(X)))


@pytest.mark.parametrize(
    "scoring",
    [
        "f1_macro",
        "roc_auc_ovr",
        "top_k_accuracy",
        make_scorer(log_loss, response_method="predict_proba", greater_is_better=False),
        lambda estimator, X, y: -estimator.transform(X).nnz,
    ],
    ids=["f1_macro", "roc_auc_ovr", "top_k_accuracy", "make_scorer", "callable"],
)
def test_any_scorer_is_accepted(documents, scoring):
    search = build(scoring=scoring).fit(*documents)
    assert search.scores_.shape == (3, 4)
    assert np.isfinite(search.scores_).all()


def test_a_score_that_is_not_a_number_is_refused(documents):
    with pytest.raises(ValueError, match=r"scoring=.*not a number on fold 1"):
        build(scoring=lambda estimator, X, y: np.nan).fit(*documents)


def test_accuracy_by_name_is_the_default(documents):
    by_name = build(scoring="accuracy").fit(*documents)
    default = build().fit(*documents)
    for name in ("mean_test_score", "mean_paired_loss", "std_error_paired_loss"):
        assert_array_equal(by_name.cv_results_[name], default.cv_results_[name])


def test_sample_weights_are_used_in_fits_and_scores(documents):
    X, y = documents
    weight = np.random.RandomState(0).uniform(0.5, 2.0, size=len(y))
    search = build().fit(X, y, sample_weight=weight)
    folds = list(StratifiedKFold(3).split(X, y))
    assert_allclose(search.scores_, score_folds(documents, folds, weight=weight), rtol=1e-12)
    plain = SparseExpertClassifier(12, top_k=8, random_state=0).fit(X, y, weight)
    assert_same_model(search.best_estimator_, plain)


def test_groups_reach_the_splitter(documents):
    X, y = documents
    groups = np.arange(len(y)) % 7
    search = build(cv=GroupKFold(3)).fit(X, y, groups=groups)
    folds = list(GroupKFold(3).split(X, y, groups))
    assert_array_equal(search.scores_, score_folds(documents, folds))
    with pytest.raises(ValueError, match="groups"):
        build(cv=GroupKFold(3)).fit(X, y)


def test_other_metadata_is_refused_without_routing(documents):
    with pytest.raises(TypeError, match="sample_weights"):
        build().fit(*documents, sample_weights=np.ones(400))


def test_metadata_is_routed_to_estimator_splitter_and_scorer(documents):
    X, y = documents
    groups, weight = np.arange(len(y)) % 5, np.linspace(0.5, 2.0, len(y))
    folds = list(GroupKFold(3).split(X, y, groups))
    expected = score_folds(documents, folds, weight=weight)
    with sklearn.config_context(enable_metadata_routing=True):
        classifier = SparseExpertClassifier(12, random_state=0).set_fit_request(sample_weight=True)
        scorer = make_scorer(accuracy_score).set_score_request(sample_weight=True)
        by_scorer = build(classifier, cv=GroupKFold(3), scoring=scorer)
        by_scorer.fit(X, y, sample_weight=weight, groups=groups)
        assert by_scorer.score(X, y, sample_weight=weight) == by_scorer.best_estimator_.score(
            X, y, sample_weight=weight
        )
        classifier.set_score_request(sample_weight=True)
        by_default = build(classifier, cv=GroupKFold(3))
        by_default.fit(X, y, sample_weight=weight, groups=groups)
        by_default.score(X, y, sample_weight=weight)
    assert_allclose(by_scorer.scores_, expected, rtol=1e-12)
    assert_allclose(by_default.scores_, expected, rtol=1e-12)


def test_weights_that_nobody_requests_are_refused_with_routing(documents):
    X, y = documents
    with sklearn.config_context(enable_metadata_routing=True):
        with pytest.raises(UnsetMetadataPassedError, match="sample_weight"):
            build().fit(X, y, sample_weight=np.ones(len(y)))


@pytest.mark.parametrize("in_scores", [True, False])
def test_metadata_is_routed_through_a_pipeline_under_any_name(documents, in_scores):
    X, y = documents
    weight = np.linspace(0.5, 2.0, len(y))
    expected = build().fit(X, y, sample_weight=weight)
    with sklearn.config_context(enable_metadata_routing=True):
        classifier = SparseExpertClassifier(12, random_state=0)
        classifier.set_fit_request(sample_weight="importance")
        classifier.set_score_request(sample_weight="importance" if in_scores else False)
        search = build(make_pipeline(FunctionTransformer(), classifier))
        search.fit(X, y, importance=weight)
    assert_same_model(search.best_estimator_[-1], expected.best_estimator_)
    assert np.array_equal(search.scores_, expected.scores_) is in_scores


def test_validation_texts_go_through_a_pipeline_with_routing(texts):
    X, y = texts
    with sklearn.config_context(enable_metadata_routing=True):
        classifier = SparseExpertClassifier(random_state=0, max_iter=2)
        classifier.set_fit_request(X_val=True, y_val=True)
        pipeline = make_pipeline(CountVectorizer(), classifier, transform_input=["X_val"])
        search = build(pipeline, top_ks=(1, 2)).fit(X, y, X_val=X[:30], y_val=y[:30])
    assert len(search.best_estimator_[-1].validation_scores_) == 2


def test_sample_weights_and_step_parameters_reach_the_classifier_of_a_pipeline(documents):
    X, y = documents
    weight = np.random.RandomState(0).uniform(0.5, 2.0, size=len(y))
    expected = build().fit(X, y, sample_weight=weight)
    classifier = SparseExpertClassifier(12, random_state=0)
    for pipeline, prefix in (
        (make_pipeline(FunctionTransformer(), classifier), "sparseexpertclassifier__"),
        (
            make_pipeline(FunctionTransformer(), make_pipeline("passthrough", classifier)),
            "pipeline__sparseexpertclassifier__",
        ),
    ):
        search = build(pipeline).fit(X, y, sample_weight=weight)
        assert_array_equal(search.scores_, expected.scores_)
        assert_array_equal(
            search.cv_results_["mean_paired_loss"], expected.cv_results_["mean_paired_loss"]
        )
        assert_array_equal(search.predict_proba(X), expected.predict_proba(X))
        # Under the name of the step the weights reach the fits and not the scores.
        search.fit(X, y, **{f"{prefix}sample_weight": weight})
        assert_array_equal(search.predict_proba(X), expected.predict_proba(X))
        assert not np.array_equal(search.scores_, expected.scores_)
        with pytest.raises(ValueError, match="sample_weights"):
            search.fit(X, y, sample_weights=weight)


def test_a_scorer_that_takes_no_weights_is_used_without_them(documents):
    X, y = documents
    weight = np.linspace(0.5, 2.0, len(y))
    search = build(scoring=lambda estimator, X, y: estimator.score(X, y))
    with pytest.warns(UserWarning, match="does not take sample_weight"):
        search.fit(X, y, sample_weight=weight)
    plain = SparseExpertClassifier(12, top_k=8, random_state=0).fit(X, y, weight)
    assert_same_model(search.best_estimator_, plain)


def test_held_out_samples_that_all_have_no_weight_are_refused(documents):
    X, y = documents
    weight = np.ones(len(y))
    weight[:50] = 0
    folds = [(np.arange(50, 400), np.arange(50))]
    with pytest.raises(ValueError, match="sample_weight is zero for all held-out samples"):
        build(cv=folds).fit(X, y, sample_weight=weight)


@pytest.mark.parametrize(
    "cv",
    [
        2,
        KFold(3, shuffle=True, random_state=0),
        ShuffleSplit(2, random_state=0),
        ShuffleSplit(1, random_state=0),
        RepeatedStratifiedKFold(n_splits=2, n_repeats=2, random_state=0),
    ],
    ids=str,
)
def test_any_splitter_is_accepted(documents, cv):
    search = build(cv=cv).fit(*documents)
    assert search.n_splits_ == len(search.scores_)
    assert search.top_k_ in TOP_KS


def test_parallel_folds_give_the_same_result(documents):
    sequential, parallel = (build(n_jobs=n_jobs).fit(*documents) for n_jobs in (1, 2))
    assert_array_equal(sequential.scores_, parallel.scores_)
    assert_same_model(sequential.best_estimator_, parallel.best_estimator_)


def test_the_last_fit_has_the_threads_of_the_estimator_and_parallel_folds_one(documents):
    seen = []

    def score(estimator, X, y):
        seen.append(estimator.n_jobs)
        return estimator.score(X, y)

    classifier = SparseExpertClassifier(12, random_state=0, n_jobs=2)
    for n_jobs, in_folds in ((1, 2), (2, 1)):
        seen.clear()
        search = build(classifier, n_jobs=n_jobs, scoring=score).fit(*documents)
        assert set(seen) == {in_folds}
        assert search.best_estimator_.n_jobs == classifier.n_jobs == 2


def test_a_random_state_instance_gives_the_same_result_in_parallel(documents):
    searches = [
        build(
            SparseExpertClassifier(12, random_state=np.random.RandomState(3)), n_jobs=n_jobs
        ).fit(*documents)
        for n_jobs in (1, 2)
    ]
    assert_array_equal(searches[0].scores_, searches[1].scores_)
    assert_same_model(searches[0].best_estimator_, searches[1].best_estimator_)


def test_multilabel_targets_are_scored_by_their_whole_sets(documents):
    X, y = documents
    labels = np.eye(6, dtype=int)[y]
    labels[y == 0, 1] = 1
    search = build(cv=KFold(3)).fit(X, labels)
    folds = list(KFold(3).split(X))
    assert_array_equal(search.scores_, score_folds((X, labels), folds))
    assert search.predict(X).shape == labels.shape


def test_labels_of_any_type_and_frames_are_accepted(documents):
    X, y = documents
    names = np.array([f"class {label}" for label in y])
    frame = pd.DataFrame(X.toarray(), columns=[f"term {j}" for j in range(X.shape[1])])
    search = build().fit(frame, pd.Series(names))
    assert_array_equal(search.scores_, build().fit(X, names).scores_)
    assert_array_equal(search.feature_names_in_, frame.columns)
    assert set(search.predict(frame)) <= set(names)
    search.fit(X, names)
    assert not hasattr(search, "feature_names_in_")


def test_a_class_may_be_missing_from_a_fold(documents):
    X, y = documents
    order = np.argsort(y, kind="stable")
    search = build(cv=KFold(6)).fit(X[order], y[order])
    assert len(search.classes_) == 6
    assert_array_equal(search.best_estimator_.classes_, search.classes_)


def test_without_refit_there_are_results_but_no_predictions(documents):
    X, y = documents
    search = build(refit=False).fit(X, y)
    assert_array_equal(search.scores_, build().fit(X, y).scores_)
    assert search.top_k_ in TOP_KS
    for name in ("best_estimator_", "refit_time_", "classes_", "n_features_in_", "predict"):
        assert not hasattr(search, name)
    with pytest.raises(AttributeError, match="predict"):
        search.predict(X)


def test_an_unfitted_search_says_so(documents):
    with pytest.raises(NotFittedError, match="TopKSearchCV"):
        build().predict_proba_path(documents[0], [1])


@pytest.mark.parametrize("top_ks", [[], [0, 1], [-1], [2.5], [True, False], "many", [[1, 2]]])
def test_levels_that_are_no_positive_integers_are_refused(documents, top_ks):
    with pytest.raises(ValueError, match="top_ks"):
        build(top_ks=top_ks).fit(*documents)


def test_a_fit_that_fails_leaves_the_search_as_it_was(documents):
    X, y = documents
    search = build().fit(X, y)
    before = dict(vars(search))
    with pytest.raises(ValueError, match="NaN"):
        search.fit(np.full((30, 4), np.nan), np.arange(30) % 3)
    assert vars(search) == before
    assert search.predict(X).shape == y.shape


def by_skops(search):
    trusted = [
        "skparse._classifier.SparseExpertClassifier",
        "skparse.model_selection.TopKSearchCV",
    ]
    dumped = skops.io.dumps(search)
    assert set(skops.io.get_untrusted_types(data=dumped)) <= set(trusted)
    return skops.io.loads(dumped, trusted=trusted)


def by_joblib(search, path):
    joblib.dump(search, path)
    return joblib.load(path)


def test_a_saved_search_predicts_the_same(texts, tmp_path):
    X, y = texts
    search = build(build_text_pipeline()).fit(X, y)
    for restored in (
        pickle.loads(pickle.dumps(search)),
        by_joblib(search, tmp_path / "search.joblib"),
        by_skops(search),
    ):
        assert_array_equal(restored.predict_proba(X), search.predict_proba(X))
        assert restored.top_k_ == search.top_k_
        assert_array_equal(
            restored.cv_results_["rank_test_score"], search.cv_results_["rank_test_score"]
        )


def test_the_search_works_inside_a_pipeline_and_another_cross_validation(documents):
    X, y = documents
    pipeline = make_pipeline(FunctionTransformer(), build(cv=2))
    scores = cross_val_score(pipeline, X, y, cv=2, error_score="raise")
    assert scores.min() > 0.3
    assert clone(pipeline).fit(X, y)[-1].top_k_ in TOP_KS


@pytest.mark.parametrize("n_val", [100, 300], ids=["fewer", "as many as samples"])
def test_validation_samples_reach_every_fit_whole(documents, n_val):
    X, y = documents
    held_out = {"X_val": X[-n_val:], "y_val": y[-n_val:]}
    seen = []

    def score(estimator, X, y):
        seen.append(estimator.validation_scores_[-1])
        return estimator.score(X, y)

    search = build(
        SparseExpertClassifier(12, random_state=0, max_iter=2), top_ks=(8,), scoring=score
    )
    search.fit(X[:300], y[:300], **held_out)
    assert len(search.best_estimator_.validation_scores_) == 2
    folds = StratifiedKFold(3).split(X[:300], y[:300])
    expected = [
        SparseExpertClassifier(12, top_k=8, random_state=0, max_iter=2)
        .fit(X[train], y[train], **held_out)
        .validation_scores_[-1]
        for train, _ in folds
    ]
    assert seen == expected


def test_verbose_prints_a_line_for_every_fold(documents, capsys):
    build(verbose=1).fit(*documents)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["Fold 1/3", "Fold 2/3", "Fold 3/3"]
    build().fit(*documents)
    assert capsys.readouterr().out == ""


def test_a_pipeline_is_fitted_to_raw_texts_in_each_fold(texts):
    X, y = texts
    vocabularies = []

    def score(estimator, X, y):
        assert isinstance(X[0], str)
        vocabularies.append(set(estimator[0].vocabulary_))
        return estimator.score(X, y)

    build(build_text_pipeline(), scoring=score, top_ks=(1,)).fit(X, y)
    folds = list(StratifiedKFold(3).split(X, y))
    assert vocabularies == [
        {word for place in train for word in X[place].split()} for train, _ in folds
    ]


def test_every_level_of_a_pipeline_gets_the_score_of_a_separate_evaluation(texts):
    X, y = texts
    search = build(build_text_pipeline(n_experts=6)).fit(X, y)
    expected = []
    for train, test in StratifiedKFold(3).split(X, y):
        pipeline = build_text_pipeline(n_experts=6, top_k=8)
        pipeline.fit([X[i] for i in train], y[train])
        expected.append(
            [
                pipeline.set_params(sparseexpertclassifier__top_k=k).score(
                    [X[i] for i in test], y[test]
                )
                for k in TOP_KS
            ]
        )
    assert_array_equal(search.scores_, expected)
    by_name = build(build_text_pipeline(n_experts=6), scoring="neg_log_loss").fit(X, y)
    pipeline = build_text_pipeline(n_experts=6, top_k=8)
    losses = cross_val_score(pipeline, X, y, scoring="neg_log_loss", cv=3)
    assert_array_equal(by_name.scores_[:, -1], losses)


@pytest.mark.parametrize("kind", [list, np.array, pd.Series], ids=lambda kind: kind.__name__)
def test_texts_may_come_in_any_sequence(texts, kind):
    X, y = texts
    expected = build(build_text_pipeline()).fit(X, y)
    search = build(build_text_pipeline()).fit(kind(X), kind(y))
    assert_array_equal(search.scores_, expected.scores_)
    assert_array_equal(search.predict(kind(X)), expected.predict(X))


def test_a_frame_may_have_a_column_of_texts(texts):
    X, y = texts
    frame = pd.DataFrame({"text": X, "length": [len(text) for text in X]})
    columns = make_column_transformer(
        (CountVectorizer(), "text"), (MaxAbsScaler(), ["length"]), sparse_threshold=1.0
    )
    search = build(make_pipeline(columns, SparseExpertClassifier(random_state=0)))
    search.fit(frame, y)
    assert search.score(frame, y) > 0.9
    assert search.feature_names_in_.tolist() == ["text", "length"]
    assert search.n_features_in_ == 2
    of_texts = build(build_text_pipeline()).fit(X, y)
    for name in ("n_features_in_", "feature_names_in_"):  # a vectorizer has neither
        assert not hasattr(of_texts, name)


@pytest.mark.parametrize("container", [sparse.coo_matrix, sparse.csc_array, sparse.bsr_array])
def test_any_sparse_container_is_accepted(documents, container):
    X, y = documents
    search = build().fit(container(X), y)
    assert_array_equal(search.scores_, build().fit(X, y).scores_)


@pytest.mark.parametrize(
    ("build_estimator", "prefix"),
    [
        (lambda last: last, ""),
        (lambda last: make_pipeline(FunctionTransformer(), last), "sparseexpertclassifier__"),
        (
            lambda last: make_pipeline(FunctionTransformer(), make_pipeline(MaxAbsScaler(), last)),
            "pipeline__sparseexpertclassifier__",
        ),
        (lambda last: make_pipeline(last), "sparseexpertclassifier__"),
    ],
    ids=["classifier", "pipeline", "nested pipelines", "pipeline of one step"],
)
def test_results_have_the_name_by_which_the_estimator_sets_top_k(
    documents, build_estimator, prefix
):
    X, y = documents
    estimator = build_estimator(SparseExpertClassifier(12, random_state=0))
    search = build(estimator).fit(X, y)
    assert search.best_params_ == {f"{prefix}top_k": search.top_k_}
    results = search.cv_results_
    assert results["params"] == [{f"{prefix}top_k": k} for k in TOP_KS]
    assert_array_equal(results[f"param_{prefix}top_k"], TOP_KS)
    assert search.best_estimator_.get_params()[f"{prefix}top_k"] == search.top_k_
    path = search.predict_proba_path(X, TOP_KS)
    assert_allclose(path[search.best_index_], search.predict_proba(X), rtol=1e-12)
    assert search.transform(X).shape == (len(y), 12)
    assert len(search.get_feature_names_out()) == 12
    estimator.set_params(**search.best_params_)
    assert estimator.get_params()[f"{prefix}top_k"] == search.top_k_


@pytest.mark.parametrize("scoring", [None, "neg_log_loss"])
def test_the_transformers_run_once_per_fold(documents, scoring):
    X, y = documents
    Counted.lengths.clear()
    pipeline = make_pipeline(Counted(), SparseExpertClassifier(12, random_state=0))
    build(pipeline, scoring=scoring, refit=False).fit(X, y)
    lengths = [len(part) for fold in StratifiedKFold(3).split(X, y) for part in fold]
    assert Counted.lengths == lengths


def test_the_estimator_of_the_user_does_not_change(texts):
    X, y = texts
    pipeline = build_text_pipeline(top_k=5).fit(X[:30], y[:30])
    vocabulary, before = dict(pipeline[0].vocabulary_), pipeline.predict_proba(X)
    search = build(pipeline).fit(X, y)
    assert search.estimator is pipeline
    assert pipeline[-1].top_k == 5
    assert pipeline[0].vocabulary_ == vocabulary
    assert_array_equal(pipeline.predict_proba(X), before)
    assert search.best_estimator_ is not pipeline


@pytest.mark.parametrize(
    "estimator",
    [
        LogisticRegression(),
        make_pipeline(TfidfVectorizer(), LogisticRegression()),
        make_pipeline(SparseExpertClassifier(), "passthrough"),
        TopKSearchCV(SparseExpertClassifier()),
        SparseExpertClassifier,
    ],
    ids=["linear", "pipeline of another", "not the last step", "search", "class"],
)
def test_an_estimator_without_sparsity_levels_is_refused(documents, estimator):
    with pytest.raises(TypeError, match="estimator has to be a SparseExpertClassifier or a Pipel"):
        build(estimator).fit(*documents)
    with pytest.raises(ValueError, match="'estimator' parameter of TopKSearchCV"):
        build("SparseExpertClassifier").fit(*documents)


def test_parameters_of_the_estimator_are_validated(documents):
    with pytest.raises(ValueError, match="'alpha' parameter of SparseExpertClassifier must be"):
        build(SparseExpertClassifier(alpha=-1)).fit(*documents)


@pytest.mark.parametrize("score", [{"accuracy": 1.0}, "high", np.ones(2)], ids=repr)
def test_a_score_that_is_not_one_number_is_refused(documents, score):
    with pytest.raises(ValueError, match="has to return a number"):
        build(scoring=lambda estimator, X, y: score).fit(*documents)


def test_folds_may_be_masks_and_have_to_be_there(documents):
    X, y = documents
    places = np.arange(len(y))
    masks = [(places % 3 != i, places % 3 == i) for i in range(3)]
    search = build(cv=masks).fit(X, y)
    indices = [(np.flatnonzero(train), np.flatnonzero(test)) for train, test in masks]
    assert_array_equal(search.scores_, score_folds(documents, indices))
    with pytest.raises(ValueError, match="no folds"):
        build(cv=[]).fit(X, y)
