"""Perplexity as text is the exponential of the loss."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from hornbook.report.numbers import perplexity_text


@given(st.floats(0, 40))
def test_perplexity_is_the_exponential(loss: float) -> None:
    assert abs(float(perplexity_text(loss).replace(",", "")) / math.exp(loss) - 1) <= 0.0051
