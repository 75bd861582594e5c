"""One HTML file: no script, no address of anything outside, and text that stays text."""

from __future__ import annotations

import html
import importlib.resources
from collections.abc import Sequence
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


def style() -> str:
    """The style sheet of every page."""
    return importlib.resources.files("hornbook.reporting").joinpath("page.css").read_text(encoding="utf-8")


def escape(text: object) -> str:
    """Text as HTML that shows it: no mark-up gets through, and what HTML cannot hold becomes a visible sign.

    >>> escape('</pre><b title="x">' + chr(0))
    '&lt;/pre&gt;&lt;b title=&quot;x&quot;&gt;␀'
    """
    return html.escape(printable(text))
