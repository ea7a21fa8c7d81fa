"""Threads for kernels that release the interpreter lock."""

from collections import deque
from concurrent.futures import ThreadPoolExecutor


class Threads:
    """At most ``n_threads`` threads, of which the calling one is one.

    It works while the others start, which takes a tenth of a millisecond, and does itself what
    they have not begun when it comes to need it.
    """

    def __init__(self, n_threads):
        self.n_threads = n_threads
        self._pool = ThreadPoolExecutor(n_threads - 1) if n_threads > 1 else None

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def start(self, function, *arguments):
        """Begin a call if there is a thread for it; returns a function that returns its result."""
        if self._pool is None:
            return lambda: function(*arguments)
        future = self._pool.submit(function, *arguments)
        return lambda: function(*arguments) if future.cancel() else future.result()

    def map(self, function, *arguments):
        """Like ``list(map(function, *arguments))``; each thread takes the next call when free."""
        waiting = deque(enumerate(zip(*arguments, strict=True)))
        results = [None] * len(waiting)

        def work():
            while waiting:
                try:
                    place, call = waiting.popleft()
                except IndexError:  # another thread took the last one
                    return
                results[place] = function(*call)

        n_helpers = min(self.n_threads, len(waiting)) - 1
        helpers = [self._pool.submit(work) for _ in range(n_helpers)]
        work()
        for helper in helpers:
            if not helper.cancel():  # it came in time
                helper.result()
        return results


def map_threads(function, *arguments, n_threads):
    """Like ``list(map(function, *arguments))``, in at most ``n_threads`` threads."""
    with Threads(n_threads) as threads:
        return threads.map(function, *arguments)
