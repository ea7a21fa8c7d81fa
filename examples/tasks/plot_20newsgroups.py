"""
20 Newsgroups: how many experts, and their top terms
====================================================

One fit trains all numbers of kept experts up to `top_k`. This example predicts with several of
them on 20 Newsgroups without headers, footers and quotes. It then shows a few experts by the terms
with the largest router weights. The data set is downloaded, unless it is in
``scikit_learn_data`` in the folder of the environment variable ``SKPARSE_DATA``.
"""

import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import fetch_20newsgroups
from sklearn.feature_extraction.text import TfidfVectorizer

from skparse import SparseExpertClassifier
from skparse.inspection import top_features

folder = Path(os.environ.get("SKPARSE_DATA", ""), "scikit_learn_data")
options = {
    "data_home": folder if folder.is_dir() else None,
    "remove": ("headers", "footers", "quotes"),
}
train = fetch_20newsgroups(subset="train", **options)
test = fetch_20newsgroups(subset="test", **options)
vectorizer = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=2, dtype=np.float32)
X_train, X_test = vectorizer.fit_transform(train.data), vectorizer.transform(test.data)
y_train, y_test = (np.array(train.target_names)[part.target] for part in (train, test))

# %%
# One fit, every top_k
# --------------------

classifier = SparseExpertClassifier(top_k=8, random_state=0).fit(X_train, y_train)
top_ks, accuracies = [1, 2, 4, 8], []
for top_k in top_ks:
    accuracies.append(classifier.set_params(top_k=top_k).score(X_test, y_test))
    print(f"top_k={top_k}: accuracy {accuracies[-1]:.3f}")

# %%
# The top terms of the experts
# ----------------------------
# Those with the largest router weights, for the four experts that most training texts keep.

terms = vectorizer.get_feature_names_out()
experts = top_features(classifier, feature_names=terms, n_features=8)
busiest = np.argsort(-classifier.expert_load_, kind="stable")[:4]

figure, axes = plt.subplots(1, 5, figsize=(13, 3.2), layout="constrained")
axes[0].plot(top_ks, accuracies, "o-")
axes[0].set_xscale("log", base=2)
axes[0].set(xticks=top_ks, xticklabels=top_ks, xlabel="top_k", ylabel="accuracy")
axes[0].set(ylim=(0.6, 0.8), title="one fit")
for number, axis in zip(busiest, axes[1:], strict=True):
    print(experts[number])
    axis.barh(experts[number].names, experts[number].weights)
    axis.invert_yaxis()
    axis.set(title=experts[number].class_name, xlabel="router weight")
figure.savefig("20newsgroups.png", dpi=150)
