"""Plans held against what came: the peak memory of eight runs, each a process of its own, and the device-hours of
published runs, each family left out in turn. Under 15 minutes on two cores; memory needs no idle machine."""

from __future__ import annotations

import json
import math
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from common import HERE, data
from conclusions import once

# family, layers, width, heads, context, batch, tokenizer; precision; recomputing. None: recipes/verdict.toml.
RUNS: tuple[tuple[tuple[Any, ...] | None, str, bool], ...] = (
    (("qwen3", 2, 128, 4, 128, 16, "bpe:512"), "float32", False),
    (("gpt2", 6, 256, 4, 256, 8, "bpe:1024"), "bfloat16", False),
    (("qwen3", 6, 384, 6, 256, 4, "bpe:2048"), "float32", True),
    (("qwen3", 6, 384, 6, 256, 4, "bpe:2048"), "bfloat16", False),
    (("gpt2", 6, 448, 7, 256, 4, "bpe:2048"), "float32", False),
    (("gpt2", 6, 448, 7, 256, 4, "bpe:2048"), "bfloat16", True),
    (None, "float32", False),
    (None, "bfloat16", True),
)
# Two threads, as most have them; looks at steps 0, 1, 2 and 4, checkpoints before the first step and after the last.
ALL = {"train.threads": 2, "train.steps": 4, "watch.evaluate_every": 4, "watch.sample_every": 4, "checkpoint.every": 4}
SHAPE = ("model.family", "model.layers", "model.width", "model.heads", "model.context", "train.batch", "text.tokenizer")


def settings(number: int, work: Path) -> list[str]:
    """The text and the flags of a run."""
    text = work / "shakespeare.txt"
    if not text.is_file():  # the beginning is long enough
        text.write_bytes((data() / "tinyshakespeare.txt").read_bytes()[:150_000])
    shape, precision, recompute = RUNS[number]
    flags: dict[str, Any] = ALL | {"train.precision": precision}
    flags |= {} if shape is None else dict(zip(SHAPE, shape, strict=True))
    given = [str(data() / "the-verdict.txt" if shape is None else text)]
    given += ["--recipe", str(HERE.parent / "recipes" / "verdict.toml")] if shape is None else []
    given += ["--train.recompute", "true"] if recompute else []
    return given + [word for name, value in flags.items() for word in (f"--{name}", str(value))]


def memory(number: int, work: Path) -> dict[str, Any]:
    """What was planned and came, in bytes."""
    out = work / f"run-{number}"
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "hornbook", "train", *settings(number, work), "--out", str(out), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=work)
    summary = json.loads(done.stdout)
    planned = json.loads((out / "plan.json").read_text())["plan"]["memory_bytes"]
    shutil.rmtree(out)
    shape, precision, recompute = RUNS[number]
    return {
        "shape": shape or "recipes/verdict.toml", "precision": precision, "recompute": recompute,
        "parameters": summary["num_parameters"], "planned": planned, "came": summary["peak_memory_bytes"],
        "planned_to_came": planned["total"] / summary["peak_memory_bytes"],
    }  # fmt: skip


def hours() -> list[dict[str, Any]]:
    """Each published run with its range by the runs of other families."""
    from utilisation import RUNS as PUBLISHED
    from utilisation import run_flops, utilisation

    from hornbook.facts.accelerators import lookup
    from hornbook.planning.budget import implied_utilisation

    rows = []
    for run in PUBLISHED:
        device = lookup(run.accelerator)[1]
        used = implied_utilisation(run_flops(run), run.accelerator_hours, device)
        share = utilisation(device, without_family=run.family)
        assert used is not None
        rows.append({
            "run": run.name, "family": run.family, "error": math.log(used / share.central),
            "half_width": math.log(share.central / share.low), "inside": share.contains(used),
        })  # fmt: skip
    return rows


def main(work: Path) -> dict[str, Any]:
    runs = [once(work / f"{number}.json", lambda number=number: memory(number, work)) for number in range(len(RUNS))]
    published = hours()
    outside = sum(not row["inside"] for row in published)
    far = sum(abs(math.log(run["planned_to_came"])) > math.log(1.1) for run in runs)
    errors = sorted(abs(row["error"]) for row in published)
    return {
        "rates": {
            "plan_hours": [{"what": "published runs outside their range, their family left out", "wrong": outside,
                            "tried": len(published)}],
            "plan_memory": [{"what": "runs off by more than 10 %", "wrong": far, "tried": len(runs)}],
        },
        "half_width": statistics.mean(row["half_width"] for row in published),
        "nine_in_ten_errors_below": statistics.quantiles(errors, n=10, method="inclusive")[-1],
        "memory": runs,
        "hours": published,
    }  # fmt: skip
