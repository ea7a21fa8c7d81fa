"""Streams and warm starts: what is learnt over several calls, and what is refused."""

import numpy as np
import pytest
from fitted_models import assert_same_model
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import f1_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import normalize

from skparse import SparseExpertClassifier, _classifier
from skparse.datasets import load_api_docs, make_topic_documents


@pytest.fixture(scope="module")
def topics():
    """Noisy documents in two halves, to learn from and to score."""
    X, y = make_topic_documents(
        4000, 1000, 20, n_classes=5, document_length=20, background_share=0.6, random_state=0,
        return_X_y=True,
    )  # fmt: skip
    X = normalize(X)
    return X[:3000], X[3000:], y[:3000], y[3000:]


@pytest.fixture(scope="module")
def api_docs():
    texts, y = load_api_docs(return_X_y=True)
    X = TfidfVectorizer(sublinear_tf=True, min_df=2, dtype=np.float32).fit_transform(texts)
    return train_test_split(X, y, test_size=0.25, random_state=0, stratify=y)


def new_model(**parameters):
    return SparseExpertClassifier(random_state=0, **parameters)


def stream(model, X, y, n_batches):
    for rows in np.array_split(np.arange(X.shape[0]), n_batches):
        model.partial_fit(X[rows], y[rows], classes=np.unique(y))
    return model


@pytest.mark.parametrize("n_batches", [1, 5, 20])
def test_a_stream_of_topics_gives_nearly_what_fit_gives(topics, n_batches):
    X, X_test, y, y_test = topics
    # A stream keeps one expert per class.
    at_once = new_model(n_experts=5).fit(X, y).score(X_test, y_test)
    streamed = stream(new_model(), X, y, n_batches)
    assert streamed.n_experts_ == 5
    assert streamed.score(X_test, y_test) > at_once - 0.02


@pytest.mark.parametrize("n_batches", [1, 5, 20])
def test_a_stream_of_real_text_gives_nearly_what_fit_gives(api_docs, n_batches):
    X, X_test, y, y_test = api_docs
    at_once = new_model().fit(X, y).score(X_test, y_test)
    assert stream(new_model(), X, y, n_batches).score(X_test, y_test) > at_once - 0.02


def test_a_stream_is_reproducible(topics):
    X, _, y, _ = topics
    assert_same_model(stream(new_model(), X, y, 5), stream(new_model(), X, y, 5))


def test_features_that_appear_later_are_learnt(topics):
    X, X_test, y, y_test = topics
    early = sparse.csr_array(X.multiply(np.arange(1000) < 300))
    model = new_model().partial_fit(early[:1500], y[:1500], classes=np.arange(5))
    assert model.router_coef_[300:].nnz == 0
    before = model.score(X_test, y_test)
    model.partial_fit(X[1500:], y[1500:])
    assert model.router_coef_[300:].nnz > 0
    assert model.score(X_test, y_test) > before + 0.1


def test_classes_that_the_first_batch_lacks_are_learnt_later(topics):
    X, X_test, y, y_test = topics
    known = y < 3
    model = new_model().partial_fit(X[known][:800], y[known][:800], classes=np.arange(5))
    assert model.predict_proba(X_test).shape == (1000, 5)
    assert set(model.predict(X_test)) <= {0, 1, 2}
    model.partial_fit(X[1500:], y[1500:])
    late = y_test >= 3
    assert model.score(X_test[late], y_test[late]) > 0.5


def test_a_batch_may_hold_one_sample_or_one_class(topics):
    X, X_test, y, _ = topics
    model = new_model().partial_fit(X[:1], y[:1], classes=np.arange(5))
    assert model.predict(X[:1]) == y[:1]
    for label in range(5):
        rows = np.flatnonzero(y == label)[:40]
        model.partial_fit(X[rows], y[rows])
    assert np.isfinite(model.predict_proba(X_test)).all()


def test_labels_that_are_not_among_the_classes_are_refused(topics):
    X, _, y, _ = topics
    model = new_model().partial_fit(X[:100], y[:100], classes=np.arange(5))
    with pytest.raises(ValueError, match=r"not among the classes: \[9\]"):
        model.partial_fit(X[:3], [0, 9, 1])
    with pytest.raises(ValueError, match=r"not among the classes: \[4\]"):
        new_model().partial_fit(X[:3], [0, 4, 1], classes=[0, 1])
    for fewer in (np.arange(4), [0, 1, 2, 3, 7]):
        with pytest.raises(ValueError, match="is not the same as on last call"):
            model.partial_fit(X[:100], y[:100], classes=fewer)


def test_the_first_call_needs_the_classes(topics):
    X, _, y, _ = topics
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        new_model().partial_fit(X[:100], y[:100])


def test_labels_of_any_type_are_streamed(topics):
    X, X_test, y, y_test = topics
    names = np.array(["e", "a", "d", "b", "c"])
    model = stream(new_model(), X, names[y], 3)
    assert model.classes_.tolist() == list("abcde")
    assert model.predict(X_test).dtype == names.dtype
    assert model.score(X_test, names[y_test]) > 0.5


def test_several_labels_a_sample_are_streamed():
    X, y = make_topic_documents(
        2400, 400, 6, document_length=30, facet_share=0.2, random_state=0, return_X_y=True
    )
    Y = np.eye(6, dtype=int)[y]
    X, Y = normalize(X[:1200] + X[1200:]), np.maximum(Y[:1200], Y[1200:])
    model = new_model()
    for rows in np.array_split(np.arange(900), 3):
        model.partial_fit(X[rows], Y[rows])
    assert model.classes_.tolist() == list(range(6))
    at_once = f1_score(
        Y[900:], new_model().fit(X[:900], Y[:900]).predict(X[900:]), average="micro"
    )
    assert f1_score(Y[900:], model.predict(X[900:]), average="micro") > at_once - 0.05
    with pytest.raises(ValueError, match="y has 4 labels"):
        model.partial_fit(X, Y[:, :4])
    with pytest.raises(ValueError, match="classes"):
        model.partial_fit(X, Y.argmax(axis=1))


def test_what_the_model_records_grows_with_the_stream(topics):
    X, _, y, _ = topics
    model = new_model(top_k=3).partial_fit(X[:1000], y[:1000], classes=np.arange(5))
    load = model.expert_load_.copy()
    assert 1000 <= load.sum() <= 3 * 1000
    model.partial_fit(X[1000:3000], y[1000:3000])
    held_out = model._stream.reservoir.X.shape[0]
    assert 0 < held_out < 2000 / 16
    assert 2000 - held_out <= (model.expert_load_ - load).sum() <= 3 * (2000 - held_out)
    assert model.n_iter_ == len(model.loss_curve_) == 2
    assert model.loss_curve_[1] < model.loss_curve_[0]
    assert model.t_ == 3000


def test_the_dtype_of_the_first_batch_stays(topics):
    X, _, y, _ = topics
    model = new_model().partial_fit(X[:500], y[:500], classes=np.arange(5))
    model.partial_fit(X[500:1000].astype(np.float64), y[500:1000])
    assert model.router_coef_.dtype == model.predict_proba(X).dtype == np.float32
    assert_same_model(model, stream(new_model(), X[:1000], y[:1000], 2))


def test_the_number_of_experts_stays_when_the_parameter_changes(topics):
    X, _, y, _ = topics
    model = new_model().partial_fit(X[:500], y[:500], classes=np.arange(5))
    model.set_params(n_experts=12).partial_fit(X[500:1000], y[500:1000])
    assert model.n_experts_ == 5


def test_a_lower_top_k_in_the_stream_does_not_forget_the_levels_that_were_trained(topics):
    X, _, y, _ = topics
    model = new_model(top_k=4).fit(X, y)
    model.set_params(top_k=2).partial_fit(X[:500], y[:500])
    assert model.set_params(top_k=4).predict(X).shape == y.shape


def test_a_fitted_model_learns_on_from_a_stream(topics):
    X, X_test, y, y_test = topics
    model = new_model().fit(X[:300], y[:300])
    before = model.score(X_test, y_test)
    model.partial_fit(X[300:], y[300:])
    assert model.score(X_test, y_test) > before
    assert model.t_ == 3000


def test_fit_starts_anew_after_a_stream(topics):
    X, _, y, _ = topics
    model = stream(new_model(), X[:, ::-1], y, 3).fit(X, y)
    fresh = new_model().fit(X, y)
    assert_same_model(model, fresh)
    assert model.loss_curve_ == fresh.loss_curve_
    assert model.t_ == 3000


def test_a_warm_start_continues_from_the_fitted_model(topics):
    X, X_test, y, y_test = topics
    model = new_model(max_iter=1, warm_start=True).fit(X, y)
    assert_same_model(model, new_model(max_iter=1).fit(X, y))
    before, score = model.loss_curve_[0], model.score(X_test, y_test)
    model.fit(X, y)
    assert model.n_iter_ == len(model.loss_curve_) == 1
    assert model.loss_curve_[0] < before + 0.01
    assert model.score(X_test, y_test) > score - 0.02
    assert abs(model.router_coef_ - new_model(max_iter=1).fit(X, y).router_coef_).max() > 0


def test_a_warm_start_keeps_what_it_learnt_from_other_samples(topics):
    X, X_test, y, y_test = topics
    few = np.concatenate([np.flatnonzero(y == label)[:5] for label in range(5)])
    model = new_model(warm_start=True).fit(X, y).fit(X[few], y[few])
    assert (
        model.score(X_test, y_test) > new_model().fit(X[few], y[few]).score(X_test, y_test) + 0.1
    )


def test_a_warm_start_can_raise_top_k(topics):
    X, _, y, _ = topics
    model = new_model(top_k=2, warm_start=True).fit(X, y)
    assert model.top_k_ == 2
    assert model.set_params(top_k=4).fit(X, y).top_k_ == 4
    assert model.transform(X).shape == (3000, 5)


def test_a_warm_start_with_other_classes_or_features_is_refused(topics):
    X, _, y, _ = topics
    model = new_model(warm_start=True).fit(X, y)
    with pytest.raises(ValueError, match="classes"):
        model.fit(X, y + 1)
    with pytest.raises(ValueError, match="X has 999 features.*expecting 1000"):
        model.fit(X[:, 1:], y)
    with pytest.raises(ValueError, match="classes"):
        model.fit(X, np.eye(5, dtype=int)[y])


def test_the_losses_of_a_long_stream_are_bounded_and_its_epochs_are_counted(monkeypatch):
    monkeypatch.setattr(_classifier, "MAX_LOSSES", 3)
    X, y = np.eye(4), [0, 1, 0, 1]
    model = SparseExpertClassifier(random_state=0)
    for n_calls in range(1, 6):
        model.partial_fit(X, y, classes=[0, 1])
        assert model.n_iter_ == n_calls
        assert len(model.loss_curve_) == min(n_calls, 3)
