"""The linear start: its scales, its independence of threads and units, and how well it fits."""

from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from reference import prepare_training
from scipy import sparse
from sklearn.svm import LinearSVC

from skparse import SparseExpertClassifier, _kernels
from skparse import _initialization as initialization
from skparse import _linear_start as linear_start
from skparse import _training as training
from skparse._threads import Threads
from skparse.datasets import make_topic_documents


def draw_documents(n_samples=500, n_features=300, *, n_classes=6, seed=0, dtype=np.float64):
    """Draw documents of a linear task, scaled to unit rows as TF-IDF is."""
    X, y = make_topic_documents(
        n_samples, n_features, 12, n_classes=n_classes, facet_share=0.0, dtype=dtype,
        random_state=seed, return_X_y=True,
    )  # fmt: skip
    X = sparse.csr_array(X)
    norms = np.sqrt(X.multiply(X).sum(axis=1))
    return sparse.csr_array(X.multiply(1 / norms[:, None]).astype(dtype)), y


class OnlyLinearEngine:
    """The kernels, without the epochs that follow the linear start."""

    linear_epoch = staticmethod(_kernels.linear_epoch)

    @staticmethod
    def nested_epoch(*arguments):
        return 1.0, 0.0


def train_start(data, settings):
    """Model that the linear start hands to the nested epochs, up to the scale of its scores."""
    rng = np.random.RandomState(0)
    return training.train(data, settings, OnlyLinearEngine(), rng).parameters


def scores_of_start(data, settings):
    """Router scores of the training samples after the linear start."""
    model = train_start(data, settings)
    return data.X @ model.router.toarray() + model.router_intercept


def assert_same_start(mine, theirs, **tolerance):
    for left, right in zip(mine.arrays(), theirs.arrays(), strict=True):
        assert_allclose(left, right, **tolerance)


class LinearProblem:
    """Training data, where their linear epochs begin, and the orders of five of them."""

    def __init__(self, X, y, sample_weight=None, *, seed=0, **parameters):
        data, self.settings = prepare_training(X, y, sample_weight, **parameters)
        rng, nothing = np.random.RandomState(seed), np.zeros(len(y), bool)
        self.data, self.margins = initialization.connect(data, None, nothing, rng)
        self.bias = rng.normal(size=self.margins.shape[1]).astype(X.dtype)
        self.orders = [training.draw_order(data, self.settings, rng) for _ in range(5)]

    def begin(self, n_threads=1):
        targets = self.data.row_experts
        return linear_start.begin_run(self.margins, self.bias, targets, Threads(n_threads))

    def advance(self, run, orders, **options):
        return linear_start.run_epochs(self.data, run, orders, self.settings, _kernels, **options)


def draw_weighted(**parameters):
    """Draw a `LinearProblem` whose samples have weights that are no round numbers."""
    X, y = draw_documents(dtype=parameters.pop("dtype", np.float64))
    weight = np.random.RandomState(7).uniform(0.2, 3.0, size=len(y))
    return LinearProblem(X, y, weight, **parameters)


def arrays_of(run):
    """Return all numbers of a run, as a list of arrays."""
    of_blocks = [
        (b.inside, b.targets.data, b.margins.data, b.bias, b.mean_margins, b.mean_bias)
        for b in run.blocks
    ]
    return [run.margins.data, *(array for arrays in of_blocks for array in arrays)]


def assert_same_run(mine, theirs):
    assert (mine.n_epochs, mine.seen) == (theirs.n_epochs, theirs.seen)
    for left, right in zip(arrays_of(mine), arrays_of(theirs), strict=True):
        assert_array_equal(left, right, strict=True)


def assert_same_average(mine, theirs):
    (margins, bias), (other_margins, other_bias) = mine.average(), theirs.average()
    for part in ("indptr", "indices", "data"):
        assert_array_equal(getattr(margins, part), getattr(other_margins, part), strict=True)
    assert_array_equal(bias, other_bias, strict=True)


def geometry_of(X, weight):
    return linear_start.measure_geometry(X, weight, linear_start.squared_norms(X))


def test_geometry_measures_the_rows_as_numpy_does():
    rng = np.random.RandomState(0)
    X = rng.poisson(0.5, size=(50, 20)).astype(float)
    weight = rng.uniform(0.5, 2, size=50)
    geometry = geometry_of(sparse.csr_array(X), weight)
    mean_square = np.average((X**2).sum(axis=1), weights=weight)
    per_row = np.average((X != 0).sum(axis=1), weights=weight)
    moment = (X * weight[:, None]).T @ X / weight.sum()
    assert_allclose(geometry.mean_square, mean_square)
    assert_allclose(geometry.bias_feature, np.sqrt(mean_square / per_row))
    largest_share = np.linalg.eigvalsh(moment)[-1] / np.trace(moment)
    assert_allclose(geometry.crowding, largest_share, rtol=0.01)


@pytest.mark.parametrize("n_features", [1, 2])
def test_crowding_is_one_where_all_rows_are_alike(n_features):
    X = sparse.csr_array(np.ones((10, n_features)))
    geometry = geometry_of(X, np.ones(10))
    assert_allclose(geometry.crowding, 1.0)


def test_crowding_is_one_where_all_rows_lie_on_a_line_of_any_direction():
    line = np.array([1.0, -1.0, 2.0, -2.0])
    X = sparse.csr_array(np.outer([1.0, 2.0, -1.0, 0.5], line))
    geometry = geometry_of(X, np.ones(4))
    assert_allclose(geometry.crowding, 1.0)


def test_rows_without_entries_have_a_geometry():
    X = sparse.csr_array((4, 3))
    geometry = geometry_of(X, np.ones(4))
    assert min(geometry) > 0
    assert np.isfinite(geometry).all()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_squared_norms_equal_numpy_with_empty_rows_anywhere(dtype):
    X = np.random.RandomState(0).normal(size=(9, 5)).astype(dtype)
    X[[0, 3, 4, 8]] = 0
    norms = linear_start.squared_norms(sparse.csr_array(X))
    assert norms.dtype == dtype
    assert_allclose(norms, (X**2).sum(axis=1), rtol=1e-6)


def test_the_norm_of_a_small_row_survives_large_neighbours():
    X = np.array([[1e9, 0], [1, 2], [1e9, 1e9], [3, 0]])
    norms = linear_start.squared_norms(sparse.csr_array(X))
    assert_allclose(norms, [1e18, 5, 2e18, 9], rtol=1e-15)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("n_threads", [2, 3, 4, 6, 50])
def test_any_number_of_threads_gives_the_same_bits(n_threads, dtype):
    data, settings = prepare_training(*draw_documents(dtype=dtype))
    alone, together = (train_start(data, replace(settings, n_threads=n)) for n in (1, n_threads))
    assert_same_start(together, alone, rtol=0, atol=0)


def test_threads_give_the_same_bits_with_shared_classes_and_multilabel_targets():
    X, y = draw_documents()
    labels = np.column_stack([y == 0, y % 2, y > 2]).astype(int)
    for target, n_experts in ((y, 10), (y, 4), (y, 37), (labels, "auto"), (labels, 2)):
        data, settings = prepare_training(X, target, n_experts=n_experts)
        alone = train_start(data, settings)
        for n_threads in (2, 3, 5):
            together = train_start(data, replace(settings, n_threads=n_threads))
            assert_same_start(together, alone, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("n_threads", [1, 3])
def test_epochs_in_two_calls_give_the_bits_of_one_call(n_threads, dtype):
    problem = draw_weighted(dtype=dtype)
    at_once = problem.advance(problem.begin(n_threads), problem.orders)
    halfway = problem.advance(problem.begin(n_threads), problem.orders[:3])
    assert halfway.n_epochs == 3
    run = problem.advance(halfway, problem.orders[3:])
    assert run.n_epochs == at_once.n_epochs == 5
    assert run.seen == pytest.approx(at_once.seen, rel=1e-14)
    assert_same_run(run._replace(seen=0.0), at_once._replace(seen=0.0))


def test_epochs_one_by_one_give_the_bits_of_one_call():
    problem = LinearProblem(*draw_documents())
    run = problem.begin(2)
    for order in problem.orders:
        run = problem.advance(run, [order])
    assert_same_run(run, problem.advance(problem.begin(2), problem.orders))
    assert_same_run(problem.advance(run, []), run)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("n_threads", [1, 2])
def test_a_run_that_is_continued_does_not_change(n_threads, dtype):
    problem = draw_weighted(dtype=dtype)
    begun = problem.begin(n_threads)
    later = problem.advance(begun, problem.orders[:2])
    runs = begun, later, later.restarted()
    before = [[array.copy() for array in arrays_of(run)] for run in runs]
    for run in runs:
        further = problem.advance(run, problem.orders[2:])
        assert np.abs(further.average()[0].data - problem.margins.data).max() > 0.01
        run.average()
        run.restarted()
    for run, copies in zip(runs, before, strict=True):
        for mine, copy in zip(arrays_of(run), copies, strict=True):
            assert_array_equal(mine, copy)


def test_two_runs_from_the_same_one_do_not_meet():
    # As in the choice of the penalty: each goes its own way from where both begin.
    problem = draw_weighted()
    begun = problem.advance(problem.begin(2), problem.orders[:1])
    first = problem.advance(begun, problem.orders[1:3])
    problem.advance(begun, problem.orders[3:])
    assert_same_run(first, problem.advance(begun, problem.orders[1:3]))


@pytest.mark.parametrize("n_experts", ["auto", 4, 10])
@pytest.mark.parametrize("n_threads", [2, 3, 50])
def test_runs_of_any_number_of_blocks_have_the_same_average(n_threads, n_experts):
    problem = draw_weighted(n_experts=n_experts)
    alone, together = (problem.advance(problem.begin(n), problem.orders) for n in (1, n_threads))
    assert len(alone.blocks) == 1
    assert len(together.blocks) == min(n_threads, problem.margins.shape[1])
    assert together.seen == alone.seen
    assert_same_average(together, alone)


def test_the_average_counts_epochs_in_proportion_to_their_number():
    problem = draw_weighted()
    run, margins, bias = problem.begin(), [], []
    for order in problem.orders:
        run = problem.advance(run, [order])
        margins.append(run.blocks[0].margins.data)
        bias.append(run.blocks[0].bias)
    shares = np.arange(1, 6) / 15
    assert_allclose(run.average()[0].data, shares @ margins, rtol=1e-12, atol=1e-14)
    assert_allclose(run.average()[1], shares @ bias, rtol=1e-12, atol=1e-14)
    assert np.abs(margins[0] - margins[-1]).max() > 0.01


@pytest.mark.parametrize("n_threads", [1, 3])
def test_a_share_of_the_beginning_is_added_to_the_average(n_threads):
    problem = draw_weighted()
    run = problem.advance(problem.begin(n_threads), problem.orders)
    (margins, bias), (with_share, same_bias) = run.average(), run.average(0.5)
    assert_allclose(with_share.data, margins.data + 0.5 * problem.margins.data, rtol=1e-12)
    assert_array_equal(same_bias, bias)
    assert_array_equal(run.average()[0].data, margins.data)


@pytest.mark.parametrize("n_threads", [1, 3])
def test_a_run_that_is_restarted_goes_on_from_the_average_with_a_new_one(n_threads):
    problem = draw_weighted()
    run = problem.advance(problem.begin(n_threads), problem.orders[:3])
    problem.margins, problem.bias = run.average()
    # The clock goes on: only where the margins begin and what is averaged are new.
    expected = problem.begin(n_threads)._replace(seen=run.seen)
    restarted = run.restarted()
    assert restarted.n_epochs == 0
    assert np.abs(run.blocks[0].margins.data - restarted.blocks[0].margins.data).max() > 0.001
    assert_same_average(
        problem.advance(restarted, problem.orders[3:]),
        problem.advance(expected, problem.orders[3:]),
    )
    reset = problem.advance(problem.begin(n_threads), problem.orders[3:])
    at_once = problem.advance(expected, problem.orders[3:])
    assert np.abs(reset.average()[0].data - at_once.average()[0].data).max() > 0.001


def test_the_epochs_with_all_rows_go_on_from_the_average_of_those_without_some():
    data, settings = prepare_training(*draw_documents(1100), max_iter=1)
    runs, run_epochs = [], linear_start.run_epochs

    def record(data, run, *arguments):
        runs.append((run, run_epochs(data, run, *arguments)))
        return runs[-1][1]

    with patch.object(linear_start, "run_epochs", record):
        training.train(data, settings, _kernels, np.random.RandomState(0))
    (_, without_some), (begun, with_all) = runs
    assert (without_some.n_epochs, with_all.n_epochs) == (
        linear_start.EPOCHS_APART,
        linear_start.LINEAR_EPOCHS - linear_start.EPOCHS_APART,
    )
    assert_same_run(begun, without_some.restarted())


def test_a_run_counts_the_weight_that_it_visits():
    problem = draw_weighted()
    run = problem.begin()
    assert (run.n_epochs, run.seen) == (0, 0.0)
    partly = [order[: len(order) // 2] for order in problem.orders]
    run = problem.advance(run, partly)
    assert run.seen == pytest.approx(problem.data.sample_weight[np.concatenate(partly)].sum())
    assert problem.advance(run.restarted(), []).seen == run.seen
    assert problem.advance(problem.begin(), partly, earlier=1e3).seen == run.seen


@pytest.mark.parametrize("at_once", [1, 7, 100, 2**18])
@pytest.mark.parametrize(("dtype", "rtol"), [(np.float64, 1e-12), (np.float32, 1e-5)])
@pytest.mark.parametrize("n_experts", ["auto", 4, 10])
def test_squared_hinge_equals_numpy(n_experts, dtype, rtol, at_once):
    problem = draw_weighted(dtype=dtype, n_experts=n_experts)
    data, rng = problem.data, np.random.RandomState(0)
    margins = problem.margins.copy()
    margins.data[:] = rng.normal(size=margins.nnz)
    bias = rng.normal(scale=3.0, size=margins.shape[1]).astype(dtype)
    rows = rng.permutation(data.X.shape[0])[:101]
    with patch.object(linear_start, "MARGINS_AT_ONCE", at_once):
        loss = linear_start.squared_hinge(data, margins, bias, data.row_experts, rows)
    signs = np.where(data.row_experts.toarray()[rows] > 0, 1.0, -1.0)
    scores = data.X.toarray()[rows].astype(float) @ margins.toarray().astype(float)
    scores += bias.astype(float) * data.geometry.bias_feature
    losses = (np.maximum(1 - signs * scores, 0) ** 2).sum(axis=1)
    assert (losses > 0).any()
    expected = data.sample_weight[rows].astype(float) @ losses
    assert type(loss) is float
    assert loss == pytest.approx(float(expected), rel=rtol)


def test_squared_hinge_of_margins_known_by_heart():
    problem = LinearProblem(*draw_documents())
    targets, margins = problem.data.row_experts, problem.margins * 0
    no_rows, all_rows = np.arange(0), np.arange(targets.shape[0])
    assert linear_start.squared_hinge(problem.data, margins, problem.bias, targets, no_rows) == 0
    sure = np.full(targets.shape[1], -1 / problem.data.geometry.bias_feature)
    wrong = linear_start.squared_hinge(problem.data, margins, sure, targets, all_rows)
    assert wrong == pytest.approx(4 * len(all_rows))  # each row misses its own class by two


@pytest.mark.parametrize("n_samples", [100, 600])
@pytest.mark.parametrize("n_classes", [2, 6])
def test_the_start_fits_about_as_well_as_linear_svc(n_classes, n_samples):
    X, y = draw_documents(n_samples, n_classes=n_classes)
    accuracy = np.mean(scores_of_start(*prepare_training(X, y)).argmax(axis=1) == y)
    assert accuracy >= LinearSVC(random_state=0).fit(X, y).score(X, y) - 0.01


def test_the_start_separates_dense_data_of_few_features():
    rng = np.random.RandomState(0)
    X = np.concatenate([rng.normal(size=(150, 2)), rng.normal(size=(150, 2)) + [6, 6]])
    y = np.repeat([0, 1], 150)
    assert np.mean(scores_of_start(*prepare_training(X, y)).argmax(axis=1) == y) >= 0.99


def test_the_penalty_shrinks_the_weights():
    X, y = draw_documents()
    X.data *= np.random.RandomState(0).choice([-1, 1], size=X.nnz)  # starts at zero margins
    norms = [
        np.linalg.norm(train_start(*prepare_training(X, y, alpha=alpha)).router.data)
        for alpha in (0.1, 1.0, 10.0, 100.0)
    ]
    assert norms == sorted(norms, reverse=True)
    assert norms[-1] < 0.2 * norms[0]


@pytest.mark.parametrize("factor", [2.0**-10, 37.0, 1e4])
def test_the_margins_do_not_depend_on_the_unit_of_the_features(factor):
    X, y = draw_documents()
    model, scaled = (train_start(*prepare_training(unit * X, y)) for unit in (1.0, factor))
    scaled.router.data[:] *= factor
    assert_same_start(scaled, model, rtol=1e-7, atol=1e-9)


def test_a_weight_of_two_is_a_row_given_twice_in_full_batches():
    X, y = draw_documents(40, 60, n_classes=3)
    weight = np.random.RandomState(0).randint(1, 4, size=40)
    repeated = np.repeat(np.arange(40), weight)
    by_weight = train_start(*prepare_training(X, y, weight.astype(float)))
    by_rows = train_start(*prepare_training(X[repeated], y[repeated]))
    assert len(repeated) <= training.SMALL_SAMPLE
    assert_same_start(by_weight, by_rows, rtol=1e-9, atol=1e-11)


def test_the_order_of_the_rows_does_not_matter_in_full_batches():
    X, y = draw_documents(60, 60, n_classes=3)
    rows = np.random.RandomState(0).permutation(60)
    in_order, shuffled = (
        train_start(*prepare_training(X[some], y[some])) for some in (slice(None), rows)
    )
    assert_same_start(shuffled, in_order, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("n_samples", [100, 500, 6000])
def test_a_whole_fit_is_the_same_for_any_number_of_threads(n_samples):
    X, y = draw_documents(n_samples)
    one, *others = (
        SparseExpertClassifier(n_jobs=n_jobs, random_state=0).fit(X, y) for n_jobs in (1, 2, 5)
    )
    for other in others:
        assert_array_equal(one.router_coef_.data, other.router_coef_.data)
        assert_array_equal(one.router_intercept_, other.router_intercept_)
        assert_array_equal(one.expert_coef_.data, other.expert_coef_.data)
        assert_array_equal(one.predict_proba(X), other.predict_proba(X))
