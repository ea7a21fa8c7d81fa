"""What a sample without any known feature gets."""

import numpy as np

from .._csr import csr_arrays

# Chosen by hand; docs/design/ has the record.
EMPTY_STRENGTH = 10.0  # of all samples, beside those without features, in samples of mean weight
SMALLEST_SHARE = 1e-8  # of a class


def measure_prior(problem, draft, router):
    """Measure the logits of samples without a connected feature, (n_classes,).

    They are those of the shares of the classes among the training samples without such features.
    To these, all samples together are added, with the weight of a few. In a stream, the samples
    of earlier calls count as well.
    """
    data = problem.data
    weight = data.sample_weight.astype(np.float64)
    empty = problem.engine.find_empty(csr_arrays(data.X), 0, len(weight), csr_arrays(router))
    strength = EMPTY_STRENGTH * weight.mean()
    shares = data.labels.T @ weight / weight.sum()
    shares = data.labels.T @ (empty * weight) + strength * shares
    shares /= weight[empty].sum() + strength
    earlier = draft.earlier
    if earlier is not None and draft.prior_logits is not None:
        total = weight.sum()
        before = _shares_of(draft.prior_logits.astype(np.float64), problem.options.multilabel)
        shares = (total * shares + earlier.total * before) / (total + earlier.total)
    return logits_of(shares, problem.options.multilabel).astype(data.X.dtype)


def logits_of(shares, multilabel):
    """Logits with which the classes, or labels, have some shares; finite."""
    shares = np.clip(shares, SMALLEST_SHARE, 1 - SMALLEST_SHARE)
    return np.log(shares) - (np.log1p(-shares) if multilabel else 0)


def _shares_of(logits, multilabel):
    """Undo `logits_of`."""
    return 1 / (1 + np.exp(-logits)) if multilabel else np.exp(logits) / np.exp(logits).sum()
