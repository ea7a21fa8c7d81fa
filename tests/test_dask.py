"""Training and predictions on a Dask cluster."""

import os
import pickle
import signal
import sys
import tracemalloc

import joblib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.base import clone
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import GridSearchCV
from stages import prepare, run

from skparse import SparseExpertClassifier
from skparse._training.connections import connect
from skparse._training.held_out import hold_out
from skparse._training.scores import default_scaling
from skparse.dask import DaskSparseExpertClassifier, _estimator
from skparse.dask import _frame as frames
from skparse.dask import _held_out as held_out
from skparse.dask import _low_rank as low_rank
from skparse.dask import _partitions as partitions
from skparse.dask import _rounds as rounds
from skparse.dask import _rows as rows
from skparse.datasets import make_topic_documents

REASON = "needs the extra dask: pip install 'skparse[dask]'"
dask = pytest.importorskip("dask", reason=REASON)
distributed = pytest.importorskip("distributed", reason=REASON)
import dask.array as da  # noqa: E402
from dask import bag  # noqa: E402

ARRAYS = "router_coef_", "router_intercept_", "expert_coef_", "intercept_"


def open_client(n_workers=2):
    return distributed.Client(
        processes=False, n_workers=n_workers, threads_per_worker=1, dashboard_address=":0"
    )


@pytest.fixture(scope="module")
def client():
    """Return the client of two workers in this process."""
    with open_client() as client:
        yield client


def draw_documents(n_samples=1500, n_classes=5, dtype=np.float32, seed=0, length=10):
    """Draw samples of unit norm with labels that are strings."""
    X, topics = make_topic_documents(
        n_samples, 600, 20, n_classes=n_classes, document_length=length, background_share=0.7,
        dtype=dtype, random_state=seed, return_X_y=True,
    )  # fmt: skip
    X = sparse.csr_array(X)
    X.data /= np.repeat(np.sqrt(X.power(2).sum(axis=1)), np.diff(X.indptr)).astype(dtype)
    return X, np.array([f"class {k}" for k in topics])


def cut(X, *others, edges=(0, 400, 800, 1200, 1500)):
    """Cut samples into delayed partitions; returns a list for X and each other array."""
    pairs = list(zip(edges[:-1], edges[1:], strict=True))
    return [[dask.delayed(part[a:b]) for a, b in pairs] for part in (X, *others)]


def as_array(blocks, edges, n_features, dtype=np.float32):
    """Return a Dask array of CSR blocks."""
    meta = sparse.csr_matrix((0, 0), dtype=dtype)
    sizes = np.diff(edges)
    return da.concatenate(
        [
            da.from_delayed(block, (int(size), n_features), meta=meta)
            for block, size in zip(blocks, sizes, strict=True)
        ]
    )


def assert_same_model(one, other):
    for name in ARRAYS:
        mine, theirs = getattr(one, name), getattr(other, name)
        if sparse.issparse(mine):
            assert_array_equal(mine.indptr, theirs.indptr)
            assert_array_equal(mine.indices, theirs.indices)
            mine, theirs = mine.data, theirs.data
        assert_array_equal(mine, theirs)
    assert one.loss_curve_ == other.loss_curve_
    assert_array_equal(one.expert_load_, other.expert_load_)


@pytest.mark.parametrize("with_weights", [False, True])
@pytest.mark.parametrize("n_entries", [1, 2**20])
def test_the_sums_of_partitions_give_the_connections_and_the_start_of_a_single_fit(
    with_weights, n_entries, monkeypatch
):
    monkeypatch.setattr(partitions, "SUMMED_ENTRIES", n_entries)
    X, y = draw_documents(dtype=np.float64)
    weight = np.random.RandomState(1).uniform(0.5, 2, len(y)) if with_weights else None
    problem, draft = prepare(X, y, weight, n_experts=5)
    draft = run(problem, draft, hold_out, connect)
    classes, total = np.unique(y), None
    for k, (a, b) in enumerate([(0, 100), (100, 101), (101, 1500)]):
        own = None if weight is None else weight[a:b]
        checked = partitions.check_partition((X[a:b], y[a:b], own))
        part = partitions.build_partition(checked, classes, np.ones(5), X.dtype, k, 0, 0)
        part = part._replace(held_out=draft.held_out[a:b])
        total = partitions.add_parts(total, partitions.sum_statistics(part))
    frame = frames.build_frame(total)
    assert_allclose(frame.relevance, draft.data.relevance, rtol=1e-10)
    assert_array_equal(frame.pattern.indptr, draft.margins.indptr)
    assert_array_equal(frame.pattern.indices, draft.margins.indices)
    start = rounds.start_margins(frame, draft.prior_strength)
    assert_allclose(start.values, draft.margins.data, rtol=1e-7, atol=1e-12)
    assert_allclose(frame.exposure.feature, draft.data.exposure.feature)
    whole, own = draft.data.geometry, frame.geometry
    assert own.mean_square == pytest.approx(whole.mean_square)
    assert own.nonzeros_per_row == pytest.approx(whole.nonzeros_per_row)
    assert own.bias_feature == pytest.approx(whole.bias_feature)


def test_a_feature_of_one_partition_has_an_overlap_of_one_and_a_shared_one_of_their_number():
    X, y = sparse.csr_array(np.array([[1.0, 1.0], [1.0, 0.0]])), np.array([0, 1])
    total = None
    for k in range(2):
        checked = partitions.check_partition((X[[k]], y[[k]], None))
        part = partitions.build_partition(checked, y, np.ones(2), X.dtype, k, 0, 0)
        total = partitions.add_parts(total, partitions.sum_statistics(part))
    frame = frames.build_frame(total)
    assert_array_equal(frame.overlap, [2, 1])
    assert frame.bias_overlap == 2


def test_a_connection_counts_in_fewer_partitions_than_its_feature_if_it_has_few_samples():
    rows = np.array([[1.0, 0.0, 0.0], [1000.0, 0.0, 500.0]])
    mass = sparse.csr_array(np.vstack([rows, [0.0, 2.0, 0.0]]) + 1e-30)
    overlap = frames.overlap_pairs(mass, np.array([1, 1500, 2]), np.array([4.0, 4.0, 1.0]))
    expected = np.reshape(overlap, (3, 3))
    assert_allclose(expected[0], [2.5, 4, 4])  # one sample is in one partition
    assert_allclose(expected[1], [3.994, 4, 3.988], atol=1e-3)
    assert_allclose(expected[2], [1, 1, 1])


def build_problem(X, y):
    """Return a partition, the frame of it and of half of it, and the setting."""
    classes, parts, total = np.unique(y), [], None
    for k, size in enumerate((len(y), len(y) // 2)):
        checked = partitions.check_partition((X[:size], y[:size], None))
        factors = np.ones(len(classes))
        part = partitions.build_partition(checked, classes, factors, X.dtype, k, 16, 0)
        parts.append(part)
        total = partitions.add_parts(total, partitions.sum_statistics(part))
    setting = frames.Setting(
        engine="auto", device="cpu", seed=0, n_classes=len(classes), top_k=4, batch_size=8,
        learning_rate=0.1, n_samples=total.n_samples, n_visits=2, weight=total.weight,
        train_weight=total.train_weight, crowding=0.05,
    )  # fmt: skip
    return parts[0], frames.build_frame(total), setting


def run_tasks(partition, frame, setting):
    """Yield the result of each task that trains or measures on a partition."""
    margins, scaling = rounds.start_margins(frame, 0.1), default_scaling(5, False)
    yield partitions.sum_statistics(partition)[1:]
    yield held_out.measure_start(partition, frame)[1:]  # the first number is that of some rows
    yield rounds.train_linear(partition, frame, setting, margins, 1.0, 0.0, 0, False)
    weights = rounds.start_weights(frame, setting, scaling, margins)
    yield rounds.train_weights(partition, frame, setting, scaling, weights, 1.0, 0)
    term = low_rank.start_term(frame, setting)
    yield from low_rank.train_term(partition, frame, setting, term, 0)
    yield held_out.measure_margins(partition, frame, setting, scaling, margins, term.vectors)
    model = rounds.weights_to_model(frame, scaling, weights)
    yield rounds.sum_empty(partition, setting, model)
    yield rounds.count_load(partition, setting, model)


def cut_into_small_blocks(monkeypatch):
    monkeypatch.setattr(partitions, "SUMMED_ENTRIES", 2**11)
    monkeypatch.setattr(rows, "VISITED_ENTRIES", 2**11)
    monkeypatch.setattr(rows, "SCALED_ENTRIES", 2**9)
    monkeypatch.setattr(rows, "MEASURED_ROWS", 50)


def test_tasks_that_work_on_blocks_of_rows_give_what_they_give_at_once(monkeypatch):
    problem = build_problem(*draw_documents(dtype=np.float64))
    before = problem[0].X.copy()
    expected = list(run_tasks(*problem))
    assert_array_equal(problem[0].X.data, before.data)
    cut_into_small_blocks(monkeypatch)
    assert len(list(rows.cut_visits(*problem[:2], np.arange(1500), 8))) > 2
    for one, other in zip(expected, run_tasks(*problem), strict=True):
        for mine, theirs in zip(one, other, strict=True):
            assert_allclose(theirs, mine, rtol=1e-6, atol=1e-9)


def test_no_task_copies_all_samples(monkeypatch):
    problem = build_problem(*draw_documents(5000, length=200))
    for _ in run_tasks(*problem):  # compiles
        pass
    cut_into_small_blocks(monkeypatch)
    X, tasks = problem[0].X, run_tasks(*problem)
    while True:
        tracemalloc.start()
        try:
            if next(tasks, None) is None:
                break
            assert tracemalloc.get_traced_memory()[1] < (X.data.nbytes + X.indices.nbytes) / 2
        finally:
            tracemalloc.stop()


def test_samples_that_another_process_has_sent_are_not_copied():
    X, y = draw_documents()
    received = sparse.csr_matrix(X)
    # Dask makes views of the bytes that it has received.
    for name in ("data", "indices", "indptr"):
        array = getattr(X, name)
        part = np.frombuffer(b"odd" + array.tobytes(), np.uint8).copy()[3:]
        setattr(received, name, part.view(array.dtype))
    assert not np.shares_memory(sparse.csr_array(received).data, received.data)
    content, samples = partitions.check_partition((received, y, None))
    factors = np.ones(len(content.classes))
    checked = content, samples
    part = partitions.build_partition(checked, content.classes, factors, X.dtype, 0, 0, 0)
    for name in ("data", "indices"):
        assert np.shares_memory(getattr(part.X, name), getattr(received, name))
    assert_array_equal(part.X.toarray(), X.toarray())


def test_the_model_is_as_good_as_that_of_a_single_fit(client):
    X, y = draw_documents(3000)
    blocks, labels = cut(X[:1500], y[:1500])
    model = DaskSparseExpertClassifier(random_state=0, client=client).fit(blocks, labels)
    # With a number of epochs, there is no mixture in a fit.
    local = SparseExpertClassifier(max_iter=4, random_state=0).fit(X[:1500], y[:1500])
    accuracy = local.score(X[1500:], y[1500:])
    assert model.to_local().score(X[1500:], y[1500:]) > accuracy - 0.02
    assert 0.5 < accuracy < 0.95
    probabilities = model.to_local().predict_proba(X[1500:])
    losses = [
        -np.log(p[np.arange(1500), np.searchsorted(local.classes_, y[1500:])]).mean()
        for p in (probabilities, local.predict_proba(X[1500:]))
    ]
    assert losses[0] < 1.1 * losses[1]


@pytest.mark.parametrize("n_workers", [1, 4])
def test_any_number_of_workers_gives_the_same_model(client, n_workers):
    blocks = cut(*draw_documents())
    model = DaskSparseExpertClassifier(random_state=0, client=client).fit(*blocks)
    with open_client(n_workers) as other:
        again = DaskSparseExpertClassifier(random_state=0, client=other).fit(*blocks)
    assert_same_model(model, again)


def test_bags_arrays_lists_and_tuples_give_the_same_model(client):
    X, y = draw_documents()
    edges = [0, 400, 800, 1200, 1500]
    blocks, labels = cut(X, y, edges=edges)
    first = DaskSparseExpertClassifier(random_state=0, client=client).fit(blocks, labels)
    pairs = [dask.delayed(lambda *pair: pair)(*pair) for pair in zip(blocks, labels, strict=True)]
    tuples = [(X[a:b], y[a:b]) for a, b in zip(edges[:-1], edges[1:], strict=True)]
    array = as_array(blocks, edges, X.shape[1])
    for inputs in (
        (pairs,),
        (client.compute(pairs),),
        (bag.from_sequence(tuples, npartitions=4),),
        (array, y),
        (array, da.from_array(y, chunks=700)),
        (array, da.from_array(y, chunks=700), np.ones(1500)),
        (da.from_array(X.toarray(), chunks=(400, 300)), y),
    ):
        again = DaskSparseExpertClassifier(random_state=0, client=client).fit(*inputs)
        assert_same_model(first, again)


def test_partitions_without_samples_or_with_one_class_and_of_any_size_are_fitted(client):
    X, y = draw_documents(2500)
    order = np.argsort(y[:1500], kind="stable")
    edges = [0, 0, 300, 301, 600, 1500, 1500]
    blocks = cut(X[order], y[order], edges=edges)
    model = DaskSparseExpertClassifier(random_state=0, client=client).fit(*blocks)
    local = SparseExpertClassifier(max_iter=4, random_state=0).fit(X[:1500], y[:1500])
    held = X[1500:], y[1500:]
    assert model.to_local().score(*held) > local.score(*held) - 0.04


def test_samples_of_weight_zero_do_not_count(client):
    X, y = draw_documents()
    weight = np.where(np.arange(1500) < 400, 0.0, 1.0)
    wrong = np.where(weight == 0, "another class", y)
    edges = [0, 400, 800, 1200, 1500]
    model = DaskSparseExpertClassifier(random_state=0, client=client)
    model.fit(*cut(X, wrong, weight, edges=edges))
    assert_array_equal(model.classes_, np.unique(y))
    assert model.t_ == 1100


def test_a_sample_without_known_features_gets_the_shares_of_the_classes(client):
    X, y = draw_documents()
    model = DaskSparseExpertClassifier(random_state=0, client=client).fit(*cut(X, y))
    local = SparseExpertClassifier(max_iter=4, random_state=0).fit(X, y)
    assert_allclose(model.prior_logits_, local.prior_logits_, rtol=1e-5)
    assert len(model.temperatures_) == 5 and model.temperatures_[-1] == 1


def test_balanced_class_weights_count_the_samples_of_all_partitions(client):
    X, y = draw_documents()
    present, counts = np.unique(y, return_counts=True)
    factors = dict(zip(present, len(y) / (len(present) * counts), strict=True))
    order = np.argsort(y, kind="stable")
    blocks = cut(X[order], y[order])
    one, other = (
        DaskSparseExpertClassifier(class_weight=value, random_state=0, client=client).fit(*blocks)
        for value in ("balanced", factors)
    )
    assert_same_model(one, other)


def test_two_classes_and_one_class_are_fitted(client):
    X, y = draw_documents(n_classes=2)
    model = DaskSparseExpertClassifier(random_state=0, client=client).fit(*cut(X, y))
    assert model.to_local().score(X, y) > 0.8
    same = DaskSparseExpertClassifier(random_state=0, client=client)
    same.fit(*cut(X, np.full(1500, 7)))
    assert_array_equal(same.predict(X[:3]), [7, 7, 7])


def test_predictions_of_dask_arrays_are_lazy_and_those_of_the_local_estimator(client):
    X, y = draw_documents()
    edges = [0, 400, 400, 1200, 1500]
    blocks, labels = cut(X, y, edges=edges)
    model = DaskSparseExpertClassifier(random_state=0, client=client).fit(blocks, labels)
    local = model.to_local()
    assert type(local) is SparseExpertClassifier
    array = as_array(blocks, edges, X.shape[1])
    for name in ("predict", "predict_proba"):
        predicted = getattr(model, name)(array)
        assert isinstance(predicted, da.Array)
        expected = getattr(local, name)(X)
        assert predicted.dtype == expected.dtype and predicted.shape == expected.shape
        assert_array_equal(predicted.compute(scheduler="synchronous"), expected)
        assert_array_equal(getattr(model, name)(X), expected)


def test_parameters_clone_and_pickle_follow_scikit_learn(client):
    model = DaskSparseExpertClassifier(alpha=2.0, random_state=0, client=client)
    params = model.get_params()
    assert set(params) == {*SparseExpertClassifier().get_params(), "client"}
    assert clone(model).client is client and clone(model).alpha == 2.0
    X, y = draw_documents()
    model.fit(*cut(X, y))
    assert model.client_ is client and model.alpha_ == 2.0
    restored = pickle.loads(pickle.dumps(model))
    assert restored.client is None
    assert_array_equal(restored.predict(X), model.predict(X))


def test_without_dask_the_message_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ImportError, match=r'pip install "skparse\[dask\]"'):
        DaskSparseExpertClassifier().fit(*draw_documents())


def test_communication_is_reported(client):
    X, y = draw_documents()
    model = DaskSparseExpertClassifier(random_state=0, client=client, max_iter=2)
    model.fit(*cut(X, y))
    assert model.n_partitions_ == 4
    assert model.n_rounds_ == 10  # 8 linear epochs, 2 on the loss of the model
    arrays = model.router_coef_.data, model.intercept_, model.router_intercept_
    assert model.bytes_per_round_ == sum(a.nbytes for a in arrays) + model.intercept_.nbytes


def test_a_short_text_with_many_classes_has_the_low_rank_term(client):
    rng = np.random.RandomState(0)
    y = rng.randint(20, size=1500)
    words = 10 * y[:, None] + rng.randint(10, size=(1500, 4))
    words[rng.uniform(size=words.shape) < 0.3] = 200 + rng.randint(50)
    rows = np.repeat(np.arange(1500), 4)
    X = sparse.csr_array((np.ones(6000), (rows, words.ravel())), shape=(1500, 250))
    model = DaskSparseExpertClassifier(random_state=0, client=client).fit(*cut(X, y))
    assert model.n_rounds_ == 8 + 4 + 4
    assert model.to_local().score(X, y) > 0.9


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_experts": 40}, "one expert per class"),
        ({"weight_density": 0.1}, "weight_density='auto' only, got 0.1"),
        ({"early_stopping": True}, "early_stopping=False only"),
        ({"warm_start": True}, "warm_start=False only"),
    ],
)
def test_what_only_a_single_fit_has_is_refused(client, parameters, message):
    blocks = cut(*draw_documents())
    with pytest.raises(NotImplementedError, match=message):
        DaskSparseExpertClassifier(client=client, **parameters).fit(*blocks)


def test_several_labels_per_sample_are_refused(client):
    X, _ = draw_documents()
    y = np.random.RandomState(0).randint(2, size=(1500, 3))
    with pytest.raises(NotImplementedError, match="one label per sample"):
        DaskSparseExpertClassifier(client=client).fit(*cut(X, y))


def test_a_fit_that_raises_leaves_the_estimator_as_it_was(client):
    X, y = draw_documents()
    model = DaskSparseExpertClassifier(random_state=0, client=client).fit(*cut(X, y))
    before = dict(vars(model))
    broken = X.copy()
    broken.data[-1] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        model.fit(*cut(broken, y))
    assert vars(model).keys() == before.keys()
    assert all(vars(model)[name] is value for name, value in before.items())


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda X, y: (X, y), TypeError, "X has to be a Dask array"),
        (lambda X, y: (cut(X)[0], cut(y)[0][:3]), ValueError, r"numbers of partitions: \[4, 3\]"),
        (lambda X, y: (cut(X)[0], None, y), ValueError, "weights have to be in the partitions"),
        (lambda X, y: (cut(X)[0],), ValueError, "has to be a tuple"),
        (lambda X, y: (da.from_array(X.toarray(), chunks=400), y[:9]), ValueError, "9 entries"),
        (lambda X, y: (cut(X)[0], cut(y[:1400])[0]), ValueError, "inconsistent numbers"),
        (lambda X, y: cut(X, y, np.zeros(1500)), ValueError, "no sample of positive weight"),
    ],
)
def test_partitions_that_do_not_fit_are_refused(client, make, error, message):
    with pytest.raises(error, match=message):
        DaskSparseExpertClassifier(client=client).fit(*make(*draw_documents()))


def test_partitions_of_different_features_are_refused(client):
    X, y = draw_documents()
    pairs = [dask.delayed(lambda *pair: pair)(part, y) for part in (X, X[:, :300])]
    with pytest.raises(ValueError, match=r"different numbers of features: \[300, 600\]"):
        DaskSparseExpertClassifier(client=client).fit(pairs)


@pytest.fixture(scope="module")
def processes():
    """Return the client of two worker processes."""
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0",
            silence_logs=50,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):  # fmt: skip
        yield client


def test_a_worker_that_is_killed_in_the_middle_changes_nothing(client, processes, monkeypatch):
    blocks = cut(*draw_documents())
    expected = DaskSparseExpertClassifier(random_state=0, client=client).fit(*blocks)
    killed = []

    def kill_a_worker(max_iter, epoch, loss, score):
        if epoch == 0:
            killed.append(next(iter(processes.run(os.getpid).values())))
            os.kill(killed[0], signal.SIGKILL)

    monkeypatch.setattr(_estimator, "report_epoch", kill_a_worker)
    model = DaskSparseExpertClassifier(random_state=0, client=processes, verbose=1)
    assert_same_model(expected, model.fit(*blocks))
    assert killed and killed[0] not in processes.run(os.getpid).values()


def test_a_grid_search_runs_on_the_workers_through_joblib(client):
    X, y = draw_documents()
    search = GridSearchCV(SparseExpertClassifier(random_state=0), {"alpha": [0.3, 3.0]}, cv=2)
    local = search.fit(X, y).cv_results_["mean_test_score"]
    with joblib.parallel_config("dask"):
        remote = search.fit(X, y).cv_results_["mean_test_score"]
    assert_array_equal(local, remote)


@pytest.mark.parametrize("name", ["ag_news", "clinc150", "20 newsgroups"])
def test_real_texts_on_four_partitions_are_within_a_point_of_the_same_recipe(
    client, load_corpus, load_newsgroups, name
):
    if name == "20 newsgroups":
        texts, labels = load_newsgroups()
    else:
        texts, labels = load_corpus(name)
    order = np.random.RandomState(0).permutation(len(texts))[:6000]
    y = np.array(labels)[order]
    X = TfidfVectorizer(sublinear_tf=True, dtype=np.float32).fit_transform(
        [texts[k] for k in order]
    )
    blocks = cut(X[:4500], y[:4500], edges=[0, 1125, 2250, 3375, 4500])
    model = DaskSparseExpertClassifier(random_state=0, client=client).fit(*blocks)
    # With a number of epochs, few classes get no mixture in a fit.
    local = SparseExpertClassifier(n_experts=len(np.unique(y)), max_iter=4, random_state=0)
    accuracy = local.fit(X[:4500], y[:4500]).score(X[4500:], y[4500:])
    assert model.to_local().score(X[4500:], y[4500:]) > accuracy - 0.01
