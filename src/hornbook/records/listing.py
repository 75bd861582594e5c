"""The runs of a folder, one line of facts each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from hornbook.facts.errors import InputError, suggestion
from hornbook.records.run import Run, is_run


def list_runs(folder: str | Path) -> list[dict[str, Any]]:
    """Facts of every run directly below `folder`, oldest first. Raises InputError when there is no such folder."""
    parent = Path(folder)
    if not parent.is_dir():
        raise InputError(f"there is no folder {folder}; runs are made by hornbook train.")
    found = [path for path in parent.iterdir() if is_run(path)]
    return [_facts(Run.open(path)) for path in sorted(found, key=lambda p: (p / "settings.toml").stat().st_mtime)]


def check_model(name: str | Path) -> None:
    """Raise InputError where MODEL names nothing, or a folder of runs: without torch, so that it is said at once."""
    path = Path(name)
    if not path.exists() and (path.parent.is_dir() or str(name).startswith((".", "/", "~", "runs/"))):
        known = _runs(path.parent) or _runs(Path("runs"))
        near = suggestion(str(path), known) or (f" (the newest run is {known[0]})" if known else "")
        raise InputError(f"there is no run or model {name}{near}.")
    if path.is_dir() and not is_run(path) and (known := _runs(path)):
        raise InputError(f"{name} is a folder of runs: name one of them, such as {', '.join(known[:5])}.")


def _runs(folder: Path) -> list[str]:
    """The runs directly below a folder, the newest first; [] where there is no such folder."""
    return [run["run"] for run in reversed(list_runs(folder))] if folder.is_dir() else []


_LAST = (
    "step", "tokens", "epoch", "seconds", "train_loss_nats_per_token", "probe_validation_loss_nats_per_token",
    "probe_validation_bits_per_byte",
)  # fmt: skip


def _facts(run: Run) -> dict[str, Any]:
    """The last recorded numbers; of a run that is done, also those of the whole validation text."""
    facts: dict[str, Any] = {"run": str(run.folder), "state": "unfinished"}
    for row in run.rows():
        if row.get("event") in ("step", "evaluation"):
            facts["state"] = "unfinished"
            facts.pop("plan_score", None)  # of a session before
            for key in _LAST:
                if row.get(key) is not None:
                    facts[key] = row[key]
        elif row.get("event") == "end":
            facts["state"] = row.get("reason", "ended")
            facts["plan_score"] = row.get("plan_score")
    if facts["state"] not in ("unfinished", "interrupted"):
        facts |= _scored(run.reports / "evaluation.json")
    return facts


def _scored(report: Path) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(report.read_bytes(), type=dict[str, Any])
        return {"validation_loss_nats_per_token": found["loss_nats_per_token"], "bits_per_byte": found["bits_per_byte"]}
    except (OSError, msgspec.DecodeError, KeyError):  # no validation text, or an older run
        return {}
