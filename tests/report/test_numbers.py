"""Numbers as words never change their size."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from hornbook.report.numbers import duration, perplexity_text, short

UNITS = {"": 1, "k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12, "s": 1, "min": 60, "h": 3600, "d": 86_400}


@given(st.integers(0, 10**15))
def test_short_is_within_half_a_percent(count: int) -> None:
    text = short(count)
    digits = text.rstrip("kMBT")
    assert abs(float(digits) * UNITS[text[len(digits) :]] - count) <= 0.00501 * count


@given(st.floats(0, 1e7))
def test_a_duration_is_within_its_smaller_unit(seconds: float) -> None:
    parts = duration(seconds).split()
    total = sum(float(number) * UNITS[unit] for number, unit in zip(parts[::2], parts[1::2], strict=True))
    assert abs(total - seconds) <= max(0.5, UNITS[parts[-1]]) + 0.5


@given(st.floats(0, 40))
def test_perplexity_is_the_exponential(loss: float) -> None:
    assert abs(float(perplexity_text(loss).replace(",", "")) / math.exp(loss) - 1) <= 0.0051
