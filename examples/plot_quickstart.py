"""
Quickstart
==========

Classify texts with :class:`~skparse.SparseExpertClassifier` in the place of a linear model.
Compare models, choose `top_k` by grid search, save, load and predict. The texts are the docstrings
of NumPy, SciPy and scikit-learn, so nothing is downloaded. The class is the module of a docstring.
"""

import pickle
import tempfile
import time

import joblib
import matplotlib.pyplot as plt
import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

from skparse import SparseExpertClassifier
from skparse.datasets import load_api_docs

docs = load_api_docs()
text_train, text_test, y_train, y_test = train_test_split(
    docs.data, docs.target_names[docs.target], stratify=docs.target, random_state=0
)
vectorizer = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=2, dtype=np.float32)
X_train, X_test = vectorizer.fit_transform(text_train), vectorizer.transform(text_test)
print(f"{X_train.shape[0]} training texts, {X_train.shape[1]} terms, {len(set(y_train))} classes")

# %%
# Comparison with linear models
# -----------------------------
# All models use the same matrix. The first fit on a machine compiles the kernels, so a small fit
# comes first and is not timed. `C` and `alpha` of the linear models were chosen by cross-
# validation on the training texts, from grids with steps of three to ten. The first model has its
# defaults.

SparseExpertClassifier().fit(X_train[:200], y_train[:200])

models = [
    SparseExpertClassifier(random_state=0),
    LogisticRegression(C=3000, max_iter=3000),
    LinearSVC(C=10),
    SGDClassifier(loss="log_loss", alpha=3e-6, random_state=0),
]
print(f"\n{'model':24}{'accuracy':>10}{'fit seconds':>13}{'model bytes':>13}")
accuracies, sizes = [], []
for model in models:
    start = time.perf_counter()
    model.fit(X_train, y_train)
    seconds = time.perf_counter() - start
    accuracies.append(model.score(X_test, y_test))
    sizes.append(len(pickle.dumps(model)))
    print(f"{type(model).__name__:24}{accuracies[-1]:10.3f}{seconds:13.2f}{sizes[-1]:13,}")

# %%
# Choose top_k
# ------------
# `top_k`, the number of experts that a text keeps, can be chosen by a grid search.

pipeline = make_pipeline(vectorizer, SparseExpertClassifier(random_state=0))
top_ks = [1, 2, 4, 8]
search = GridSearchCV(pipeline, {"sparseexpertclassifier__top_k": top_ks}, cv=3, n_jobs=2)
search.fit(text_train, y_train)
print(f"\nbest of the grid: {search.best_params_}, accuracy {search.score(text_test, y_test):.3f}")

# %%
# Save, load, predict
# -------------------
with tempfile.TemporaryDirectory() as folder:
    joblib.dump(search.best_estimator_, f"{folder}/classifier.joblib", compress=3)
    classifier = joblib.load(f"{folder}/classifier.joblib")
sentence = "Fit a straight line to points and return its slope with a standard error."
print(f"{sentence!r} belongs to {classifier.predict([sentence])[0]}")

# %%
# A plot of the comparison and of the grid.
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
for model, size, accuracy in zip(models, sizes, accuracies, strict=True):
    left.plot(size / 1e6, accuracy, "o", label=type(model).__name__)
left.set(xlim=(0, None), xlabel="model size (MB)", ylabel="accuracy on the test texts")
left.legend()
results = search.cv_results_
right.errorbar(top_ks, results["mean_test_score"], results["std_test_score"], marker="o")
right.set_xscale("log", base=2)
right.set(xticks=top_ks, xticklabels=top_ks, xlabel="top_k", ylabel="accuracy, cross-validated")
figure.savefig("quickstart.png", dpi=150)
