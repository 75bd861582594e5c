"""Results as tables: the numbers that one holds, by METRICS, as text for a terminal and as HTML for a notebook."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from hornbook.facts.metrics import METRICS
from hornbook.facts.printing import on_one_line

_INTERVALS = {"_interval_95": "95 %", "_interval_90": "90 %"}
_TITLES = ("run", "prepared", "model", "out", "text")
_SENTENCES = ("verdict", "words", "warnings", "report")


class Result(dict[str, Any]):
    """The values of JSON that a command prints with --json. Prints as a table."""

    def to_dict(self) -> dict[str, Any]:
        return dict(self)

    def __str__(self) -> str:
        return as_text(self)

    def _repr_html_(self) -> str:
        return as_html(self)


def table_rows(result: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, str, str]]:
    """Name, value, and unit with interval of each number of METRICS in `result`, also of those in mappings in it.

    >>> list(table_rows({"num_tokens": 1200, "bits_per_byte": 1.5, "bits_per_byte_interval_95": (1.4, 1.6)}))
    [('num tokens', '1,200', 'tokens'), ('bits per byte', '1.5', 'bits/byte, 95 % 1.4 to 1.6')]
    """
    for key, value in result.items():
        if isinstance(value, Mapping) and key != "files":
            yield from table_rows(value, f"{within}{key} ")
        elif key in METRICS and isinstance(value, int | float) and not isinstance(value, bool):
            notes = [METRICS[key].unit] if METRICS[key].unit else []
            for suffix, level in _INTERVALS.items():
                low, high = result.get(f"{key}{suffix}") or (None, None)
                if low is not None and high is not None:
                    notes.append(f"{level} {_number(low)} to {_number(high)}")
            name = f"{within}{key.removesuffix('_nats_per_token')}".replace("_", " ")
            yield on_one_line(name), _number(value), ", ".join(notes)


def as_text(result: Mapping[str, Any]) -> str:
    """Title, three columns, and what is concluded."""
    rows = list(table_rows(result))
    name, value = (max((len(row[column]) for row in rows), default=0) for column in (0, 1))
    lines = [f"{row[0]:{name}}   {row[1]:>{value}}   {row[2]}".rstrip() for row in rows]
    return "\n".join([*_title(result), *lines, *_sentences(result)])


def as_html(result: Mapping[str, Any]) -> str:
    """The same as a table of HTML."""
    paragraphs = "".join(f"<p>{html.escape(text)}</p>" for text in _sentences(result))
    return html_table(table_rows(result), *_title(result)) + paragraphs


def html_table(rows: Iterable[Iterable[str]], title: str = "") -> str:
    """
    >>> html_table([("loss", "< 2")])
    '<table><caption></caption><tr><td>loss</td><td>&lt; 2</td></tr></table>'
    """
    lines = ("".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows)
    return (
        f"<table><caption>{html.escape(title)}</caption>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"
    )


def _title(result: Mapping[str, Any]) -> list[str]:
    named = [on_one_line(result[key]) for key in _TITLES if isinstance(result.get(key), str)]
    return [" on ".join(named)] if named else []


def _sentences(result: Mapping[str, Any]) -> list[str]:
    given = [result[key] for key in _SENTENCES if isinstance(result.get(key), str | list)]
    return [on_one_line(text) for value in given for text in ([value] if isinstance(value, str) else value)]


def _number(value: float) -> str:
    """
    >>> _number(1234567), _number(1234567.8), _number(1.23456789), _number(3e-05)
    ('1,234,567', '1,234,568', '1.2346', '3e-05')
    """
    return f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.5g}"
