"""Contributions, explanations and top features equal slow twins, for every kind of input."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import reference
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris, make_classification
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfVectorizer
from sklearn.feature_selection import SelectFromModel, SelectKBest, chi2
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from skparse import SparseExpertClassifier
from skparse.datasets import make_topic_documents
from skparse.inspection import (
    _contributions,
    _explanation,
    explain,
    feature_contributions,
    feature_importances,
    top_features,
)


def documents(dtype=np.float64, n_classes=4):
    return make_topic_documents(
        300, 200, 2 * n_classes, n_classes=n_classes, dtype=dtype, random_state=0, return_X_y=True
    )


def fit_model(kind):
    """Return (fitted classifier, X) of one kind of model."""
    model = SparseExpertClassifier(random_state=0)
    if kind == "dense":
        X, y = make_classification(
            300, 12, n_informative=6, n_classes=3, shift=5.0, random_state=0
        )
        X[:, 3] = 7.0  # a constant column has no deviation
        return model.fit(X, y), X[:40]
    if kind == "dense float32":
        X, y = load_iris(return_X_y=True)
        return model.fit(X.astype(np.float32), y), X.astype(np.float32)[::5]
    X, y = documents(np.float32 if kind == "float32" else np.float64, 2 if kind == "two" else 4)
    if kind == "several experts":
        model.set_params(n_experts=12, top_k=4)
    elif kind == "few experts":
        model.set_params(n_experts=3)
    elif kind == "several labels":
        y = np.column_stack([y == 0, y % 2, y > 1]).astype(int)
    if kind == "stream":
        for part in (slice(None, 150), slice(150, None)):
            model.partial_fit(X[part], y[part], classes=np.arange(4))
    else:
        model.fit(X, y)
    if kind == "compressed":
        model = model.compress("int8")
    rows = X[:40].tolil()
    rows[3] = 0  # an empty text
    return model, sparse.csr_array(rows)


KINDS = [
    "float64", "float32", "two", "several experts", "few experts", "several labels", "stream",
    "compressed", "dense", "dense float32",
]  # fmt: skip


def slow_scores(model, X):
    """Router scores of all experts, with the loops of the reference."""
    X = sparse.csr_array(X)
    router = model.router_coef_
    arrays = [(m.indptr, m.indices, m.data) for m in (X, router)]
    rows = range(X.shape[0])
    return np.array(
        [reference.scores(arrays[0], i, arrays[1], model.router_intercept_) for i in rows]
    )


def best_of_class(model, scores, c):
    """Number of the best expert of a class for one sample."""
    outputs = model.expert_coef_.toarray()
    experts = [e for e in range(len(outputs)) if outputs[e].argmax() == c]
    if not experts:
        return int(outputs[:, c].argmax())
    return max(experts, key=lambda e: scores[e])


@pytest.mark.parametrize("kind", KINDS)
def test_contributions_add_up_to_the_score_of_the_best_expert(kind):
    model, X = fit_model(kind)
    contributions = feature_contributions(model, X)
    assert contributions.shape == (X.shape[0], X.shape[1] + 1)
    assert contributions.dtype == np.float64 and contributions.has_canonical_format
    scores = slow_scores(model, X)
    assert_allclose(contributions.sum(axis=1), scores.max(axis=1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_contributions_add_up_to_the_score_of_every_expert_and_class(kind):
    model, X = fit_model(kind)
    scores = slow_scores(model, X)
    for expert in range(model.n_experts_):
        sums = feature_contributions(model, X, target=expert).sum(axis=1)
        assert_allclose(sums, scores[:, expert], rtol=0, atol=1e-6)
    for c, label in enumerate(model.classes_):
        sums = feature_contributions(model, X, of="class", target=label).sum(axis=1)
        expected = [row[best_of_class(model, row, c)] for row in scores]
        assert_allclose(sums, expected, rtol=0, atol=1e-6)


def test_a_contribution_is_the_value_times_the_weight_and_the_bias_stands_last():
    model, X = fit_model("several experts")
    contributions = feature_contributions(model, X, target=5).toarray()
    weights = model.router_coef_.toarray()[:, 5]
    assert_allclose(contributions[:, :-1], X.toarray() * weights, rtol=1e-12)
    assert_allclose(contributions[:, -1], model.router_intercept_[5])


def test_contributions_of_dense_columns_are_those_of_the_distance_from_the_mean():
    model, X = fit_model("dense")
    contributions = feature_contributions(model, X, target=1).toarray()
    offset, weights = model._columns[0], model.router_coef_.toarray()[:, 1]
    assert_allclose(contributions[:, :-1], (X - offset) * weights, rtol=1e-9, atol=1e-12)


def test_differences_of_scores_are_the_logarithms_of_ratios_of_gate_weights():
    model, X = fit_model("several experts")
    codes = model.transform(X).toarray()
    sums = np.column_stack(
        [feature_contributions(model, X, target=e).sum(axis=1) for e in range(12)]
    )
    for code, row in zip(codes, sums, strict=True):
        kept = np.flatnonzero(code)
        if len(kept) > 1:
            a, b = kept[:2]
            assert_allclose(np.log(code[a] / code[b]), row[a] - row[b], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["float64", "dense"])
@pytest.mark.parametrize(
    "container",
    [
        np.asarray, sparse.csr_matrix, sparse.csc_array, sparse.coo_array, pd.DataFrame, list,
        lambda X: np.asarray(X, np.float32),
    ],
)  # fmt: skip
def test_every_container_gives_the_same(container, kind):
    model, X = fit_model(kind)
    dense = X.toarray() if sparse.issparse(X) else X
    expected = feature_contributions(model, X)
    given = container(dense.tolist() if container is list else dense)
    mine = feature_contributions(model, given)
    assert_allclose(mine.toarray(), expected.toarray(), rtol=1e-4, atol=1e-5)
    assert_allclose(mine.sum(axis=1), slow_scores(model, X).max(axis=1), atol=1e-4)
    assert explain(model, given)[0].predicted == explain(model, X)[0].predicted


def test_duplicated_and_unordered_entries_are_added_up():
    model, X = fit_model("float64")
    order = np.concatenate([np.arange(a, b)[::-1] for a, b in pairwise(X.indptr)])
    indices = np.repeat(X.indices[order], 2)
    parts = np.repeat(X.data[order] / 2, 2), indices, 2 * X.indptr
    messy = sparse.csr_array(parts, shape=X.shape)
    assert_allclose(
        feature_contributions(model, messy).toarray(), feature_contributions(model, X).toarray()
    )
    for mine, theirs in zip(explain(model, messy), explain(model, X), strict=True):
        assert [f.name for f in mine.features] == [f.name for f in theirs.features]
        assert_allclose([f[1:] for f in mine.features], [f[1:] for f in theirs.features])


@pytest.mark.parametrize("kind", ["several experts", "dense"])
def test_the_size_of_the_blocks_of_rows_changes_nothing(kind, monkeypatch):
    model, X = fit_model(kind)

    def inspect():
        by_of = [feature_contributions(model, X, of=of).toarray() for of in ("expert", "class")]
        return by_of, explain(model, X)

    expected, explanations = inspect()
    for module in (_contributions, _explanation):
        monkeypatch.setattr(module, "ROWS", 7)
    contributions, others = inspect()
    assert_allclose(contributions, expected, rtol=1e-9, atol=1e-12)
    for mine, theirs in zip(others, explanations, strict=True):
        assert [f.name for f in mine.features] == [f.name for f in theirs.features]
        assert mine.experts == theirs.experts and mine.predicted == theirs.predicted


def test_a_target_can_be_given_for_each_sample():
    model, X = fit_model("float64")
    targets = np.arange(40) % 4
    for of in ("expert", "class"):
        mine = feature_contributions(model, X, of=of, target=targets).toarray()
        for i, target in enumerate(targets):
            one = feature_contributions(model, X[[i]], of=of, target=target)
            assert_allclose(mine[i], one.toarray()[0])
    predicted = feature_contributions(model, X, of="class")
    given = feature_contributions(model, X, of="class", target=model.predict(X))
    assert_array_equal(predicted.toarray(), given.toarray())


def test_labels_that_are_names_are_targets():
    X, y = documents()
    model = SparseExpertClassifier(random_state=0).fit(X, np.array(["c", "a", "d", "b"])[y])
    sums = feature_contributions(model, X[:5], of="class", target="d").sum(axis=1)
    assert_allclose(sums, slow_scores(model, X[:5])[:, 3], atol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"of": "row"}, "of has to be 'expert' or 'class', got 'row'"),
        ({"target": 4}, "number of an expert, from 0 to 3"),
        ({"target": -1}, "number of an expert, from 0 to 3"),
        ({"target": 1.0}, "number of an expert"),
        ({"target": [0, 1]}, "one for each of the 40 samples"),
        ({"of": "class", "target": 9}, "is not a class"),
    ],
)
def test_targets_that_do_not_exist_are_refused(options, message):
    model, X = fit_model("float64")
    with pytest.raises(ValueError, match=message):
        feature_contributions(model, X, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_an_explanation_agrees_with_the_predictions_and_adds_up(kind):
    model, X = fit_model(kind)
    scores, probabilities = slow_scores(model, X), model.predict_proba(X)
    codes = sparse.csr_array(model.transform(X))
    for i, explanation in enumerate(explain(model, X, n_features=3)):
        first, second = np.argsort(-probabilities[i], kind="stable")[:2]
        assert explanation.predicted == model.classes_[first]
        assert explanation.runner_up == model.classes_[second]
        assert_allclose(explanation.probability, probabilities[i, first], rtol=1e-6)
        assert_allclose(explanation.runner_up_probability, probabilities[i, second], rtol=1e-6)
        expected = [scores[i, best_of_class(model, scores[i], c)] for c in (first, second)]
        assert_allclose(explanation.scores, expected, rtol=0, atol=1e-6)
        listed = np.array([f[2:] for f in explanation.features]).reshape(-1, 2).sum(axis=0)
        assert_allclose(listed + explanation.rest + explanation.bias, expected, atol=1e-6)
        differences = [abs(f.to_predicted - f.to_runner_up) for f in explanation.features]
        assert len(differences) <= 3 and differences == sorted(differences, reverse=True)
        row = codes[[i]].toarray()[0]
        assert {e.expert: e.weight for e in explanation.experts} == {
            int(e): float(row[e]) for e in np.flatnonzero(row)
        }
        weights = [e.weight for e in explanation.experts]
        assert weights == sorted(weights, reverse=True)
        for kept in explanation.experts:
            assert kept.votes_for == model.classes_[model.expert_coef_[[kept.expert]].argmax()]
            assert_allclose(kept.score, scores[i, kept.expert], atol=1e-6)


def test_the_value_of_a_feature_is_that_of_the_sample():
    model, X = fit_model("float64")
    for i, explanation in enumerate(explain(model, X, n_features=200)):
        assert explanation.rest == (0.0, 0.0)
        for feature in explanation.features:
            assert feature.value == X[i, int(feature.name[1:])]


def test_a_model_of_one_class_has_no_runner_up():
    model = SparseExpertClassifier().fit([[1.0, 0.0], [0.5, 1.0]], ["a", "a"])
    (explanation,) = explain(model, [[1.0, 1.0]])
    assert (explanation.predicted, explanation.runner_up) == ("a", None)
    assert explanation.probability == 1.0
    assert str(explanation).startswith("a (1.000)\n")


TEXTS = ["sparse matrix", "matrix product", "a violin concerto", "a piano concerto"]
LABELS = ["algebra", "algebra", "music", "music"]


def fit_pipeline(*steps):
    return make_pipeline(*steps, SparseExpertClassifier(random_state=0)).fit(TEXTS, LABELS)


def test_a_pipeline_takes_texts_and_names_features():
    model = fit_pipeline(TfidfVectorizer())
    (explanation,) = explain(model, ["a concerto for a Matrix, for Violin"])
    assert {f.name for f in explanation.features} == {"concerto", "matrix", "violin"}
    assert explanation.unknown == ("for",)
    assert explanation.predicted == "music"
    contributions = feature_contributions(model, TEXTS)
    assert contributions.shape == (4, 7)
    names = [name for features in top_features(model) for name in features.names]
    assert set(names) <= set(model[0].get_feature_names_out())


@pytest.mark.parametrize(
    "build",
    [
        lambda: fit_pipeline(CountVectorizer(), SelectKBest(chi2, k=5)),
        lambda: fit_pipeline(CountVectorizer(), "passthrough"),
        lambda: make_pipeline(fit_pipeline(CountVectorizer())).fit(TEXTS, LABELS),
        lambda: GridSearchCV(
            fit_pipeline(CountVectorizer()), {"sparseexpertclassifier__top_k": [1, 2]}, cv=2
        ).fit(TEXTS, LABELS),
    ],
)
def test_names_come_through_selections_searches_and_nested_pipelines(build):
    model = build()
    (explanation,) = explain(model, ["concerto matrix unheard"])
    assert {f.name for f in explanation.features} == {"concerto", "matrix"}
    assert "unheard" in explanation.unknown
    assert "matrix" in top_features(model, by="class")[0].names


def test_words_that_a_selection_leaves_out_are_not_known():
    model = fit_pipeline(CountVectorizer(), SelectKBest(chi2, k=2))
    kept = set(model[:-1].get_feature_names_out())
    (explanation,) = explain(model, ["sparse matrix concerto"])
    assert set(explanation.unknown) == {"sparse", "matrix", "concerto"} - kept


def test_of_n_grams_only_single_words_are_reported_as_not_known():
    model = fit_pipeline(CountVectorizer(ngram_range=(1, 2)))
    (explanation,) = explain(model, ["matrix concerto unheard"])
    assert explanation.unknown == ("unheard",)
    model = fit_pipeline(CountVectorizer(analyzer="char_wb", ngram_range=(2, 3)))
    assert explain(model, ["matrix xyz"])[0].unknown == ()


def test_features_without_names_are_numbered():
    model = fit_pipeline(HashingVectorizer(n_features=64, alternate_sign=False))
    (explanation,) = explain(model, ["sparse concerto unheard"])
    assert all(f.name.startswith("x") for f in explanation.features)
    assert explanation.unknown == ()
    unnamed = fit_pipeline(CountVectorizer(), FunctionTransformer(lambda X: X))
    assert explain(unnamed, ["matrix"])[0].features[0].name.startswith("x")


def test_features_without_weights_are_reported():
    X = np.eye(6)[[0, 0, 1, 1, 2, 3]]
    model = SparseExpertClassifier(weight_density=0.1, random_state=0).fit(X, list("aabbab"))
    unused = np.flatnonzero(np.diff(model.router_coef_.indptr) == 0)
    assert len(unused) > 0
    (explanation,) = explain(model, np.ones((1, 6)))
    assert explanation.unconnected == tuple(f"x{j}" for j in unused)


def test_columns_of_a_frame_and_of_a_column_transformer_have_their_names():
    frame = pd.DataFrame({"text": TEXTS * 2, "length": np.arange(8.0)})
    columns = ColumnTransformer(
        [("words", CountVectorizer(), "text"), ("numbers", StandardScaler(), ["length"])]
    )
    model = make_pipeline(columns, SparseExpertClassifier(random_state=0))
    model.fit(frame, LABELS * 2)
    (explanation,) = explain(model, frame[:1])
    assert {f.name for f in explanation.features} <= set(
        columns.fit(frame).get_feature_names_out()
    )
    numbers = pd.DataFrame({"wide": [1.0, 0.0], "high": [0.0, 1.0]})
    plain = SparseExpertClassifier().fit(numbers, ["a", "b"])
    assert {f.name for f in explain(plain, numbers)[0].features} <= {"wide", "high"}
    given = explain(plain, numbers, feature_names=["first", "second"])
    assert {f.name for f in given[0].features} <= {"first", "second"}


@pytest.mark.parametrize("function", [explain, feature_contributions])
def test_other_estimators_are_refused(function):
    other = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
    with pytest.raises(TypeError, match="has to be a SparseExpertClassifier.*LogisticRegression"):
        function(other, [[1.0]])
    with pytest.raises(NotFittedError):
        function(SparseExpertClassifier(), [[1.0]])
    model, X = fit_model("float64")
    with pytest.raises(ValueError, match="features"):
        function(model, X[:, :7])


def test_numbers_and_names_of_features_are_checked():
    model, X = fit_model("float64")
    for call in (lambda **o: explain(model, X, **o), lambda **o: top_features(model, **o)):
        with pytest.raises(ValueError, match="n_features has to be at least 1, got 0"):
            call(n_features=0)
        with pytest.raises(ValueError, match="feature_names has to have 200 names.* got 2"):
            call(feature_names=["a", "b"])
    with pytest.raises(ValueError, match="by has to be 'expert' or 'class', got 'row'"):
        top_features(model, by="row")


def test_the_printed_explanation_has_all_parts_of_the_sum():
    model = fit_pipeline(TfidfVectorizer(ngram_range=(1, 2)))
    (explanation,) = explain(model, ["violin concerto for a matrix"], n_features=2)
    text = str(explanation)
    for part in (*(f.name for f in explanation.features), "all other features", "bias", "score"):
        assert part in text
    assert text.splitlines()[0].startswith("music (") and "unknown: for" in text


def scaled_weights(model):
    """Router weights of columns in units of their standard deviation, by loops."""
    weights = model.router_coef_.toarray().astype(float)
    if hasattr(model, "_columns"):
        for j, factor in enumerate(model._columns[1]):
            weights[j] *= 1 / factor if factor > 0 else 0
    return weights


@pytest.mark.parametrize("kind", KINDS)
def test_top_features_equal_a_slow_twin(kind):
    model, X = fit_model(kind)
    weights, outputs = scaled_weights(model), model.expert_coef_.toarray()
    groups = {"expert": [[e] for e in range(model.n_experts_)]}
    groups["class"] = [
        [e for e in range(model.n_experts_) if outputs[e].argmax() == c]
        or [outputs[:, c].argmax()]
        for c in range(len(model.classes_))
    ]
    for by, experts in groups.items():
        listed = top_features(model, n_features=4, by=by)
        assert len(listed) == len(experts)
        for features, group in zip(listed, experts, strict=True):
            largest = weights[:, group].max(axis=1, initial=0)
            order = sorted(range(len(largest)), key=lambda j: (-largest[j], j))[:4]
            expected = [j for j in order if largest[j] > 0]
            assert features.names.tolist() == [f"x{j}" for j in expected]
            assert_allclose(features.weights, largest[expected], rtol=1e-6)
    for e, features in enumerate(top_features(model)):
        assert (features.expert, features.class_name) == (e, model.classes_[outputs[e].argmax()])


@pytest.mark.parametrize("kind", KINDS)
def test_importances_equal_the_deviation_of_the_weights_of_a_feature(kind):
    model, _ = fit_model(kind)
    expected = scaled_weights(model).std(axis=1)
    assert_allclose(feature_importances(model), expected, rtol=1e-5, atol=1e-6)


def test_select_from_model_keeps_the_important_features():
    X, y = documents()
    model = SparseExpertClassifier(random_state=0)
    selector = SelectFromModel(
        model, importance_getter=feature_importances, threshold=-np.inf, max_features=20
    )
    selected = selector.fit(X, y).transform(X)
    assert selected.shape == (300, 20)
    names = [f"term{j}" for j in range(200)]
    best = np.argsort(-feature_importances(selector.estimator_), kind="stable")[:20]
    assert_array_equal(selector.get_feature_names_out(names), [names[j] for j in sorted(best)])
    pipeline = make_pipeline(selector, SparseExpertClassifier(random_state=0)).fit(X, y)
    assert pipeline.score(X, y) > 0.9


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_dense_codes_can_be_frames_and_explanations_do_not_change(library):
    model, X = fit_model("several experts")
    expected, codes = explain(model, X), model.transform(X)
    model.set_params(sparse_output=False)
    assert_array_equal(model.transform(X), codes.toarray())
    frame = model.set_output(transform=library).transform(X)
    assert list(frame.columns) == model.get_feature_names_out().tolist()
    assert_array_equal(frame.to_numpy(), codes.toarray())
    assert explain(model, X) == expected
