"""The runs of a folder as a server sees them: read only, nothing through a link, a file again only when it changed."""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from hornbook.facts.errors import InputError
from hornbook.facts.io import OPENED
from hornbook.records.listing import is_running
from hornbook.records.run import EVALUATION, GROUP, is_run
from hornbook.web.log_tail import RunLog

T = TypeVar("T")
SEPARATOR = ":"  # of the names in an id, since a slash ends a part of an address
FILE_BYTES = 64 * 2**20
WATCHED = ("metrics.jsonl", "settings.toml", ".lock", EVALUATION, "reports/memorization.json", "reports/summary.json")


class RunFiles:
    """One run folder. `id` is how it is asked for: its name, below those of the groups it is in; `given` the path by
    which commands find it."""

    def __init__(self, folder: Path, id: str | None = None, given: Path | None = None) -> None:
        self.folder, self.id, self.given = folder, id or folder.name, given or folder
        self.log = RunLog(folder / "metrics.jsonl")
        self._decoded: dict[tuple[str, Any], tuple[Any, Any]] = {}

    def stamp(self) -> tuple[Any, ...]:
        """Differs whenever something that is shown has changed."""
        return (*(_stamp(self.folder / name) for name in WATCHED), is_running(self.folder))

    def read(self, name: str) -> bytes | None:
        """A file of the run; None where it is absent, a link, too large, or cannot be read."""
        path = self.folder / name
        if path.parent != self.folder and not _is_folder(path.parent):
            return None
        return read_plain(path)

    def decoded(self, name: str, type: type[T]) -> T | None:
        """A file of JSON; None where it is absent or not of this type."""
        stamp = _stamp(self.folder / name)
        known = self._decoded.get((name, type))
        if known is None or known[0] != stamp:
            content, value = self.read(name), None
            if content is not None:
                with suppress(msgspec.DecodeError, UnicodeDecodeError):
                    value = msgspec.json.decode(content, type=type)
            self._decoded[name, type] = known = (stamp, value)
        return known[1]

    def settings(self) -> dict[str, Any]:
        """By dotted names. Raises InputError where they cannot be read."""
        content = self.read("settings.toml")
        try:
            table = tomllib.loads((content or b"").decode())
        except ValueError as error:
            raise InputError(f"settings.toml is damaged: {error}.") from None
        return {f"{section}.{key}": value for section, values in table.items() if isinstance(values, dict)
                for key, value in values.items()}  # fmt: skip

    def started(self) -> float | None:
        """When it was made, in seconds since 1970."""
        with suppress(OSError):
            return min(os.lstat(self.folder / name).st_mtime for name in ("settings.toml", "environment.json"))
        return None

    def changed(self) -> float | None:
        with suppress(OSError):
            return os.lstat(self.folder / "metrics.jsonl").st_mtime
        return None

    def names_in(self, folder: str) -> list[str]:
        """The plain files and folders in a folder of the run, no links, in order."""
        if not _is_folder(self.folder / folder):
            return []
        with suppress(OSError), os.scandir(self.folder / folder) as entries:
            return sorted(entry.name for entry in entries if not entry.is_symlink())
        return []


class RunsFolder:
    """The runs directly below a folder and in groups of seeds and grids there, or the folder itself where it is a run.
    A link is none."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise InputError(f"there is no folder {folder}; runs are made by hornbook train.")
        self.folder, self.given = folder.resolve(), folder
        self._runs: dict[str, RunFiles] = {}

    def runs(self) -> dict[str, RunFiles]:
        """By their ids, the oldest first."""
        places = [self.folder] if is_run(self.folder) else list(_runs_below(self.folder))
        known = {}
        for path in places:
            below = path.relative_to(self.folder)
            id = SEPARATOR.join(below.parts) or path.name
            if all(_is_id(part) for part in below.parts or [path.name]):
                known[id] = self._runs.get(id) or RunFiles(path, id, self.given / below)
        self._runs = dict(sorted(known.items(), key=lambda item: (item[1].started() or 0, item[0])))
        return self._runs


def _runs_below(folder: Path, depth: int = 0) -> Iterator[Path]:
    """The runs in a folder; two levels deep those of groups, and of folders of groups."""
    with suppress(OSError), os.scandir(folder) as entries:
        for path in [Path(e.path) for e in entries if e.is_dir(follow_symlinks=False)]:
            if is_run(path):
                if depth == 0 or (folder / GROUP).is_file():
                    yield path
            elif depth < 2 and not path.name.startswith("."):
                yield from _runs_below(path, depth + 1)


def _is_id(name: str) -> bool:
    """A name that can stand in an address and in JSON as it is."""
    return name.isprintable() and "\\" not in name and not name.startswith(".")


def read_plain(path: Path, most: int = FILE_BYTES) -> bytes | None:
    """The content of a regular file of at most `most` bytes, not through a link; else None."""
    try:
        descriptor = os.open(path, os.O_RDONLY | OPENED)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        return file.read(most) if stat.S_ISREG(status.st_mode) and status.st_size <= most else None


def _is_folder(path: Path) -> bool:
    with suppress(OSError):
        return stat.S_ISDIR(os.lstat(path).st_mode)
    return False


def _stamp(path: Path) -> tuple[int, int, int] | None:
    with suppress(OSError):
        status = os.lstat(path)
        return status.st_mtime_ns, status.st_size, status.st_ino
    return None
