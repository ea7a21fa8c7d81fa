"""Linear runs: blocks of experts, continued runs, and averages."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
from linear_epochs import arrays_of, assert_same_average, assert_same_run, draw_documents
from numpy.testing import assert_allclose, assert_array_equal
from stages import prepare, run

from skparse._training import linear_run
from skparse._training.connections import connect
from skparse._training.data import TrainingData
from skparse._training.held_out import hold_out
from skparse._training.linear_run import LinearRun, begin_run, run_epochs
from skparse._training.problem import Problem, draw_order


class Epochs(NamedTuple):
    """A run before its first epoch, and the orders of five epochs."""

    problem: Problem
    data: TrainingData
    alpha: float
    begun: LinearRun
    orders: list

    def advance(self, run, orders, **options):
        return run_epochs(self.problem, self.data, run, orders, self.alpha, **options)


def draw_epochs(*, n_threads=1, dtype=np.float64, **parameters):
    """Draw `Epochs` of samples whose weights are no round numbers; nothing is held out."""
    X, y = draw_documents(dtype=dtype)
    weight = np.random.RandomState(7).uniform(0.2, 3.0, size=len(y))
    problem, draft = prepare(X, y, weight, n_threads=n_threads, **parameters)
    draft = run(problem, draft, hold_out, connect)
    bias = np.random.RandomState(1).normal(size=draft.margins.shape[1]).astype(dtype)
    begun = begin_run(problem, draft.data, draft.margins, bias)
    orders = [draw_order(problem, draft.data) for _ in range(5)]
    return Epochs(problem, draft.data, draft.alpha, begun, orders)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("n_threads", [1, 3])
def test_epochs_in_two_calls_give_the_bits_of_one_call(n_threads, dtype):
    epochs = draw_epochs(n_threads=n_threads, dtype=dtype)
    at_once = epochs.advance(epochs.begun, epochs.orders)
    halfway = epochs.advance(epochs.begun, epochs.orders[:3])
    assert halfway.n_epochs == 3
    run = epochs.advance(halfway, epochs.orders[3:])
    assert run.n_epochs == 5
    assert_same_run(run, at_once)


def test_epochs_one_by_one_give_the_bits_of_one_call():
    epochs = draw_epochs(n_threads=2)
    run = epochs.begun
    for order in epochs.orders:
        run = epochs.advance(run, [order])
    assert_same_run(run, epochs.advance(epochs.begun, epochs.orders))
    assert_same_run(epochs.advance(run, []), run)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("n_threads", [1, 2])
def test_a_run_that_is_continued_does_not_change(n_threads, dtype):
    epochs = draw_epochs(n_threads=n_threads, dtype=dtype)
    later = epochs.advance(epochs.begun, epochs.orders[:2])
    anew = begin_run(epochs.problem, epochs.data, *later.average())
    runs = epochs.begun, later, anew
    before = [[array.copy() for array in arrays_of(each)] for each in runs]
    for each in runs:
        further = epochs.advance(each, epochs.orders[2:])
        moved = further.average()[0].data - epochs.begun.margins.data
        assert np.abs(moved).max() > 0.01
        each.average()
    for each, copies in zip(runs, before, strict=True):
        for mine, copy in zip(arrays_of(each), copies, strict=True):
            assert_array_equal(mine, copy)


def test_two_continuations_of_one_run_are_independent():
    epochs = draw_epochs(n_threads=2)
    begun = epochs.advance(epochs.begun, epochs.orders[:1])
    first = epochs.advance(begun, epochs.orders[1:3])
    epochs.advance(begun, epochs.orders[3:])
    assert_same_run(first, epochs.advance(begun, epochs.orders[1:3]))


@pytest.mark.parametrize("n_experts", ["auto", 4, 10])
@pytest.mark.parametrize("n_threads", [2, 3, 50])
def test_runs_of_any_number_of_blocks_have_the_same_average(n_threads, n_experts):
    both = [draw_epochs(n_threads=n, n_experts=n_experts) for n in (1, n_threads)]
    alone, together = (epochs.advance(epochs.begun, epochs.orders) for epochs in both)
    assert len(alone.blocks) == 1
    assert len(together.blocks) == min(n_threads, alone.margins.shape[1])
    assert together.seen == alone.seen
    assert_same_average(together, alone)


def test_the_average_counts_epochs_in_proportion_to_their_number():
    epochs = draw_epochs()
    run, margins, bias = epochs.begun, [], []
    for order in epochs.orders:
        run = epochs.advance(run, [order])
        margins.append(run.blocks[0].margins.data)
        bias.append(run.blocks[0].bias)
    shares = np.arange(1, 6) / 15
    assert_allclose(run.average()[0].data, shares @ margins, rtol=1e-12, atol=1e-14)
    assert_allclose(run.average()[1], shares @ bias, rtol=1e-12, atol=1e-14)
    assert np.abs(margins[0] - margins[-1]).max() > 0.01


def test_a_run_sums_the_sample_weight_that_it_visits():
    epochs = draw_epochs()
    assert (epochs.begun.n_epochs, epochs.begun.seen) == (0, 0.0)
    some = [order[: len(order) // 2] for order in epochs.orders]
    run = epochs.advance(epochs.begun, some)
    assert run.seen == pytest.approx(epochs.data.sample_weight[np.concatenate(some)].sum())
    assert epochs.advance(epochs.begun, some, earlier=1e3).seen == run.seen


def test_earlier_samples_of_a_stream_count_as_visited():
    epochs = draw_epochs()
    data, earlier = epochs.data, 700.0
    exposure = data.exposure._replace(total=data.exposure.total + earlier)
    after = epochs._replace(data=replace(data, exposure=exposure))
    expected = after.advance(epochs.begun._replace(seen=earlier), epochs.orders)
    run = epochs.advance(epochs.begun, epochs.orders, earlier=earlier)
    assert_same_average(run, expected)
    first = epochs.advance(epochs.begun, epochs.orders)
    assert np.abs(first.average()[0].data - run.average()[0].data).max() > 0.01


def test_the_weights_of_a_stream_shrink_as_if_it_were_longer():
    epochs = draw_epochs()
    problem, data = epochs.problem, epochs.data
    stream = replace(problem, options=replace(problem.options, in_stream=True))
    run = epochs._replace(problem=stream).advance(epochs.begun, epochs.orders)
    total = linear_run.STREAM_HORIZON * data.exposure.total
    longer = replace(data, exposure=data.exposure._replace(total=total))
    expected = epochs._replace(data=longer).advance(epochs.begun, epochs.orders)
    assert_same_average(run, expected)
