"""What files hold, compressed or not; every failure of a file is one sentence.

Documents are re-readable and there may be millions of them in one file, so each thread keeps the file it read last
open and moves in it; a file that was replaced since is opened anew. Reading backward in a compressed file is slow.
"""

from __future__ import annotations

import codecs
import errno
import gzip
import os
import shlex
import stat
import sys
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from io import BufferedReader
from typing import Any, cast

from hornbook.facts.errors import InputError
from hornbook.facts.io import shown

COMPRESSED = (".gz", ".zst")
CHUNK = 1 << 18  # bytes read at once
LINE_BYTES = 1 << 28  # one row of a .jsonl file has to fit into memory
LINE_PART = 1 << 14  # bytes of a line read at once, so that one that ends early costs no more
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF32_BE: "UTF-32", codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}  # fmt: skip
# Which bytes of each four are zero in English that is not in UTF-8 and has no byte order mark.
ZEROS: dict[tuple[bool, ...], str] = {
    (False, True, False, True): "UTF-16LE", (True, False, True, False): "UTF-16BE",
    (False, True, True, True): "UTF-32LE", (True, True, True, False): "UTF-32BE",
}  # fmt: skip
BINARY = {  # how files begin that are given as text by mistake
    b"\x89PNG": "a PNG picture", b"\xff\xd8\xff": "a JPEG picture", b"GIF8": "a GIF picture", b"%PDF-": "a PDF file",
    b"PK\x03\x04": "a ZIP archive or an office document", b"\x1f\x8b": "a gzip file, whose name has to end in .gz",
    b"\x28\xb5\x2f\xfd": "a zstd file, whose name has to end in .zst", b"BZh": "a bzip2 file",
    b"\xfd7zXZ": "an xz file", b"PAR1": "a Parquet file, whose name has to end in .parquet",
    b"\x7fELF": "a program", b"SQLite": "a database",
}  # fmt: skip


class NoFieldError(ValueError):
    """Rows without the field asked for: an error, but among other texts of a folder, where they are left out, noted."""


class BlankError(ValueError):
    """A file without text: an error when it was named, left out and noted when a folder has it among others."""


def inner_name(name: str) -> str:
    """Return the file name without .gz or .zst."""
    return os.path.splitext(name)[0] if name.lower().endswith(COMPRESSED) else name


@contextmanager
def sentences(path: str) -> Iterator[None]:
    """Turn what the operating system and the decompressors raise about `path` into an InputError of one sentence."""
    name = shown(path)
    try:
        yield
    except FileNotFoundError:
        raise InputError(
            f"{name} does not exist; give a file, a folder or a quoted pattern such as 'texts/*.txt'"
        ) from None
    except PermissionError:
        raise InputError(f"{name} may not be read by this user; change its permissions or give another file") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{name} is damaged or cut short ({error}); fetch or compress it again") from None
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EIO, errno.ESTALE):
            raise
        raise InputError(f"{name} cannot be read ({os.strerror(error.errno)}); give another file") from None


def check_kind(path: str) -> None:
    """Refuse what is neither a regular file nor a folder (reading a FIFO or a device might never end)."""
    with sentences(path):
        mode = os.stat(path).st_mode
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return
    special = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
    name = special.get(stat.S_IFMT(mode), "not a regular file")
    raise InputError(f"{shown(path)} is {name}; a document is read more than once, so save the text to a file first")


class _Open:
    """A file that this thread has open, closed with the thread."""

    def __init__(self, key: tuple[str, int, int, int], stream: BufferedReader) -> None:
        self.key, self.stream = key, stream

    def __del__(self) -> None:
        self.stream.close()


class _Kept(threading.local):
    file: _Open | None = None


_kept = _Kept()


def read_at(path: str, offset: int, size: int) -> bytes:
    """Return up to `size` bytes of the (decompressed) content from `offset`; b"" at its end.

    Raises InputError for a missing, unreadable or damaged file.
    """
    with _decompression(path):
        stream = _stream(path)
        stream.seek(offset)
        return stream.read(size)


def line_at(path: str, offset: int) -> bytes:
    """Return the line of the (decompressed) content that starts at `offset`, its end included (LF, CR LF, or CR alone,
    as old Macs wrote it); b"" at the end of the file.

    Raises InputError for a missing, unreadable or damaged file, and for a line of more than 256 MiB.
    """
    parts, size = list[bytes](), 0
    with _decompression(path):
        stream = _stream(path)
        stream.seek(offset)
        while part := stream.readline(LINE_PART):
            end = part.find(b"\r") + 1
            if end == len(part):
                part += stream.readline(1) if stream.peek(1)[:1] == b"\n" else b""
            elif end:
                part = part[: end + (part[end:] == b"\n")]
            parts.append(part)
            size += len(part)
            if size > LINE_BYTES:
                raise InputError(
                    f"{shown(path)} has a row of more than 256 MiB at byte {offset}; split it into several rows"
                )
            if end or part.endswith(b"\n"):
                break
    return b"".join(parts)


def rest_of(path: str, offset: int) -> bytes:
    """Return the (decompressed) content from `offset` on. Raises InputError as `read_at`, and for more than 256 MiB."""
    content = read_at(path, offset, LINE_BYTES + 1)
    if len(content) > LINE_BYTES:
        raise InputError(f"{shown(path)} has more than 256 MiB; write it as .jsonl, with one object on each line")
    return content


def _stream(path: str) -> BufferedReader:
    """Return this thread's open stream of the file, opened anew when it is another or a changed one."""
    state = os.stat(path)
    key = (path, state.st_ino, state.st_mtime_ns, state.st_size)
    if _kept.file is None or _kept.file.key != key:
        check_kind(path)
        _kept.file = _Open(key, _open(path))
    return _kept.file.stream


def _open(path: str) -> BufferedReader:
    if path.lower().endswith(".gz"):
        return cast("BufferedReader", gzip.open(path, "rb"))
    if path.lower().endswith(".zst"):
        long = {_zstd().DecompressionParameter.window_log_max: 31}  # zstd --long=31, as Reddit's dumps are
        return cast("BufferedReader", _zstd().open(path, "rb", options=long))
    return open(path, "rb")


@contextmanager
def _decompression(path: str) -> Iterator[None]:
    """Like `sentences`, and knows the error of the zstd module, which is imported only for a .zst file."""
    zstd_errors = (_zstd().ZstdError,) if path.lower().endswith(".zst") else ()
    try:
        with sentences(path):
            yield
    except zstd_errors as error:
        raise InputError(f"{shown(path)} is damaged or not a zstd file ({error}); fetch or compress it again") from None


def _zstd() -> Any:
    return import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")


def _chunks(path: str, start: int, stop: int) -> Iterator[bytes]:
    while stop < 0 or start < stop:
        chunk = read_at(path, start, CHUNK if stop < 0 else min(CHUNK, stop - start))
        if not chunk:
            return
        yield chunk
        start += len(chunk)


def text_start(path: str) -> int:
    """Return where the text starts (after a byte order mark); refuse what is empty, blank or known to be no text."""
    start = check_encoding(path)
    if not any(chunk.decode("utf-8", "replace").strip() for chunk in _chunks(path, start, -1)):
        raise BlankError(f"{shown(path)} has only whitespace; give a file with text")
    return start


def check_encoding(path: str) -> int:
    """Return the length of a UTF-8 byte order mark; refuse an empty file, and UTF-16 and UTF-32 by their names."""
    first = read_at(path, 0, CHUNK)
    if not first:
        raise BlankError(f"{shown(path)} is empty; give a file with text")
    encoding = next((name for mark, name in BYTE_ORDER_MARKS.items() if first.startswith(mark)), None)
    if encoding is None and len(first) > 3:
        head = first[: min(64, len(first) // 4 * 4)]
        encoding = ZEROS.get(tuple(not any(head[i::4]) for i in range(4)))
    if encoding is not None:
        raise InputError(f"{shown(path)} is {encoding}; {_converted(path, encoding)}")
    return len(codecs.BOM_UTF8) if first.startswith(codecs.BOM_UTF8) else 0


def separated_parts(path: str, start: int, separator: bytes) -> list[tuple[int, int]]:
    """Return start and stop, in bytes, of the parts between separators that are not blank; stop -1 is the end.

    UTF-8 synchronises itself: the separator's bytes occur only where the separator does.
    """
    parts: list[tuple[int, int]] = []
    begin = position = start
    tail, is_blank = b"", True
    for chunk in _chunks(path, start, -1):
        window = tail + chunk
        base = position - len(tail)
        done = 0
        while (hit := window.find(separator, done)) >= 0:
            if not (is_blank and not window[done:hit].strip()):
                parts.append((begin, base + hit))
            done = hit + len(separator)
            begin, is_blank = base + done, True
        keep = max(done, len(window) - len(separator) + 1)
        is_blank = is_blank and not window[done:keep].strip()
        tail, position = window[keep:], position + len(chunk)
    if not (is_blank and not tail.strip()):
        parts.append((begin, -1))
    if not parts:
        raise BlankError(f"{shown(path)} has only separators and whitespace; give a file with text")
    return parts


def decoded(path: str, start: int, stop: int, errors: str) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")(errors)
    position = start
    try:
        for chunk in _chunks(path, start, stop):
            nul = chunk.find(b"\0")
            if nul >= 0:
                raise _no_text(path, f"has a NUL byte at byte {position + nul}, so it is not text", "give a text file")
            pending = len(decoder.getstate()[0])
            yield decoder.decode(chunk)
            position += len(chunk)
        pending = len(decoder.getstate()[0])
        yield decoder.decode(b"", True)
    except UnicodeDecodeError as error:
        where = f"is not UTF-8 at byte {position - pending + error.start} ({error.reason})"
        cut = error.reason == "unexpected end of data"
        others = "é" if cut else error.object.decode("utf-8", "ignore")
        raise _no_text(path, where, encoding_remedy(path, others)) from None


def encoding_remedy(path: str, others: str) -> str:
    """What to do about bytes that are not UTF-8 in a file whose `others` are."""
    if others.isascii():  # no character of UTF-8: another encoding
        return f"if it is Western European, {_converted(path, 'WINDOWS-1252')} (--errors replace loses its accents)"
    return "convert it, or read it with --errors replace"


def _converted(path: str, encoding: str) -> str:
    name = shlex.quote(shown(path))
    given = f" {name}" if inner_name(path) == path else ""
    return f"convert it with: iconv -f {encoding} -t UTF-8{given} > NEW"


def _no_text(path: str, reason: str, remedy: str) -> InputError:
    start = read_at(path, 0, 8)
    remedy = next((f"it begins as {name}" for magic, name in BINARY.items() if start.startswith(magic)), remedy)
    return InputError(f"{shown(path)} {reason}; {remedy}")


def count_undecodable(path: str, start: int, stop: int) -> int:
    """Return how many bytes are lost when undecodable ones are ignored: those that "replace" replaces."""
    decoder = codecs.getincrementaldecoder("utf-8")("ignore")
    lost = 0
    for chunk in _chunks(path, start, stop):
        lost += len(chunk) - len(decoder.decode(chunk).encode())
    return lost - len(decoder.decode(b"", True).encode())
