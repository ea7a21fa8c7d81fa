"""
Accuracy against bytes
======================

All models have the same texts, the same features and the same file format. The sparse expert
classifier is stored at several densities and data types. The linear models are stored as fitted,
in float32, with an L1 penalty, and with their smallest weights set to zero. Sparse linear models
are stored as sparse matrices.
"""

# %%
# Docstrings of numpy, scipy and scikit-learn, labelled by module.
import pickle

import matplotlib.pyplot as plt
import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.svm import LinearSVC

from skparse import SparseExpertClassifier
from skparse.datasets import load_api_docs

texts, y = load_api_docs(return_X_y=True)
parts = train_test_split(texts, y, test_size=0.25, stratify=y, random_state=0)
vectorizer = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=2, dtype=np.float32)
X, X_test = vectorizer.fit_transform(parts[0]), vectorizer.transform(parts[1])
y, y_test = parts[2:]
rows = []


def measure(family, name, model, weights=None):
    """Record accuracy and bytes; a file stores ``weights`` if they are given."""
    n_bytes = len(pickle.dumps(model if weights is None else weights, protocol=5))
    rows.append((family, name, model.score(X_test, y_test), n_bytes))


# %%
# One fit of `SparseExpertClassifier`; `compress` makes smaller copies of it.
ours = SparseExpertClassifier(random_state=0).fit(X, y)
measure("sparse experts", "default, float32", ours)
for dtype in ("float16", "int8"):
    measure("sparse experts", f"default, {dtype}", ours.compress(dtype))
density = ours.model_size().weight_density
for share in (0.5, 0.25):
    smaller = ours.compress("int8", density=share * density, X=X)
    measure("sparse experts", f"{share:.0%} of the weights, int8", smaller)
dense = SparseExpertClassifier(weight_density=1.0, random_state=0).fit(X, y)
measure("sparse experts", "dense, float32", dense)

# %%
# Linear models, with the C of :doc:`the quickstart </auto_examples/plot_quickstart>`, which
# cross-validation chose. They are made smaller in similar ways: only the weights that are
# not zero are stored, as a CSR array.
for name, model in {
    "LogisticRegression(C=3000)": LogisticRegression(C=3000, max_iter=3000),
    "LinearSVC(C=10)": LinearSVC(C=10),
    "LinearSVC(C=10, l1)": LinearSVC(penalty="l1", C=10, dual=False, tol=0.1),
}.items():
    model.fit(X, y)
    if model.coef_.dtype == np.float64:
        measure(name, "float64", model)
    model.coef_ = model.coef_.astype(np.float32)
    measure(name, "float32", model)
    for share in (0.1, 0.05):
        kept = np.abs(model.coef_) >= np.quantile(np.abs(model.coef_), 1 - share)
        model.coef_ = np.where(kept & (model.coef_ != 0), model.coef_, np.float32(0))
        stored = (sparse.csr_array(model.coef_), model.intercept_)
        measure(name, f"largest {share:.0%}, float32", model, stored)

# %%
# Left and high is better.
print(f"{'model':26} {'variant':26} {'accuracy':>8} {'bytes':>12}")
figure, axis = plt.subplots(figsize=(7, 4.5), layout="constrained")
for family in dict.fromkeys(row[0] for row in rows):
    mine = [row for row in rows if row[0] == family]
    for _, name, accuracy, n_bytes in mine:
        print(f"{family:26} {name:26} {accuracy:8.3f} {n_bytes:12,d}")
    axis.scatter([row[3] for row in mine], [row[2] for row in mine], label=family)
axis.set(xscale="log", xlabel="bytes of the saved model", ylabel="test accuracy")
axis.grid(alpha=0.3)
figure.legend(loc="outside upper center", ncols=2)
figure.savefig("model_size.png", dpi=120)
