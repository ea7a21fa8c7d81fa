"""What to_onnx does where its packages are missing; checks/test_onnx.py has the rest."""

import sys

import pytest

from skparse import SparseExpertClassifier
from skparse.onnx import to_onnx


@pytest.mark.parametrize("package", ["onnx", "skl2onnx"])
def test_a_missing_package_is_an_error_that_names_the_extra(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    model = SparseExpertClassifier().fit([[0.0], [1.0]], [0, 1])
    with pytest.raises(ImportError, match=r'pip install "skparse\[onnx\]"'):
        to_onnx(model)
