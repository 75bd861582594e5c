"""The book's example, GPT-2 small learning one story by heart, beside the book's own program.

Ours is `hornbook train the-verdict.txt --recipe recipes/verdict.toml`, from exec to exit: preparing the text, report
and final scoring included. The peer is peer_verdict.py, from the start of its process to its last sample. Both read
the same ids and look at both sides every 5 steps, so the curves are compared step by step.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from common import HERE, Case, Compare, data, peers_python, play

RECIPE = HERE.parent / "recipes" / "verdict.toml"
CASES = (
    Case(
        "verdict", "Wall of 10 epochs of The Verdict through GPT-2 small, from exec to exit; the peer's to its end.",
        "s", False, ("hornbook", "book"), (Compare("hornbook", "book", 1 / 0.6),), 0.0,
        "the mean curves of the two sides are nowhere further apart than two runs of one side are", 3, True,
    ),
)  # fmt: skip


def prepare(name: str, folder: Path) -> None:
    import numpy as np

    from hornbook.data.shards import open_prepared

    shutil.copy(data() / "the-verdict.txt", folder / "the-verdict.txt")
    command = [sys.executable, "-m", "hornbook", "prepare", "the-verdict.txt", "--tokenizer", "gpt2", "--split"]
    subprocess.run([*command, "tail:0.1", "--out", "ids"], check=True, cwd=folder, capture_output=True)
    parts = open_prepared(folder / "ids")
    sides = {"train": parts.train, "validation": parts.validation}
    ids = {side: part.take(np.array([0]), part.num_tokens)[0].tolist() for side, part in sides.items()}
    (folder / "ids.json").write_text(json.dumps(ids))


def side(name: str, which: str, folder: Path) -> dict[str, Any]:
    seed = len(list(folder.glob(f"{which}-*")))
    out = folder / f"{which}-{seed}"
    if which == "book":
        out.mkdir()
        command = [peers_python(), str(HERE / "peer_verdict.py"), str(folder / "ids.json"), "--seed", str(123 + seed)]
        done = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        return {"value": done["wall_seconds"], "steps": done["steps"], "curve": done["curve"]}
    from hornbook.records.run import Run

    shutil.rmtree(folder / "prepared", ignore_errors=True)  # every sample prepares the text itself
    command = [sys.executable, "-m", "hornbook", "train", "the-verdict.txt", "--recipe", str(RECIPE)]
    began = time.monotonic()
    subprocess.run([*command, "--seed", str(seed), "--out", str(out)], check=True, cwd=folder, capture_output=True)
    value = time.monotonic() - began
    rows = Run.open(out).rows()
    losses = [f"probe_{side}_loss_nats_per_token" for side in ("train", "validation")]
    looks = [row for row in rows if row["event"] == "evaluation" and row["step"] and row.get(losses[0]) is not None]
    last = next(row for row in reversed(rows) if row["event"] == "step")
    shutil.rmtree(out / "checkpoints")  # gigabytes
    return {
        "value": value, "steps": last["step"], "seconds_of_steps": last["seconds"],
        "curve": [[row["step"], *(row[loss] for loss in losses)] for row in looks],
    }  # fmt: skip


if __name__ == "__main__":
    play(CASES, prepare, side)
