"""Plans held against what came: the peak memory of ten runs, each of processes of its own, and the device-hours of
published runs, each family left out in turn. Under 15 minutes on two cores; memory needs no idle machine."""

from __future__ import annotations

import json
import math
import random
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from common import HERE, data
from conclusions import once

VERDICT, CHATS, TWO = "recipes/verdict.toml", "chats from a few templates", "two processes"
# family, layers, width, heads, context, batch, tokenizer, or one of the above; precision; recomputing.
RUNS: tuple[tuple[tuple[Any, ...] | str, str, bool], ...] = (
    (("qwen3", 2, 128, 4, 128, 16, "bpe:512"), "float32", False),
    (("gpt2", 6, 256, 4, 256, 8, "bpe:1024"), "bfloat16", False),
    (("qwen3", 6, 384, 6, 256, 4, "bpe:2048"), "float32", True),
    (("qwen3", 6, 384, 6, 256, 4, "bpe:2048"), "bfloat16", False),
    (("gpt2", 6, 448, 7, 256, 4, "bpe:2048"), "float32", False),
    (("gpt2", 6, 448, 7, 256, 4, "bpe:2048"), "bfloat16", True),
    (VERDICT, "float32", False),
    (VERDICT, "bfloat16", True),
    (CHATS, "float32", False),
    (TWO, "float32", False),
)
# Two threads, as most have them; looks at steps 0, 1, 2 and 4, checkpoints before the first step and after the last.
ALL = {"train.threads": 2, "train.steps": 4, "watch.evaluate_every": 4, "watch.sample_every": 4, "checkpoint.every": 4}
SHAPE = ("model.family", "model.layers", "model.width", "model.heads", "model.context", "train.batch", "text.tokenizer")


def settings(number: int, work: Path) -> list[str]:
    """The text and the flags of a run."""
    shape, precision, recompute = RUNS[number]
    flags: dict[str, Any] = ALL | {"train.precision": precision}
    given = [str(data() / "the-verdict.txt"), "--recipe", str(HERE.parent / VERDICT)]
    if shape == CHATS:  # the shape is chosen automatically
        given = [str(chats(work / "chats.jsonl"))]
    elif shape != VERDICT:
        text = work / "shakespeare.txt"  # the beginning is long enough
        text.write_bytes((data() / "tinyshakespeare.txt").read_bytes()[:150_000])
        given, shape = [str(text)], RUNS[0][0] if shape == TWO else shape
        flags |= dict(zip(SHAPE, shape, strict=True))
    if RUNS[number][0] == TWO:
        flags |= {"train.processes": 2, "train.threads": 1}
    given += ["--train.recompute", "true"] if recompute else []
    return given + [word for name, value in flags.items() for word in (f"--{name}", str(value))]


def chats(path: Path) -> Path:
    """A text of 0.9 MB in which nearly everything stands thousands of times."""
    draw, rows, size = random.Random(0), [], 0
    while size < 900_000:
        thing, name = draw.choice(("bread", "iron", "the moon", "a violin")), draw.choice(("Anna", "Ben", "Clara"))
        a, b = draw.randint(1, 99), draw.randint(1, 99)
        turns = draw.choice((
            (f"What is {thing}?", f"{thing.capitalize()} is a thing that {name} likes very much and uses every day."),
            (f"What is {a} plus {b}?", f"{a} plus {b} is {a + b}."),
            (f"Hello, I am {name}.", f"Hello {name}, how can I help you today?"),
        ))  # fmt: skip
        roles = zip(("user", "assistant"), turns, strict=True)
        rows.append(json.dumps({"messages": [{"role": role, "content": content} for role, content in roles]}))
        size += len(rows[-1]) + 1
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


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
        "shape": shape, "precision": precision, "recompute": recompute,
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
