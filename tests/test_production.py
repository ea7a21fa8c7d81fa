"""The recipes of docs/in_production.md: a service under load, workers that share a model."""

import http.client
import json
import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread

import joblib
import numpy as np
import pytest
import service
from numpy.testing import assert_array_equal
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline

import skparse
from skparse import SparseExpertClassifier
from skparse.datasets import load_api_docs


@pytest.fixture(scope="module")
def pipeline():
    docs = load_api_docs()
    vectorizer = TfidfVectorizer(sublinear_tf=True, dtype=np.float32)
    model = make_pipeline(vectorizer, SparseExpertClassifier(random_state=0))
    return model.fit(docs.data[::8], docs.target_names[docs.target][::8])


@pytest.fixture(scope="module")
def port(pipeline):
    with service.make_server(pipeline) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def request(connection, method="POST", path="/predict", body=None):
    """Send one request; returns (status, content)."""
    connection.request(method, path, body)
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def post(port, **options):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        return request(connection, **options)
    finally:
        connection.close()


def test_a_service_answers_every_request_of_many_clients_at_once(pipeline, port):
    texts = load_api_docs(return_X_y=True)[0][1:400:8]
    expected = pipeline.predict(texts).tolist()
    probabilities = pipeline.predict_proba(texts).max(axis=1)

    def ask(first):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        order = np.roll(np.arange(len(texts)), first)
        answers = {}
        for i in order:
            body = json.dumps({"texts": [texts[i]]})
            answers[int(i)] = request(connection, body=body)
        connection.close()
        return answers

    with ThreadPoolExecutor(16) as clients:
        for answers in clients.map(ask, range(16)):
            assert {status for status, _ in answers.values()} == {200}
            contents = [answers[i][1] for i in range(len(texts))]
            assert [content["labels"][0] for content in contents] == expected
            got = [content["probabilities"][0] for content in contents]
            np.testing.assert_allclose(got, probabilities, atol=1e-6)


def test_a_service_answers_several_texts_at_once(pipeline, port):
    texts = ["the inverse of a matrix", "", "a clustering of samples"]
    status, content = post(port, body=json.dumps({"texts": texts}))
    assert status == 200
    assert content["labels"] == pipeline.predict(texts).tolist()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"body": "{"}, 400),
        ({"body": "[]"}, 400),
        ({"body": '{"texts": []}'}, 400),
        ({"body": '{"texts": "one"}'}, 400),
        ({"body": '{"texts": [1]}'}, 400),
        ({"body": b"\xff\xfe\xfa"}, 400),
        ({"path": "/elsewhere", "body": "{}"}, 404),
        ({"method": "GET", "path": "/elsewhere"}, 404),
        ({"method": "GET", "path": "/health"}, 200),
        ({"body": b"x" * (service.MAX_BYTES + 1)}, 413),
    ],
)
def test_a_service_refuses_what_is_no_request(port, options, expected):
    try:
        status, content = post(port, **options)
    except (BrokenPipeError, ConnectionResetError):
        status, content = 413, {"error": "closed"}  # before all of a long body was sent
    assert status == expected
    assert ("error" in content) == (status not in (200,) and options.get("method") != "GET")


def test_a_service_does_not_wait_for_a_body_without_a_length(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.putrequest("POST", "/predict")
    connection.endheaders()
    assert connection.getresponse().status == 411
    connection.close()


def predict_in_worker(path, texts):
    """Load a memory-mapped model and predict; returns the probabilities and what is mapped."""
    model = joblib.load(path, mmap_mode="r")
    data = model[-1].router_coef_.data
    while data.base is not None and not isinstance(data, np.memmap):
        data = data.base
    return model.predict_proba(texts), isinstance(data, np.memmap)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_forked_workers_share_a_model_that_is_mapped_into_memory(pipeline, tmp_path):
    texts = load_api_docs(return_X_y=True)[0][1:100:8]
    expected = pipeline.predict_proba(texts)
    path = tmp_path / "model.joblib"
    joblib.dump(pipeline, path)
    context = multiprocessing.get_context("fork")
    with context.Pool(3) as pool:
        results = pool.starmap(predict_in_worker, [(path, texts)] * 6)
    for probabilities, is_mapped in results:
        assert is_mapped
        assert_array_equal(probabilities, expected)


# No folder can be written, not even by root: numba tries each with a temporary file.
READ_ONLY = """
import tempfile
def refuse(*args, **kwargs):
    raise PermissionError
tempfile.TemporaryFile = refuse
"""

PREDICT = """
import sys
import joblib
model = joblib.load(sys.argv[1], mmap_mode="r")
print(model.predict(["the inverse of a matrix"])[0])
from skparse._engines import numba_engine
kernels = [getattr(numba_engine, name) for name in numba_engine.__all__]
print(sum(sum(kernel.stats.cache_misses.values()) for kernel in kernels))
"""


def test_an_image_with_compiled_kernels_needs_no_folder_that_can_be_written(pipeline, tmp_path):
    joblib.dump(pipeline, tmp_path / "model.joblib")
    environment = {
        **os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache"),
        "PYTHONPATH": str(Path(skparse.__file__).parents[1]),
    }  # fmt: skip

    def start(*arguments):
        done = subprocess.run(
            [sys.executable, "-W", "error", *arguments],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    start("-m", "skparse.prewarm", "--dtype", "float32")
    predicted, n_compiled = start("-c", READ_ONLY + PREDICT, str(tmp_path / "model.joblib"))
    assert predicted == pipeline.predict(["the inverse of a matrix"])[0]
    assert n_compiled == "0"
