"""Count the functions that one call of an estimator passes through.

    python examples/benchmarks/count_calls.py

prints, for a fit and a prediction of skparse and of its peers in scikit-learn, how many distinct
functions of the library run, in how many files, and how deep they are nested. Comprehensions and
lambdas are not counted. ``--list`` names the functions.
"""

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import sklearn
from sklearn.datasets import make_classification
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.linear_model import SGDClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.svm import LinearSVC

import skparse
from skparse import SparseExpertClassifier
from skparse.datasets import make_topic_documents


class Calls(NamedTuple):
    """What one call has passed through."""

    functions: set  # of (file, qualified name)
    depth: int  # functions of the library on the stack at the same time, at most

    @property
    def n_files(self):
        return len({file for file, _ in self.functions})


def count_calls(library, function, *arguments):
    """Call a function and count the functions of a library that it passes through.

    Parameters
    ----------
    library : module
        Only functions whose code is below the folder of its ``__init__`` are counted.
    function : callable
    *arguments : passed to it

    Returns
    -------
    Calls
    """
    folder, functions, depth, deepest = Path(library.__file__).parent, set(), 0, 0
    prefix = f"{folder}/"

    def follow(frame, event, _):
        nonlocal depth, deepest
        code = frame.f_code
        if not code.co_filename.startswith(prefix) or code.co_name.startswith("<"):
            return
        if event == "call":
            functions.add((code.co_filename.removeprefix(prefix), code.co_qualname))
            depth += 1
            deepest = max(deepest, depth)
        elif event == "return":
            depth -= 1

    sys.setprofile(follow)
    try:
        function(*arguments)
    finally:
        sys.setprofile(None)
    return Calls(functions, deepest)


# Documents with a low-rank term, with many words, with two classes: each has its own stages.
PROBLEMS = {
    "short texts, 24 classes": {"n_topics": 24, "n_classes": 24, "document_length": 12},
    "long texts, 8 classes": {"n_topics": 8, "n_classes": 8, "document_length": 90},
    "two classes": {"n_topics": 2, "n_classes": 2, "document_length": 40},
}

DENSE = "dense table, 3 classes"


def make_problem(name):
    """Draw 3,000 documents, or the rows of a table; returns (X, y)."""
    if name == DENSE:
        return make_classification(3000, 20, n_informative=8, n_classes=3, random_state=0)
    X, y = make_topic_documents(3000, 900, **PROBLEMS[name], random_state=0, return_X_y=True)
    return TfidfTransformer(sublinear_tf=True).fit_transform(X).astype(X.dtype), y


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="name the functions of skparse")
    names = parser.parse_args().list
    print(f"{'':24} {'':24} {'functions':>9} {'files':>6} {'depth':>6}")
    for problem in [*PROBLEMS, DENSE]:
        X, y = make_problem(problem)
        for library, model, method in [
            (skparse, SparseExpertClassifier(random_state=0), "predict_proba"),
            (sklearn.neural_network, MLPClassifier(max_iter=1), "predict_proba"),
            (sklearn.linear_model, SGDClassifier(loss="log_loss"), "predict_proba"),
            (sklearn.svm, LinearSVC(), "predict"),
        ]:
            fit, predict = count(library, model, method, X, y)
            for step, calls in {"fit": fit, method: predict}.items():
                label = f"{type(model).__name__}.{step}"
                numbers = f"{len(calls.functions):9} {calls.n_files:6} {calls.depth:6}"
                print(f"{problem:24} {label:36} {numbers}")
                if names and library is skparse:
                    print(
                        *(f"    {file}: {name}" for file, name in sorted(calls.functions)),
                        sep="\n",
                    )


def count(library, model, method, X, y):
    """Count a fit and a prediction after a first one, which may load code."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLPClassifier runs one epoch only
        model.fit(X, y)
        getattr(model, method)(X)
        fit = count_calls(library, model.fit, X, y)
        return fit, count_calls(library, getattr(model, method), X)


if __name__ == "__main__":
    main()
