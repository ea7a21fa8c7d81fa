"""Named small fits keep their bits while code moves.

``python tests/test_fitted_bits.py`` records the digests anew. On another processor than the one
they were recorded on, sums of the arrays are compared, with a relative tolerance of 1e-6.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from skparse import SparseExpertClassifier
from skparse.datasets import make_topic_documents

RECORDED = Path(__file__).with_suffix(".json")


def documents(n_samples, n_classes, length, seed=0, dtype=np.float32, **options):
    X, y = make_topic_documents(
        n_samples, 900, n_classes, n_classes=n_classes, document_length=length, dtype=dtype,
        random_state=seed, return_X_y=True, **options,
    )  # fmt: skip
    norms = np.sqrt(np.asarray(X.multiply(X).sum(axis=1)).ravel())
    X = sparse.csr_array(X)
    X.data = (X.data / np.repeat(np.maximum(norms, 1e-9), np.diff(X.indptr))).astype(dtype)
    rng = np.random.RandomState(seed)
    y = np.where(rng.uniform(size=len(y)) < 0.15, rng.randint(n_classes, size=len(y)), y)
    return X, y


def fit(X, y, sample_weight=None, **params):
    return SparseExpertClassifier(random_state=0, **params).fit(X, y, sample_weight)


def labels_of(y, n_classes):
    rng = np.random.RandomState(1)
    targets = np.eye(n_classes, dtype=int)[y]
    return np.maximum(targets, rng.uniform(size=targets.shape) < 0.1)


def fit_stream(dtype=np.float32, **params):
    X, y = documents(1500, 6, 20, dtype=dtype)
    model = SparseExpertClassifier(random_state=0, **params)
    for first in range(0, 1500, 500):
        rows = slice(first, first + 500)
        model.partial_fit(X[rows], y[rows], classes=np.arange(6))
    return model


def fit_twice(n_classes, **params):
    X, y = documents(2400, n_classes, 30)
    model = SparseExpertClassifier(random_state=0, warm_start=True, **params)
    model.fit(X[:1200], y[:1200])
    return model.fit(X[1200:], y[1200:])


PROBLEMS = {
    "text": lambda: fit(*documents(3000, 8, 90)),
    "text_float64": lambda: fit(*documents(3000, 8, 90, dtype=np.float64)),
    "short_text": lambda: fit(*documents(2500, 5, 12)),
    "two_classes": lambda: fit(*documents(3000, 2, 40)),
    "two_classes_float64": lambda: fit(*documents(1500, 2, 40, dtype=np.float64)),
    "low_rank": lambda: fit(*documents(3000, 24, 12), n_jobs=2),
    "low_rank_float64": lambda: fit(*documents(1200, 20, 12, dtype=np.float64)),
    "low_rank_many_experts": lambda: fit(*documents(1400, 300, 6)),
    "two_shards": lambda: fit(*documents(5000, 6, 20), n_jobs=2),
    "few_rows": lambda: fit(*documents(100, 4, 20)),
    "weights": lambda: fit(
        *documents(1500, 6, 20), sample_weight=np.arange(1500) % 4, class_weight="balanced"
    ),
    "top_k_1": lambda: fit(*documents(1500, 6, 20), top_k=1),
    "early_stopping": lambda: fit(*documents(1500, 6, 20), early_stopping=True, max_iter=8),
    "alpha": lambda: fit(*documents(2500, 6, 20), alpha=2.0, batch_size=16),
    "many_experts": lambda: fit(*documents(1500, 6, 20), n_experts=18),
    "few_experts": lambda: fit(*documents(1500, 9, 20), n_experts=4),
    "density": lambda: fit(*documents(1500, 6, 20), weight_density=0.3),
    "dense": lambda: fit(*documents(1500, 6, 20), weight_density=1.0),
    "negative": lambda: fit(-documents(1500, 6, 20)[0], documents(1500, 6, 20)[1]),
    "multilabel": lambda: fit(documents(1500, 6, 20)[0], labels_of(documents(1500, 6, 20)[1], 6)),
    "stream": fit_stream,
    "stream_float64": lambda: fit_stream(np.float64, weight_density=0.5),
    "warm_start": lambda: fit_twice(6),
    "warm_start_two_classes": lambda: fit_twice(2),
}


def fitted_arrays(model):
    return {
        "router_indptr": model.router_coef_.indptr.astype(np.int64),
        "router_indices": model.router_coef_.indices.astype(np.int64),
        "router": model.router_coef_.data,
        "router_intercept": model.router_intercept_,
        "outputs_indices": model.expert_coef_.indices.astype(np.int64),
        "outputs": model.expert_coef_.data,
        "intercept": model.intercept_,
        "load": model.expert_load_.astype(np.int64),
        "losses": np.array(model.loss_curve_),
        "alpha": np.array(model.alpha_),
        "t": np.array(model.t_),
    }


def describe(model):
    arrays = fitted_arrays(model)
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays.values()))
    sums = [float(np.abs(a, dtype=np.float64).sum()) for a in arrays.values()]
    return {"digest": digest.hexdigest()[:16], "sums": sums}


@pytest.mark.parametrize("name", PROBLEMS)
def test_fits_keep_their_bits(name):
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))[name]
    found = describe(PROBLEMS[name]())
    if found["digest"] != recorded["digest"]:
        np.testing.assert_allclose(found["sums"], recorded["sums"], rtol=1e-6)


if __name__ == "__main__":
    text = json.dumps({name: describe(make()) for name, make in PROBLEMS.items()}, indent=1)
    RECORDED.write_text(text + "\n", encoding="utf-8")
