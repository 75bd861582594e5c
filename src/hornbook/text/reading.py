"""Bytes of a file at an offset, compressed or not, with every failure of the file as one sentence.

Documents are re-readable and there may be millions of them in one file, so each thread keeps the file it read last
open and moves in it; a file that was replaced since is opened anew. Reading backward in a compressed file is slow.
"""

from __future__ import annotations

import codecs
import errno
import gzip
import os
import stat
import sys
import threading
import zlib
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, cast

from hornbook.facts.errors import InputError

CHUNK = 1 << 18  # bytes read at once
COMPRESSED = (".gz", ".zst")
BOMB_BYTES = 1 << 30  # a file is suspected of being a decompression bomb only beyond 1 GiB ...
BOMB_RATIO = 200  # ... and 200 times its size; text compresses 3 to 20 times
LINE_BYTES = 1 << 28  # one row of a .jsonl file has to fit into memory


class _Kept(threading.local):
    key: tuple[str, int, int, int] | None = None
    size: int = 0
    stream: IO[bytes] | None = None


_kept = _Kept()


def shown(path: str) -> str:
    """Return the path as it can be printed and stored: bytes that are not UTF-8 appear as \\xNN."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


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
    kinds = (
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    )
    kind = next((name for is_kind, name in kinds if is_kind(mode)), "no regular file")
    raise InputError(f"{shown(path)} is {kind}; a document is read more than once, so save the text to a file first")


def read_at(path: str, offset: int, size: int) -> bytes:
    """Return up to `size` bytes of the (decompressed) content from `offset`; b"" at its end.

    Raises InputError for a missing, unreadable, damaged or suspiciously inflating file.
    """
    with _decompression(path):
        stream = _stream(path)
        stream.seek(offset)
        data = stream.read(size)
    _check_bomb(path, offset + len(data))
    return data


def line_at(path: str, offset: int) -> bytes:
    """Return the line of the (decompressed) content that starts at `offset`, its line feed included; b"" at the end.

    Raises InputError as `read_at` does, and for a line of more than 256 MiB.
    """
    with _decompression(path):
        stream = _stream(path)
        stream.seek(offset)
        line = stream.readline(LINE_BYTES + 1)
    if len(line) > LINE_BYTES:
        raise InputError(f"{shown(path)} has a row of more than 256 MiB at byte {offset}; split it into several rows")
    _check_bomb(path, offset + len(line))
    return line


def _check_bomb(path: str, num_bytes: int) -> None:
    if path.lower().endswith(COMPRESSED) and num_bytes > max(BOMB_BYTES, BOMB_RATIO * _kept.size):
        raise InputError(
            f"{shown(path)} expands to more than {BOMB_RATIO} times its size, which text does not; "
            "decompress it yourself if it is sound"
        )


def _stream(path: str) -> IO[bytes]:
    """Return this thread's open stream of the file, opened anew when it is another or a changed one."""
    state = os.stat(path)
    key = (path, state.st_ino, state.st_mtime_ns, state.st_size)
    if _kept.stream is None or _kept.key != key:
        check_kind(path)
        if _kept.stream is not None:
            _kept.stream.close()
        _kept.stream, _kept.key = None, None
        _kept.stream, _kept.key, _kept.size = _open(path), key, state.st_size
    return _kept.stream


def _open(path: str) -> IO[bytes]:
    if path.lower().endswith(".gz"):
        return cast("IO[bytes]", gzip.open(path, "rb"))
    if path.lower().endswith(".zst"):
        return cast("IO[bytes]", _zstd().open(path, "rb"))
    return open(path, "rb")


@contextmanager
def _decompression(path: str) -> Iterator[None]:
    """Like `sentences`, and knows the error of the zstd module, which is imported only for a .zst file."""
    zstd_errors = (_zstd().ZstdError,) if path.lower().endswith(".zst") else ()
    try:
        with sentences(path):
            yield
    except zstd_errors as error:
        raise InputError(f"{shown(path)} is damaged or no zstd file ({error}); fetch or compress it again") from None


if sys.version_info >= (3, 14):

    def _zstd() -> Any:
        from compression import zstd

        return zstd

else:

    def _zstd() -> Any:
        from backports import zstd

        return zstd


_MAGIC = {
    b"\x7fELF": "a program",
    b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image",
    b"\x1f\x8b": "gzip data (name it .gz)",
    b"\x28\xb5\x2f\xfd": "zstd data (name it .zst)",
    b"\xfd7zXZ\x00": "xz data (decompress it)",
    b"BZh": "bzip2 data (decompress it)",
    b"PK\x03\x04": "a zip archive or office document (save its text as .txt)",
    b"%PDF-": "a PDF file (save its text as .txt)",
    b"PAR1": "a Parquet file (name it .parquet)",
    b"GGUF": "a GGUF model",
}


class BlankError(ValueError):
    """A file without text: an error when it was named, left out and noted when a folder has it among others."""


def _chunks(path: str, start: int, stop: int) -> Iterator[bytes]:
    while stop < 0 or start < stop:
        chunk = read_at(path, start, CHUNK if stop < 0 else min(CHUNK, stop - start))
        if not chunk:
            return
        yield chunk
        start += len(chunk)


def text_start(path: str) -> int:
    """Return where the text starts (after a byte order mark); refuse what is empty, blank or known to be no text."""
    first = read_at(path, 0, CHUNK)
    if not first:
        raise BlankError(f"{shown(path)} is empty; give a file with text")
    if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise InputError(f"{shown(path)} is UTF-16; convert it with: iconv -f UTF-16 -t UTF-8")
    kind = next((kind for magic, kind in _MAGIC.items() if first.startswith(magic)), None)
    if kind and (b"\0" in first or not first.isascii()):  # a text may begin with "GGUF"
        raise InputError(f"{shown(path)} is no text but {kind}; give a text file")
    start = len(codecs.BOM_UTF8) if first.startswith(codecs.BOM_UTF8) else 0
    if not any(chunk.decode("utf-8", "replace").strip() for chunk in _chunks(path, start, -1)):
        raise BlankError(f"{shown(path)} has only whitespace; give a file with text")
    return start


def separated_parts(path: str, start: int, separator: bytes) -> array[int]:
    """Return start and stop, in bytes, of the parts between separators that are not blank, as one flat array.

    UTF-8 synchronises itself: the separator's bytes occur only where the separator does.
    """
    ends: array[int] = array("q")
    begin = position = start
    tail, is_blank = b"", True
    for chunk in _chunks(path, start, -1):
        window = tail + chunk
        base = position - len(tail)
        done = 0
        while (hit := window.find(separator, done)) >= 0:
            if not (is_blank and not window[done:hit].strip()):
                ends.extend((begin, base + hit))
            done = hit + len(separator)
            begin, is_blank = base + done, True
        keep = max(done, len(window) - len(separator) + 1)
        is_blank = is_blank and not window[done:keep].strip()
        tail, position = window[keep:], position + len(chunk)
    if not (is_blank and not tail.strip()):
        ends.extend((begin, -1))
    if not ends:
        raise BlankError(f"{shown(path)} has only separators and whitespace; give a file with text")
    return ends


def decoded(path: str, start: int, stop: int, errors: str) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")(errors)
    position = start
    try:
        for chunk in _chunks(path, start, stop):
            nul = chunk.find(b"\0")
            if nul >= 0:
                raise InputError(
                    f"{shown(path)} has a NUL byte at byte {position + nul}, so it is no text; give a text file"
                )
            pending = len(decoder.getstate()[0])
            yield decoder.decode(chunk)
            position += len(chunk)
        pending = len(decoder.getstate()[0])
        yield decoder.decode(b"", True)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{shown(path)} is not UTF-8 at byte {position - pending + error.start} ({error.reason}); "
            "convert it, or read it with --errors replace"
        ) from None


def count_undecodable(path: str, start: int, stop: int) -> int:
    """Return how many bytes are lost when undecodable ones are ignored: those that "replace" replaces."""
    decoder = codecs.getincrementaldecoder("utf-8")("ignore")
    lost = 0
    for chunk in _chunks(path, start, stop):
        lost += len(chunk) - len(decoder.decode(chunk).encode())
    return lost - len(decoder.decode(b"", True).encode())
