"""What a model has memorized, as one HTML file: the verdict, what it rests on, and the worst passages with places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hornbook.facts.metrics import METRICS, printed
from hornbook.reporting.html import collapsed, page
from hornbook.reporting.verdict import of_memorization

Row = Mapping[str, Any]


def memory_page(result: Row, links: Sequence[tuple[str, str]] = ()) -> str:
    """Return the page of what `memorize --json` prints, as HTML text."""
    step = "" if result.get("step") is None else f" at step {result['step']:,}"
    measures = {
        "Greedy continuation of prefixes": result["extraction"],
        "Passages that samples contain with probability one half": result["discoverable"],
        "Overlap of samples with the training text, by length of span": result["copying"],
        "Planted canaries": result["canaries"],
        "All numbers": [
            {"number": name.replace("_", " "), "value": value, "95 % interval": result.get(f"{name}_interval_95", "")}
            for name, value in result.items() if isinstance(value, float)
        ],
    }  # fmt: skip
    conventions = {name: "unknown" if value is None else value for name, value in result["conventions"].items()}
    return page(
        "memorization.html", title=f"What it has memorized: {result['model']}{step}", eyebrow="memorization",
        facts=[result["train_text"], f"against {result['heldout_text']}"], links=links,
        verdict=of_memorization(result), figures=_cards(result),
        lists=[entry for entry in _lists(result) if entry[2]],
        tables=[
            (title, [name.replace("_", " ") for name in rows[0]],
             collapsed([[_cell(value) for value in row.values()] for row in rows]))
            for title, rows in measures.items() if rows
        ],
        conventions="; ".join(f"{name.replace('_', ' ')} {_cell(value)}" for name, value in conventions.items()) + ".",
    )  # fmt: skip


def _cards(result: Row) -> list[tuple[Any, ...]]:
    """A card for each number; that of the held-out text stands in the card of what it is the control of."""
    numbers = {known.name: (known, value, interval) for known, value, interval in printed(result)}
    cards = []
    for name, (known, value, interval) in numbers.items():
        control = numbers.get(f"control_{name}")
        if not name.startswith("control_"):
            beside = [] if control is None else [(METRICS[f"control_{name}"].label, control[1])]
            cards.append((known.title, value, "", interval, known.sentence, beside))
    return cards


def _lists(result: Row) -> list[tuple[str, str, list[dict[str, str]]]]:
    """Passages of the training text beside their places; of each what was given, and what the model wrote of it."""
    known = [
        _place(row, f"{row['matched_tokens']} of {row['num_tokens']} tokens", row["prompt"], row["matched_text"])
        for row in result["passages"]
    ]
    copied = [
        _place(row, f"{row['num_tokens']} tokens of sample {row['sample'] + 1}", "", row["text"])
        for row in result["copies"]
    ]
    lede = ("Training passages. Grey: the prompt. Marked: what the model continued exactly as the text does. Plain: "
            "the rest of the passage, which the model did not reproduce.")  # fmt: skip
    return [("What it knows best", lede, known),
            ("What it copied", "The longest spans that its samples share with the training text.", copied)]  # fmt: skip


def _place(row: Row, size: str, given: str, written: str) -> dict[str, str]:
    return {"document": row["document"], "byte": f"{row['byte_in_document']:,}", "size": size, "given": given,
            "written": written, "rest": row["text"].removeprefix(written)}  # fmt: skip


def _cell(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " to ".join(map(_cell, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)
