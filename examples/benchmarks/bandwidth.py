"""Compare the bytes that predict_proba has to move per second with the machine's copy bandwidth.

    python examples/benchmarks/bandwidth.py --data 20newsgroups --threads 2

A prediction reads X once and, for every nonzero, the connections of its feature (an index and a
value each). It writes the output once. The ratio of the two rates includes the savings of the
caches and the cost of the computation: with a ratio of 1, a prediction is as fast as a plain copy
of the same number of bytes.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from compare import THREAD_VARIABLES
from corpora import CORPORA
from measure import time_calls
from problems import load_problem, prepare_problem

COPIED_BYTES = 2**28  # far beyond any cache


def copy_bandwidth(threads, n_bytes=COPIED_BYTES, repeats=7):
    """Return the bytes that numpy.copyto reads and writes per second, in `threads` threads."""
    source, target = np.ones(n_bytes, np.uint8), np.zeros(n_bytes, np.uint8)
    targets, sources = (np.array_split(array, threads) for array in (target, source))
    with ThreadPoolExecutor(threads) as pool:
        seconds = time_calls(lambda: list(pool.map(np.copyto, targets, sources)), repeats)
    return 2 * n_bytes / statistics.median(seconds)


def bytes_of_prediction(model, X):
    """Return the bytes that `model.predict_proba(X)` has to read and to write."""
    router = model.router_coef_
    visits = np.diff(router.indptr)[X.indices].sum(dtype=np.int64)
    return {
        "X": X.indptr.nbytes + X.indices.nbytes + X.data.nbytes,
        "connections": int(visits) * (router.indices.itemsize + router.data.itemsize),
        "probabilities": X.shape[0] * len(model.classes_) * router.data.itemsize,
    }


def measure_bandwidth(folder, threads, repeats):
    """Fit on a prepared problem, predict its test rows in bulk; return the figures."""
    from skparse import SparseExpertClassifier

    problem = load_problem(Path(folder), with_text=False)
    model = SparseExpertClassifier(n_jobs=threads, random_state=0)
    model.fit(problem.train.X, problem.train.y)
    X = problem.test.X
    model.predict_proba(X)
    seconds = statistics.median(time_calls(lambda: model.predict_proba(X), repeats))
    parts, copied = bytes_of_prediction(model, X), copy_bandwidth(threads)
    moved = sum(parts.values()) / seconds
    return {
        "rows": X.shape[0],
        "threads": threads,
        "bytes": parts,
        "predict_s": seconds,
        "predict_bytes_per_s": moved,
        "copy_bytes_per_s": copied,
        "ratio": moved / copied,
    }


def run_bandwidth(data, cache, threads, repeats):
    """Measure in a process of its own, with fixed threads; `cache` keeps the vectorised set."""
    folder = prepare_problem(data, cache, "float32", 0)
    task = {"folder": str(folder), "threads": threads, "repeats": repeats}
    command = [sys.executable, __file__, "--task", json.dumps(task)]
    env = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads))}
    done = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True)
    return {"data": data, **json.loads(done.stdout)}


def format_bandwidth(figures):
    """Return one paragraph on a measurement."""
    megabytes = ", ".join(f"{name} {n / 1e6:,.1f}" for name, n in figures["bytes"].items())
    return (
        f"predict_proba on {figures['data']}, {figures['rows']:,} rows in bulk, "
        f"{figures['threads']} threads: {megabytes} MB in {1e3 * figures['predict_s']:.1f} ms, "
        f"{figures['predict_bytes_per_s'] / 1e9:.2f} GB/s; copy "
        f"{figures['copy_bytes_per_s'] / 1e9:.2f} GB/s; ratio {figures['ratio']:.2f}"
    )


def main(arguments=None):
    """Measure and print; with ``--task``, run as the measuring process."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", choices=CORPORA, default="20newsgroups", metavar="NAME")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--cache", metavar="DIR", help="folder that keeps the vectorised set")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.task:
        print(json.dumps(measure_bandwidth(**json.loads(options.task))))
        return
    with tempfile.TemporaryDirectory() as scratch:
        settings = options.cache or scratch, options.threads, options.repeats
        print(format_bandwidth(run_bandwidth(options.data, *settings)))


if __name__ == "__main__":
    main()
