"""Measure one case of scaling.py in a separate process.

Started by scaling.py with the number of threads set in the environment:

    python scaling_worker.py '{"case": {...}, "threads": 2, "repeats": 3, "budget": 60}'

Prints the figures as one line of JSON.
"""

import json
import statistics
import sys
from dataclasses import asdict, dataclass

import numpy as np
from measure import PeakMemory, microseconds_per_row, time_calls
from sklearn.feature_extraction.text import TfidfTransformer

from skparse import SparseExpertClassifier
from skparse.datasets import make_topic_documents

PROBABILITIES_AT_ONCE = 2**26  # keeps the output of a prediction at 256 MB


@dataclass(frozen=True)
class Case:
    """One problem: the size of X, of its vocabulary and of the model."""

    rows: int = 20_000
    length: int = 70  # terms of a document; repeated ones make about 50 nonzeros of 70
    features: int = 2**16
    classes: int = 100
    experts: int | str = "auto"
    top_k: int = 8


def make_case(case, seed=0):
    """Draw the rows and classes of a case, as TF-IDF of topic documents in float32."""
    counts, y = make_topic_documents(
        case.rows,
        case.features,
        n_topics=case.classes,
        n_classes=case.classes,
        document_length=case.length,
        terms_per_topic=min(20, case.features),
        random_state=seed,
        return_X_y=True,
    )
    return TfidfTransformer(sublinear_tf=True).fit_transform(counts, y), y


def build_model(case, threads):
    """Return the unfitted classifier of a case."""
    return SparseExpertClassifier(
        n_experts=case.experts, top_k=case.top_k, n_jobs=threads, random_state=0
    )


def warm_up(case, threads):
    """Fit and predict a tiny problem, for imports and compiled code."""
    tiny = Case(rows=200, features=100, classes=4, top_k=min(case.top_k, 4))
    X, y = make_case(tiny)
    build_model(tiny, threads).fit(X, y).predict_proba(X)


def measure_case(case, threads, repeats, budget):
    """Return size, seconds and bytes of fitting and predicting one case."""
    warm_up(case, threads)
    X, y = make_case(case)
    model = build_model(case, threads)
    with PeakMemory() as fit_memory:
        seconds = time_calls(lambda: model.fit(X, y), 1)
    seconds += time_calls(lambda: model.fit(X, y), repeats - 1, budget - seconds[0])
    some = X[: max(1, PROBABILITIES_AT_ONCE // case.classes)]
    with PeakMemory() as predict_memory:
        model.predict_proba(some)
    predict_us = microseconds_per_row(model.predict_proba, some, some.shape[0], repeats, budget)
    router = model.router_coef_
    return {
        **asdict(case),
        "experts": model.n_experts_,
        "nonzeros": X.nnz / X.shape[0],
        "visits": float(np.diff(router.indptr)[X.indices].mean()),  # connections per nonzero
        "X_bytes": csr_bytes(X),
        "router_bytes": csr_bytes(router),
        "fit_s": statistics.median(seconds),
        "fit_s_each": seconds,
        "fit_bytes": fit_memory.extra_bytes,
        "process_bytes": fit_memory.total_bytes,
        "predict_us": predict_us,
        "predict_s": 1e-6 * predict_us * case.rows,
        "predict_bytes": predict_memory.extra_bytes,
        "train_accuracy": float(np.mean(model.predict(some) == y[: some.shape[0]])),
    }


def csr_bytes(matrix):
    """Return the bytes of the three arrays of a CSR matrix."""
    return matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes


if __name__ == "__main__":
    task = json.loads(sys.argv[1])
    print(json.dumps(measure_case(Case(**task.pop("case")), **task)))
