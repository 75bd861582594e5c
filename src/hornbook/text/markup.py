"""HTML and XHTML as text: what a reader sees, by lxml, which takes any markup.

Blocks stand on lines of their own, paragraphs and headings with a blank line around them, the cells of a row between
tabs; white space is one blank except within <pre>. Menus, scripts, pictures and the title are left out.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping

from hornbook.facts.errors import InputError
from hornbook.facts.io import shown
from hornbook.text.files import CHUNK

_SKIPPED = {
    "audio", "button", "canvas", "head", "iframe", "nav", "noscript", "object", "script", "select", "style", "svg",
    "template", "textarea", "title", "video",
}  # fmt: skip
_LINES = {"address", "br", "caption", "dd", "div", "dt", "fieldset", "figcaption", "form", "li", "option", "tr"}
_PARAGRAPHS = {
    "article", "aside", "blockquote", "body", "dl", "figure", "footer", "h1", "h2", "h3", "h4", "h5", "h6", "header",
    "hr", "main", "ol", "p", "pre", "section", "table", "ul",
}  # fmt: skip
_DECLARED = re.compile(rb"""<(?:meta\s[^>]*?charset|\?xml\s[^>]*?encoding)\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE)
_EMPTY = re.compile(rf"<({'|'.join(sorted(_SKIPPED))})(\s[^<>]*)?/>", re.IGNORECASE)  # as XHTML has them
_WHITE = " \t\n\r\f"
_SPACE = re.compile(f"[{_WHITE}]+")
_CONTROLS = dict.fromkeys([*range(9), 11, *range(14, 32)], "\ufffd")  # that markup may not have


class _Reader:
    """Takes the text out of elements as lxml meets them."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.skipped = self.pre = 0  # elements that we are in
        self.line_ends = 0  # that are due before the next text
        self.blank = self.cell = False  # whether a blank, the end of a cell is due
        self.cells = 0  # of this row so far

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        if self.skipped or tag in _SKIPPED or attributes.get("role") == "navigation" or "hidden" in attributes:
            self.skipped += 1
        elif tag in ("td", "th"):
            self.cell, self.cells = self.cells > 0, self.cells + 1
            self.line_ends *= not self.cell
        elif tag == "br":
            self.line_ends = min(2, self.line_ends + 1)
        else:
            self.pre += tag == "pre"
            self.cells *= tag != "tr"
            self.break_line(tag)

    def end(self, tag: str) -> None:
        if self.skipped:
            self.skipped -= 1
        elif tag != "br":
            self.pre -= tag == "pre"
            self.break_line(tag)

    def break_line(self, tag: str) -> None:
        self.line_ends = max(self.line_ends, (tag in _LINES) + 2 * (tag in _PARAGRAPHS))

    def data(self, data: str) -> None:
        if self.skipped:
            return
        text = data if self.pre else _SPACE.sub(" ", data)
        if not text.strip(_WHITE) and not (self.pre and not self.line_ends):
            self.blank = True
            return
        if not self.pre:
            self.blank, text = self.blank or text[0] == " ", text.lstrip(" ")
        if self.cell and self.parts:
            self.parts.append("\t")
        elif self.line_ends and self.parts:
            self.parts.append("\n" * self.line_ends)
        elif self.blank and self.parts and self.parts[-1][-1] not in _WHITE:
            self.parts.append(" ")
        self.parts.append(text)
        self.line_ends, self.blank, self.cell = 0, False, False

    def close(self) -> str:
        lines = "\n".join(line.rstrip(_WHITE) for line in "".join(self.parts).split("\n")).strip("\n")
        return f"{lines}\n" if lines.strip() else ""


def markup_text(content: bytes, errors: str, path: str, part: str = "") -> tuple[str, int]:
    """The text of a page, and how many bytes of it were replaced.

    Raises InputError without lxml, and where `errors` is "strict" and the bytes are not in the encoding that the page
    declares, or else in UTF-8; `path` and the `part` of it are for its sentence.
    """
    try:
        from lxml import etree
    except ImportError:
        raise InputError(f'{shown(path)} needs lxml; run pip install -e ".[documents]" in the checkout') from None
    encoding = _encoding(content)
    try:
        text, replaced = content.decode(encoding), 0
    except UnicodeDecodeError as error:
        if errors == "strict":
            raise InputError(
                f"{shown(path)}{part and ', ' + part + ','} is not in {encoding.upper()} at byte {error.start} "
                f"({error.reason}); convert it, or read it with --errors replace"
            ) from None
        text = content.decode(encoding, "replace")
        replaced = len(content) - len(content.decode(encoding, "ignore").encode(encoding, "ignore"))
    parser = etree.HTMLParser(target=_Reader(), huge_tree=True, remove_comments=True, remove_pis=True)
    text = _EMPTY.sub(r"<\1\2></\1>", text.removeprefix("\ufeff").translate(_CONTROLS))
    for start in range(0, len(text), CHUNK):
        parser.feed(text[start : start + CHUNK])
    found: str = parser.close() if text.strip() else ""
    return found.encode("utf-8", "replace").decode(), replaced


def _encoding(content: bytes) -> str:
    """As browsers do: a byte order mark, then what the page declares (Latin-1 means Windows-1252), then UTF-8."""
    for mark, encoding in (
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if content.startswith(mark):
            return encoding
    declared = _DECLARED.search(content[:4096])
    try:
        name = codecs.lookup(declared[1].decode("ascii") if declared else "utf-8").name
        "".encode(name)  # not all codecs are of texts
    except (LookupError, UnicodeDecodeError):
        return "utf-8"
    return {"iso8859-1": "cp1252", "ascii": "cp1252"}.get(name, "utf-8" if name.startswith("utf-16") else name)
