"""What a model is made of: its weights as a table, on a page and on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

COLUMNS = ("weight", "shape", "parameters", "norm", "mean", "spread", "from", "to", "histogram")


def sparkline(counts: Sequence[int]) -> str:
    """A histogram in one line of text.

    >>> sparkline([0, 1, 4, 8])
    ' ▁▄█'
    """
    most = max(counts) or 1
    return "".join(" ▁▂▃▄▅▆▇█"[min(8, -(-8 * count // most))] for count in counts)


def weight_rows(view: Row) -> list[tuple[str, ...]]:
    """A row of texts for each weight, as COLUMNS says."""
    return [
        (
            row["name"].removesuffix(".weight")
            + (" (also the head)" if row["tied_to"] else "")
            + ("" if row["trainable"] else " (frozen)"),
            "×".join(map(str, row["shape"])),
            f"{row['num_parameters']:,}",
            f"{row['norm']:.3g}",
            f"{row['mean']:.1e}",
            f"{row['standard_deviation']:.2e}",
            f"{row['minimum']:.2g}",
            f"{row['maximum']:.2g}",
            sparkline(row["histogram"]),
        )
        for row in view["weights"]
    ]


def weights_in_words(view: Row) -> str:
    """Parameters in all and by part: blocks together, where they are equally large."""
    parts = view["num_parameters_by_part"]
    blocks = [count for name, count in parts.items() if name.startswith("blocks.")]
    named = [f"{name} {count:,}" for name, count in parts.items() if not name.startswith("blocks.")]
    if blocks:
        named.append(f"{len(blocks)} blocks of {blocks[0]:,}" if len(set(blocks)) == 1 else f"blocks {sum(blocks):,}")
    tied = "the head is the embedding" if view["tied"] else "the head has weights of its own"
    return f"{view['num_parameters']:,} parameters: {', '.join(named)}; {tied}."
