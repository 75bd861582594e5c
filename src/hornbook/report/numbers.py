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
