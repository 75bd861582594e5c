"""The checks of an accelerator run on a CPU too, small: nobody finds out on a rented machine that they do not start."""

import importlib.util
import json
import subprocess
import sys
import tempfile
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
    names = ("faults", "resume", "evaluation", "generation", "memory", "large save", "documents")
    results = run(tmp_path, "--only", *names)
    assert results["resume"]["steps"] == 24
    assert "flash_is" in results["documents"]
    assert results["evaluation"]["same_bits"]


def test_a_check_that_is_late_is_stopped_with_what_it_started(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    spec = importlib.util.spec_from_file_location("gpu", GPU)
    gpu = sys.modules["gpu"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(gpu)
    assert "not begun" in gpu.outcome("speed", True, None, 0.0)["error"]
    assert gpu.outcome("resume", True, None, 3.0)["error"] == "not done in 3.0 s"
    assert set(gpu.FIRST) <= set(gpu.CHECKS)
    assert gpu.FIRST_SECONDS == 300
    assert [*tmp_path.iterdir()] == []
    listed = subprocess.run(["ps", "-e", "-o", "args"], capture_output=True, text=True, check=True).stdout
    assert str(tmp_path) not in listed


@pytest.mark.slow
def test_all_checks(tmp_path):
    assert len(run(tmp_path)) > 12
