"""Problems and drafts for tests of single stages."""

from contextlib import ExitStack

import numpy as np
from scipy import sparse

from skparse import SparseExpertClassifier
from skparse import _validation as validation
from skparse._engines import get_engine
from skparse._fit_options import resolve_options
from skparse._threads import open_threads
from skparse._training.problem import Draft, Monitor, Problem
from skparse._training.recipes import train

# The threads live as long as the test process: they do nothing between calls.
_OPEN_THREADS = ExitStack()


def prepare(X, y, sample_weight=None, *, engine=None, n_threads=1, monitor=None, **parameters):
    """Return what `SparseExpertClassifier(**parameters).fit` begins with: (problem, draft).

    ``engine`` takes the place of the one that the parameters name.
    """
    model = SparseExpertClassifier(**{"random_state": 0, **parameters})
    samples = validation.check_samples(model, sparse.csr_array(X), y, sample_weight, reset=True)
    data, known = model._start_training(samples, further=False)
    options = resolve_options(model, data, samples, further=False)
    engine = get_engine(model.engine, model.device) if engine is None else engine
    threads = _OPEN_THREADS.enter_context(open_threads(n_threads))
    random_state = np.random.RandomState(model.random_state)
    problem = Problem(data, options, engine, threads, random_state, monitor or Monitor())
    return problem, Draft(data=data, **known)


def run(problem, draft, *stages):
    """Run stages one after the other; returns the draft."""
    for stage in stages:
        draft = stage(problem, draft)
    return draft


def run_recipe(recipe, problem, draft):
    """Run all stages of a recipe; returns the draft."""
    known = {
        "alpha": draft.alpha,
        "scaling": draft.scaling,
        "model": draft.model,
        "earlier": draft.earlier,
    }
    options, monitor = problem.options, problem.monitor
    return train(
        recipe, problem.data, options, problem.engine, problem.random_state, monitor, **known
    )


class RecordingEngine:
    """The numba engine, with a record of the arguments of its epochs."""

    def __init__(self):
        names = "linear_epoch", "nested_epoch", "embedding_epoch", "dense_epoch"
        self.calls = {name: [] for name in names}

    def __getattr__(self, name):
        function = getattr(get_engine("numba", "cpu"), name)
        if name not in self.calls:
            return function

        def record(*arguments):
            self.calls[name].append(arguments)
            return function(*arguments)

        return record

    def orders(self, name):
        """Return the rows that each epoch visited, in their order."""
        return [rows.order for _, rows, *_ in self.calls[name]]


class IdleEngine(RecordingEngine):
    """An engine whose epochs take no step."""

    def linear_epoch(self, *arguments):
        self.calls["linear_epoch"].append(arguments)
        return 1.0

    def nested_epoch(self, *arguments):
        self.calls["nested_epoch"].append(arguments)
        return 1.0, 0.0
