"""Threads for kernels that release the interpreter lock."""

from collections import deque
from concurrent.futures import ThreadPoolExecutor


def map_threads(function, *arguments, n_threads):
    """Like ``list(map(function, *arguments))``, in at most ``n_threads`` threads.

    The calling thread is one of them: it works while the others start, which takes a tenth of
    a millisecond, and short work is over before they come. Each takes the next call when it is
    done with one.
    """
    waiting = deque(enumerate(zip(*arguments, strict=True)))
    results = [None] * len(waiting)

    def work():
        while waiting:
            try:
                place, call = waiting.popleft()
            except IndexError:  # another thread took the last one
                return
            results[place] = function(*call)

    n_helpers = min(n_threads, len(waiting)) - 1
    if n_helpers < 1:
        work()
        return results
    with ThreadPoolExecutor(n_helpers) as pool:
        helpers = [pool.submit(work) for _ in range(n_helpers)]
        work()
    for helper in helpers:
        helper.result()  # raises what the helper raised
    return results
