"""Training on a Dask cluster of 1, 2 and 4 worker processes: accuracy, time and bytes.

    python examples/benchmarks/cluster.py ag_news clinc150 20newsgroups-stripped
    python examples/benchmarks/cluster.py --rows 2000000 --workers 1 2

There are four partitions on the workers, whatever the number of workers. Bytes are those that
workers have sent, by their own counts. "Parameters" are `bytes_per_round_`. The last line of a set
is a fit on one machine. With ``--rows`` the samples are drawn, for time and memory.
"""

import argparse
import time
from pathlib import Path

import distributed
import numpy as np
from corpora import CORPORA
from dask import delayed
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer

from skparse import SparseExpertClassifier
from skparse.dask import DaskSparseExpertClassifier
from skparse.datasets import make_topic_documents

N_PARTITIONS = 4
MAX_ROWS = 30_000  # of a data set


def load(name):
    """Return X, y, X_test, y_test of a data set as TF-IDF."""
    corpus = CORPORA[name]()
    order = np.random.RandomState(0).permutation(len(corpus.train_text))[:MAX_ROWS]
    vectorizer = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), dtype=np.float32)
    X = vectorizer.fit_transform([corpus.train_text[k] for k in order])
    X_test = vectorizer.transform(corpus.test_text)
    return X, np.array(corpus.train_labels)[order], X_test, np.array(corpus.test_labels)


def draw(n_rows):
    """Return samples that are drawn, and the last 10,000 as test samples."""
    X, y = make_topic_documents(
        n_rows + 10_000, 2**16, 100, n_classes=20, document_length=25, background_share=0.7,
        random_state=0, return_X_y=True,
    )  # fmt: skip
    X = sparse.csr_matrix(X)
    return X[:n_rows], y[:n_rows], X[n_rows:], y[n_rows:]


def sent_bytes(dask_worker):
    """Return the bytes that a worker has sent to others and to the client."""
    return dask_worker.transfer_outgoing_bytes_total


def read_megabytes(name):
    """Return a memory of this process: "VmRSS" is the present one, "VmHWM" the largest so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def forget_peak():
    """Let the largest memory so far begin anew at the present one; Linux only."""
    Path("/proc/self/clear_refs").write_text("5")


def fit_on_cluster(n_workers, X, y):
    """Fit on a number of workers; returns (model, seconds, bytes sent, megabytes of a worker).

    The seconds are those of the fit, and the processor time of the busiest worker. The megabytes
    are those before the samples come, with them, and the most in the fit, of the largest worker.
    """
    edges = np.linspace(0, X.shape[0], N_PARTITIONS + 1).astype(int)
    pairs = list(zip(edges[:-1], edges[1:], strict=True))
    with (
        distributed.LocalCluster(
            n_workers=n_workers, threads_per_worker=1, dashboard_address=":0"
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        # Loads the kernels in every worker.
        small = [X[:2000], y[:2000]]
        warm = [delayed(part[k::n_workers]) for part in small for k in range(n_workers)]
        DaskSparseExpertClassifier(alpha=1.0, client=client).fit(
            warm[:n_workers], warm[n_workers:]
        )
        empty = max(client.run(read_megabytes, "VmRSS").values())
        blocks, labels = (client.scatter([part[a:b] for a, b in pairs]) for part in (X, y))
        filled = max(client.run(read_megabytes, "VmRSS").values())
        client.run(forget_peak)
        before = sum(client.run(sent_bytes).values())
        cpu_before = client.run(time.process_time)
        start = time.perf_counter()
        model = DaskSparseExpertClassifier(random_state=0, client=client).fit(blocks, labels)
        seconds = time.perf_counter() - start
        cpu = client.run(time.process_time)
        seconds = seconds, max(cpu[worker] - cpu_before[worker] for worker in cpu)
        sent = sum(client.run(sent_bytes).values()) - before
        peak = max(client.run(read_megabytes, "VmHWM").values())
    return model, seconds, sent, (empty, filled, peak)


def main():
    """Print a table for each set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="*", help="names of data sets")
    parser.add_argument("--rows", type=int, help="draw so many samples")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    options = parser.parse_args()
    sources = [(name, load(name)) for name in options.data]
    if options.rows:
        sources.append((f"{options.rows} drawn samples", draw(options.rows)))
    for name, (X, y, X_test, y_test) in sources:
        megabytes = (X.data.nbytes + X.indices.nbytes) / 2**20
        print(f"{name}: {X.shape[0]} samples, {X.shape[1]} features, {megabytes:.0f} MB")
        for n_workers in options.workers:
            model, seconds, sent, memory = fit_on_cluster(n_workers, X, y)
            accuracy = model.to_local().score(X_test, y_test)
            print(
                f"{n_workers} workers: accuracy {accuracy:.4f}, {seconds[0]:.1f} s, "
                f"processor time of a worker {seconds[1]:.1f} s, {model.n_rounds_} rounds, "
                f"parameters {model.bytes_per_round_ / 1e6:.2f} MB, sent {sent / 1e6:.1f} MB, "
                f"MB of a worker: empty {memory[0]:.0f}, with samples {memory[1]:.0f}, "
                f"peak in the fit {memory[2]:.0f}",
                flush=True,
            )
        start = time.perf_counter()
        n_experts = len(np.unique(y))  # one per class, as on the cluster
        local = SparseExpertClassifier(n_experts, random_state=0).fit(X, y)
        seconds = time.perf_counter() - start
        print(f"local: accuracy {local.score(X_test, y_test):.4f}, {seconds:.1f} s", flush=True)


if __name__ == "__main__":
    main()
