"""Problems that the engines and their twins in `reference` are run on, and how to run them.

Every ``draw_*_arguments`` returns a named tuple of the arguments of the engine function of that
name. Every ``run_*`` calls the function on copies and returns what the twin returns.
"""

from typing import NamedTuple

import numpy as np
from numpy.testing import assert_allclose
from reference import numbers_of, row_entries
from scipy import sparse

from skparse._engines.arguments import (
    AdamMoments,
    AdamOptions,
    Csr,
    DenseRouter,
    DenseRows,
    EmbeddingOptions,
    EmbeddingRows,
    LinearRows,
    LowRankTerm,
    ModelArrays,
    NestedOptions,
    NestedRows,
    Pattern,
    Routes,
    StepSchedule,
)
from skparse._model import SparseExpertModel

DTYPES = [np.float64, np.float32]
# Between an engine and its twin.
TOLERANCE = {
    np.float64: {"rtol": 1e-11, "atol": 1e-12},
    np.float32: {"rtol": 1e-5, "atol": 1e-6},
}


class Problem(NamedTuple):
    """Samples, labels and a model in the form that the engines take."""

    X: Csr
    labels: Pattern  # (n_samples, n_classes)
    model: ModelArrays
    multilabel: bool

    @property
    def n_samples(self):
        return len(self.X.indptr) - 1

    @property
    def n_features(self):
        return len(self.model.router.indptr) - 1

    @property
    def n_experts(self):
        return len(self.model.router_intercept)

    @property
    def n_classes(self):
        return len(self.model.intercept)

    @property
    def dtype(self):
        return self.model.router_intercept.dtype

    @property
    def scipy_model(self):
        """The model in scipy matrices."""
        router, router_intercept, outputs, intercept = self.model

        def matrix(csr, shape):
            return sparse.csr_array((csr.data, csr.indices, csr.indptr), shape)

        return SparseExpertModel(
            matrix(router, (self.n_features, self.n_experts)), router_intercept,
            matrix(outputs, (self.n_experts, self.n_classes)), intercept,
        )  # fmt: skip


def csr_of(matrix):
    return Csr(matrix.indptr, matrix.indices, matrix.data)


def draw_problem(
    n_samples=24,
    n_features=15,
    n_experts=6,
    n_classes=5,
    *,
    multilabel=False,
    dtype=np.float64,
    index_dtype=np.int32,
    fill=0.3,
    connected=0.5,
    outputs=0.6,
    shift=0.0,
    ties=False,
    duplicates=False,
    seed=0,
):
    """Draw a `Problem`; its first row of X is empty.

    Parameters
    ----------
    fill, connected, outputs : float
        Share of the entries that exist in X, the router and the expert outputs.
    shift : float
        Added to the router intercepts: at -1000 no expert is ever kept.
    ties : bool
        Whether all numbers of the router and X are small integers: many equal scores.
    duplicates : bool
        Whether X stores every entry in two halves.
    """
    rng = np.random.RandomState(seed)
    X = _draw_sparse(rng, (n_samples, n_features), fill, ties)
    X[0] = 0
    router = _draw_sparse(rng, (n_features, n_experts), connected, ties)
    expert_outputs = _draw_sparse(rng, (n_experts, n_classes), outputs, ties)
    b1 = np.zeros(n_experts) if ties else rng.normal(size=n_experts)
    if multilabel:
        has_label = rng.uniform(size=(n_samples, n_classes)) < 0.4
    else:
        has_label = np.eye(n_classes)[rng.randint(n_classes, size=n_samples)]
    labels = sparse.csr_array(np.asarray(has_label, float))
    model = ModelArrays(
        csr_of(sparse.csr_array(router.astype(dtype))),
        (b1 + shift).astype(dtype),
        csr_of(sparse.csr_array(expert_outputs.astype(dtype))),
        rng.normal(size=n_classes).astype(dtype),
    )
    indptr, indices, data = csr_of(sparse.csr_array(X.astype(dtype)))
    if duplicates:
        indptr, indices, data = 2 * indptr, np.repeat(indices, 2), np.repeat(data / 2, 2)
    X = Csr(indptr.astype(index_dtype), indices.astype(index_dtype), data)
    return Problem(X, Pattern(labels.indptr, labels.indices), model, multilabel)


def _draw_sparse(rng, shape, share, integers):
    values = rng.randint(-2, 4, size=shape) if integers else rng.normal(size=shape)
    return np.where(rng.uniform(size=shape) < share, values, 0.0)


# One problem for each thing that can go wrong in a kernel.
PROBLEMS = {
    "ordinary": {},
    "one of everything": {"n_samples": 2, "n_features": 1, "n_experts": 1, "n_classes": 1},
    "dense pattern": {"connected": 1.0, "outputs": 1.0, "fill": 1.0},
    "sparse pattern": {"n_features": 60, "n_experts": 20, "connected": 0.05, "fill": 0.2},
    "nothing in X": {"fill": 0.0},
    "nothing connected": {"connected": 0.0, "outputs": 0.0},
    "two experts": {"n_experts": 2, "n_classes": 2},
    "two experts, all connected": {"n_experts": 2, "n_classes": 2, "connected": 1.0},
    "one expert": {"n_experts": 1},
    "one expert, all connected": {"n_experts": 1, "connected": 1.0},
    "few experts, many classes": {"n_experts": 2, "n_classes": 17, "outputs": 1.0},
    "classes without an expert": {"n_experts": 9, "n_classes": 30, "outputs": 0.05},
    "ties": {"ties": True, "n_experts": 12, "connected": 0.3},
    "every score positive": {"shift": 8.0},
    "some rows with nothing kept": {"shift": -1.0},
    "nothing kept": {"shift": -1000.0},
    "duplicated entries": {"duplicates": True},
    "more rows than are routed at once": {"n_samples": 75},
}


class NestedArguments(NamedTuple):
    X: Csr
    rows: NestedRows
    model: ModelArrays
    batch_top_k: np.ndarray
    options: NestedOptions
    multilabel: bool


def draw_nested_arguments(problem, top_ks, batch_size, *, seed=0):
    """Draw arguments of ``nested_epoch`` for a problem.

    The rows are visited in random order, some of them twice, with steps of different lengths;
    each mini-batch keeps one of ``top_ks`` experts.
    """
    rng = np.random.RandomState(seed)
    n = problem.n_samples
    order = np.concatenate([rng.permutation(n), rng.randint(n, size=n // 2)])
    step_lengths = rng.uniform(0.0, 0.2, size=n).astype(problem.dtype)
    return NestedArguments(
        problem.X,
        NestedRows(order, step_lengths, problem.labels),
        problem.model,
        np.resize(np.array(top_ks, np.int64), -(-len(order) // batch_size)),
        NestedOptions(batch_size, bias_square=0.25, output_rate=0.5, shrinkage=0.03),
        problem.multilabel,
    )


def run_nested_epoch(engine, arguments):
    router, router_intercept, outputs, intercept = arguments.model
    model = ModelArrays(
        router._replace(data=router.data.copy()), router_intercept.copy(),
        outputs._replace(data=outputs.data.copy()), intercept.copy(),
    )  # fmt: skip
    scale, loss = engine.nested_epoch(*arguments._replace(model=model))
    values, *others = numbers_of(model)
    return (scale * values, *others), loss


class LinearArguments(NamedTuple):
    X: Csr
    rows: LinearRows
    targets: Pattern
    ignored: Pattern
    margins: Csr
    bias: np.ndarray
    schedule: StepSchedule
    batch_size: int


def draw_linear_arguments(problem, batch_size, *, full_batch=False, seed=0):
    """Draw arguments of ``linear_epoch`` for a problem, on the pattern of its router.

    Some experts are ignored for some rows; none of them is a target there.
    """
    rng = np.random.RandomState(seed)
    n, dtype = problem.n_samples, problem.dtype
    rows = [row_entries(problem.X, i) for i in range(n)]
    squares = np.array([sum(x * x for _, x in row) for row in rows])
    weight = rng.randint(1, 4, size=n) / 2
    total = float(weight.sum())
    is_target = rng.uniform(size=(n, problem.n_experts)) < 0.3
    is_ignored = (rng.uniform(size=is_target.shape) < 0.2) & ~is_target
    targets, ignored = (sparse.csr_array(some.astype(float)) for some in (is_target, is_ignored))
    schedule = StepSchedule(
        seen=7.0,
        numerator=2.0 * total,
        offset=3.0 * total,
        row_crowding=0.0 if full_batch else 1.3,
        batch_crowding=0.2 * total if full_batch else 0.0,
        bias_feature=0.6,
    )
    order, router = rng.permutation(n), problem.model.router
    return LinearArguments(
        problem.X,
        LinearRows(order, squares.astype(dtype), weight.astype(dtype)),
        Pattern(targets.indptr, targets.indices),
        Pattern(ignored.indptr, ignored.indices),
        router._replace(data=rng.normal(scale=0.1, size=len(router.data)).astype(dtype)),
        rng.normal(scale=5.0, size=problem.n_experts).astype(dtype),
        schedule,
        batch_size,
    )


def run_linear_epoch(engine, arguments):
    margins, bias = arguments.margins, arguments.bias.copy()
    values = margins.data.copy()
    copies = {"margins": margins._replace(data=values), "bias": bias}
    scale = engine.linear_epoch(*arguments._replace(**copies))
    return scale * values, bias


class EmbeddingArguments(NamedTuple):
    X: Csr
    rows: EmbeddingRows
    term: LowRankTerm
    squared_gradients: LowRankTerm
    drawn_experts: np.ndarray
    options: EmbeddingOptions


def draw_embedding_arguments(problem, n_drawn, batch_size, *, rank=3, seed=0):
    """Draw arguments of ``embedding_epoch`` for a problem.

    One row is not visited, some have no weight. There are two draws of experts, of which the
    first two of the first one are the same, that of a row of the batch; ``n_drawn=0`` is one
    draw of all experts.
    """
    rng = np.random.RandomState(seed)
    n, m, dtype = problem.n_features, problem.n_experts, problem.dtype
    experts = rng.randint(m, size=problem.n_samples).astype(np.int32)
    order = rng.permutation(problem.n_samples)[1:]
    weight = rng.randint(4, size=problem.n_samples) / 2
    drawn = rng.randint(m, size=(2, n_drawn)) if n_drawn else np.arange(m)[None]
    if n_drawn:
        drawn[0, :2] = experts[order[0]]
    shapes = (n, rank), (m, rank), m
    term = LowRankTerm(*(rng.normal(size=shape).astype(dtype) for shape in shapes))
    squares = (rng.uniform(0.01, 0.5, size=len(part)).astype(dtype) for part in term)
    correction = float(np.log(m / n_drawn)) if n_drawn else 0.0
    return EmbeddingArguments(
        problem.X,
        EmbeddingRows(order, weight.astype(dtype), experts),
        term,
        LowRankTerm(*squares),
        drawn,
        EmbeddingOptions(batch_size, 0.7, 0.1, correction),
    )


def run_embedding_epoch(engine, arguments):
    term, squares = (
        LowRankTerm(*(part.copy() for part in parts))
        for parts in (arguments.term, arguments.squared_gradients)
    )
    engine.embedding_epoch(*arguments._replace(term=term, squared_gradients=squares))
    return term, squares


class DenseArguments(NamedTuple):
    X: np.ndarray
    rows: DenseRows
    class_starts: np.ndarray
    router: DenseRouter
    moments: AdamMoments
    options: AdamOptions


# One problem for each thing that can go wrong in the epoch on dense X.
DENSE_PROBLEMS = {
    "ordinary": {},
    "one of everything": {"n_features": 1, "numbers": [1], "n_samples": 2, "batch_size": 1},
    "one feature less than is unrolled": {"n_features": 7},
    "one feature more than is unrolled": {"n_features": 5},
    "a batch of all samples": {"batch_size": 24},
    "a batch larger than all samples": {"batch_size": 50},
    "one expert per class": {"numbers": [1, 1, 1, 1]},
    "classes of different sizes": {"numbers": [5, 1, 9, 2]},
    "scores far apart": {"spread": 40.0},
    "later steps": {"n_steps": 300},
}


def draw_dense_arguments(
    n_samples=24, n_features=8, numbers=(3, 2, 3), batch_size=5, *, spread=1.0, n_steps=0,
    dtype=np.float64, seed=0,
):  # fmt: skip
    """Draw arguments of ``dense_epoch``, for classes with given numbers of experts.

    One row is not visited, some have no weight.
    """
    rng = np.random.RandomState(seed)
    n_experts = sum(numbers)
    order = rng.permutation(n_samples)[1:]
    shapes = (n_features, n_experts), (n_experts,)

    def draw(scale):
        return DenseRouter(
            *(rng.normal(scale=scale, size=shape).astype(dtype) for shape in shapes)
        )

    squares = DenseRouter(*(part**2 for part in draw(0.1)))
    return DenseArguments(
        rng.normal(size=(n_samples, n_features)).astype(dtype),
        DenseRows(
            order,
            (rng.randint(4, size=n_samples) / 2).astype(dtype),
            rng.randint(len(numbers), size=n_samples),
        ),
        np.concatenate([[0], np.cumsum(numbers)]),
        draw(spread),
        AdamMoments(draw(0.1), squares),
        AdamOptions(
            batch_size, n_steps, np.linspace(0.05, 0.01, -(-len(order) // batch_size)),
            penalty=0.03, mean_decay=0.9, square_decay=0.99, epsilon=1e-8,
        ),
    )  # fmt: skip


def run_dense_epoch(engine, arguments):
    router = DenseRouter(*(part.copy() for part in arguments.router))
    moments = AdamMoments(
        *(DenseRouter(*(part.copy() for part in moment)) for moment in arguments.moments)
    )
    loss = engine.dense_epoch(*arguments._replace(router=router, moments=moments))
    return router, moments, loss


def run_logits(engine, problem, top_k, first=0, last=None, *, write="logits"):
    """Logits, or what else ``write`` names, that an engine computes for some rows."""
    last = problem.n_samples if last is None else last
    out = np.full((last - first, problem.n_classes), np.nan, problem.dtype)
    getattr(engine, write)(problem.X, first, last, problem.model, top_k, out)
    return out


def run_route(engine, problem, top_k, rows=None, sharpness=1.0, *, width=None):
    """Gate weights that an engine computes for rows, all by default, as the twin returns them.

    The arrays of the routes have ``width`` columns, by default as many as can be kept.
    """
    rows = np.arange(problem.n_samples) if rows is None else np.array(rows)
    top_k = min(top_k, problem.n_experts)
    shape = len(rows), top_k if width is None else width
    routes = Routes(
        np.zeros(shape, np.int64), np.zeros(shape, problem.dtype), np.zeros(len(rows), np.int64)
    )
    router, router_intercept, *_ = problem.model
    engine.route(problem.X, rows, router, router_intercept, sharpness, top_k, routes)
    return [
        dict(zip(experts[:n].tolist(), weights[:n].tolist(), strict=True))
        for experts, weights, n in zip(*routes, strict=True)
    ]


def assert_same_arrays(actual, expected, **tolerance):
    """Fail unless the arrays are close."""
    for mine, theirs in zip(actual, expected, strict=True):
        assert_allclose(mine, theirs, **tolerance)


def assert_same_routes(actual, expected, **tolerance):
    """Fail unless all rows keep the same experts in the same order, with close weights."""
    assert [list(row) for row in actual] == [list(row) for row in expected]
    for mine, theirs in zip(actual, expected, strict=True):
        assert_allclose(list(mine.values()), list(theirs.values()), **tolerance)


def assert_same_epoch(actual, expected, **tolerance):
    """Fail unless the numbers of the models and the losses after an epoch are close."""
    assert_same_arrays(actual[0], expected[0], **tolerance)
    assert_allclose(actual[1], expected[1], rtol=tolerance["rtol"])
