"""Real texts for the tests: read from $SKPARSE_DATA, skipped where they are missing.

The folder is ``../shared/data`` beside the project unless SKPARSE_DATA names another one. With
SKPARSE_REQUIRE_DATA=1 missing data fails the test instead of skipping it.
"""

import os

# Two test processes whose OpenMP threads wait for each other by spinning take ten times as long.
# Read when numpy and torch are loaded, here and in the processes that the tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import gzip
import json
from functools import cache
from pathlib import Path

import pytest
from sklearn.datasets import fetch_20newsgroups

PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def data_home():
    """Return the folder of the data sets."""
    default = PROJECT.parent / "shared" / "data"
    return existing(Path(os.environ.get("SKPARSE_DATA", default)))


@pytest.fixture(scope="session")
def load_corpus(data_home):
    """Return a function from a data set's folder and split to (texts, labels), lists."""

    @cache
    def read(name, split):
        path = existing(data_home / name / f"{split}.jsonl.gz")
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        return [row["text"] for row in rows], [row["label"] for row in rows]

    def load(name, split="train"):
        texts, labels = read(name, split)
        return list(texts), list(labels)  # the caller's own: the cached ones are shared

    return load


@pytest.fixture(scope="session")
def load_newsgroups(data_home):
    """Return a function from a subset of 20 Newsgroups to (texts, labels), stripped by default."""
    home = existing(data_home / "scikit_learn_data")

    def load(subset="train", remove=("headers", "footers", "quotes")):
        return fetch_20newsgroups(
            data_home=home,
            subset=subset,
            remove=remove,
            download_if_missing=False,
            return_X_y=True,
        )

    return load


def existing(path):
    """Return a path that exists; else skip the test, or fail it where data is required."""
    if not path.exists():
        reason = f"no data at {path}: set SKPARSE_DATA to the folder of the data sets"
        if os.environ.get("SKPARSE_REQUIRE_DATA") == "1":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    return path


@pytest.fixture
def closed_figures():
    """Draw without a screen, and leave no figure open."""
    import matplotlib

    before = matplotlib.get_backend()
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    yield
    plt.close("all")
    matplotlib.use(before)
