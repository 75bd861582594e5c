"""One HTML file: no script, no address of anything outside, and text that stays text."""

from __future__ import annotations

import html
import importlib.resources
from collections.abc import Iterable, Sequence
from string import Template

from hornbook.facts.printing import printable

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>
$style</style>
</head>
<body>
$body
</body>
</html>
""")  # noqa: E501


def page(title: str, body: Sequence[str]) -> str:
    """A whole page of the parts of its body that are not empty."""
    return _PAGE.substitute(title=escape(title), style=style(), body="\n".join(part for part in body if part))


# The parts take HTML: what comes from outside is escaped before.


def header(eyebrow: str, title: str, *facts: str) -> str:
    lede = f'<p class="lede">{" · ".join(facts)}</p>' if facts else ""
    return f'<header><p class="eyebrow">Hornbook: {eyebrow}</p>\n<h1>{title}</h1>\n{lede}</header>'


def section(title: str, *parts: str) -> str:
    body = "\n".join(part for part in parts if part)
    return f"<section>\n<h2>{title}</h2>\n{body}</section>"


def table(titles: Iterable[str], rows: Iterable[Iterable[str]], *, foot: str = "", style: str = "") -> str:
    """A table that scrolls sideways where it is too wide; `foot` has rows of its own."""
    head = "".join(f"<th>{title}</th>" for title in titles)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>\n" for row in rows)
    foot = f"<tfoot>\n{foot}</tfoot>\n" if foot else ""
    body = f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n{foot}"
    return f'<div class="scroll"><table class="{style}">\n{body}</table></div>'


def figures(entries: Iterable[tuple[str, str, str, str, str]]) -> str:
    """Big numbers side by side: name, number, unit, interval, and what the number means."""
    parts = []
    for name, number, unit, interval, meaning in entries:
        between = f'<dd class="range">{interval.replace("95 %", "95 % interval")}</dd>' if interval else ""
        number = f'<dd class="number">{number} <span class="unit">{unit}</span></dd>'
        parts.append(f'<div><dt>{name}</dt>{number}{between}<dd class="meaning">{meaning}</dd></div>\n')
    return f'<dl class="figures">\n{"".join(parts)}</dl>' if parts else ""


def style() -> str:
    """The style sheet of every page."""
    return importlib.resources.files("hornbook.reporting").joinpath("page.css").read_text(encoding="utf-8")


def escape(text: object) -> str:
    """Text as HTML that shows it: no mark-up gets through, and what HTML cannot hold becomes a visible sign.

    >>> escape('</pre><b title="x">' + chr(0))
    '&lt;/pre&gt;&lt;b title=&quot;x&quot;&gt;␀'
    """
    return html.escape(printable(text))
