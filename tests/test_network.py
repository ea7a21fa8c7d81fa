"""`SparseExpertNetwork` is the model of the documentation: values, gradients, and its limits."""

import copy
import pickle

import numpy as np
import pytest
import reference
import torch
from engine_problems import (
    DTYPES,
    PROBLEMS,
    TOLERANCE,
    csr_of,
    draw_nested_arguments,
    draw_problem,
    run_nested_epoch,
)
from numpy.testing import assert_allclose, assert_array_equal
from reference import numbers_of
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline
from torch.nn import functional

from skparse import SparseExpertClassifier
from skparse._engines import numba_engine
from skparse._engines.arguments import Csr, ModelArrays, NestedOptions
from skparse.datasets import make_topic_documents
from skparse.nn import SparseExpertNetwork

# A warning of torch itself at the first CSR tensor.
pytestmark = pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")


def csr_tensor(X, n_features):
    indptr, indices, data = (torch.tensor(part) for part in X)
    size = len(indptr) - 1, n_features
    # Unchecked: torch does not allow duplicated entries. Here they are added up.
    return torch.sparse_csr_tensor(
        indptr.long(), indices.long(), data, size=size, check_invariants=False
    )


def inputs_of(problem):
    return csr_tensor(problem.X, problem.n_features)


def network_of(problem):
    return SparseExpertNetwork.from_model(problem.model)


def targets_of(problem):
    """Indicator matrix of the labels, (n_samples, n_classes)."""
    indptr, classes = problem.labels
    shape = problem.n_samples, problem.n_classes
    dense = sparse.csr_array((np.ones(len(classes)), classes, indptr), shape=shape).toarray()
    return torch.tensor(dense.astype(problem.dtype))


def losses_of(problem, z):
    if not problem.multilabel:
        return functional.cross_entropy(z, targets_of(problem), reduction="none")
    losses = functional.binary_cross_entropy_with_logits(z, targets_of(problem), reduction="none")
    return losses.sum(dim=1)


def gradients_of(problem, top_k, row_weights):
    """Gradients of the weighted losses by every parameter, as numpy arrays."""
    network = network_of(problem)
    losses = losses_of(problem, network(inputs_of(problem), top_k))
    (torch.tensor(row_weights) * losses).sum().backward()
    return [parameter.grad.numpy() for parameter in network.parameters()]


def with_dense_router(W1, b1, W, b2):
    """Network of a dense model given in the symbols of the documentation, in float64."""
    router, outputs = (csr_of(sparse.csr_array(np.asarray(w, float).T)) for w in (W1, W))
    model = ModelArrays(router, np.asarray(b1, float), outputs, np.asarray(b2, float))
    return SparseExpertNetwork.from_model(model)


def dense_csr_tensor(X):
    X = sparse.csr_array(np.asarray(X, float))
    return csr_tensor(csr_of(X), X.shape[1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", PROBLEMS)
def test_forward_equals_the_reference_at_every_k(name, dtype):
    problem = draw_problem(**PROBLEMS[name], dtype=dtype)
    rows = range(problem.n_samples)
    for top_k in (1, 2, problem.n_experts, problem.n_experts + 5):
        expected = reference.logits(problem.X, rows, problem.model, top_k)
        z = network_of(problem)(inputs_of(problem), top_k).detach().numpy()
        assert z.dtype == dtype
        assert_allclose(z, expected, **TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize("name", PROBLEMS)
def test_every_gradient_equals_the_reference(name, multilabel, dtype):
    problem = draw_problem(**PROBLEMS[name], multilabel=multilabel, dtype=dtype)
    row_weights = np.random.RandomState(1).uniform(0.1, 1, problem.n_samples).astype(dtype)
    for top_k in (1, 2, problem.n_experts):
        expected, losses = reference.gradients(
            problem.X, range(problem.n_samples), problem.labels, row_weights, problem.model, top_k,
            multilabel,
        )  # fmt: skip
        for mine, theirs in zip(gradients_of(problem, top_k, row_weights), expected, strict=True):
            assert_allclose(mine, theirs, **TOLERANCE[dtype])
        z = network_of(problem)(inputs_of(problem), top_k)
        assert_allclose(losses_of(problem, z).detach(), losses, **TOLERANCE[dtype])


@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize("top_k", [1, 2, 6])
def test_the_nested_kernel_moves_along_the_gradients_of_the_network(top_k, multilabel):
    problem = draw_problem(multilabel=multilabel)
    arguments = draw_nested_arguments(problem, [top_k], 10**3)
    arguments = arguments._replace(
        rows=arguments.rows._replace(order=np.arange(problem.n_samples)),  # once, in one batch
        # Plain gradient steps for all parameters.
        options=NestedOptions(10**3, bias_square=1.0, output_rate=1.0, shrinkage=0.0),
    )
    after, _ = run_nested_epoch(numba_engine, arguments)
    gradients = gradients_of(problem, top_k, arguments.rows.step_lengths)
    for end, start, gradient in zip(after, numbers_of(problem.model), gradients, strict=True):
        assert_allclose(end, start - gradient, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize("top_k", [1, 2, 4, 6])
def test_gradients_equal_finite_differences(top_k, multilabel):
    problem = draw_problem(n_samples=6, n_features=8, fill=0.5, multilabel=multilabel, seed=3)
    network, X = network_of(problem), inputs_of(problem)
    names = [name for name, _ in network.named_parameters()]

    def losses(*values):
        parameters = dict(zip(names, values, strict=True))
        return losses_of(problem, torch.func.functional_call(network, parameters, (X, top_k)))

    values = [value.detach().clone().requires_grad_() for value in network.parameters()]
    assert torch.autograd.gradcheck(losses, values)


@pytest.mark.parametrize("multilabel", [False, True])
def test_one_kept_expert_gives_exactly_zero_router_gradient(multilabel):
    problem = draw_problem(multilabel=multilabel)
    row_weights = np.ones(problem.n_samples)
    router, router_intercept, outputs, intercept = gradients_of(problem, 1, row_weights)
    assert_array_equal(router, 0)
    assert_array_equal(router_intercept, 0)
    assert np.abs(outputs).max() > 0.1
    assert np.abs(intercept).max() > 0.1


def test_all_experts_with_positive_scores_make_the_dense_softmax_model():
    rng = np.random.RandomState(0)
    X, W1, W = rng.normal(size=(9, 7)), rng.normal(size=(5, 7)), rng.normal(size=(4, 5))
    b1, b2 = rng.normal(size=5) + 30, rng.normal(size=4)
    h = torch.relu(torch.tensor(X @ W1.T + b1))
    assert h.min() > 0
    expected = torch.softmax(h, dim=1).numpy() @ W.T + b2
    network = with_dense_router(W1, b1, W, b2)
    for top_k in (5, 8):
        z = network(dense_csr_tensor(X), top_k).detach().numpy()
        assert_allclose(z, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("top_k", [1, 2, 3, 6])
def test_one_expert_per_class_contains_every_linear_classifier(top_k):
    rng = np.random.RandomState(0)
    X, coef, intercept = rng.normal(size=(200, 10)), rng.normal(size=(6, 10)), rng.normal(size=6)
    linear = X @ coef.T + intercept
    network = with_dense_router(coef, intercept + 100, 4 * np.eye(6), np.zeros(6))
    z = network(dense_csr_tensor(X), top_k)
    assert_array_equal(z.argmax(dim=1).numpy(), linear.argmax(axis=1))


def test_a_row_with_nothing_kept_gets_the_softmax_of_b2():
    problem = draw_problem(shift=-1000.0)
    z = network_of(problem)(inputs_of(problem), 3)
    b2 = torch.tensor(problem.model.intercept)
    assert_array_equal(z.detach().numpy(), b2.expand_as(z).numpy())
    losses_of(problem, z).sum().backward()


def test_the_rows_of_a_mixed_batch_do_not_see_each_other():
    problem = draw_problem(shift=-1.0)
    together = network_of(problem)(inputs_of(problem), 3).detach().numpy()
    indptr, indices, data = problem.X
    for i in range(problem.n_samples):
        inside = slice(indptr[i], indptr[i + 1])
        row = Csr(np.array([0, indptr[i + 1] - indptr[i]]), indices[inside], data[inside])
        alone = network_of(problem)(csr_tensor(row, 15), 3).detach().numpy()
        assert_allclose(alone[0], together[i], rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("multilabel", [False, True])
def test_extreme_scores_stay_finite(multilabel, dtype):
    problem = draw_problem(multilabel=multilabel, dtype=dtype)
    for values in (problem.model.router.data, problem.model.router_intercept):
        values *= dtype(1e4)
    row_weights = np.ones(problem.n_samples, dtype)
    for top_k in (1, 2, 6):
        assert network_of(problem)(inputs_of(problem), top_k).isfinite().all()
        for gradient in gradients_of(problem, top_k, row_weights):
            assert np.isfinite(gradient).all()


def test_the_state_dict_carries_a_model_to_another_module():
    problem = draw_problem()
    network, X = network_of(problem), inputs_of(problem)
    router, outputs = problem.model.router, problem.model.outputs
    other = SparseExpertNetwork(*router[:2], 6, *outputs[:2], 5, dtype=torch.float64)
    assert not torch.equal(other(X, 3), network(X, 3))
    other.load_state_dict(network.state_dict())
    assert torch.equal(other(X, 3), network(X, 3))
    assert torch.equal(copy.deepcopy(network)(X, 3), network(X, 3))


def test_to_changes_the_numbers_and_leaves_the_pattern():
    problem = draw_problem()
    network = network_of(problem).to(torch.float32)
    assert all(value.dtype == torch.float32 for value in network.parameters())
    assert all(pattern.dtype == torch.int64 for pattern in network.buffers())
    z = network(inputs_of(problem).to(torch.float32), 3)
    assert z.dtype == torch.float32
    expected = network_of(problem)(inputs_of(problem), 3).detach()
    assert_allclose(z.detach(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["model", "scipy_model"])
def test_from_model_copies_arrays_and_scipy_matrices_and_arrays_gives_them_back(name):
    model = getattr(draw_problem(), name)
    network = SparseExpertNetwork.from_model(model)
    numbers = numbers_of(model)
    before = [array.copy() for array in numbers]
    for mine, theirs in zip(network.arrays(), before, strict=True):
        assert_array_equal(mine, theirs)
    with torch.no_grad():
        for value in network.parameters():
            value += 1
    for mine, theirs in zip(numbers, before, strict=True):
        assert_array_equal(mine, theirs)


def test_an_optimizer_of_torch_lowers_the_loss():
    problem = draw_problem(n_samples=60, n_features=60, connected=1.0, outputs=1.0)
    network, X = network_of(problem), inputs_of(problem)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.05)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = losses_of(problem, network(X, 2)).mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_a_model_in_arrays_draws_nothing_from_the_global_generator():
    state = torch.get_rng_state()
    problem = draw_problem()
    gradients_of(problem, 3, np.ones(problem.n_samples))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_new_network_keeps_experts_and_learns_from_sparse_and_dense_batches():
    X, y = make_topic_documents(300, 200, 6, n_classes=4, random_state=0, return_X_y=True)
    dense, y = torch.tensor(X.toarray(), dtype=torch.float32), torch.tensor(y)
    for batch in (dense, dense.to_sparse_csr()):
        torch.manual_seed(0)
        network = SparseExpertNetwork.fully_connected(200, 16, 4, top_k=4)
        assert network.route(batch).expert_weights.all()
        optimizer = torch.optim.Adam(network.parameters(), lr=0.03)
        for _ in range(60):
            optimizer.zero_grad()
            functional.cross_entropy(network(batch), y).backward()
            optimizer.step()
        assert (network(batch).argmax(dim=1) == y).float().mean() > 0.95


@pytest.mark.parametrize("name", PROBLEMS)
def test_dense_and_sparse_batches_give_the_same_values_and_gradients(name):
    problem = draw_problem(**PROBLEMS[name])
    network, X = network_of(problem), inputs_of(problem)
    results = []
    for batch in (X, X.to_dense(), X.to_sparse_coo()):
        network.zero_grad()
        logits = network(batch, 3)
        logits.sin().sum().backward()
        results.append([logits.detach(), *(value.grad for value in network.parameters())])
    for others in results[1:]:
        for mine, theirs in zip(others, results[0], strict=True):
            assert_allclose(mine, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (4,), (2, 3), (2, 0)])
def test_dense_batches_have_any_number_of_leading_dimensions(shape):
    network = network_of(draw_problem())
    X = torch.randn(*shape, network.n_features, dtype=torch.float64)
    logits = network(X)
    assert logits.shape == (*shape, network.n_classes)
    assert torch.equal(logits.reshape(-1, 5), network(X.reshape(-1, network.n_features)))
    assert network.route(X, 2).expert_indices.shape == (*shape, 2)


def test_gradients_flow_to_a_dense_batch_and_through_to_the_layers_before():
    problem = draw_problem()
    X = inputs_of(problem).to_dense().requires_grad_()
    assert torch.autograd.gradcheck(lambda X: network_of(problem)(X, 3), X)


@pytest.mark.parametrize("size", [(3, 14), (15, 3), (2, 3, 16)])
def test_a_batch_of_other_features_is_refused(size):
    network = network_of(draw_problem())
    with pytest.raises(ValueError, match="X has to have 15 features in its last dimension"):
        network(torch.zeros(size, dtype=torch.float64))


def test_a_sparse_batch_of_three_dimensions_is_refused():
    network = network_of(draw_problem())
    X = torch.zeros(2, 3, 15, dtype=torch.float64).to_sparse_coo()
    with pytest.raises(ValueError, match="two dimensions, got 3"):
        network(X)


def test_the_level_of_a_network_is_an_attribute_and_is_checked():
    network, X = network_of(draw_problem()), inputs_of(draw_problem())
    assert network.top_k == 8
    network.top_k = 2
    assert torch.equal(network(X), network(X, 2))
    with pytest.raises(ValueError, match="top_k has to be at least 1, got 0"):
        network.top_k = 0
    with pytest.raises(ValueError, match="got -1"):
        network(X, -1)
    assert "n_experts=6, n_classes=5, top_k=2" in repr(network)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # of torch's own import
def test_compiled_and_exported_networks_give_the_same_logits():
    network = network_of(draw_problem()).eval()
    X = torch.randn(7, network.n_features, dtype=torch.float64)
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    assert_allclose(compiled(X).detach(), network(X).detach(), rtol=1e-12)
    sizes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(network, (X[:3],), dynamic_shapes=sizes)
    assert_allclose(program.module()(X).detach(), network(X).detach(), rtol=1e-12)


def documents(dtype=np.float64):
    return make_topic_documents(
        300, 200, 6, n_classes=4, dtype=dtype, random_state=0, return_X_y=True
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("parameters", [{}, {"n_experts": 9, "top_k": 3}, {"n_experts": 2}])
def test_the_network_of_an_estimator_gives_its_probabilities(parameters, dtype):
    X, y = documents(dtype)
    classifier = SparseExpertClassifier(random_state=0, **parameters).fit(X, y)
    network = SparseExpertNetwork.from_estimator(classifier)
    assert network.top_k == classifier.top_k
    batch = torch.tensor(X.toarray())
    for inputs in (batch, batch.to_sparse_csr()):
        probabilities = network(inputs).softmax(dim=1).detach().numpy()
        # The outputs multiply what rounding changes in the gate weights.
        atol = 16 * np.finfo(dtype).eps
        assert_allclose(probabilities, classifier.predict_proba(X), rtol=1e-5, atol=atol)
    half = SparseExpertNetwork.from_estimator(classifier, dtype=torch.float32)
    assert half.intercept.dtype == torch.float32


def test_a_network_of_several_labels_gives_their_probabilities_by_a_sigmoid():
    X, y = documents()
    classifier = SparseExpertClassifier(random_state=0)
    classifier.fit(X, np.column_stack([y == 0, y > 1]).astype(int))
    logits = SparseExpertNetwork.from_estimator(classifier)(torch.tensor(X.toarray()))
    assert_allclose(logits.sigmoid().detach(), classifier.predict_proba(X), atol=1e-6)


def train_further(network, X, y):
    batch, y = torch.tensor(X.toarray(), dtype=network.intercept.dtype), torch.tensor(y)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    for _ in range(5):
        optimizer.zero_grad()
        functional.cross_entropy(network(batch), y).backward()
        optimizer.step()
    return network(batch).softmax(dim=1).detach().numpy()


def test_an_estimator_trained_further_in_torch_predicts_with_the_compiled_kernels():
    X, y = documents()
    classifier = SparseExpertClassifier(top_k=3, random_state=0).fit(X, y)
    before = classifier.predict_proba(X)
    network = SparseExpertNetwork.from_estimator(classifier)
    trained = train_further(network, X, y)
    back = network.to_estimator(classifier)
    assert np.abs(trained - before).max() > 1e-3
    assert_allclose(back.predict_proba(X), trained, atol=1e-6)
    assert_array_equal(classifier.predict_proba(X), before)
    assert back.get_params() == classifier.get_params()
    restored = pickle.loads(pickle.dumps(back))
    assert_array_equal(restored.predict_proba(X), back.predict_proba(X))
    with torch.no_grad():
        network.intercept += torch.arange(4)
    assert_array_equal(back.predict_proba(X), restored.predict_proba(X))  # nothing is shared
    assert_allclose(back.partial_fit(X, y).score(X, y), 1.0, atol=0.05)
    assert_array_equal(classifier.predict_proba(X), before)


def test_weights_of_a_compressed_estimator_are_returned_without_its_rounding():
    X, y = documents()
    classifier = SparseExpertClassifier(random_state=0).fit(X, y).compress("int8")
    network = SparseExpertNetwork.from_estimator(classifier)
    trained = train_further(network, X, y)
    restored = pickle.loads(pickle.dumps(network.to_estimator(classifier)))
    assert not hasattr(restored, "compression_")
    assert_allclose(restored.predict_proba(X), trained, atol=1e-6)


def test_an_estimator_takes_weights_back_in_its_dtype():
    X, y = documents(np.float32)
    classifier = SparseExpertClassifier(random_state=0).fit(X, y)
    network = SparseExpertNetwork.from_estimator(classifier, dtype=torch.float64)
    back = network.to_estimator(classifier)
    assert {back.router_coef_.dtype, back.intercept_.dtype} == {np.dtype(np.float32)}
    assert_array_equal(back.router_coef_.data, classifier.router_coef_.data)


def test_what_is_no_fitted_classifier_or_another_one_is_refused():
    X, y = documents()
    classifier = SparseExpertClassifier(random_state=0)
    with pytest.raises(ValueError, match="fitted SparseExpertClassifier .*got SparseExpertClass"):
        SparseExpertNetwork.from_estimator(classifier)
    pipeline = make_pipeline(classifier).fit(X, y)
    with pytest.raises(ValueError, match="its last step.*got Pipeline"):
        SparseExpertNetwork.from_estimator(pipeline)
    network = SparseExpertNetwork.from_estimator(classifier)
    other = SparseExpertClassifier(weight_density=0.1, random_state=0).fit(X, y)
    with pytest.raises(ValueError, match="other connections"):
        network.to_estimator(other)


def test_an_estimator_of_newsgroups_goes_to_torch_and_back(load_newsgroups):
    texts, y = load_newsgroups("train")
    vectorizer = TfidfVectorizer(sublinear_tf=True, min_df=2)
    X = vectorizer.fit_transform(texts)
    classifier = SparseExpertClassifier(random_state=0).fit(X, y)
    network = SparseExpertNetwork.from_estimator(classifier)
    rows = X[:200]
    batch = csr_tensor(csr_of(rows), X.shape[1])
    expected = classifier.predict_proba(rows)
    assert_allclose(network(batch).softmax(dim=1).detach(), expected, atol=1e-6)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        functional.cross_entropy(network(batch), torch.tensor(y[:200])).backward()
        optimizer.step()
    back = network.to_estimator(classifier)
    trained = network(batch).softmax(dim=1).detach()
    assert_allclose(back.predict_proba(rows), trained, atol=1e-6)
    assert not np.allclose(trained, expected, atol=1e-6)
