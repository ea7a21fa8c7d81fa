"""Time and memory of SparseExpertClassifier over data and sparsity levels."""

import numpy as np
from sklearn.feature_extraction.text import TfidfTransformer, TfidfVectorizer

from skparse import SparseExpertClassifier
from skparse.datasets import load_api_docs, make_topic_documents


def vectorize_api_docs():
    """Return the docstrings of numpy, scipy and scikit-learn as TF-IDF, and their modules."""
    text, y = load_api_docs(return_X_y=True)
    vectorizer = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=2, dtype=np.float32)
    return vectorizer.fit_transform(text), y


def weigh_topic_documents():
    """Return synthetic documents of 100 classes as TF-IDF, and their classes."""
    counts, y = make_topic_documents(
        n_samples=10_000,
        n_features=2**16,
        n_topics=100,
        n_classes=100,
        document_length=70,  # about 50 nonzeros: terms repeat
        random_state=0,
        return_X_y=True,
    )
    return TfidfTransformer(sublinear_tf=True).fit_transform(counts, y), y


DATA = {"api_docs": vectorize_api_docs, "topic_documents": weigh_topic_documents}


class _Classifier:
    param_names = ("data", "top_k")
    params = (list(DATA), [1, 8, 32])

    def setup_cache(self):
        """Make the data once, in another process, so that its memory is not part of the fit."""
        return {name: make() for name, make in DATA.items()}

    def setup(self, data, name, top_k):
        self.X, self.y = data[name]
        self.model = SparseExpertClassifier(top_k=top_k, random_state=0)
        # Load compiled code before the measurement.
        self.model.fit(self.X[:200], self.y[:200]).predict_proba(self.X[:1])


class Fit(_Classifier):
    """Training."""

    def time_fit(self, data, name, top_k):
        self.model.fit(self.X, self.y)

    def peakmem_fit(self, data, name, top_k):
        self.model.fit(self.X, self.y)


class Predict(_Classifier):
    """Prediction, in bulk and for one row."""

    def setup(self, data, name, top_k):
        super().setup(data, name, top_k)
        self.model.fit(self.X, self.y)
        self.row = self.X[:1]

    def time_predict(self, data, name, top_k):
        self.model.predict(self.X)

    def time_predict_proba(self, data, name, top_k):
        self.model.predict_proba(self.X)

    def time_predict_one(self, data, name, top_k):
        self.model.predict(self.row)
