"""Documents that tests of training are run on."""

import numpy as np
from scipy import sparse

from skparse.datasets import make_topic_documents


def draw_documents(n_samples=300, n_classes=4, *, dtype=np.float64, seed=0):
    """Draw documents of 50 words and eight topics; returns (X, y)."""
    return make_topic_documents(
        n_samples, 150, 8, n_classes=n_classes, dtype=dtype, random_state=seed, return_X_y=True
    )


def draw_noisy_documents(n_samples=1200, n_classes=6, *, wrong=0.3, dtype=np.float64, seed=0):
    """Draw documents of which a share gets another label, drawn at random; returns (X, y)."""
    X, y = make_topic_documents(
        n_samples, 300, 12, n_classes=n_classes, document_length=20, background_share=0.6,
        dtype=dtype, random_state=seed, return_X_y=True,
    )  # fmt: skip
    rng = np.random.RandomState(seed + 1)
    return X, np.where(rng.uniform(size=n_samples) < wrong, rng.randint(n_classes, size=len(y)), y)


def draw_short_documents(n_samples=400, n_classes=20, *, dtype=np.float64, seed=0):
    """Draw documents of about five words, with a topic per class; returns (X, y)."""
    X, y = make_topic_documents(
        n_samples, 300, n_classes, n_classes=n_classes, document_length=5, dtype=dtype,
        random_state=seed, return_X_y=True,
    )  # fmt: skip
    return sparse.csr_array(X), y
