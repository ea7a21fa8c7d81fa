"""Measure what several experts per class, and K, are good for.

    OMP_NUM_THREADS=1 python examples/benchmarks/experts.py --embeddings FOLDER \\
        --output docs/experts.json
    python examples/benchmarks/experts_page.py docs/experts.json docs/experts.md

There are four parts: tables, sentence embeddings, TF-IDF of texts, and the accuracy at every K.
FOLDER has `banking77_train.npz`, `banking77_test.npz`, `clinc150_train.npz` and
`clinc150_test.npz`, each with the arrays X (n_samples, n_features) and y (n_samples,). The texts
are those of `corpora.py`. A data set that is missing is reported and skipped.
"""

import argparse
import json
import pickle
import sys
import time
from collections import namedtuple
from functools import partial
from pathlib import Path

import numpy as np
from corpora import CORPORA, FURTHER_SETS, MissingCorpusError
from experts_page import ONE, OURS, TOP_KS, build_page
from measure import describe_machine
from problems import build_problem
from sklearn import datasets
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from threadpoolctl import threadpool_limits

from skparse import SparseExpertClassifier
from skparse.model_selection import TopKSearchCV

REPEATED_BELOW = 8  # seconds; shorter fits are timed twice
MAX_CLASSES = 23  # with more, eight experts per class are not fitted unless "auto" takes them
GROUP_SEED = 1  # of the random groups of classes
# Data sets whose accuracy at every K is also measured with two experts for three classes.
SHARED = ("20newsgroups-stripped", "banking77", "clinc150", "r52_raw")
Task = namedtuple("Task", "name X_train y_train X_test y_test")


def make_tables(n_samples, seed):
    """Return a dict of (X, y) by name."""
    rng = np.random.RandomState(seed)
    X = rng.uniform(-1, 1, size=(n_samples, 10))
    xor = np.where(X[:, 0] * X[:, 1] > 0, "same", "different")
    y = np.arange(n_samples) % 2
    angle = 3 * np.pi * np.sqrt(rng.uniform(0.05, 1, n_samples))
    spiral = np.column_stack([np.cos(angle + np.pi * y), np.sin(angle + np.pi * y)])
    spiral = spiral * angle[:, None] + rng.normal(scale=0.3, size=(n_samples, 2))
    shape = {"n_features": 20, "n_classes": 3, "n_clusters_per_class": 4}
    sample = {"n_samples": n_samples, "random_state": seed}
    clusters = {
        f"3 classes of 4 clusters in {number} columns": datasets.make_classification(
            n_informative=number, **shape, **sample
        )
        for number in (8, 12)
    }
    return {
        "circles": datasets.make_circles(noise=0.1, factor=0.5, **sample),
        "XOR": (X[:, :2], xor),
        "XOR, 8 noise features": (X, xor),
        "two spirals": (spiral, y),
        **clusters,
        "digits": datasets.load_digits(return_X_y=True),
        "moons": datasets.make_moons(noise=0.2, **sample),
        "breast cancer": datasets.load_breast_cancer(return_X_y=True),
        "wine": datasets.load_wine(return_X_y=True),
    }


def merge(labels, n_groups):
    """Return a function that maps labels to random groups of classes of nearly equal number."""
    classes = np.unique(labels)
    groups = np.random.RandomState(GROUP_SEED).permutation(np.arange(len(classes)) % n_groups)
    return lambda labels: groups[np.searchsorted(classes, labels)]


def grouped(task, n_groups):
    """Return the task with its classes merged into random groups."""
    group = merge(task.y_train, n_groups)
    name = f"{task.name} in {n_groups} groups"
    return task._replace(name=name, y_train=group(task.y_train), y_test=group(task.y_test))


def load_embeddings(folder, name):
    """Read the embeddings of the training and test texts of a data set."""
    arrays = []
    for part in ("train", "test"):
        with np.load(Path(folder) / f"{name}_{part}.npz") as file:
            arrays += [file["X"], file["y"]]
    return Task(name, *arrays)


def load_text(name, seed):
    """Read the TF-IDF matrices of a data set."""
    problem = build_problem(CORPORA[name](), "float32", seed)
    return Task(name, problem.train.X, problem.train.y, problem.test.X, problem.test.y)


def dense_models(n_classes, seed):
    """Return the models of tables and embeddings by name; the columns are standardised."""
    models = {
        OURS: SparseExpertClassifier(random_state=seed),
        ONE: SparseExpertClassifier(n_classes, random_state=seed),
        "MLPClassifier": MLPClassifier((100,), max_iter=1000, random_state=seed),
        "LogisticRegression": LogisticRegression(max_iter=1000),
    }
    return {name: make_pipeline(StandardScaler(), model) for name, model in models.items()}


def text_models(n_classes, seed):
    """Return the models of texts by name."""
    ours = partial(SparseExpertClassifier, random_state=seed)
    models = {OURS: ours(), ONE: ours(n_classes), "LinearSVC": LinearSVC(random_state=seed)}
    return models | ({"8 per class": ours(8 * n_classes)} if n_classes <= MAX_CLASSES else {})


def cpu_seconds(call):
    """Return the CPU seconds of a call: other processes hardly change them."""
    start = time.process_time()
    call()
    return time.process_time() - start


def measure(model, task):
    """Fit a model; return accuracy, costs and number of experts."""
    fit_s = cpu_seconds(lambda: model.fit(task.X_train, task.y_train))
    if fit_s < REPEATED_BELOW:  # the first fit of a kind loads compiled kernels
        fit_s = min(fit_s, cpu_seconds(lambda: model.fit(task.X_train, task.y_train)))
    accuracy = float(model.score(task.X_test, task.y_test))
    predict_s = min(cpu_seconds(lambda: model.predict(task.X_test)) for _ in range(5))
    last = model[-1] if hasattr(model, "steps") else model
    return {
        "accuracy": accuracy,
        "fit_s": fit_s,
        "predict_us": 1e6 * predict_s / task.X_test.shape[0],
        "model_bytes": len(pickle.dumps(model)),
        "n_experts": int(getattr(last, "n_experts_", 0)),
    }


def cross_validate(model, X, y, seed):
    """Return the means over five stratified folds of what `measure` returns."""
    folds = StratifiedKFold(5, shuffle=True, random_state=seed).split(X, y)
    runs = [measure(model, Task("", X[a], y[a], X[b], y[b])) for a, b in folds]
    return {key: float(np.mean([run[key] for run in runs])) for key in runs[0]}


def measure_levels(task, seed, n_experts="auto"):
    """Return the test accuracy of one fit at every K, and the K that cross-validation chooses."""
    ours = SparseExpertClassifier(n_experts, random_state=seed)
    search = TopKSearchCV(ours, top_ks=TOP_KS, cv=3)
    model = search.fit(task.X_train, task.y_train).best_estimator_
    scores = [model.set_params(top_k=k).score(task.X_test, task.y_test) for k in TOP_KS]
    return {"levels": [float(s) for s in scores], "chosen": int(search.top_k_)}


def run(options):
    """Measure everything; returns the results."""
    seed, results = options.seed, {"machine": describe_machine(), "seed": options.seed}
    results |= {part: {} for part in ("tables", "embeddings", "texts", "levels", "skipped")}

    def add(part, name, row):
        results[part][name] = row
        print(f"{part}, {name}: {json.dumps(row)}", file=sys.stderr, flush=True)

    tables = make_tables(300 if options.quick else 1000, seed)
    if options.quick:
        tables = {"circles": tables["circles"]}
    for name, (X, y) in tables.items():
        models = dense_models(len(np.unique(y)), seed).items()
        add("tables", name, {title: cross_validate(model, X, y, seed) for title, model in models})
        if name in ("circles", "XOR"):
            parts = train_test_split(X, y, test_size=0.5, stratify=y, random_state=seed)
            add("levels", name, measure_levels(Task(name, *parts[::2], *parts[1::2]), seed))
    for name in ("banking77", "clinc150"):
        try:
            own = load_embeddings(options.embeddings or "", name)
        except FileNotFoundError:
            results["skipped"][f"embeddings of {name}"] = "no files in the folder --embeddings"
            continue
        for task in (grouped(own, 10), own):
            models = dense_models(len(np.unique(task.y_train)), seed)
            add("embeddings", task.name, {title: measure(m, task) for title, m in models.items()})
        levels = measure_levels(grouped(own, 10), seed)
        add("levels", f"{name} in 10 groups, embeddings", levels)
    groups = {"banking77": 10, "clinc150": 10, "20newsgroups-stripped": 2, "api_docs": 4}
    left_out = {"reuters90", *FURTHER_SETS}
    names = ["api_docs"] if options.quick else [name for name in CORPORA if name not in left_out]
    for name in names:
        try:
            own = load_text(name, seed)
        except MissingCorpusError as error:
            results["skipped"][name] = str(error)
            continue
        merged = [grouped(own, groups[name])] if name in groups else []
        for task in [*merged, own]:
            models = text_models(len(np.unique(task.y_train)), seed)
            add("texts", task.name, {title: measure(m, task) for title, m in models.items()})
        for task in merged:
            add("levels", f"{task.name}, TF-IDF", measure_levels(task, seed))
        if name in SHARED:
            n_experts = 2 * len(np.unique(own.y_train)) // 3
            levels = measure_levels(own, seed, n_experts)
            add("levels", f"{name}, {n_experts} experts, TF-IDF", levels)
    return results


def main(arguments=None):
    """Run, print and write what the command line asks for; returns the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--embeddings", metavar="FOLDER", help="sentence embeddings, see above")
    parser.add_argument("--output", metavar="FILE", help="write the results as JSON")
    parser.add_argument("--quick", action="store_true", help="a few small problems, for tests")
    parser.add_argument("--seed", type=int, default=0, help="of models, folds and tables")
    options = parser.parse_args(arguments)
    with threadpool_limits(1):
        results = run(options)
    print(build_page(results))
    if options.output:
        Path(options.output).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return results


if __name__ == "__main__":
    main()
