"""Measure how time and memory of SparseExpertClassifier grow with the size of the problem.

    python examples/benchmarks/scaling.py --json scaling.json --figure scaling.png

Rows, nonzeros per row, features, experts and classes vary one at a time, at a fixed `top_k`, on
synthetic topic documents. Each measurement has a process of its own with a fixed number of
threads. An exponent is the slope of log time over log size in the upper half of a range: 1 is
linear. ``--million`` adds a case of 1,000,000 rows and 10,000 classes, which takes minutes.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from bandwidth import format_bandwidth, run_bandwidth
from compare import THREAD_VARIABLES, progress_bar, write_json
from corpora import MissingCorpusError
from measure import describe_machine
from report import as_text, in_units_of
from scaling_picture import draw_figure
from scaling_worker import Case

# For each range: the fixed sizes, the field of the case that varies, its values.
RANGES = {
    "rows": (Case(), "rows", [2**power for power in range(12, 19)]),
    "nonzeros": (Case(), "length", [10, 20, 40, 80, 160, 320, 640]),
    "features": (Case(), "features", [2**power for power in range(10, 23, 2)]),
    "experts": (Case(rows=10_000), "experts", [2**power for power in range(7, 14)]),
    "classes": (Case(), "classes", [10, 30, 100, 300, 1000, 3000, 10_000]),
}
LARGE = {"large": Case(rows=200_000, features=2**20, classes=1000)}
MILLION = {"million": Case(rows=1_000_000, features=2**20, classes=10_000)}
QUICK_ROWS, QUICK_SIZES = 2000, 4

# Keys of the figures with the headings and the units of the tables.
COLUMNS = (
    ("rows", "rows", "{:,}".format),
    ("nonzeros", "nonzeros per row", in_units_of(1)),
    ("visits", "connections per nonzero", in_units_of(1)),
    ("fit_s", "fit s", in_units_of(1)),
    ("fit_bytes", "fit peak MB", in_units_of(1e6)),
    ("process_bytes", "process MB", in_units_of(1e6)),
    ("X_bytes", "X MB", in_units_of(1e6)),
    ("router_bytes", "router MB", in_units_of(1e6)),
    ("predict_us", "proba µs per row", in_units_of(1)),
    ("predict_bytes", "proba peak MB", in_units_of(1e6)),
)
EXPONENTS = {"fit_s": "fit time", "predict_s": "predict_proba time", "fit_bytes": "fit memory"}


def parse_arguments(arguments=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add(
        "--ranges",
        nargs="*",
        choices=RANGES,
        default=list(RANGES),
        metavar="NAME",
        help=f"sizes to vary, by default all: {', '.join(RANGES)}",
    )
    add("--quick", action="store_true", help="few rows, and only the small sizes of each range")
    add("--large", action="store_true", help="add 200,000 rows, 2**20 features, 1,000 classes")
    add("--million", action="store_true", help="add 1,000,000 rows and 10,000 classes")
    add("--bandwidth", action="store_true", help="add the bandwidth of prediction, 20 Newsgroups")
    add("--top-k", type=int, default=8, help="the fixed sparsity level")
    add("--threads", type=int, default=2, help="threads of fit and prediction")
    add("--repeats", type=int, default=5, help="calls of which the median is reported")
    add("--budget", type=float, default=20.0, help="seconds after which no call is repeated")
    add("--timeout", type=float, default=1800.0, help="seconds after which a case is stopped")
    add("--json", metavar="FILE", help="write all results")
    add("--figure", metavar="FILE", help="draw time and memory against size")
    return parser.parse_args(arguments)


def main(arguments=None):
    """Measure, print tables and exponents, write the requested files; return all results."""
    options = parse_arguments(arguments)
    shown = ("top_k", "threads", "repeats", "budget", "quick")
    results = {
        "machine": describe_machine(),
        "settings": {name: getattr(options, name) for name in shown},
        "ranges": {},
        "cases": {},
    }
    ranges = {name: cases_of(name, options) for name in options.ranges}
    alone = (LARGE if options.large else {}) | (MILLION if options.million else {})
    with progress_bar(sum(map(len, ranges.values())) + len(alone)) as bar:
        for name, cases in ranges.items():
            points = run_cases(name, cases, options, bar)
            measured = {"points": points, "exponents": fit_exponents(name, points)}
            results["ranges"][name] = measured
            bar.write(format_range(name, measured))
            write_json(results, options.json)  # after each range, as long runs may be interrupted
        for name, case in alone.items():
            case = replace(case, top_k=options.top_k)
            (results["cases"][name],) = run_cases(name, [case], options, bar)
            bar.write(format_case(name, results["cases"][name]))
    if options.bandwidth:
        results["bandwidth"] = measure_bandwidth(options)
    write_json(results, options.json)
    if options.figure and options.ranges:
        draw_figure(results, options.figure)
    return results


def cases_of(name, options):
    """Return the cases of a range, smallest first."""
    base, field, sizes = RANGES[name]
    base = replace(base, top_k=options.top_k)
    if options.quick:
        base, sizes = replace(base, rows=QUICK_ROWS), sizes[:QUICK_SIZES]
    return [replace(base, **{field: size}) for size in sizes]


def run_cases(name, cases, options, bar):
    """Run cases one after the other; return their figures."""
    points = []
    for case in cases:
        bar.set_description(name)
        points.append(run_case(case, options))
        bar.update()
    return points


def run_case(case, options):
    """Measure one case in its own process; return its figures, or the reason of its failure."""
    task = {"case": asdict(case)}
    task |= {name: getattr(options, name) for name in ("threads", "repeats", "budget")}
    command = [sys.executable, Path(__file__).with_name("scaling_worker.py"), json.dumps(task)]
    env = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(options.threads))}
    try:
        done = subprocess.run(
            command, env=env, check=True, timeout=options.timeout, capture_output=True, text=True
        )
    except subprocess.TimeoutExpired:
        return {**asdict(case), "failed": f"stopped after {options.timeout:g} s"}
    except subprocess.CalledProcessError as error:
        reason = error.stderr.strip().splitlines() or [str(error)]
        return {**asdict(case), "failed": reason[-1]}
    return json.loads(done.stdout)


def fit_exponent(sizes, values):
    """Return the slope of log value over log size in the upper half of a range.

    At least three points are used. With fewer points the result is None.
    """
    if len(sizes) < 3:
        return None
    first = min(len(sizes) // 2, len(sizes) - 3)
    slope, _ = np.polyfit(np.log(sizes[first:]), np.log(values[first:]), 1)
    return float(slope)


def fit_exponents(size, points):
    """Return the exponents of time and memory over the points that were measured."""
    ran = [point for point in points if "failed" not in point]
    sizes = [point[size] for point in ran]
    return {key: fit_exponent(sizes, [point[key] for point in ran]) for key in EXPONENTS}


def format_points(size, points):
    """Return a table with a row per point, and a line per failure."""
    ran = [point for point in points if "failed" not in point]
    columns = [column for column in COLUMNS if column[0] != size]
    cells = [[size, *(heading for _, heading, _ in columns)]]
    for point in ran:
        texts = (write(point[key]) for key, _, write in columns)
        cells.append([f"{point[size]:,.4g}" if size == "nonzeros" else f"{point[size]:,}", *texts])
    failures = (f"  {point}" for point in points if "failed" in point)
    return "\n".join([as_text(cells), *failures])


def format_range(name, measured):
    """Return the report on one range."""
    lines = [f"\n{name}:", format_points(name, measured["points"])]
    for key, exponent in measured["exponents"].items():
        text = "too few points" if exponent is None else f"{name} ** {exponent:.2f}"
        lines.append(f"  {EXPONENTS[key]} ~ {text}")
    return "\n".join(lines)


def format_case(name, point):
    """Return the report on a case that belongs to no range."""
    return f"\n{name}, {point['features']:,} features:\n{format_points('classes', [point])}"


def measure_bandwidth(options):
    """Return the bandwidth on 20 Newsgroups, or an entry `missing` without the texts."""
    with tempfile.TemporaryDirectory() as cache:
        try:
            figures = run_bandwidth("20newsgroups", cache, options.threads, options.repeats)
        except MissingCorpusError as error:
            print(f"\n20newsgroups: missing, not run: {error}")
            return {"missing": str(error)}
    print("\n" + format_bandwidth(figures))
    return figures


if __name__ == "__main__":
    main()
