"""
What experts are good for
=========================

With one expert per class a model is nearly linear. With several, each expert of a class has a
part of its samples, and the regions of the classes have corners and bends. The first picture has
tables with two columns, where several are needed. The second has texts, where they change little.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import make_circles, make_moons
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.inspection import DecisionBoundaryDisplay
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score, train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.svm import LinearSVC

from skparse import SparseExpertClassifier
from skparse.datasets import load_api_docs

# %%
# Decision regions
# ----------------
# One fit is drawn at three K. The colour is the probability of a class. With K = 1 it depends
# only on the kept expert, so the edges are sharp. With K = 8 the probabilities are smooth.

rng = np.random.RandomState(0)
points = rng.uniform(-1, 1, size=(500, 2))
tables = {
    "circles": make_circles(500, noise=0.15, factor=0.5, random_state=0),
    "moons": make_moons(500, noise=0.25, random_state=0),
    "XOR": (points, (points[:, 0] * points[:, 1] > 0).astype(int)),
}
figure, axes = plt.subplots(3, 5, figsize=(11, 7), layout="constrained")
for row, (name, (X, y)) in zip(axes, tables.items(), strict=True):
    X_train, X_test, y_train, y_test = train_test_split(X, y, stratify=y, random_state=0)
    experts = SparseExpertClassifier(random_state=0).fit(X_train, y_train)
    network = MLPClassifier((100,), max_iter=1000, random_state=0).fit(X_train, y_train)
    linear = LogisticRegression().fit(X_train, y_train)
    models = {f"K = {top_k}": (experts, top_k) for top_k in (1, 2, 8)}
    models |= {"MLPClassifier": (network, None), "LogisticRegression": (linear, None)}
    for ax, (title, (model, top_k)) in zip(row, models.items(), strict=True):
        if top_k is not None:
            model.set_params(top_k=top_k)
        DecisionBoundaryDisplay.from_estimator(
            model, X, ax=ax, response_method="predict_proba", plot_method="pcolormesh",
            cmap="RdBu", vmin=0, vmax=1, alpha=0.7, grid_resolution=200, eps=0.3,
        )  # fmt: skip
        ax.scatter(*X_test.T, c=y_test, cmap="RdBu", edgecolors="k", linewidths=0.4, s=12)
        ax.set(
            xticks=[], yticks=[], xlabel=f"accuracy {model.score(X_test, y_test):.3f}", ylabel=""
        )
        if name == "circles":
            ax.set_title(title)
    row[0].set_ylabel(name)
plt.show()

# %%
# Several experts per class, on texts
# -----------------------------------
# The texts are docstrings of NumPy, SciPy and scikit-learn. On the left their modules are merged
# at random into four classes. Two experts per class gain half a point with a small K. With more
# of them, or with a large K, accuracy falls. "auto" keeps one here: its trial needs more texts.

docs = load_api_docs()
vectorizer = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=2, dtype=np.float32)
X = vectorizer.fit_transform(docs.data)
modules, top_ks = np.arange(len(docs.target_names)), [1, 2, 4, 8, 16]
groups = {"four random groups": rng.permutation(modules % 4), "each module a class": modules}
folds = list(StratifiedKFold(3, shuffle=True, random_state=0).split(X, docs.target))

figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True, layout="constrained")
for ax, (title, class_of) in zip(axes, groups.items(), strict=True):
    y, n_classes = class_of[docs.target], class_of.max() + 1
    for per_class in (1, 2, 4, 8):
        model = SparseExpertClassifier(per_class * n_classes, top_k=16, random_state=0)
        paths = [model.fit(X[a], y[a]).predict_proba_path(X[b], top_ks) for a, b in folds]
        hits = [path.argmax(axis=2) == y[b] for path, (_, b) in zip(paths, folds, strict=True)]
        ax.plot(top_ks, np.hstack(hits).mean(axis=1), "o-", label=f"{per_class}")
    linear = cross_val_score(LinearSVC(), X, y, cv=folds).mean()
    ax.axhline(linear, color="gray", linestyle=":", label="LinearSVC")
    ax.set_xscale("log", base=2)
    ax.set(xticks=top_ks, xticklabels=top_ks, xlabel="K", title=title)
axes[0].set_ylabel("accuracy, cross-validated")
figure.legend(
    *ax.get_legend_handles_labels(), title="experts per class", loc="outside right upper"
)
plt.show()
