"""Two models on the same text: the paired difference in bits per byte, its interval, and what may be said of it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from hornbook.evaluation.intervals import INTERVAL_DOCUMENTS, bootstrap_ratio
from hornbook.facts.errors import InputError
from hornbook.facts.quantities import counted
from hornbook.records.result import Report


def compare(a: Report, b: Report, *, seed: int = 0) -> dict[str, Any]:
    """The difference B - A in bits per byte over the same documents: negative when B is better.

    Documents (blocks, where there are fewer than 30 documents) are paired, so what makes one of them hard for both
    models drops out, and the interval is much narrower than those of the two numbers. `beyond_chance` is None where
    there is too little text for an interval.
    Raises InputError when the reports did not score the same text.
    """
    _check_same_text(a, b)
    nats = np.array([row.nats for row in b.documents]) - np.array([row.nats for row in a.documents])
    num_bytes = np.array([row.num_bytes for row in a.documents])
    difference = math.fsum(nats.tolist()) / (math.log(2) * a.num_bytes)
    interval, clusters = _interval(a, b, seed)
    beyond = None if interval is None else not interval[0] <= 0 <= interval[1]
    return {
        "difference_bits_per_byte": difference,
        "difference_bits_per_byte_interval_95": None if interval is None else list(interval),
        "a": {"model": a.model, "bits_per_byte": a.bits_per_byte, "conventions": a.conventions},
        "b": {"model": b.model, "bits_per_byte": b.bits_per_byte, "conventions": b.conventions},
        "interval_over": clusters,
        "num_documents": len(num_bytes),
        "num_bytes": a.num_bytes,
        "share_of_documents_where_b_is_better": float((nats[num_bytes > 0] < 0).mean()),
        "beyond_chance": beyond,
        "verdict": _sentence(difference, interval, clusters),
        "differing_conventions": sorted(
            key
            for key in a.conventions.keys() | b.conventions.keys()
            if a.conventions.get(key) != b.conventions.get(key)
        ),
        "documents": [
            {"name": row.name, "difference_bits_per_byte": d / (math.log(2) * row.num_bytes) if row.num_bytes else None}
            for row, d in zip(a.documents, nats.tolist(), strict=True)
        ],
    }


def _interval(a: Report, b: Report, seed: int) -> tuple[tuple[float, float] | None, str]:
    """The interval of the difference, and over what: documents from 30 on, else the blocks that the reports share."""
    rows = [[(row.nats, row.num_tokens, row.num_bytes) for row in report.documents] for report in (a, b)]
    unit = "document"
    if len(a.documents) < INTERVAL_DOCUMENTS:
        blocks = [report.extra.get("blocks") or [] for report in (a, b)]
        if len(blocks[0]) == len(blocks[1]) > len(rows[0]):
            rows, unit = blocks, "block"
    sums = np.array(rows, float)
    interval = bootstrap_ratio(sums[1, :, 0] - sums[0, :, 0], sums[0, :, 2] * math.log(2), seed=seed)
    count = int((sums[0, :, 2] > 0).sum())
    within = "" if unit == "document" else f" of {len(a.documents)} document{'s' * (len(a.documents) != 1)}"
    return interval, f"{count:,} {unit}{'s' * (count != 1)}{within}"


def _check_same_text(a: Report, b: Report) -> None:
    one, other = (report.extra.get("text_sha256") for report in (a, b))
    if one is None or other is None:
        raise InputError("a report without the hashes of its documents cannot be compared; evaluate the models again.")
    if len(a.documents) != len(b.documents):
        raise InputError(
            f"{a.model} was scored on {counted(len(a.documents), 'document')} and {b.model} on {len(b.documents)}; "
            "evaluate both on the same text."
        )
    differing = [row.name for row, x, y in zip(a.documents, one, other, strict=True) if x != y]
    if differing:
        raise InputError(
            f"{a.model} and {b.model} did not score the same bytes of {len(differing)} of "
            f"{counted(len(a.documents), 'document')} "
            f'(the first is "{differing[0]}"): evaluate both on the same text; a model without an end-of-text token '
            "leaves out the first token of each document, and is comparable only with another that leaves out the same."
        )


def _sentence(difference: float, interval: tuple[float, float] | None, clusters: str) -> str:
    better, on = "B" if difference < 0 else "A", f"on {clusters}"
    if difference == 0:
        return f"A and B are equally good {on}."
    size = abs(difference)
    if interval is None:
        return f"{better} is better by {size:.4f} bits/byte {on}, too little text to say whether that is beyond chance."
    low, high = sorted(x if difference > 0 else -x for x in interval)
    numbers = f"{size:.4f} bits/byte, 95 % {low:.4f} to {high:.4f}, {on}"
    if interval[0] <= 0 <= interval[1]:
        return f"{better} is better by {numbers}; that can be chance."
    return (
        f"{better} is better by {numbers}; beyond chance for these two models; comparing recipes needs 3 runs a side."
    )
