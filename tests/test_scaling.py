"""Tests of the scaling benchmark and the asv suite in examples/benchmarks."""

import importlib
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import sparse

FOLDER = Path(__file__).resolve().parents[1] / "examples" / "benchmarks"


@pytest.fixture(scope="module")
def harness():
    """The modules of the harness, which import each other by name."""
    names = ("bandwidth", "scaling", "scaling_picture", "scaling_worker")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(FOLDER), *sys.path])
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})


def test_exponent_of_a_power_law_is_its_power(harness):
    sizes = np.array([1, 2, 4, 8, 16, 32])
    assert harness.scaling.fit_exponent(sizes, 3 * sizes**1.5) == pytest.approx(1.5)


def test_exponent_ignores_the_lower_half_of_a_range(harness):
    sizes, values = [1, 2, 4, 8, 16, 32], [100, 100, 100, 8, 16, 32]
    assert harness.scaling.fit_exponent(sizes, values) == pytest.approx(1)


def test_two_points_make_no_exponent(harness):
    assert harness.scaling.fit_exponent([1, 2], [1, 2]) is None


def test_cases_vary_in_one_size_only_and_quick_ones_are_the_small_ones(harness):
    options = harness.scaling.parse_arguments(["--top-k", "3"])
    for name, (_, field, sizes) in harness.scaling.RANGES.items():
        cases = harness.scaling.cases_of(name, options)
        assert [getattr(case, field) for case in cases] == sizes
        assert len({replace(case, **{field: 1}) for case in cases}) == 1
        assert all(case.top_k == 3 for case in cases)
        quick = harness.scaling.cases_of(name, harness.scaling.parse_arguments(["--quick"]))
        assert [getattr(case, field) for case in quick] == sizes[: len(quick)]
        assert len(quick) < len(cases)


@pytest.fixture(scope="module")
def measured(harness):
    """Two tiny points of a range and one that fails, measured as the real ones are."""
    options = harness.scaling.parse_arguments(["--threads", "1", "--repeats", "1"])
    tiny = {"features": 300, "classes": 5, "length": 20}
    cases = [harness.scaling.Case(rows=rows, **tiny) for rows in (200, 400)]
    cases.append(harness.scaling.Case(rows=100, features=0))
    with harness.scaling.progress_bar(len(cases)) as bar:
        points = harness.scaling.run_cases("rows", cases, options, bar)
    return {"points": points, "exponents": harness.scaling.fit_exponents("rows", points)}


def test_a_case_is_measured_in_a_process_of_its_own(measured):
    small, large, _ = measured["points"]
    assert (small["rows"], large["rows"]) == (200, 400)
    assert small["experts"] == 5  # "auto" is resolved
    assert 5 < small["nonzeros"] <= 20
    assert 0 < small["visits"] <= 5
    assert min(small["fit_s"], small["predict_us"], small["fit_bytes"]) > 0
    assert small["process_bytes"] > small["fit_bytes"]
    assert large["X_bytes"] > small["X_bytes"]
    assert large["train_accuracy"] > 0.5


def test_a_case_that_fails_is_reported_with_its_reason(harness, measured):
    assert "n_features" in measured["points"][-1]["failed"]
    report = harness.scaling.format_range("rows", measured)
    assert "n_features" in report
    assert "fit time ~ too few points" in report


def test_picture_has_a_column_for_each_range(harness, measured, tmp_path):
    results = {"ranges": {"rows": measured}}
    harness.scaling_picture.draw_figure(results, tmp_path / "scaling.png")
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")


def test_bytes_of_a_prediction_equal_a_hand_computed_case(harness):
    # Feature 0 has three connections, feature 1 has one; the nonzeros are 0, 1, 1.
    router = sparse.csr_array(np.array([[1, 1, 1], [0, 1, 0]], np.float32))
    router.indices = router.indices.astype(np.uint16)
    X = sparse.csr_array(np.array([[1, 1], [0, 1]], np.float32))
    model = SimpleNamespace(router_coef_=router, classes_=np.arange(4))
    assert harness.bandwidth.bytes_of_prediction(model, X) == {
        "X": X.indptr.nbytes + 3 * (X.indices.itemsize + 4),
        "connections": (3 + 1 + 1) * (2 + 4),
        "probabilities": 2 * 4 * 4,
    }


@pytest.mark.parametrize("threads", [1, 2])
def test_copy_bandwidth_counts_reads_and_writes(harness, threads, monkeypatch):
    monkeypatch.setattr(harness.bandwidth, "time_calls", lambda call, _: [call() and 0.5])
    assert harness.bandwidth.copy_bandwidth(threads, n_bytes=1000) == 4000


def test_every_benchmark_of_the_asv_suite_runs(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER / "asv" / "benchmarks")
    suite = importlib.import_module("classifier")
    X, y = suite.weigh_topic_documents()
    arguments = {"topic_documents": (X[:1000], y[:1000])}, "topic_documents", 2
    names = set()
    for benchmark in (suite.Fit(), suite.Predict()):
        benchmark.setup(*arguments)
        for name in dir(benchmark):
            if name.startswith(("time_", "peakmem_")):
                getattr(benchmark, name)(*arguments)
                names.add(name)
        assert benchmark.model.top_k_ == 2
    assert {"time_fit", "time_predict", "time_predict_one", "peakmem_fit"} <= names
