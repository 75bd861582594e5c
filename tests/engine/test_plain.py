"""HORNBOOK_PLAIN=1: no rows shared over cores, no oneDNN, no C++; the same numbers, to rounding."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import hornbook

WORK = """
import json
import hornbook, torch
from hornbook.engine import threads
from hornbook.model.cpu import native
from torch.utils._python_dispatch import TorchDispatchMode

class Operators(TorchDispatchMode):
    names = set()
    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        self.names.add(function.name())
        return function(*arguments, **(options or {}))

options = {
    "text.tokenizer": "bytes", "text.split": "tail:0.1", "train.threads": 2, "train.precision": "float32",
    "train.steps": 6, "train.batch": 32, "model.layers": 2, "model.width": 64, "model.context": 64,
    "watch.sample_tokens": 8, "watch.probe_tokens": 256,
}
trained = hornbook.train("text.txt", out="run", quiet=True, **options)
evaluated = hornbook.evaluate("run", "text.txt").to_dict()
with Operators() as used, torch.no_grad():
    hornbook.open_model("run").model(torch.zeros(1, 64, dtype=torch.int64))
written = "".join(hornbook.generate("run", "the ", max_tokens=100, temperature=0))
memorized = hornbook.memorize("run").to_dict()
fast = [threads._pool.cache_info().currsize, native.library.cache_info().currsize]
fast.append("mkldnn::_linear_pointwise" in used.names)
print(json.dumps([trained, evaluated, written, memorized, list(map(bool, fast))], default=str))
"""


def numbers(value, of=""):
    """The floats of an object that are not measurements of time or money, by name."""
    if isinstance(value, dict):
        return {name: x for key, inner in value.items() for name, x in numbers(inner, f"{of}.{key}").items()}
    measured = ("second", "hours", "mfu", "kwh", "memory", "flops")
    return {of: value} if isinstance(value, float) and not any(word in of for word in measured) else {}


def test_everything_works_without_what_is_fast(tmp_path, english):
    outcomes = []
    for plain in ("0", "1"):
        folder = tmp_path / plain
        folder.mkdir()
        (folder / "text.txt").write_text(english[:9_000], encoding="utf-8")
        variables = {
            **os.environ, "HORNBOOK_PLAIN": plain, "OMP_NUM_THREADS": "2",
            "PYTHONPATH": str(Path(hornbook.__file__).parents[1]),
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", WORK], cwd=folder, env=variables, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        outcomes.append(json.loads(done.stdout.splitlines()[-1]))
    (*usual, fast), (*plain, slow) = outcomes
    assert slow == [False] * 3
    assert fast == [len(os.sched_getaffinity(0)) > 1, True, True] or shutil.which("g++") is None
    assert usual[2] == plain[2]
    for ours, theirs in zip((usual[0], usual[1], usual[3]), (plain[0], plain[1], plain[3]), strict=True):
        ours, theirs = numbers(ours), numbers(theirs)
        assert len(ours) >= 5
        assert theirs == pytest.approx(ours, rel=1e-3, abs=1e-4)
    run = tmp_path / "0" / "run"
    assert [json.loads((tmp_path / n / "run" / "environment.json").read_text())["plain"] for n in "01"] == [False, True]
    done = subprocess.run(
        [sys.executable, "-m", "hornbook", "train", "--out", str(run), "--steps", "8"], cwd=run.parent,
        env=variables, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "another HORNBOOK_PLAIN, so it resumes, but not bit for bit" in done.stderr
