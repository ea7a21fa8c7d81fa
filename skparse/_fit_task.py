"""Run a fit atomically and report its steps to scikit-learn callbacks."""

from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

try:
    from sklearn.callback import CallbackSupportMixin
except ImportError:  # scikit-learn before 1.9

    class CallbackSupportMixin:
        """Replaces scikit-learn's mixin, without callbacks."""

        def _init_callback_context(self, **options):
            return _NoCallbacks()

    class _NoCallbacks:
        """Replaces the context of any task."""

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
    """Restore the attributes of an estimator if the block raises, KeyboardInterrupt included."""
    before = vars(estimator).copy()
    try:
        yield
    except BaseException:
        vars(estimator).clear()
        vars(estimator).update(before)
        raise


def report_epoch(max_iter, epoch, loss, score):
    """Print what an epoch has reached, for ``verbose``."""
    result = "" if score is None else f", validation score {score:.4f}"
    print(f"Epoch {epoch + 1}/{max_iter}, loss {loss:.6f}{result}")


class FitTask(NamedTuple):
    """A fit, or a part of it, as the callbacks of the estimator see it."""

    context: Any  # scikit-learn's context of the task
    arguments: dict  # of every call of the context

    def begin_step(self, name, *, describe):
        """Begin a subtask on the same samples; returns the function that ends it.

        That function takes a function that builds the model so far, which ``describe`` turns
        into fitted attributes if a callback needs them. It returns whether a callback asks to
        stop.
        """
        context = self.context.subcontext(task_name=name)
        context.call_on_fit_task_begin(**self.arguments)
        return lambda build_model: context.call_on_fit_task_end(
            **self.arguments, reconstruction_attributes=lambda: describe(build_model())
        )

    def subtask(self, name, place):
        """Create a subtask that fits another estimator; its place identifies it."""
        return self._replace(context=self.context.subcontext(task_name=name, task_id=place))

    def fit(self, sub_estimator, X, y, *, params, sample_weight=None):
        """Fit another estimator, which the callbacks follow, as this task.

        ``params`` are the further arguments of its fit; the callbacks get ``sample_weight``.
        """
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        arguments = {
            "estimator": self.arguments["estimator"],
            "X": X,
            "y": y,
            "metadata": metadata,
        }
        with self.context.propagate_callback_context(sub_estimator):
            self.context.call_on_fit_task_begin(**arguments)
            sub_estimator.fit(X, y, **params)
            self.context.call_on_fit_task_end(**arguments, reconstruction_attributes=None)


@contextmanager
def fit_task(estimator, max_subtasks, X, y, sample_weight=None, *, in_parallel=False):
    """Run the block as a fit: report it to the callbacks, and undo it if it raises.

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
    # Before `unchanged_on_error`: scikit-learn cleans up by the attributes that this sets.
    context = estimator._init_callback_context(
        max_subtasks=max_subtasks, sequential_subtasks=not in_parallel
    )
    with unchanged_on_error(estimator):
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        arguments = {"estimator": estimator, "X": X, "y": y, "metadata": metadata}
        context.call_on_fit_task_begin(**arguments)
        yield FitTask(context, arguments)
        # A search without a refit cannot predict.
        attributes = {} if hasattr(estimator, "predict") else None
        context.call_on_fit_task_end(**arguments, reconstruction_attributes=attributes)
