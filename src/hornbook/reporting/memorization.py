"""What a model knows by heart, as one HTML file: the verdict, what it rests on, and the worst passages with places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hornbook.facts.metrics import printed
from hornbook.reporting.html import escape, page

Row = Mapping[str, Any]


def memory_page(found: Row) -> str:
    """Return the page of what `memorize --json` prints, as HTML text."""
    at = "" if found.get("step") is None else f" at step {found['step']:,}"
    header = (
        f'<header><p class="eyebrow">Hornbook: learned, or learned by heart</p>\n<h1>{escape(found["model"])}{at}</h1>'
        f'\n<p class="lede">{escape(found["train_text"])}, against {escape(found["heldout_text"])}</p></header>'
    )
    body = [
        header,
        f'<ul class="said"><li>{escape(found["verdict"])}</li></ul>',
        _figures(found),
        _passages(found),
        "<section>\n<h2>The measures in full</h2>",
        _table("Greedy continuation of prefixes", found["extraction"]),
        _table("Passages that samples contain with probability one half", found["discoverable"]),
        _table("Free samples in common with the training text, by length of span", found["copying"]),
        _table("Planted canaries", found["canaries"]),
        _numbers(found),
        "</section>",
        f"<footer>Written by Hornbook. {escape(_conventions(found['conventions']))}</footer>",
    ]
    return page(f"{found['model']}: by heart?", body)


def _figures(found: Row) -> str:
    entries = "".join(
        f'<div><dt>{known.title}</dt><dd class="number">{value}</dd>'
        + (f'<dd class="range">{interval}</dd>' if interval else "")
        + f'<dd class="meaning">{known.sentence}</dd></div>\n'
        for known, value, interval in printed(found)
    )
    return f'<dl class="figures">\n{entries}</dl>'


def _passages(found: Row) -> str:
    known = [
        (row, f"{row['matched_tokens']} of {row['num_tokens']} tokens", row["prompt"], row["matched_text"])
        for row in found["passages"]
    ]
    copied = [
        (row, f"{row['num_tokens']} tokens of sample {row['sample'] + 1}", "", row["text"]) for row in found["copies"]
    ]
    return _places(
        "What it knows best",
        "Training passages. Grey is what the model was given, marked what it went on with as the text does, plain "
        "what comes in the text and the model did not write.",
        known,
    ) + _places(
        "What it copied", "The longest spans that its free samples have in common with the training text.", copied
    )


def _places(title: str, said: str, rows: Sequence[tuple[Row, str, str, str]]) -> str:
    """Passages of the training text beside their places; of each what was given, and what the model wrote of it."""
    entries = "".join(
        f'<li><div class="when"><b>{escape(row["document"])}</b><span>from byte {row["byte_in_document"]:,}</span>'
        f'<span>{size}</span></div><blockquote dir="auto"><span class="given">{escape(given)}</span>'
        f"<mark>{escape(written)}</mark>{escape(row['text'].removeprefix(written))}</blockquote></li>\n"
        for row, size, given, written in rows
    )
    return f'<section>\n<h2>{title}</h2>\n<p>{said}</p>\n<ol class="timeline">\n{entries}</ol>\n</section>'


def _table(title: str, rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{escape(name.replace('_', ' '))}</th>" for name in rows[0])
    lines = "".join(f"<tr>{''.join(f'<td>{_cell(value)}</td>' for value in row.values())}</tr>\n" for row in rows)
    return (
        f'<p class="note prompt">{title}</p>\n<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n'
        f"{lines}</tbody></table></div>"
    )


def _cell(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " to ".join(map(_cell, value))
    return f"{value:.3g}" if isinstance(value, float) else escape(value)


def _numbers(found: Row) -> str:
    rows = [
        {"number": name.replace("_", " "), "value": value, "95 % interval": found.get(f"{name}_interval_95", "")}
        for name, value in found.items()
        if isinstance(value, float)
    ]
    return _table("All numbers", rows)


def _conventions(conventions: Row) -> str:
    known = {name: "unknown" if value is None else value for name, value in conventions.items()}
    return "; ".join(f"{name.replace('_', ' ')} {_cell(value)}" for name, value in known.items()) + "."
