"""Public functions and methods are annotated; checks/test_types.py has what mypy makes of it."""

import importlib
import inspect
from pathlib import Path

import pytest

import skparse

MODULES = [
    "skparse", "skparse.datasets", "skparse.feature_extraction", "skparse.inspection",
    "skparse.model_selection", "skparse.nn", "skparse.nn.functional", "skparse.plotting",
]  # fmt: skip
FUNCTIONS = ["skparse.onnx.to_onnx", "skparse.prewarm.prewarm"]


def find(name):
    """Return what a dotted name stands for."""
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def public_names():
    for module in MODULES:
        for name in importlib.import_module(module).__all__:
            if callable(find(f"{module}.{name}")):
                yield f"{module}.{name}"
    yield from FUNCTIONS


def functions_of(public):
    """Return the functions of a public name that are written in the package."""
    if inspect.isfunction(public):
        return [inspect.unwrap(public)]
    members = {}
    for kind in reversed(public.__mro__):
        members |= vars(kind) if kind.__module__.startswith("skparse.") else {}
    functions = []
    for name, member in members.items():
        if name == "__init__" or not name.startswith("_"):
            member = member.fget if isinstance(member, property) else member
            # The function of a class method, and that of what `available_if` returns.
            member = getattr(member, "__func__", getattr(member, "fn", member))
            if inspect.isfunction(member):
                functions.append(inspect.unwrap(member))
    return functions


@pytest.mark.parametrize("name", list(public_names()))
def test_every_parameter_and_result_has_a_type(name):
    functions = list(functions_of(find(name)))
    assert functions or issubclass(find(name), tuple)
    for function in functions:
        signature = inspect.signature(function)
        types = {p: v.annotation for p, v in signature.parameters.items()}
        types["the result"] = signature.return_annotation
        bare = {p for p, kind in types.items() if kind is inspect.Signature.empty}
        assert bare <= {"self", "cls"}, f"{function.__qualname__}: {bare}"


def test_methods_behind_the_decorators_of_scikit_learn_are_looked_at():
    names = {function.__qualname__ for function in functions_of(skparse.SparseExpertClassifier)}
    assert {"SparseExpertClassifier.fit", "SparseExpertClassifier.compress"} <= names
    search = find("skparse.model_selection.TopKSearchCV")
    assert "TopKSearchCV.predict" in {function.__qualname__ for function in functions_of(search)}


def test_type_checkers_are_told_of_the_annotations():
    assert Path(skparse.__file__).with_name("py.typed").exists()
