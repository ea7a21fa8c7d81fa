"""The stage that chooses how much columns count that nearly all samples store.

Sentence embeddings beside texts carry more than the words, averaged word vectors less, and the
columns do not show which they are. So a few linear epochs are run with several factors.
"""

from dataclasses import replace

import numpy as np

from .connections import connect
from .data import take_samples
from .held_out import measure_held_out
from .linear import start_linear
from .linear_run import run_epochs
from .scores import model_from_margins

# Chosen by held-out accuracy on training parts; docs/design/ has the record.
FULL_FACTORS = 1.0, 0.5, 0.3, 0.15
PARTS = 8  # of the samples, of which one is held out at a time
PART_SAMPLES = 8000  # trained on in all parts together, about; one part at least
MAX_SAMPLES = 16_000  # of many


def choose_full_factor(problem, draft):
    """Choose the factor on full columns with negative values that has the least held-out loss.

    They are tried from the largest on, while the loss falls.
    """
    data = draft.data
    if data.full_columns is None or problem.options.multilabel:
        return draft
    # Columns without a negative value may be frequent words, which have a limit of their own.
    if not np.isin(data.X.indices[data.X.data < 0], data.full_columns).any():
        return draft
    n_samples = data.X.shape[0]
    rows = np.sort(problem.random_state.permutation(n_samples)[:MAX_SAMPLES])
    part_of = problem.random_state.permutation(len(rows)) % PARTS
    n_parts = int(np.clip(PART_SAMPLES // len(rows), 1, PARTS))
    seeds = problem.random_state.randint(2**31 - 1, size=n_parts)
    own = replace(draft, data=take_samples(data, rows))
    part_problem = replace(problem, data=take_samples(problem.data, rows))
    best, least = 1.0, np.inf
    for factor in FULL_FACTORS:
        own = replace(own, data=replace(own.data, full_factor=factor))
        losses = [
            measure_part(part_problem, own, part_of == part, seed)
            for part, seed in enumerate(seeds)
        ]
        if sum(losses) >= least:
            break
        best, least = factor, sum(losses)
    return replace(draft, data=replace(data, full_factor=best))


def measure_part(problem, draft, held_out, seed):
    """Held-out loss after linear epochs on the samples that are not held out."""
    problem = replace(problem, random_state=np.random.RandomState(seed))
    draft = start_linear(problem, connect(problem, replace(draft, held_out=held_out)))
    run = run_epochs(problem, draft.data, draft.run, draft.orders[0], draft.alpha)
    return measure_held_out(problem, draft, model_from_margins(draft, *run.average())).loss
