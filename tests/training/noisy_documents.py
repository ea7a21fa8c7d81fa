"""Documents of which a share has wrong labels, for the choice of the penalty."""

import numpy as np

from skparse._training.penalty import MIN_HELD_OUT
from skparse.datasets import make_topic_documents

SAMPLES_NEEDED = 16 * MIN_HELD_OUT  # one sample in sixteen is held out
# Share of labels that are drawn at random, by number of classes: 30 to 42 % are wrong.
NOISE = {2: 0.6, 4: 0.55, 6: 0.5}


def draw_documents(
    n_samples=SAMPLES_NEEDED, *, wrong=0.0, n_classes=6, seed=0, dtype=np.float64, **options
):
    """Draw documents of which a share has another label, drawn at random."""
    options = {"n_features": 1000, "document_length": 10, "background_share": 0.3, **options}
    X, y = make_topic_documents(
        n_samples, n_topics=12, n_classes=n_classes, dtype=dtype, random_state=seed,
        return_X_y=True, **options,
    )  # fmt: skip
    rng = np.random.RandomState(seed + 1)
    return X, np.where(rng.uniform(size=n_samples) < wrong, rng.randint(n_classes, size=len(y)), y)


def draw_noisy(n_samples=SAMPLES_NEEDED, *, n_classes=6, **options):
    return draw_documents(n_samples, wrong=NOISE[n_classes], n_classes=n_classes, **options)
