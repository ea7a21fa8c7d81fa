"""Same seed, same model: for every number of threads, in every process, at any time."""

import os
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pytest
import torch
from fitted_models import assert_same_model, digest
from joblib._parallel_backends import ThreadingBackend
from numpy.testing import assert_array_equal
from scipy import sparse
from threadpoolctl import threadpool_limits

from skparse import SparseExpertClassifier, _predictor
from skparse.datasets import make_topic_documents

DOCUMENTS = (
    "make_topic_documents(3000, 500, 10, n_classes=7, document_length=15, "
    "background_share=0.6, random_state=0, return_X_y=True)"
)
PARAMETERS = [{}, {"n_experts": 16, "early_stopping": True}, {"top_k": 3, "weight_density": 0.3}]


@pytest.fixture(scope="module")
def documents():
    return eval(DOCUMENTS, {"make_topic_documents": make_topic_documents})


def fit(X, y, **parameters):
    return SparseExpertClassifier(**{"random_state": 0, **parameters}).fit(X, y)


def digest_in_a_new_process(**parameters):
    code = (
        "import numpy as np\n"
        "from fitted_models import digest\n"
        "from skparse import SparseExpertClassifier\n"
        "from skparse.datasets import make_topic_documents\n"
        f"X, y = {DOCUMENTS}\n"
        f"print(digest(SparseExpertClassifier(random_state=0, **{parameters!r}).fit(X, y)))\n"
    )
    paths = [os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")]
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


@pytest.mark.parametrize("parameters", PARAMETERS, ids=str)
def test_the_same_seed_gives_the_same_model(documents, parameters):
    first, second = fit(*documents, **parameters), fit(*documents, **parameters)
    assert_same_model(first, second)
    assert first.loss_curve_ == second.loss_curve_
    assert_array_equal(first.expert_load_, second.expert_load_)


def test_where_arrays_lie_in_memory_changes_nothing():
    X, y = make_topic_documents(
        700, 300, 8, n_classes=4, document_length=15, dtype=np.float64, random_state=0,
        return_X_y=True,
    )  # fmt: skip
    sizes = np.random.default_rng(0).integers(1, 5000, size=60)
    held, digests = [], set()
    for size in sizes:
        held = [*held[-20:], np.empty(size, np.uint8)]  # moves what is allocated next
        digests.add(digest(fit(X, y)))
    assert len(digests) == 1


def test_another_seed_gives_another_model(documents):
    first, second = fit(*documents), fit(*documents, random_state=1)
    assert digest(first) != digest(second)
    assert (first.predict(documents[0]) == second.predict(documents[0])).mean() > 0.9


def test_a_random_state_instance_is_a_seed(documents):
    model = fit(*documents, random_state=np.random.RandomState(0))
    assert_same_model(model, fit(*documents))


@pytest.mark.parametrize("n_jobs", [2, 3, -1, 50])
@pytest.mark.parametrize("parameters", PARAMETERS, ids=str)
def test_the_number_of_threads_changes_nothing(documents, parameters, n_jobs, monkeypatch):
    monkeypatch.setattr(_predictor, "MIN_WORK_FOR_THREADS", 0)
    X, y = documents
    one, several = fit(X, y, **parameters), fit(X, y, n_jobs=n_jobs, **parameters)
    assert_same_model(one, several)
    assert_array_equal(one.expert_load_, several.expert_load_)
    for name in ("predict", "predict_proba", "decision_function"):
        assert_array_equal(getattr(one, name)(X), getattr(several, name)(X))
    first, second = one.transform(X), several.transform(X)
    for part in ("indptr", "indices", "data"):
        assert_array_equal(getattr(first, part), getattr(second, part))


def test_the_number_of_threads_of_blas_changes_nothing():
    # BLAS divides sums of so many terms by its number of threads, which changes the last digits.
    X, y = make_topic_documents(
        20_000, 400_000, 20, n_classes=20, document_length=8, terms_per_topic=20_000,
        random_state=0, return_X_y=True,
    )  # fmt: skip
    models = []
    for n_threads in (1, 2):
        with threadpool_limits(n_threads, user_api="blas"):
            models.append(fit(X, y))
    assert_same_model(*models)


def test_a_low_rank_term_trained_beside_the_linear_epochs_is_the_one_trained_after_them():
    X, y = make_topic_documents(3000, 500, 20, n_classes=20, document_length=8, random_state=0,
                                return_X_y=True)  # fmt: skip
    assert_same_model(fit(X, y, n_jobs=1), fit(X, y, n_jobs=2))


def test_threads_change_nothing_in_a_stream(documents):
    X, y = documents
    one, two = (SparseExpertClassifier(random_state=0, n_jobs=n) for n in (1, 2))
    for rows in np.array_split(np.arange(3000), 3):
        one.partial_fit(X[rows], y[rows], classes=np.arange(7))
        two.partial_fit(X[rows], y[rows], classes=np.arange(7))
    assert_same_model(one, two)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_another_process_gives_the_same_model(documents, n_jobs):
    assert digest_in_a_new_process(n_jobs=n_jobs) == digest(fit(*documents))


def test_the_number_of_threads_comes_from_the_context_of_joblib(documents):
    asked_for = []

    class RecordingBackend(ThreadingBackend):
        def effective_n_jobs(self, n_jobs):
            asked_for.append(n_jobs)
            return super().effective_n_jobs(n_jobs)

    joblib.register_parallel_backend("recording", RecordingBackend)
    model = fit(*documents)
    with joblib.parallel_config("recording", n_jobs=2):
        assert_same_model(fit(*documents), model)
        assert_array_equal(model.predict(documents[0]), fit(*documents).predict(documents[0]))
    assert 2 in asked_for


def test_many_threads_may_fit_and_predict_at_once(documents):
    X, y = documents
    model = fit(X, y)
    proba = model.predict_proba(X)
    with ThreadPoolExecutor(4) as pool:
        models = list(pool.map(lambda seed: fit(X, y, random_state=seed), [0, 1, 0, 1]))
        predictions = list(pool.map(lambda _: model.predict_proba(X), range(8)))
    assert_same_model(models[0], model)
    assert_same_model(models[1], models[3])
    for prediction in predictions:
        assert_array_equal(prediction, proba)


@pytest.mark.parametrize("engine", ["auto", "torch"])
def test_no_global_state_is_touched(documents, engine):
    X, y = documents[0][:100], documents[1][:100]
    before = global_state()
    model = fit(X, y, engine=engine, n_jobs=2, max_iter=2)
    model.partial_fit(X, y)
    model.predict_proba(X)
    model.transform(sparse.csr_array(X))
    assert global_state() == before


def global_state():
    """What a library shares with everything else in the process."""
    return {
        "numpy": repr(np.random.get_state(legacy=False)),  # noqa: NPY002, the global state
        "numpy errors": np.geterr(),
        "torch": torch.get_rng_state().tolist(),
        "torch threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "torch dtype": torch.get_default_dtype(),
        "torch gradients": torch.is_grad_enabled(),
        "torch determinism": torch.are_deterministic_algorithms_enabled(),
        "warnings": list(warnings.filters),
        "environment": dict(os.environ),
    }
