"""How people write amounts ("7B", "30/hour", "10m") and how amounts are written for people. One place for both."""

from __future__ import annotations

import math
import re

from hornbook.facts.errors import InputError

_COUNTS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9, "t": 10**12}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
BEYOND_COUNTING = 40.0  # nats; exp(40) is 2.4e17
_PRICE_UNITS = {"hour": 1.0, "hr": 1.0, "h": 1.0, "day": 24.0, "d": 24.0, "minute": 1 / 60, "min": 1 / 60}


def parse_count(text: str, noun: str = "the number") -> int:
    """A count with an optional K, M, B (or G) or T. Raises InputError.

    >>> parse_count("7B"), parse_count("1.5m"), parse_count("2T"), parse_count("1_000"), parse_count("1e6")
    (7000000000, 1500000, 2000000000000, 1000, 1000000)
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]*)?(?:e\+?[0-9]{1,2})?)\s*([kmbgt]?)", _plain(text))
    if match is None or not float(match[1]):
        raise InputError(f'{noun} is "{text}", but must be a positive number such as 250000, 10M, 7B or 2T.')
    return round(float(match[1]) * _COUNTS[match[2]])


def parse_price(text: str) -> float:
    """US dollars per hour, for all accelerators of the plan together. Raises InputError.

    >>> parse_price("30/hour"), parse_price("$2.50/h"), parse_price("48/day")
    (30.0, 2.5, 2.0)
    """
    match = re.fullmatch(r"(?:\$|usd)?\s*([0-9]+(?:\.[0-9]*)?)\s*(?:\$|usd)?\s*/\s*([a-z]+)", _plain(text))
    if match is None or match[2] not in _PRICE_UNITS:
        raise InputError(f'the price is "{text}", but must be US dollars per hour for all of them, such as 30/hour.')
    return float(match[1]) / _PRICE_UNITS[match[2]]


def parse_duration(text: str, noun: str = "the duration") -> float:
    """Seconds of "90s", "10m", "2h", "1h30m" or "3d". Raises InputError.

    >>> parse_duration("10m"), parse_duration("1h30m"), parse_duration("0.5d")
    (600.0, 5400.0, 43200.0)
    """
    plain = _plain(text)
    parts = re.findall(r"([0-9]+(?:\.[0-9]*)?)([smhd])", plain)
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != plain or not seconds:
        raise InputError(f'{noun} is "{text}", but must be a time with its unit, such as 90s, 10m, 1h30m or 2d.')
    return seconds


def _plain(text: str) -> str:
    return text.strip().lower().replace(",", "").replace("_", "")


def format_count(number: float) -> str:
    """Three significant digits and a letter.

    >>> format_count(124439808), format_count(2e12), format_count(950), format_count(999999)
    ('124M', '2T', '950', '1M')
    """
    number = float(f"{number:.3g}")
    for letter, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


def format_number(number: float) -> str:
    """Four significant digits, never in powers of ten.

    >>> format_number(43987.2), format_number(9.5), format_number(108400.0)
    ('43,990', '9.5', '108,400')
    """
    return f"{float(f'{number:.4g}'):,.15g}"


def counted(number: int, noun: str) -> str:
    """
    >>> counted(1, "step"), counted(1200, "step")
    ('1 step', '1,200 steps')
    """
    return f"{number:,} {noun}{'s' * (number != 1)}"


def format_duration(seconds: float) -> str:
    """The two largest units that say something.

    >>> format_duration(12.34), format_duration(754), format_duration(8000), format_duration(3e6), format_duration(1e8)
    ('12.3 s', '12 min 34 s', '2 h 13 min', '34.7 days', '1,157 days')
    """
    if not math.isfinite(seconds):
        return "forever"
    if seconds < 60:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 172_800:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{seconds / 86_400:,.{1 if seconds < 8_640_000 else 0}f} days"


def format_bytes(num_bytes: float) -> str:
    """Binary units.

    >>> format_bytes(512), format_bytes(3 * 2**20), format_bytes(80 * 2**30)
    ('512 B', '3 MiB', '80 GiB')
    """
    for unit, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if num_bytes >= size:
            return f"{num_bytes / size:.3g} {unit}"
    return f"{num_bytes:.0f} B"


def format_usd(usd: float) -> str:
    """Dollars; cents only below 100.

    >>> format_usd(691200), format_usd(3.5)
    ('$691,200', '$3.50')
    """
    return f"${usd:,.0f}" if usd >= 100 else f"${usd:,.2f}"


def perplexity_text(loss: float) -> str:
    """exp(loss) of a loss in nats, with three digits or all before the point.

    >>> perplexity_text(0.0), perplexity_text(3.9), perplexity_text(8.3177), perplexity_text(900.0)
    ('1.00', '49.4', '4,096', 'more than 1e17')
    """
    if loss > BEYOND_COUNTING:
        return "more than 1e17"
    value = math.exp(loss)
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:,.0f}"


def hesitation(loss: float, vocabulary: int | None) -> str | None:
    """What to say of a perplexity that no hesitation explains; None where it is one.

    >>> hesitation(8.2, 384)
    'more than the 384 there are: worse than uniform guessing'
    >>> hesitation(5.9, 384), hesitation(math.log(384), 384), hesitation(8.2, None)
    (None, None, None)
    """
    if vocabulary is None or loss <= math.log(vocabulary) + 0.02:  # fresh weights guess, or nearly
        return None
    return f"more than the {vocabulary:,} there are: worse than uniform guessing"


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
