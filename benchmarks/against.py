"""One process of this code against that of an earlier commit: `python benchmarks/against.py COMMIT [PAIRS]`.

Whole commands, each in a fresh process, in turns (new, old; old, new; ...), on the built-in text. CPU time is compared,
which other processes of the machine disturb least; the losses of all steps must be equal. JSON goes to the standard
output: the median of the ratios new / old, below 1 where the new one takes less, and each pair's.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
COMMAND = (
    "train", "--model.layers", "4", "--model.width", "192", "--model.context", "128", "--train.batch", "8",
    "--train.steps", "120", "--train.threads", "2", "--quiet",
)  # fmt: skip


def taken(source: Path, folder: Path) -> dict[str, Any]:
    """CPU and wall seconds of a training by the code in `source`, and its losses."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "hornbook", *COMMAND, "--out", str(folder)]
    subprocess.run(
        command, cwd=folder.parent, env=os.environ | {"PYTHONPATH": str(source)}, check=True, stdout=subprocess.DEVNULL
    )
    wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    rows = map(json.loads, (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    losses = [row["train_loss_nats_per_token"] for row in rows if row["event"] == "step"]
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"cpu": cpu, "wall": wall, "losses": losses}


def against(commit: str, pairs: int) -> dict[str, Any]:
    """The ratios of `pairs` pairs after one that warms both up."""
    ratios: dict[str, list[float]] = {"cpu": [], "wall": []}
    equal = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run(
            ["git", "-C", str(ROOT), "worktree", "add", "--detach", name + "/old", commit],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        try:
            sides = {"new": ROOT / "src", "old": folder / "old" / "src"}
            for number in range(pairs + 1):
                order = ("new", "old") if number % 2 else ("old", "new")
                seen = {side: taken(sides[side], folder / f"{side}-{number}") for side in order}
                equal = equal and seen["new"]["losses"] == seen["old"]["losses"]
                for what in ratios:
                    ratios[what] += [seen["new"][what] / seen["old"][what]] * (number > 0)
        finally:
            subprocess.run(["git", "-C", str(ROOT), "worktree", "remove", "--force", name + "/old"], check=True)
    medians = {f"median_{what}_ratio": statistics.median(of) for what, of in ratios.items()}
    return {"commit": commit, "losses_are_equal": equal} | medians | ratios


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit("give the commit to compare with, and perhaps the number of pairs.")
    print(json.dumps(against(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 6), indent=1))
