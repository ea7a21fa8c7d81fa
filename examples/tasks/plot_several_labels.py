"""
Several labels per text
=======================

A text can have several labels, or none. The labels of a docstring are here the parts of its
module: ``scipy.sparse.linalg`` is *scipy*, *sparse* and *linalg*. The target is a matrix of zeros
and ones, and every label has a probability of its own.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import f1_score, precision_recall_curve
from sklearn.model_selection import cross_val_predict, train_test_split
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MultiLabelBinarizer
from sklearn.svm import LinearSVC

from skparse import SparseExpertClassifier
from skparse.datasets import load_api_docs

docs = load_api_docs()
binarizer = MultiLabelBinarizer()
Y = binarizer.fit_transform([name.split(".") for name in docs.target_names[docs.target]])
texts_train, texts_test, Y_train, Y_test = train_test_split(docs.data, Y, random_state=0)
print(f"{Y.shape[1]} labels, {Y.sum(axis=1).mean():.2f} per text")

# %%
# One model for all labels, and a linear model per label.

vectorizer = TfidfVectorizer(sublinear_tf=True, min_df=2, dtype=np.float32)
model = make_pipeline(vectorizer, SparseExpertClassifier(random_state=0))
peer = make_pipeline(vectorizer, OneVsRestClassifier(LinearSVC()))
for name, estimator in {"SparseExpertClassifier": model, "LinearSVC per label": peer}.items():
    predicted = estimator.fit(texts_train, Y_train).predict(texts_test)
    scores = [f1_score(Y_test, predicted, average=average) for average in ("micro", "macro")]
    print(f"{name:24}  micro-F1 {scores[0]:.3f}  macro-F1 {scores[1]:.3f}")

# %%
# What `predict` returns are the labels above 0.5.

sentence = "Eigenvalues of a large sparse matrix."
for label, probability in zip(binarizer.classes_, model.predict_proba([sentence])[0], strict=True):
    if probability > 0.1:
        print(f"{label:12}{probability:.2f}")
print(binarizer.inverse_transform(model.predict([sentence])))

# %%
# Another threshold
# -----------------
# With a lower threshold there are more labels, with a higher one fewer. It is chosen on the
# training texts, by cross-validation.

held_out = cross_val_predict(model, texts_train, Y_train, cv=3, method="predict_proba")
thresholds = np.linspace(0.02, 0.98, 49)
f1 = [f1_score(Y_train, held_out > threshold, average="micro") for threshold in thresholds]
best = thresholds[np.argmax(f1)]
probabilities = model.predict_proba(texts_test)
for threshold in (0.5, best):
    score = f1_score(Y_test, probabilities > threshold, average="micro")
    print(f"threshold {threshold:.2f}: micro-F1 {score:.3f} on the test texts")

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
left.plot(thresholds, f1)
left.axvline(best, color="grey", linestyle=":")
left.set(xlabel="threshold", ylabel="micro-F1, cross-validated")
precision, recall, _ = precision_recall_curve(Y_test.ravel(), probabilities.ravel())
right.plot(recall, precision)
right.set(xlabel="recall on the test texts", ylabel="precision")
plt.show()
