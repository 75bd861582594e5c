"""The runs of a folder, one line of facts each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hornbook.facts.errors import InputError
from hornbook.records.run import Run, is_run


def list_runs(folder: str | Path) -> list[dict[str, Any]]:
    """Facts of every run directly below `folder`, oldest first. Raises InputError when there is no such folder."""
    parent = Path(folder)
    if not parent.is_dir():
        raise InputError(f"there is no folder {folder}; runs are made by hornbook train.")
    found = [path for path in parent.iterdir() if is_run(path)]
    return [_facts(Run.open(path)) for path in sorted(found, key=lambda p: (p / "settings.toml").stat().st_mtime)]


def _facts(run: Run) -> dict[str, Any]:
    rows = run.rows()
    facts: dict[str, Any] = {"run": str(run.folder), "state": "unfinished"}
    for row in rows:
        if row.get("event") in ("step", "evaluation"):
            facts["state"] = "unfinished"
            for key in ("step", "tokens", "epoch", "seconds", "train_loss_nats_per_token",
                        "validation_loss_nats_per_token", "validation_bits_per_byte"):  # fmt: skip
                if row.get(key) is not None:
                    facts[key] = row[key]
        elif row.get("event") == "end":
            facts["state"] = row.get("reason", "ended")
            facts["plan_score"] = row.get("plan_score")
    return facts
