"""Time to quality on books: how long until the loss that transformers' Trainer has after its 8 minutes?

Both read the ids of one prepared folder (BPE of 4,096, validation blocks in every book) and train a model of 6 layers
of 256 with context 256: the peer a Llama (peer_books.py), ours by `hornbook train` with its own choices. Our budget
also pays for the counting models and for scoring the validation text, so training ends long before it. Both are scored
by `hornbook evaluate` as Hugging Face folders. The peer's learning rate is 2e-3, the best of 1e-3, 2e-3 and 4e-3 after
85 steps, a quarter of its time (losses 6.29, 6.09 and 6.25; `peer_books.py IDS OUT RATE --steps 85`).
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

SECONDS, OURS, RATE = 480, 152, "2e-3"
CASES = (
    Case(
        "books",
        f"Wall from exec to the end of training; the peer has {SECONDS} s, ours a budget of {OURS} s with scoring.",
        "s", False,
        ("hornbook", "transformers"), (Compare("hornbook", "transformers", 4.0),), 0.0,
        "our loss is not above the peer's", 1, True,
    ),
)  # fmt: skip


def hornbook(*arguments: str, folder: Path) -> Any:
    command = [sys.executable, "-m", "hornbook", *arguments, "--json"]
    return json.loads(subprocess.run(command, check=True, cwd=folder, stdout=subprocess.PIPE).stdout)


def prepare(name: str, folder: Path) -> None:
    import numpy as np

    from hornbook.data.shards import open_prepared

    hornbook(
        "prepare",
        str(data() / "books"),
        "--tokenizer",
        "bpe:4096",
        "--split",
        "blocks:0.04",
        "--out",
        "prepared",
        folder=folder,
    )
    train = open_prepared(folder / "prepared").train
    train.take(np.array([0]), train.num_tokens)[0].astype(np.uint16).tofile(folder / "ids.bin")


def loss(model: str, folder: Path) -> float:
    report = hornbook("evaluate", model, "prepared", folder=folder)
    return float(report["loss_nats_per_token"])


def side(name: str, which: str, folder: Path) -> dict[str, Any]:
    out = folder / f"{which}-{time.monotonic_ns()}"
    if which == "transformers":
        command = [peers_python(), str(HERE / "peer_books.py"), "ids.bin", str(out), RATE, str(SECONDS)]
        done = subprocess.run(command, check=True, cwd=folder, stdout=subprocess.PIPE, text=True).stdout
        for part in (folder / "prepared").glob("tokenizer*.json"):
            shutil.copy(part, out)
        return {"value": json.loads(done.splitlines()[-1])["wall_seconds"], "loss": loss(str(out), folder)}
    began = time.time()
    shape = ("--model.layers", "6", "--model.width", "256", "--model.context", "256")
    hornbook("train", "prepared", *shape, "--budget", f"{OURS}s", "--out", str(out), folder=folder)
    ended = max(path.stat().st_mtime for path in out.glob("checkpoints/*/manifest.json"))
    hornbook("export", str(out), "--to", "huggingface", "--out", f"{out}-exported", folder=folder)
    return {"value": ended - began, "loss": loss(f"{out}-exported", folder)}


if __name__ == "__main__":
    play(CASES, prepare, side)
