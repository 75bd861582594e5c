"""Lowest points: does the interval between two looks hold the lowest probe loss that looking at every step finds?

Twelve runs of at most 400 steps, and the same runs again with a look after every update (evaluation changes no bit of
the weights). The ends of the interval are at most a factor of 2 or one epoch apart, and within it the rerun has a loss
within 0.01 nats of its lowest.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from common import data
from conclusions import once

FEW = {"train.threads": 1, "train.precision": "float32", "watch.sample_tokens": 4}
SHAPES = {
    "qwen3 muon": {"model.layers": 2, "model.width": 64, "model.context": 64, "train.batch": 8},
    "gpt2 adamw": {"model.family": "gpt2", "model.layers": 2, "model.width": 64, "model.context": 64, "train.batch": 8,
                   "optimizer.learning_rate": 2e-3},
}  # fmt: skip
# name of a book, bytes of it, shape, steps
RUNS = [
    ("emma", 5_000, "qwen3 muon", 120), ("emma", 5_000, "gpt2 adamw", 400), ("walden", 12_000, "qwen3 muon", 200),
    ("walden", 12_000, "gpt2 adamw", 400), ("jane-eyre", 24_000, "qwen3 muon", 300),
    ("jane-eyre", 24_000, "gpt2 adamw", 400), ("wizard-of-oz", 50_000, "qwen3 muon", 400),
    ("wizard-of-oz", 50_000, "gpt2 adamw", 400), ("dorian-gray", 150_000, "qwen3 muon", 300),
    ("dorian-gray", 150_000, "gpt2 adamw", 300), ("peter-pan", 8_000, "qwen3 muon", 60),
    ("scarlet-letter", 16_000, "qwen3 muon", 250),
]  # fmt: skip


def looks_of(run: str) -> dict[int, float]:
    from hornbook.records.run import Run

    key = "probe_validation_loss_nats_per_token"
    return {row["step"]: row[key] for row in Run(Path(run)).rows() if row["event"] == "evaluation"}


def pair(work: Path, number: int) -> dict[str, Any]:
    import hornbook
    from hornbook.facts.settings import read_table

    book, size, shape, steps = RUNS[number]
    text = work / f"{book}-{size}.txt"
    content = (data() / "books" / f"{book}.txt").read_text(encoding="utf-8")
    text.write_text(content[3000 : 3000 + size], encoding="utf-8")
    settings = FEW | SHAPES[shape] | {"train.steps": steps, "train.seed": number}
    first = hornbook.train(str(text), out=work / f"{number}-first", **settings)
    probe = read_table(Path(first["run"]) / "settings.toml")["watch"]["probe_tokens"]
    every = {"watch.evaluate_every": 1, "watch.probe_tokens": probe}
    second = hornbook.train(str(text), out=work / f"{number}-every", **settings, **every)
    seen, all_looks = looks_of(first["run"]), looks_of(second["run"])
    assert all(abs(all_looks[step] - loss) < 1e-9 for step, loss in seen.items() if step)
    before, after = first["best_step_between"]
    low, high = before or 0, after or steps
    lowest = min(all_looks.values())
    steps_per_epoch = steps / first["epoch"]
    return {
        "book": book, "bytes": size, "shape": shape, "steps": steps, "best_step": first["best_step"],
        "between": [low, high], "steps_per_epoch": steps_per_epoch,
        "lowest_step": min(all_looks, key=lambda step: all_looks[step]), "lowest": lowest,
        "lowest_within": min(loss for step, loss in all_looks.items() if low <= step <= high),
    }  # fmt: skip


def main(work: Path) -> dict[str, Any]:
    os.chdir(work)
    rows = [once(work / f"{i}.json", lambda i=i: pair(work, i)) for i in range(len(RUNS))]
    for row in rows:
        low, best, high = row["between"][0], row["best_step"], row["between"][1]
        # The best look lies between two others; each is a factor of 2 or an epoch from it.
        row["narrow"] = all(b <= max(1, 2 * a) or b - a <= row["steps_per_epoch"] + 1 for a, b in
                            ((low, best), (best, high)))  # fmt: skip
        row["holds"] = row["lowest_within"] <= row["lowest"] + 0.01
        print(json.dumps(row))
    wrong = sum(not (row["narrow"] and row["holds"]) for row in rows)
    return {"rates": {"lowest": [{"what": "interval misses the lowest loss of a look at every step",
                                  "wrong": wrong, "tried": len(rows)}]}, "rows": rows}  # fmt: skip
