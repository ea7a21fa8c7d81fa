"""The Python blocks of the documentation run, and what they print is what is printed there."""

import doctest
import re
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from skparse import SparseExpertClassifier
from skparse.datasets import load_api_docs

DOCS = Path(__file__).resolve().parents[1] / "docs"


def python_blocks(page):
    """Code blocks marked ``python`` (those marked ``py`` need packages that are no test extra)."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(r"^```(?:python|pycon)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def known_names():
    """What blocks of the user guide use without defining it."""
    texts, labels = load_api_docs(return_X_y=True)
    texts, labels = list(texts[::6]), labels[::6]
    vectorizer = TfidfVectorizer(dtype=np.float32)
    X = vectorizer.fit_transform(texts)
    half = len(texts) // 2
    return {
        "SparseExpertClassifier": SparseExpertClassifier,
        "TfidfVectorizer": TfidfVectorizer,
        "np": np,
        "vectorizer": vectorizer,
        "texts": texts,
        "labels": labels,
        "X": X,
        "X_val": X[:50],
        "parts": [(texts[:half], labels[:half]), (texts[half:], labels[half:])],
        "classes": np.unique(labels),
        "classifier": SparseExpertClassifier(random_state=0).fit(X, labels),
    }


@pytest.mark.parametrize("page", ["index.md", "in_production.md", "user_guide.md"])
def test_the_examples_of_a_page_run_and_print_what_it_shows(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mpl.use("agg")
    names, blocks = known_names(), python_blocks(page)
    assert blocks
    for number, block in enumerate(blocks):
        if block.startswith(">>>"):
            test = doctest.DocTestParser().get_doctest(block, names, page, None, number)
            runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
            assert runner.run(test, clear_globs=False).failed == 0
            names.update(test.globs)
        else:
            exec(compile(block, f"{page}, block {number}", "exec"), names)
