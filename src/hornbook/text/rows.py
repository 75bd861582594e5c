"""Documents that are rows: of JSON lines and of Parquet. Every row is checked when the file is first seen."""

from __future__ import annotations

import json
import re
import threading
from array import array
from typing import Any

import msgspec

from hornbook.facts.errors import InputError
from hornbook.text.reading import line_at, sentences, shown

_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_string = msgspec.json.Decoder(str)


class Rows:
    """(row number from 1, where it is) of each row that has text: 16 bytes a row."""

    def __init__(self) -> None:
        self._numbers: array[int] = array("q")
        self._places: array[int] = array("q")

    def add(self, number: int, place: int) -> None:
        self._numbers.append(number)
        self._places.append(place)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, i: int) -> tuple[int, int]:
        return self._numbers[i], self._places[i]


def jsonl_rows(path: str, field: str) -> tuple[Rows, int]:
    """Return the rows of a .jsonl file (places are byte offsets) and how many were blank.

    Raises InputError with the line number for a row that is no JSON object or whose `field` is missing or no string.
    """
    rows = Rows()
    offset = number = num_blank = 0
    while line := line_at(path, offset):
        number += 1
        if not line.isspace():
            if _jsonl_value(path, field, number, line).strip():
                rows.add(number, offset)
            else:
                num_blank += 1
        offset += len(line)
    return rows, num_blank


def jsonl_text(path: str, field: str, number: int, offset: int) -> str:
    """Return the text of the row that starts at byte `offset`."""
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


class _Kept(threading.local):
    key: tuple[str, str, int] | None = None
    column: Any = None


_kept = _Kept()


def parquet_rows(path: str, field: str) -> tuple[Rows, int]:
    """Return the rows of a .parquet file (places are row group << 32 | row within it) and how many were null or blank.

    Raises InputError without pyarrow, for a damaged file, a missing column or one that does not hold strings.
    """
    rows = Rows()
    number = num_blank = 0
    for group in range(_open(path, field).num_row_groups):
        for i, value in enumerate(_column(path, field, group)):
            number += 1
            if (_as_text(path, value, number) or "").strip():
                rows.add(number, group << 32 | i)
            else:
                num_blank += 1
    return rows, num_blank


def parquet_text(path: str, field: str, number: int, place: int) -> str:
    """Return the text of a row; the row group read last stays in memory."""
    return _as_text(path, _column(path, field, place >> 32)[place & 0xFFFFFFFF], number) or ""


def _as_text(path: str, value: Any, number: int) -> str | None:
    try:
        text: str | None = value.as_py()
    except UnicodeDecodeError:
        raise InputError(f"{shown(path)}, row {number}: the text is not UTF-8; write the file anew") from None
    return text


def _open(path: str, field: str) -> Any:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise InputError(f'{shown(path)} needs pyarrow; run pip install "hornbook[parquet]"') from None
    try:
        with sentences(path):
            file = parquet.ParquetFile(path)
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


def _column(path: str, field: str, group: int) -> Any:
    """Return the column chunk of one row group."""
    import pyarrow

    key = (path, field, group)
    if _kept.key != key:
        file = _open(path, field)
        size = sum(
            column.total_uncompressed_size
            for column in map(file.metadata.row_group(group).column, range(file.metadata.num_columns))
            if column.path_in_schema == field
        )
        if size > 1 << 30:
            raise InputError(
                f"{shown(path)}: row group {group} holds more than 1 GiB of text; write smaller row groups"
            )
        try:
            column = file.read_row_group(group, columns=[field]).column(0)
        except (pyarrow.ArrowInvalid, pyarrow.ArrowException, OSError) as error:
            raise InputError(f"{shown(path)} is damaged ({_first_line(error)}); fetch it again") from None
        _kept.key, _kept.column = key, column
    return _kept.column


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0][:120]
