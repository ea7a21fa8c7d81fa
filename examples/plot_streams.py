"""
Learn from a stream
===================

Texts arrive in files, more of them than the memory holds. A hashing vectorizer needs no fit, and
`partial_fit` learns from one part after another. The accuracy is measured on the way, beside that
of :class:`~sklearn.linear_model.SGDClassifier`. Then the work is interrupted, and resumed from a
saved model; a class is added that the first call did not list. The texts are the docstrings of
NumPy, SciPy and scikit-learn.
"""

import json
import tempfile
import time
from itertools import islice
from pathlib import Path

import joblib
import matplotlib.pyplot as plt
import numpy as np
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import train_test_split

from skparse import SparseExpertClassifier
from skparse.datasets import load_api_docs

docs = load_api_docs()
text_train, text_test, y_train, y_test = train_test_split(
    docs.data, docs.target_names[docs.target], test_size=0.25, random_state=0
)
folder = tempfile.TemporaryDirectory()
for number, rows in enumerate(np.array_split(np.arange(len(text_train)), 4)):
    lines = [json.dumps({"text": text_train[i], "label": y_train[i]}) for i in rows]
    (Path(folder.name) / f"part{number}.jsonl").write_text("\n".join(lines), encoding="utf-8")


def read_chunks(paths, size):
    """Read files line by line; yields lists of texts and labels of a size at most."""
    for path in paths:
        with path.open(encoding="utf-8") as lines:
            while chunk := [json.loads(line) for line in islice(lines, size)]:
                yield [row["text"] for row in chunk], [row["label"] for row in chunk]


# %%
# One chunk after another
# -----------------------
# The first call needs the classes. Here one of them is not known yet, so its texts are passed
# over.

vectorizer = HashingVectorizer(
    n_features=2**18, ngram_range=(1, 2), alternate_sign=False, dtype=np.float32
)
X_test = vectorizer.transform(text_test)
paths, late = sorted(Path(folder.name).glob("*.jsonl")), y_train[0]
known = np.setdiff1d(np.unique(y_train), late)
models = {
    "SparseExpertClassifier": SparseExpertClassifier(random_state=0),
    "SGDClassifier": SGDClassifier(alpha=1e-6, random_state=0),
}
# The first call on a machine compiles the kernels, so a small one comes first.
SparseExpertClassifier().partial_fit(X_test[:9], y_test[:9], classes=np.unique(y_test))
rows, curves, seconds = [0], {name: [] for name in models}, dict.fromkeys(models, 0.0)
is_known = y_test != late
for texts, labels in read_chunks(paths[:3], 200):
    kept = np.flatnonzero(np.array(labels) != late)
    X, y = vectorizer.transform([texts[i] for i in kept]), np.array(labels)[kept]
    for name, model in models.items():
        start = time.perf_counter()
        model.partial_fit(X, y, classes=known)
        seconds[name] += time.perf_counter() - start
        curves[name].append(model.score(X_test[is_known], y_test[is_known]))
    rows.append(rows[-1] + len(y))
    if len(rows) % 3 == 0:
        shown = ", ".join(f"{name} {curve[-1]:.3f}" for name, curve in curves.items())
        print(f"{rows[-1]:5} texts: {shown}")
print({name: f"{value:.2f} s" for name, value in seconds.items()})

# %%
# Interrupt and resume
# --------------------
# A saved model has everything that it needs to learn on, and its size does not depend on the
# number of calls.

path = Path(folder.name) / "stream.joblib"
joblib.dump(models["SparseExpertClassifier"], path, compress=3)
model = joblib.load(path)
print(f"{path.stat().st_size / 1e6:.1f} MB, {model.t_:.0f} texts so far")

# %%
# A new class
# -----------
# A later call may name more classes. The last file has texts of all of them.

everything, own = np.unique(y_train), y_test == late
print(
    f"before: accuracy on the other classes {model.score(X_test[is_known], y_test[is_known]):.3f}"
)
n_seen = 0
for texts, labels in read_chunks(paths[3:], 100):
    model.partial_fit(vectorizer.transform(texts), labels, classes=everything)
    n_seen += labels.count(late)
    recall, others = (model.score(X_test[part], y_test[part]) for part in (own, is_known))
    print(f"{n_seen:3} texts of {late}: recall {recall:.3f}, the other classes {others:.3f}")

figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
for name, curve in curves.items():
    axes.plot(rows[1:], curve, marker="o", label=name)
axes.set(xlabel="texts so far", ylabel="accuracy on the test texts")
axes.legend()
figure.savefig(Path(folder.name) / "streams.png", dpi=150)
folder.cleanup()
