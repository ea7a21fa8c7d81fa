"""Data sets of the benchmark: texts, labels, and the analyzer of each set.

Most sets are read from the folder of the environment variable ``SKPARSE_DATA`` (default
``../shared/data`` beside the project). It has one folder per set with ``train.jsonl.gz`` and
``test.jsonl.gz``. Each line is a JSON object with ``text`` and ``label``. The label is a string,
or a list of strings where a sample has several labels.
"""

import gzip
import json
import os
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from sklearn.datasets import fetch_20newsgroups
from sklearn.model_selection import train_test_split

WORDS = {"ngram_range": (1, 2)}
CHARACTERS = {"analyzer": "char", "ngram_range": (1, 3)}
CHARACTERS_IN_WORDS = {"analyzer": "char_wb", "ngram_range": (1, 3)}


class MissingCorpusError(Exception):
    """The files of a data set were not found; the message names their expected place."""


@dataclass(frozen=True)
class Corpus:
    """Training and test texts with their labels; ``analyzer`` is passed to the vectoriser."""

    train_text: list
    train_labels: list
    test_text: list
    test_labels: list
    analyzer: dict = field(default_factory=lambda: WORDS)


def data_folder():
    """Return the folder of the data sets; it may not exist."""
    project = Path(__file__).resolve().parents[2]
    return Path(os.environ.get("SKPARSE_DATA", project.parent / "shared" / "data"))


def read_jsonl(folder, name):
    """Return the texts and the labels of one gzipped JSON-lines file below the data folder."""
    try:
        with gzip.open(data_folder() / folder / name, "rt", encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
    except FileNotFoundError:
        raise MissingCorpusError(
            f"no {folder}/{name} in the folder that SKPARSE_DATA names (default ../shared/data)"
        ) from None
    return [row["text"] for row in rows], [row["label"] for row in rows]


def load_folder(name, analyzer=WORDS):
    """Read a set from its own folder."""
    train, test = read_jsonl(name, "train.jsonl.gz"), read_jsonl(name, "test.jsonl.gz")
    return Corpus(*train, *test, analyzer)


def load_20newsgroups(remove=()):
    """Read 20 Newsgroups from the data folder or, without it, scikit-learn's data home."""
    beside = data_folder() / "scikit_learn_data"
    home = beside if beside.is_dir() else None
    try:
        train, test = (
            fetch_20newsgroups(
                data_home=home, subset=subset, remove=remove, download_if_missing=False
            )
            for subset in ("train", "test")
        )
    except OSError:
        raise MissingCorpusError(
            "no copy in SKPARSE_DATA/scikit_learn_data or in scikit-learn's data home "
            "(sklearn.datasets.fetch_20newsgroups() downloads it)"
        ) from None
    return Corpus(train.data, list(train.target), test.data, list(test.target))


def load_api_docs():
    """Load docstrings of numpy, scipy and scikit-learn; a quarter of them is the test part."""
    try:
        from skparse import datasets
    except ImportError as error:
        raise MissingCorpusError(f"skparse.datasets cannot be imported: {error}") from None
    text, labels = datasets.load_api_docs(return_X_y=True)
    train_text, test_text, train_labels, test_labels = train_test_split(
        list(text), list(labels), test_size=0.25, stratify=labels, random_state=0
    )
    return Corpus(train_text, train_labels, test_text, test_labels)


CORPORA = {
    "20newsgroups": load_20newsgroups,
    "20newsgroups-stripped": partial(load_20newsgroups, ("headers", "footers", "quotes")),
    "ag_news": partial(load_folder, "ag_news"),
    "imdb": partial(load_folder, "imdb"),
    "banking77": partial(load_folder, "banking77"),
    "clinc150": partial(load_folder, "clinc150"),
    "r52_raw": partial(load_folder, "r52_raw"),
    "onet_titles": partial(load_folder, "onet_titles"),
    "langid75_lingua": partial(load_folder, "langid75_lingua", CHARACTERS_IN_WORDS),
    "zh_waimai_10k": partial(load_folder, "zh_waimai_10k", CHARACTERS),
    "reuters90": partial(load_folder, "reuters21578_modapte90"),
    "api_docs": load_api_docs,
}
# Short, noisy texts of few, unequal classes, for the most part.
FURTHER_SETS = (
    "astd_arabic",
    "cpv_divisions_fr",
    "dekamer_themes",
    "hate_davidson",
    "indian_legal_roles",
    "nyt_headlines_topics",
    "offenseval2020_turkish",
    "satd_comments",
    "senti4sd_stackoverflow",
    "sms_spam",
    "sst5",
    "subj",
    "trec6",
    "tweeteval_emoji",
    "tweeteval_offensive",
    "umsab_multilingual_sentiment",
)
CORPORA |= {name: partial(load_folder, name) for name in FURTHER_SETS}
