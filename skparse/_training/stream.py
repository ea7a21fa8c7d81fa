"""Streams: a state that learns from each row once, and the model that it gives.

Each feature that has occurred has a row in tables that grow. So a call takes time in proportion to
the nonzeros of its rows, whatever the number of features. The tables become router weights where a
prediction, or the user, asks for them.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse

from .._engines.arguments import (
    AGREEMENT,
    CONTRADICTION,
    LOSS,
    MAGNITUDE,
    N_FACTS,
    N_TOTALS,
    NONZEROS,
    RELEVANCE,
    SEEN,
    SIGN,
    SQUARE,
    WEIGHT,
    WINDOW,
    Csr,
    LowRankTerm,
    Pattern,
    StreamExperts,
    StreamOptions,
    StreamRows,
    StreamTables,
)
from .._model import SparseExpertModel
from .connections import RELEVANCE_FLOOR, RELEVANCE_POWER, RELEVANCE_SMOOTHING
from .naive_bayes import PRIOR_SMOOTHING
from .reservoir import Reservoir, draw_numbers
from .scales import MAX_ROW_SQUARE, weighted_quantile
from .scores import ScoreScaling, out_of_range
from .stream_term import add_experts_to_term, allocate_term, learn_term, term_products

# Chosen by held-out accuracy on training parts; docs/design/streams.md has the record.
RIDGE = 0.2  # of a step, per unit of alpha
RIDGE_PER_ERROR = 8.0  # of a step, per share of wrong labels
ERROR_WINDOW = 2000  # rows over which this share is averaged
FIRST_WINDOW = 200  # rows that the first guess of it counts for
FIRST_AGREEMENT = 0.1
RELEVANCE_GROWTH = 1.1  # of the count of a feature, until its relevance is measured again
STREAM_PRIOR_STRENGTH = 1.25  # factor on the naive-Bayes log-odds
MAX_LOG_ODDS = 200.0  # of naive Bayes, more than there can be
TABLE_GROWTH = 1.5
MIN_ROWS = 64  # of the tables


@dataclass
class StreamState:
    """What a stream has learnt; `learn` changes its arrays in place."""

    slots: np.ndarray  # (n_features,) of int32, row of each feature in the tables, or -1
    features: np.ndarray  # (n_rows,) of int64, feature of each row
    n_slots: int  # rows that are used
    tables: StreamTables
    experts: StreamExperts
    totals: np.ndarray  # see `skparse._engines.arguments`
    term: LowRankTerm  # its features are the rows of the tables; of rank 0 if there is none
    term_squares: LowRankTerm  # sums of its squared gradients
    reservoir: Reservoir
    seed: int
    scaling: ScoreScaling
    unit: float = 0.0  # root of the typical squared norm of the first rows
    typical_square: float = 0.0  # of the rows so far
    n_seen: int = 0  # rows, held-out ones included
    weight_seen: float = 0.0
    alpha: float = 1.0  # strength of the penalty
    prior_strength: float = 0.0  # factor on the naive-Bayes log-odds
    term_strength: float = 0.0  # factor on the products of the term
    intercept: np.ndarray | None = None  # (n_classes,), shift of b2
    temperatures: np.ndarray | None = None  # (top_k,), of each level
    calibrated_at: int = 0  # rows seen
    router: sparse.csr_array | None = None  # of all features, if it was built since the last call
    n_gathered: int = 0  # features whose weights were built since then, for predictions

    def arrays_of_features(self):
        """Return the arrays with a row for each feature that has occurred."""
        return *self.tables, self.term.feature_vectors, self.term_squares.feature_vectors

    def arrays_of_experts(self):
        """Return the arrays of the experts that `learn` changes, and the totals."""
        return *self.experts, *self.term[1:], *self.term_squares[1:], self.totals

    def set_arrays_of_features(self, arrays):
        """Replace what `arrays_of_features` returns."""
        *tables, vectors, squares = arrays
        self.tables = StreamTables(*tables)
        self.term = self.term._replace(feature_vectors=vectors)
        self.term_squares = self.term_squares._replace(feature_vectors=squares)


def begin_stream(n_features, n_classes, dtype, seed, scaling, multilabel):
    """Allocate the state of a stream before its first row, with one expert per class."""
    totals = np.zeros(N_TOTALS)
    totals[AGREEMENT], totals[WINDOW] = FIRST_AGREEMENT, FIRST_WINDOW
    term, squares = allocate_term(MIN_ROWS, n_classes, dtype)
    reservoir = Reservoir(
        sparse.csr_array((0, n_features), dtype=dtype), np.zeros(0, np.int64), np.zeros(0, dtype)
    )
    return StreamState(
        slots=np.full(n_features, -1, np.int32),
        features=np.zeros(MIN_ROWS, np.int64),
        n_slots=0,
        tables=allocate_tables(MIN_ROWS, n_classes, dtype),
        experts=StreamExperts(
            np.zeros(n_classes, dtype),
            np.zeros(n_classes),
            np.zeros(n_classes),
            np.zeros(n_classes, np.int64),
        ),
        totals=totals,
        term=term,
        term_squares=squares,
        reservoir=reservoir,
        seed=seed,
        scaling=scaling,
        prior_strength=0.0 if multilabel else STREAM_PRIOR_STRENGTH,
        intercept=np.zeros(n_classes, dtype),
    )


def allocate_tables(n_rows, n_experts, dtype):
    """Allocate `StreamTables` of features that have not occurred yet."""
    return StreamTables(
        weights=np.zeros((n_rows, n_experts), dtype),
        mass=np.zeros((n_rows, n_experts), dtype),
        facts=np.zeros((n_rows, N_FACTS)),
    )


class Undo:
    """What a call changes in a state in place, to restore it after an error."""

    def __init__(self, state):
        self.state, self.before = state, replace(state)
        self.fixed = [array.copy() for array in state.arrays_of_experts()]
        self.slots, self.rows, self.new = None, [], np.zeros(0, np.int64)

    def keep(self, indices):
        """Keep what the state has learnt of features, before more is learnt of them."""
        slots = self.state.slots.take(indices)
        self.new, slots = indices[slots < 0], slots[slots >= 0]
        if len(slots) < self.state.n_slots // 8:
            self.slots = np.unique(slots)
        else:  # faster
            is_used = np.zeros(self.state.n_slots, bool)
            is_used[slots] = True
            self.slots = np.flatnonzero(is_used)
        if self.state.tables is self.before.tables:  # otherwise the old ones do not change
            self.rows = [
                array.take(self.slots, axis=0) for array in self.before.arrays_of_features()
            ]

    def restore(self):
        """Restore the state."""
        before = self.before
        before.slots[self.new] = -1
        arrays = before.arrays_of_features()
        for array, rows in zip(arrays, self.rows, strict=False):
            array[self.slots] = rows
        for array, row in zip(arrays, allocate_rows(before, 1), strict=True):
            array[before.n_slots :] = row
        for array, values in zip(before.arrays_of_experts(), self.fixed, strict=True):
            array[...] = values
        vars(self.state).update(vars(before))


def learn(state, X, labels, sample_weight, options, engine, *, horizon=np.inf, undo=None):
    """Learn from the next rows of a stream; returns their mean squared hinge loss.

    Parameters
    ----------
    state : StreamState
        Its arrays change in place.
    X : csr_array (n_samples, n_features)
    labels : csr_array (n_samples, n_classes) of ones
    sample_weight : ndarray (n_samples,)
    options : FitOptions
    engine : see `skparse._engines`
    horizon : float, default=inf
        Sample weight after which the stream forgets.
    undo : Undo, default=None
        Keeps what changes.
    """
    rows, n_rows, n_before = (X, labels, sample_weight), X.shape[0], state.n_seen
    state.router, state.n_gathered = None, 0
    state.weight_seen += float(sample_weight.sum(dtype=np.float64))
    if not options.multilabel:
        rows = hold_out_rows(state, X, labels, sample_weight, horizon)
    state.n_seen += n_rows
    X, labels, sample_weight = rows
    values = scale_rows(state, X, sample_weight)
    if undo is not None:
        undo.keep(X.indices)
    indices = find_slots(state, X)
    alpha = float(options.alpha or (1.0 if options.multilabel else 0.0))
    state.totals[LOSS], before = 0.0, state.totals[WEIGHT]
    # Of fixed dtypes, so that a kernel is compiled once.
    scaled = Csr(X.indptr.astype(np.int64), indices, values)
    engine.stream_epoch(
        scaled,
        StreamRows(
            sample_weight.astype(values.dtype, copy=False),
            Pattern(labels.indptr.astype(np.int64), labels.indices.astype(np.int64)),
        ),
        state.tables,
        state.experts,
        state.totals,
        step_options(state, options, alpha, horizon),
    )
    if not (options.multilabel or np.isfinite(horizon)):  # a term does not forget
        learn_term(state, scaled, labels.indices, sample_weight, engine, n_before=n_before)
    errors, agreement = state.totals[CONTRADICTION], state.totals[AGREEMENT]
    estimated = 1.0 + RIDGE_PER_ERROR / RIDGE * errors / max(errors + agreement, 1e-300)
    state.alpha = float(alpha or estimated)
    weight = state.totals[WEIGHT] - before
    return float(state.totals[LOSS] / weight) if weight > 0 else 0.0


def step_options(state, options, alpha, horizon):
    """Return the `StreamOptions` of a call."""
    return StreamOptions(
        top_k=min(options.largest_top_k, len(state.experts.bias)),
        shift=float(state.scaling.shift),
        alpha=alpha,
        forgetting=1.0 / horizon,
        ridge=RIDGE,
        ridge_per_error=RIDGE_PER_ERROR,
        error_window=float(ERROR_WINDOW),
        relevance_smoothing=RELEVANCE_SMOOTHING,
        relevance_floor=RELEVANCE_FLOOR,
        relevance_power=RELEVANCE_POWER,
        relevance_growth=RELEVANCE_GROWTH,
    )


def hold_out_rows(state, X, labels, sample_weight, horizon):
    """Exchange rows with the reservoir; returns X, labels and weights of those to learn."""
    numbers = draw_numbers(state.seed, state.n_seen, X.shape[0])
    held = state.reservoir
    state.reservoir, (rows, left) = held.exchange(
        X, labels.indices, sample_weight, numbers, horizon
    )
    if len(rows) == X.shape[0]:
        return X, labels, sample_weight
    X, classes = X[rows], labels.indices[rows]
    sample_weight = sample_weight[rows]
    if len(left):
        X = sparse.vstack([X, held.X[left]], format="csr")
        classes = np.concatenate([classes, held.labels[left]])
        sample_weight = np.concatenate([sample_weight, held.sample_weight[left]])
    parts = np.ones(len(classes)), classes, np.arange(len(classes) + 1)
    labels = sparse.csr_array(parts, shape=(len(classes), labels.shape[1]))
    return sparse.csr_array(X), labels, sample_weight


def scale_rows(state, X, sample_weight):
    """Divide the values of X by the unit of the stream, and make large rows smaller.

    The unit is the typical norm of the first rows. The squared norm of a row is at most
    `MAX_ROW_SQUARE` times that of the rows so far, as in `skparse._training.scales`.
    """
    values, n_rows = X.data.astype(np.float64), X.shape[0]
    if not X.nnz:
        return X.data
    per_row = np.diff(X.indptr)
    rows = np.repeat(np.arange(n_rows), per_row)
    if state.unit == 0:
        largest = np.abs(values).max()
        squares = np.bincount(rows, (values / largest) ** 2, minlength=n_rows)
        weight = sample_weight.astype(np.float64)
        filled = squares > 0
        middle = weighted_quantile(squares[filled], weight[filled], 0.5)
        state.unit = float(largest * np.sqrt(middle))
    values /= state.unit
    squares = np.bincount(rows, np.minimum(values**2, 1e30), minlength=n_rows)
    filled = squares > 0
    middle = float(np.median(squares[filled]))
    if state.typical_square > 0:
        middle = min(middle, MAX_ROW_SQUARE * state.typical_square)
    share = n_rows / (state.n_seen or n_rows)
    state.typical_square += min(share, 1.0) * (middle - state.typical_square)
    largest = MAX_ROW_SQUARE * state.typical_square
    if (squares > largest).any():
        values = np.clip(values, -1e15, 1e15)
        values *= np.sqrt(largest / np.maximum(squares, largest))[rows]
    return values.astype(X.dtype)


def find_slots(state, X):
    """Find the row of the tables of each nonzero, (nnz,) of int32; new features get new rows."""
    slots = state.slots.take(X.indices)
    is_new = slots < 0
    if is_new.any():
        new = np.unique(X.indices[is_new])
        first, last = state.n_slots, state.n_slots + len(new)
        if last > len(state.features):
            grow_tables(state, last)
        state.features[first:last] = new
        state.slots[new] = np.arange(first, last)
        state.n_slots = last
        slots[is_new] = state.slots.take(X.indices[is_new])
    return slots


def grow_tables(state, n_rows):
    """Make room for at least ``n_rows`` features."""
    size = max(n_rows, min(int(TABLE_GROWTH * n_rows), len(state.slots)))
    grown = allocate_rows(state, size)
    for array, values in zip(grown, state.arrays_of_features(), strict=True):
        array[: state.n_slots] = values[: state.n_slots]
    features = np.zeros(size, np.int64)
    features[: state.n_slots] = state.features[: state.n_slots]
    state.features = features
    state.set_arrays_of_features(grown)


def allocate_rows(state, n_rows):
    """Allocate the arrays of features that have not occurred yet."""
    n_experts, rank = state.term.expert_vectors.shape
    dtype = state.tables.weights.dtype
    term, squares = allocate_term(n_rows, n_experts, dtype, rank)
    tables = allocate_tables(n_rows, n_experts, dtype)
    return *tables, term.feature_vectors, squares.feature_vectors


def add_classes(state, places, n_classes):
    """Make room for classes between those of a stream, in place.

    Parameters
    ----------
    state : StreamState
    places : ndarray of int
        Where the classes so far are among all classes.
    n_classes : int
    """

    def spread(array, fill):
        wider = np.full((*array.shape[:-1], n_classes), fill, array.dtype)
        wider[..., places] = array
        return wider

    tables, experts = state.tables, state.experts
    # Copies of the rest: the old arrays stay as they are.
    state.tables = StreamTables(
        spread(tables.weights, 0), spread(tables.mass, 0), tables.facts.copy()
    )
    state.term, state.term_squares = add_experts_to_term(state, places, n_classes)
    # The margin that all earlier rows would have taught the experts of the new classes.
    state.experts = StreamExperts(
        spread(experts.bias, -1), *(spread(array, 0) for array in experts[1:])
    )
    state.intercept = spread(state.intercept, 0)
    reservoir = state.reservoir
    state.reservoir = replace(reservoir, labels=places[reservoir.labels])


def check_finite(state, undo, X):
    """Raise ValueError if what has been learnt since ``undo``, or a score of X, is not finite."""
    dtype = state.tables.weights.dtype
    limit = float(np.finfo(dtype).max) / 1e6
    factor = state.scaling.scale * state.scaling.score_factor / (state.unit or 1.0)

    def largest_of(array):
        parts = array.take(undo.slots, axis=0), array[undo.before.n_slots : state.n_slots]
        return np.max([np.abs(part).max(initial=0) for part in parts]).astype(np.float64)

    # Relevance is hardly above one.
    largest = largest_of(state.tables.weights) * max(1.0, relevance_unit(state))
    largest += MAX_LOG_ODDS * state.prior_strength
    vectors = state.term.expert_vectors
    products = largest_of(state.term.feature_vectors) * np.abs(vectors).max(initial=0)
    largest += max(1.0, state.term_strength) * vectors.shape[1] * products
    size = float(np.abs(X.data).max(initial=0))
    # The mass of a feature is at most the magnitude of all.
    is_small = (
        largest * max(factor, 1.0) <= 1e5 * limit
        and largest * factor * size <= limit
        and state.totals[MAGNITUDE] <= 1e6 * limit
    )
    if not (is_small and np.isfinite(state.totals).all()):
        raise ValueError(out_of_range(dtype))


def relevance_unit(state):
    """Return the factor with which the relevant values of a row have the size of its values."""
    square = state.totals[SQUARE]
    return state.totals[SEEN] / square if square > 0 else 0.0


def measure_margins(state, slots, prior_strength, term_strength=0.0):
    """Compute margins of some features per unit of X, (n_slots, n_experts).

    The naive-Bayes log-odds are those of the feature with the class, relative to a feature that
    was never seen with it. Features with values of both signs have none. Those of one sign have
    those of their magnitude: vectorizers that hash give half of the features negative values.
    """
    tables, kind = state.tables, state.tables.weights.dtype.type
    margins = tables.weights.take(slots, axis=0)
    relevance = tables.facts[slots, RELEVANCE] * relevance_unit(state)
    margins *= relevance.astype(kind)[:, None]
    if prior_strength > 0:
        mass = tables.mass.take(slots, axis=0)
        signs = tables.facts[slots, SIGN]
        mass[signs == 2] = 0
        load = state.experts.load + 1
        n_experts, total = len(load), mass.sum(axis=1)
        smoothing = PRIOR_SMOOTHING * n_experts
        of_experts = smoothing * load / load.sum()
        rows, experts = np.nonzero(mass)
        seen, own = mass[rows, experts], of_experts[experts]
        outside = (total[rows] - seen + smoothing - own) / (total[rows] + smoothing)
        odds = np.log1p(seen / own) - np.log(np.maximum(outside, 1e-30))
        odds *= signs[rows]
        length = max(1.0, state.totals[NONZEROS] / max(state.totals[SEEN], 1e-300))
        margins[rows, experts] += (prior_strength / np.sqrt(length) * odds).astype(kind)
    if term_strength > 0:
        margins += kind(term_strength) * term_products(state, slots)
    return margins


def build_model(state, features, *, scaling=None, prior_strength=None, term_strength=None):
    """Build the model of a stream for some features, in the order of their columns.

    Parameters
    ----------
    state : StreamState
    features : ndarray of int, or None
        None for all features of X.
    scaling, prior_strength, term_strength : default=None
        Those of the state.

    Returns
    -------
    SparseExpertModel
    """
    scaling = state.scaling if scaling is None else scaling
    strength = state.prior_strength if prior_strength is None else prior_strength
    of_term = state.term_strength if term_strength is None else term_strength
    n_columns = len(state.slots) if features is None else len(features)
    slots = state.slots if features is None else state.slots[features]
    columns = np.flatnonzero(slots >= 0)
    margins = measure_margins(state, slots[columns], strength, of_term)
    dtype = margins.dtype
    margins *= dtype.type(scaling.scale * scaling.score_factor / (state.unit or 1.0))
    counts = np.zeros(n_columns, np.int64)
    is_stored = margins != 0
    counts[columns] = is_stored.sum(axis=1)
    n_stored = int(counts.sum())
    index = np.int32 if n_stored <= np.iinfo(np.int32).max else np.int64
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(index)
    indices = np.nonzero(is_stored)[1].astype(index)
    n_experts = margins.shape[1]
    router = sparse.csr_array((margins[is_stored], indices, indptr), shape=(n_columns, n_experts))
    bias = state.experts.bias + of_term * (state.term.bias - state.term.bias.mean())
    bias = scaling.scale * scaling.score_factor * (bias + scaling.shift)
    gain = scaling.gain * scaling.output_factor
    outputs = sparse.csr_array(
        (np.full(n_experts, gain), np.arange(n_experts), np.arange(n_experts + 1)), dtype=dtype
    )
    intercept = state.intercept - scaling.threshold * gain
    return SparseExpertModel(router, bias.astype(dtype), outputs, intercept.astype(dtype))
