"""Samples without a known feature get the shares of the classes, at every K."""

import numpy as np
import pytest
from documents import draw_noisy_documents
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from scipy.special import expit, softmax

from skparse import SparseExpertClassifier
from skparse.datasets import make_topic_documents
from skparse.nn import SparseExpertNetwork

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")


def draw_documents(n_classes, n_samples=600, seed=0):
    """Draw documents of classes of unequal size."""
    X, y = make_topic_documents(
        2 * n_samples, 300, max(20, n_classes), n_classes=n_classes, random_state=seed,
        return_X_y=True,
    )  # fmt: skip
    kept = np.random.RandomState(seed).uniform(size=len(y)) < 0.2 + 0.8 * (y < n_classes / 2)
    return X[kept][:n_samples], y[kept][:n_samples]


def empty_row(X):
    return sparse.csr_array((1, X.shape[1]), dtype=X.dtype)


@pytest.mark.parametrize("engine", ["numba", "torch"])
@pytest.mark.parametrize(
    ("n_classes", "n_samples"), [(2, 600), (6, 600), (20, 600), (20, 2500), (100, 2500), (3, 60)]
)
def test_an_empty_sample_gets_the_shares_of_the_classes_at_every_level(
    n_classes, n_samples, engine
):
    X, y = draw_documents(n_classes, n_samples)
    model = SparseExpertClassifier(random_state=0, engine=engine).fit(X, y)
    shares = np.bincount(y)[model.classes_] / len(y)
    empty = empty_row(X)
    for top_k in range(1, model.top_k_ + 1):
        model.set_params(top_k=top_k)
        proba = model.predict_proba(empty)[0]
        assert np.abs(proba - shares).sum() / 2 < 0.01
        assert model.predict(empty)[0] == model.classes_[proba.argmax()]
        assert_allclose(softmax(model.prior_logits_), proba, rtol=1e-5)
    assert model.transform(empty).nnz == 0
    path = model.predict_proba_path(empty, range(1, model.top_k_ + 1))
    assert_allclose(path, np.broadcast_to(proba, path.shape), rtol=1e-6)


@pytest.mark.parametrize("engine", ["numba", "torch"])
def test_unknown_features_and_stored_zeros_are_no_evidence(engine):
    X, y = draw_documents(4)
    X = X.copy()
    X.data[X.indices == 7] = 0
    X.eliminate_zeros()
    model = SparseExpertClassifier(random_state=0, engine=engine).fit(X, y)
    unknown = empty_row(X).tolil()
    unknown[0, 7] = 3.0
    zeros = sparse.csr_array((np.zeros(2), [1, 2], [0, 2]), shape=unknown.shape)
    known = empty_row(X).tolil()
    known[0, X.indices[0]] = 0.5
    proba = model.predict_proba(sparse.vstack([unknown, zeros, known, empty_row(X)]).tocsr())
    assert_array_equal(proba[0], proba[3])
    assert_array_equal(proba[1], proba[3])
    assert np.abs(proba[2] - proba[3]).max() > 0.01
    # Two experts are connected to all features first where there are many rows.
    many = sparse.vstack([X] * 40 + [unknown]).tocsr()
    two = SparseExpertClassifier(random_state=0, engine=engine).fit(X, y % 2)
    assert_allclose(two.predict_proba(many)[-1], softmax(two.prior_logits_), rtol=1e-6)
    assert_allclose(two.predict_proba(many[-1:])[0], softmax(two.prior_logits_), rtol=1e-6)


def test_many_empty_training_samples_of_one_class_decide():
    X, y = draw_documents(4)
    X = sparse.vstack([X, sparse.csr_array((300, X.shape[1]))]).tocsr()
    y = np.concatenate([y, np.full(300, 3)])
    model = SparseExpertClassifier(random_state=0).fit(X, y)
    assert model.predict(empty_row(X))[0] == 3
    assert model.predict_proba(empty_row(X))[0, 3] > 0.95
    weightless = SparseExpertClassifier(random_state=0).fit(X, y, np.arange(len(y)) < len(y) - 300)
    shares = np.bincount(y[:-300]) / (len(y) - 300)
    assert_allclose(weightless.predict_proba(empty_row(X))[0], shares, rtol=1e-6)


def test_sample_weights_and_class_weights_count():
    X, y = draw_documents(4)
    weight = np.random.RandomState(0).uniform(0.1, 3, len(y))
    model = SparseExpertClassifier(random_state=0).fit(X, y, weight)
    shares = np.bincount(y, weight) / weight.sum()
    assert_allclose(model.predict_proba(empty_row(X))[0], shares, rtol=1e-6)
    balanced = SparseExpertClassifier(class_weight="balanced", random_state=0).fit(X, y)
    assert_allclose(balanced.predict_proba(empty_row(X))[0], 0.25, rtol=1e-6)


def test_of_several_labels_each_has_its_share():
    X, y = draw_documents(5)
    labels = np.eye(5, dtype=int)[y] | np.eye(5, dtype=int)[(y + 1) % 5]
    model = SparseExpertClassifier(random_state=0).fit(X, labels)
    assert_allclose(model.predict_proba(empty_row(X))[0], labels.mean(axis=0), rtol=1e-6)
    assert_allclose(expit(model.prior_logits_), labels.mean(axis=0), rtol=1e-6)


def test_a_stream_gives_the_shares_of_all_its_samples():
    X, y = draw_noisy_documents(900)
    model = SparseExpertClassifier(random_state=0)
    order = np.argsort(y, kind="stable")
    for rows in np.array_split(order, 5):
        model.partial_fit(X[rows], y[rows], classes=np.arange(6))
    shares = np.bincount(y) / len(y)
    assert_allclose(model.predict_proba(empty_row(X))[0], shares, atol=1e-3)


def test_in_dense_data_a_zero_is_a_value_like_others():
    rng = np.random.RandomState(0)
    X = rng.normal(size=(300, 3))
    y = (np.abs(X).max(axis=1) < 0.8).astype(int)
    model = SparseExpertClassifier(random_state=0).fit(X, y)
    assert model.prior_logits_ is None
    assert model.predict_proba(np.zeros((1, 3)))[0, 1] > 0.9


def test_the_network_of_an_estimator_gives_empty_samples_the_same():
    X, y = draw_documents(6)
    X = X.astype(np.float64)
    model = SparseExpertClassifier(random_state=0).fit(X, y)
    rows = sparse.vstack([X[:20], empty_row(X)]).tocsr()
    network = SparseExpertNetwork.from_estimator(model)
    batch = torch.tensor(rows.toarray())
    for top_k in (1, 3, 6):
        model.set_params(top_k=top_k)
        for inputs in (batch, batch.to_sparse_csr()):
            proba = network(inputs, top_k=top_k).softmax(dim=1).detach().numpy()
            assert_allclose(proba, model.predict_proba(rows), rtol=1e-9, atol=1e-12)
    assert network.to_estimator(model).prior_logits_ is model.prior_logits_


@pytest.mark.parametrize("wrong", [[0.0], [np.nan] * 6, "prior"])
def test_prior_logits_that_do_not_fit_are_refused(wrong):
    X, y = draw_noisy_documents(300)
    model = SparseExpertClassifier(random_state=0).fit(X, y)
    model.prior_logits_ = np.array(wrong)
    with pytest.raises(ValueError, match="prior_logits_"):
        model.predict(X)
