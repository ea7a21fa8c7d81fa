"""The Python blocks of the documentation run and print what it shows; links to its pages."""

import doctest
import importlib.util
import re
from email.message import Message
from importlib import metadata
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from skparse import SparseExpertClassifier
from skparse.datasets import load_api_docs
from skparse.feature_extraction import WordVectorVectorizer
from skparse.model_selection import TopKSearchCV

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


@pytest.fixture(scope="module")
def check_site():
    spec = importlib.util.spec_from_file_location("check_site", DOCS / "check_site.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_check_of_the_site_finds_what_is_broken(check_site, tmp_path, monkeypatch):
    monkeypatch.setattr(check_site, "TWO_CLICKS", ["a.html#here", "b.html", "c.html"])
    pages = {
        "index": '<a href="a.html#here"></a><a href="https://elsewhere.invalid"></a>',
        "a": '<p id="here"></p><a href="b.html#:~:text=word"></a><a href="#gone"></a>',
        "b": '<script src="https://elsewhere.invalid/x.js"></script><a href="c.html"></a>',
        "c": '<img src="missing.png">',
    }
    for name, html in pages.items():
        (tmp_path / f"{name}.html").write_text(html)
    assert list(check_site.find_faults(tmp_path)) == [
        "a.html links to #gone, which has no such section",
        "b.html loads https://elsewhere.invalid/x.js",
        "c.html links to missing.png, which does not exist",
        "c.html is not within two clicks",
    ]


ESTIMATORS = {
    "skparse.SparseExpertClassifier": SparseExpertClassifier(),
    "skparse.model_selection.TopKSearchCV": TopKSearchCV(SparseExpertClassifier()),
    "skparse.feature_extraction.WordVectorVectorizer": WordVectorVectorizer("vectors.txt"),
}


@pytest.mark.parametrize(("name", "estimator"), ESTIMATORS.items(), ids=ESTIMATORS)
@pytest.mark.parametrize("address", ["https://skparse.invalid", None])
def test_html_links_to_the_page_of_an_estimator_where_there_is_an_address(
    monkeypatch, name, estimator, address
):
    about = Message()
    about["Project-URL"] = "Source, https://elsewhere.invalid"
    if address:
        about["Project-URL"] = f"Documentation, {address}/"
    monkeypatch.setattr(metadata, "metadata", lambda package: about)
    html = estimator._repr_html_()
    assert (f'href="{address}/generated/{name}.html"' in html) == (address is not None)
    assert "skparse.invalid" in html or "/generated/skparse" not in html
    page = f"{name.rpartition('.')[0]}\n"
    listed = (DOCS / "api.rst").read_text(encoding="utf-8")
    assert f".. module:: {page}" in listed and f"   {name.rpartition('.')[2]}\n" in listed


def test_a_checkout_that_is_not_installed_has_no_address(monkeypatch):
    def missing(package):
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(metadata, "metadata", missing)
    assert SparseExpertClassifier()._get_doc_link() == ""
