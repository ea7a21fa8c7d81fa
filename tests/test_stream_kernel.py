"""The epoch of a stream: both engines take the same steps, which a slow loop takes as well."""

import numpy as np
import pytest
import reference
from numpy.testing import assert_allclose
from scipy import sparse

from skparse._engines import arguments, numba_engine
from skparse._engines.arguments import (
    Csr,
    Pattern,
    StreamExperts,
    StreamOptions,
    StreamRows,
    StreamTables,
)
from skparse._engines.torch_engine import TorchEngine

ENGINES = {"numba": numba_engine, "torch": TorchEngine("cpu")}
OPTIONS = StreamOptions(
    top_k=2, shift=1.0, alpha=0.0, forgetting=0.0, ridge=0.2,
    ridge_per_error=8.0, error_window=20.0, relevance_smoothing=12.0, relevance_floor=0.1,
    relevance_power=0.35, relevance_growth=1.25,
)  # fmt: skip
CASES = {
    "plain": {},
    "given penalty": {"alpha": 3.0},
    "forgetting": {"forgetting": 0.05},
    "all experts kept": {"top_k": 4},
}


def draw_stream(n_rows=80, n_features=15, n_experts=4, *, dtype=np.float64, per_row=1, late=True):
    """Draw rows with values of both signs and weights; the last expert occurs late."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_rows, n_features)) * (rng.random((n_rows, n_features)) < 0.3)
    X[:, : n_features // 2] = abs(X[:, : n_features // 2])
    targets = np.zeros((n_rows, n_experts))
    for i in range(n_rows):
        last = n_experts if i > 0.7 * n_rows or not late else n_experts - 1
        targets[i, rng.choice(last, size=per_row, replace=False)] = 1
        X[i, targets[i].argmax()] += 1
    targets = sparse.csr_array(targets)
    rows = StreamRows(
        rng.uniform(0.5, 2, n_rows).astype(dtype),
        Pattern(targets.indptr.astype(np.int64), targets.indices.astype(np.int64)),
    )
    X = sparse.csr_array(X.astype(dtype))
    return Csr(X.indptr.astype(np.int64), X.indices.astype(np.int32), X.data), rows


def begin(n_features=15, n_experts=4, dtype=np.float64):
    """Return the arrays of a stream before its first row."""
    tables = StreamTables(
        np.zeros((n_features, n_experts), dtype),
        np.zeros((n_features, n_experts), dtype),
        np.zeros((n_features, arguments.N_FACTS)),
    )
    experts = StreamExperts(
        np.zeros(n_experts, dtype), np.zeros(n_experts), np.zeros(n_experts),
        np.zeros(n_experts, np.int64),
    )  # fmt: skip
    totals = np.zeros(arguments.N_TOTALS)
    totals[arguments.AGREEMENT], totals[arguments.WINDOW] = 0.1, 5
    return tables, experts, totals


def run(function, X, rows, options, dtype=np.float64):
    state = begin(dtype=dtype)
    function(X, rows, *state, options)
    return [*state[0], *state[1], state[2]]


@pytest.mark.parametrize("per_row", [1, 2])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("engine", ENGINES)
def test_the_epoch_takes_the_steps_of_a_slow_loop(engine, case, per_row):
    X, rows = draw_stream(per_row=per_row)
    options = OPTIONS._replace(**CASES[case])
    actual = run(ENGINES[engine].stream_epoch, X, rows, options)
    expected = run(reference.stream_epoch, X, rows, options)
    for mine, theirs in zip(actual, expected, strict=True):
        assert_allclose(mine, theirs, rtol=1e-9, atol=1e-12)
    assert np.abs(actual[0]).max() > 0.1


@pytest.mark.parametrize("engine", ENGINES)
def test_single_precision_gives_nearly_the_same(engine):
    X, rows = draw_stream()
    double = run(ENGINES[engine].stream_epoch, X, rows, OPTIONS)
    X, rows = draw_stream(dtype=np.float32)
    single = run(ENGINES[engine].stream_epoch, X, rows, OPTIONS, np.float32)
    assert single[0].dtype == np.float32
    assert_allclose(single[0], double[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("engine", ENGINES)
def test_rows_in_several_calls_are_learnt_as_in_one(engine):
    X, rows = draw_stream()
    at_once = run(ENGINES[engine].stream_epoch, X, rows, OPTIONS)
    state = begin()
    for first in range(0, 80, 16):
        edges = slice(first, first + 17)
        part = X._replace(indptr=X.indptr[edges])
        targets = Pattern(rows.targets.indptr[edges], rows.targets.indices)
        own = StreamRows(rows.sample_weight[first : first + 16], targets)
        ENGINES[engine].stream_epoch(part, own, *state, OPTIONS)
    for mine, theirs in zip([*state[0], *state[1], state[2]], at_once, strict=True):
        assert (mine == theirs).all()


@pytest.mark.parametrize("engine", ENGINES)
def test_rows_without_nonzeros_change_no_weights_and_the_bias_only(engine):
    X = Csr(np.zeros(4, np.int64), np.zeros(0, np.int32), np.zeros(0))
    rows = StreamRows(np.ones(3), Pattern(np.arange(4), np.array([0, 1, 0])))
    weights, mass, facts, bias, load, *_ = run(ENGINES[engine].stream_epoch, X, rows, OPTIONS)
    assert not weights.any() and not mass.any() and not facts.any()
    assert np.isfinite(bias).all() and bias.all()
    assert_allclose(load, [2, 1, 0, 0])
