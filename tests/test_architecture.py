"""The layout of the package: which file imports which, what importing loads, how long code is."""

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import skparse
from skparse import SparseExpertClassifier
from skparse._engines import numba_engine
from skparse._engines.torch_engine import TorchEngine

PACKAGE = Path(skparse.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
NAMES = [path.relative_to(PACKAGE).as_posix() for path in FILES]
LONGEST_FILE = 400  # lines of code
LONGEST_BODY = 40


def imports_of(path, *, inside_functions=True):
    """Dotted names that a file imports; those of the package begin with "skparse".

    What is imported for type checkers only, or from `_typing`, does not count.
    """
    tree = WithoutTypes().visit(ast.parse(path.read_text(encoding="utf-8")))
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


class WithoutTypes(ast.NodeTransformer):
    """Removes what only type checkers read: ``if TYPE_CHECKING:``, and imports of types."""

    def visit_If(self, node):
        is_for_types = isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        return None if is_for_types else self.generic_visit(node)

    def visit_ImportFrom(self, node):
        return None if node.module == "_typing" else node


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


def test_types_need_numpy_and_scipy_only():
    assert packages_of("_typing.py") == {"collections", "typing", "numpy", "scipy"}


def test_only_validation_validates_arrays():
    assert files_importing("sklearn.utils.validation.validate_data") == {"_validation.py"}


KERNELS = {name for name in NAMES if name.startswith("_engines/kernels/")}


def test_kernels_import_numpy_their_compiler_and_each_other_only():
    for name in KERNELS:
        allowed = {"numpy", "numba", "skparse", "hashlib", "pathlib", "typing", "warnings"}
        assert packages_of(name) <= allowed | ({"llvmlite"} if "intrinsics" in name else set())
        own = {n for n in imports_of(PACKAGE / name) if n.startswith("skparse")}
        assert all(
            n.startswith(("skparse._engines.kernels.", "skparse._engines.arguments.")) for n in own
        )
    assert files_importing("numba") <= KERNELS


def test_kernels_stay_behind_their_engine():
    assert files_importing("skparse._engines.kernels") <= {*KERNELS, "_engines/numba_engine.py"}
    assert files_importing("skparse._engines.numba_engine") == {"_engines/__init__.py"}
    assert files_importing("skparse._engines.numba_engine", inside_functions=False) == set()


def test_both_engines_compute_the_same_functions():
    of_numba = set(numba_engine.__all__)
    assert of_numba == {name for name in vars(TorchEngine) if not name.startswith("_")}
    assert all(callable(getattr(numba_engine, name)) for name in of_numba)


def test_arguments_of_engines_need_numpy_only():
    assert packages_of("_engines/arguments.py") == {"typing", "numpy"}


def test_the_modules_for_pytorch_import_pytorch_and_numpy_only():
    for name in NAMES:
        if name.startswith("nn/"):
            assert packages_of(name) - sys.stdlib_module_names <= {"torch", "numpy", "skparse"}
            own = {n for n in imports_of(PACKAGE / name) if n.startswith("skparse")}
            assert all(n.startswith("skparse.nn.") for n in own)


def test_pytorch_is_imported_by_its_engine_and_its_modules_only():
    engine = {"_engines/torch_engine.py", "_engines/torch_rows.py"}
    core = {name for name in NAMES if name.startswith("nn/")} | engine
    assert files_importing("torch") <= core
    assert files_importing("skparse.nn") <= core
    assert files_importing("skparse._engines.torch_engine") == {"_engines/__init__.py"}
    assert files_importing("skparse._engines.torch_rows") == {"_engines/torch_engine.py"}
    assert files_importing("skparse._engines.torch_engine", inside_functions=False) == set()


# run what stages run, on partitions
ON_WORKERS = {"dask/_held_out.py", "dask/_low_rank.py", "dask/_rounds.py"}


def test_engines_are_chosen_by_the_estimator_and_on_workers_only():
    estimator = {"_classifier.py", "_stream_fit.py"}
    assert files_importing("skparse._engines.get_engine") == estimator | ON_WORKERS


def test_only_the_package_imports_the_classifier():
    assert files_importing("skparse._classifier") == {"__init__.py"}


def test_dask_is_imported_where_collections_are_read_only():
    for package in ("dask", "distributed"):
        assert files_importing(package) == set()  # `import_dask` imports it by name
    assert files_importing("skparse.dask._collections.import_dask") == {"dask/_estimator.py"}


def test_recipes_are_imported_by_the_estimator_only():
    assert files_importing("skparse._training.recipes") == {"_classifier.py"}
    stages = {name for name in NAMES if name.startswith(("_training/", "dask/"))}
    assert files_importing("skparse._training") <= stages | {
        "_classifier.py", "_fit_options.py", "_stream_fit.py",
    }  # fmt: skip


def test_training_and_prediction_do_not_import_scikit_learn():
    at_the_front = {
        "__init__.py", "_classifier.py", "_fit_task.py", "_pipeline.py", "_stream_fit.py",
        "_top_k_choice.py", "_validation.py", "dask/_estimator.py", "model_selection.py",
        "onnx.py",
    }  # fmt: skip
    outside = ("datasets/", "feature_extraction/", "inspection/", "plotting/")
    below = {n for n in NAMES if not n.startswith(outside)} - at_the_front
    assert not files_importing("sklearn") & below


def test_only_one_file_imports_callbacks():
    assert files_importing("sklearn.callback") == {"_fit_task.py"}


def test_data_sets_import_nothing_else_of_the_package():
    for path in (PACKAGE / "datasets").glob("*.py"):
        own = {name for name in imports_of(path) if name.startswith("skparse")}
        assert all(name.startswith("skparse.datasets.") for name in own)


def test_feature_extraction_imports_nothing_else_of_the_package():
    for path in (PACKAGE / "feature_extraction").glob("*.py"):
        own = {name for name in imports_of(path) if name.startswith("skparse")}
        own -= {"skparse._documentation.DocumentedMixin"}
        assert all(name.startswith("skparse.feature_extraction.") for name in own)
    assert packages_of("_documentation.py") == {"importlib"}
    assert files_importing("skparse.feature_extraction") <= {
        path.relative_to(PACKAGE).as_posix()
        for path in (PACKAGE / "feature_extraction").glob("*.py")
    }


@pytest.mark.parametrize(
    "extra",
    ["dask", "distributed", "matplotlib", "onnx", "pandas", "polars", "skl2onnx", "skops"],
)
def test_extras_are_imported_where_they_are_used(extra):
    assert files_importing(extra, inside_functions=False) == set()


def test_messages_name_extras_that_exist():
    root = PACKAGE.parent
    texts = [path.read_text(encoding="utf-8") for path in [*FILES, *root.glob("examples/**/*.py")]]
    named = {extra for text in texts for extra in re.findall(r"skparse\[(\w+)\]", text)}
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {"onnx", "plot", "optuna"} <= named <= set(project["optional-dependencies"])


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


def code_lines(source):
    """Numbers of the lines that hold code: no blank lines, comments or docstrings."""
    documented = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            documented.update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return [
        number
        for number, line in enumerate(source.splitlines(), start=1)
        if number not in documented and line.strip() and not line.lstrip().startswith("#")
    ]


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_no_file_is_long(path):
    assert len(code_lines(path.read_text(encoding="utf-8"))) <= LONGEST_FILE


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_no_function_body_is_long(path):
    source = path.read_text(encoding="utf-8")
    numbers = code_lines(source)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            inside = range(node.body[0].lineno, node.end_lineno + 1)
            n_lines = sum(number in inside for number in numbers)
            assert n_lines <= LONGEST_BODY, f"{node.name} has {n_lines} lines"


def load_script(name):
    """Import a script of the benchmarks."""
    path = PACKAGE.parent / "examples" / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


counting = load_script("count_calls")


@pytest.mark.parametrize("name", [*counting.PROBLEMS, counting.DENSE])
def test_a_fit_and_a_prediction_pass_through_few_functions(name):
    X, y = counting.make_problem(name)
    model = SparseExpertClassifier(random_state=0)
    fit, predict = counting.count(skparse, model, "predict_proba", X, y)
    assert len(fit.functions) <= 100 and fit.depth <= 12
    assert len(predict.functions) <= 18 and predict.depth <= 5
    epoch = "dense_epoch" if name == counting.DENSE else "linear_epoch"
    assert any(epoch in function for _, function in fit.functions)
