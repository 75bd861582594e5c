"""What a model has memorized, as one HTML file: the verdict, what it rests on, and the worst passages with places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hornbook.facts.metrics import printed
from hornbook.reporting.html import escape, figures, header, page, section, table

Row = Mapping[str, Any]


def memory_page(result: Row) -> str:
    """Return the page of what `memorize --json` prints, as HTML text."""
    step = "" if result.get("step") is None else f" at step {result['step']:,}"
    texts = f"{escape(result['train_text'])}, against {escape(result['heldout_text'])}"
    body = [
        header("memorization", f"{escape(result['model'])}{step}", texts),
        f'<ul class="said"><li>{escape(result["verdict"])}</li></ul>',
        figures((known.title, value, "", interval, known.sentence) for known, value, interval in printed(result)),
        _passages(result),
        section(
            "The measures in full",
            _table("Greedy continuation of prefixes", result["extraction"]),
            _table("Passages that samples contain with probability one half", result["discoverable"]),
            _table("Overlap of samples with the training text, by length of span", result["copying"]),
            _table("Planted canaries", result["canaries"]),
            _numbers(result),
        ),
        f"<footer>Written by Hornbook. {escape(_conventions(result['conventions']))}</footer>",
    ]
    return page(f"{result['model']}: memorization", body)


def _passages(result: Row) -> str:
    known = [
        (row, f"{row['matched_tokens']} of {row['num_tokens']} tokens", row["prompt"], row["matched_text"])
        for row in result["passages"]
    ]
    copied = [
        (row, f"{row['num_tokens']} tokens of sample {row['sample'] + 1}", "", row["text"]) for row in result["copies"]
    ]
    return _places(
        "What it knows best",
        "Training passages. Grey: the prompt. Marked: what the model continued exactly as the text does. Plain: the "
        "rest of the passage, which the model did not reproduce.",
        known,
    ) + _places("What it copied", "The longest spans that its samples share with the training text.", copied)


def _places(title: str, lede: str, rows: Sequence[tuple[Row, str, str, str]]) -> str:
    """Passages of the training text beside their places; of each what was given, and what the model wrote of it."""
    entries = "".join(
        f'<li><div class="when"><b>{escape(row["document"])}</b><span>from byte {row["byte_in_document"]:,}</span>'
        f'<span>{size}</span></div><blockquote dir="auto"><span class="given">{escape(given)}</span>'
        f"<mark>{escape(written)}</mark>{escape(row['text'].removeprefix(written))}</blockquote></li>\n"
        for row, size, given, written in rows
    )
    return section(title, f"<p>{lede}</p>", f'<ol class="timeline">\n{entries}</ol>')


def _table(title: str, rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    titles = (escape(name.replace("_", " ")) for name in rows[0])
    return f'<p class="note prompt">{title}</p>\n' + table(titles, (map(_cell, row.values()) for row in rows))


def _cell(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " to ".join(map(_cell, value))
    return f"{value:.3g}" if isinstance(value, float) else escape(value)


def _numbers(result: Row) -> str:
    rows = [
        {"number": name.replace("_", " "), "value": value, "95 % interval": result.get(f"{name}_interval_95", "")}
        for name, value in result.items()
        if isinstance(value, float)
    ]
    return _table("All numbers", rows)


def _conventions(conventions: Row) -> str:
    known = {name: "unknown" if value is None else value for name, value in conventions.items()}
    return "; ".join(f"{name.replace('_', ' ')} {_cell(value)}" for name, value in known.items()) + "."
