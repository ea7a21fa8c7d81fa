"""
A small HTTP service
====================

Serve a fitted pipeline with the standard library alone::

    python examples/production/service.py model.joblib --port 8000
    curl -d '{"texts": ["Fit a line to points."]}' localhost:8000/predict

One process with one model answers requests in threads. Predictions change nothing in the model, so
threads can share it. Load only files that you trust. Without a file, it fits docstrings, sends
itself three of them, and stops.
"""

import argparse
import json
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from textwrap import fill
from threading import Thread

import joblib
import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline

from skparse import SparseExpertClassifier
from skparse.datasets import load_api_docs

MAX_BYTES = 1_000_000  # of a request
MAX_SECONDS = 10  # that a client may take to send it


class Handler(BaseHTTPRequestHandler):
    """Answers POST /predict and GET /health."""

    protocol_version = "HTTP/1.1"  # keeps connections open
    timeout = MAX_SECONDS
    disable_nagle_algorithm = True  # small answers are sent at once

    def do_GET(self):
        self.answer(200 if self.path == "/health" else 404, {})

    def do_POST(self):
        length = self.headers.get("Content-Length", "")
        if self.path != "/predict":
            self.refuse(404, "POST goes to /predict")
        elif not (length.isascii() and length.isdecimal()):
            self.refuse(411, "the request needs a Content-Length")
        elif int(length) > MAX_BYTES:
            self.refuse(413, f"a request has at most {MAX_BYTES:,} bytes")
        else:
            try:
                texts = read_texts(self.rfile.read(int(length)))
            except ValueError as error:
                self.answer(400, {"error": str(error)})
            else:
                self.answer(200, predict(self.server.model, texts))

    def refuse(self, status, message):
        """Answer without reading the body: the connection cannot be used again."""
        self.close_connection = True
        self.answer(status, {"error": message})

    def answer(self, status, content):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        """Write no line per request."""


def read_texts(body):
    """Return the texts of a request; raises ValueError if it has another form."""
    content = json.loads(body)  # its errors are ValueErrors
    texts = content.get("texts") if isinstance(content, dict) else None
    if not (isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts)):
        raise ValueError('the body has to be {"texts": ["...", ...]}, with at least one text')
    return texts


def predict(model, texts):
    """Return the most probable class of every text, with its probability."""
    probabilities = model.predict_proba(texts)
    best = probabilities.argmax(axis=1)
    return {
        "labels": model.classes_[best].tolist(),
        "probabilities": [round(float(p), 6) for p in probabilities.max(axis=1)],
    }


def make_server(model, port=0, host="127.0.0.1"):
    """Make a server that has compiled what it needs; port 0 takes one that is free."""
    predict(model, ["the first text compiles the kernels"])
    server = ThreadingHTTPServer((host, port), Handler)
    server.model = model
    return server


def serve(path, port):
    with make_server(joblib.load(path, mmap_mode="r"), port) as server:
        print(f"POST texts to http://127.0.0.1:{server.server_port}/predict")
        server.serve_forever()


# %%
# What it answers
# ---------------


def fit_model():
    docs = load_api_docs()
    vectorizer = TfidfVectorizer(sublinear_tf=True, dtype=np.float32)
    model = make_pipeline(vectorizer, SparseExpertClassifier(random_state=0))
    return model.fit(docs.data, docs.target_names[docs.target])


def post(port, texts):
    """Send one request; returns the content of the answer."""
    connection = HTTPConnection("127.0.0.1", port, timeout=MAX_SECONDS)
    connection.request("POST", "/predict", json.dumps({"texts": texts}))
    content = json.loads(connection.getresponse().read())
    connection.close()
    return content


def ask_itself():
    import matplotlib.pyplot as plt

    texts = [
        "Fit a straight line to points and return its slope with a standard error.",
        "Solve a sparse linear system.",
        "Group points into clusters.",
    ]
    with make_server(fit_model()) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        content = post(server.server_port, texts)
        server.shutdown()
        thread.join()
    print(json.dumps(content, indent=1))
    figure, axes = plt.subplots(figsize=(7.5, 2.4), layout="constrained")
    bars = axes.barh([fill(text, 30) for text in texts], content["probabilities"], color="#0072B2")
    axes.bar_label(bars, content["labels"], padding=4)
    axes.set(xlim=(0, 1.4), xticks=[0, 0.5, 1], xlabel="probability of the answer")
    axes.invert_yaxis()
    plt.show()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("model", nargs="?", help="file that joblib.dump wrote")
    parser.add_argument("--port", type=int, default=8000)
    arguments = parser.parse_args()
    if arguments.model:
        serve(arguments.model, arguments.port)
    else:
        ask_itself()
