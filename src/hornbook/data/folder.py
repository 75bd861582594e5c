"""How a prepared folder comes to its place: whole or not at all, by one process at a time, over nobody else's files.

It is made in `.NAME.partial` beside it, which is locked, and renamed; for a moment the one that it replaces is called
`.NAME.old`. Folders of others by these names are refused.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hornbook.data import shard_writer, shards
from hornbook.data.shards import MANIFEST, PARTS
from hornbook.facts.errors import InputError, SystemFailure
from hornbook.facts.io import hold, others_in, own, remove_own, sync
from hornbook.text.canaries import CANARIES

_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
_OURS = re.compile(
    rf"{re.escape(MANIFEST)}|{CANARIES}|tokenizer(_config)?\.json|"
    rf"({'|'.join(PARTS)})(-\d{{5,}}\.bin|\.documents\.npy|\.names\.json)"
)
_WITH_LOCK = re.compile(f"{_OURS.pattern}|lock")


def check_out(out: Path) -> None:
    """Clear away what a process that was killed has left beside `out`; one that is alive is waited for.

    Raises InputError unless `out` is new, empty, or a prepared folder with nothing of anybody else's in it.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; give a folder for the prepared text with --out")
    if (other := _stranger(out)) is not None:
        raise InputError(f"{out} holds other files ({other}) that would be lost; give another folder with --out")
    if any(map(os.path.lexists, (_partial(out), shards.old_folder(out)))):
        with disk(out, 0), aside(out):
            pass


def _stranger(out: Path) -> str | None:
    """The first name in `out` of something that is not ours."""
    with suppress(FileNotFoundError, NotADirectoryError):
        before = out.stat()
        names = sorted(os.listdir(out))
        strangers = names if not _is_prepared(out) else [name for name in names if not _WITH_LOCK.fullmatch(name)]
        if strangers and os.path.samestat(before, out.stat()):  # else it was replaced while we looked
            return strangers[0]
    return None


def _is_prepared(folder: Path) -> bool:
    """Whether the folder was made here, whole or damaged since."""
    for name, sign in ((MANIFEST, shards.FORMAT.encode()), ("train-00000.bin", b"hornbook")):
        if (folder / name).is_file():
            with (folder / name).open("rb") as file:
                if sign in file.read(100):
                    return True
    return False


def _tidy(partial: Path, out: Path) -> None:
    """Finish what a process that was killed has left beside `out`; the lock of `partial` is held."""
    old = shards.old_folder(out)
    remove_own(partial, _OURS)  # all but the lock
    if old.is_dir() and not out.exists():
        old.rename(out)
    _remove_old(old)


def _remove_old(old: Path) -> None:
    remove_own(old, _WITH_LOCK, last=MANIFEST)  # last, so that it is known whose the rest is


def _partial(out: Path) -> Path:
    return out.with_name(f".{out.name}.partial")


def _check_beside(place: Path, sign: str) -> None:
    """InputError where something of others has the name of what we put beside a prepared folder: it holds other names,
    or not the file `sign`, which is the first that is written and the last that goes."""
    names: list[str] = []
    with suppress(FileNotFoundError, NotADirectoryError):
        names = sorted(os.listdir(place))
    other = others_in(place, _WITH_LOCK)
    if other is None and names and sign not in names:
        other = names[0]
    if other is not None:
        raise InputError(f"{place} holds other things ({other}) that would be lost; move it, or give another --out")


@contextmanager
def disk(out: Path, needed_bytes: int) -> Iterator[None]:
    """Say a failure of the disk as a sentence."""
    try:
        yield
    except OSError as error:
        untouched = f"{out} is as it was before"
        if error.errno in _FULL:
            needed = f"up to {needed_bytes / 1e6:,.0f} MB are needed"
            raise SystemFailure(
                f"the disk of {out} is full ({needed}); free some or give another --out; {untouched}"
            ) from None
        raise SystemFailure(f"{out} could not be written ({error.strerror}: {error.filename}); {untouched}") from None


@contextmanager
def aside(out: Path) -> Iterator[Path]:
    """An empty folder beside `out`, locked for its lifetime: who else prepares `out` waits. Of a process that was
    killed only the files are left, no lock."""
    folder, old = _partial(out), shards.old_folder(out)
    lock = None
    while lock is None:
        _check_beside(folder, "lock")
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # its owner has finished in this moment
            lock = _held(_lock_of(folder))
    try:
        _check_beside(old, MANIFEST)
        _tidy(folder, out)
        yield folder
    finally:
        # Else it was renamed, and this one is another's. On Windows the lock is beside the folder, and held until here.
        if sys.platform == "win32" or _is_at(lock, folder / "lock"):
            remove_own(folder, _WITH_LOCK, last="lock")
        os.close(lock)


def _lock_of(folder: Path) -> Path:
    """Where the lock is: in the folder, but Windows renames none in which a file is open."""
    if sys.platform != "win32":
        return folder / "lock"
    (folder / "lock").touch()  # the sign that it is ours
    return folder.with_name(f"{folder.name}.lock")


def _held(path: Path) -> int:
    """The lock, once nobody else holds it. Raises FileNotFoundError when it was removed in the meantime."""
    lock = own(path, os.O_RDWR | os.O_CREAT)
    try:
        hold(lock, wait=True)
        if _is_at(lock, path):
            return lock
    except BaseException:
        os.close(lock)
        raise
    os.close(lock)
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))


def _is_at(descriptor: int, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    return False


def commit(folder: Path, out: Path, manifest: dict[str, Any]) -> None:
    """Make the folder durable, then give it its name; the manifest is written when all it speaks of is on the disk."""
    files = {}
    for path in sorted(path for path in folder.iterdir() if path.name != "lock"):
        sync(path)
        files[path.name] = shards.file_entry(path)
    (folder / MANIFEST).write_bytes(shard_writer.manifest_bytes(manifest | {"files": files}))
    sync(folder / MANIFEST)
    sync(folder)
    old = shards.old_folder(out)
    if out.exists():
        out.rename(old)
    folder.rename(out)  # cut off just before this, `open_prepared(out)` opens `old`
    (out / "lock").unlink()
    sync(out.parent)
    _remove_old(old)
