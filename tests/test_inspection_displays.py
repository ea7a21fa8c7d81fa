"""The displays of explanations: how words share contributions, what is drawn."""

import subprocess
import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.pipeline import make_pipeline

from skparse import SparseExpertClassifier
from skparse.datasets import make_topic_documents
from skparse.inspection import ExpertMapDisplay, ExplanationDisplay, explain
from skparse.inspection._expert_map_display import place_on_grid
from skparse.inspection._explanation_display import LINE_LENGTH, MAX_LINES, wrap_words
from skparse.inspection._words import Word, split_contributions

pytestmark = pytest.mark.usefixtures("closed_figures")

TEXTS = ["sparse matrix", "matrix product", "a violin concerto", "a piano concerto"] * 3
LABELS = ["algebra", "algebra", "music", "music"] * 3


def fit_pipeline(**options):
    model = make_pipeline(TfidfVectorizer(**options), SparseExpertClassifier(random_state=0))
    return model.fit(TEXTS, LABELS)


TEXT = "The  Sparse matrix, a concerto\nfor matrix-product and unheard things"
VECTORIZERS = {
    "words": CountVectorizer(),
    "bigrams": CountVectorizer(ngram_range=(1, 2)),
    "stop words": CountVectorizer(ngram_range=(1, 3), stop_words=["a", "for", "and"]),
    "pattern with a group": CountVectorizer(token_pattern=r"\b(\w\w+)\b", ngram_range=(1, 2)),
    "letters as they are": CountVectorizer(lowercase=False),
    "characters": CountVectorizer(analyzer="char", ngram_range=(1, 4)),
    "characters of words": CountVectorizer(analyzer="char_wb", ngram_range=(2, 30)),
}


@pytest.mark.parametrize("name", VECTORIZERS)
def test_the_words_share_the_contributions_of_all_n_grams(name):
    vectorizer = VECTORIZERS[name].fit([TEXT])
    ngrams = dict.fromkeys(vectorizer.build_analyzer()(TEXT))
    rng = np.random.RandomState(0)
    contributions = {ngram: rng.standard_normal() for ngram in ngrams}
    words = split_contributions(vectorizer, TEXT, contributions)
    assert [word.text for word in words] == TEXT.split()
    if name == "characters":  # an n-gram of one space is in no word
        del contributions[" "], contributions["\n"]
    assert_allclose(sum(word.contribution for word in words), sum(contributions.values()))


def test_every_occurrence_and_every_word_of_an_n_gram_has_an_equal_part():
    vectorizer = CountVectorizer(ngram_range=(1, 2)).fit(["one two"])
    contributions = {"one": 1.0, "one two": 0.4, "two": 0.0}
    words = split_contributions(vectorizer, "One, two! Three one", contributions)
    assert [word.text for word in words] == ["One,", "two!", "Three", "one"]
    assert_allclose([word.contribution for word in words], [0.7, 0.2, 0.0, 0.5])
    assert [word.known for word in words] == [True, True, False, True]


@pytest.mark.parametrize(
    "vectorizer",
    [
        None,
        CountVectorizer(analyzer=str.split),
        CountVectorizer(tokenizer=str.split, token_pattern=None),
        CountVectorizer(preprocessor=lambda text: text.lower() + " end"),
    ],
)
def test_where_places_are_not_known_words_are_matched_as_they_are_written(vectorizer):
    words = split_contributions(vectorizer, "Matrix and concerto", {"matrix": 1.0, "x": 2.0})
    assert [word.contribution for word in words] == [1.0, 0.0, 0.0]


def test_a_text_is_drawn_with_shaded_words_and_bars():
    model = fit_pipeline(ngram_range=(1, 2))
    text = "A violin concerto for a Matrix"
    display = ExplanationDisplay.from_estimator(model, text)
    (explanation,) = explain(model, [text])
    assert display.explanation == explanation
    total = sum(word.contribution for word in display.words)
    features = np.array([f[2:] for f in explanation.features]).sum(axis=0)
    assert_allclose(total, features[0] - features[1] + explanation.rest[0] - explanation.rest[1])
    drawn = [item.get_text() for item in display.text_ax_.texts]
    assert drawn == text.split()
    assert {item.get_text(): item.get_color() for item in display.text_ax_.texts}["for"] == "0.5"
    shaded = [word for word in display.words if word.contribution]
    assert len(display.text_ax_.patches) == len(shaded)
    names = [tick.get_text() for tick in display.bar_ax_.get_yticklabels()]
    assert names == [*(f.name for f in explanation.features), "all other features", "bias"]
    widths = [bar.get_width() for bar in display.bars_]
    assert_allclose(sum(widths), explanation.scores[0] - explanation.scores[1], atol=1e-9)
    assert display.ax_.get_title(loc="left").startswith("music: 0.")
    assert display.ax_.get_title(loc="right").startswith("algebra: 0.")


def test_shades_are_inside_the_axes_and_behind_their_words():
    display = ExplanationDisplay.from_estimator(fit_pipeline(), " ".join(TEXTS))
    display.figure_.canvas.draw()
    shown = zip(display.words, display.text_ax_.texts, strict=True)
    shaded = [item for word, item in shown if word.contribution]
    for patch, item in zip(display.text_ax_.patches, shaded, strict=True):
        box, text = patch.get_window_extent(), item.get_window_extent()
        assert box.x0 <= text.x0 and text.x1 <= box.x1 + 2
    right = display.figure_.bbox.x1
    assert all(item.get_window_extent().x1 <= right for item in display.text_ax_.texts)


def test_samples_without_a_text_are_drawn_as_bars():
    X, y = make_topic_documents(300, 200, 8, n_classes=4, random_state=0, return_X_y=True)
    model = SparseExpertClassifier(random_state=0).fit(X, y)
    display = ExplanationDisplay.from_estimator(model, X[[0]], n_features=5, color="red")
    assert display.text_ax_ is None and len(display.bars_) == 7
    assert display.bars_[0].get_facecolor()[:3] == (1.0, 0.0, 0.0)
    dense = ExplanationDisplay.from_estimator(model, X[[0]].toarray(), n_features=5)
    assert dense.explanation == display.explanation
    with pytest.raises(ValueError, match="one sample, got 2"):
        ExplanationDisplay.from_estimator(model, X[:2])


def test_dollar_signs_and_empty_texts_are_drawn():
    model = fit_pipeline(token_pattern=r"\S+")
    for text in ("$x$ costs $5 $", "", "   "):
        display = ExplanationDisplay.from_estimator(model, text)
        display.figure_.canvas.draw()
        assert (display.text_ax_ is None) == (not text.strip())


def test_words_are_wrapped_and_a_long_text_ends_with_an_ellipsis():
    words = [Word("word" * n, 1.0, True) for n in (1, 2, 3)] * 200
    lines = wrap_words(words)
    assert len(lines) == MAX_LINES
    assert all(len(" ".join(word.text for word in line)) <= LINE_LENGTH for line in lines)
    assert lines[-1][-1] == Word("…", 0.0, False)
    assert lines[0][:3] == words[:3]
    (line,) = wrap_words([Word("x" * 200, 0.0, False)])
    assert len(line[0].text) == LINE_LENGTH
    assert wrap_words([]) == []


def test_a_display_draws_on_the_axes_it_is_given():
    import matplotlib.pyplot as plt

    model = fit_pipeline()
    figure, axes = plt.subplots(2)
    display = ExplanationDisplay.from_estimator(model, "a matrix", ax=axes[0])
    expert_map = ExpertMapDisplay.from_estimator(model, ax=axes[1])
    assert display.ax_ is axes[0] and expert_map.ax_ is axes[1]
    assert display.figure_ is expert_map.figure_ is figure
    assert len(plt.get_fignums()) == 1


def test_the_map_shows_experts_with_their_class_terms_and_load():
    model = fit_pipeline()
    display = ExpertMapDisplay.from_estimator(model, n_features=2)
    classifier = model[-1]
    assert [entry.expert for entry in display.entries] == [0, 1]
    assert [entry.class_name for entry in display.entries] == ["algebra", "music"]
    assert [entry.expert_load for entry in display.entries] == classifier.expert_load_.tolist()
    assert display.entries[0].names[0] == "matrix"
    drawn = [item.get_text() for item in display.ax_.texts]
    assert drawn[:2] == ["algebra", "\n".join(display.entries[0].names)]
    assert len(display.circles_.get_sizes()) == 2
    display.figure_.canvas.draw()


def test_of_many_experts_those_with_the_largest_load_are_on_the_map():
    X, y = make_topic_documents(400, 200, 12, n_classes=4, random_state=0, return_X_y=True)
    model = SparseExpertClassifier(12, random_state=0).fit(X, y)
    display = ExpertMapDisplay.from_estimator(model, max_experts=5, alpha=0.5)
    shown = {entry.expert for entry in display.entries}
    assert shown == set(np.argsort(-model.expert_load_, kind="stable")[:5].tolist())
    assert display.n_unshown == 7
    assert "7 of smaller load not shown" in display.ax_.get_title(loc="left")
    places = {(entry.row, entry.column) for entry in display.entries}
    assert len(places) == 5
    sizes = dict(
        zip([e.expert_load for e in display.entries], display.circles_.get_sizes(), strict=True)
    )
    assert [sizes[load] for load in sorted(sizes)] == sorted(sizes.values())
    with pytest.raises(ValueError, match="max_experts has to be at least 1, got 0"):
        ExpertMapDisplay.from_estimator(model, max_experts=0)


def test_similar_experts_stand_beside_each_other():
    # Two groups of eight: within a group the mean distance on the grid is smaller.
    group = np.arange(16) % 2
    similarity = np.where(group == group[:, None], 0.8, -0.8)
    np.fill_diagonal(similarity, 1.0)
    places = np.array(place_on_grid(similarity))
    assert len({tuple(place) for place in places}) == 16
    distance = np.linalg.norm(places[:, None] - places, axis=2)
    same = group == group[:, None]
    assert distance[same].mean() < 0.85 * distance[~same].mean()
    assert place_on_grid(np.ones((1, 1))) == [(0, 0)]
    assert len(set(place_on_grid(np.ones((3, 3))))) == 3


def test_without_matplotlib_a_message_names_the_extra():
    code = (
        "import sys\n"
        "sys.modules['matplotlib'] = sys.modules['matplotlib.pyplot'] = None\n"
        "from skparse import SparseExpertClassifier\n"
        "from skparse.inspection import ExpertMapDisplay, explain\n"
        "model = SparseExpertClassifier().fit([[1.0, 0], [0, 1]], ['a', 'b'])\n"
        "explain(model, [[1.0, 0]])\n"
        "try:\n"
        "    ExpertMapDisplay.from_estimator(model)\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'pip install "skparse[plot]"' in done.stdout
