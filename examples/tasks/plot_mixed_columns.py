"""
Texts beside numbers and categories
===================================

A :class:`~sklearn.compose.ColumnTransformer` makes one matrix of columns of different kinds. Here
they are the first sentence of a docstring, a few counts, and the package. The class is the module.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from skparse import SparseExpertClassifier
from skparse.datasets import load_api_docs

docs = load_api_docs()
modules = docs.target_names[docs.target]
texts = pd.Series(docs.data)
frame = pd.DataFrame(
    {
        "sentence": texts.str.split(".", n=1).str[0],
        "characters": np.log1p(texts.str.len()),
        "lines": np.log1p(texts.str.count("\n")),
        "numbers": np.log1p(texts.str.count(r"\d+")),
        "package": [module.split(".")[0] for module in modules],
    }
)
train, test, y_train, y_test = train_test_split(frame, modules, stratify=modules, random_state=0)
print(train.head(3).to_string(index=False, max_colwidth=40))

# %%
# Numbers are scaled, because their unit would decide how much they count beside TF-IDF. Of columns
# that have a value in nearly every row, the classifier evens out the rest by itself.

words = ("words", TfidfVectorizer(dtype=np.float32), "sentence")
numbers = ("numbers", StandardScaler(), ["characters", "lines", "numbers"])
kinds = ("kinds", OneHotEncoder(handle_unknown="ignore"), ["package"])

accuracies = {}
for name, columns in {
    "numbers": [numbers],
    "words": [words],
    "words, numbers": [words, numbers],
    "words, package": [words, kinds],
    "all": [words, numbers, kinds],
}.items():
    model = make_pipeline(ColumnTransformer(columns), SparseExpertClassifier(random_state=0))
    accuracies[name] = model.fit(train, y_train).score(test, y_test)
    print(f"{name:16}{accuracies[name]:.3f}")

# %%
# The package excludes the modules of the others, so it helps. The counts add hardly anything to
# the words, and beside words and package they cost accuracy: more columns are not always better.

figure, axes = plt.subplots(figsize=(6.4, 2.8), layout="constrained")
bars = axes.barh(list(accuracies), list(accuracies.values()), color="#0072B2")
axes.bar_label(bars, fmt="%.3f", padding=3)
axes.set(xlim=(0, 1), xlabel="accuracy on the test rows")
axes.invert_yaxis()
plt.show()
