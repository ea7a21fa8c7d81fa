"""Odd X, y, weights and parameters: an error of scikit-learn's kind, or a model that works.

Hypothesis draws the cases. CONTRIBUTING names the command for a longer run.
"""

import os
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.base import clone

from skparse import SparseExpertClassifier

N_EXAMPLES = int(os.environ.get("SKPARSE_HOSTILE_EXAMPLES", "500"))  # for each of four tests
MAGNITUDES = [0.0, 1e-30, 1e-8, 1.0, 7.0, 1e4, 1e19, 1e30, -1.0, -1e4]
hostile = settings(
    max_examples=N_EXAMPLES, deadline=None, derandomize=N_EXAMPLES == 500, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


@st.composite
def draw_X(draw, n_samples, n_features):
    """An array or sparse matrix whose entries, rows and columns have unlike sizes."""
    rng = np.random.RandomState(draw(st.integers(0, 2**16)))
    X = rng.normal(size=(n_samples, n_features))
    X *= rng.uniform(size=X.shape) < draw(st.sampled_from([0.0, 0.1, 0.4, 1.0]))
    if draw(st.booleans()):
        X = np.abs(X)
    X *= draw(st.sampled_from(MAGNITUDES))
    row, column = draw(st.integers(0, n_samples - 1)), draw(st.integers(0, n_features - 1))
    X[row] *= draw(st.sampled_from(MAGNITUDES))
    X[:, column] *= draw(st.sampled_from(MAGNITUDES))
    if draw(st.booleans()):
        X[row, column] = draw(st.sampled_from([np.nan, np.inf, 3.0, 1e30]))
    if draw(st.booleans()):
        integers = np.nan_to_num(np.round(X)).clip(-100, 100)
        X = integers.astype(draw(st.sampled_from([np.int8, np.int64, bool])))
    else:
        with np.errstate(over="ignore"):
            X = X.astype(draw(st.sampled_from([np.float32, np.float64])))
    kind = draw(st.sampled_from(["array", "csr", "csc", "coo", "lil"]))
    return X if kind == "array" else sparse.csr_array(X).asformat(kind)


@st.composite
def draw_y(draw, n_samples, *, multilabel):
    """Class labels of some kind, or an indicator matrix."""
    rng = np.random.RandomState(draw(st.integers(0, 2**16)))
    if multilabel:
        Y = (rng.rand(n_samples, draw(st.integers(2, 5))) < draw(st.floats(0, 1))).astype(int)
        return sparse.csr_array(Y) if draw(st.booleans()) else Y
    n_classes = draw(st.integers(1, 6))
    codes = rng.randint(n_classes, size=n_samples)
    names = draw(
        st.sampled_from(
            [np.arange(6), np.array(list("fedcba")), np.array([-3, 0, 5, 7, 8, 9]),
             np.array([0.0, 1, 2, 3, 4, 5]), np.array(["a", "b", 1, 2, None, "c"], object)]
        )
    )  # fmt: skip
    return names[codes]


@st.composite
def draw_weight(draw, n_samples):
    """None, or weights with zeros and unlike sizes."""
    rng = np.random.RandomState(draw(st.integers(0, 2**16)))
    size = draw(st.sampled_from([None, 1.0, 1e-30, 1e30, -1.0, np.nan]))
    if size is None:
        return None
    weight = rng.randint(0, 3, size=n_samples).astype(float)
    weight[draw(st.integers(0, n_samples - 1))] = size
    return weight


PARAMETERS = st.fixed_dictionaries(
    {},
    optional={
        "n_experts": st.sampled_from(["auto", 1, 2, 3, 9, 0, np.uint8(4), True]),
        "top_k": st.sampled_from([1, 2, 8, 100, 0, 2.0, np.int8(3)]),
        "weight_density": st.sampled_from(["auto", 0.01, 0.5, 1.0, 0.0]),
        "alpha": st.sampled_from(["auto", 1e-12, 1.0, 1e9, 0.0]),
        "max_iter": st.sampled_from(["auto", 1, 3]),
        "batch_size": st.sampled_from(["auto", 1, 7, 10**6]),
        "learning_rate_init": st.sampled_from([0.1, 1e-9, 1e3]),
        "early_stopping": st.booleans(),
        "class_weight": st.sampled_from([None, "balanced", {0: 2.0}, [1, 2]]),
        "random_state": st.sampled_from([0, 1]),
    },
)


@st.composite
def draw_case(draw, *, multilabel=False, largest=30):
    """X, y, weights and an estimator."""
    n_samples, n_features = draw(st.integers(1, largest)), draw(st.integers(1, 8))
    return (
        draw(draw_X(n_samples, n_features)),
        draw(draw_y(n_samples, multilabel=multilabel)),
        draw(draw_weight(n_samples)),
        SparseExpertClassifier(**{"random_state": 0, **draw(PARAMETERS)}),
    )


def freeze(value):
    """A copy of X, y or weights that can be compared."""
    if sparse.issparse(value):
        return (value.format, value.shape, *(np.copy(a) for a in value.tocoo(copy=True).coords),
                np.copy(value.tocoo(copy=True).data))  # fmt: skip
    return np.copy(value) if isinstance(value, np.ndarray) else value


def assert_unchanged(value, before):
    after = freeze(value)
    pairs = zip(after, before, strict=True) if isinstance(after, tuple) else [(after, before)]
    for new, old in pairs:
        np.testing.assert_array_equal(new, old)


def check(call, X, y, weight, model):
    """Fail unless ``call(model, X, y, weight)`` raises the right kind of error, or works twice."""
    before = [freeze(value) for value in (X, y, weight)]
    second = clone(model)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=RuntimeWarning)
        warnings.filterwarnings("error", category=RuntimeWarning, module="skparse")
        warnings.filterwarnings("ignore", category=UserWarning)  # about targets like numbers
        try:
            trained = call(model, X, y, weight)
        except (ValueError, TypeError) as error:
            assert len(str(error)) > 10
            assert not hasattr(model, "classes_")
            return
        finally:
            for value, old in zip((X, y, weight), before, strict=True):
                assert_unchanged(value, old)
        call(second, X, y, weight)
        # Samples that the last call has not seen may be so large that a score overflows.
        X = (X.tocsr() if sparse.issparse(X) else X)[trained]
        found = model.predict_proba(X)
        assert np.isfinite(found).all() and (found >= 0).all()
        if found.ndim == 2 and not model._multilabel:
            np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-4)
        assert np.isin(model.predict(X), [*model.classes_, 0, 1]).all()
        np.testing.assert_array_equal(second.predict_proba(X), found)


def with_weight(weight, n_samples):
    """Return the places of the samples that take part."""
    weight = np.ones(n_samples) if weight is None else weight
    return np.flatnonzero(weight > np.finfo(float).eps * weight.max())


def fit(model, X, y, weight):
    model.fit(X, y, sample_weight=weight)
    return with_weight(weight, X.shape[0])


def stream(model, X, y, weight):
    is_matrix = sparse.issparse(y) or np.ndim(y) == 2
    classes = None if is_matrix else np.unique(y)
    rows = sparse.csr_array(X) if sparse.issparse(X) else X
    targets = sparse.csr_array(y) if sparse.issparse(y) else y
    middle = max(1, rows.shape[0] // 2)
    for part in (slice(0, middle), slice(middle, None)):
        if rows[part].shape[0]:
            own = None if weight is None else weight[part]
            model.partial_fit(rows[part], targets[part], classes=classes, sample_weight=own)
            trained = part.start + with_weight(own, rows[part].shape[0])
    return trained


@hostile
@given(draw_case())
def test_a_fit_works_or_raises(case):
    check(fit, *case)


@hostile
@given(draw_case(largest=200))
def test_a_fit_of_more_samples_works_or_raises(case):
    check(fit, *case)


@hostile
@given(draw_case(multilabel=True))
def test_a_fit_of_several_labels_works_or_raises(case):
    check(fit, *case)


@pytest.mark.parametrize("multilabel", [False, True])
def test_a_stream_works_or_raises(multilabel):
    @settings(hostile, max_examples=N_EXAMPLES // 2)
    @given(draw_case(multilabel=multilabel))
    def run(case):
        X, y, weight, model = case
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                stream(clone(model), X, y, weight)
        except (ValueError, TypeError):  # the first part may be fine, the second not
            return
        check(stream, X, y, weight, model)

    run()
