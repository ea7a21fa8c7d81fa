"""A real text set from installed packages: API documentation, labelled by module."""

import gzip
import json
import os
import re
import secrets
import zlib
from collections import defaultdict
from contextlib import suppress
from numbers import Integral
from pathlib import Path
from typing import Literal, overload

import numpy as np
import scipy
import sklearn
from sklearn.datasets import get_data_home
from sklearn.utils import Bunch
from sklearn.utils._param_validation import Interval, validate_params

from .._typing import Array, typed
from ._docstrings import Docstring, module_tails, plain_description, read_docstrings

_PACKAGES = ("numpy", "scipy", "sklearn")
_MIN_WORDS = 10
_WORD = re.compile(r"\b\w\w+\b")
_CACHE_FORMAT = 1  # increase it when the same sources would give other content

_DESCR = """\
API documentation of NumPy, SciPy and scikit-learn
--------------------------------------------------

The docstrings of the functions, classes and methods of NumPy {numpy}, SciPy {scipy} and
scikit-learn {sklearn}, as installed. The task is to name the public module that an object
belongs to, from the prose of its docstring.

:Number of samples: {n_samples}
:Number of classes: {n_classes}, of {smallest} to {largest} samples

A class is a public subpackage, or a public module directly below the package. All objects that
are defined in its files belong to it. Text that would reveal the class is removed: the Examples
section and other doctests, import lines, ``currentmodule`` directives, targets of
cross-references, addresses, the module part of dotted names ("scipy.stats.norm" becomes "norm")
and the names of the packages. Left out are tests, vendored code and private objects, texts of
fewer than {min_words} words, repetitions of a text, texts that occur in several classes, and
objects whose docstrings are not in Python sources (``numpy.random``).

Docstrings of sibling functions are often nearly equal, so the accuracies on a random split are
too high for unseen modules. They are comparable between models.
"""


@overload
def load_api_docs(
    *,
    data_home: str | os.PathLike[str] | None = None,
    min_samples_per_class: int = 50,
    return_X_y: Literal[False] = False,
) -> Bunch: ...


@overload
def load_api_docs(
    *,
    data_home: str | os.PathLike[str] | None = None,
    min_samples_per_class: int = 50,
    return_X_y: Literal[True],
) -> tuple[list[str], Array]: ...


@typed(
    validate_params(
        {
            "data_home": [str, os.PathLike, None],
            "min_samples_per_class": [Interval(Integral, 1, None, closed="left")],
            "return_X_y": ["boolean"],
        },
        prefer_skip_nested_validation=True,
    )
)
def load_api_docs(
    *,
    data_home: str | os.PathLike[str] | None = None,
    min_samples_per_class: int = 50,
    return_X_y: bool = False,
) -> Bunch | tuple[list[str], Array]:
    """Load the API documentation of NumPy, SciPy and scikit-learn (classification).

    The texts are the docstrings of the functions, classes and methods of the three packages as
    they are installed. The classes are public modules ("scipy.stats", "sklearn.metrics").
    Nothing is downloaded: the sources are parsed, without importing them. Text that would reveal
    the module (examples, imports, dotted names) is removed; `DESCR` has the details.

    The content depends on the installed versions only. Samples are sorted by source path, so
    shuffle before you split. The first call takes seconds and stores its result in scikit-learn's
    data home. If that folder cannot be read or written, every call parses again.

    Parameters
    ----------
    data_home : str or path-like, default=None
        Folder of the cache file, see :func:`sklearn.datasets.get_data_home`.

    min_samples_per_class : int, default=50
        Modules with fewer texts are left out.

    return_X_y : bool, default=False
        If True, return ``(data, target)`` instead of a Bunch.

    Returns
    -------
    bunch : :class:`~sklearn.utils.Bunch`
        Dictionary-like object, with the following attributes.

        data : list of str of length n_samples
            The texts.
        target : ndarray of shape (n_samples,), dtype int64
            The class of each text, as a position in `target_names`:
            ``target_names[target]`` are the labels as strings.
        target_names : ndarray of shape (n_classes,), dtype str
            The public modules, sorted.
        names : list of str of length n_samples
            Module and name of the object that each text describes.
        DESCR : str
            The description of the data set.

    (data, target) : tuple if ``return_X_y`` is True
        The first two of these attributes.

    Raises
    ------
    ValueError
        If no module has `min_samples_per_class` texts.

    Examples
    --------
    >>> from skparse.datasets import load_api_docs
    >>> docs = load_api_docs(min_samples_per_class=100)
    >>> "scipy.stats" in docs.target_names
    True
    >>> len(docs.data) == len(docs.target) == len(docs.names)
    True
    """
    docstrings = _cached_docstrings(data_home)
    modules, codes, counts = np.unique(
        [docstring.module for docstring in docstrings], return_inverse=True, return_counts=True
    )
    kept = counts >= min_samples_per_class
    if not kept.any():
        raise ValueError(
            f"min_samples_per_class={min_samples_per_class} leaves no class: the largest has "
            f"{counts.max(initial=0)} samples"
        )
    rows = np.flatnonzero(kept[codes])
    data = [docstrings[row].text for row in rows]
    target = (np.cumsum(kept) - 1)[codes[rows]].astype(np.int64)
    if return_X_y:
        return data, target
    return Bunch(
        data=data,
        target=target,
        target_names=modules[kept],
        names=[docstrings[row].name for row in rows],
        DESCR=_description(counts[kept]),
    )


def _description(counts):
    return _DESCR.format(
        **_versions(),
        n_samples=counts.sum(),
        n_classes=len(counts),
        smallest=counts.min(),
        largest=counts.max(),
        min_words=_MIN_WORDS,
    )


def _versions():
    return {module.__name__: module.__version__ for module in (np, scipy, sklearn)}


def _cached_docstrings(data_home):
    """Read the described docstrings of every class from the cache, or parse and cache them."""
    versions = "-".join(f"{name}-{version}" for name, version in _versions().items())
    try:
        folder = get_data_home(data_home)
    except OSError:
        return _described_docstrings(_PACKAGES)
    path = Path(folder, f"skparse-api-docs-{_CACHE_FORMAT}-{versions}.json.gz")
    docstrings = _read_cache(path)
    if docstrings is None:
        docstrings = _described_docstrings(_PACKAGES)
        _write_cache(path, docstrings)
    return docstrings


def _described_docstrings(packages):
    """Parse the packages and keep the descriptions that are long enough and unambiguous."""
    docstrings = [docstring for package in packages for docstring in read_docstrings(package)]
    tails = module_tails(docstring.module for docstring in docstrings)
    described = (
        docstring._replace(text=plain_description(docstring.text, tails))
        for docstring in docstrings
    )
    return _unambiguous(
        [each for each in described if len(_WORD.findall(each.text)) >= _MIN_WORDS]
    )


def _unambiguous(docstrings):
    """Keep the first of equal texts, and none of them if their modules differ."""
    equal = defaultdict(list)
    for docstring in docstrings:
        equal[" ".join(docstring.text.lower().split())].append(docstring)
    return [
        group[0] for group in equal.values() if len({docstring.module for docstring in group}) == 1
    ]


def _read_cache(path):
    """Return the cached docstrings, or None if the file is missing or damaged."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") as stream:
            docstrings = [Docstring(*fields) for fields in json.load(stream)]
    except (OSError, EOFError, ValueError, TypeError, zlib.error):
        return None
    if not all(isinstance(field, str) for docstring in docstrings for field in docstring):
        return None
    return docstrings


def _write_cache(path, docstrings):
    """Write the cache atomically: other processes see all of it or nothing."""
    partial = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
    content = gzip.compress(json.dumps(docstrings).encode(), mtime=0)
    with suppress(OSError):
        try:
            partial.write_bytes(content)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
