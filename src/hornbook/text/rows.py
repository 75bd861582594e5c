"""Files of rows that hold a text each: JSON lines, JSON, CSV and TSV, Parquet. Every row is checked when first seen.

A reader yields (the row's number from 1, its text or None, how to read that again). What is no character (bytes that
are not UTF-8, half of a surrogate pair) stands in that text as surrogates, and `well_formed` refuses or replaces it.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import msgspec

from hornbook.facts.errors import InputError
from hornbook.facts.io import shown
from hornbook.facts.printing import on_one_line
from hornbook.text.files import (
    LINE_BYTES,
    NoFieldError,
    check_encoding,
    encoding_remedy,
    line_at,
    read_at,
    rest_of,
)

Text = str | None
Rows = Iterator[tuple[int, Text, Callable[[], Text]]]
Reader = Callable[[str, str], Rows]
BOM = b"\xef\xbb\xbf"

_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_elements = msgspec.json.Decoder(list[msgspec.Raw])
_text: msgspec.json.Decoder[Text] = msgspec.json.Decoder(Text)


def row_format(name: str) -> tuple[str, Reader] | None:
    """The word for a row and the reader of a file by its name in lower case; None for a text."""
    return next((row_format for ending, row_format in _FORMATS.items() if name.endswith(ending)), None)


def well_formed(text: str, errors: str, path: str, row_word: str, number: int) -> tuple[str, int]:
    """Return the text and how many of its bytes were replaced. Raises InputError where `errors` is "strict"."""
    try:
        text.encode()
    except UnicodeEncodeError:
        if errors == "strict":
            remedy = encoding_remedy(path, re.sub("[\ud800-\udfff]", "", text))
            reason = "the text is not UTF-8, or has half of a surrogate pair (\\ud800 to \\udfff)"
            raise InputError(f"{shown(path)}, {row_word} {number}: {reason}; {remedy}") from None
        halves = re.sub("[\ud800-\udc7f\udd00-\udfff]", "\udced\udca0\udc80", text)  # its three bytes in UTF-8
        data = halves.encode("utf-8", "surrogateescape")
        return data.decode("utf-8", "replace"), len(data) - len(data.decode("utf-8", "ignore").encode())
    return text, 0


def _jsonl_rows(path: str, field: str) -> Rows:
    """Raises InputError with the line number for a row that is no JSON object or whose `field` is no string."""
    check_encoding(path)
    offset = number = 0
    while line := line_at(path, offset):
        number += 1
        if line.removeprefix(BOM).strip():
            read = partial(_value_at, path, field, "line", number, offset, len(line))
            yield number, _value(line, path, field, "line", number), read
        offset += len(line)


def _json_rows(path: str, field: str) -> Rows:
    """An array of objects or strings, one object, or JSON lines under that name (C4's files are)."""
    begin = offset = check_encoding(path)
    while (line := line_at(path, offset)).isspace():
        offset += len(line)
    if line.lstrip().startswith(b"{") and line.rstrip().endswith(b"}"):
        yield from _jsonl_rows(path, field)
        return
    content = rest_of(path, begin)
    try:
        rows = _elements.decode(content) if content.lstrip().startswith(b"[") else [content]
    except (msgspec.DecodeError, RecursionError) as error:
        raise InputError(
            f"{shown(path)} is not valid JSON ({error}); give an array of objects or strings, or an object a line"
        ) from None
    offset = 0
    for number, row in enumerate(map(bytes, rows), 1):
        offset = content.index(row, offset)
        read = partial(_value_at, path, field, "row", number, begin + offset, len(row))
        yield number, _value(row, path, field, "row", number), read
        offset += len(row)


def _value_at(path: str, field: str, row_word: str, number: int, offset: int, size: int) -> Text:
    try:
        return _value(read_at(path, offset, size), path, field, row_word, number)
    except NoFieldError as lack:  # the file has changed since its rows were checked
        raise InputError(str(lack)) from None


def _value(row: bytes, path: str, field: str, row_word: str, number: int) -> Text:
    """The text of a row. What the fast decoder does not take, Python's decides: it knows NaN and says what is wrong."""
    row = row.removeprefix(BOM)
    try:
        return _text.decode(_fields.decode(row)[field])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError):
        pass
    where = f"{shown(path)}, {row_word} {number}"
    try:  # numbers as float: of an int, Python reads only so many digits
        content = json.loads(row.decode("utf-8", "surrogateescape"), parse_int=float)
    except RecursionError:
        raise InputError(f"{where}: the JSON is nested too deeply; keep only the text field") from None
    except json.JSONDecodeError as error:
        raise InputError(
            f"{where}: this is not valid JSON ({error.msg}, character {error.pos + 1}); one object a line is expected"
        ) from None
    if isinstance(content, str):
        return content
    if not isinstance(content, dict):
        raise InputError(f'{where}: a row must be a JSON object such as {{"{field}": "..."}}, or a string')
    from hornbook.text.chats import chat_field, chat_text, is_chat

    named = chat_field(content, field)
    if named not in content:
        raise NoFieldError(f"{where}: {missing('field', field, list(content))}")
    value = content[named]
    if value is None or isinstance(value, str):
        return value
    if is_chat(value):
        return chat_text(value, where)
    name = {dict: "an object", list: "an array", bool: "a boolean"}.get(type(value), "a number")
    raise InputError(f'{where}: the field "{field}" must be a string and is {name}; name another by --field')


def missing(word: str, field: str, names: Sequence[str]) -> str:
    if not names:
        return f'there is no {word} "{field}", nor any other'
    has = ", ".join(f'"{on_one_line(name[:80])}"' for name in names[:8])
    return f'there is no {word} "{field}", only {has}; name the one with the text by --field'


def _csv_rows(path: str, field: str, delimiters: str = ",;\t|") -> Rows:
    """Raises InputError for a file without the column, quotes that do not fit, and rows of more fields than columns."""
    check_encoding(path)
    names, delimiter, offsets = _header(path, field, delimiters)
    column, begin = names.index(field), offsets[-1]
    rows = _csv_from(path, delimiter, offsets)
    number = 0
    while True:
        number += 1
        with _csv_sentences(path, f"row {number}"):
            row = next(rows, None)
        if row is None:
            return
        if any(row[len(names) :]):
            sign = "a tab" if delimiter == "\t" else delimiter
            raise InputError(
                f"{shown(path)}, row {number}, has {len(row)} fields and the header {len(names)}; a text with {sign} "
                "in it has to stand in double quotes"
            )
        if row:
            read = partial(_csv_text, path, delimiter, begin, column, number)
            yield number, row[column] if column < len(row) else None, read
        begin = offsets[-1]


def _header(path: str, field: str, delimiters: str) -> tuple[list[str], str, list[int]]:
    """The columns, the delimiter that gives them (that with the column asked for, then that with most), and where the
    rows begin."""
    headers: list[tuple[int, int, int, list[str], str, list[int]]] = []
    for delimiter in delimiters:
        offsets = [0]
        try:
            names = next(_csv_from(path, delimiter, offsets), [])
        except csv.Error:  # a quote ends before another delimiter
            continue
        headers.append((names.count(field), len(names), -len(headers), names, delimiter, offsets))
    with _csv_sentences(path, "the header"):
        if not headers:
            next(_csv_from(path, delimiters[0], [0]))
    count, _, _, names, delimiter, offsets = max(headers)
    if count == 0:
        raise NoFieldError(f"{shown(path)}: {missing('column', field, names)}")
    if count > 1:
        raise InputError(f'{shown(path)} has {count} columns named "{field}"; give each its own name')
    return names, delimiter, offsets


def _csv_from(path: str, delimiter: str, offsets: list[int]) -> Iterator[list[str]]:
    """Rows from the last of `offsets` on, which becomes where the next row begins: no line is read ahead."""

    def lines() -> Iterator[str]:
        while line := line_at(path, offsets[-1]):
            start = 3 if offsets[-1] == 0 and line.startswith(BOM) else 0
            offsets[-1] += len(line)
            yield line[start:].decode("utf-8", "surrogateescape")

    csv.field_size_limit(LINE_BYTES)
    return csv.reader(lines(), delimiter=delimiter, strict=True)


def _csv_text(path: str, delimiter: str, offset: int, column: int, number: int) -> Text:
    with _csv_sentences(path, f"row {number}"):
        return dict(enumerate(next(_csv_from(path, delimiter, [offset]), []))).get(column)


@contextmanager
def _csv_sentences(path: str, where: str) -> Iterator[None]:
    try:
        yield
    except csv.Error as error:
        is_open = str(error) == "unexpected end of data"
        reason = "has a quote that is never closed" if is_open else f"is not valid CSV ({error})"
        raise InputError(
            f"{shown(path)}: {where} {reason}; a text with quotes must be in double quotes, with its own quotes doubled"
        ) from None


def _parquet_rows(path: str, field: str) -> Rows:
    from hornbook.text.parquet import parquet_rows

    return parquet_rows(path, field)


_FORMATS: dict[str, tuple[str, Reader]] = {
    ".jsonl": ("line", _jsonl_rows), ".ndjson": ("line", _jsonl_rows), ".json": ("row", _json_rows),
    ".csv": ("row", _csv_rows), ".tsv": ("row", partial(_csv_rows, delimiters="\t")),
    ".parquet": ("row", _parquet_rows),
}  # fmt: skip
