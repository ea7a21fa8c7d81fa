"""Compiled kernels that are kept on disk are not used after a change of any kernel file.

numba itself notices only a change of the file that a kernel is in.
"""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import skparse
from skparse._engines import numba_engine
from skparse._engines.kernels import options

PACKAGE = Path(skparse.__file__).parent
KERNELS = PACKAGE / "_engines" / "kernels"
FILES = sorted(KERNELS.glob("*.py"))


@pytest.fixture
def copied_package(tmp_path):
    """Return the path of a copy of the package, without compiled code."""
    ignored = shutil.ignore_patterns("__pycache__")
    return Path(shutil.copytree(PACKAGE, tmp_path / "skparse", ignore=ignored))


def replace_once(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), encoding="utf-8")


def route_one_row(package):
    """Route a row that keeps one expert, in another process with its own cache.

    Returns (gate weight, number of kernels that were loaded from the cache).
    """
    code = (
        "import numpy as np\n"
        "from skparse._engines import numba_engine\n"
        "from skparse._engines.arguments import Csr, Routes\n"
        "X = Csr(np.array([0, 1]), np.array([0]), np.ones(1))\n"
        "routes = Routes(np.zeros((1, 1), int), np.zeros((1, 1)), np.zeros(1, int))\n"
        "numba_engine.route(X, np.arange(1), X, np.zeros(1), 1.0, 1, routes)\n"
        "hits = numba_engine.route.stats.cache_hits\n"
        "print(numba_engine.__file__, routes.expert_weights[0, 0], sum(hits.values()))\n"
    )
    cache = package.parent / "cache"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        cwd=package.parent, env={**os.environ, "NUMBA_CACHE_DIR": str(cache)},
    )  # fmt: skip
    file, weight, hits = done.stdout.rsplit(maxsplit=2)
    assert Path(file).is_relative_to(package)
    return float(weight), int(hits)


def test_a_change_in_the_file_of_a_helper_takes_effect(copied_package):
    assert route_one_row(copied_package) == (1.0, 0)
    assert route_one_row(copied_package) == (1.0, 1)
    helpers = copied_package / "_engines" / "kernels" / "selection.py"
    replace_once(helpers, "weights[q] /= total", "weights[q] /= 2 * total")
    assert route_one_row(copied_package) == (0.5, 0)


def test_the_digest_depends_on_every_file_that_kernels_import(copied_package):
    folder = copied_package / "_engines" / "kernels"
    assert options.digest_sources(folder) == options.SOURCE_DIGEST
    digests = [options.SOURCE_DIGEST]
    for path in (*sorted(folder.glob("*.py")), folder.parent / "arguments.py"):
        path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")
        digests.append(options.digest_sources(folder))
    assert len(digests) == len(set(digests)) == len(FILES) + 2


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_kernels_import_only_files_that_the_digest_depends_on(path):
    inside = {file.stem for file in FILES}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert (node.level, node.module) == (2, "arguments") or (
                node.level == 1 and node.module in inside
            )
        elif isinstance(node, ast.ImportFrom):
            assert not node.module.startswith("skparse")
        elif isinstance(node, ast.Import):
            assert not any(alias.name.startswith("skparse") for alias in node.names)


def test_all_that_is_kept_on_disk_is_named_by_the_digest():
    for name in numba_engine.__all__:
        function = getattr(numba_engine, name).py_func
        assert function.__qualname__ == f"{name}_{options.SOURCE_DIGEST}"
    texts = {path.name: path.read_text(encoding="utf-8") for path in FILES}
    caching = {name for name, text in texts.items() if "Cache" in text or "cache=" in text}
    assert caching == {"options.py"}
