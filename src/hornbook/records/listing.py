"""The runs of a folder, one line of facts each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from hornbook.facts.errors import InputError, suggestion
from hornbook.records.run import EVALUATION, Run, is_run


def runs(folder: str | Path = "runs") -> list[dict[str, Any]]:
    """Facts of every run directly below `folder`, oldest first, as `hornbook runs --json` lists them: its folder, its
    state, and the last numbers recorded. Raises InputError when there is no such folder."""
    parent = Path(folder)
    if not parent.is_dir():
        raise InputError(f"there is no folder {folder}; runs are made by hornbook train.")
    return [_facts(Run.open(path)) for path in _runs(parent)]


def check_model(name: str | Path) -> None:
    """Raise InputError where MODEL names nothing, or a folder of runs: without torch, so that it is said at once."""
    path = Path(name)
    if not path.exists() and (path.parent.is_dir() or str(name).startswith((".", "/", "~", "runs/"))):
        known = _names(path.parent) or _names(Path("runs"))
        near = suggestion(str(path), known) or (f" (the newest run is {known[0]})" if known else "")
        raise InputError(f"there is no run or model {name}{near}.")
    if path.is_dir() and not is_run(path) and (known := _names(path)):
        raise InputError(f"{name} is a folder of runs: name one of them, such as {', '.join(known[:5])}.")


def runs_in(folder: str | Path) -> list[str]:
    """The runs directly below a folder that is none itself, the oldest first; [] where there are none."""
    path = Path(folder)
    return [str(run) for run in _runs(path)] if path.is_dir() and not is_run(path) else []


def _runs(folder: Path) -> list[Path]:
    """The runs directly below a folder, the oldest first."""
    return sorted(filter(is_run, folder.iterdir()), key=lambda path: (path / "settings.toml").stat().st_mtime)


def _names(folder: Path) -> list[str]:
    """The same as text, the newest first; [] where there is no such folder."""
    return [str(path) for path in reversed(_runs(folder))] if folder.is_dir() else []


_LAST = (
    "step", "tokens", "epoch", "seconds", "train_loss_nats_per_token", "probe_validation_loss_nats_per_token",
    "probe_validation_bits_per_byte",
)  # fmt: skip


def _facts(run: Run) -> dict[str, Any]:
    """The last recorded numbers; of a run that is done, also those of the whole validation text."""
    facts: dict[str, Any] = {"run": str(run.folder), "state": "unfinished"}
    try:
        rows = run.rows()
        run.check("settings.toml", "environment.json", "tokenizer.json", "tokenizer_config.json", EVALUATION)
    except InputError as error:
        return facts | {"state": f"damaged: {error}"}
    for row in rows:
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
        facts |= _scored(run.folder / EVALUATION)
    return facts


class _Scored(msgspec.Struct):
    loss_nats_per_token: float | None
    bits_per_byte: float | None


def _scored(report: Path) -> dict[str, Any]:
    try:
        numbers = msgspec.json.decode(report.read_bytes(), type=_Scored)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):  # no validation text, or an older run
        return {}
    return {"validation_loss_nats_per_token": numbers.loss_nats_per_token, "bits_per_byte": numbers.bits_per_byte}
