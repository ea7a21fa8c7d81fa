"""Examples that no other test runs, shortened."""

import os
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def test_the_translation_of_number_words_runs_and_prints_all_models():
    seed, n_steps = "0", "2"
    done = subprocess.run(
        [sys.executable, EXAMPLES / "networks" / "plot_translate_number_words.py", seed, n_steps],
        capture_output=True, text=True, check=True, cwd=EXAMPLES.parent,
        env={**os.environ, "MPLBACKEND": "Agg"},
    )  # fmt: skip
    assert "forty two - zwei und vierzig" in done.stdout
    lines = done.stdout.splitlines()
    for name in ("dense", "sparse, K = 16", "sparse, nested", "product keys, nested"):
        assert any(line.startswith(name) for line in lines)
    assert done.stderr == ""
