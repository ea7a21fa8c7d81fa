"""A fit as a whole: it ends, or leaves the estimator as it was; callbacks hear of its tasks."""

from contextlib import contextmanager, nullcontext

try:
    from sklearn.callback import CallbackSupportMixin
except ImportError:  # scikit-learn before 1.9

    class CallbackSupportMixin:
        """What a fit asks of scikit-learn's mixin, where nobody can be told."""

        def _init_callback_context(self, **options):
            return _Untold()

    class _Untold:
        """Stands for the context of any task."""

        def subcontext(self, **options):
            return self

        def propagate_callback_context(self, sub_estimator):
            return nullcontext()

        def call_on_fit_task_begin(self, **what):
            return self

        def call_on_fit_task_end(self, **what):
            return False


@contextmanager
def unchanged_on_error(estimator):
    """Put everything back if the block raises, KeyboardInterrupt included."""
    before = vars(estimator).copy()
    try:
        yield
    except BaseException:
        vars(estimator).clear()
        vars(estimator).update(before)
        raise


@contextmanager
def fit_task(estimator, max_subtasks, X, y, sample_weight=None, *, in_parallel=False):
    """Run the block as a fit: the callbacks of the estimator are told, errors undone.

    Parameters
    ----------
    estimator : estimator with `CallbackSupportMixin`; its fit is decorated with `_fit_context`,
        which lets the callbacks clean up
    max_subtasks : int
    X, y, sample_weight : as they were passed to fit
    in_parallel : bool, default=False
        Whether the subtasks come in any order.

    Yields
    ------
    FitTask
    """
    # Outside of what an error undoes: scikit-learn cleans up by the attributes this sets.
    context = estimator._init_callback_context(
        max_subtasks=max_subtasks, sequential_subtasks=not in_parallel
    )
    with unchanged_on_error(estimator):
        task = FitTask(context, estimator, X, y, sample_weight).begin()
        yield task
        # A search without a refit cannot predict.
        task.end({} if hasattr(estimator, "predict") else None)


class FitTask:
    """A fit or a part of it, with its samples, as the callbacks of the estimator hear of it."""

    def __init__(self, context, estimator, X=None, y=None, sample_weight=None):
        self._context, self._estimator, self._samples = context, estimator, (X, y, sample_weight)
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        self._told = {"estimator": estimator, "X": X, "y": y, "metadata": metadata}

    def begin(self):
        """Tell the callbacks that the task begins; returns the task."""
        self._context.call_on_fit_task_begin(**self._told)
        return self

    def end(self, attributes=None):
        """Tell the callbacks that the task is done; returns whether one of them asks to stop.

        ``attributes`` are what the estimator has to take on to predict as of now: a dict, a
        callable that returns one, or None where there is no model.
        """
        return self._context.call_on_fit_task_end(
            **self._told, reconstruction_attributes=attributes
        )

    def begin_step(self, name, *, describe):
        """Begin a subtask on the same samples; returns the function that ends it.

        That one takes a function that builds the parameters of the model so far, which
        ``describe`` turns into fitted attributes if a callback wants them.
        """
        context = self._context.subcontext(task_name=name)
        step = FitTask(context, self._estimator, *self._samples).begin()
        return lambda build_model: step.end(lambda: describe(build_model()))

    def subtask(self, name, place):
        """Create a subtask that is to fit another estimator; its place tells it from others."""
        context = self._context.subcontext(task_name=name, task_id=place)
        return FitTask(context, self._estimator)

    def fit(self, sub_estimator, X, y, sample_weight, **params):
        """Fit another estimator, which the callbacks follow, as this task."""
        task = FitTask(self._context, self._estimator, X, y, sample_weight)
        with self._context.propagate_callback_context(sub_estimator):
            task.begin()
            sub_estimator.fit(X, y, sample_weight, **params)
            task.end()
