"""Numbers as a person reads them."""

from __future__ import annotations

import math


def perplexity_text(loss: float) -> str:
    """exp(loss) of a loss in nats, with three digits or all before the point.

    >>> perplexity_text(0.0), perplexity_text(3.9), perplexity_text(8.3177), perplexity_text(900.0)
    ('1.00', '49.4', '4,096', 'beyond counting')
    """
    if loss > 40:
        return "beyond counting"
    value = math.exp(loss)
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:,.0f}"


def short(count: float) -> str:
    """A count with three digits at most and the letter of its power of a thousand.

    >>> [short(count) for count in (0, 950, 1000, 12_345, 1_250_000, 7e9, 2e12)]
    ['0', '950', '1k', '12.3k', '1.25M', '7B', '2T']
    """
    power = min(int(math.log10(abs(count)) / 3 + 1e-9), 4) if abs(count) >= 1 else 0
    return f"{count / 1000**power:.3g}{('', 'k', 'M', 'B', 'T')[power]}"


def duration(seconds: float) -> str:
    """A time in its two largest units.

    >>> [duration(seconds) for seconds in (0.4, 59.6, 182, 3_600, 93_000)]
    ['0.4 s', '1 min 0 s', '3 min 2 s', '1 h 0 min', '1 d 1 h']
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, name, part_size, part in ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            return f"{whole // size} {name} {whole % size // part_size} {part}"
    return f"{whole} s"
