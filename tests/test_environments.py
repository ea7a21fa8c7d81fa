"""Processes as they are started elsewhere: without a cache folder, with a damaged one, forked."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import skparse

FIT = """
import numpy as np
from scipy import sparse
from skparse import SparseExpertClassifier
rng = np.random.RandomState(0)
X = sparse.csr_array(rng.rand(60, 8) * (rng.rand(60, 8) < 0.5))
y = np.arange(60) % 3
model = SparseExpertClassifier(random_state=0{parameters}).fit(X, y)
print(f"{{model.predict_proba(X)[0, 0]:.12f}}")
"""


def start(code, **environment):
    """Start a process; returns `subprocess.Popen`."""
    paths = str(Path(skparse.__file__).parents[1]), os.environ.get("PYTHONPATH", "")
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment},
    )  # fmt: skip


def finish(process):
    """Wait for a process that has to succeed; returns what it wrote to both outputs."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out, err


@pytest.fixture(scope="module")
def filled_cache(tmp_path_factory):
    """Fill a cache folder by two processes at once; returns it with their output."""
    folder = tmp_path_factory.mktemp("cache")
    both = [start(FIT.format(parameters=""), NUMBA_CACHE_DIR=str(folder)) for _ in range(2)]
    outputs = [finish(process)[0] for process in both]
    assert outputs[0] == outputs[1]
    return folder, outputs[0]


def test_two_processes_may_compile_at_once(filled_cache):
    folder, _ = filled_cache
    assert list(folder.rglob("*.nbi")) and list(folder.rglob("*.nbc"))


@pytest.mark.parametrize(("suffix", "content"), [(".nbi", b"not what was written"), (".nbc", b"")])
def test_a_damaged_cache_heals_itself(filled_cache, suffix, content):
    folder, expected = filled_cache
    damaged = list(folder.rglob(f"*{suffix}"))
    for path in damaged:
        path.write_bytes(content)
    out, err = finish(start(FIT.format(parameters=""), NUMBA_CACHE_DIR=str(folder)))
    assert (out, err) == (expected, "")
    assert all(path.read_bytes() != content for path in damaged)


def test_without_a_cache_folder_one_warning_names_the_remedy(
    filled_cache,
):
    # numba looks for a folder by these classes; it has none where no folder can be written.
    no_folder = "from numba.core import caching\ncaching.CacheImpl._locator_classes = []\n"
    out, err = finish(start(no_folder + FIT.format(parameters="")))
    assert out == filled_cache[1]
    assert err.count("RuntimeWarning") == 1 and "NUMBA_CACHE_DIR" in err


def test_without_the_compiler_pytorch_computes_and_numba_is_refused(filled_cache):
    out, _ = finish(start(FIT.format(parameters=""), NUMBA_DISABLE_JIT="1"))
    assert abs(float(out) - float(filled_cache[1])) < 1e-6
    process = start(FIT.format(parameters=", engine='numba'"), NUMBA_DISABLE_JIT="1")
    _, err = process.communicate(timeout=300)
    assert process.returncode != 0
    assert "ImportError" in err and "NUMBA_DISABLE_JIT" in err and "engine='torch'" in err


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_fitted_model_predicts_in_child_processes(method, tmp_path):
    # A script, because a spawned process imports the file of its parent.
    body = "\n".join(f"    {line}" for line in FIT.format(parameters=", n_jobs=2").splitlines())
    script = tmp_path / "script.py"
    script.write_text(
        f"import multiprocessing\nif __name__ == '__main__':{body}\n"
        f"    with multiprocessing.get_context({method!r}).Pool(2) as pool:\n"
        "        parts = pool.map(model.predict_proba, [X[:30], X[30:]])\n"
        "    assert np.array_equal(np.concatenate(parts), model.predict_proba(X))\n"
    )
    finish(start(f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')"))


def test_prewarming_compiles_all_that_a_fit_and_its_predictions_need(tmp_path):
    folder = str(tmp_path / "cache")
    finish(start("from skparse.prewarm import prewarm; prewarm(['f8'])", NUMBA_CACHE_DIR=folder))
    count = (
        "from skparse._engines import numba_engine as engine\n"
        "kernels = [getattr(engine, name) for name in engine.__all__]\n"
        "assert sum(sum(k.stats.cache_misses.values()) for k in kernels) == 0\n"
        "assert sum(sum(k.stats.cache_hits.values()) for k in kernels) >= 3\n"
    )
    finish(start(FIT.format(parameters="") + count, NUMBA_CACHE_DIR=folder))
