"""Two models on the same text: the paired difference in bits per byte, its interval, and what may be said of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from hornbook.evaluation.breakdown import IntervalScope, estimate, interval_scope
from hornbook.evaluation.intervals import UNKNOWN_KIND, Estimate
from hornbook.facts.errors import InputError
from hornbook.facts.units import counted
from hornbook.records.result import Report


def compare(a: Report, b: Report) -> dict[str, Any]:
    """The difference B - A in bits per byte over the same documents: negative when B is better.

    Documents, pieces of them or the parts of one passage are paired, so what makes one of them hard for both models
    drops out, and the interval is much narrower than those of the two numbers. Of one contiguous text the kind is not
    known, and the difference is called beyond chance only where it is so for any kind: 2.4 half-widths. None where
    there is too little text for an interval.
    Raises InputError when the reports did not score the same text.
    """
    check_same_text(a, b)
    nats = np.array([row.nats for row in b.documents]) - np.array([row.nats for row in a.documents])
    num_bytes = np.array([row.num_bytes for row in a.documents])
    difference = math.fsum(nats.tolist()) / (math.log(2) * a.num_bytes)
    scope = interval_scope(a.documents)
    paired = paired_estimate(scope, [a], [b])
    needed = 0.0 if paired is None else paired.half_width * (UNKNOWN_KIND if scope.rule == "passage" else 1)
    beyond = None if paired is None else abs(paired.value) > needed
    return {
        "difference_bits_per_byte": difference,
        "difference_bits_per_byte_interval_95": None if paired is None else list(paired.interval),
        "a": {"model": a.model, "bits_per_byte": a.bits_per_byte, "conventions": a.conventions},
        "b": {"model": b.model, "bits_per_byte": b.bits_per_byte, "conventions": b.conventions},
        "interval_over": scope.over,
        "interval_about": scope.about,
        "num_documents": len(num_bytes),
        "num_bytes": a.num_bytes,
        "share_of_documents_where_b_is_better": float((nats[num_bytes > 0] < 0).mean()),
        "beyond_chance": beyond,
        "verdict": _sentence(difference, paired, beyond, scope),
        "differing_conventions": sorted({key for key, _ in a.conventions.items() ^ b.conventions.items()}),
        "documents": [
            {"name": row.name, "difference_bits_per_byte": d / (math.log(2) * row.num_bytes) if row.num_bytes else None}
            for row, d in zip(a.documents, nats.tolist(), strict=True)
        ],
    }


def paired_estimate(scope: IntervalScope, a: Sequence[Report], b: Sequence[Report]) -> Estimate | None:
    """The difference with its error over documents: mean nats of B less those of A over the bytes that all read."""
    (of_a, of_b), parts = (_mean_rows(side) for side in (a, b)), None
    num_bytes = np.array([row.num_bytes for row in a[0].documents])
    if scope.rule == "passage" and all(report.extra.get("parts") for report in (*a, *b)):
        a_parts, b_parts = (np.mean([report.extra["parts"] for report in side], 0, float) for side in (a, b))
        parts = np.stack([b_parts[:, 0] - a_parts[:, 0], a_parts[:, 2] * math.log(2)], 1)
    return estimate(scope, of_b - of_a, num_bytes * math.log(2), parts, a[0].num_bytes, paired=True)


def _mean_rows(reports: Sequence[Report]) -> np.ndarray:
    """Mean nats of each document over the reports, (n,)."""
    means: np.ndarray = np.array([[row.nats for row in report.documents] for report in reports]).mean(0)
    return means


def check_same_text(a: Report, b: Report) -> None:
    """Raise InputError where two reports did not score the same bytes of the same documents."""
    a_hashes, b_hashes = (report.extra.get("text_sha256") for report in (a, b))
    if a_hashes is None or b_hashes is None:
        raise InputError("a report without the hashes of its documents cannot be compared; evaluate the models again.")
    if len(a.documents) != len(b.documents):
        raise InputError(
            f"{a.model} was scored on {counted(len(a.documents), 'document')} and {b.model} on {len(b.documents)}; "
            "evaluate both on the same text."
        )
    differing = [row.name for row, x, y in zip(a.documents, a_hashes, b_hashes, strict=True) if x != y]
    if differing:
        raise InputError(
            f"{a.model} and {b.model} did not score the same bytes of {len(differing)} of "
            f"{counted(len(a.documents), 'document')} "
            f'(the first is "{differing[0]}"): evaluate both on the same text; a model without an end-of-text token '
            "leaves out the first token of each document, and is comparable only with another that leaves out the same."
        )


def _sentence(difference: float, paired: Estimate | None, beyond: bool | None, scope: IntervalScope) -> str:
    better, on = "B" if difference < 0 else "A", f"on {scope.over}"
    if difference == 0:
        return f"A and B are equally good {on}."
    size = abs(difference)
    if paired is None:
        return f"{better} is better by {size:.4f} bits/byte {on}, too little text to rule out chance."
    low, high = sorted(x if difference > 0 else -x for x in paired.interval)
    numbers = f"{better} is better by {size:.4f} bits/byte, 95 % {low:.4f} to {high:.4f}, {on}"
    if beyond:
        chance = "beyond chance for these two models"
    elif low > 0:
        chance = "on one text of unknown kind this could still be chance: score several documents"
    else:
        chance = "this could be chance"
    return f"{numbers}; {chance}. Noise between seeds is not included: comparing recipes takes 3 runs of each."
