"""
Unequal classes
===============

The largest class of these texts has a hundred times as many as the smallest. Class weights make
small classes count more. Whether that is better depends on the data and on what counts, so it is
measured, with a score that fits the use of the model.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, recall_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline

from skparse import SparseExpertClassifier
from skparse.datasets import load_api_docs

docs = load_api_docs()
texts, y = np.array(docs.data, dtype=object), docs.target
rng = np.random.default_rng(0)
# Every second class keeps one text in eight, so that the classes are more unequal.
kept = (y % 2 == 0) | (rng.uniform(size=len(y)) < 0.125)
texts, y = texts[kept], y[kept]
classes, sizes = np.unique(y, return_counts=True)
print(f"{len(y)} texts, {len(classes)} classes of {sizes.min()} to {sizes.max()}")

# %%
# Cross-validated predictions with and without weights.

folds = StratifiedKFold(3, shuffle=True, random_state=0)
recalls = {}
print(f"\n{'class_weight':14}{'accuracy':>10}{'balanced':>10}{'macro-F1':>10}")
for class_weight in (None, "balanced"):
    vectorizer = TfidfVectorizer(sublinear_tf=True, dtype=np.float32)
    classifier = SparseExpertClassifier(class_weight=class_weight, random_state=0)
    predicted = cross_val_predict(make_pipeline(vectorizer, classifier), texts, y, cv=folds)
    recalls[class_weight] = recall_score(y, predicted, average=None)
    scores = (
        accuracy_score(y, predicted),
        balanced_accuracy_score(y, predicted),
        f1_score(y, predicted, average="macro"),
    )
    print(f"{class_weight!s:14}" + "".join(f"{score:10.3f}" for score in scores))

# %%
# The recall of every class, by its size: the weights move that of small classes most.

figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
before, after = recalls[None], recalls["balanced"]
axes.vlines(sizes, before, after, color="lightgrey", zorder=0)
axes.plot(sizes, before, "o", color="#D55E00", label="class_weight=None")
axes.plot(sizes, after, "o", color="#0072B2", label='class_weight="balanced"')
axes.set_xscale("log")
axes.set(xlabel="texts of the class", ylabel="recall, cross-validated")
axes.legend()
plt.show()
