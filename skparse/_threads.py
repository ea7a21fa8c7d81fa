"""Threads for kernels that release the interpreter lock."""

from concurrent.futures import ThreadPoolExecutor


def map_threads(function, *arguments, n_threads):
    """Like ``list(map(function, *arguments))``, in at most ``n_threads`` threads.

    A pool of the standard library starts in a tenth of a millisecond, which matters for
    predictions; joblib's takes several.
    """
    calls = list(zip(*arguments, strict=True))
    if n_threads == 1 or len(calls) < 2:
        return [function(*call) for call in calls]
    with ThreadPoolExecutor(min(n_threads, len(calls))) as pool:
        return list(pool.map(lambda call: function(*call), calls))
