"""Predictions for many rows: blocks, threads, any K."""

import numpy as np
from joblib import effective_n_jobs
from scipy import sparse

from ._parameters import csr_parts
from ._threads import map_threads

# Fewer nonzeros than this are less than a millisecond of work, not worth a second thread, which
# costs a fifth of one.
WORTH_THREADS = 2**16
# Nonzeros per feature from which a prediction with two experts connects all features to both.
WORTH_CONNECTING = 8
# Numbers that a block may need for itself: they stay in the cache.
BLOCK_NUMBERS = 2**18


def run_blocks(function, X, parameters, n_jobs, n_scratch=0):
    """Call ``function(first, last)`` for blocks of rows of X, in threads if that is faster.

    ``n_scratch`` is how many numbers a row needs beside what is returned; it limits the blocks.
    """
    n_rows = X.shape[0]
    work = _count_work(X, len(parameters.router_intercept))
    n_threads = effective_n_jobs(n_jobs) if work > WORTH_THREADS else 1
    # Two blocks per thread: one that is slower than the others does not keep all waiting.
    size = n_rows if n_threads == 1 else -(-n_rows // (2 * n_threads))
    size = max(1, min(size, BLOCK_NUMBERS // max(1, n_scratch)))
    firsts = range(0, n_rows, size)
    lasts = [min(first + size, n_rows) for first in firsts]
    return map_threads(function, firsts, lasts, n_threads=n_threads)


def connect_for_many(X, parameters):
    """Connect every feature to both of two experts, if X is large enough to pay for it.

    The kernels then need not look up where the weights of a feature lie.
    """
    router = parameters.router
    if router.shape[1] != 2 or X.nnz < WORTH_CONNECTING * router.shape[0]:
        return parameters
    index = sparse.get_index_dtype(maxval=2 * router.shape[0])
    indptr = np.arange(0, 2 * router.shape[0] + 1, 2, dtype=index)
    indices = np.tile(np.arange(2, dtype=index), router.shape[0])
    filled = sparse.csr_array((router.toarray().ravel(), indices, indptr), shape=router.shape)
    return parameters._replace(router=filled)


def _count_work(X, n_experts):
    """Count the nonzeros, of a model of 16 experts, that would take as long as all rows.

    Fewer experts make a nonzero cheaper, more do not make it dearer. A row by itself takes as
    long as 16 nonzeros, and one more for every 32 experts.
    """
    return X.nnz * min(n_experts, 16) // 16 + X.shape[0] * (16 + n_experts // 32)


def compute_logits(X, parameters, top_k, engine, n_jobs):
    """Logits of all rows, (n_samples, n_classes) in the dtype of the model."""
    return _fill_rows(engine.logits, X, parameters, top_k, n_jobs)


def compute_probabilities(X, parameters, top_k, engine, n_jobs):
    """Softmax of the logits of all rows, (n_samples, n_classes) in the dtype of the model."""
    return _fill_rows(engine.probabilities, X, parameters, top_k, n_jobs)


def _fill_rows(write, X, parameters, top_k, n_jobs):
    out = np.empty((X.shape[0], len(parameters.intercept)), parameters.dtype)

    def fill(first, last):
        _write_block(write, X, first, last, parameters, top_k, out[first:last])

    run_blocks(fill, X, parameters, n_jobs)
    return out


def compute_logits_path(X, parameters, top_ks, engine, n_jobs):
    """Logits of all rows at every K of an ascending list, (n_top_ks, n_samples, n_classes)."""
    shape = len(top_ks), X.shape[0], len(parameters.intercept)
    out = np.empty(shape, parameters.dtype)
    router, expert = csr_parts(parameters.router), csr_parts(parameters.expert)
    levels = np.asarray(top_ks, np.int64)

    def fill(first, last):
        block = out[:, first:last]
        engine.logits_path(
            csr_parts(X), first, last, router, expert, parameters.intercepts, levels, block
        )

    run_blocks(fill, X, parameters, n_jobs)
    return out


def compute_best_class(X, parameters, top_k, engine, n_jobs):
    """Position of the largest logit of every row, (n_samples,), without storing the logits."""
    best = np.empty(X.shape[0], np.intp)

    def fill(first, last):
        logits = np.empty((last - first, len(parameters.intercept)), parameters.dtype)
        _write_block(engine.logits, X, first, last, parameters, top_k, logits)
        logits.argmax(axis=1, out=best[first:last])

    run_blocks(fill, X, parameters, n_jobs, n_scratch=len(parameters.intercept))
    return best


def _write_block(write, X, first, last, parameters, top_k, out):
    write(
        csr_parts(X),
        first,
        last,
        csr_parts(parameters.router),
        csr_parts(parameters.expert),
        parameters.intercepts,
        top_k,
        out,
    )


def compute_codes(X, parameters, top_k, engine, n_jobs):
    """Gate weights of the kept experts, a CSR array (n_samples, n_experts)."""

    def codes(first, last):
        indices, weights, used = _codes_of_block(X, first, last, parameters, top_k, engine)
        return indices[used], weights[used], used.sum(axis=1)

    blocks = run_blocks(codes, X, parameters, n_jobs, n_scratch=3 * top_k)
    indices, weights, counts = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    indptr = np.concatenate([[0], np.cumsum(counts)])
    shape = X.shape[0], len(parameters.router_intercept)
    codes = sparse.csr_array((weights, indices, indptr), shape=shape)
    codes.sort_indices()
    return codes


def count_load(X, parameters, top_k, engine, n_jobs):
    """Count the rows that keep each expert, (n_experts,)."""
    n_experts = len(parameters.router_intercept)

    def count(first, last):
        indices, _, used = _codes_of_block(X, first, last, parameters, top_k, engine)
        return np.bincount(indices[used], minlength=n_experts)

    return np.sum(run_blocks(count, X, parameters, n_jobs, n_scratch=3 * top_k), axis=0)


def _codes_of_block(X, first, last, parameters, top_k, engine):
    """Kept experts, their weights and which places are used, each (last - first, top_k)."""
    shape = last - first, min(top_k, len(parameters.router_intercept))
    indices, weights = np.zeros(shape, np.int64), np.zeros(shape, parameters.dtype)
    counts = np.zeros(len(indices), np.int64)
    rows, router = np.arange(first, last), csr_parts(parameters.router)
    engine.codes(
        csr_parts(X), rows, router, parameters.router_intercept, 1.0, shape[1], indices, weights,
        counts,
    )  # fmt: skip
    return indices, weights, np.arange(shape[1]) < counts[:, None]


def softmax(logits):
    """Softmax over the last axis, in place."""
    logits -= logits.max(axis=-1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=-1, keepdims=True)
    return logits


def sigmoid(logits):
    """Logistic function of every logit, strictly inside (0, 1), in place."""
    edge = np.finfo(logits.dtype).eps
    small = np.exp(-np.abs(logits))
    positive = logits >= 0
    np.divide(np.where(positive, 1, small), 1 + small, out=logits)
    return np.clip(logits, edge, 1 - edge, out=logits)
