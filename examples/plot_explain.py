"""
Why this prediction?
====================

The router is additive: the score of an expert is a sum of what each term of a text contributes. So
a prediction has an exact explanation. The texts are the docstrings of NumPy, SciPy and
scikit-learn, and the class is the module that they come from.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline

from skparse import SparseExpertClassifier
from skparse.datasets import load_api_docs
from skparse.inspection import (
    ExpertMapDisplay,
    ExplanationDisplay,
    explain,
    feature_contributions,
    top_features,
)

docs = load_api_docs()
texts_train, texts_test, y_train, y_test = train_test_split(
    docs.data, docs.target_names[docs.target], stratify=docs.target, random_state=0
)
model = make_pipeline(
    TfidfVectorizer(sublinear_tf=True, min_df=2, stop_words="english", dtype=np.float32),
    SparseExpertClassifier(random_state=0),
)
model.fit(texts_train, y_train)

# %%
# What the classes have learnt
# ----------------------------
# The terms with the largest router weights. With one expert per class these are also the terms of
# its expert.

for features in top_features(model, n_features=7, by="class"):
    print(features)

# %%
# One text
# --------
# The table has the two most probable classes, the experts that the text keeps with their gate
# weights, and what each term contributes to the scores of the two classes. The columns add up to
# the scores.

text = "Fit a straight line to the measurements, and return its slope with a standard error."
print(explain(model, [text])[0])

# %%
# In the picture, blue terms raise the score of the predicted class, and orange ones that of the
# runner-up. Grey words are no terms of the model.

ExplanationDisplay.from_estimator(model, text)
plt.show()

# %%
# A wrong prediction
# ------------------
# Of the wrong predictions for the test texts, the one with the largest probability.

probabilities = model.predict_proba(texts_test)
wrong = np.flatnonzero(model.classes_[probabilities.argmax(axis=1)] != y_test)
worst = wrong[probabilities[wrong].max(axis=1).argmax()]
print(f"It belongs to {y_test[worst]}.")
ExplanationDisplay.from_estimator(model, texts_test[worst])
plt.show()

# %%
# All contributions
# -----------------
# :func:`~skparse.inspection.feature_contributions` returns them as a sparse array, with the bias
# in the last column. Here are the terms with the largest means over the test texts that are
# predicted as ``scipy.stats``.

texts_of_stats = [text for text, y in zip(texts_test, model.predict(texts_test), strict=True)
                  if y == "scipy.stats"]  # fmt: skip
contributions = feature_contributions(model, texts_of_stats, of="class")
mean = contributions.mean(axis=0)
names = [*model[:-1].get_feature_names_out(), "(bias)"]
for j in np.argsort(-mean)[:8]:
    print(f"{names[j]:14}{mean[j]:7.3f}")

# %%
# A map of experts
# ----------------
# Now the three packages are the classes, and they have 24 experts. Each expert has a part of its
# package, and its terms show which. Experts with similar weights stand near each other.

packages = make_pipeline(
    TfidfVectorizer(sublinear_tf=True, min_df=2, stop_words="english", dtype=np.float32),
    SparseExpertClassifier(n_experts=24, random_state=0),
)
packages.fit(texts_train, [module.split(".")[0] for module in y_train])
ExpertMapDisplay.from_estimator(packages)
plt.show()
