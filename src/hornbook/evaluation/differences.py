"""Differences between two independent sides, with 95 % intervals: rates, ratios of sums, and how well scores part them.

`units` (n,) numbers the independent unit (a document, a window) that each of n observations belongs to, from 0. Pure.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from hornbook.evaluation.intervals import wilson

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Interval = tuple[float, float]


def ratio_and_error(numerators: Floats, denominators: Floats, units: Ints) -> tuple[float, float, int]:
    """sum / sum, its standard error with `units` as what is independent, and how many units there are.

    The ratio estimator, linearized (Cochran 1977, section 6.4). The error of a single unit is infinite.
    """
    a, b = np.bincount(units, numerators), np.bincount(units, denominators)
    n, ratio = len(a), a.sum() / b.sum()
    error = math.sqrt(n / (n - 1) * float(((a - ratio * b) ** 2).sum())) / b.sum() if n > 1 else math.inf
    return float(ratio), float(error), n


def interval_around(number: float, error: float, units: int) -> Interval | None:
    """The 95 % interval by Student's t, whose quantile is expanded in 1 / degrees of freedom; None for one unit.

    >>> [round(interval_around(0.0, 1.0, n)[1], 2) for n in (5, 11, 1001)]  # tables: 2.78, 2.23, 1.96
    [2.73, 2.23, 1.96]
    """
    if units < 2 or not math.isfinite(error):
        return None
    z, df = 1.959964, units - 1
    t = z + (z**3 + z) / (4 * df) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * df**2)
    return number - t * error, number + t * error


def rate_difference(a: NDArray[np.bool_], b: NDArray[np.bool_], units_a: Ints, units_b: Ints) -> Interval:
    """The interval of mean(a) - mean(b) (Newcombe 1998, method 10), right also where a rate is 0 or 1.

    Dependent windows count for less: trials are divided by how much larger the variance over units is.
    """
    ends = []
    for successes, units in ((a, units_a), (b, units_b)):
        rate, error, _ = ratio_and_error(successes.astype(float), np.ones(len(successes)), units)
        binomial = rate * (1 - rate) / max(1, len(successes) - 1)
        trials = max(1, round(len(successes) * min(1.0, binomial / error**2 if binomial and error else 1.0)))
        ends.append((rate, *wilson(round(rate * trials), trials)))
    (rate_a, low_a, high_a), (rate_b, low_b, high_b) = ends
    difference = rate_a - rate_b
    return (
        difference - math.hypot(rate_a - low_a, high_b - rate_b),
        difference + math.hypot(high_a - rate_a, rate_b - low_b),
    )


def auc(a: Floats, b: Floats, units_a: Ints, units_b: Ints) -> tuple[float, Interval | None]:
    """The probability that a score of `a` exceeds one of `b`, ties counting half, and its interval.

    The variance is that of the placements (DeLong et al. 1988), summed over units (Obuchowski 1997).

    >>> auc(np.array([3.0, 2.0]), np.array([1.0, 2.0]), np.arange(2), np.arange(2))[0]
    0.875
    """
    placements = []
    for x, y in ((a, b), (-b, -a)):
        y = np.sort(y)
        placements.append((np.searchsorted(y, x) + np.searchsorted(y, x, side="right")) / (2 * len(y)))
    area, error_a, n_a = ratio_and_error(placements[0], np.ones(len(a)), units_a)
    _, error_b, n_b = ratio_and_error(placements[1], np.ones(len(b)), units_b)
    interval = interval_around(area, math.hypot(error_a, error_b), min(n_a, n_b))
    return area, interval and (max(0.0, interval[0]), min(1.0, interval[1]))
