"""What the tests ask of fitted models: equality bit by bit, and the equation in plain numpy."""

import hashlib

import numpy as np
from numpy.testing import assert_array_equal
from scipy.special import softmax


def fitted_arrays(model):
    """Return the arrays that make up a fitted model, by name."""
    arrays = {name: getattr(model, name) for name in ("router_intercept_", "intercept_")}
    for name in ("router_coef_", "expert_coef_"):
        matrix = getattr(model, name)
        for part in ("indptr", "indices", "data"):
            arrays[f"{name}.{part}"] = getattr(matrix, part)
    return arrays


def assert_same_model(first, second):
    """Fail unless both models have the same numbers, bit by bit, and the same classes."""
    assert_array_equal(first.classes_, second.classes_)
    others = fitted_arrays(second)
    for name, array in fitted_arrays(first).items():
        assert_array_equal(array, others[name], err_msg=name, strict="ind" not in name)


def digest(model):
    """Return a hash of the numbers of a fitted model."""
    parts = hashlib.sha256()
    for name, array in fitted_arrays(model).items():
        # Index arrays may come in either integer size.
        wide = array.astype(np.int64) if "ind" in name else array
        parts.update(wide.tobytes())
    return parts.hexdigest()


def reference_codes(model, X, top_k):
    """Gate weights of the seed equation, dense: (n_samples, n_experts)."""
    X = X.toarray() if hasattr(X, "toarray") else np.asarray(X)
    h = np.maximum(X @ model.router_coef_.toarray() + model.router_intercept_, 0)
    ranks = np.argsort(np.argsort(-h, axis=1, kind="stable"), axis=1)
    kept = (ranks < top_k) & (h > 0)
    weights = np.where(kept, np.exp(h - h.max(axis=1, keepdims=True)), 0)
    return weights / np.maximum(weights.sum(axis=1, keepdims=True), np.finfo(h.dtype).tiny)


def reference_proba(model, X, top_k):
    """Probabilities of the seed equation with its temperature, one label a sample."""
    codes = reference_codes(model, X, top_k)
    logits = codes @ model.expert_coef_.toarray() + model.intercept_
    known = model.temperatures_ is not None and top_k <= len(model.temperatures_)
    return softmax(logits / (model.temperatures_[top_k - 1] if known else 1), axis=1)
