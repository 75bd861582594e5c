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

VERDICT = ["the-verdict.txt", "--recipe", str(HERE.parent / "recipes" / "verdict.toml")]
# name -> text and flags; of 0.5M to 162M parameters, both families, both precisions, with and without recomputing.
RUNS: dict[str, list[str]] = {
    "qwen3 0.5M, float32": "tinyshakespeare.txt --tokenizer bpe:512 --model.family qwen3 --model.layers 2 --model.width "
    "128 --model.heads 4 --model.context 128 --train.batch 16 --train.precision float32".split(),
    "gpt2 5M, bfloat16": "tinyshakespeare.txt --tokenizer bpe:1024 --model.family gpt2 --model.layers 6 --model.width "
    "256 --model.heads 4 --model.context 256 --train.batch 8 --train.precision bfloat16".split(),
    "qwen3 14M, float32, recomputing": "tinyshakespeare.txt --tokenizer bpe:4096 --model.family qwen3 --model.layers 6 "
    "--model.width 384 --model.heads 6 --model.context 256 --train.batch 8 --train.precision float32 --train.recompute "
    "true".split(),
    "qwen3 14M, bfloat16": "tinyshakespeare.txt --tokenizer bpe:4096 --model.family qwen3 --model.layers 6 "
    "--model.width 384 --model.heads 6 --model.context 256 --train.batch 8 --train.precision bfloat16".split(),
    "gpt2 16M, float32": "tinyshakespeare.txt --tokenizer bpe:4096 --model.family gpt2 --model.layers 6 --model.width "
    "448 --model.heads 7 --model.context 256 --train.batch 8 --train.precision float32".split(),
    "gpt2 16M, bfloat16, recomputing": "tinyshakespeare.txt --tokenizer bpe:4096 --model.family gpt2 --model.layers 6 "
    "--model.width 448 --model.heads 7 --model.context 256 --train.batch 8 --train.precision bfloat16 --train.recompute "
    "true".split(),
    "gpt2 162M, float32": [*VERDICT, "--train.precision", "float32"],
    "gpt2 162M, bfloat16, recomputing": [*VERDICT, *"--train.precision bfloat16 --train.recompute true".split()],
}
# Two threads, as most have them; one evaluation, sample and checkpoint before the first step and after the last.
ALL = "--train.threads 2 --train.steps 4 --watch.evaluate_every 4 --watch.sample_every 4 --checkpoint.every 4".split()


def memory(name: str, work: Path) -> dict[str, Any]:
    """What was planned and came, in bytes."""
    out = work / name.replace(" ", "-").replace(",", "")
    shutil.rmtree(out, ignore_errors=True)
    text, *flags = RUNS[name]
    command = [sys.executable, "-m", "hornbook", "train", str(data() / text), *flags, *ALL, "--out", str(out), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=work)
    summary = json.loads(done.stdout)
    parts = json.loads((out / "plan.json").read_text())["plan"]["memory_bytes"]
    shutil.rmtree(out)
    came = summary["peak_memory_bytes"]
    return {"run": name, "parameters": summary["num_parameters"], "planned": parts, "came": came,
            "planned_to_came": parts["total"] / came}  # fmt: skip


def hours() -> list[dict[str, Any]]:
    """Each published run with its range by the runs of other families."""
    from hornbook.facts.hardware import lookup
    from hornbook.planning.budget import implied_utilisation, run_flops, utilisation
    from hornbook.planning.published import RUNS as PUBLISHED

    rows = []
    for run in PUBLISHED:
        device = lookup(run.accelerator)[1]
        used = implied_utilisation(run_flops(run), run.accelerator_hours, device)
        share = utilisation(device, run.parameters, without_family=run.family)
        assert used is not None
        assert share is not None
        rows.append({
            "run": run.name, "family": run.family, "error": math.log(used / share.central),
            "half_width": math.log(share.central / share.low), "inside": share.contains(used),
        })  # fmt: skip
    return rows


def main(work: Path) -> dict[str, Any]:
    runs = [once(work / f"{number}.json", lambda name=name: memory(name, work)) for number, name in enumerate(RUNS)]
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
