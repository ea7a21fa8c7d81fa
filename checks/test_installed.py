"""The installed wheel, run by a user who has no home and cannot write beside the package."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import skparse

pytestmark = [
    pytest.mark.skipif(
        getattr(os, "geteuid", lambda: 1)() != 0,
        reason="only root can start a process as another user",
    ),
    pytest.mark.skipif(
        "site-packages" not in skparse.__file__,
        reason="the package is that of a checkout: install it without -e",
    ),
]

# The interpreter may lie where only root reads: its own modules are loaded before.
BECOME_NOBODY = """
import os, pwd
import numba
import sklearn.utils.estimator_checks
numba.njit(lambda x: x + 1)(1)
account = pwd.getpwnam("nobody")
os.setgroups([])
os.setgid(account.pw_gid)
os.setuid(account.pw_uid)
"""

FIT = """
from skparse import SparseExpertClassifier
from skparse.datasets import make_topic_documents
X, y = make_topic_documents(300, 200, 8, n_classes=4, random_state=0, return_X_y=True)
model = SparseExpertClassifier(random_state=0).fit(X, y)
print(f"{model.predict_proba(X).std():.12f}")
"""


@pytest.fixture
def folder():
    """Return a folder that every user can read and nobody but root can write."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def run(code, *options, **environment):
    """Run code in a new process without a home; returns what it printed, and its warnings."""
    done = subprocess.run(
        [sys.executable, *options, "-c", code], cwd="/", capture_output=True, text=True,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **environment}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_a_user_who_can_write_nowhere_gets_the_same_model_and_one_warning(folder):
    # Code that root has compiled beside the package is read, and then there is no warning.
    has_code = any(Path(skparse.__file__).parent.rglob("*.nbi"))
    out, err = run(BECOME_NOBODY + FIT)
    assert err.count("RuntimeWarning") == err.count("NUMBA_CACHE_DIR") == (not has_code)
    assert out == run(FIT, NUMBA_CACHE_DIR=str(folder))[0]


def test_a_user_with_a_cache_that_root_has_filled_gets_no_warning(folder):
    out, _ = run(FIT, NUMBA_CACHE_DIR=str(folder))
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    code = BECOME_NOBODY + FIT
    assert run(code, "-W", "error", NUMBA_CACHE_DIR=str(folder)) == (out, "")
