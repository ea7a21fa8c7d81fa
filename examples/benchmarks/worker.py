"""Measure one model on one problem in a separate process.

Started by compare.py with the number of threads set in the environment:

    python worker.py PROBLEM_FOLDER MODEL OUTPUT_FOLDER '{"settings": as JSON}'

Each model has a process of its own, so that models share neither memory nor threads.
"""

import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np
from interface import Settings
from measure import PeakMemory, microseconds_for_one_row, microseconds_per_row, time_calls
from peers import MODELS
from problems import load_problem, make_tiny_problem
from scores import score_classes, score_probabilities


def main(problem_folder, name, output_folder, options):
    """Run the model; write `result.json` and one array of predictions per reading."""
    output, options = Path(output_folder), json.loads(options)
    problem = load_problem(Path(problem_folder), options["with_text"])
    settings = Settings(**options["settings"])
    result = {"warm_up_s": warm_up(name, settings, problem)}
    model = MODELS[name](settings)
    rows = model.rows_of(problem.train)
    result |= measure_fit(model, rows, problem.train.y, options["repeats"], options["budget"])
    result["note"] = model.note
    result["readings"] = []
    for number, reading in enumerate(model.readings):
        model.set_reading(reading)
        predicted, figures = measure_prediction(model, problem.test, options)
        np.save(output / f"predicted-{number}.npy", predicted)
        details = model.details()
        if "epochs" in details:
            figures["epoch_s"] = result["fit_s"] / details["epochs"]
        result["readings"].append({"reading": reading, "details": details, **figures})
    (output / "result.json").write_text(json.dumps(result))


def warm_up(name, settings, problem):
    """Fit and predict a tiny problem, for imports and compilation; return the seconds."""
    tiny = make_tiny_problem(problem)
    start = time.perf_counter()
    model = MODELS[name](Settings(**{**vars(settings), "n_classes": tiny.n_classes}))
    model.fit(model.rows_of(tiny.train), tiny.train.y)
    rows = model.rows_of(tiny.test)
    model.predict(rows)
    if model.has_proba:
        model.predict_proba(rows)
    return time.perf_counter() - start


def measure_fit(model, rows, y, repeats, budget):
    """Tune, then fit `repeats` times; the peak memory is that of the first fit."""
    start = time.perf_counter()
    model.tune(rows, y)
    search_s = time.perf_counter() - start
    with PeakMemory() as memory:
        seconds = time_calls(lambda: model.fit(rows, y), 1)
    seconds += time_calls(lambda: model.fit(rows, y), repeats - 1, budget - seconds[0])
    return {
        "search_s": search_s,
        "fit_s": statistics.median(seconds),
        "fit_s_each": seconds,
        "fit_peak_bytes": memory.extra_bytes,
        "model_bytes": model.size(),
    }


def measure_prediction(model, part, options):
    """Return the classes predicted on the test rows, and scores, calibration and times."""
    rows, n_rows = model.rows_of(part), part.X.shape[0]
    predicted = model.to_classes(model.predict(rows))
    figures = score_classes(part.y, predicted)
    methods = {"predict": model.predict}
    if model.has_proba:
        figures |= score_probabilities(part.y, model.to_matrix(model.predict_proba(rows)))
        methods["predict_proba"] = model.predict_proba
    for method, call in methods.items():
        figures[f"{method}_us"] = microseconds_per_row(
            call, rows, n_rows, options["repeats"], options["budget"]
        )
        figures[f"{method}_one_us"] = microseconds_for_one_row(call, rows, n_rows)
    return predicted, figures


if __name__ == "__main__":
    main(*sys.argv[1:])
