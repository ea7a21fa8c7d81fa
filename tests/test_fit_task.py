"""Callbacks of scikit-learn follow a fit; what they raise leaves the estimator as it was."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
from fitted_models import assert_same_model
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from skparse import SparseExpertClassifier
from skparse.datasets import make_topic_documents
from skparse.model_selection import TopKSearchCV

# Before 1.9 scikit-learn has no callbacks.
needs_callbacks = pytest.mark.skipif(
    not hasattr(SparseExpertClassifier, "set_callbacks"),
    reason="this scikit-learn has no callbacks",
)


class Recorder:
    """Callback that writes down which tasks begin and end, and the model at their ends."""

    def __init__(self):
        self.begun, self.ended, self.models, self.received = [], [], [], []
        self.n_setups = self.n_teardowns = 0

    def setup(self, estimator, context):
        self.n_setups += 1

    def teardown(self, estimator, context):
        self.n_teardowns += 1

    def on_fit_task_begin(self, estimator, context):
        self.begun.append(context.task_name)

    def on_fit_task_end(self, estimator, context, *, X=None, metadata=None, fitted_estimator=None):
        self.ended.append(context.task_name)
        self.received.append((X, metadata))
        self.models.append(fitted_estimator)


class Follower(Recorder):
    """Recorder that a search passes on to what it fits."""

    max_propagation_depth = None


class Failing(Recorder):
    """Raises when a task of a certain name begins or ends."""

    def __init__(self, hook, task_name):
        super().__init__()
        self.hook, self.task_name = hook, task_name

    def _fail(self, hook, context):
        if (hook, context.task_name) == (self.hook, self.task_name):
            raise RuntimeError("the callback fails")

    def setup(self, estimator, context):
        super().setup(estimator, context)
        self._fail("setup", context)

    def on_fit_task_begin(self, estimator, context):
        self._fail("begin", context)

    def on_fit_task_end(self, estimator, context):
        self._fail("end", context)


class Stopping(Recorder):
    """Asks to stop at the end of the n-th epoch."""

    def __init__(self, n):
        super().__init__()
        self.n = n

    def on_fit_task_end(self, estimator, context):
        self.ended.append(context.task_name)
        return self.ended.count("epoch") == self.n


@pytest.fixture(scope="module")
def documents():
    return make_topic_documents(
        400, 200, 6, n_classes=3, document_length=20, random_state=0, return_X_y=True
    )


def build_search(of_classifier=None, **parameters):
    classifier = SparseExpertClassifier(random_state=0, **(of_classifier or {}))
    return TopKSearchCV(classifier, top_ks=(1, 2), **parameters)


def epochs_of_a_fit(n_epochs):
    return ["start", *["epoch"] * n_epochs]


@needs_callbacks
@pytest.mark.parametrize("max_iter", [1, 5])
def test_a_callback_hears_of_every_epoch(documents, max_iter):
    recorder = Recorder()
    model = SparseExpertClassifier(max_iter=max_iter, n_iter_no_change=5, random_state=0)
    model.set_callbacks(recorder).fit(*documents)
    assert recorder.ended == [*epochs_of_a_fit(model.n_iter_), "fit"]
    assert recorder.begun == ["fit", *epochs_of_a_fit(model.n_iter_)]
    assert recorder.ended.count("epoch") == model.n_iter_ == max_iter
    assert (recorder.n_setups, recorder.n_teardowns) == (1, 1)


@needs_callbacks
def test_a_fit_that_stops_early_ends_all_its_tasks(documents):
    recorder = Recorder()
    model = SparseExpertClassifier(max_iter=50, tol=10.0, random_state=0).set_callbacks(recorder)
    model.fit(*documents)
    assert recorder.ended.count("epoch") == model.n_iter_ == 1 + model.n_iter_no_change
    assert sorted(recorder.begun) == sorted(recorder.ended)


@needs_callbacks
def test_a_warm_start_has_a_start_and_epochs(documents):
    recorder = Recorder()
    model = SparseExpertClassifier(warm_start=True, random_state=0).fit(*documents)
    model.set_callbacks(recorder).fit(*documents)
    assert recorder.ended == [*epochs_of_a_fit(model.n_iter_), "fit"]


@needs_callbacks
def test_a_stream_is_nothing_that_callbacks_follow(documents):
    X, y = documents
    recorder = Recorder()
    model = SparseExpertClassifier(random_state=0).set_callbacks(recorder)
    model.partial_fit(X, y, classes=[0, 1, 2])
    assert recorder.n_setups == 0 and recorder.ended == []
    assert_same_model(
        model, SparseExpertClassifier(random_state=0).partial_fit(X, y, classes=[0, 1, 2])
    )


@needs_callbacks
@pytest.mark.parametrize(
    "parameters",
    [{}, {"early_stopping": True}, {"weight_density": 0.5}, {"n_experts": 7}],
    ids=["defaults", "early stopping", "pruned", "many experts"],
)
def test_callbacks_do_not_change_the_model(documents, parameters):
    model = SparseExpertClassifier(random_state=0, **parameters)
    watched = clone(model).set_callbacks(Recorder())
    assert_same_model(watched.fit(*documents), model.fit(*documents))


@needs_callbacks
def test_the_model_at_the_end_of_an_epoch_is_that_of_a_shorter_fit(documents):
    X, y = documents
    recorder = Recorder()
    model = SparseExpertClassifier(max_iter=3, random_state=0).set_callbacks(recorder)
    model.fit(X, y, sample_weight=np.ones(len(y)))
    start, *epochs, last = recorder.models
    for max_iter, at_epoch in enumerate(epochs, start=1):
        shorter = SparseExpertClassifier(max_iter=max_iter, random_state=0).fit(X, y)
        np.testing.assert_array_equal(at_epoch.predict_proba(X), shorter.predict_proba(X))
    np.testing.assert_array_equal(last.predict_proba(X), model.predict_proba(X))
    assert start.score(X, y) > 0.8
    for samples, metadata in recorder.received:
        assert samples is X and list(metadata) == ["sample_weight"]


@needs_callbacks
@pytest.mark.parametrize("n", [1, 2])
def test_a_callback_can_end_the_training(documents, n):
    X, y = documents
    model = SparseExpertClassifier(max_iter=4, random_state=0).set_callbacks(Stopping(n)).fit(X, y)
    assert model.n_iter_ == len(model.loss_curve_) == n
    assert_same_model(model, SparseExpertClassifier(max_iter=n, random_state=0).fit(X, y))


FAILURES = [
    ("setup", "fit"), ("begin", "fit"), ("begin", "start"), ("end", "start"),
    ("begin", "epoch"), ("end", "epoch"), ("end", "fit"),
]  # fmt: skip


@needs_callbacks
@pytest.mark.parametrize(("hook", "task_name"), FAILURES)
def test_a_callback_that_fails_leaves_the_model_as_it_was(documents, hook, task_name):
    X, y = documents
    model = SparseExpertClassifier(random_state=0).fit(X, y)
    callback = Failing(hook, task_name)
    before = dict(vars(model.set_callbacks(callback)))
    with pytest.raises(RuntimeError, match="the callback fails"):
        model.fit(X[::2], y[::2])
    assert {name: id(value) for name, value in vars(model).items()} == {
        name: id(value) for name, value in before.items()
    }
    assert callback.n_teardowns == 1


@needs_callbacks
@pytest.mark.parametrize(
    ("hook", "task_name"), [("begin", "fold"), ("end", "fold"), ("begin", "refit"), ("end", "fit")]
)
def test_a_callback_that_fails_leaves_the_search_as_it_was(documents, hook, task_name):
    X, y = documents
    search = build_search(cv=2).fit(X, y)
    callback = Failing(hook, task_name)
    before = dict(vars(search.set_callbacks(callback)))
    with pytest.raises(RuntimeError, match="the callback fails"):
        search.fit(X[::2], y[::2])
    assert {name: id(value) for name, value in vars(search).items()} == {
        name: id(value) for name, value in before.items()
    }
    assert callback.n_teardowns == 1


@needs_callbacks
def test_bad_input_lets_the_callbacks_clean_up(documents):
    X, y = documents
    recorder = Recorder()
    model = SparseExpertClassifier().set_callbacks(recorder)
    with pytest.raises(ValueError):
        model.fit(X, y[1:])
    assert (recorder.n_setups, recorder.n_teardowns) == (1, 1)
    assert not hasattr(model, "classes_") and not hasattr(model, "_callback_fit_ctx")


@needs_callbacks
@pytest.mark.parametrize("n_jobs", [None, 2])
@pytest.mark.parametrize("refit", [True, False])
def test_a_search_over_top_k_tells_of_its_folds_and_of_their_epochs(documents, refit, n_jobs):
    follower = Follower()
    search = build_search({"max_iter": 2}, cv=3, refit=refit, n_jobs=n_jobs)
    watched = clone(search).set_callbacks(follower).fit(*documents)
    n_fits = 3 + refit
    assert follower.ended.count("epoch") == 2 * n_fits
    assert follower.ended.count("start") == n_fits
    # A fold and the fit in it are one task.
    assert follower.ended.count("fit") == n_fits + 1
    assert sorted(follower.begun) == sorted(follower.ended)
    assert (follower.n_setups, follower.n_teardowns) == (1, 1)
    np.testing.assert_array_equal(watched.scores_, search.fit(*documents).scores_)


@needs_callbacks
def test_a_callback_that_is_not_passed_on_receives_folds_and_refit(documents):
    X, y = documents
    recorder = Recorder()
    search = build_search(cv=3)
    search.set_callbacks(recorder).fit(X, y)
    assert recorder.ended == ["fold"] * 3 + ["refit", "fit"]
    assert [samples.shape[0] for samples, _ in recorder.received[3:]] == [len(y)] * 2
    assert all(samples.shape[0] < len(y) for samples, _ in recorder.received[:3])
    np.testing.assert_array_equal(recorder.models[-1].predict(X), search.predict(X))


@needs_callbacks
def test_a_search_in_processes_passes_callbacks_on(documents):
    follower = Follower()
    search = build_search({"max_iter": 1, "engine": "torch"}, cv=2, n_jobs=2)
    search.set_callbacks(follower).fit(*documents)
    # Copies of the callback in the processes record the rest; they are not returned.
    assert follower.ended == [*epochs_of_a_fit(1), "fit", "fit"]


@needs_callbacks
@pytest.mark.parametrize("n_jobs", [None, 2])
def test_a_search_over_top_k_of_a_pipeline_reports_the_epochs(documents, n_jobs):
    follower = Follower()
    # Of a transformer without callbacks scikit-learn would warn.
    pipeline = make_pipeline("passthrough", SparseExpertClassifier(max_iter=2, random_state=0))
    search = TopKSearchCV(pipeline, top_ks=(1, 2), cv=3, n_jobs=n_jobs)
    watched = clone(search).set_callbacks(follower).fit(*documents)
    n_fits = 3 + 1
    assert follower.ended.count("epoch") == 2 * n_fits
    assert follower.ended.count("start") == n_fits
    assert sorted(follower.begun) == sorted(follower.ended)
    assert (follower.n_setups, follower.n_teardowns) == (1, 1)
    np.testing.assert_array_equal(watched.scores_, search.fit(*documents).scores_)


@needs_callbacks
def test_a_search_over_top_k_passes_sample_weights_to_callbacks(documents):
    X, y = documents
    recorder, weight = Recorder(), np.linspace(1.0, 2.0, len(y))
    build_search(cv=3).set_callbacks(recorder).fit(X, y, sample_weight=weight)
    sums = [metadata["sample_weight"].sum() for _, metadata in recorder.received]
    np.testing.assert_allclose(sums[3:], weight.sum())
    np.testing.assert_allclose(sum(sums[:3]), 2 * weight.sum())


@needs_callbacks
def test_a_grid_search_over_a_pipeline_tells_of_the_epochs(documents):
    follower = Follower()
    # Of a transformer without callbacks scikit-learn would warn.
    pipeline = make_pipeline("passthrough", SparseExpertClassifier(max_iter=2, random_state=0))
    grid = GridSearchCV(pipeline, {"sparseexpertclassifier__top_k": [1, 2]}, cv=2)
    grid.set_callbacks(follower).fit(*documents)
    assert follower.ended.count("epoch") == 2 * (2 * 2 + 1)


@needs_callbacks
def test_a_fitted_model_with_callbacks_can_be_cloned_and_pickled(documents):
    X, y = documents
    model = SparseExpertClassifier(random_state=0).set_callbacks(Recorder()).fit(X, y)
    assert not hasattr(clone(model), "classes_")
    assert_same_model(pickle.loads(pickle.dumps(model)), model)
    assert_same_model(clone(model).fit(X, y), model)


def test_without_callbacks_in_scikit_learn_fits_are_the_same(documents):
    code = (
        "import sys\n"
        "import sklearn.model_selection, sklearn.pipeline\n"
        "there = sys.modules.pop('sklearn.callback', None)\n"
        "sys.modules['sklearn.callback'] = None\n"  # an import fails, as in an older version
        "from skparse import SparseExpertClassifier\n"
        "from skparse.model_selection import TopKSearchCV\n"
        "sys.modules['sklearn.callback'] = there\n"
        "from skparse.datasets import make_topic_documents\n"
        "X, y = make_topic_documents(400, 200, 6, n_classes=3, document_length=20,"
        " random_state=0, return_X_y=True)\n"
        "model = SparseExpertClassifier(random_state=0).fit(X, y)\n"
        "search = TopKSearchCV(SparseExpertClassifier(random_state=0), top_ks=(1, 2), cv=2)\n"
        "search.fit(X, y)\n"
        "print(hasattr(model, 'set_callbacks'), hasattr(search, 'set_callbacks'))\n"
        "print(model.predict_proba(X).sum(axis=0).tolist(), search.scores_.tolist())\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    answer, numbers = done.stdout.splitlines()
    assert answer == "False False"
    X, y = documents
    model = SparseExpertClassifier(random_state=0).fit(X, y)
    search = build_search(cv=2).fit(X, y)
    sums, scores = model.predict_proba(X).sum(axis=0).tolist(), search.scores_.tolist()
    assert numbers == f"{sums} {scores}"
