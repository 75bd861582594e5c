"""Files that are no plain text and hold one: HTML, EPUB, Word, PDF. Each is converted once in a process.

A document is read several times, and converting is slow: the text is kept in an unnamed temporary file, so that memory
stays bounded, for as long as the file is the same.
"""

from __future__ import annotations

import atexit
import os
import tempfile
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import IO

from hornbook.facts.errors import InputError
from hornbook.facts.io import shown
from hornbook.facts.units import counted
from hornbook.text.files import CHUNK, BlankError, rest_of

LARGEST_HTML = 1 << 26  # bytes
_lock = threading.Lock()
_known: dict[tuple[str, str, int, int, int], Converted] = {}


@dataclass(frozen=True, slots=True)
class Converted:
    """The text of a file, in the temporary file."""

    start: int
    stop: int
    replaced: int  # bytes that were not in the page's encoding
    notes: tuple[str, ...]

    def pieces(self) -> Iterator[str]:
        """Read the text, in strings of some size."""
        position, rest = self.start, b""
        while position < self.stop:
            with _lock:
                _texts().seek(position)
                chunk = _texts().read(min(CHUNK, self.stop - position))
            position += len(chunk)
            text = (rest + chunk).decode("utf-8", "ignore")  # cut within a character only at its end
            rest = (rest + chunk)[len(text.encode()) :]
            yield text


@cache
def _texts() -> IO[bytes]:
    file = tempfile.TemporaryFile(prefix="hornbook-")  # noqa: SIM115
    atexit.register(file.close)
    return file


def converted(path: str, ending: str, errors: str) -> Converted:
    """The text of a file with this ending. Raises InputError for what cannot be read, BlankError without any text."""
    state = os.stat(path)
    key = (path, errors, state.st_ino, state.st_mtime_ns, state.st_size)
    if key not in _known:
        _known[key] = _convert(path, ending, errors)
    return _known[key]


def _convert(path: str, ending: str, errors: str) -> Converted:
    counts = {"replaced": 0, "blank": 0, "pages": 0}
    with _lock:
        start = stop = _texts().seek(0, os.SEEK_END)
        for text in _strings(path, ending, errors, counts):
            stop += _texts().write(text.encode("utf-8", "replace"))
        _texts().flush()
    if start == stop:
        scanned = "; it may be scanned: run OCR on it first, for example with ocrmypdf" if ending == ".pdf" else ""
        raise BlankError(f"{shown(path)} has no text{scanned or '; give a file with text'}")
    notes = []
    if counts["blank"]:
        notes.append(f"{counted(counts['blank'], 'page')} of {counts['pages']:,} in {shown(path)} without text")
    return Converted(start, stop, counts["replaced"], tuple(notes))


def _strings(path: str, ending: str, errors: str, counts: dict[str, int]) -> Iterable[str]:
    if ending == ".docx":
        from hornbook.text.archives import docx_text

        yield from _unless_blank(docx_text(path))
    elif ending == ".pdf":
        from hornbook.text.pdf import pdf_pages

        for page in pdf_pages(path):
            counts["pages"] += 1
            counts["blank"] += not page.strip()
            yield f"{page.strip()}\n\n" if page.strip() else ""
    else:
        for text, replaced in _markup(path, ending, errors):
            counts["replaced"] += replaced
            yield f"{text}\n" if ending == ".epub" and text else text


def _markup(path: str, ending: str, errors: str) -> Iterable[tuple[str, int]]:
    if ending == ".epub":
        from hornbook.text.archives import epub_texts

        return epub_texts(path, errors)
    from hornbook.text.markup import markup_text

    content = rest_of(path, 0)
    if len(content) > LARGEST_HTML:
        raise InputError(f"{shown(path)} has more than {LARGEST_HTML >> 20} MiB; split it, or give its text as .txt")
    return [markup_text(content, errors, path)]


def _unless_blank(lines: Iterable[str]) -> Iterator[str]:
    """The lines from the first with text on."""
    begun = False
    for line in lines:
        begun = begun or bool(line.strip())
        if begun:
            yield line
