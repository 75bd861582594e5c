"""Text that a tokenizer does not give back: bits per byte then count bytes that no token stands for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def lost_warning(numbers: Mapping[str, Any]) -> str | None:
    """What is said beside numbers whose `lost_share` is above 0; None where nothing is lost.

    >>> lost_warning({"lost_share": 0.25})
    'the tokenizer loses 25% of the bytes of this text, so its bits per byte cannot be compared with others'
    >>> lost_warning({})
    """
    share = 100 * (numbers.get("lost_share") or 0.0)
    if not share:
        return None
    return (
        f"the tokenizer loses {share:.2g}% of the bytes of this text, so its bits per byte cannot be compared "
        "with others"
    )
