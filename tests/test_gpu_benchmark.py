"""The checks of an accelerator run on a CPU too, small: nobody finds out on a rented machine that they do not start."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

GPU = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


def run(tmp_path, *options):
    out = tmp_path / "gpu.json"
    command = [sys.executable, str(GPU), "--tiny", "--out", str(out), *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    results = json.loads(out.read_text())
    assert {name: result for name, result in results.items() if not result.get("ok", True)} == {}
    assert done.returncode == 0, done.stderr
    return results


def test_the_short_checks(tmp_path):
    results = run(tmp_path, "--only", "faults", "resume", "evaluation", "generation", "memory", "save", "documents")
    assert results["resume"]["steps"] == 24
    assert "flash_is" in results["documents"]
    assert results["evaluation"]["same_bits"]


@pytest.mark.slow
def test_all_checks(tmp_path):
    assert len(run(tmp_path)) > 12
