"""The held-out samples of a stream: a bounded number of rows that are not learnt."""

from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse

# From this row of a stream on, one row in so many is held out.
FIRST_HELD_OUT = 1024
STREAM_HELD_OUT_EVERY = 32
# At most so many rows, of so many nonzeros, are kept. Then new ones take the place of others, at
# random, and those are learnt.
MAX_RESERVOIR_ROWS = 1000
MAX_RESERVOIR_NONZEROS = 2**18


@dataclass(frozen=True)
class Reservoir:
    """Held-out samples of a stream."""

    X: sparse.csr_array  # (n_rows, n_features)
    labels: np.ndarray  # (n_rows,) of int64, positions of the classes
    sample_weight: np.ndarray  # (n_rows,)
    n_offered: int = 0  # rows that might have been kept

    def exchange(self, X, labels, sample_weight, numbers, horizon):
        """Keep some of the rows of a call.

        Parameters
        ----------
        X : csr_array (n_samples, n_features)
        labels : ndarray (n_samples,) of int
        sample_weight : ndarray (n_samples,)
        numbers : ndarray (n_samples, 2), uniform in [0, 1)
            With 1 where a row is not to be kept.
        horizon : float
            Sample weight after which a stream forgets.

        Returns
        -------
        reservoir : Reservoir
        learnt : tuple of ndarray
            The rows of the call that are not kept, and the rows of the reservoir that left it.
        """
        n_kept = self.X.shape[0]
        candidates = np.flatnonzero(numbers[:, 0] < 1 / STREAM_HELD_OUT_EVERY)
        per_row = (self.X.nnz + X.nnz) / max(n_kept + X.shape[0], 1)
        room = int(np.clip(MAX_RESERVOIR_NONZEROS / max(per_row, 1), 1, MAX_RESERVOIR_ROWS))
        limit = max(room, horizon / STREAM_HELD_OUT_EVERY)
        places, n_offered = list(range(n_kept)), self.n_offered
        for row in candidates:
            n_offered += 1
            place = int(numbers[row, 1] * min(n_offered, limit))
            if len(places) < room:
                places.append(n_kept + row)
            elif place < len(places):
                places[place] = n_kept + row
        places = np.array(places, np.int64)
        new, old = places[places >= n_kept] - n_kept, places[places < n_kept]
        learnt = np.delete(np.arange(X.shape[0]), new), np.delete(np.arange(n_kept), old)
        if not len(new):
            return replace(self, n_offered=n_offered), learnt
        kept = Reservoir(
            sparse.csr_array(sparse.vstack([self.X[old], X[new]], format="csr")),
            np.concatenate([self.labels[old], labels[new]]),
            np.concatenate([self.sample_weight[old], sample_weight[new]]),
            n_offered,
        )
        return kept, learnt


def draw_numbers(seed, first, n_rows):
    """Draw two numbers for each row of a stream, (n_rows, 2), uniform in [0, 1).

    They depend on the seed and on the position of the row alone, however the rows are cut into
    calls. The first numbers are 1 up to the row `FIRST_HELD_OUT`.
    """
    # SplitMix64, see G. L. Steele et al., "Fast splittable pseudorandom number generators", 2014.
    counters = np.arange(2 * first, 2 * (first + n_rows), dtype=np.uint64)
    bits = np.uint64(seed) + (counters + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    numbers = ((bits ^ (bits >> np.uint64(31))) >> np.uint64(11)) / 2.0**53
    numbers = numbers.reshape(-1, 2)
    numbers[: max(0, FIRST_HELD_OUT - first), 0] = 1
    return numbers
