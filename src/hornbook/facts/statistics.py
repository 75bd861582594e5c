"""Student's t without a library: quantiles for any degrees of freedom, also fractional ones and below 4. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache


@lru_cache(maxsize=4096)
def t_quantile(degrees: float, tail: float = 0.025) -> float:
    """The t that Student's t with `degrees` > 0 degrees of freedom exceeds with probability `tail` < 1/2.

    >>> [round(t_quantile(degrees), 3) for degrees in (1, 2, 4, 15, 1e9)]
    [12.706, 4.303, 2.776, 2.131, 1.96]
    """
    low, high = 0.0, 1.0
    while t_tail(high, degrees) > tail:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if t_tail(middle, degrees) > tail else (low, middle)
    return (low + high) / 2


def t_tail(t: float, degrees: float) -> float:
    """P(T > t) for t >= 0: half the regularised incomplete beta function of degrees / (degrees + t^2) at (degrees / 2,
    1 / 2) (Abramowitz and Stegun 1964, 26.7.1)."""
    x, p, q = degrees / (degrees + t * t), degrees / 2, 0.5
    if x > (p + 1) / (p + q + 2):
        return 0.5 - 0.5 * _beta(t * t / (degrees + t * t), q, p)
    return 0.5 * _beta(x, p, q)


def _beta(x: float, p: float, q: float) -> float:
    """The regularised incomplete beta function, by its continued fraction (Lentz's method; converges fast for
    x < (p + 1) / (p + q + 2))."""
    if x <= 0:
        return 0.0
    scale = math.lgamma(p + q) - math.lgamma(p) - math.lgamma(q)
    front = math.exp(p * math.log(x) + q * math.log1p(-x) + scale) / p
    c, d = 1.0, 1 / (1 - (p + q) * x / (p + 1))
    fraction = d
    for m in range(1, 10_000):
        even = m * (q - m) * x / ((p + 2 * m - 1) * (p + 2 * m))
        odd = -(p + m) * (p + q + m) * x / ((p + 2 * m) * (p + 2 * m + 1))
        for term in (even, odd):
            d, c = 1 / (1 + term * d), 1 + term / c
            fraction *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return front * fraction


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean of independent values and its standard error; infinite for fewer than two.

    >>> mean_and_error([1.0, 3.0])
    (2.0, 1.0)
    """
    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return mean, math.inf
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n)
