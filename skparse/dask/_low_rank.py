"""Rounds that train the low-rank term of short texts with many classes.

As in the linear epochs, the changes of the partitions are divided by the overlap of a feature. So
are the squared gradients, which set the length of the steps: each is that of one partition.
All functions are pure: Dask may run them again on another worker.
"""

from typing import NamedTuple

import numpy as np

from .._csr import csr_arrays, with_values
from .._engines import get_engine
from .._engines.arguments import EmbeddingOptions, EmbeddingRows, LowRankTerm
from .._training.low_rank import (
    BATCH_SIZE,
    DRAWN_EXPERTS,
    DRAWS,
    INITIAL_SQUARED_GRADIENT,
    INITIAL_STD,
    LEARNING_RATE,
    MAX_ENTRIES,
    MAX_NONZEROS_PER_ROW,
    MEASURED_SCORES,
    MIN_EXPERTS,
    RANK,
    SPREAD_RATIO,
)
from ._rows import cut_visits, draw_visits, scale_rows

# The vectors of partitions move apart, so there are more rounds than epochs of a single fit.
ROUNDS = 4


class Term(NamedTuple):
    """A term in training, or changes of it."""

    vectors: LowRankTerm
    squares: LowRankTerm  # sums of squared gradients, one number for each vector

    def plus(self, other):
        """Add changes."""
        return Term(
            *(
                LowRankTerm(*(mine + theirs for mine, theirs in zip(*parts, strict=True)))
                for parts in zip(self, other, strict=True)
            )
        )


def is_worth_its_time(frame, setting):
    """Whether a fit has the term, by the rule of a fit on one machine."""
    n_features = frame.pattern.shape[0]
    return (
        setting.n_classes >= MIN_EXPERTS
        and 0 < frame.geometry.nonzeros_per_row <= MAX_NONZEROS_PER_ROW
        and n_features * RANK <= MAX_ENTRIES
    )


def start_term(frame, setting):
    """Draw the vectors."""
    random_state, dtype = np.random.RandomState(setting.seed), frame.pattern.dtype
    shape = frame.pattern.shape[0], RANK
    vectors = LowRankTerm(
        random_state.normal(0, INITIAL_STD, shape).astype(dtype),
        random_state.normal(0, 0.5 / np.sqrt(RANK), (setting.n_classes, RANK)).astype(dtype),
        np.zeros(setting.n_classes, dtype),
    )
    squares = (np.full(len(array), INITIAL_SQUARED_GRADIENT, dtype) for array in vectors)
    return Term(vectors, LowRankTerm(*squares))


def train_term(partition, frame, setting, term, epoch):
    """Run an epoch on a partition; returns its change of the term, or None."""
    if partition is None or partition.held_out.all():
        return None
    rows = np.flatnonzero(~partition.held_out)
    order, _ = draw_visits(partition, setting, 2000 + epoch, rows, n_visits=1)
    new = Term(*(LowRankTerm(*(array.copy() for array in part)) for part in term))
    for part in cut_visits(partition, frame, order, BATCH_SIZE):
        visit_term(partition, order[part], frame, setting, new, epoch, part.start // BATCH_SIZE)
    overlaps = frame.overlap, frame.bias_overlap, frame.bias_overlap
    for before, after in zip(term, new, strict=True):
        for old, changed, overlap in zip(before, after, overlaps, strict=True):
            changed -= old
            changed /= np.reshape(overlap, (-1, 1) if old.ndim == 2 else -1)
    return new


def visit_term(partition, rows, frame, setting, term, epoch, n_batches):
    """Take steps on some rows, in place, after so many batches of the epoch."""
    random_state = np.random.RandomState([setting.seed, epoch])
    drawn, correction = np.arange(setting.n_classes)[None], 0.0
    if setting.n_classes > DRAWN_EXPERTS:
        drawn = random_state.randint(setting.n_classes, size=(DRAWS, DRAWN_EXPERTS))
        drawn = np.roll(drawn, -n_batches, axis=0)
        correction = np.log(setting.n_classes / DRAWN_EXPERTS)
    options = EmbeddingOptions(
        batch_size=BATCH_SIZE,
        unit=float(1 / np.sqrt(frame.geometry.mean_square)),
        learning_rate=LEARNING_RATE,
        negative_sampling_correction=float(correction),
    )
    X = scale_rows(partition, rows, frame.relevance)
    weight = partition.sample_weight[rows] * X.dtype.type(setting.n_samples / setting.weight)
    visits = EmbeddingRows(np.arange(len(rows)), weight, partition.classes[rows])
    get_engine(setting.engine, setting.device).embedding_epoch(
        csr_arrays(X), visits, *term, drawn, options
    )


def apply_change(term, change):
    """Add the changes of all partitions."""
    return term if change is None else term.plus(change)


def measure_spread(partition, frame, setting, margins_model, term):
    """Sum the scores of the term and of the model on some samples, (5,).

    The number of scores, and the sums of both scores and of their squares.
    """
    if partition is None:
        return np.zeros(5)
    every = -(-setting.n_samples * setting.n_classes // MEASURED_SCORES)
    vectors = centred(term)
    sample = scale_rows(partition, slice(None, None, every), frame.relevance)
    # einsum calls no BLAS
    added = np.einsum("ik,ek->ie", sample @ vectors.feature_vectors, vectors.expert_vectors)
    added = added.astype(np.float64)
    router = with_values(frame.pattern, margins_model.router)
    scores = (sample @ router).data.astype(np.float64)
    return np.array([added.size, added.sum(), (added**2).sum(), scores.sum(), (scores**2).sum()])


def centred(term):
    """Centre vectors and biases over the experts."""
    vectors, bias = term.vectors.expert_vectors, term.vectors.bias
    return term.vectors._replace(expert_vectors=vectors - vectors.mean(axis=0),
                                 bias=bias - bias.mean())  # fmt: skip


def finish_term(frame, term, sums):
    """Scale a term to the scores of the model, from the sums of `measure_spread`."""
    size, added, squared_added, scores, squared_scores = sums
    spread = np.sqrt(max(squared_scores / size - (scores / size) ** 2, 0))
    own = np.sqrt(max(squared_added / size - (added / size) ** 2, 0))
    dtype = frame.pattern.dtype.type
    factor = dtype(SPREAD_RATIO * spread / max(own, 1e-12))
    unit = dtype(1 / np.sqrt(frame.geometry.mean_square))
    vectors = centred(term)
    return LowRankTerm(
        factor * vectors.feature_vectors, vectors.expert_vectors, factor / unit * vectors.bias
    )
