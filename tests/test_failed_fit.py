"""A call that fails half way leaves the estimator exactly as it was."""

import contextlib
import io
import pickle

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from skparse import SparseExpertClassifier, _stream_fit
from skparse.datasets import make_topic_documents


@pytest.fixture(scope="module")
def documents():
    return make_topic_documents(
        400, 200, 6, n_classes=3, document_length=20, random_state=0, return_X_y=True
    )


@pytest.fixture(params=["fitted", "streamed", "fitted for early stopping", "warm"])
def model(request, documents):
    X, y = documents
    model = SparseExpertClassifier(random_state=0)
    if request.param == "streamed":
        return model.partial_fit(X, y, classes=[0, 1, 2])
    model.set_params(early_stopping="stopping" in request.param)
    return model.fit(X, y).set_params(warm_start=request.param == "warm")


@pytest.fixture(params=["fit", "partial_fit"])
def method(request):
    return request.param


@contextlib.contextmanager
def left_as_it_was(model):
    """Fail if the block does not raise, or if it changes anything about the model."""
    before, attributes = pickle.dumps(model), dict(vars(model))
    yield
    assert pickle.dumps(model) == before
    assert {name: id(value) for name, value in vars(model).items()} == {
        name: id(value) for name, value in attributes.items()
    }


class InterruptedDraws(np.random.RandomState):
    """A source of random numbers during whose n-th draw the user presses Ctrl-C."""

    def __init__(self, n):
        super().__init__(0)
        self.left = n

    def _count(self):
        self.left -= 1
        if self.left <= 0:
            raise KeyboardInterrupt

    def permutation(self, *args):
        self._count()
        return super().permutation(*args)

    def randint(self, *args, **kwargs):
        self._count()
        return super().randint(*args, **kwargs)


BAD_CALLS = {
    "nan in y": lambda X, y: (X, np.where(y == 1, np.nan, y), None),
    "continuous y": lambda X, y: (X, y + 0.5 * np.random.default_rng(0).random(len(y)), None),
    "short y": lambda X, y: (X, y[1:], None),
    "weights of zero": lambda X, y: (X, y, np.zeros(len(y))),
    "negative weights": lambda X, y: (X, y, np.full(len(y), -1.0)),
    "nan in X": lambda X, y: (X * np.nan, y, None),
    "no rows": lambda X, y: (X[:0], y[:0], None),
    "other features, short y": lambda X, y: (X[:, :50], y[1:], None),
    "a frame, short y": lambda X, y: (frame(X), y[1:], None),
}


def frame(X):
    return pd.DataFrame(X.toarray(), columns=[f"t{j}" for j in range(X.shape[1])])


@pytest.mark.filterwarnings("ignore:X has feature names")
@pytest.mark.parametrize("spoil", BAD_CALLS.values(), ids=BAD_CALLS)
def test_bad_input_leaves_the_model_as_it_was(model, documents, method, spoil):
    X, y, weight = spoil(*documents)
    with left_as_it_was(model), pytest.raises(ValueError):
        getattr(model, method)(X, y, sample_weight=weight)


@pytest.mark.parametrize("spoil", BAD_CALLS.values(), ids=BAD_CALLS)
def test_bad_input_leaves_a_new_estimator_unfitted(documents, method, spoil):
    X, y, weight = spoil(*documents)
    model = SparseExpertClassifier()
    classes = {"classes": [0, 1, 2]} if method == "partial_fit" else {}
    with left_as_it_was(model), pytest.raises(ValueError):
        getattr(model, method)(X, y, sample_weight=weight, **classes)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("alpha", -1), ("alpha", "strong"), ("n_experts", 0), ("top_k", "many"),
        ("engine", "numpy"),
    ],
)  # fmt: skip
def test_a_bad_parameter_leaves_the_model_as_it_was(model, documents, name, value):
    model.set_params(**{name: value})
    with left_as_it_was(model), pytest.raises(ValueError, match=f"'{name}' parameter"):
        model.fit(*documents)


@pytest.mark.parametrize("n", [1, 2])
def test_an_interrupt_in_training_leaves_the_model_as_it_was(model, documents, method, n):
    X, y = documents
    if method == "partial_fit" and hasattr(model, "_stream"):
        pytest.skip("a stream draws no numbers after its first call; the next test is for it")
    model.set_params(random_state=InterruptedDraws(n))
    proba = model.predict_proba(X)
    before = {name: value for name, value in vars(model).items() if name != "random_state"}
    arrays = pickle.dumps(before)
    with pytest.raises(KeyboardInterrupt):
        getattr(model, method)(X[::2], y[::2])
    assert model.random_state.left <= 0
    del model.__dict__["random_state"]
    assert pickle.dumps(vars(model)) == arrays
    model.random_state = 0
    np.testing.assert_array_equal(model.predict_proba(X), proba)


@pytest.mark.parametrize("after", [1, 3])
def test_an_interrupt_after_an_epoch_leaves_the_model_as_it_was(model, documents, after):
    class Interrupted(io.StringIO):
        def write(self, text):
            if super().write(text) and self.getvalue().count("loss") == after:
                raise KeyboardInterrupt

    X, y = documents
    model.set_params(verbose=1, max_iter=5, tol=0, n_iter_no_change=100)
    with (
        left_as_it_was(model),
        pytest.raises(KeyboardInterrupt),
        contextlib.redirect_stdout(Interrupted()),
    ):
        model.fit(X[::2], y[::2])


STEPS = ["learn", "choose_by_reservoir", "check_finite", "describe"]


@pytest.mark.parametrize("classes", [None, [0, 1, 2, 3]])
@pytest.mark.parametrize("n_before", [1, 2500])
@pytest.mark.parametrize("step", STEPS)
def test_an_interrupt_in_a_stream_leaves_the_model_as_it_was(
    documents, step, n_before, classes, monkeypatch
):
    X, y = documents
    rows = np.arange(n_before) % 300
    model = SparseExpertClassifier(random_state=0)
    model.partial_fit(X[rows], y[rows], classes=[0, 1, 2])
    proba, function = model.predict_proba(X), getattr(_stream_fit, step)

    def run_and_interrupt(*args, **kwargs):
        function(*args, **kwargs)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_stream_fit, step, run_and_interrupt)
        with left_as_it_was(model), pytest.raises(KeyboardInterrupt):
            model.partial_fit(X[200:], y[200:], classes=classes)
    np.testing.assert_array_equal(model.predict_proba(X), proba)
    other = SparseExpertClassifier(random_state=0)
    other.partial_fit(X[rows], y[rows], classes=[0, 1, 2])
    for one in (model, other):
        one.partial_fit(X[100:], y[100:], classes=classes)
    assert pickle.dumps(model) == pickle.dumps(other)


def test_an_interrupt_at_the_very_end_leaves_the_model_as_it_was(
    model, documents, method, monkeypatch
):
    if method == "partial_fit" and hasattr(model, "_stream"):
        pytest.skip("a stream is recorded by functions of its own")
    record = SparseExpertClassifier._record

    def record_and_interrupt(*args):
        record(*args)
        raise KeyboardInterrupt

    X, y = documents
    monkeypatch.setattr(SparseExpertClassifier, "_record", record_and_interrupt)
    with left_as_it_was(model), pytest.raises(KeyboardInterrupt):
        getattr(model, method)(X[::2], y[::2])


def test_an_interrupt_leaves_a_new_estimator_unfitted(documents, method):
    X, y = documents
    classes = {"classes": [0, 1, 2]} if method == "partial_fit" else {}
    n_draws = 1 if method == "partial_fit" else 2
    model = SparseExpertClassifier(random_state=InterruptedDraws(n_draws))
    parameters = set(vars(model))
    with pytest.raises(KeyboardInterrupt):
        getattr(model, method)(X, y, **classes)
    assert set(vars(model)) == parameters


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"X_val": sparse.csr_array((2, 200))}, "X_val and y_val go together"),
        ({"y_val": [0, 1]}, "X_val and y_val go together"),
        ({"X_val": sparse.csr_array((2, 9)), "y_val": [0, 1]}, "X has 9 features"),
        ({"X_val": sparse.csr_array((2, 200)), "y_val": [0, 5]}, "not among the classes"),
        ({"X_val": sparse.csr_array((2, 200)), "y_val": [[0, 1], [1, 1]]}, "same type of target"),
    ],
    ids=["no y_val", "no X_val", "features", "classes", "type"],
)
def test_a_bad_validation_set_leaves_the_model_as_it_was(model, documents, extra, message):
    with left_as_it_was(model), pytest.raises(ValueError, match=message):
        model.fit(*documents, **extra)
