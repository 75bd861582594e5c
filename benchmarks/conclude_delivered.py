"""What `hornbook train TEXT` delivers without a length, beside the best of fully decayed runs of 1 to 16 epochs.

Texts of 5 KB, 24 KB, 200 KB and 1 MB, three seeds each (and three places of the text): the loss of the delivered
weights on the whole validation text is at most 0.05 nats above the best of the five. Two processes of one thread work
side by side. Beside it stands the loss that is reported, of the text outside the probe.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from common import data
from conclusions import once

SIZES = {
    5_000: "sense-and-sensibility",
    24_000: "dorian-gray",
    200_000: "great-expectations",
    1_000_000: "anna-karenina",
}
EPOCHS = (1, 2, 4, 8, 16)
SEEDS = 3
ALLOWED_NATS = 0.05
RUN = """
import json, sys
import hornbook
from hornbook.evaluation.corpus import part_documents
from hornbook.setup.model import open_model
from hornbook.commands.evaluate import own_text, score_documents
text, out, seed, epochs = sys.argv[1:]
length = {} if epochs == "default" else {"train.epochs": float(epochs)}
size = json.loads(open(out + ".shape").read()) if epochs != "default" else {}
summary = hornbook.train(text, out=out, **length, **size, **{"train.seed": int(seed), "train.threads": 1})
opened = open_model(out)
prepared = own_text(opened)
whole = score_documents(opened, part_documents(prepared.validation, prepared.tokenizer), "all").loss_nats_per_token
keys = ("step", "used_step", "epoch", "num_parameters", "wall_seconds", "chosen_on_this_text")
reported = summary["validation_loss_nats_per_token"]
print(json.dumps({"whole": whole, "reported": reported} | {key: summary[key] for key in keys}))
"""


def one(work: Path, text: Path, seed: int, epochs: str) -> dict[str, Any]:
    out = work / f"{text.stem}-{epochs}"
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, "-c", RUN, text.name, out.name, str(seed), epochs]
    done = subprocess.run(command, cwd=work, env=variables, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def case(work: Path, size: int, seed: int) -> dict[str, Any]:
    content = (data() / "books" / f"{SIZES[size]}.txt").read_text(encoding="utf-8")
    start = 3000 + seed * (len(content) - 3000 - size) // SEEDS
    text = work / f"{SIZES[size]}-{size}-{seed}.txt"
    text.write_text(content[start : start + size], encoding="utf-8")
    found = {"default": once(work / f"{text.stem}-default.json", lambda: one(work, text, seed, "default"))}
    # The same model, so that only the length differs.
    settings = (work / f"{text.stem}-default" / "settings.toml").read_text(encoding="utf-8")
    import tomllib

    model = tomllib.loads(settings)["model"]
    shape = {f"model.{name}": model[name] for name in ("layers", "width", "heads", "context")}
    for epochs in map(str, EPOCHS):
        (work / f"{text.stem}-{epochs}.shape").write_text(json.dumps(shape))
        found[epochs] = once(work / f"{text.stem}-{epochs}.json", lambda e=epochs: one(work, text, seed, e))
    best = min(EPOCHS, key=lambda epochs: found[str(epochs)]["whole"])
    row = {"bytes": size, "seed": seed, "best_epochs": best, "best": found[str(best)]["whole"]}
    row |= {"delivered": found["default"]["whole"], "excess": found["default"]["whole"] - found[str(best)]["whole"]}
    print(json.dumps(row), flush=True)
    return row | {"runs": found}


def main(work: Path) -> dict[str, Any]:
    todo = [(size, seed) for size in SIZES for seed in range(SEEDS)]
    with ThreadPoolExecutor(2) as pool:
        rows = list(pool.map(lambda each: case(work, *each), todo))
    rates = [
        {"what": f"{size // 1000} KB: more than {ALLOWED_NATS} nats above the best length",
         "wrong": sum(row["excess"] > ALLOWED_NATS for row in rows if row["bytes"] == size), "tried": SEEDS}
        for size in SIZES
    ]  # fmt: skip
    return {"rates": {"length": rates}, "rows": rows}
