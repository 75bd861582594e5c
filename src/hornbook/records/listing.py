"""The runs of a folder, one line of facts each."""

from __future__ import annotations

import os
import socket
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from hornbook.facts.errors import InputError, suggestion
from hornbook.facts.settings import names
from hornbook.facts.shape import GPTShape
from hornbook.records.run import EVALUATION, GROUP, Run, is_run


def runs(folder: str | Path = "runs") -> list[dict[str, Any]]:
    """Facts of every run below `folder`, as `hornbook runs --json` lists them: its folder, date (UTC), state
    ("running", "unfinished", or why it ended), `num_parameters`, the last numbers recorded, and its `settings` by their
    dotted names. Those directly below stand first, the oldest first, then those of each group of seeds and of each
    grid. Raises InputError when there is no such folder."""
    parent = Path(folder)
    if not parent.is_dir():
        raise InputError(f"there is no folder {folder}; runs are made by hornbook train.")
    return [_facts(Run.open(path)) for path in [*_runs(parent), *_grouped(parent)]]


def is_running(run: Run) -> bool:
    """Whether a process on this machine holds the run's lock, by what stands in it: the lock itself is not touched."""
    try:
        words = (run.folder / ".lock").read_text("utf-8", "replace").split()
        if len(words) != 4 or words[0] != "process" or not words[1].isdecimal() or words[3] != socket.gethostname():
            return False
        os.kill(int(words[1]), 0)
    except PermissionError:  # of another user
        return True
    except (OSError, OverflowError):
        return False
    return int(words[1]) != os.getpid()


def resolved(name: str | Path) -> Path:
    """The path that a name of a run means: `latest` is the newest one in ./runs, unless there is such a folder. Raises
    InputError where there is none."""
    if str(name) != "latest" or Path(name).exists():
        return Path(name)
    newest = _runs(Path("runs"))[-1:] if Path("runs").is_dir() else []
    if not newest:
        raise InputError("there is no latest run: the folder runs has none here; hornbook train makes one.")
    return newest[0]


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """The names of the folders; where two have the same, with as much of what they lie in as tells them apart.

    >>> distinct_names([Path("runs/a"), Path("runs/b"), Path("old/b")])
    ['a', 'runs/b', 'old/b']
    """
    names = []
    for folder in folders:
        parts, length = folder.parts, 1
        while length < len(parts) and sum(other.parts[-length:] == parts[-length:] for other in folders) > 1:
            length += 1
        names.append("/".join(parts[-length:]))
    return names


def check_model(name: str | Path) -> None:
    """Raise InputError where MODEL names nothing, or a folder of runs: without torch, so that it is said at once."""
    path = resolved(name)
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


def _grouped(folder: Path) -> Iterator[Path]:
    """The runs in groups of seeds below a folder, and in grids, whose groups lie one level deeper."""
    for below in ("*", "*/*"):
        for group in sorted(folder.glob(f"{below}/{GROUP}")):
            yield from _runs(group.parent)


def _names(folder: Path) -> list[str]:
    """The same as text, the newest first; [] where there is no such folder."""
    return [str(path) for path in reversed(_runs(folder))] if folder.is_dir() else []


_LAST = (
    "step", "tokens", "epoch", "seconds", "train_loss_nats_per_token", "probe_validation_loss_nats_per_token",
    "probe_validation_bits_per_byte",
)  # fmt: skip


def _facts(run: Run) -> dict[str, Any]:
    """The last recorded numbers; of a run that is done, also those of the whole validation text."""
    made = datetime.fromtimestamp((run.folder / "settings.toml").stat().st_mtime, UTC)
    facts: dict[str, Any] = {"run": str(run.folder), "date": f"{made:%Y-%m-%d %H:%M}", "state": "unfinished"}
    try:
        rows = run.rows()
        facts["settings"] = _settings(run.settings_toml)
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
    if (shape := shape_of(run)) is not None:
        facts["num_parameters"] = shape.parameters
    if facts["state"] not in ("unfinished", "interrupted"):
        facts |= _scored(run.folder / EVALUATION)
    if is_running(run):
        facts["state"] = "running"
    return facts


def shape_of(run: Run) -> GPTShape | None:
    """The shape that a checkpoint of the run names; None where there is none yet, or it is damaged."""
    for folder in run.checkpoints()[:1]:
        with suppress(OSError, msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError):
            manifest = msgspec.json.decode((folder / "manifest.json").read_bytes(), type=dict[str, Any])
            return msgspec.convert(manifest.get("shape"), GPTShape)
    return None


def _settings(toml: str) -> dict[str, Any]:
    """By dotted name, those of today also in an older run; {} where they cannot be read."""
    settings: dict[str, Any] = {}
    with suppress(tomllib.TOMLDecodeError):
        for section, table in tomllib.loads(toml).items():
            for key, value in table.items() if isinstance(table, dict) else ():
                field = names().get(f"{section}.{key}")
                settings[f"{section}.{key}" if field is None else field.name] = value
    return settings


class _Scored(msgspec.Struct):
    loss_nats_per_token: float | None
    bits_per_byte: float | None


def _scored(report: Path) -> dict[str, Any]:
    try:
        numbers = msgspec.json.decode(report.read_bytes(), type=_Scored)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):  # no validation text, or an older run
        return {}
    return {"validation_loss_nats_per_token": numbers.loss_nats_per_token, "bits_per_byte": numbers.bits_per_byte}
