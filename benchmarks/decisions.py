"""Budgets on a machine that gets busy, and kills at random moments: what the contract of decisions promises, measured.

    python benchmarks/decisions.py budget   # 60 s, half of the machine taken from the tenth on: 5 times
    python benchmarks/decisions.py prove    # three recipes, 50 kills, 15 of them inside a save; two by two processes

Needs no data beside the built-in corpus. Results: results/decisions.json.
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from run import machine

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "decisions.json"
BUDGET_SECONDS, BUSY_FROM_SECONDS, TIMES, ALLOWED = 60.0, 10.0, 5, 0.15
BUSY = "while True: pass"
STEPS = 200
COMMON = """[text]
tokenizer = "bytes"
[model]
layers = 2
width = 64
heads = 2
context = 64
{model}
[train]
epochs = 1.0
threads = 1
batch = 8
{train}
[optimizer]
name = "{optimizer}"
[schedule]
name = "{schedule}"
"""
RECIPES = {  # kills, and what differs
    "gpt2": (20, COMMON.format(
        model='family = "gpt2"\ndropout = 0.1', train="", optimizer="adamw", schedule="cosine"
    )),
    "qwen3": (15, COMMON.format(model="", train="document_mask = true", optimizer="muon", schedule="wsd")),
    "llama": (15, COMMON.format(
        model='family = "llama"\ntied = true', train="microbatch = 3\nrecompute = true", optimizer="muon",
        schedule="wsd",
    )),
    "gpt2 by two processes": (15, COMMON.format(
        model='family = "gpt2"\ndropout = 0.1', train='microbatch = 4\nprocesses = 2\nparallel = "replicate"',
        optimizer="adamw", schedule="cosine",
    )),
    "qwen3 by two processes, sharded": (15, COMMON.format(
        model="", train='microbatch = 4\nprocesses = 2\nparallel = "shard"', optimizer="muon", schedule="wsd"
    )),
}  # fmt: skip


def budget() -> list[dict[str, Any]]:
    """One run after the other: how long each took, beside its budget."""
    seconds = []
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "hornbook", "train", "--budget", f"{BUDGET_SECONDS:.0f}s", "--out"]
        for number in range(TIMES):
            begin, out = time.monotonic(), Path(scratch) / f"run-{number}"
            process = subprocess.Popen(
                [*command, str(out)], cwd=scratch, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": str(HERE.parent / "src")},
            )  # fmt: skip
            time.sleep(BUSY_FROM_SECONDS)
            busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(max(1, (os.cpu_count() or 1) // 2))]
            try:
                code = process.wait()
            finally:
                for other in busy:
                    other.kill()
                    other.wait()
            assert code == 0
            took = time.monotonic() - begin
            rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
            made = [(row["step"], row["decay_steps"]) for row in rows if row["event"] == "decision"]
            seconds.append({"seconds": took, "off": took / BUDGET_SECONDS - 1, "decisions": made})
            print(seconds[-1], flush=True)
    return seconds


def prove() -> list[dict[str, Any]]:
    """Each recipe on the documentation, repeated with kills: what `hornbook prove --json` says."""
    proofs = []
    with tempfile.TemporaryDirectory() as scratch:
        for name, (kills, recipe) in RECIPES.items():
            file = Path(scratch) / f"{name}.toml"
            file.write_text(recipe)
            command = [sys.executable, "-m", "hornbook", "prove", "--recipe", str(file), str(HERE.parent / "docs")]
            done = subprocess.run(
                [*command, "--steps", str(STEPS), "--kills", str(kills), "--json"], cwd=scratch, text=True,
                capture_output=True, check=True, env={**os.environ, "PYTHONPATH": str(HERE.parent / "src")},
            )  # fmt: skip
            proofs.append({"recipe": name} | json.loads(done.stdout))
            print(proofs[-1]["verdict"], flush=True)
    return proofs


def held(name: str, result: list[dict[str, Any]]) -> bool:
    if name == "budget":
        return all(abs(one["off"]) <= ALLOWED for one in result)
    alone = [one for one in result if "two processes" not in one["recipe"]]
    kills, inside = (sum(one[key] for one in alone) for key in ("kills", "kills_inside_saves"))
    return all(one["proved"] for one in result) and kills >= 50 and inside >= 15


def main() -> None:
    known = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for name in sys.argv[1:] or ["budget", "prove"]:
        result = {"budget": budget, "prove": prove}[name]()
        known[name] = result
        known[f"{name} on"] = machine() | {"date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}"}
        RESULTS.write_text(json.dumps(known, indent=2) + "\n")
        print(f"{name}: {'held' if held(name, result) else 'MISSED'}")


if __name__ == "__main__":
    main()
