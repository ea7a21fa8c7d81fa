"""Problems and drafts for tests of single stages."""

from contextlib import ExitStack

import numpy as np
from scipy import sparse

from skparse import SparseExpertClassifier
from skparse import _validation as validation
from skparse._engines import get_engine
from skparse._threads import open_threads
from skparse._training.problem import Draft, Monitor, Problem


def prepare(X, y, sample_weight=None, *, engine=None, n_threads=1, monitor=None, **parameters):
    """Return what `SparseExpertClassifier(**parameters).fit` begins with: (problem, draft).

    ``engine`` takes the place of the one that the parameters name.
    """
    model = SparseExpertClassifier(**{"random_state": 0, **parameters})
    samples = validation.check_samples(model, sparse.csr_array(X), y, sample_weight, reset=True)
    data, known = model._start_training(samples, further=False)
    options = model._fit_options(data, samples, further=False)
    engine = get_engine(model.engine, model.device) if engine is None else engine
    # The threads live as long as the test process: they do nothing between calls.
    threads = ExitStack().enter_context(open_threads(n_threads))
    random_state = np.random.RandomState(model.random_state)
    problem = Problem(data, options, engine, threads, random_state, monitor or Monitor())
    return problem, Draft(data=data, **known)


def run(problem, draft, *stages):
    """Run stages one after the other; returns the draft."""
    for stage in stages:
        draft = stage(problem, draft)
    return draft
