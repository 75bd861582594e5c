"""Numbers as a person reads them."""

from __future__ import annotations

import math

from hornbook.facts.quantities import format_count, format_duration

short, duration = format_count, format_duration


def perplexity_text(loss: float) -> str:
    """exp(loss) of a loss in nats, with three digits or all before the point.

    >>> perplexity_text(0.0), perplexity_text(3.9), perplexity_text(8.3177), perplexity_text(900.0)
    ('1.00', '49.4', '4,096', 'beyond counting')
    """
    if loss > 40:
        return "beyond counting"
    value = math.exp(loss)
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:,.0f}"


def signed(value: float, digits: int = 3) -> str:
    """A number with a minus sign of the width of a plus."""
    return f"{value:.{digits}f}".replace("-", "−")


def probability_text(value: float) -> str:
    """A probability with three digits that count.

    >>> [probability_text(p) for p in (0.98765, 0.0123, 0.000244, 2.44e-7, 0.0)]
    ['0.988', '0.0123', '0.00024', '2.4·10⁻⁷', '0']
    """
    if value == 0:
        return "0"
    if value < 1e-4:
        digits, _, power = f"{value:.1e}".partition("e")
        return f"{digits}·10{str(int(power)).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"
    return f"{value:.3f}" if value >= 0.1 else f"{value:.4f}" if value >= 0.001 else f"{value:.5f}"
