"""The annotations, as mypy reads them in the scripts of users.

Needs mypy: pip install -c constraints.txt -e ".[checks]"
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("typed_user.py")

# Packages without types: what a user of them has in the own configuration.
CONFIGURATION = """
[mypy]
[mypy-pandas.*,scipy.*,sklearn.*]
ignore_missing_imports = true
"""

WRONG = """
from skparse import SparseExpertClassifier
from skparse.inspection import explain
from skparse.model_selection import TopKSearchCV
from skparse.nn import SparseExpertFeedForward

SparseExpertClassifier(top_k="many")
SparseExpertClassifier(engine="cuda")
SparseExpertClassifier().fit([[0.0], [1.0]])
label: str = SparseExpertClassifier().predict([[0.0]])
TopKSearchCV(SparseExpertClassifier(), selection="largest")
explain(SparseExpertClassifier(), ["a text"])[0].probabilities
SparseExpertFeedForward(8, 16, router="sparse")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder away from the sources, where mypy reads the installed package."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "mypy.ini").write_text(CONFIGURATION)
    return folder


def run_mypy(folder, script):
    return subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", script],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_strict_user_has_no_error(folder):
    shutil.copy(SCRIPT, folder)
    done = run_mypy(folder, SCRIPT.name)
    assert done.returncode == 0, done.stdout
    assert "Success: no issues found in 1 source file" in done.stdout


def test_wrong_arguments_are_found(folder):
    (folder / "wrong.py").write_text(WRONG)
    done = run_mypy(folder, "wrong.py")
    found = [int(line.split(":")[1]) for line in done.stdout.splitlines() if ": error:" in line]
    assert found == list(range(7, 14)), done.stdout


def test_the_script_of_the_strict_user_runs(tmp_path):
    pytest.importorskip("skl2onnx")
    done = subprocess.run(
        [sys.executable, SCRIPT], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "model.onnx").exists()
