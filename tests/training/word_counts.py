"""Small problems of word counts, and plain loops for what stages compute from them."""

from dataclasses import replace
from math import log

import numpy as np
from scipy import sparse
from stages import prepare

from skparse._model import SparseExpertModel
from skparse._training import connections
from skparse._training.held_out import hold_out
from skparse._training.naive_bayes import expert_mass
from skparse._training.text_clusters import choose_experts


def draw_counts(n_samples=40, n_features=12, *, fill=0.2, seed=0, dtype=np.float64):
    """Draw word counts; one feature never occurs, and one occurs in every sample."""
    rng = np.random.RandomState(seed)
    X = rng.poisson(2, size=(n_samples, n_features)) + 1.0
    X *= rng.uniform(size=X.shape) < fill
    X[:, 0], X[:, 1] = 0, 1
    return sparse.csr_array(X.astype(dtype))


def prepare_counts(n_classes=3, *, negative=False, weighted=True, dtype=np.float64, **parameters):
    """Prepare 40 samples with word counts, none of them held out; returns (problem, draft)."""
    rng = np.random.RandomState(7)
    X = draw_counts(dtype=dtype)
    if negative:
        X.data *= rng.choice([-1, 1], size=X.nnz)
    y = np.resize(np.arange(n_classes), X.shape[0])
    y[rng.uniform(size=len(y)) < 0.3] = 0
    weight = rng.randint(1, 4, size=len(y)).astype(float) if weighted else None
    problem, draft = prepare(X, y, weight, **parameters)
    return problem, choose_experts(problem, hold_out(problem, draft))


def hold_out_some(draft, share=0.3, seed=5):
    """Hold out about that share of the samples of a draft."""
    n_samples = draft.data.X.shape[0]
    held_out = np.random.RandomState(seed).uniform(size=n_samples) < share
    return replace(draft, held_out=held_out)


def model_with_router(router):
    """Return a model with these router weights and one class for each expert."""
    n_experts = router.shape[1]
    outputs = sparse.csr_array(np.eye(n_experts))
    return SparseExpertModel(router, np.ones(n_experts), outputs, np.zeros(n_experts))


def stored_pairs(matrix):
    """Return the set of (row, column) of all stored entries."""
    return set(zip(*(axis.tolist() for axis in matrix.tocoo().coords), strict=True))


def mass_of(data):
    """Sum the features over the samples of every expert, with the function of the package."""
    return expert_mass(data.X, data.sample_weight, data.sample_experts)


def mass_by_loops(data):
    """Weighted sum of |x| over the samples of every expert, dense."""
    X, own = data.X.toarray(), data.sample_experts.toarray()
    mass = np.zeros((X.shape[1], own.shape[1]))
    for i in range(X.shape[0]):
        for e in range(own.shape[1]):
            if own[i, e]:
                mass[:, e] += data.sample_weight[i] * np.abs(X[i])
    return mass


def relevance_by_loops(data):
    """Divergence over entropy from the definition, one feature and expert at a time."""
    X, own, weight = data.X.toarray(), data.sample_experts.toarray(), data.sample_weight
    mass = mass_by_loops(data)
    share = [float(weight[own[:, e] != 0].sum()) for e in range(own.shape[1])]
    share = [value / sum(share) for value in share]
    entropy = -sum(p * log(p) for p in share if p > 0)
    # Samples are added in the unit of the mass: what one sample with the feature adds to it.
    per_sample = mass.sum() / (weight[:, None] * (X != 0)).sum()
    added = connections.RELEVANCE_SMOOTHING * per_sample
    relevance = []
    for j in range(X.shape[1]):
        divergence = 0.0
        for e, p in enumerate(share):
            q = (mass[j, e] + added * p) / (mass[j].sum() + added)
            divergence += q * log(q / p) if q > 0 else 0.0
        information = divergence / entropy + connections.RELEVANCE_FLOOR
        relevance.append(information**connections.RELEVANCE_POWER)
    return np.array(relevance)
