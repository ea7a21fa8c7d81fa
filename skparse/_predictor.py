"""Predictions for many rows: blocks, threads, any K."""

from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from ._csr import csr_arrays
from ._engines.arguments import Routes
from ._model import SparseExpertModel
from ._threads import open_threads

# Less work than this, in nonzeros, takes less than a millisecond: a second thread costs a fifth
# of one.
MIN_WORK_FOR_THREADS = 2**16
# Nonzeros per feature from which a prediction with two experts connects all features to both.
MIN_NONZEROS_PER_FEATURE = 8
# Numbers that a block may need for itself: they stay in the cache.
BLOCK_ENTRIES = 2**18


class Predictor(NamedTuple):
    """A model with the engine and the number of threads that compute its predictions.

    The scores of a row without a connected feature are b1, which says nothing about it. Such a row
    keeps no expert, and gets the prior logits of the model, if it has any.
    """

    model: SparseExpertModel
    engine: Any  # see `skparse._engines`
    n_threads: int

    def logits(self, X, top_k, *, as_probabilities=False):
        """Logits of all rows, or their softmax, (n_samples, n_classes) in the model's dtype."""
        write = self.engine.probabilities if as_probabilities else self.engine.logits
        model, rows = self.model.at_level(top_k), csr_arrays(X)
        intercept, arrays, prior = model.intercept, model.arrays(), model.prior_logits
        out = np.empty((X.shape[0], len(intercept)), intercept.dtype)
        find_empty = self.engine.find_empty
        if as_probabilities and prior is not None:
            prior = softmax(prior.copy())

        def fill(first, last):
            write(rows, first, last, arrays, top_k, out[first:last])
            if prior is not None:
                out[first:last][find_empty(rows, first, last, arrays.router)] = prior

        self.run_blocks(fill, X)
        return out

    def logits_path(self, X, top_ks):
        """Logits of all rows at every K of an ascending list, (n_top_ks, n_samples, n_classes)."""
        model, rows, arrays = self.model, csr_arrays(X), self.model.arrays()
        intercept, prior = model.intercept, model.prior_logits
        out = np.empty((len(top_ks), X.shape[0], len(intercept)), intercept.dtype)
        top_ks, write = np.asarray(top_ks, np.int64), self.engine.logits_path
        factors = [intercept.dtype.type(1 / model.temperature(top_k)) for top_k in top_ks]

        def fill(first, last):
            part = out[:, first:last]
            write(rows, first, last, arrays, top_ks, part)
            for logits, factor in zip(part, factors, strict=True):
                if factor != 1:
                    logits *= factor
            if prior is not None:
                part[:, self.engine.find_empty(rows, first, last, arrays.router)] = prior

        self.run_blocks(fill, X)
        return out

    def best_class(self, X, top_k):
        """Position of the largest logit of every row, (n_samples,), without storing the logits."""
        best, intercept = np.empty(X.shape[0], np.intp), self.model.intercept
        rows, arrays, prior = csr_arrays(X), self.model.arrays(), self.model.prior_logits

        def fill(first, last):
            logits = np.empty((last - first, len(intercept)), intercept.dtype)
            self.engine.logits(rows, first, last, arrays, top_k, logits)
            if prior is not None:
                logits[self.engine.find_empty(rows, first, last, arrays.router)] = prior
            logits.argmax(axis=1, out=best[first:last])

        self.run_blocks(fill, X, n_scratch=len(intercept))
        return best

    def codes(self, X, top_k):
        """Gate weights of the kept experts, a CSR array (n_samples, n_experts)."""
        blocks = self.run_blocks(
            lambda first, last: self.code_block(X, first, last, top_k), X, n_scratch=3 * top_k
        )
        return sparse.vstack(blocks, format="csr")

    def code_block(self, X, first, last, top_k):
        """Gate weights of the kept experts of some rows, a CSR array (last - first, n_experts)."""
        router, intercept, *_ = self.model.arrays()
        shape = last - first, min(top_k, len(intercept))
        routes = Routes(
            expert_indices=np.zeros(shape, np.int64),
            expert_weights=np.zeros(shape, intercept.dtype),
            counts=np.zeros(shape[0], np.int64),
        )
        rows = np.arange(first, last)
        self.engine.route(csr_arrays(X), rows, router, intercept, 1.0, shape[1], routes)
        if self.model.prior_logits is not None:
            routes.counts[self.engine.find_empty(csr_arrays(X), first, last, router)] = 0
        used = np.arange(shape[1]) < routes.counts[:, None]
        indptr = np.concatenate([[0], np.cumsum(routes.counts)])
        parts = routes.expert_weights[used], routes.expert_indices[used], indptr
        codes = sparse.csr_array(parts, shape=(shape[0], len(intercept)))
        codes.sort_indices()
        return codes

    def run_blocks(self, function, X, n_scratch=0):
        """Call ``function(first, last)`` for blocks of rows of X, in threads if that is faster.

        ``n_scratch`` is how many numbers a row needs beside what is returned; it limits the
        blocks.
        """
        n_rows, n_experts = X.shape[0], len(self.model.router_intercept)
        # In nonzeros of a model of 16 experts. Fewer experts make a nonzero cheaper, more do not
        # make it more expensive. A row by itself takes as long as 16 nonzeros, and one more for
        # every 32 experts.
        work = X.nnz * min(n_experts, 16) // 16 + n_rows * (16 + n_experts // 32)
        n_threads = self.n_threads if work > MIN_WORK_FOR_THREADS else 1
        # Two blocks per thread, so that a slow one does not delay the end by much.
        size = n_rows if n_threads == 1 else -(-n_rows // (2 * n_threads))
        size = max(1, min(size, BLOCK_ENTRIES // max(1, n_scratch)))
        firsts = range(0, n_rows, size)
        lasts = [min(first + size, n_rows) for first in firsts]
        if n_threads == 1:
            return [function(*block) for block in zip(firsts, lasts, strict=True)]
        with open_threads(n_threads) as threads:
            return threads.map(function, firsts, lasts)


def measure_accuracy(model, held_out, top_k, engine, n_threads):
    """Measure the accuracy on held-out samples, of which all labels have to be right."""
    predictor = Predictor(model, engine, n_threads)
    top_k = min(top_k, len(model.router_intercept))
    if held_out.multilabel:
        predicted = predictor.logits(held_out.X, top_k) > 0
        return float((predicted == held_out.labels.toarray()).all(axis=1).mean())
    return float((predictor.best_class(held_out.X, top_k) == held_out.labels.indices).mean())


def densify_two_experts(X, model):
    """Connect every feature to both of two experts, if X is large enough to pay for it.

    The kernels then need not look up where the weights of a feature are.
    """
    router = model.router
    if X.nnz < MIN_NONZEROS_PER_FEATURE * router.shape[0]:
        return model
    index = sparse.get_index_dtype(maxval=2 * router.shape[0])
    indptr = np.arange(0, 2 * router.shape[0] + 1, 2, dtype=index)
    indices = np.tile(np.arange(2, dtype=index), router.shape[0])
    filled = sparse.csr_array((router.toarray().ravel(), indices, indptr), shape=router.shape)
    return model._replace(router=filled)


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
