"""Time to quality on Shakespeare by characters: how long until the loss of nanoGPT's documented CPU recipe?

Ours is `hornbook train` with recipes/shakespeare-char.toml, from exec to exit: preparing the text, scoring and report
included; the end of training is beside it. The peer is peer_shakespeare_char.py, that recipe with transformers' GPT-2
(4 layers of 128, context 64, 2,000 steps), from the start of its process to its last step. The loss of ours is what
`hornbook evaluate --window 64 --stride 64` says on the same last tenth, in the same windows; 1.886 is what nanoGPT's
recipe reached where this was first compared, and no seed of ours may be above it.
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
        "shakespeare", "Wall from exec to exit, start-up included; the peer's to the end of training. A seed a pair.",
        "s", False, ("hornbook", "transformers"), (Compare("hornbook", "transformers", 8.0),), 0.0,
        "no loss of ours is above 1.886, and our median not above the peer's", 5, True, 1.886,
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
    value = time.time() - began
    # The checkpoint of the last step is the end of training; after it come scoring and the report.
    ended = max(path.stat().st_mtime for path in out.glob("checkpoints/*/manifest.json"))
    command = [sys.executable, "-m", "hornbook", "evaluate", str(out), "--window", "64", "--stride", "64", "--json"]
    report = json.loads(subprocess.run(command, check=True, cwd=folder, capture_output=True).stdout)
    return {"value": value, "seconds_to_end_of_training": ended - began, "loss": report["loss_nats_per_token"]}


if __name__ == "__main__":
    play(CASES, prepare, side)
