"""The API documentation as a data set: what it holds, and that it needs no network."""

import gzip
import json
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

from skparse.datasets import _api_docs, load_api_docs
from skparse.datasets._docstrings import (
    Docstring,
    module_tails,
    plain_description,
    read_docstrings,
)

FAKE_SOURCES = {
    "__init__.py": "raise RuntimeError('imported')",
    "pipeline.py": "def chain():\n    'Chain steps.'\n\ndef _hidden():\n    'Hidden.'\n",
    "stats/_stats_py.py": (
        "import missing_module\n"
        "class Law:\n    'A law.'\n    def pdf(self):\n        'Density.'\n"
        "    def __call__(self):\n        'Call.'\n    def undocumented(self):\n        pass\n"
    ),
    "stats/distributions.py": "async def draw():\n    '''Draw.\n\n    More.\n    '''\n",
    "_core/_array.py": (
        "add_newdoc('fakepackage._core', 'array', 'Make an array.')\n"
        "add_newdoc('fakepackage._core', 'ndarray', ('sort', 'Sort in place.'))\n"
        "add_newdoc('_secret', 'Not public.')\nadd_newdoc(name, 'Unknown.')\n"
    ),
    "sparse/linalg/_solve/direct.py": "def solve():\n    r'Solve \\d.'\n",
    "sparse/linalg/_solve/escape.py": "def escape():\n    'Not raw \\d.'\n",
    "stats/tests/test_law.py": "def test_law():\n    'A test.'\n",
    "stats/test_inline.py": "def test_inline():\n    'A test.'\n",
    "externals/vendored.py": "def vendored():\n    'Somebody else wrote this.'\n",
}

FAKE_NAMES = [
    "fakepackage.array",
    "fakepackage.ndarray.sort",
    "fakepackage.pipeline.chain",
    "fakepackage.sparse.linalg.solve",
    "fakepackage.sparse.linalg.escape",
    "fakepackage.stats.Law",
    "fakepackage.stats.Law.pdf",
    "fakepackage.stats.draw",
]


@pytest.fixture
def fake_package(tmp_path, monkeypatch):
    for name, source in FAKE_SOURCES.items():
        path = tmp_path / "fakepackage" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return "fakepackage"


@pytest.fixture
def parsed_packages(monkeypatch):
    """Replace the parsing by a few given docstrings; returns the packages that were read."""
    calls = []

    def read(package):
        calls.append(package)
        words = "the quick brown fox jumps over one lazy dog number"
        return [
            Docstring(f"{package}.{module}.f{i}", f"{package}.{module}", f"{words} {module} {i}")
            for module, count in (("large", 60), ("small", 3))
            for i in range(count)
            if package == "scipy"
        ]

    monkeypatch.setattr(_api_docs, "read_docstrings", read)
    return calls


@pytest.fixture(scope="module")
def data_home(tmp_path_factory):
    return tmp_path_factory.mktemp("data_home")


@pytest.fixture(scope="module")
def api_docs(data_home):
    return load_api_docs(data_home=data_home)


def describe(text, modules=("scipy.stats", "scipy.sparse", "scipy.sparse.linalg", "numpy")):
    return plain_description(text, module_tails(modules))


# --- reading docstrings ---------------------------------------------------------------------


def test_docstrings_are_read_without_importing_anything(fake_package):
    assert read_docstrings(fake_package)
    assert fake_package not in sys.modules


def test_docstrings_are_those_of_public_objects_under_their_public_module(fake_package):
    docstrings = read_docstrings(fake_package)
    assert [docstring.name for docstring in docstrings] == FAKE_NAMES
    assert all(name.startswith(module + ".") for name, module, _ in docstrings)
    assert {docstring.module for docstring in docstrings} == {
        "fakepackage",
        "fakepackage.pipeline",
        "fakepackage.sparse.linalg",
        "fakepackage.stats",
    }
    assert docstrings[-1].text == "Draw.\n\nMore."


def test_docstrings_come_in_the_same_order_from_any_file_system(fake_package, monkeypatch):
    expected = read_docstrings(fake_package)
    walk = os.walk

    def walk_backwards(top):
        for folder, subfolders, files in walk(top):
            subfolders.sort(reverse=True)
            yield folder, subfolders, sorted(files, reverse=True)

    monkeypatch.setattr(os, "walk", walk_backwards)
    assert read_docstrings(fake_package) == expected


def test_a_missing_package_is_named_in_the_error():
    with pytest.raises(ModuleNotFoundError, match="'no_such_package'"):
        read_docstrings("no_such_package")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("See scipy.stats.norm.pdf now.", "See norm.pdf now."),
        ("Defined in `scipy.stats`.", "Defined in ``."),
        ("Uses :func:`~scipy.sparse.linalg.eigs`.", "Uses :func:`~eigs`."),
        ("Uses sparse.linalg.eigs and np.sum.", "Uses eigs and sum."),
        ("NumPy, SciPy and scikit-learn agree.", ",  and  agree."),
        ("Read the :ref:`User Guide <stats>`.", "Read the User Guide."),
        ("See :ref:`stats` and :mod:`stats`.", "See  and ."),
        ("See https://docs.example.org/stats.html here.", "See  here."),
        ("Text.\n\nfrom scipy import stats\nimport numpy as np", "Text."),
        ("Text.\n\n.. currentmodule:: scipy.stats\n\n\n\nEnd.", "Text.\n\nEnd."),
        ("%(before_notes)s A law.", "A law."),
        ("Text.\n\n>>> norm(2)\n3\n\nEnd.", "Text.\n\nEnd."),
        ("Text.\n\nExamples\n--------\nA b.\n\n>>> c\n\nD.\n\nNotes\n-----\nE.", None),
        ("Text.\n\nNotes\n-----\nE.\n\nExamples\n--------\nA b.\n\n>>> c\n\nD.", None),
        ("The weight 0.5 of self.stats, e.g. ratio.", "The weight 0.5 of self.stats, e.g. ratio."),
    ],
)
def test_a_description_does_not_tell_where_its_object_lives(text, expected):
    assert describe(text) == (expected or "Text.\n\nNotes\n-----\nE.")


# --- load_api_docs --------------------------------------------------------------------------


def test_api_docs_hold_texts_labels_and_names_that_agree(api_docs):
    n_samples = len(api_docs.data)
    assert n_samples > 1000
    assert len(api_docs.names) == n_samples
    assert api_docs.target.shape == (n_samples,)
    assert api_docs.target.dtype == np.int64
    assert all(isinstance(text, str) for text in api_docs.data)
    assert list(api_docs.target_names) == sorted(api_docs.target_names)
    assert {"numpy", "numpy.ma", "scipy.stats", "sklearn.metrics"} <= set(api_docs.target_names)
    labels = api_docs.target_names[api_docs.target]
    wrong = [
        name
        for name, label in zip(api_docs.names, labels, strict=True)
        if not name.startswith(label + ".")
    ]
    assert wrong == []
    assert f"Number of samples: {n_samples}" in api_docs.DESCR


def test_api_docs_know_objects_written_in_python_and_in_c(api_docs):
    names = {"scipy.stats.ttest_ind", "sklearn.linear_model.Ridge.fit", "numpy.zeros"}
    assert names <= set(api_docs.names)


def test_api_docs_texts_do_not_name_their_module(api_docs):
    paths = [re.escape(name) for name in api_docs.target_names if "." in name]
    giveaway = re.compile(rf"(?:numpy|scipy|sklearn)\.|\b(?:{'|'.join(paths)})\b|>>>")
    assert [text for text in api_docs.data if giveaway.search(text)] == []


def test_api_docs_texts_differ_and_have_words(api_docs):
    assert len({" ".join(text.lower().split()) for text in api_docs.data}) == len(api_docs.data)
    assert min(len(re.findall(r"\w\w+", text)) for text in api_docs.data) >= 10


def test_api_docs_can_be_learned_by_a_linear_model(api_docs):
    train, test, y_train, y_test = train_test_split(
        api_docs.data, api_docs.target, stratify=api_docs.target, random_state=0
    )
    model = make_pipeline(TfidfVectorizer(sublinear_tf=True, min_df=2), LinearSVC())
    accuracy = model.fit(train, y_train).score(test, y_test)
    assert accuracy > 0.8
    assert accuracy > 3 * np.bincount(y_test).max() / len(y_test)


def test_api_docs_from_the_cache_are_those_from_the_sources(api_docs, data_home, monkeypatch):
    def fail(package):
        raise AssertionError(f"{package} was parsed again")

    monkeypatch.setattr(_api_docs, "read_docstrings", fail)
    cached = load_api_docs(data_home=str(data_home))
    assert cached.data == api_docs.data
    assert cached.names == api_docs.names
    assert_array_equal(cached.target, api_docs.target)
    assert_array_equal(cached.target_names, api_docs.target_names)
    data, target = load_api_docs(data_home=data_home, return_X_y=True)
    assert data == api_docs.data
    assert_array_equal(target, api_docs.target)


def test_api_docs_leave_small_classes_out(api_docs, data_home):
    larger = load_api_docs(data_home=data_home, min_samples_per_class=150)
    smaller = load_api_docs(data_home=data_home, min_samples_per_class=20)
    assert np.bincount(larger.target).min() >= 150
    assert np.bincount(api_docs.target).min() >= 50
    assert np.bincount(smaller.target).min() >= 20
    assert set(larger.target_names) < set(api_docs.target_names) < set(smaller.target_names)
    kept = [
        name
        for name, code in zip(api_docs.names, api_docs.target, strict=True)
        if api_docs.target_names[code] in larger.target_names
    ]
    assert larger.names == kept


def test_api_docs_without_a_large_enough_class_raise(tmp_path, parsed_packages):
    with pytest.raises(ValueError, match="min_samples_per_class=61 leaves no class.* 60 samples"):
        load_api_docs(data_home=tmp_path, min_samples_per_class=61)


@pytest.mark.parametrize(
    "parameters",
    [
        {"min_samples_per_class": 0},
        {"min_samples_per_class": 2.5},
        {"return_X_y": "yes"},
        {"data_home": 3},
    ],
)
def test_api_docs_name_the_bad_parameter(parameters):
    (name,) = parameters
    with pytest.raises(ValueError, match=f"'{name}' parameter of load_api_docs"):
        load_api_docs(**parameters)


def test_the_same_text_counts_once_and_not_at_all_in_two_modules(tmp_path, monkeypatch):
    shared = "these ten words can be read in more than one module"
    docstrings = [
        Docstring("scipy.a.f", "scipy.a", shared),
        Docstring("scipy.b.f", "scipy.b", shared.capitalize()),
        Docstring("scipy.a.g", "scipy.a", shared + " here"),
        Docstring("scipy.a.h", "scipy.a", shared + "\n   here"),
        Docstring("scipy.a.i", "scipy.a", "too short"),
    ]
    monkeypatch.setattr(_api_docs, "read_docstrings", lambda p: docstrings * (p == "scipy"))
    assert load_api_docs(data_home=tmp_path, min_samples_per_class=1).names == ["scipy.a.g"]


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"not gzip at all",
        gzip.compress(b'[["scipy.large.f0", "scipy.large", "a tex')[:-4],
        gzip.compress(b'[["scipy.large.f0", "scipy.large", "a tex'),
        gzip.compress(b"\xff\xfe"),
        gzip.compress(json.dumps({"data": [1]}).encode()),
        gzip.compress(json.dumps([["name", "module", 3]]).encode()),
        gzip.compress(json.dumps([1, 2]).encode()),
    ],
    ids=[
        "empty", "no gzip", "cut gzip", "cut json", "no text", "no list", "wrong types", "no rows",
    ],
)  # fmt: skip
def test_a_damaged_cache_is_rebuilt(damaged, tmp_path, parsed_packages):
    expected = load_api_docs(data_home=tmp_path)
    (path,) = tmp_path.iterdir()
    intact = path.read_bytes()
    path.write_bytes(damaged)
    parsed_packages.clear()
    assert load_api_docs(data_home=tmp_path).data == expected.data
    assert parsed_packages == ["numpy", "scipy", "sklearn"]
    assert [each.read_bytes() for each in tmp_path.iterdir()] == [intact]


def test_the_cache_file_is_named_after_what_it_depends_on(tmp_path, parsed_packages, monkeypatch):
    monkeypatch.setattr(_api_docs.scipy, "__version__", "0.0.7")
    load_api_docs(data_home=tmp_path)
    (path,) = tmp_path.iterdir()
    assert "-scipy-0.0.7-" in path.name
    monkeypatch.setattr(_api_docs.scipy, "__version__", "0.0.8")
    load_api_docs(data_home=tmp_path)
    assert len(parsed_packages) == 6
    assert len(list(tmp_path.iterdir())) == 2


def test_a_data_home_that_cannot_be_made_only_costs_the_cache(tmp_path, parsed_packages):
    (tmp_path / "file").touch()
    bunch = load_api_docs(data_home=tmp_path / "file" / "home")
    assert len(bunch.data) == 60
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_data_home_that_cannot_be_written_only_costs_the_cache(tmp_path, parsed_packages):
    load_api_docs(data_home=tmp_path)
    (path,) = tmp_path.iterdir()
    path.unlink()
    path.mkdir()  # in the way: neither readable as a file nor replaceable by one
    assert len(load_api_docs(data_home=tmp_path).data) == 60
    assert list(tmp_path.iterdir()) == [path]
    assert list(path.iterdir()) == []


def test_a_read_only_data_home_only_costs_the_cache(tmp_path, parsed_packages):
    tmp_path.chmod(0o500)
    try:
        if os.access(tmp_path, os.W_OK):
            pytest.skip("this user may write to read-only folders")
        assert len(load_api_docs(data_home=tmp_path).data) == 60
        assert list(tmp_path.iterdir()) == []
    finally:
        tmp_path.chmod(0o700)


def test_callers_at_the_same_time_all_get_the_whole_set(tmp_path, parsed_packages):
    with ThreadPoolExecutor(8) as pool:
        bunches = list(pool.map(lambda _: load_api_docs(data_home=tmp_path), range(24)))
    assert all(bunch.data == bunches[0].data for bunch in bunches)
    assert len(list(tmp_path.iterdir())) == 1
