"""
Sentence embeddings
===================

Dense vectors of texts, as encoders give them. Here latent semantic analysis stands for the
encoder, so nothing is downloaded. For dense rows a class gets several experts, which start at
clusters of its samples. That pays where a class is made of different things.
"""

# sphinx_gallery_thumbnail_number = 2
import matplotlib.pyplot as plt
import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import TSNE
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer

from skparse import SparseExpertClassifier
from skparse.datasets import load_api_docs

docs = load_api_docs()
texts_train, texts_test, modules_train, modules_test = train_test_split(
    docs.data, docs.target, stratify=docs.target, random_state=0
)
encoder = make_pipeline(
    TfidfVectorizer(sublinear_tf=True, min_df=2, dtype=np.float32),
    TruncatedSVD(100, random_state=0),
    Normalizer(),
)
X_train, X_test = encoder.fit_transform(texts_train), encoder.transform(texts_test)
print(f"{X_train.shape[0]} training texts, {X_train.shape[1]} columns, {X_train.dtype}")

# %%
# Three tasks with the same vectors
# ---------------------------------
# The classes are the 23 modules, the three packages that they belong to, or four random groups of
# them. The other models are chosen by cross-validation on the training texts, and
# `SparseExpertClassifier` has its defaults.

packages = np.unique([name.split(".")[0] for name in docs.target_names], return_inverse=True)[1]
random_groups = np.random.RandomState(0).permutation(np.arange(len(docs.target_names)) % 4)
tasks = {
    "23 modules": np.arange(len(docs.target_names)),
    "3 packages": packages,
    "4 random groups": random_groups,
}
network = MLPClassifier(early_stopping=True, n_iter_no_change=20, random_state=0)
models = {
    "SparseExpertClassifier": SparseExpertClassifier(random_state=0),
    "one expert per class": None,
    "LogisticRegression": GridSearchCV(
        LogisticRegression(max_iter=3000), {"C": [1, 3, 10, 30, 100]}, cv=3
    ),
    "MLPClassifier": GridSearchCV(
        network, {"hidden_layer_sizes": [100, 300], "learning_rate_init": [0.001, 0.01]}, cv=3
    ),
    "KNeighborsClassifier": GridSearchCV(
        KNeighborsClassifier(weights="distance"), {"n_neighbors": [3, 10, 30]}, cv=3
    ),
}
accuracies = {name: [] for name in models}
for class_of in tasks.values():
    y_train, y_test = class_of[modules_train], class_of[modules_test]
    models["one expert per class"] = SparseExpertClassifier(class_of.max() + 1, random_state=0)
    for name, model in models.items():
        accuracies[name].append(model.fit(X_train, y_train).score(X_test, y_test))

print(f"\n{'':24}" + "".join(f"{task:>17}" for task in tasks))
for name, row in accuracies.items():
    print(f"{name:24}" + "".join(f"{accuracy:17.3f}" for accuracy in row))

# %%
# No plane separates groups of unrelated modules: one expert per class is as good as a linear model
# there, and several per class gain six points. The nearest neighbours are level or better, and
# compare a text with all training texts. With a class per module all models are level.

figure, axes = plt.subplots(figsize=(8, 3.4), layout="constrained")
shifts = np.linspace(-0.32, 0.32, len(models))
for shift, (name, row) in zip(shifts, accuracies.items(), strict=True):
    axes.bar(np.arange(len(tasks)) + shift, row, width=0.15, label=name)
axes.set(ylim=(0.8, 1), xticks=range(len(tasks)), ylabel="accuracy on the test texts")
axes.set_xticklabels(tasks)
figure.legend(loc="outside right upper")
plt.show()

# %%
# What the experts have found
# ---------------------------
# The model of the random groups has not seen the modules. Its experts find them: the legend has
# the module of most texts that keep an expert, and their share. The map has the texts of one
# group, in the colour of the expert with the largest weight.

group = random_groups[modules_train]
model = SparseExpertClassifier(random_state=0).fit(X_train, group)
X_group, modules = X_train[group == 0], modules_train[group == 0]
expert = np.asarray(model.transform(X_group).argmax(axis=1)).ravel()
places = TSNE(random_state=0).fit_transform(X_group)

figure, axes = plt.subplots(figsize=(8, 4.6), layout="constrained")
largest = np.argsort(-np.bincount(expert), kind="stable")[:8]
axes.scatter(*places[~np.isin(expert, largest)].T, s=8, color="lightgrey", label="other experts")
for number in largest:
    kept = expert == number
    counts = np.bincount(modules[kept])
    label = f"{docs.target_names[counts.argmax()]} ({counts.max() / counts.sum():.0%})"
    axes.scatter(*places[kept].T, s=12, label=label)
axes.set(xticks=[], yticks=[])
figure.legend(loc="outside right upper", fontsize="small")
plt.show()
