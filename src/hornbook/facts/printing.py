"""Text of other people's making (documents, samples, prompts, names) on its way to a terminal.

A terminal obeys control sequences: they move the cursor, change its title, write into the clipboard. So every module
that prints imports `print` and consoles from here; a house test holds both.
"""

from __future__ import annotations

import builtins
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

import msgspec

_SIGNS: dict[int, str] = {code: chr(0x2400 + code) for code in range(0x20)} | {0x7F: "␡"}
_SIGNS |= dict.fromkeys([*range(0x80, 0xA0), *range(0xD800, 0xE000)], "\ufffd")
_SIGNS |= {0xDC00 + byte: f"\\x{byte:02x}" for byte in range(0x80, 0x100)}  # how Python holds bytes that are not UTF-8
_TEXT = {code: sign for code, sign in _SIGNS.items() if chr(code) not in "\t\n"}


def printable(text: object) -> str:
    """Return the text with a sign for each control character but tabs and line ends; of CR LF, the line end is left.

    >>> printable("a\\tb\\r\\n\\x1b[31mred\\x9b0m \\r caf\\udce9")
    'a\\tb\\n␛[31mred�0m ␍ caf\\\\xe9'
    """
    return str(text).replace("\r\n", "\n").translate(_TEXT)


def on_one_line(text: object) -> str:
    """Return the text with a sign for each control character, tabs and line ends too: for names and sentences.

    >>> on_one_line("a\\tb\\n.txt")
    'a␉b␊.txt'
    """
    return str(text).translate(_SIGNS)


def print(*values: object, end: str = "\n", file: TextIO | None = None, flush: bool = False) -> None:
    """The builtin one, of what is printable."""
    builtins.print(*map(printable, values), end=end, file=file, flush=flush)


def console(*, stderr: bool = False, quiet: bool = False) -> Any:
    """A rich console that takes strings as they are: no markup, no emoji codes, no control sequences in them is obeyed.
    What is to have colours is given as rich.text.Text, of what is `printable`."""
    from rich.console import Console
    from rich.text import Text

    class PlainConsole(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str(printable(text), **options | {"markup": False, "emoji": False})

    return PlainConsole(stderr=stderr, quiet=quiet, highlight=False, soft_wrap=True)


def whole_line_ends(pieces: Iterable[str]) -> Iterator[str]:
    """The pieces, cut so that CR and LF stay together.

    >>> list(whole_line_ends(["one\\r", "\\ntwo", "\\r"]))
    ['one', '\\r\\ntwo', '', '\\r']
    """
    held = ""
    for piece in pieces:
        held += piece
        stop = len(held) - held.endswith("\r")
        yield held[:stop]
        held = held[stop:]
    yield held


def print_json(result: Any) -> None:
    """Print one object as JSON, with all control characters escaped, also those that JSON may have as they are."""
    try:
        encoded = msgspec.json.encode(result)
    except UnicodeEncodeError:  # a name that is not UTF-8
        encoded = msgspec.json.encode(encodable(msgspec.to_builtins(result)))
    text = msgspec.json.format(encoded, indent=2).decode()
    builtins.print(text.translate({code: f"\\u{code:04x}" for code in range(0x7F, 0xA0)}))


def encodable(value: Any) -> Any:
    """The values with the bytes of their texts that are not UTF-8 as \\xNN."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if isinstance(value, dict):
        return {encodable(key): encodable(item) for key, item in value.items()}
    return [encodable(item) for item in value] if isinstance(value, list | tuple) else value


def ready_streams() -> None:
    """Make stdout and stderr take any text: what their encoding lacks becomes \\uXXXX; a closed one swallows all."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        reconfigure: Any = getattr(getattr(sys, name), "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
