"""Tests of the benchmark harness in examples/benchmarks, on data made here."""

import gzip
import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn import metrics

FOLDER = Path(__file__).resolve().parents[1] / "examples" / "benchmarks"


@pytest.fixture(scope="module")
def harness():
    """The modules of the harness, which import each other by name."""
    names = (
        "compare",
        "experts",
        "experts_page",
        "measure",
        "problems",
        "report",
        "scores",
        "streams",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(FOLDER), *sys.path])
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})


@pytest.fixture(params=["one label", "several labels"])
def predictions(request):
    """True classes and those of two models, the first of them much better."""
    rng = np.random.default_rng(0)
    if request.param == "one label":
        y = rng.integers(4, size=200)
        return y, *(np.where(rng.random(200) < p, y, (y + 1) % 4) for p in (0.9, 0.6))
    y = (rng.random((200, 4)) < 0.4).astype(int)
    return y, *(np.where(rng.random((200, 4)) < p, y, 1 - y) for p in (0.95, 0.7))


def test_calibration_error_equals_a_hand_computed_case(harness):
    # Bins of width 1/15: .95 alone, .85 alone, the two .55 together.
    # Gaps: |1 - .95| = .05, |0 - .85| = .85, 2 * |.5 - .55| = .1; their sum over 4 samples.
    error = harness.scores.calibration_error([0.95, 0.85, 0.55, 0.55], [1, 0, 1, 0])
    assert error == pytest.approx(0.25, abs=1e-12)


def test_calibration_error_takes_the_ends_of_the_unit_interval(harness):
    assert harness.scores.calibration_error([0.0, 1.0], [0, 1]) == 0
    assert harness.scores.calibration_error([0.0, 1.0], [1, 0]) == 1


def test_probability_scores_equal_scikit_learn_and_ignore_the_scale_of_a_row(harness):
    rng = np.random.default_rng(0)
    y, proba = rng.integers(3, size=50), rng.dirichlet(np.ones(3), size=50)
    scores = harness.scores.score_probabilities(y, proba)
    assert scores["log_loss"] == pytest.approx(metrics.log_loss(y, proba), rel=1e-12)
    assert harness.scores.score_probabilities(y, proba / 4) == pytest.approx(scores, rel=1e-12)


def test_a_class_unseen_in_training_is_charged_the_smallest_probability(harness):
    scores = harness.scores.score_probabilities(np.array([2]), np.array([[0.5, 0.5]]))
    assert scores["log_loss"] == pytest.approx(-np.log(harness.scores.SMALLEST_PROBABILITY))


def test_weighted_f1_equals_scikit_learn_on_the_repeated_rows(harness, predictions):
    y, predicted, _ = predictions
    rows = np.random.default_rng(1).integers(30, size=40)  # few rows, so that classes repeat
    weights = np.bincount(rows, minlength=len(y))[None].astype(float)
    micro, macro = harness.scores.ClassCounts(y, predicted).f1(weights)
    for value, average in ((micro[0], "micro"), (macro[0], "macro")):
        expected = metrics.f1_score(y[rows], predicted[rows], average=average)
        assert value == pytest.approx(expected, rel=1e-12)


def test_paired_bootstrap_brackets_the_difference_and_finds_the_better_model(harness, predictions):
    y, better, worse = predictions
    found = harness.scores.paired_bootstrap(y, better, worse, n_resamples=300)
    expected = (harness.scores.score_classes(y, p)["score"] for p in (better, worse))
    middle, low, high = found["score_difference"]
    assert middle == pytest.approx(next(expected) - next(expected))
    assert 0 < low < middle < high


def test_paired_bootstrap_of_equal_predictions_is_exactly_zero(harness, predictions):
    y, predicted, _ = predictions
    found = harness.scores.paired_bootstrap(y, predicted, predicted, n_resamples=50)
    assert found == {"score_difference": [0, 0, 0], "macro_f1_difference": [0, 0, 0]}


def test_paired_bootstrap_is_narrower_than_an_unpaired_one_for_models_that_err_alike(harness):
    rng = np.random.default_rng(0)
    y = np.zeros(500, int)
    shared = (rng.random(500) < 0.3).astype(int)  # both err on these
    alone = shared.copy()
    alone[:5] = 1
    _, low, high = harness.scores.paired_bootstrap(y, alone, shared)["score_difference"]
    unpaired = 2 * 1.96 * np.sqrt(2 * 0.3 * 0.7 / 500)
    assert high - low < unpaired / 4


def test_one_row_timing_passes_every_row_alone(harness):
    seen = []
    harness.measure.microseconds_for_one_row(seen.append, ["a", "b", "c"], n_rows=3)
    assert seen == [["a"], ["b"], ["c"]]


def test_calls_stop_at_the_budget_and_run_at_least_once(harness):
    assert len(harness.measure.time_calls(lambda: None, repeats=4)) == 4
    assert len(harness.measure.time_calls(lambda: sum(range(1000)), 4, budget=1e-9)) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="the high-water mark resets on Linux only")
def test_peak_memory_counts_what_was_freed_again(harness):
    with harness.measure.PeakMemory() as memory:
        np.ones(10_000_000).sum()  # 80 MB, gone when the block ends
    assert 79e6 < memory.extra_bytes < 90e6


def test_classes_that_only_the_test_part_has_get_the_last_codes(harness):
    train, test = harness.problems.encode_labels(["b", "c", "b"], ["a", "c"])
    assert train.tolist() == [0, 1, 0]
    assert test.tolist() == [2, 1]


@pytest.fixture(scope="module")
def results(harness, tmp_path_factory):
    """A comparison on a made corpus, with one peer there and one data set missing."""
    folder = tmp_path_factory.mktemp("data")
    topics = {"fruit": ["apple", "pear", "plum"], "metal": ["iron", "tin", "zinc"]}
    rows = [
        {"text": f"{first} and {second}", "label": label}
        for label, words in topics.items()
        for first in words
        for second in words
    ]
    (folder / "banking77").mkdir()
    for part in ("train", "test"):
        with gzip.open(folder / "banking77" / f"{part}.jsonl.gz", "wt") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    arguments = ["--data", "banking77", "imdb", "--models", "LinearSVC", "--repeats", "1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SKPARSE_DATA", str(folder))
        found = harness.compare.main([*arguments, "--json", str(folder / "results.json")])
    assert json.loads((folder / "results.json").read_text()) == found
    return found


def test_compare_measures_a_peer_and_reports_a_missing_data_set(results):
    (row,) = results["results"]
    assert (row["data"], row["model"], row["score"]) == ("banking77", "LinearSVC", 1.0)
    assert row["fit_s"] > 0 and row["predict_us"] > 0 and row["predict_one_us"] > 0
    assert row["model_bytes"] > 0 and len(row["fit_s_each"]) == 1
    assert results["data"]["banking77"]["n_train"] == 18
    assert "SKPARSE_DATA" in results["data"]["imdb"]["missing"]


def test_every_reading_and_peer_is_compared_with_our_default(harness):
    y = np.array([0, 1, 0, 1])

    def reading(name, predicted):
        return {"reading": name, "predicted": np.array(predicted)}

    ours = {"readings": [reading("", [0, 1, 0, 0]), reading("top_k=1", [0, 1, 1, 0])]}
    runs = [
        ("SparseExpertClassifier", ours),
        ("LinearSVC", {"readings": [reading("", y)]}),
        ("skorch", {"failed": "not installed"}),
    ]
    rows = harness.compare.compare_with_ours("made", runs, y, seed=0)
    assert [row.get("score_difference", [None])[0] for row in rows] == [None, -0.25, 0.25, None]
    assert [row.get("failed") for row in rows] == [None, None, None, "not installed"]


def test_page_holds_results_and_what_was_not_run(harness, results):
    page = harness.report.build_data_sets_page(results)
    assert "| LinearSVC | 1.0000 |" in page
    assert "## imdb\n\nNot run" in page


def test_an_update_keeps_the_other_data_sets_with_their_conditions(harness, results, tmp_path):
    earlier = json.loads(json.dumps(results))
    earlier["machine"]["processor"] = "an abacus"
    facts = earlier["data"].pop("banking77")
    earlier["data"] = {"r52_raw": {k: facts[k] for k in facts.keys() - {"machine", "settings"}}}
    earlier["results"][0]["data"] = "r52_raw"
    (tmp_path / "earlier.json").write_text(json.dumps(earlier))
    arguments = ["--data", "imdb", "--models", "LinearSVC"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SKPARSE_DATA", str(tmp_path))
        found = harness.compare.main([*arguments, "--update", str(tmp_path / "earlier.json")])
    assert list(found["data"]) == ["r52_raw", "imdb"]
    assert [row["data"] for row in found["results"]] == ["r52_raw"]
    assert found["data"]["r52_raw"]["machine"]["processor"] == "an abacus"
    assert found["data"]["imdb"]["machine"] == results["machine"]
    found["data"]["banking77"] = {**facts, "machine": results["machine"]}
    found["results"] += results["results"]
    page = harness.report.build_page(found)
    assert page.count("an abacus") == 1
    assert "under the conditions in [their sections](benchmarks_sets.md): banking77." in page


def test_the_pages_and_their_pictures_are_those_of_the_results(harness, tmp_path):
    docs = FOLDER.parents[1] / "docs"
    harness.report.main(docs / "benchmarks.json", tmp_path / "benchmarks.md")
    for name in ("benchmarks.md", "benchmarks_sets.md"):
        assert (tmp_path / name).read_text() == (docs / name).read_text(), name
    for name in ("benchmarks_accuracy.svg", "benchmarks_costs.svg"):
        assert "<svg" in (tmp_path / name).read_text()
        assert (docs / name).exists()


def test_verdict_is_level_unless_the_interval_excludes_zero(harness):
    assert harness.report.verdict([-0.02, -0.03, -0.01]) == "win"  # the peer is worse
    assert harness.report.verdict([0.02, 0.01, 0.03]) == "loss"
    assert harness.report.verdict([0.01, -0.01, 0.03]) == "level"


@pytest.fixture(scope="module")
def experts_results(harness, tmp_path_factory):
    """A quick run of experts.py, with embeddings of one of the two data sets."""
    folder = tmp_path_factory.mktemp("embeddings")
    rng = np.random.default_rng(0)
    y = np.arange(300) % 12
    X = rng.normal(size=(12, 5))[y] + 0.1 * rng.normal(size=(300, 5))
    for part, rows in (("train", slice(200)), ("test", slice(200, 300))):
        np.savez(folder / f"banking77_{part}.npz", X=X[rows], y=y[rows].astype(str))
    output = folder / "experts.json"
    arguments = ["--quick", "--embeddings", str(folder), "--output", str(output)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(harness.experts, "REPEATED_BELOW", 0)
        found = harness.experts.main(arguments)
    assert json.loads(output.read_text()) == found
    harness.experts_page.main(output, folder / "experts.md")
    return found, (folder / "experts.md").read_text()


def test_experts_are_measured_beside_peers_and_at_every_k(harness, experts_results):
    results, _ = experts_results
    circles = results["tables"]["circles"]
    linear = circles["LogisticRegression"]["accuracy"]
    assert circles["SparseExpertClassifier"]["accuracy"] > 0.9 > linear
    assert circles["one expert per class"]["n_experts"] == 2
    assert circles["SparseExpertClassifier"]["n_experts"] > 2
    assert set(results["embeddings"]) == {"banking77 in 10 groups", "banking77"}
    assert results["texts"]["api_docs in 4 groups"]["8 per class"]["n_experts"] == 32
    assert max(results["levels"]["circles"]["levels"]) > 0.9
    assert results["levels"]["circles"]["chosen"] in harness.experts_page.TOP_KS


def test_page_on_experts_has_every_row_and_what_was_skipped(experts_results):
    results, page = experts_results
    for part in ("tables", "embeddings", "texts", "levels"):
        assert results[part]
        assert all(f"| {name} |" in page for name in results[part])
    assert "- embeddings of clinc150: no files" in page


def test_page_on_experts_counts_gains_and_losses(harness):
    accuracies = [(0.53, 0.5), (0.48, 0.5), (0.5004, 0.5), (0.4996, 0.5), (0.51, 0.5)]
    rows = {
        name: {"SparseExpertClassifier": {"accuracy": ours}, "b": {"accuracy": other}}
        for name, (ours, other) in enumerate(accuracies)
    }
    differences = harness.experts_page.compare(rows, ["b", "not run"])
    assert [f"{d:+.1f}" for d in differences] == ["+3.0", "-2.0", "+0.0", "+0.0", "+1.0"]
    sentence = harness.experts_page.count(differences, "b")
    assert sentence == "Against b: more accurate on 2 rows, less on 1, equal on 2."


def test_the_made_texts_of_streams_can_be_learnt_but_for_the_wrong_labels(harness):
    texts, y = harness.streams.make_texts(4000, 4, n_words=500, wrong=0.2)
    assert len(texts) == len(y) == 4000
    assert 3 <= min(len(text.split()) for text in texts)
    X = harness.streams.HashingVectorizer(n_features=2**12).transform(texts)
    model = harness.streams.make_model("SparseExpertClassifier")
    _, scores = harness.streams.stream(
        model, X[:3000], y[:3000], 400, np.arange(4), (800, 3000),
        lambda model: model.score(X[3000:], y[3000:]),
    )  # fmt: skip
    assert list(scores) == [800, 3000]
    assert 0.7 < scores[3000] < 0.9
    assert model.t_ == 3000
