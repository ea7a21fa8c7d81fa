"""Compare SparseExpertClassifier with other models on the same data.

    python examples/benchmarks/compare.py --data banking77 clinc150 --json results.json

Every model runs in a process of its own with the same number of threads, on the same rows of
the same TF-IDF matrix (fastText on the texts). The extra `benchmark` is needed, and `plot` for
``--figure``. Models and data sets that are not installed are reported and skipped.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from corpora import CORPORA, MissingCorpusError
from interface import Settings
from measure import describe_machine
from peers import MODELS, OURS
from problems import load_problem, prepare_problem
from report import draw_figure, format_data_set
from scores import paired_bootstrap

THREAD_VARIABLES = (
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"),
    *("VECLIB_MAXIMUM_THREADS", "BLIS_NUM_THREADS"),
)


def parse_arguments(arguments=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add(
        "--data",
        nargs="+",
        choices=CORPORA,
        default=list(CORPORA),
        metavar="NAME",
        help=f"data sets, by default all: {', '.join(CORPORA)}",
    )
    add(
        "--models",
        nargs="+",
        choices=MODELS,
        default=list(MODELS),
        metavar="NAME",
        help=f"models, by default all: {', '.join(MODELS)}",
    )
    add("--repeats", type=int, default=5, help="fits and predictions per median")
    add("--threads", type=int, default=2, help="threads of every model that can use them")
    add("--dtype", choices=["float32", "float64"], default="float32", help="dtype of X")
    add("--seed", type=int, default=0, help="of the models, the shuffle and the bootstrap")
    add(
        "--width",
        type=int,
        default=256,
        help="hidden units of the networks if ours, whose width they use, is not run",
    )
    add(
        "--budget",
        type=float,
        default=120.0,
        help="seconds after which a model is not fitted again, even if repeats are left",
    )
    add("--timeout", type=float, default=3600.0, help="seconds after which a model is stopped")
    add("--cache", metavar="DIR", help="folder that keeps the vectorised data sets")
    add("--json", metavar="FILE", help="write all results")
    add(
        "--update",
        metavar="FILE",
        help="results of an earlier run; its other data sets are kept, with machine and date",
    )
    add("--figure", metavar="FILE", help="draw accuracy against time and size")
    return parser.parse_args(arguments)


def main(arguments=None):
    """Run the comparison, print it and write the requested files; return all results."""
    options = parse_arguments(arguments)
    shown = ("repeats", "threads", "dtype", "seed", "budget", "timeout")
    conditions = {
        "machine": describe_machine(),
        "settings": {name: getattr(options, name) for name in shown},
    }
    results = {**conditions, "data": {}, "results": []}
    if options.update:
        results = read_earlier(options.update)
    with contextlib.ExitStack() as stack:
        cache = options.cache or stack.enter_context(tempfile.TemporaryDirectory())
        bar = stack.enter_context(progress_bar(len(options.data) * len(options.models)))
        for data in options.data:
            description, rows = run_data_set(data, cache, options, bar)
            results["data"][data] = {**description, **conditions}
            others = [row for row in results["results"] if row["data"] != data]
            results["results"] = others + rows
            bar.write(format_data_set(data, description, rows))
            write_json(results, options.json)  # after each set, as long runs may be interrupted
    if options.figure:
        draw_figure(results, Path(options.figure))
    return results


def read_earlier(path):
    """Read the results of an earlier run; each data set gets the conditions of that run."""
    results = json.loads(Path(path).read_text(encoding="utf-8"))
    conditions = {name: results[name] for name in ("machine", "settings")}
    results["data"] = {name: {**conditions, **facts} for name, facts in results["data"].items()}
    return results


def run_data_set(data, cache, options, bar):
    """Run all models on one data set; return its description and a row per model reading."""
    try:
        folder = prepare_problem(data, cache, options.dtype, options.seed)
    except MissingCorpusError as error:
        bar.update(len(options.models))
        return {"missing": str(error)}, []
    problem = load_problem(folder, with_text=False)
    description, width = problem.describe(), options.width
    runs = []
    for name in sorted(options.models, key=list(MODELS).index):
        bar.set_description(f"{data}, {name}")
        settings = Settings(
            options.threads,
            options.seed,
            width,
            problem.n_classes,
            problem.multilabel,
            problem.characters,
        )
        runs.append((name, run_model(name, folder, settings, options)))
        width = width_of_ours(name, runs[-1][1], width)
        bar.update()
    description["fitted_width"] = width
    return description, compare_with_ours(data, runs, problem.test.y, options.seed)


def width_of_ours(name, run, width):
    """Return the number of experts of our fit, or `width` before there is one."""
    fitted = name == OURS and "failed" not in run
    return run["readings"][0]["details"]["n_experts"] if fitted else width


def run_model(name, folder, settings, options):
    """Run one model in its own process; return its result, or the reason of its failure."""
    model = MODELS[name](settings)
    if not model.is_installed():
        return {"failed": 'not installed (pip install "skparse[benchmark]")'}
    if settings.multilabel and model.single_label_only:
        return {"failed": "not for several labels per sample"}
    task = {
        "settings": vars(settings),
        "with_text": model.reads_text,
        "repeats": options.repeats,
        "budget": options.budget,
    }
    threads = dict.fromkeys(THREAD_VARIABLES, str(settings.threads))
    worker = Path(__file__).with_name("worker.py")
    with tempfile.TemporaryDirectory() as output:
        command = [sys.executable, worker, folder, name, output, json.dumps(task)]
        try:
            subprocess.run(
                command,
                env={**os.environ, **threads},
                check=True,
                timeout=options.timeout,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
        except subprocess.TimeoutExpired:
            return {"failed": f"stopped after {options.timeout:g} s"}
        except subprocess.CalledProcessError as error:
            return {"failed": (error.stderr.strip().splitlines() or [str(error)])[-1]}
        return read_output(Path(output))


def read_output(folder):
    """Read the figures and the predictions that the process wrote."""
    run = json.loads((folder / "result.json").read_text())
    for number, reading in enumerate(run["readings"]):
        reading["predicted"] = np.load(folder / f"predicted-{number}.npy")
    return run


def compare_with_ours(data, runs, y, seed):
    """Flatten runs to rows of the report, with the paired difference to our default."""
    ours = [
        run["readings"][0]["predicted"]
        for name, run in runs
        if name == OURS and "failed" not in run
    ]
    rows = []
    for name, run in runs:
        if "failed" in run:
            rows.append({"data": data, "model": name, "reading": "", "failed": run["failed"]})
            continue
        shared = {key: value for key, value in run.items() if key != "readings"}
        for reading in run["readings"]:
            predicted = reading.pop("predicted")
            compared = ours and predicted is not ours[0]
            difference = paired_bootstrap(y, predicted, ours[0], seed=seed) if compared else {}
            rows.append({"data": data, "model": name, **shared, **reading, **difference})
    return rows


def write_json(results, path):
    """Write the results if a path is given."""
    if path:
        Path(path).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def progress_bar(total):
    """Return a progress bar on standard error; without tqdm, one that only prints text."""
    try:
        from tqdm import tqdm
    except ImportError:
        return SilentBar()
    return tqdm(total=total, unit="model")


class SilentBar(contextlib.nullcontext):
    """The part of tqdm's interface that is used here, without a visible bar."""

    def __enter__(self):
        """Return the bar."""
        return self

    def update(self, n=1):
        """Do nothing."""

    def set_description(self, text):
        """Do nothing."""

    def write(self, text):
        """Print the text."""
        print(text)


if __name__ == "__main__":
    main()
