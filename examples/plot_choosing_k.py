"""
Choosing K
==========

How many experts should a text keep? One fit trains every sparsity level K up to `top_k`, so
:class:`~skparse.model_selection.TopKSearchCV` tries any number of them with one fit per fold. The
texts are the docstrings of NumPy, SciPy and scikit-learn, and the classes are the modules they
come from.
"""

# sphinx_gallery_thumbnail_number = 2
import matplotlib.pyplot as plt
import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import accuracy_score, log_loss
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline

from skparse import SparseExpertClassifier
from skparse.datasets import load_api_docs
from skparse.model_selection import TopKSearchCV
from skparse.plotting import ExpertUsageDisplay, LossCurveDisplay, SparsityPathDisplay

docs = load_api_docs()
text_train, text_test, y_train, y_test = train_test_split(
    docs.data, docs.target_names[docs.target], stratify=docs.target, random_state=0
)

# %%
# The search takes the whole pipeline. So the vectorizer is fitted in each fold, to the training
# part only.

pipeline = make_pipeline(
    TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=2, dtype=np.float32),
    SparseExpertClassifier(random_state=0),
)

# %%
# By accuracy
# -----------
# The smallest K is chosen whose loss against the best one, paired text by text, is within one
# standard error. In the picture that is the first K whose band reaches the dotted line. Without a
# scorer, the log loss takes part in the choice.

by_accuracy = TopKSearchCV(pipeline, scoring="accuracy").fit(text_train, y_train)
print(f"by accuracy: {by_accuracy.best_params_}, {by_accuracy.best_score_:.3f}")
SparsityPathDisplay.from_cv_results(by_accuracy.cv_results_, show_time=False)
plt.show()

# %%
# By probabilities
# ----------------
# The most probable class hardly depends on K, but its probability does: with one expert the
# classifier is overconfident. Any scorer can choose; the log loss depends on all probabilities.

by_log_loss = TopKSearchCV(pipeline, scoring="neg_log_loss").fit(text_train, y_train)
print(f"by log loss: {by_log_loss.best_params_}, {-by_log_loss.best_score_:.3f}")
SparsityPathDisplay.from_cv_results(by_log_loss.cv_results_, show_time=False)
plt.show()

# %%
# All levels of the fitted model on the test texts, in one pass over them:

top_ks = by_log_loss.top_ks_
print(f"{'top_k':>5}{'accuracy':>10}{'log loss':>10}{'mean confidence':>17}")
for top_k, probabilities in zip(
    top_ks, by_log_loss.predict_proba_path(text_test, top_ks), strict=True
):
    predicted = by_log_loss.classes_[probabilities.argmax(axis=1)]
    print(
        f"{top_k:5}{accuracy_score(y_test, predicted):10.3f}"
        f"{log_loss(y_test, probabilities):10.3f}"
        f"{probabilities.max(axis=1).mean():17.3f}"
    )

# %%
# The load of the experts
# -----------------------
# The number of training texts that keep each expert at the largest K, with the class to which its
# output gives the most weight.

ExpertUsageDisplay.from_estimator(by_log_loss)
plt.show()

# %%
# The epochs of the last fit
# --------------------------

LossCurveDisplay.from_estimator(by_log_loss)
plt.show()
