"""Every sentence that concludes something: its id, its rule, and how often it may be wrong. Each once.

A conclusion is a claim with a rate. `benchmarks/conclusions.py` holds each against cases whose answer is known, and
docs/conclusions.md sets the measured rate beside the one that is allowed.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Conclusion:
    """`false_at_most` is the share of cases in which it may be said although it is not so, `missing_at_most` the share
    of cases in which it may be left unsaid although it is so; None where that is not judged. `case` is the command
    `benchmarks/conclusions.py CASE` that measures both.
    """

    id: str
    says: str
    rule: str
    case: str
    false_at_most: float | None = 0.05
    missing_at_most: float | None = 0.10


_TABLE: tuple[Conclusion, ...] = ()

CONCLUSIONS: dict[str, Conclusion] = {row.id: row for row in _TABLE}
