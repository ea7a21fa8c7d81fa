"""Experts of a dense X: where they start, and their epochs of Adam."""

from typing import NamedTuple

import numpy as np

from .._engines.arguments import AdamMoments, AdamOptions, DenseRouter, DenseRows
from .clusters import cluster_rows, squared_distances

# Chosen by cross-validation on training parts; docs/design/ has the record.
# Length of a step of Adam, per unit of ``learning_rate_init``.
ADAM_RATE = 0.2
STREAM_RATE = 0.05
MEAN_DECAY, SQUARE_DECAY, EPSILON = 0.9, 0.999, 1e-8
# The scores start at ``-2 ** exponent * squared distance``, in units of the mean squared distance
# to the nearest centre, with the exponent of least loss, and then so much flatter.
START_EXPONENTS = range(-6, 5)
START_FLATNESS = 0.3
MEASURED_ROWS = 2000  # at most, to choose it


class DenseExperts(NamedTuple):
    """Experts in the order of their classes, with a router for standardised columns."""

    class_starts: np.ndarray  # (n_classes + 1,) of int64, the first expert of each class
    router: DenseRouter

    def copy(self):
        """Copy the numbers of the router."""
        return self._replace(router=DenseRouter(*(part.copy() for part in self.router)))


def start_experts(problem, draft, rows, numbers):
    """Start every expert at the centre of a cluster of samples of its class.

    A score is the negative squared distance to the centre, times a factor, and up to what all
    scores have in common.

    Parameters
    ----------
    problem : Problem
    draft : Draft
    rows : ndarray of int
        The samples that take part.
    numbers : ndarray of int (n_classes,)
        The number of experts of each class.

    Returns
    -------
    DenseExperts
    """
    X, weight = draft.columns.values[rows], problem.data.sample_weight[rows]
    weight = weight.astype(np.float32)
    classes = problem.data.labels.indices[rows]
    centres = []
    for c, number in enumerate(numbers):
        own = classes == c
        if own.any():
            centres.append(cluster_rows(X[own], weight[own], number, problem.random_state))
        else:  # all samples of the class are held out
            centres.append(np.zeros((number, X.shape[1]), X.dtype))
    centres = np.concatenate(centres)
    class_starts = np.concatenate([[0], np.cumsum(numbers)])
    factor = _choose_steepness(X, weight, classes, centres, class_starts)
    router = DenseRouter(
        np.ascontiguousarray((2 * factor * centres).T),
        -factor * np.einsum("kj,kj->k", centres, centres),
    )
    return DenseExperts(class_starts, router)


def _choose_steepness(X, weight, classes, centres, class_starts):
    """Choose the factor on the squared distances, a number in the dtype of X."""
    step = -(-len(X) // MEASURED_ROWS)
    X, weight, classes = X[::step], weight[::step].astype(np.float64), classes[::step]
    distances = squared_distances(X, centres).astype(np.float64)
    unit = 1 / max((weight * distances.min(axis=1)).sum() / weight.sum(), 1e-6)
    expert_class = np.repeat(np.arange(len(class_starts) - 1), np.diff(class_starts))
    is_own = expert_class == classes[:, None]
    distances -= distances.min(axis=1, keepdims=True)
    losses = []
    for exponent in START_EXPONENTS:
        masses = np.exp(-unit * 2.0**exponent * distances)
        own = np.maximum((masses * is_own).sum(axis=1), 1e-30)
        losses.append((weight * np.log(masses.sum(axis=1) / own)).sum())
    best = START_EXPONENTS[int(np.argmin(losses))]
    return X.dtype.type(START_FLATNESS * unit * 2.0**best)


def run_dense_epochs(problem, draft, experts, rows, n_epochs):
    """Train experts in place by epochs of Adam; yields the mean loss of each.

    The steps become shorter with the cosine of their number, down to zero. Those of a stream
    stay short.

    Parameters
    ----------
    problem : Problem
    draft : Draft
    experts : DenseExperts
    rows : ndarray of int
        The samples that take part.
    n_epochs : int

    Yields
    ------
    loss : float
    """
    data, options = problem.data, problem.options
    total = float(data.sample_weight[rows].sum(dtype=np.float64))
    weight = (data.sample_weight * (len(rows) / total)).astype(np.float32)
    earlier = 0.0 if draft.earlier is None else draft.earlier.total
    moments = AdamMoments(*(DenseRouter(*map(np.zeros_like, experts.router)) for _ in range(2)))
    batch_size = min(options.batch_size, len(rows))
    n_batches = -(-len(rows) // batch_size)
    classes = data.labels.indices
    done = np.arange(n_epochs * n_batches).reshape(n_epochs, n_batches) / (n_epochs * n_batches)
    rates = ADAM_RATE * (1 + np.cos(np.pi * done)) / 2
    rates = np.full_like(done, STREAM_RATE) if options.in_stream else rates
    rates *= options.learning_rate
    penalty = draft.alpha * np.sqrt(data.X.shape[1]) / (total + earlier)
    for epoch in range(n_epochs):
        adam = AdamOptions(
            batch_size, epoch * n_batches, rates[epoch], penalty, MEAN_DECAY, SQUARE_DECAY, EPSILON
        )
        visits = DenseRows(problem.random_state.permutation(rows), weight, classes)
        loss = problem.engine.dense_epoch(
            draft.columns.values, visits, experts.class_starts, experts.router, moments, adam
        )
        yield loss / len(rows)
