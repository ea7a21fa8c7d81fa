"""Streams of short texts: accuracy over rows, time and memory beside ``SGDClassifier``.

    python examples/benchmarks/streams.py
    python examples/benchmarks/streams.py --rows 200000 --chunk 1000
    python examples/benchmarks/streams.py --corpora clinc150 20newsgroups ag_news imdb
    python examples/benchmarks/streams.py --one-row
    python examples/benchmarks/streams.py --new-class

The texts are made: a vocabulary of 200,000 words whose frequencies follow Zipf's law and differ
between 20 classes; 5 % of the labels are replaced by random ones. They are hashed into 2**20
features beforehand. Each model learns in a process of its own, which reports its CPU time without
predictions, and its largest memory beyond that before (on Linux). The other options need the data
of `corpora.py`, compare the time of calls with a single row, or add a class late.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from corpora import CORPORA, MissingCorpusError
from scipy import sparse
from sklearn.feature_extraction.text import HashingVectorizer, TfidfVectorizer
from sklearn.linear_model import SGDClassifier

from skparse import SparseExpertClassifier

N_TEST = 20_000
MARKS = 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000


def make_texts(n_samples, n_classes=20, *, n_words=200_000, spread=1.6, wrong=0.05, seed=0):
    """Draw short texts of about nine words; returns (texts, labels)."""
    rng = np.random.default_rng(seed)
    frequency = 1 / (np.arange(n_words) + 20.0)
    affinity = rng.standard_normal((n_classes, n_words)).astype(np.float32)
    classes = rng.integers(n_classes, size=n_samples)
    lengths = rng.poisson(6, size=n_samples) + 3
    edges = np.concatenate([[0], np.cumsum(lengths)])
    words, of_word = np.empty(edges[-1], np.int64), np.repeat(classes, lengths)
    for label in range(n_classes):
        shares = np.cumsum(frequency * np.exp(spread * affinity[label]))
        places = np.flatnonzero(of_word == label)
        drawn = np.searchsorted(shares / shares[-1], rng.random(len(places)))
        words[places] = np.minimum(drawn, n_words - 1)
    names = np.char.add("w", np.arange(n_words).astype(str)).astype(object)[words]
    texts = [" ".join(names[a:b]) for a, b in zip(edges[:-1], edges[1:], strict=True)]
    is_wrong = rng.random(n_samples) < wrong
    return texts, np.where(is_wrong, rng.integers(n_classes, size=n_samples), classes)


def make_model(name, seed=0):
    """Make one of the compared models."""
    if name == "SGDClassifier":
        return SGDClassifier(alpha=1e-6, random_state=seed)
    return SparseExpertClassifier(random_state=seed)


def stream(model, X, y, chunk, classes, marks=(), score=None):
    """Pass rows to `partial_fit` in chunks; returns the CPU time and the scores at the marks."""
    seconds, scores = 0.0, {}
    for first in range(0, X.shape[0], chunk):
        last = min(first + chunk, X.shape[0])
        begin = time.process_time()
        model.partial_fit(X[first:last], y[first:last], classes=classes)
        seconds += time.process_time() - begin
        scores |= {mark: score(model) for mark in marks if first < mark <= last}
    return seconds, scores


def read_memory(name):
    """Return a figure of the memory of this process in MiB, as Linux counts it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def run_worker(folder, name, n_rows, chunk):
    """Learn the rows of a folder; prints the results as JSON."""
    X, y = sparse.load_npz(folder / "X.npz"), np.load(folder / "y.npy")
    X_test, y_test, classes = X[-N_TEST:], y[-N_TEST:], np.unique(y)
    # A first model of few features compiles the kernels.
    stream(make_model(name), X[:100, :1000], y[:100], 50, classes)
    Path("/proc/self/clear_refs").write_text("5")  # the largest memory is counted anew
    model, before = make_model(name), read_memory("VmRSS")
    if name == "fit":
        begin = time.process_time()
        model.fit(X[:n_rows], y[:n_rows])
        seconds = time.process_time() - begin
        scores = {n_rows: model.score(X_test, y_test)}
    else:
        marks = [mark for mark in MARKS if mark <= n_rows]
        seconds, scores = stream(
            model, X[:n_rows], y[:n_rows], chunk, classes, marks,
            lambda model: model.score(X_test, y_test),
        )  # fmt: skip
    print(json.dumps([seconds, scores, read_memory("VmHWM") - before]))


def compare(n_rows, chunks):
    """Print accuracy over rows, time and memory of streams in chunks, and of one fit."""
    texts, y = make_texts(n_rows + N_TEST)
    X = HashingVectorizer(n_features=2**20, dtype=np.float32).transform(texts)
    del texts
    with tempfile.TemporaryDirectory() as folder:
        sparse.save_npz(Path(folder) / "X.npz", X, compressed=False)
        np.save(Path(folder) / "y.npy", y)
        del X
        runs = [(name, n_rows, chunk) for name in MODELS for chunk in chunks]
        runs.append(("fit", min(n_rows, 200_000), 0))
        for name, rows, chunk in runs:
            worker = [sys.executable, __file__, "--worker", folder, name, str(rows), str(chunk)]
            done = subprocess.run(worker, check=True, capture_output=True, text=True)
            seconds, scores, memory = json.loads(done.stdout.splitlines()[-1])
            shown = "  ".join(f"{int(mark):,}: {value:.4f}" for mark, value in scores.items())
            what = f"{name}, chunks of {chunk:,}" if chunk else f"{name}, {rows:,} rows"
            print(f"{what:<45} {shown}  CPU {seconds:.1f} s, memory {memory:.0f} MiB", flush=True)


MODELS = "SparseExpertClassifier", "SGDClassifier"


def compare_corpora(names, chunk=1000, n_seeds=3):
    """Print the accuracy of streams of shuffled rows beside that of `fit`, on the test parts."""
    for name in names:
        try:
            corpus = CORPORA[name]()
        except MissingCorpusError as error:
            print(f"{name}: {error}")
            continue
        vectorizer = TfidfVectorizer(
            sublinear_tf=True, min_df=2, dtype=np.float32, **corpus.analyzer
        )
        X = vectorizer.fit_transform(corpus.train_text)
        X_test = vectorizer.transform(corpus.test_text)
        y, y_test = np.array(corpus.train_labels), np.array(corpus.test_labels)
        scores = {}
        for seed in range(n_seeds):
            order = np.random.default_rng(seed).permutation(len(y))
            for kind in MODELS:
                model = make_model(kind, seed)
                stream(model, X[order], y[order], chunk, np.unique(y))
                scores.setdefault(f"stream of {kind}", []).append(model.score(X_test, y_test))
            fitted = SparseExpertClassifier(random_state=seed).fit(X, y)
            scores.setdefault("fit", []).append(fitted.score(X_test, y_test))
        shown = ", ".join(f"{kind} {np.mean(values):.4f}" for kind, values in scores.items())
        print(f"{name}: {shown}", flush=True)


def time_single_rows(n_rows=200):
    """Print the time of calls with one row, for several numbers of features."""
    texts, y = make_texts(20_000 + n_rows)
    for bits in (16, 18, 20):
        X = HashingVectorizer(n_features=2**bits, dtype=np.float32).transform(texts)
        for name in MODELS:
            model = make_model(name).partial_fit(X[:20_000], y[:20_000], classes=np.unique(y))
            seconds, _ = stream(model, X[20_000:], y[20_000:], 1, None)
            print(f"2**{bits} features, {name}: {1000 * seconds / n_rows:.2f} ms a row")


def add_class(n_classes=300, n_rows=60_000, n_examples=10):
    """Print how a class that appears late is found after a few examples, and the others."""
    texts, y = make_texts(n_rows + 12_000, n_classes, n_words=20_000, spread=2.5, wrong=0.0)
    X = HashingVectorizer(n_features=2**18, dtype=np.float32).transform(texts)
    X, X_test, y, y_test = X[:n_rows], X[n_rows:], y[:n_rows], y[n_rows:]
    recalls, others = [], []
    for late in range(5):
        known, new = y != late, np.flatnonzero(y == late)[:n_examples]
        model = make_model("SparseExpertClassifier")
        stream(model, X[known], y[known], 5000, np.setdiff1d(np.arange(n_classes), late))
        rest, own = y_test != late, y_test == late
        before = model.score(X_test[rest], y_test[rest])
        model.partial_fit(X[new], y[new], classes=np.arange(n_classes))
        recalls.append(model.score(X_test[own], y_test[own]))
        others.append(model.score(X_test[rest], y_test[rest]) - before)
    print(f"recall of the new class {np.mean(recalls):.3f}, of the others {np.mean(others):+.4f}")


def main():
    """Parse the command line and run what it names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--chunk", type=int, nargs="+", default=[20_000])
    parser.add_argument("--corpora", nargs="+", choices=CORPORA)
    parser.add_argument("--one-row", action="store_true")
    parser.add_argument("--new-class", action="store_true")
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        folder, name, n_rows, chunk = options.worker
        run_worker(Path(folder), name, int(n_rows), int(chunk))
    elif options.corpora:
        compare_corpora(options.corpora)
    elif options.one_row:
        time_single_rows()
    elif options.new_class:
        add_class()
    else:
        compare(options.rows, options.chunk)


if __name__ == "__main__":
    main()
