"""The only place that writes whole files: aside, synced, renamed; never through a link. Deletes only our own names."""

from __future__ import annotations

import errno
import math
import os
import re
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from hornbook.facts.errors import InputError, SystemFailure
from hornbook.facts.printing import encodable, on_one_line

# How files are opened: not through a link, without waiting, not handed on, and no line end changed. What a system lacks
# is 0; Windows has no flag against links.
_NO_LINK: int = getattr(os, "O_NOFOLLOW", 0)
OPENED: int = _NO_LINK | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def own(path: str | os.PathLike[str], flags: int) -> int:
    """Open a file of ours to write, as `os.open` and as the `opener` of `open`: a regular file, not through a link.

    Raises InputError for a link, a pipe or a device, OSError as `os.open`.
    """
    try:
        if not _NO_LINK and os.path.islink(path):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        descriptor = os.open(path, flags | OPENED, 0o666)
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO):
            raise
    raise InputError(f"{path} is a link or not a regular file; nothing is written through it: remove or move it.")


def read_at(descriptor: int, num_bytes: int, offset: int) -> bytes:
    """As os.pread, which Windows lacks; the descriptor is read by one thread."""
    os.lseek(descriptor, offset, os.SEEK_SET)
    return os.read(descriptor, num_bytes)


def no_link(folder: Path) -> Path:
    """The folder, which we write in. Raises InputError where it is a link."""
    if folder.is_symlink():
        raise InputError(f"{folder} is a link, and nothing is written through it: put the folder itself in its place.")
    return folder


def others_in(folder: Path, names: re.Pattern[str]) -> str | None:
    """What keeps us from deleting `folder`: the name of something in it that is not ours, or itself where it is a link
    or no folder; None where it is absent, or holds nothing but files of our `names`."""
    try:
        if not stat.S_ISDIR(os.lstat(folder).st_mode):
            return folder.name
    except FileNotFoundError:
        return None
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        other = (entry.name for entry in entries if not names.fullmatch(entry.name) or entry.is_dir())
        return min(other, default=None)
    return None


def remove_own(folder: Path, names: re.Pattern[str], last: str = "") -> None:
    """Delete the files of our `names` in `folder`, the one called `last` after all others, and the folder if nothing is
    left in it; what cannot be deleted stays. A link is removed, not followed."""
    with suppress(OSError):
        if folder.is_symlink():
            folder.unlink()
            return
        for name in sorted(filter(names.fullmatch, os.listdir(folder)), key=lambda name: name == last):
            with suppress(OSError):
                (folder / name).unlink()
        folder.rmdir()


def write_aside(path: Path, content: str | bytes) -> Path:
    """Write a file so that a crash or a power cut leaves the old content or the new, never a part. Returns `path`.

    Raises SystemFailure when it cannot be written; nothing is left beside it.
    """
    aside = path.with_name(f".{path.name}.part")
    try:
        aside.unlink(missing_ok=True)
        with open(aside, "xb", opener=own) as file:
            file.write(encoded(content))
        sync(aside)
        aside.replace(path)
        sync(path.parent)
    except OSError as error:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        raise SystemFailure(f"cannot write {path}: {error.strerror}") from error
    return path


def encoded(content: str | bytes) -> bytes:
    """A text as UTF-8; a file name in it that is not UTF-8 as it is printed."""
    return content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content


def sync(path: Path) -> None:
    """Wait until the disk has a file, or the names in a folder, which Windows keeps a journal of."""
    if sys.platform == "win32" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def shown(path: str) -> str:
    """Return the path as it can be printed and stored: bytes that are not UTF-8 appear as \\xNN."""
    return on_one_line(path)


def json_bytes(content: Any) -> bytes:
    """JSON. Numpy's numbers and paths become plain values, NaN and infinity null; a file name that is not UTF-8 is
    written as it is printed."""
    try:
        return msgspec.json.encode(content, enc_hook=_plain)
    except UnicodeEncodeError:
        return msgspec.json.encode(encodable(msgspec.to_builtins(content, enc_hook=_plain)))


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    item = getattr(value, "item", None)
    if item is None:
        raise TypeError(f"{type(value).__name__} cannot be written to a log")
    plain = item()
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain


def pretty(content: Any) -> bytes:
    """JSON for people."""
    return msgspec.json.format(json_bytes(content), indent=2) + b"\n"


# A lock on an open file, which ends with its process, however that ends.
if sys.platform == "win32":
    import msvcrt
    import time

    LOCKED_BYTE = 2**30  # beyond what is written in the file, which others can then read
    LOOK_SECONDS = 0.1

    def hold(descriptor: int, *, wait: bool) -> None:
        """Lock the file. Raises BlockingIOError where another process has it, unless it is to `wait`."""
        while True:
            os.lseek(descriptor, LOCKED_BYTE, os.SEEK_SET)
            try:
                msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
                return
            except PermissionError as error:
                if not wait:
                    raise BlockingIOError(error.errno, error.strerror) from None
            time.sleep(LOOK_SECONDS)

else:
    import fcntl

    def hold(descriptor: int, *, wait: bool) -> None:
        """Lock the file. Raises BlockingIOError where another process has it, unless it is to `wait`."""
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
