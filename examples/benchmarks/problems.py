"""A data set in the form that every model of the benchmark uses: X and integer classes.

A problem is passed to the measuring processes as a folder of plain arrays, so that only the arrays
themselves are in memory after loading.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from corpora import CORPORA, WORDS
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import MultiLabelBinarizer


@dataclass(frozen=True)
class Part:
    """Rows of a problem: TF-IDF matrix, classes, and the texts if they were loaded."""

    X: csr_matrix
    y: np.ndarray  # codes (n_samples,), or 0/1 (n_samples, n_classes) for several labels
    text: list | None = None


@dataclass(frozen=True)
class Problem:
    """Training and test rows, with the properties of the problem that models depend on."""

    train: Part
    test: Part
    n_classes: int
    multilabel: bool
    characters: bool  # features are character n-grams, not words

    def describe(self):
        """Return the figures that identify the problem in a report."""
        return {
            "n_train": self.train.X.shape[0],
            "n_test": self.test.X.shape[0],
            "n_features": self.train.X.shape[1],
            "nonzeros_per_row": self.train.X.nnz / self.train.X.shape[0],
            "X_bytes": sum(a.nbytes for a in _csr_arrays(self.train.X).values()),
            "n_classes": self.n_classes,
            "metric": "micro-F1" if self.multilabel else "accuracy",
        }


def encode_labels(train_labels, test_labels):
    """Return the two label lists as codes, or as indicator matrices if a label is a list."""
    if isinstance(train_labels[0], list):
        binarizer = MultiLabelBinarizer().fit([*train_labels, *test_labels])
        return binarizer.transform(train_labels), binarizer.transform(test_labels)
    # Classes of the test part alone come last, so training codes have no gaps.
    classes = list(np.unique(train_labels))
    unseen = sorted(set(test_labels) - set(classes))
    codes = {label: code for code, label in enumerate([*classes, *unseen])}
    return tuple(
        np.array([codes[label] for label in labels]) for labels in (train_labels, test_labels)
    )


def build_problem(corpus, dtype, seed):
    """Vectorise a corpus and shuffle the training rows, as some sets are sorted by class."""
    settings = {"sublinear_tf": True, "min_df": 2, "dtype": np.dtype(dtype).type}
    vectorizer = TfidfVectorizer(**settings, **corpus.analyzer)
    X_train = csr_matrix(vectorizer.fit_transform(corpus.train_text))
    X_test = csr_matrix(vectorizer.transform(corpus.test_text))
    y_train, y_test = encode_labels(corpus.train_labels, corpus.test_labels)
    order = np.random.default_rng(seed).permutation(X_train.shape[0])
    train_text = [corpus.train_text[row] for row in order]
    multilabel = y_train.ndim == 2
    return Problem(
        Part(X_train[order], y_train[order], train_text),
        Part(X_test, y_test, corpus.test_text),
        n_classes=y_train.shape[1] if multilabel else int(y_train.max()) + 1,
        multilabel=multilabel,
        characters=corpus.analyzer is not WORDS,
    )


def make_tiny_problem(like, n_rows=400, n_features=200, n_classes=3):
    """Make a small problem of the same types as `like`, for a first fit of a model."""
    rng = np.random.default_rng(0)
    y = np.arange(n_rows) % n_classes
    words = rng.integers(n_features // n_classes, size=(n_rows, 8)) * n_classes + y[:, None]
    X = csr_matrix(
        (np.ones(words.size), words.ravel(), np.arange(n_rows + 1) * words.shape[1]),
        shape=(n_rows, n_features),
        dtype=like.train.X.dtype,
    )
    X.sum_duplicates()
    text = [" ".join(f"word{word}" for word in row) for row in words]
    y = np.eye(n_classes, dtype=int)[y] if like.multilabel else y
    part = Part(X, y, text)
    return Problem(part, part, n_classes, like.multilabel, like.characters)


def save_problem(problem, folder):
    """Write a problem to a folder that exists."""
    for name in ("train", "test"):
        part = getattr(problem, name)
        np.savez(folder / f"{name}.npz", y=part.y, **_csr_arrays(part.X))
        (folder / f"{name}.json").write_text(json.dumps(part.text), encoding="utf-8")
    facts = {name: getattr(problem, name) for name in ("n_classes", "multilabel", "characters")}
    facts["n_features"] = problem.train.X.shape[1]
    (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")


def load_problem(folder, with_text=True):
    """Read the problem that `save_problem` wrote, the texts only if `with_text`."""
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    n_features = facts.pop("n_features")
    parts = {}
    for name in ("train", "test"):
        with np.load(folder / f"{name}.npz") as arrays:
            X = csr_matrix(
                (arrays["data"], arrays["indices"], arrays["indptr"]),
                shape=(len(arrays["indptr"]) - 1, n_features),
            )
            text = _read_text(folder / f"{name}.json") if with_text else None
            parts[name] = Part(X, arrays["y"], text)
    return Problem(**parts, **facts)


def prepare_problem(name, folder, dtype, seed):
    """Vectorise the set `name` into a folder below `folder`, unless it exists already."""
    target = Path(folder) / f"{name}-{np.dtype(dtype).name}-{seed}"
    # facts.json is written last, so a folder without it is incomplete.
    if not (target / "facts.json").exists():
        corpus = CORPORA[name]()
        target.mkdir(parents=True, exist_ok=True)
        save_problem(build_problem(corpus, dtype, seed), target)
    return target


def _csr_arrays(X):
    return {"data": X.data, "indices": X.indices, "indptr": X.indptr}


def _read_text(path):
    return json.loads(path.read_text(encoding="utf-8"))
