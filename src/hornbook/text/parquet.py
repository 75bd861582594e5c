"""Parquet files of texts or chats, by pyarrow (extra `parquet`): a batch of rows is in memory at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from hornbook.facts.errors import InputError
from hornbook.facts.io import shown
from hornbook.text.chats import FIELDS, chat_text
from hornbook.text.files import NoFieldError, sentences
from hornbook.text.rows import Rows, Text, missing

BATCH_ROWS = 64  # read at once


class _Kept(threading.local):
    """Where this thread is in a column of a row group: the batch read last, its first row, and what follows."""

    key: tuple[str, str, int] | None = None
    batches: Iterator[Any]
    batch: Any
    first: int


_kept = _Kept()


def parquet_rows(path: str, field: str) -> Rows:
    """Raises InputError without pyarrow, for a damaged file, a missing column or one that does not hold strings."""
    number, metadata = 0, _parquet(path, field)[0].metadata
    sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    if sum(sizes) != metadata.num_rows or min(sizes, default=0) < 0:
        raise InputError(
            f"{shown(path)} is damaged (its parts do not have the {metadata.num_rows:,} rows of the whole)"
        )
    for group, size in enumerate(sizes):
        for place in range(size):
            number += 1
            read = partial(_parquet_text, path, field, group, place)
            yield number, read(), read


def _parquet(path: str, field: str) -> tuple[Any, str]:
    """The file, and the column with its texts: that asked for, else that of a chat."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise InputError(f'{shown(path)} needs pyarrow; run pip install ".[parquet]" in the checkout') from None
    with _parquet_sentences(path):
        file = parquet.ParquetFile(path, buffer_size=1 << 20)
    schema, is_a = file.schema_arrow, pyarrow.types
    if field not in schema.names:
        known = (name for name in FIELDS if schema.names.count(name) == 1 and _holds_turns(schema.field(name).type))
        chat = next(known, None)
        if chat is None:
            raise NoFieldError(f"{shown(path)}: {missing('column', field, schema.names)}")
        return file, chat
    if schema.names.count(field) > 1:
        raise InputError(
            f'{shown(path)} has {schema.names.count(field)} columns named "{field}"; name each differently'
        )
    column = schema.field(field).type
    plain = column.value_type if is_a.is_dictionary(column) else column
    if not (is_a.is_string(plain) or is_a.is_large_string(plain) or is_a.is_string_view(plain) or _holds_turns(plain)):
        raise InputError(
            f'{shown(path)}: the column "{field}" must hold strings and holds {column}; name another by --field'
        )
    return file, field


def _holds_turns(column: Any) -> bool:
    """Whether a column of this type holds lists of objects, as chats are."""
    from pyarrow import types

    return bool((types.is_list(column) or types.is_large_list(column)) and types.is_struct(column.value_type))


def _parquet_text(path: str, field: str, group: int, place: int) -> Text:
    """One row's text; as a row group may be large, batches of it are read, onward from the one read last."""
    import pyarrow

    key = (path, field, group)
    with _parquet_sentences(path):
        if _kept.key != key or place < _kept.first:
            file, column = _parquet(path, field)
            _kept.batches = file.iter_batches(BATCH_ROWS, row_groups=[group], columns=[column])
            _kept.batch, _kept.first, _kept.key = (), 0, key
        while place >= _kept.first + len(_kept.batch):
            _kept.first += len(_kept.batch)
            _kept.batch = next(_kept.batches).column(0)
        value = _kept.batch[place - _kept.first]
        value = value.value if pyarrow.types.is_dictionary(value.type) else value
        if _holds_turns(value.type):
            turns = value.as_py() or []
            present = [{name: given for name, given in (turn or {}).items() if given is not None} for turn in turns]
            return chat_text(present, f"{shown(path)}, row {place + 1} of row group {group}")
        data = value.as_buffer()
        return None if data is None else data.to_pybytes().decode("utf-8", "surrogateescape")


@contextmanager
def _parquet_sentences(path: str) -> Iterator[None]:
    """Damage in a Parquet file shows as any of pyarrow's errors, or as Python's where a name in it is not UTF-8."""
    import pyarrow

    try:
        with sentences(path):
            yield
    except InputError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError, LookupError, StopIteration) as error:
        _kept.key = None
        reason = str(error).split("\n", 1)[0][:120] or "cut short"
        raise InputError(f"{shown(path)} is damaged or not a Parquet file ({reason}); fetch it again") from None
