"""Every sentence that concludes something: its id, its rule, and how often it may be wrong. Each once.

A conclusion is a claim with a rate. The table is conclusions.toml; `benchmarks/conclusions.py` holds each against cases
whose answer is known, and docs/conclusions.md sets the measured rate beside the one that is allowed.
"""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path

import msgspec


class Conclusion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`says` is an example. `false_at_most` is the share of cases in which it may be said although it is not so,
    `missing_at_most` the share of cases in which it may be left unsaid although it is so; None where that is not
    judged. `benchmarks/conclusions.py CASE` measures both, `case` being its name.
    """

    id: str
    says: str
    rule: str
    case: str
    false_at_most: float | None = None
    missing_at_most: float | None = None


@cache
def conclusions() -> dict[str, Conclusion]:
    """All of them by id, in the order of the table."""
    table = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    return {name: msgspec.convert(row | {"id": name}, Conclusion) for name, row in table.items()}
