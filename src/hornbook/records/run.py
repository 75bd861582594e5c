"""The run folder: whoever can copy a folder can move a run, and whatever shows a run reads only this.

    settings.toml      resolved settings, itself a recipe      environment.json   versions, commit, hardware, threads
    metrics.jsonl      append-only, one object a line          samples.jsonl      what the model wrote, append-only
    plan.json          what was expected at its beginning    reports/          *.json, *.html, *.png
    checkpoints/step-00001000/manifest.json + weights; best-00000640 where other weights were the best

The log is only ever appended to. A resume at step k appends `{"event": "resume", "step": k}`, and readers drop the rows
with a greater step that stand before it: the history of a killed run stays on disk, but nobody plots it twice.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import math
import os
import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import msgspec

from hornbook.facts.errors import InputError, WorldError
from hornbook.text.files import sync

Row = dict[str, Any]

# What a creation that was killed half-way can leave behind: such a folder may be created again.
LEFTOVERS = {".lock", "environment.json", ".environment.json.part", ".settings.toml.part", "checkpoints", "reports"}
_CHECKPOINT_NAME = re.compile(r"(?:step|best)-(\d{8,})")
# What rows of an evaluation called the probe's numbers before they said so.
_OLD_KEYS = {
    "validation_loss_nats_per_token": "probe_validation_loss_nats_per_token",
    "validation_bits_per_byte": "probe_validation_bits_per_byte",
    "generalization_gap_bits_per_byte": "probe_generalization_gap_bits_per_byte",
}


class Run:
    """A run folder. `Run.create` makes one, `Run.open` finds one; hold `lock()` while training in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._repaired: set[Path] = set()

    @classmethod
    def create(cls, folder: Path | str, settings_toml: str, environment: Mapping[str, Any]) -> Self:
        """Make a run of an absent or empty folder. settings.toml is written last: a folder that has it is a run.

        Raises InputError if the folder is a run already or holds other things, WorldError if it cannot be written.
        """
        folder = Path(folder)
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file, not a folder; give --out another name")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WorldError(f"cannot make the folder {folder}: {error.strerror}") from error
        with _locked(folder):
            if (folder / "settings.toml").exists():
                raise InputError(f"{folder} is a run already; resume it, or give --out another name")
            foreign = sorted(entry.name for entry in folder.iterdir() if entry.name not in LEFTOVERS)
            if foreign:
                raise InputError(f"{folder} holds other things ({foreign[0]}); give --out a fresh folder")
            run = cls(folder)
            (folder / "checkpoints").mkdir(exist_ok=True)
            run.reports.mkdir(exist_ok=True)
            write_aside(folder / "environment.json", _pretty(environment))
            write_aside(folder / "settings.toml", settings_toml)
        return run

    @classmethod
    def open(cls, folder: Path | str) -> Self:
        """Return the run in `folder`. Raises InputError when there is none."""
        folder = Path(folder)
        if not folder.exists():
            raise InputError(f"there is no run at {folder}")
        if not is_run(folder):
            raise InputError(f"{folder} is not a run (a run is a folder with a settings.toml)")
        return cls(folder)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for this process. The kernel lets go when the process dies, so no lock outlives a kill -9.

        Raises InputError at once when another process holds it.
        """
        with _locked(self.folder):
            yield

    # Settings, environment, checkpoints, reports.

    @property
    def settings_toml(self) -> str:
        return (self.folder / "settings.toml").read_text(encoding="utf-8")

    def write_settings(self, settings_toml: str) -> None:
        """Replace settings.toml (a resume may lengthen a run)."""
        write_aside(self.folder / "settings.toml", settings_toml)

    @property
    def environment(self) -> Row:
        try:
            return msgspec.json.decode((self.folder / "environment.json").read_bytes(), type=Row)
        except (FileNotFoundError, msgspec.DecodeError) as error:
            raise InputError(f"{self.folder}/environment.json is missing or damaged") from error

    @property
    def plan(self) -> Row:
        """What was expected of it at its beginning, {} where nothing was."""
        try:
            return msgspec.json.decode((self.folder / "plan.json").read_bytes(), type=Row)
        except (FileNotFoundError, msgspec.DecodeError):
            return {}

    def write_plan(self, plan: Mapping[str, Any]) -> None:
        write_aside(self.folder / "plan.json", _pretty(plan))

    @property
    def reports(self) -> Path:
        return self.folder / "reports"

    def write_report(self, name: str, content: str | bytes) -> Path:
        """Write reports/<name> aside and rename it: a reader sees the old report or the new one. Returns its path."""
        if name != Path(name).name or name in ("", ".", ".."):
            raise InputError(f'"{name}" is not a plain file name for a report')
        self.reports.mkdir(exist_ok=True)
        return write_aside(self.reports / name, content)

    def checkpoint_folder(self, step: int) -> Path:
        """Where the checkpoint after `step` steps belongs, there or not."""
        return self.folder / "checkpoints" / f"step-{step:08d}"

    def best_folder(self, step: int) -> Path:
        """Where the weights of the best look belong, if it was after `step` steps and they are in no checkpoint."""
        return self.folder / "checkpoints" / f"best-{step:08d}"

    def checkpoints(self) -> list[Path]:
        """Folders of finished checkpoints, in order of their step. One without a manifest.json was never finished."""
        return self._finished("step")

    def best_checkpoints(self) -> list[Path]:
        """Folders with best weights, of which the newest checkpoint says which is the best."""
        return self._finished("best")

    def _finished(self, kind: str) -> list[Path]:
        found = (self.folder / "checkpoints").glob(f"{kind}-*/manifest.json")
        return sorted((m.parent for m in found if _CHECKPOINT_NAME.fullmatch(m.parent.name)), key=checkpoint_step)

    # The two logs.

    def log(self, row: Mapping[str, Any]) -> None:
        """Append one row to metrics.jsonl. NaN and infinity are written as null.

        Steps may be lost in a power cut; every other event (evaluation, checkpoint, resume, end) is on the disk, with
        all rows before it, when this returns. A resume is noted in samples.jsonl as well: one rule serves both files.
        Raises WorldError when the disk is full; the log then ends with the last whole line.
        """
        if row.get("event") == "resume":
            self._append("samples.jsonl", {"event": "resume", "step": row["step"]}, durable=True)
        self._append("metrics.jsonl", row, durable=row.get("event") != "step")

    def log_sample(self, row: Mapping[str, Any]) -> None:
        """Append one row to samples.jsonl: step, tokens, prompt, text, seed, temperature."""
        self._append("samples.jsonl", row, durable=False)

    def rows(self) -> list[Row]:
        """Every row of metrics.jsonl that still holds, in order, resume events included."""
        return [_renamed(row) for row in without_replaced(read_rows(self.folder / "metrics.jsonl"))]

    def samples(self) -> list[Row]:
        """Every sample that still holds, in order."""
        rows = without_replaced(read_rows(self.folder / "samples.jsonl"))
        return [row for row in rows if row.get("event") != "resume"]

    def _append(self, name: str, row: Mapping[str, Any], *, durable: bool) -> None:
        path = self.folder / name
        if path not in self._repaired:
            _repair_last_line(path)
            self._repaired.add(path)
        line = msgspec.json.encode(row, enc_hook=_plain) + b"\n"
        try:
            file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                before = os.fstat(file).st_size
                if os.write(file, line) != len(line):
                    # A full disk takes a part of the line; take it back, or the next row would be glued to it.
                    os.ftruncate(file, before)
                    raise WorldError(f"cannot write {path}: the disk is full")
                if durable:
                    os.fsync(file)
            finally:
                os.close(file)
        except OSError as error:
            raise WorldError(f"cannot write {path}: {error.strerror}") from error


def is_run(folder: Path) -> bool:
    """Whether the folder is a run: it has a settings.toml that belongs to a run, not only a recipe."""
    return (folder / "settings.toml").is_file() and (folder / "environment.json").is_file()


def checkpoint_step(folder: Path) -> int:
    """Step of a checkpoint folder.

    >>> checkpoint_step(Path("runs/a/checkpoints/step-00001000"))
    1000
    """
    match = _CHECKPOINT_NAME.fullmatch(folder.name)
    if match is None:
        raise InputError(f"{folder} is not a checkpoint (its name should be like step-00001000)")
    return int(match[1])


def without_replaced(rows: list[Row]) -> list[Row]:
    """Drop the rows that a later resume replaced: those with a greater step before a resume at step k. Decisions stay.

    >>> without_replaced([{"step": 1}, {"step": 2}, {"event": "resume", "step": 1}, {"step": 2}])
    [{'step': 1}, {'event': 'resume', 'step': 1}, {'step': 2}]
    """
    kept: list[Row] = []
    for row in rows:
        if row.get("event") == "resume":
            kept = [old for old in kept if old.get("step", 0) <= row["step"] or old.get("event") == "decision"]
        kept.append(row)
    return kept


def _renamed(row: Row) -> Row:
    """A row of an evaluation by the names of today."""
    if row.get("event") != "evaluation":
        return row
    return {_OLD_KEYS.get(key, key): value for key, value in row.items()}


def read_rows(path: Path) -> list[Row]:
    """Rows of a .jsonl log, [] when it is absent. A torn last line (the writer was killed, or is writing) is left out.

    Raises InputError naming the line when a line before the last is not an object.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    decoder = msgspec.json.Decoder(Row)
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            if line:
                rows.append(decoder.decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            if number < len(lines):
                raise InputError(f"{path}, line {number}, is damaged; remove this line to read the others") from error
    return rows


def write_aside(path: Path, content: str | bytes) -> Path:
    """Write a file so that a crash or a power cut leaves the old content or the new, never a part. Returns `path`.

    Raises WorldError when it cannot be written; nothing is left beside it.
    """
    aside = path.with_name(f".{path.name}.part")
    try:
        aside.write_bytes(content.encode() if isinstance(content, str) else content)
        sync(aside)
        aside.replace(path)
        sync(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise WorldError(f"cannot write {path}: {error.strerror}") from error
    return path


def default_out(stem: str, parent: Path = Path("runs")) -> Path:
    """Make a fresh folder with a readable, dated name, such as runs/2026-01-31-the-verdict, and return it.

    The folder is made here, so that two jobs started in the same second get two names; call it right before
    `Run.create`. Raises WorldError when `parent` cannot be written.
    """
    words = "-".join(re.findall(r"\w+", stem.lower()))[:40].strip("-_")
    name = f"{datetime.date.today().isoformat()}-{words or 'run'}"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for number in range(1, 10_000):
            folder = parent / (name if number == 1 else f"{name}-{number}")
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
                return folder
    except OSError as error:
        raise WorldError(f"cannot make a folder in {parent}: {error.strerror}") from error
    raise WorldError(f"{parent} has 9,999 runs of the name {name} today; give --out a name")


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        file = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise WorldError(f"cannot write in {folder}: {error.strerror}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(file, 200, 0).decode(errors="replace").strip()
        os.close(file)
        raise InputError(f"{folder} is in use by another process{f' ({holder})' if holder else ''}") from error
    except OSError as error:
        os.close(file)
        raise WorldError(f"cannot lock {folder} ({error.strerror}); give --out a folder on another disk") from error
    try:
        os.ftruncate(file, 0)
        os.pwrite(file, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
        os.ftruncate(file, 0)
    finally:
        os.close(file)  # gives up the lock; the file stays, since removing it would let two processes lock two files


def _repair_last_line(path: Path) -> None:
    """Cut a torn last line off, or end it where only its newline is missing."""
    try:
        with path.open("r+b") as file:
            content = file.read()
            whole = content.rfind(b"\n") + 1
            if whole == len(content):
                return
            try:
                msgspec.json.decode(content[whole:], type=Row)
            except (msgspec.DecodeError, UnicodeDecodeError):
                file.truncate(whole)
            else:
                file.write(b"\n")
    except FileNotFoundError:
        return
    except OSError as error:
        raise WorldError(f"cannot repair {path}: {error.strerror}") from error


def _plain(value: object) -> object:
    """Numpy's numbers and paths, as plain values of JSON."""
    if isinstance(value, Path):
        return str(value)
    item = getattr(value, "item", None)
    if item is None:
        raise TypeError(f"{type(value).__name__} cannot be written to a log")
    plain = item()
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain


def _pretty(content: Mapping[str, Any]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(content, enc_hook=_plain), indent=2) + b"\n"
