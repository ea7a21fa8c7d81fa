"""Calls shared by threads: in order, the caller among them, nothing lost, no error swallowed."""

from threading import Barrier, Event, get_ident

import pytest

from skparse._threads import open_threads


@pytest.mark.parametrize("n_threads", [1, 2, 3, 50])
@pytest.mark.parametrize("n_calls", [0, 1, 2, 7, 1000])
def test_results_are_in_the_order_of_the_calls(n_threads, n_calls):
    numbers = list(range(n_calls))
    expected = [10 * number + 1 for number in numbers]
    with open_threads(n_threads) as threads:
        assert threads.map(lambda a, b: 10 * a + b, numbers, [1] * n_calls) == expected


@pytest.mark.parametrize("n_threads", [2, 3])
def test_the_calling_thread_is_one_of_the_threads(n_threads):
    barrier = Barrier(n_threads, timeout=60)  # passed only if all work at the same time

    def who(_):
        barrier.wait()
        return get_ident()

    with open_threads(n_threads) as threads:
        idents = set(threads.map(who, range(n_threads)))
    assert get_ident() in idents and len(idents) == n_threads


def test_one_thread_is_the_calling_one():
    with open_threads(1) as threads:
        assert set(threads.map(lambda _: get_ident(), range(9))) == {get_ident()}


@pytest.mark.parametrize("by_the_caller", [True, False])
def test_an_error_in_any_thread_is_raised(by_the_caller):
    caller, barrier = get_ident(), Barrier(2, timeout=60)

    def fail_in_one(number):
        barrier.wait()
        if (get_ident() == caller) == by_the_caller:
            raise ValueError("of one thread")
        return number

    with open_threads(2) as threads, pytest.raises(ValueError, match="of one thread"):
        threads.map(fail_in_one, range(2))


def test_arguments_have_to_be_of_one_length():
    with open_threads(2) as threads, pytest.raises(ValueError, match="shorter"):
        threads.map(lambda a, b: a, [1, 2], [1])


def test_one_thread_does_what_was_started_when_its_result_is_asked_for():
    calls = []
    with open_threads(1) as threads:
        result = threads.start(lambda *numbers: calls.append(numbers) or get_ident(), 1, 2)
        assert calls == []
        assert threads.map(abs, [-3]) == [3]
        assert result() == get_ident()
    assert calls == [(1, 2)]


def test_what_was_started_runs_beside_the_calling_thread():
    begun, go_on = Event(), Event()

    def wait():
        begun.set()
        assert go_on.wait(60)
        return get_ident()

    with open_threads(2) as threads:
        result = threads.start(wait)
        assert begun.wait(60)
        # The only other thread is taken: the calling one does all the rest.
        assert set(threads.map(lambda _: get_ident(), range(5))) == {get_ident()}
        go_on.set()
        assert result() != get_ident()


def test_what_no_thread_has_begun_the_calling_one_does():
    begun, go_on = Event(), Event()

    def wait():
        begun.set()
        return go_on.wait(60)

    with open_threads(2) as threads:
        threads.start(wait)
        assert begun.wait(60)
        assert threads.start(get_ident)() == get_ident()
        go_on.set()


@pytest.mark.parametrize("n_threads", [1, 2])
def test_an_error_in_what_was_started_is_raised_when_its_result_is_asked_for(n_threads):
    with open_threads(n_threads) as threads:
        result = threads.start(int, "no number")
        with pytest.raises(ValueError, match="no number"):
            result()


def test_threads_serve_several_maps_and_end_with_their_block():
    with open_threads(3) as threads:
        for n_calls in (5, 0, 7):
            assert threads.map(lambda a: a + 1, range(n_calls)) == list(range(1, n_calls + 1))
    with pytest.raises(RuntimeError, match="shutdown"):
        threads.start(abs, 1)
