"""
Choosing K
==========

How many experts should a text keep? One fit trains every sparsity level K up to `top_k`, so
:class:`~skparse.model_selection.SparseExpertClassifierCV` tries any number of them with one fit
per fold. The texts are the docstrings of NumPy, SciPy and scikit-learn, to be sorted by module.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import accuracy_score, log_loss
from sklearn.model_selection import train_test_split

from skparse.datasets import load_api_docs
from skparse.model_selection import SparseExpertClassifierCV
from skparse.plotting import ExpertUsageDisplay, LossCurveDisplay, SparsityPathDisplay

docs = load_api_docs()
text_train, text_test, y_train, y_test = train_test_split(
    docs.data, docs.target_names[docs.target], stratify=docs.target, random_state=0
)
vectorizer = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=2, dtype=np.float32)
X_train, X_test = vectorizer.fit_transform(text_train), vectorizer.transform(text_test)

# %%
# By accuracy
# -----------
# The smallest K is chosen whose loss against the best one, paired text by text, is within one
# standard error. In the picture that is the first K whose band reaches the dotted line.

by_accuracy = SparseExpertClassifierCV(random_state=0).fit(X_train, y_train)
print(f"by accuracy: top_k={by_accuracy.top_k_}, {by_accuracy.best_score_:.3f}")
SparsityPathDisplay.from_cv_results(by_accuracy.cv_results_)
plt.show()

# %%
# By probabilities
# ----------------
# Which class is most probable hardly depends on K, but how probable it is does: with one expert
# the classifier is too sure of itself. Any scorer can choose; the log loss looks at all of the
# probabilities.

by_log_loss = SparseExpertClassifierCV(scoring="neg_log_loss", random_state=0)
by_log_loss.fit(X_train, y_train)
print(f"by log loss: top_k={by_log_loss.top_k_}, {-by_log_loss.best_score_:.3f}")
SparsityPathDisplay.from_cv_results(by_log_loss.cv_results_)
plt.show()

# %%
# All levels of the fitted model, on the test texts, in one pass over each:

top_ks = by_log_loss.top_ks_
print(f"{'top_k':>5}{'accuracy':>10}{'log loss':>10}{'mean confidence':>17}")
for top_k, probabilities in zip(
    top_ks, by_log_loss.predict_proba_path(X_test, top_ks), strict=True
):
    predicted = by_log_loss.classes_[probabilities.argmax(axis=1)]
    print(
        f"{top_k:5}{accuracy_score(y_test, predicted):10.3f}"
        f"{log_loss(y_test, probabilities):10.3f}"
        f"{probabilities.max(axis=1).mean():17.3f}"
    )

# %%
# Who is kept
# -----------
# The load of the experts at the largest K, each with the class it speaks for.

ExpertUsageDisplay.from_estimator(by_log_loss)
plt.show()

# %%
# The epochs of the last fit
# --------------------------

LossCurveDisplay.from_estimator(by_log_loss)
plt.show()
