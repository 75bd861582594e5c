"""The run folder: whoever can copy a folder can move a run, and whatever shows a run reads only this.

    settings.toml      resolved settings, itself a recipe      environment.json   versions, commit, hardware, threads
    metrics.jsonl      append-only, one object a line          samples.jsonl      what the model wrote, append-only
    plan.json          what was expected at its beginning    reports/          *.json, *.html, *.png
    checkpoints/step-00001000/manifest.json + weights; best-00000640 where other weights were the best
    files.json         the SHA-256 of every file that is written whole: one that was changed since is refused

The log is only ever appended to. A resume at step k appends `{"event": "resume", "step": k}`, and readers drop the rows
with a greater step that stand before it: the history of a killed run stays on disk, but nobody plots it twice.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import msgspec

from hornbook.facts.errors import InputError, SystemFailure
from hornbook.facts.io import encoded, hold, json_bytes, no_link, own, pretty, read_at, write_aside

Row = dict[str, Any]

# What a creation that was killed half-way can leave behind: such a folder may be created again.
LEFTOVERS = {".lock", "environment.json", ".environment.json.part", ".settings.toml.part", "checkpoints", "reports",
             "files.json", ".files.json.part"}  # fmt: skip
EVALUATION = "reports/evaluation.json"
GROUP = "group.json"  # of a folder with the runs of several seeds
_PUT_BACK = "put back a copy of it, or give another run (without files.json nothing is checked)."
_CHECKPOINT_NAME = re.compile(r"(?:step|best)-(\d{8,})")


class Run:
    """A run folder. `Run.create` makes one, `Run.open` finds one; hold `lock()` while training in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mirrors: list[Any] = []  # trackers that what is logged is copied to: mirroring.py
        self._repaired: set[Path] = set()

    @classmethod
    def create(cls, folder: Path | str, settings_toml: str, environment: Mapping[str, Any]) -> Self:
        """Make a run of an absent or empty folder. settings.toml is written last: a folder that has it is a run.

        Raises InputError if the folder is a run already or holds other things, SystemFailure if it cannot be written.
        """
        folder = Path(folder)
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file, not a folder; give --out another name")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SystemFailure(f"cannot make the folder {folder}: {error.strerror}") from error
        with _locked(folder):
            if (folder / "settings.toml").exists():
                raise InputError(f"{folder} is a run already; resume it, or give --out another name")
            foreign = sorted(entry.name for entry in folder.iterdir() if entry.name not in LEFTOVERS)
            if foreign:
                raise InputError(f"{folder} holds other things ({foreign[0]}); give --out a fresh folder")
            run = cls(folder)
            no_link(folder / "checkpoints").mkdir(exist_ok=True)
            no_link(run.reports).mkdir(exist_ok=True)
            run._write_hashes({})
            run.write({"environment.json": pretty(environment), "settings.toml": settings_toml})
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

        Raises InputError at once when another process holds it, or where a folder in it is a link.
        """
        no_link(self.folder / "checkpoints")
        no_link(self.reports)
        with _locked(self.folder):
            yield

    # Files that are written whole.

    @property
    def hashes(self) -> dict[str, list[str]] | None:
        """The SHA-256 of each file that is written whole, or the two of one that is being replaced; None for a run from
        before they were kept."""
        try:
            return msgspec.json.decode((self.folder / "files.json").read_bytes(), type=dict[str, list[str]])
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            raise InputError(f"{self.folder / 'files.json'} is damaged: {_PUT_BACK}") from None

    def write(self, contents: Mapping[str, str | bytes]) -> None:
        """Write files of the run by their names in it, each whole.

        Their hashes are written first, beside those of what they replace: a crash between leaves no file that is wrong.
        """
        whole = {name: encoded(content) for name, content in contents.items()}
        new = {name: [hashlib.sha256(content).hexdigest()] for name, content in whole.items()}
        known = self.hashes
        if known is not None:
            self._write_hashes(known | {name: [*hashes, *known.get(name, [])[:1]] for name, hashes in new.items()})
        for name, content in whole.items():
            if name.startswith("reports/"):
                no_link(self.reports).mkdir(exist_ok=True)
            write_aside(self.folder / name, content)
        if known is not None and new.keys() & known.keys():
            self._write_hashes(known | new)

    def _write_hashes(self, hashes: Mapping[str, list[str]]) -> None:
        write_aside(self.folder / "files.json", pretty(hashes))

    def read(self, name: str) -> bytes:
        """A file that was written whole. Raises InputError when it is missing or not what was written."""
        try:
            content = (self.folder / name).read_bytes()
        except OSError as error:
            raise InputError(f"{self.folder / name} cannot be read ({error.strerror}): {_PUT_BACK}") from None
        hashes = self.hashes
        if hashes is not None and hashlib.sha256(content).hexdigest() not in hashes.get(name, []):
            raise InputError(f"{self.folder / name} was changed since it was written: {_PUT_BACK}")
        return content

    def check(self, *names: str) -> None:
        """Raise InputError for each of these files that was changed or removed since it was written."""
        hashes = self.hashes or {}
        for name in names:
            if name in hashes or (self.folder / name).exists():
                self.read(name)

    @property
    def settings_toml(self) -> str:
        return self.read("settings.toml").decode("utf-8", "replace")

    @property
    def environment(self) -> Row:
        """Raises InputError when it is missing, damaged or changed."""
        try:
            return msgspec.json.decode(self.read("environment.json"), type=Row)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{self.folder}/environment.json is damaged: {_PUT_BACK}") from error

    @property
    def plan(self) -> Row:
        """What was expected of it at its beginning, {} where nothing was. Raises InputError when it was changed."""
        try:
            self.check("plan.json")
            return msgspec.json.decode((self.folder / "plan.json").read_bytes(), type=Row)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return {}

    def write_plan(self, plan: Mapping[str, Any]) -> None:
        self.write({"plan.json": pretty(plan)})

    @property
    def reports(self) -> Path:
        return self.folder / "reports"

    def write_report(self, name: str, content: str | bytes) -> Path:
        """Write reports/<name> aside and rename it: a reader sees the old report or the new one. Returns its path."""
        if name != Path(name).name or name in ("", ".", ".."):
            raise InputError(f'"{name}" is not a plain file name for a report')
        path = self.reports / name
        if path == self.folder / EVALUATION:
            self.write({EVALUATION: content})
            return path
        no_link(self.reports).mkdir(exist_ok=True)  # nobody here reads it, and a training may be writing files.json
        return write_aside(path, content)

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

    def _finished(self, prefix: str) -> list[Path]:
        folders = (path.parent for path in (self.folder / "checkpoints").glob(f"{prefix}-*/manifest.json"))
        return sorted((path for path in folders if _CHECKPOINT_NAME.fullmatch(path.name)), key=checkpoint_step)

    # The two logs.

    def log(self, row: Mapping[str, Any]) -> None:
        """Append one row to metrics.jsonl. NaN and infinity are written as null.

        Steps may be lost in a power cut; every other event (evaluation, checkpoint, resume, end) is on the disk, with
        all rows before it, when this returns. A resume is noted in samples.jsonl as well: one rule serves both files.
        Raises SystemFailure when the disk is full; the log then ends with the last whole line.
        """
        if row.get("event") == "resume":
            self._append("samples.jsonl", {"event": "resume", "step": row["step"]}, durable=True)
        self._append("metrics.jsonl", row, durable=row.get("event") != "step")
        for mirror in self.mirrors:
            mirror.row(row)

    def log_sample(self, row: Mapping[str, Any]) -> None:
        """Append one row to samples.jsonl: step, tokens, prompt, text, seed, temperature."""
        self._append("samples.jsonl", row, durable=False)
        for mirror in self.mirrors:
            mirror.row(row)

    def rows(self) -> list[Row]:
        """Every row of metrics.jsonl that still holds, in order, resume events included."""
        if not (self.folder / "metrics.jsonl").exists():
            return []
        from hornbook.records.rows import check_row, read_rows, renamed, without_replaced

        return [renamed(row) for row in without_replaced(read_rows(self.folder / "metrics.jsonl", check_row))]

    def samples(self) -> list[Row]:
        """Every sample that still holds, in order."""
        if not (self.folder / "samples.jsonl").exists():
            return []
        from hornbook.records.rows import check_sample, read_rows, without_replaced

        rows = without_replaced(read_rows(self.folder / "samples.jsonl", check_sample))
        return [row for row in rows if row.get("event") != "resume"]

    def _append(self, name: str, row: Mapping[str, Any], *, durable: bool) -> None:
        path = self.folder / name
        if path not in self._repaired:
            _repair_last_line(path)
            self._repaired.add(path)
        line = json_bytes(row) + b"\n"
        try:
            with open(path, "ab", buffering=0, opener=own) as file:
                before = os.fstat(file.fileno()).st_size
                if file.write(line) != len(line):
                    # A full disk takes a part of the line; take it back, or the next row would be glued to it.
                    os.ftruncate(file.fileno(), before)
                    raise SystemFailure(f"cannot write {path}: the disk is full")
                if durable:
                    os.fsync(file.fileno())
        except OSError as error:
            raise SystemFailure(f"cannot write {path}: {error.strerror}") from error


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


def default_out(stem: str, parent: Path = Path("runs")) -> Path:
    """Make a fresh folder with a readable, dated name, such as runs/2026-01-31-the-verdict, and return it.

    The folder is made here, so that two jobs started in the same second get two names; call it right before
    `Run.create`. Raises SystemFailure when `parent` cannot be written.
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
        raise SystemFailure(f"cannot make a folder in {parent}: {error.strerror}") from error
    raise SystemFailure(f"{parent} has 9,999 runs of the name {name} today; give --out a name")


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        file = own(folder / ".lock", os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise SystemFailure(f"cannot write in {folder}: {error.strerror}") from error
    with os.fdopen(file, "r+b", buffering=0):  # its end gives up the lock; removed, two processes would lock two files
        try:
            hold(file, wait=False)
        except BlockingIOError as error:
            holder = read_at(file, 200, 0).decode(errors="replace").strip()
            raise InputError(f"{folder} is in use by another process{f' ({holder})' if holder else ''}") from error
        except OSError as error:
            advice = "give --out a folder on another disk"
            raise SystemFailure(f"cannot lock {folder} ({error.strerror}); {advice}") from error
        is_ours = os.fstat(file).st_size == 0 or read_at(file, 8, 0) == b"process "  # else others put it there
        if is_ours:
            os.ftruncate(file, 0)
            os.lseek(file, 0, os.SEEK_SET)
            os.write(file, f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
        if is_ours:
            os.ftruncate(file, 0)


def _repair_last_line(path: Path) -> None:
    """Cut a torn last line off, or end it where only its newline is missing. A second name of the file, in a copy of
    the folder that was made of links, keeps what it has: this one becomes a file of its own."""
    try:
        if path.stat().st_nlink > 1:
            write_aside(path, path.read_bytes())
        with open(path, "r+b", opener=own) as file:
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
        raise SystemFailure(f"cannot repair {path}: {error.strerror}") from error
