"""Read the docstrings of installed packages from their sources, without importing them."""

import ast
import os
import re
import warnings
from importlib.util import find_spec
from inspect import cleandoc
from pathlib import Path
from typing import NamedTuple

# Tests, build scripts, vendored code and private code.
_SKIPPED = frozenset(
    "conftest distutils externals setup tests "
    "_build_utils _examples _external _lib _loss _precompute _typing".split()
)
# Folders whose objects the package publishes one level up.
_PUBLISHED_ABOVE = frozenset({"numpy.core", "numpy.lib", "numpy.matrixlib"})

_EXAMPLES = re.compile(
    r"^Examples?[ \t]*\n-{3,}[ \t]*\n.*?(?=^\S[^\n]*\n-{3,}[ \t]*$|\Z)",
    re.MULTILINE | re.DOTALL,
)
_DOCTEST = re.compile(r"^[ \t]*>>>.*?(?=^[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
_LINE_NAMING_A_MODULE = re.compile(
    r"^[ \t]*(?:from[ \t]+[\w.]+[ \t]+import\b|import[ \t]+[\w.]+|\.\. (?:current)?module::).*$",
    re.MULTILINE,
)
_TITLED_REFERENCE = re.compile(r":(?:ref|doc):`([^`<]*?)\s*<[^`>]*>`", re.DOTALL)
_UNTITLED_REFERENCE = re.compile(r":(?:ref|doc|mod|py:mod):`[^`]*`", re.DOTALL)
_PLACEHOLDER_OR_URL = re.compile(r"%\(\w+\)s|https?://[^\s>`]+")
_PACKAGES = frozenset({"np", "numpy", "scipy", "sklearn"})
_DOTTED_NAME = re.compile(r"(?<![\w.])[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")
_PACKAGE_WORD = re.compile(r"\b(?:numpy|scipy|sklearn|scikit-learn)\b", re.IGNORECASE)
_TRAILING_BLANKS = re.compile(r"[ \t]+$", re.MULTILINE)
_BLANK_LINES = re.compile(r"\n{3,}")


class Docstring(NamedTuple):
    """One documented object of a package."""

    name: str  # public module and name inside it, "scipy.stats.rv_continuous.pdf"
    module: str  # public module, "scipy.stats"
    text: str  # the docstring, dedented, otherwise as written


def read_docstrings(package):
    """List the docstrings of the public functions, classes and methods of a package.

    Nothing is imported: `find_spec` only locates a top-level package, and the sources are parsed.

    Parameters
    ----------
    package : str
        Name of an installed top-level package.

    Returns
    -------
    docstrings : list of Docstring
        Sorted by source path, then by name.
    """
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"package {package!r} has no source folder on sys.path")
    root = Path(spec.origin).parent
    docstrings = []
    for path in _source_files(root):
        module = _public_module((package, *path.relative_to(root).with_suffix("").parts))
        for name, doc in sorted(_documented_objects(_parse(path).body)):
            docstrings.append(Docstring(f"{module}.{name}", module, cleandoc(doc)))
    return docstrings


def _source_files(root):
    """List the Python files under a folder, in an order independent of the file system."""
    files = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in _SKIPPED]
        files += [
            Path(folder, name)
            for name in names
            if name.endswith(".py") and name[:-3] not in _SKIPPED and not name.startswith("test_")
        ]
    return sorted(files, key=lambda path: path.relative_to(root).parts)


def _public_module(parts):
    """Return the public module of the objects that a source file defines, from its parts."""
    public = [parts[0]]
    for part in parts[1:-1] if len(parts) > 2 else parts[1:]:
        if part.startswith("_") or f"{public[0]}.{part}" in _PUBLISHED_ABOVE:
            break
        public.append(part)
    return ".".join(public)


def _parse(path):
    with warnings.catch_warnings():
        # A warning about an escape sequence in other packages is of no use to the caller.
        warnings.simplefilter("ignore")
        return ast.parse(path.read_bytes())


def _documented_objects(body, prefix=""):
    """Yield (name, docstring) of the public objects that a module or class body defines."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if node.name.startswith("_"):
                continue
            doc = ast.get_docstring(node, clean=False)
            if doc is not None:
                yield prefix + node.name, doc
            if isinstance(node, ast.ClassDef):
                yield from _documented_objects(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield from _added_docstring(node.value)


def _added_docstring(call):
    """Yield the docstring that an ``add_newdoc`` call gives to an object written in C."""
    if getattr(call.func, "id", None) != "add_newdoc":
        return
    try:
        *names, doc = (ast.literal_eval(argument) for argument in call.args)
    except ValueError:
        return
    names = names[-1:]
    if isinstance(doc, tuple):
        names, doc = [*names, doc[0]], doc[1]
    if all(isinstance(name, str) and not name.startswith("_") for name in names):
        yield ".".join(names), doc


def module_tails(modules):
    """Return the module names without their package: "scipy.stats" as ("stats",)."""
    return {tuple(module.split(".")[1:]) for module in modules} - {()}


def plain_description(text, tails):
    """Reduce a docstring to the description of its object, without the name of its module.

    Parameters
    ----------
    text : str
        A docstring.
    tails : set of tuple of str
        The modules to remove from dotted names, from `module_tails`.

    Returns
    -------
    description : str
    """
    text = _EXAMPLES.sub("", text)
    text = _DOCTEST.sub("", text)
    text = _LINE_NAMING_A_MODULE.sub("", text)
    text = _TITLED_REFERENCE.sub(r"\1", text)
    text = _UNTITLED_REFERENCE.sub("", text)
    text = _PLACEHOLDER_OR_URL.sub("", text)
    text = _DOTTED_NAME.sub(lambda match: _inner_name(match.group(), tails), text)
    text = _PACKAGE_WORD.sub("", text)
    return _BLANK_LINES.sub("\n\n", _TRAILING_BLANKS.sub("", text)).strip()


def _inner_name(dotted, tails):
    """Drop the module from a dotted name: "scipy.stats.norm.pdf" becomes "norm.pdf"."""
    parts = tuple(dotted.split("."))
    if parts[0].lower() in _PACKAGES:
        parts = parts[1:]
    while leading := [tail for tail in tails if parts[: len(tail)] == tail]:
        parts = parts[max(map(len, leading)) :]
    return ".".join(parts)
