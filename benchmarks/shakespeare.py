"""Time to quality on Shakespeare by characters: how long until the loss of nanoGPT's documented CPU recipe?

Ours is `hornbook train` with recipes/shakespeare-char.toml; the peer is peer_shakespeare_char.py, that recipe with
transformers' GPT-2 (4 layers of 128, context 64, 2,000 steps). Walls are from exec to the end of training; the loss
of ours is what `hornbook evaluate --window 64 --stride 64` says on the same last tenth, in the same windows.
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

CASES = (
    Case(
        "shakespeare", "Wall from exec to the end of training, start-up included, at a loss no worse than the peer's.",
        "s", False, ("hornbook", "transformers"), (Compare("hornbook", "transformers", 6.0),), 0.0,
        "our loss is not above the peer's, in the median", 3, True,
    ),
)  # fmt: skip


def prepare(name: str, folder: Path) -> None:
    text = (data() / "tinyshakespeare.txt").read_bytes()
    (folder / "text.txt").write_bytes(text)
    (folder / "tail.txt").write_bytes(text[int(0.9 * len(text)) :])


def side(name: str, which: str, folder: Path) -> dict[str, Any]:
    seed = len(list(folder.glob(f"{which}-*")))
    out = folder / f"{which}-{seed}"
    if which == "transformers":
        out.mkdir()
        command = [peers_python(), str(HERE / "peer_shakespeare_char.py"), str(folder / "text.txt")]
        done = json.loads(
            subprocess.run([*command, "--seed", str(1337 + seed)], check=True, capture_output=True).stdout
        )
        return {"value": done["wall_seconds"], "loss": done["loss_nats_per_token"]}
    recipe = str(HERE.parent / "recipes" / "shakespeare-char.toml")
    command = [sys.executable, "-m", "hornbook", "train", "text.txt", "--recipe", recipe, "--out", str(out)]
    shutil.rmtree(folder / "prepared", ignore_errors=True)  # every sample prepares the text itself
    began = time.time()
    subprocess.run([*command, "--seed", str(seed)], check=True, cwd=folder, capture_output=True)
    exit_seconds = time.time() - began
    # The checkpoint of the last step is the end of training; after it come evaluation, sample and report.
    ended = max(path.stat().st_mtime for path in out.glob("checkpoints/*/manifest.json"))
    command = [sys.executable, "-m", "hornbook", "evaluate", str(out), "--window", "64", "--stride", "64", "--json"]
    report = json.loads(subprocess.run(command, check=True, cwd=folder, capture_output=True).stdout)
    return {"value": ended - began, "seconds_to_exit": exit_seconds, "loss": report["loss_nats_per_token"]}


if __name__ == "__main__":
    play(CASES, prepare, side)
