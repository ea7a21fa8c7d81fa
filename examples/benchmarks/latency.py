"""Time of one prediction at a time, beside LogisticRegression: p50 and p99.

    python examples/benchmarks/latency.py

A request of a service is one text. So each call predicts the probabilities of one row of a TF-IDF
matrix, or of one text through the whole pipeline. Where onnxruntime is installed, the pipeline is
also timed as an ONNX graph, and the bytes of the three formats are printed.
"""

import importlib.util
import pickle
import time

import numpy as np
import skops.io
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from skparse import SparseExpertClassifier
from skparse.datasets import load_api_docs

N_CALLS = 3000


def time_calls(function, inputs):
    """Return p50 and p99 of the time of one call, in microseconds, after some to warm up."""
    seconds = np.empty(N_CALLS)
    for i in range(-100, N_CALLS):
        argument = inputs[i % len(inputs)]
        start = time.perf_counter()
        function(argument)
        seconds[i] = time.perf_counter() - start
    return np.percentile(seconds, [50, 99]) * 1e6


def time_graph(pipeline, texts):
    """Return (p50, p99, bytes) of the pipeline as an ONNX graph, in one thread."""
    import onnxruntime

    from skparse.onnx import to_onnx

    data = to_onnx(pipeline).SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(data, options)
    inputs = [{"texts": np.array([text], dtype=object)} for text in texts]
    return *time_calls(lambda one: session.run(None, one), inputs), len(data)


def main():
    texts, labels = load_api_docs(return_X_y=True)
    vectorizer = TfidfVectorizer(sublinear_tf=True, dtype=np.float32)
    X = vectorizer.fit_transform(texts[::2])
    held_out = list(texts[1::2])
    rows = vectorizer.transform(held_out)
    rows = [rows[[i]] for i in range(rows.shape[0])]
    print(f"{'one call':52}{'p50 (us)':>10}{'p99 (us)':>10}")
    for model in (SparseExpertClassifier(random_state=0), LogisticRegression(C=10, max_iter=1000)):
        name = type(model).__name__
        model.fit(X, labels[::2])
        p50, p99 = time_calls(model.predict_proba, rows)
        print(f"{name + ', one row':52}{p50:10.0f}{p99:10.0f}")
        pipeline = make_pipeline(vectorizer, model)
        p50, p99 = time_calls(lambda text, p=pipeline: p.predict_proba([text]), held_out)
        print(f"{name + ', one text in a pipeline':52}{p50:10.0f}{p99:10.0f}")
        if isinstance(model, SparseExpertClassifier):
            sizes = {"pickle": len(pickle.dumps(pipeline)), "skops": len(skops.io.dumps(pipeline))}
            if all(map(importlib.util.find_spec, ("onnx", "skl2onnx", "onnxruntime"))):
                p50, p99, sizes["ONNX"] = time_graph(pipeline, held_out)
                print(f"{'the same as an ONNX graph':52}{p50:10.0f}{p99:10.0f}")
    print("bytes of the pipeline:", ", ".join(f"{k} {size:,}" for k, size in sizes.items()))


if __name__ == "__main__":
    main()
