"""Choosing K: one fit per fold gives what a search over separate predictions gives."""

import inspect
import pickle

import numpy as np
import pandas as pd
import pytest
import sklearn
from fitted_models import assert_same_model
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
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
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import estimator_checks_generator
from test_common import FURTHER_CHECKS

from skparse import SparseExpertClassifier
from skparse._level_choice import choose_level, compare_levels
from skparse.datasets import make_topic_documents
from skparse.model_selection import SparseExpertClassifierCV

TOP_KS = (1, 2, 4, 8)


@pytest.fixture(scope="module")
def documents():
    """Return documents that are hard enough for the levels to differ."""
    return make_topic_documents(
        400, 300, 12, n_classes=6, document_length=6, dtype=np.float64, random_state=0,
        return_X_y=True,
    )  # fmt: skip


def build(**parameters):
    return SparseExpertClassifierCV(
        **{"top_ks": TOP_KS, "cv": 3, "n_experts": 12, "random_state": 0, **parameters}
    )


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


def conformance_checks():
    for variant, parameters in {
        "defaults": {},
        "another scorer": {"cv": 2, "scoring": "f1_micro", "selection": "best"},
    }.items():
        for copy, check in estimator_checks_generator(SparseExpertClassifierCV(**parameters)):
            name = check.func.__name__
            if name != "check_array_api_input":  # test_common runs it in a process of its own
                options = [str(value) for value in check.keywords.values()]
                yield pytest.param(copy, check, id="-".join([variant, name, *options]))


@pytest.mark.parametrize(("estimator", "check"), list(conformance_checks()))
def test_the_search_passes_every_check_of_scikit_learn(estimator, check):
    check(estimator)


# As in test_common: scikit-learn's own transformers warn in these checks as well.
@pytest.mark.filterwarnings("ignore:X (does not have valid|has) feature names")
@pytest.mark.parametrize("check", FURTHER_CHECKS, ids=lambda check: check.__name__)
def test_the_search_passes_the_checks_that_check_estimator_leaves_out(check):
    check("SparseExpertClassifierCV", SparseExpertClassifierCV())


def test_parameters_and_defaults_are_those_of_the_classifier():
    of_search, of_classifier = (
        {name: p.default for name, p in inspect.signature(cls).parameters.items()}
        for cls in (SparseExpertClassifierCV, SparseExpertClassifier)
    )
    shared = of_classifier.keys() - {"top_k", "warm_start"}
    assert {name: of_search[name] for name in shared} == {
        name: of_classifier[name] for name in shared
    }
    added = {"top_ks", "cv", "scoring", "refit", "selection"}
    assert of_search.keys() - shared == added


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
    assert search.n_iter_ == plain.n_iter_


def test_the_best_level_is_that_of_rank_one_and_the_smaller_of_two():
    search = build(selection="best")
    X, y = make_topic_documents(300, 200, 6, n_classes=3, random_state=0, return_X_y=True)
    search.set_params(top_ks=(50, 3, 100), n_experts=3).fit(X, y)
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


def test_the_accuracy_is_compared_sample_by_sample(documents):
    X, y = documents
    search = build().fit(X, y)
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
    with pytest.raises(ValueError, match="sample_weights"):
        build().fit(*documents, sample_weights=np.ones(400))


def test_metadata_is_routed_to_splitter_and_scorer(documents):
    X, y = documents
    groups, weight = np.arange(len(y)) % 5, np.linspace(0.5, 2.0, len(y))
    with sklearn.config_context(enable_metadata_routing=True):
        scorer = make_scorer(accuracy_score).set_score_request(sample_weight=True)
        search = build(cv=GroupKFold(3), scoring=scorer)
        search.fit(X, y, sample_weight=weight, groups=groups)
        by_default = build(cv=GroupKFold(3)).fit(X, y, sample_weight=weight, groups=groups)
    folds = list(GroupKFold(3).split(X, y, groups))
    expected = score_folds(documents, folds, weight=weight)
    assert_allclose(search.scores_, expected, rtol=1e-12)
    assert_allclose(by_default.scores_, expected, rtol=1e-12)


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
    assert parallel.best_estimator_.n_jobs == 2


def test_a_random_state_instance_gives_the_same_result_in_parallel(documents):
    searches = [
        build(random_state=np.random.RandomState(3), n_jobs=n_jobs).fit(*documents)
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
    assert not hasattr(search, "best_estimator_")
    assert not hasattr(search, "predict")
    with pytest.raises(AttributeError, match="predict"):
        search.predict(X)


def test_an_unfitted_search_says_so(documents):
    with pytest.raises(NotFittedError, match="SparseExpertClassifierCV"):
        build().predict_proba_path(documents[0], [1])


@pytest.mark.parametrize("top_ks", [[], [0, 1], [2.5], "many", [[1, 2]]])
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


def test_a_pickled_search_predicts_the_same(documents):
    X, y = documents
    search = build().fit(X, y)
    restored = pickle.loads(pickle.dumps(search))
    assert_array_equal(restored.predict_proba(X), search.predict_proba(X))
    assert restored.top_k_ == search.top_k_
    assert_array_equal(restored.cv_results_["rank_test_score"],
                       search.cv_results_["rank_test_score"])  # fmt: skip


def test_the_search_works_inside_a_pipeline_and_another_cross_validation(documents):
    X, y = documents
    pipeline = make_pipeline(FunctionTransformer(), build(cv=2))
    scores = cross_val_score(pipeline, X, y, cv=2, error_score="raise")
    assert scores.min() > 0.3
    assert clone(pipeline).fit(X, y)[-1].top_k_ in TOP_KS


def test_validation_samples_reach_every_fit(documents):
    X, y = documents
    search = build(max_iter=2).fit(X[:300], y[:300], X_val=X[300:], y_val=y[300:])
    assert len(search.best_estimator_.validation_scores_) == search.n_iter_


def test_verbose_prints_a_line_for_every_fold(documents, capsys):
    build(verbose=1).fit(*documents)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["Fold 1/3", "Fold 2/3", "Fold 3/3"]
    build().fit(*documents)
    assert capsys.readouterr().out == ""
