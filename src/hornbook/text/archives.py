"""EPUB books and Word documents: ZIP archives of markup, read by the standard library, in bounded memory.

A Word document is read as it streams by, so that nothing is lost that a tree of paragraphs does not list (content
controls, text that was inserted with changes tracked) and an attack by entities is refused.
"""

from __future__ import annotations

import posixpath
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO
from urllib.parse import unquote
from xml.etree import ElementTree
from xml.parsers import expat

from hornbook.facts.errors import InputError
from hornbook.facts.io import shown
from hornbook.text.files import CHUNK, sentences
from hornbook.text.markup import markup_text

LARGEST_PART = 1 << 26  # bytes, decompressed: a novel's chapter or a document of thousands of pages has less
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"  # the container of old Word files, and of new ones with a password
_FONTS = ("http://www.idpf.org/2008/embedding", "http://ns.adobe.com/pdf/enc#RC")  # fonts may be obfuscated


def epub_texts(path: str, errors: str) -> Iterator[tuple[str, int]]:
    """The text of each part of a book in reading order, and how many bytes of it were replaced. Raises InputError."""
    with _archive(path, "an EPUB book") as archive:
        package = _found(_tree(archive, "META-INF/container.xml", path), "rootfile", "full-path")[0]
        if "META-INF/encryption.xml" in archive.namelist():
            used = _found(_tree(archive, "META-INF/encryption.xml", path), "EncryptionMethod", "Algorithm")
            if set(used) - set(_FONTS):
                raise InputError(f"{shown(path)} is encrypted (a book with copy protection); give one without")
        book = _tree(archive, package, path)
        items = {
            node.get("id"): node for node in book.iter() if _local(node.tag) == "item" and node.get("href") is not None
        }
        for node in book.iter():
            item = items.get(node.get("idref")) if _local(node.tag) == "itemref" else None
            if item is None or "html" not in item.get("media-type", "") or "nav" in item.get("properties", "").split():
                continue
            name = posixpath.normpath(posixpath.join(posixpath.dirname(package), unquote(item.get("href", ""))))
            yield markup_text(_part(archive, name, path), errors, path, name)


def docx_text(path: str) -> Iterator[str]:
    """The lines of a Word document: a paragraph or a row of a table each, a row's cells between tabs. Headers, footers,
    notes, comments and deleted text are left out. Raises InputError."""
    with _archive(path, "a Word document") as archive:
        parts = _tree(archive, "_rels/.rels", path)
        names = [node.get("Target", "") for node in parts if node.get("Type", "").endswith("/officeDocument")]
        name = names[0].lstrip("/") if names else "word/document.xml"
        reader = _Word()
        with _opened(archive, name, path) as stream:
            while chunk := stream.read(CHUNK):
                reader.parser.Parse(chunk, False)
                yield from reader.take()
            reader.parser.Parse(b"", True)
        yield from reader.take()


class _Word:
    """Takes the lines out of the XML of a Word document."""

    def __init__(self) -> None:
        self.parser = expat.ParserCreate(namespace_separator=" ")
        self.parser.StartElementHandler, self.parser.EndElementHandler = self.start, self.end
        self.parser.CharacterDataHandler = self.characters
        self.parser.StartDoctypeDeclHandler = self.refuse  # no such file has one: it could define entities
        self.lines: list[str] = []
        self.cells: list[list[str]] = []  # of the row, for each table that we are in: its paragraphs
        self.rows: list[list[str]] = []
        self.text: list[str] = []
        self.paragraphs: list[list[str]] = []  # that a text box interrupts
        self.is_text, self.skipping = False, 0

    def refuse(self, *_: object) -> None:
        raise expat.ExpatError("it declares a document type")

    def start(self, name: str, _: dict[str, str]) -> None:
        name = _local(name)
        if self.skipping or name in ("Fallback", "moveFrom", "tabs"):  # text that stands elsewhere; definitions
            self.skipping += 1
        elif name == "p":
            self.paragraphs.append(self.text)
            self.text = []
        elif name == "tr":
            self.rows.append([])
        elif name == "tc":
            self.cells.append([])
        elif name == "t":
            self.is_text = True
        else:
            self.text.append({"tab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "-"}.get(name, ""))

    def end(self, name: str) -> None:
        name = _local(name)
        if self.skipping:
            self.skipping -= 1
        elif name == "t":
            self.is_text = False
        elif name == "p":
            line, self.text = "".join(self.text), self.paragraphs.pop()
            (self.cells[-1] if self.cells else self.lines).append(line)
        elif name == "tc" and self.rows:
            self.rows[-1].append(" ".join(filter(None, self.cells.pop())))
        elif name == "tr":
            row = "\t".join(self.rows.pop())
            (self.cells[-1] if self.cells else self.lines).append(row)

    def characters(self, text: str) -> None:
        if self.is_text and not self.skipping:
            self.text.append(text)

    def take(self) -> Iterator[str]:
        for line in self.lines:
            yield f"{line}\n"
        self.lines.clear()


@contextmanager
def _archive(path: str, name: str) -> Iterator[zipfile.ZipFile]:
    """Open the archive; all that can be wrong with it is one sentence."""
    with sentences(path), open(path, "rb") as file:
        if file.read(8) == _OLE:
            raise InputError(
                f"{shown(path)} is an old Word file or has a password; open it, and save it as .docx without one"
            )
    try:
        with sentences(path), zipfile.ZipFile(path) as archive:
            yield archive
    except (InputError, MemoryError):
        raise
    except Exception as error:  # damage shows as any error of three libraries
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{shown(path)} is damaged or not {name} ({reason}); fetch it again") from None


def _opened(archive: zipfile.ZipFile, name: str, path: str) -> IO[bytes]:
    part = archive.getinfo(name)
    if part.flag_bits & 1:
        raise InputError(f"{shown(path)} is encrypted; give one without a password")
    if part.file_size > LARGEST_PART:  # no more than this is ever decompressed
        raise InputError(
            f"{shown(path)} has a part of {part.file_size >> 20:,} MiB ({name}), and {LARGEST_PART >> 20} are read at "
            "most; split it, or give its text as .txt"
        )
    return archive.open(part)


def _part(archive: zipfile.ZipFile, name: str, path: str) -> bytes:
    with _opened(archive, name, path) as stream:
        return stream.read()


def _tree(archive: zipfile.ZipFile, name: str, path: str) -> ElementTree.Element:
    return ElementTree.fromstring(_part(archive, name, path))


def _found(tree: ElementTree.Element, name: str, attribute: str) -> list[str]:
    values = [node.get(attribute) for node in tree.iter() if _local(node.tag) == name]
    if not values or None in values:
        raise KeyError(f"no {attribute} of a {name}")
    return [value for value in values if value is not None]


def _local(name: str) -> str:
    """A tag without its namespace, as either parser writes it."""
    return name.rpartition("}")[2].rpartition(" ")[2]
