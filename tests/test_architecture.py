"""The house keeps its order: who imports whom, what importing costs, how long a file is."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import skparse
from skparse import _numba_engine
from skparse._torch_engine import TorchEngine

PACKAGE = Path(skparse.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
LONGEST_FILE = 450  # lines of code
LONGER_FILES = {"_kernels.py": 500}  # numba's cache on disk sees only the file a kernel is in


def imports_of(path, *, inside_functions=True):
    """Dotted names that a file imports; those of the package begin with "skparse"."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = ("skparse", *path.parent.relative_to(PACKAGE).parts)
    nodes = ast.walk(tree) if inside_functions else iter_module_level(tree)
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) + 1 - node.level]) if node.level else []
            parts = [*base, *([node.module] if node.module else [])]
            names.update(".".join([*parts, alias.name]) for alias in node.names)
    return names


def iter_module_level(node):
    """Nodes that run on import: everything outside of functions."""
    for child in ast.iter_child_nodes(node):
        yield child
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield from iter_module_level(child)


def files_importing(prefix, **options):
    """Names of the files that import a module, a part of it, or a name from it."""
    return {
        path.relative_to(PACKAGE).as_posix()
        for path in FILES
        if any(f"{name}.".startswith(f"{prefix}.") for name in imports_of(path, **options))
    }


def packages_of(name):
    """Top-level packages that a file of the package imports."""
    return {imported.split(".")[0] for imported in imports_of(PACKAGE / name)}


def test_only_the_door_validates_data():
    assert files_importing("sklearn.utils.validation.validate_data") == {"_inputs.py"}


def test_kernels_know_numpy_and_their_compiler_only():
    assert packages_of("_intrinsics.py") == {"numba", "llvmlite"}
    assert packages_of("_kernels.py") == {"numpy", "numba", "skparse"}
    assert packages_of("_embedding_kernels.py") == {"numpy", "numba"}
    assert files_importing("numba") == {"_intrinsics.py", "_kernels.py", "_embedding_kernels.py"}
    assert files_importing("skparse._intrinsics") == {"_kernels.py"}


def test_kernels_stay_behind_their_engine():
    assert files_importing("skparse._kernels") == {"_numba_engine.py"}
    assert files_importing("skparse._embedding_kernels") == {"_numba_engine.py"}
    assert files_importing("skparse._numba_engine") == {"_engines.py"}
    assert files_importing("skparse._numba_engine", inside_functions=False) == set()


def test_both_engines_compute_the_same_functions():
    of_numba = set(_numba_engine.__all__)
    assert of_numba == {name for name in vars(TorchEngine) if not name.startswith("_")}
    assert all(callable(getattr(_numba_engine, name)) for name in of_numba)


def test_the_torch_core_knows_torch_and_numpy_only():
    assert packages_of("_gating.py") <= {"torch", "numpy"}
    assert packages_of("_network.py") <= {"torch", "numpy", "skparse"}
    assert {n for n in imports_of(PACKAGE / "_network.py") if n.startswith("skparse")} == {
        "skparse._gating.keep_top"
    }
    assert packages_of("nn.py") == {"skparse"}


def test_torch_stays_behind_its_engine():
    core = {"_gating.py", "_network.py", "_torch_engine.py", "nn.py"}
    assert files_importing("torch") <= core
    assert files_importing("skparse._network") | files_importing("skparse._gating") <= core
    assert files_importing("skparse._torch_engine") == {"_engines.py"}
    assert files_importing("skparse._torch_engine", inside_functions=False) == set()


def test_engines_are_chosen_in_one_place():
    assert files_importing("skparse._engines") == {"_classifier.py"}


def test_nothing_but_the_front_imports_the_classifier():
    assert files_importing("skparse._classifier") <= {"__init__.py", "model_selection.py"}


def test_training_and_prediction_do_not_know_scikit_learn():
    below_the_door = {path.name for path in FILES if path.parent == PACKAGE} - {
        "__init__.py", "_classifier.py", "_fit_task.py", "_inputs.py", "model_selection.py",
        "inspection.py", "plotting.py",
    }  # fmt: skip
    assert not files_importing("sklearn") & below_the_door


def test_callbacks_are_heard_of_in_one_place():
    assert files_importing("sklearn.callback") == {"_fit_task.py"}


def test_data_sets_stand_alone():
    for path in (PACKAGE / "datasets").glob("*.py"):
        own = {name for name in imports_of(path) if name.startswith("skparse")}
        assert all(name.startswith("skparse.datasets.") for name in own)


@pytest.mark.parametrize("extra", ["matplotlib", "pandas", "polars", "skops"])
def test_extras_are_imported_where_they_are_used(extra):
    assert files_importing(extra, inside_functions=False) == set()


def test_messages_name_extras_that_exist():
    root = PACKAGE.parent
    texts = [path.read_text(encoding="utf-8") for path in [*FILES, *root.glob("examples/*.py")]]
    named = {extra for text in texts for extra in re.findall(r"skparse\[(\w+)\]", text)}
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {"plot", "optuna"} <= named <= set(project["optional-dependencies"])


def test_importing_the_package_loads_neither_torch_nor_matplotlib():
    code = (
        "import sys, skparse, skparse.datasets\n"
        "print(*sorted({'torch', 'matplotlib', 'polars', 'skops'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        cwd=PACKAGE.parent,
    )  # fmt: skip
    assert done.stdout.split() == []


def test_a_fit_on_the_cpu_does_not_load_torch():
    code = (
        "import sys, skparse\n"
        "skparse.SparseExpertClassifier().fit([[0.0], [1.0]], [0, 1]).predict([[1.0]])\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        cwd=PACKAGE.parent,
    )  # fmt: skip
    assert done.stdout.split() == ["False"]


def code_lines(path):
    """Lines that hold code: no blank lines, comments or docstrings."""
    source = path.read_text(encoding="utf-8")
    documented = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            documented.update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    lines = enumerate(source.splitlines(), start=1)
    return [
        line for number, line in lines if number not in documented and line.strip("# ")[:1]
        and not line.lstrip().startswith("#")
    ]  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_file_is_long(path):
    assert len(code_lines(path)) <= LONGER_FILES.get(path.name, LONGEST_FILE)
