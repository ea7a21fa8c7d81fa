"""Threads for kernels that release the interpreter lock."""

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple


class Threads(NamedTuple):
    """At most `n_threads` threads, of which the calling thread is one.

    The calling thread works while the others start, which takes a tenth of a millisecond. Calls
    that no other thread has begun when their results are needed are run by the calling thread.
    """

    n_threads: int
    pool: ThreadPoolExecutor | None = None  # of the other threads, None if there is no other

    def start(self, function, *arguments):
        """Begin a call if there is a thread for it; returns a function that returns its result."""
        if self.pool is None:
            return lambda: function(*arguments)
        future = self.pool.submit(function, *arguments)
        return lambda: function(*arguments) if future.cancel() else future.result()

    def map(self, function, *arguments):
        """Like ``list(map(function, *arguments))``; each thread takes the next call when free."""
        calls = list(zip(*arguments, strict=True))
        if self.pool is None or len(calls) < 2:
            return [function(*call) for call in calls]
        waiting, results = deque(enumerate(calls)), [None] * len(calls)

        def work():
            while waiting:
                try:
                    place, call = waiting.popleft()
                except IndexError:  # another thread took the last one
                    return
                results[place] = function(*call)

        n_helpers = min(self.n_threads, len(calls)) - 1
        helpers = [self.pool.submit(work) for _ in range(n_helpers)]
        work()
        for helper in helpers:
            if not helper.cancel():  # it has begun
                helper.result()
        return results


@contextmanager
def open_threads(n_threads):
    """Open `Threads` for the block; calls that have not begun at its end are cancelled."""
    if n_threads == 1:
        yield Threads(1)
        return
    pool = ThreadPoolExecutor(n_threads - 1)
    try:
        yield Threads(n_threads, pool)
    finally:
        pool.shutdown(cancel_futures=True)
