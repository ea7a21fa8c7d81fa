"""Texts as weighted means of word vectors, against a slow twin with loops."""

import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import joblib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline, make_union
from sklearn.utils import estimator_checks as checks
from sklearn.utils.estimator_checks import estimator_checks_generator

from skparse import SparseExpertClassifier
from skparse.feature_extraction import WordVectors, WordVectorVectorizer

WORDS = ["red", "blue", "green", "one", "two", "seven", "of", ",", "Red", "café", "x"]
TEXTS = [
    "Red and blue of blue", "green, green of red", "two of seven", "nothing known here",
    "one one two", "", "seven blue two of of of", "Café",
]  # fmt: skip


@pytest.fixture
def pair():
    rng = np.random.RandomState(0)
    return WordVectors(WORDS, rng.randn(len(WORDS), 4).astype(np.float32))


def slow_vectors(pair, texts, new, *, weighting, remove_components, standardize, norm):
    """Vectors of new texts after a fit to texts: one loop per text and word."""
    table = dict(zip(*pair, strict=True))
    analyze = CountVectorizer().build_analyzer()

    def known(text):
        return [word for word in analyze(text) if word in table]

    fitted = [known(text) for text in texts]
    n_tokens = sum(map(len, fitted))

    def weight(word):
        if weighting == "idf":
            n_with = sum(word in words for words in fitted)
            return np.log((1 + len(texts)) / (1 + n_with)) + 1
        if weighting == "sif":
            share = sum(words.count(word) for words in fitted) / n_tokens
            return 0.001 / (0.001 + share)
        return 1.0

    def mean(words):
        if not words:
            return np.zeros(4)
        weights = [weight(word) for word in words]
        return np.average([table[word] for word in words], axis=0, weights=weights)

    start, result = np.array([mean(w) for w in fitted]), np.array([mean(known(t)) for t in new])
    directions = np.linalg.svd(start)[2][:remove_components]
    start, result = (rows - rows @ directions.T @ directions for rows in (start, result))
    if standardize:
        some = start[[bool(words) for words in fitted]]
        result = (result - some.mean(axis=0)) / some.std(axis=0)
    result[[not known(text) for text in new]] = 0
    for row in result if norm else []:
        row /= {"l2": np.linalg.norm, "l1": lambda r: abs(r).sum()}[norm](row) or 1
    return result


@pytest.mark.parametrize("weighting", ["mean", "idf", "sif"])
@pytest.mark.parametrize("remove_components", [0, 1, 2])
@pytest.mark.parametrize(("standardize", "norm"), [(True, "l2"), (False, "l1"), (False, None)])
def test_vectors_equal_those_of_the_slow_twin(
    pair, weighting, remove_components, standardize, norm
):
    options = {
        "weighting": weighting, "remove_components": remove_components,
        "standardize": standardize, "norm": norm,
    }  # fmt: skip
    vectorizer = WordVectorVectorizer(pair, dtype=np.float64, **options).fit(TEXTS)
    new = ["blue two", "of", "unknown", "seven RED red green"]
    for texts in (TEXTS, new):
        expected = slow_vectors(pair, TEXTS, texts, **options)
        assert_allclose(vectorizer.transform(texts), expected, atol=1e-9)
    in_float32 = WordVectorVectorizer(pair, **options).fit_transform(TEXTS)
    assert in_float32.dtype == np.float32
    assert_allclose(in_float32, slow_vectors(pair, TEXTS, TEXTS, **options), atol=2e-4)


def test_the_result_of_fit_transform_is_that_of_transform(pair):
    vectorizer = WordVectorVectorizer(pair, weighting="sif", remove_components=1)
    fitted = vectorizer.fit_transform(text for text in TEXTS)
    assert_array_equal(fitted, vectorizer.transform(TEXTS))


def test_texts_without_known_words_are_rows_of_zeros_and_counted(pair):
    vectorizer = WordVectorVectorizer(pair)
    rows = vectorizer.fit_transform(TEXTS)
    assert vectorizer.n_texts_without_words_ == 2
    assert not rows[[3, 5]].any()
    assert rows[[0, 1, 2, 4, 6, 7]].any(axis=1).all()
    assert vectorizer.transform([]).shape == (0, 4)


@pytest.mark.parametrize("weighting", ["mean", "idf", "sif"])
def test_tiny_fits_are_finite(pair, weighting):
    for texts in (["red"], ["nothing"], ["", ""], ["red", "red"], ["red", "nothing"]):
        vectorizer = WordVectorVectorizer(pair, weighting=weighting, remove_components=1)
        assert np.isfinite(vectorizer.fit_transform(texts)).all()
        assert np.isfinite(vectorizer.transform(["blue red", "nothing"])).all()


def test_all_ways_to_give_vectors_are_equal(pair, tmp_path):
    path = tmp_path / "vectors.txt"
    lines = [
        " ".join([w, *map(str, v)]) for w, v in zip(WORDS, pair.vectors.tolist(), strict=True)
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    order = np.random.RandomState(0).permutation(len(WORDS))
    shuffled = {WORDS[row]: int(row) for row in order}
    ways = [
        str(path), path, pair, tuple(pair), (np.array(WORDS), pair.vectors.tolist()),
        SimpleNamespace(key_to_index=shuffled, vectors=pair.vectors),
    ]  # fmt: skip
    expected = WordVectorVectorizer(pair).fit_transform(TEXTS)
    for vectors in ways:
        vectorizer = WordVectorVectorizer(vectors)
        assert_allclose(vectorizer.fit_transform(TEXTS), expected, rtol=1e-6)
        limited = WordVectorVectorizer(vectors, limit=3).fit(TEXTS)
        assert list(limited.vocabulary_) == ["red", "blue", "green"]


def test_words_that_no_text_can_contain_are_left_out(pair):
    def kept(**options):
        return set(WordVectorVectorizer(pair, **options).fit(TEXTS).vocabulary_)

    assert kept() == set(WORDS) - {",", "Red", "x"}
    assert kept(lowercase=False) == set(WORDS) - {",", "x"}
    assert kept(token_pattern=r"\w+|,") == set(WORDS) - {"Red"}
    assert kept(stop_words=["of"]) == set(WORDS) - {",", "Red", "x", "of"}
    assert kept(strip_accents="unicode") == set(WORDS) - {",", "Red", "x", "café"}
    assert kept(analyzer="char") == {",", "x"}
    assert kept(analyzer=str.split) == set(WORDS)  # it may need a whole text
    assert kept(vocabulary=["red", "two", "unknown"]) == {"red", "two"}
    vectorizer = WordVectorVectorizer(pair, vocabulary=["red"]).fit(TEXTS)
    assert vectorizer.vectors_.shape == (1, 4) == (len(vectorizer.word_weights_), 4)


def test_texts_may_be_lists_of_tokens(pair):
    tokens = [text.lower().split() for text in TEXTS]
    by_tokens = WordVectorVectorizer(pair, analyzer=list).fit_transform(tokens)
    by_texts = WordVectorVectorizer(pair, analyzer=lambda t: t.lower().split())
    assert_array_equal(by_tokens, by_texts.fit_transform(TEXTS))


ERRORS = {
    "other type": (7, {}, "vectors has to be a path, a pair .* type int"),
    "lengths": ((["a"], np.ones((2, 2))), {}, "1 words have an array of 2 rows"),
    "shape": ((["a"], np.ones(1)), {}, r"shape \(n_words, n_dimensions\)"),
    "no numbers": ((["a"], [["b"]]), {}, "has to be of numbers"),
    "no str": (([b"a"], [[1.0]]), {}, "have to be str, b'a' is not"),
    "not finite": ((["a", "b"], [[1.0], [np.nan]]), {}, "vector of 'b' is not finite"),
    "no word is possible": ((["A", "B"], np.eye(2)), {}, "none of its 2 words, such as 'A', 'B'"),
    "vocabulary": ((["ab"], np.eye(1)), {"vocabulary": ["cd"]}, "none of its words has a vector"),
    "components": ((["ab"], np.ones((1, 2))), {"remove_components": 2}, "less than the number"),
    "weighting": ((["ab"], np.eye(1)), {"weighting": "tf"}, "'weighting' parameter"),
    "dtype": ((["ab"], np.eye(1)), {"dtype": int}, "'dtype' parameter"),
}


@pytest.mark.parametrize(("vectors", "options", "message"), ERRORS.values(), ids=ERRORS)
def test_bad_vectors_and_parameters_are_errors(vectors, options, message):
    with pytest.raises(ValueError, match=message):
        WordVectorVectorizer(vectors, **options).fit(["ab cd"])


def test_bad_texts_are_errors(pair):
    with pytest.raises(ValueError, match="string object received"):
        WordVectorVectorizer(pair).fit("red")
    with pytest.raises(ValueError, match="X has no texts"):
        WordVectorVectorizer(pair).fit([])
    with pytest.raises(NotFittedError):
        WordVectorVectorizer(pair).transform(TEXTS)


def test_constructor_and_clone_read_nothing(tmp_path):
    missing = tmp_path / "missing.txt"
    vectorizer = clone(WordVectorVectorizer(missing, limit=3))
    assert vectorizer.get_params()["vectors"] == missing
    assert "missing.txt" in repr(vectorizer)
    with pytest.raises(FileNotFoundError):
        vectorizer.fit(TEXTS)


def test_transform_changes_nothing(pair):
    vectorizer = WordVectorVectorizer(pair).fit(TEXTS)
    before = pickle.dumps(vectorizer)
    vectorizer.transform(TEXTS)
    assert pickle.dumps(vectorizer) == before


def test_pickles_of_a_path_hold_the_kept_vectors_only(tmp_path):
    words = [f"w{i}" for i in range(2000)]
    path = tmp_path / "vectors.txt"
    path.write_text("".join(f"{word} {'1.5 ' * 50}\n" for word in words))
    texts = ["w1 w2", "w3 w4"]
    vectorizer = WordVectorVectorizer(path, vocabulary=words[:10]).fit(texts)
    expected = vectorizer.transform(texts)
    path.unlink()
    stored = pickle.dumps(vectorizer)
    assert len(stored) < 8000
    assert_array_equal(pickle.loads(stored).transform(texts), expected)
    joblib.dump(vectorizer, tmp_path / "model.joblib")
    assert_array_equal(joblib.load(tmp_path / "model.joblib").transform(texts), expected)


def test_feature_names_and_output_as_a_frame(pair):
    pandas = pytest.importorskip("pandas")
    vectorizer = WordVectorVectorizer(pair).fit(TEXTS)
    names = [f"wordvectorvectorizer{i}" for i in range(4)]
    assert list(vectorizer.get_feature_names_out()) == names
    frame = vectorizer.set_output(transform="pandas").transform(
        pandas.Series(TEXTS, index=range(8))
    )
    assert list(frame.columns) == names and frame.shape == (8, 4)


FURTHER_CHECKS = (
    checks.check_no_attributes_set_in_init,
    checks.check_parameters_default_constructible,
    checks.check_get_params_invariance,
    checks.check_set_params,
    checks.check_mixin_order,
    checks.check_estimator_repr,
    checks.check_estimator_cloneable,
    checks.check_estimator_tags_renamed,
    checks.check_valid_tag_types,
    checks.check_param_validation,
)


@pytest.mark.parametrize("check", FURTHER_CHECKS, ids=lambda check: check.__name__)
def test_the_vectorizer_passes_the_checks_that_texts_allow(pair, check):
    check("WordVectorVectorizer", WordVectorVectorizer(pair))


@pytest.mark.filterwarnings("ignore:Can't test estimator")
def test_the_vectorizer_passes_what_check_estimator_runs(pair):
    for estimator, check in estimator_checks_generator(WordVectorVectorizer(pair)):
        check(estimator)


def test_pipelines_unions_and_columns_take_it(pair):
    pandas = pytest.importorskip("pandas")
    y = ["colour", "colour", "number", "none", "number", "none", "number", "colour"]
    union = make_union(TfidfVectorizer(dtype=np.float32), WordVectorVectorizer(pair))
    model = make_pipeline(union, SparseExpertClassifier()).fit(TEXTS, y)
    assert model.score(TEXTS, y) > 0.8
    frame = pandas.DataFrame({"text": TEXTS, "size": np.arange(8.0)})
    columns = ColumnTransformer(
        [("vectors", WordVectorVectorizer(pair), "text"), ("size", "passthrough", ["size"])]
    )
    assert columns.fit_transform(frame).shape == (8, 5)
    assert list(columns.get_feature_names_out())[0] == "vectors__wordvectorvectorizer0"


def test_a_grid_search_chooses_weighting_and_top_k(pair):
    model = make_pipeline(WordVectorVectorizer(pair), SparseExpertClassifier(random_state=0))
    grid = {
        "wordvectorvectorizer__weighting": ["mean", "idf", "sif"],
        "sparseexpertclassifier__top_k": [1, 2],
    }
    y = [0, 0, 1, 1, 1, 0, 1, 0]
    search = GridSearchCV(model, grid, cv=2).fit(TEXTS, y)
    assert search.best_estimator_[0].vectors is pair  # clones share it
    assert len(search.cv_results_["params"]) == 6


def test_word_vectors_help_where_few_texts_have_labels(data_home, load_corpus):
    texts, labels = map(np.array, load_corpus("ag_news"))
    rng = np.random.RandomState(0)
    rows = [rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
    few = np.hstack([part[:5] for part in rows])
    rest = np.hstack([part[5:300] for part in rows])
    path = data_home / "glove_6b_50d" / "glove.6B.50d.top50k.txt.gz"
    vectors = WordVectorVectorizer(path, limit=20_000)
    tfidf = TfidfVectorizer(sublinear_tf=True, dtype=np.float32)
    scores = [
        make_pipeline(features, SparseExpertClassifier(random_state=0))
        .fit(texts[few], labels[few])
        .score(texts[rest], labels[rest])
        for features in (tfidf, make_union(tfidf, vectors))
    ]
    assert scores[1] > scores[0] + 0.2


def test_the_example_runs_without_data_sets():
    project = Path(__file__).resolve().parents[1]
    environment = {name: value for name, value in os.environ.items() if name != "SKPARSE_DATA"}
    done = subprocess.run(
        [sys.executable, project / "examples" / "tasks" / "plot_word_vectors.py"],
        cwd=project, capture_output=True, text=True, env={**environment, "MPLBACKEND": "Agg"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "both           all per class" in done.stdout
