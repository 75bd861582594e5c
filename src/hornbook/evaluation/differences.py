"""Differences between two independent sides, with 95 % intervals: rates, ratios of sums, and how well scores part them.

`units` (n,) numbers the independent unit (a document, a window) that each of n observations belongs to, from 0. Pure.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from hornbook.evaluation.intervals import wilson
from hornbook.facts.statistics import t_quantile

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
    """The 95 % interval by Student's t; None for one unit.

    >>> [round(interval_around(0.0, 1.0, n)[1], 2) for n in (2, 5, 11, 1001)]
    [12.71, 2.78, 2.23, 1.96]
    """
    if units < 2 or not math.isfinite(error):
        return None
    t = t_quantile(units - 1)
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

    The variance is that of the placements (DeLong et al. 1988), summed over units (Obuchowski 1997). It falls to zero
    where all pairs are in order, so the interval is widened to that of `area_interval`, whose sizes are the scores
    divided by how much larger the variance over units is, never below the number of units.

    >>> auc(np.array([3.0, 2.0]), np.array([1.0, 2.0]), np.arange(2), np.arange(2))[0]
    0.875
    """
    placements, errors, sizes = [], [], []
    for x, y in ((a, b), (-b, -a)):
        y = np.sort(y)
        placements.append((np.searchsorted(y, x) + np.searchsorted(y, x, side="right")) / (2 * len(y)))
    least = min(units_a.max(), units_b.max()) + 1
    for placed, units in zip(placements, (units_a, units_b), strict=True):
        area, error, n = ratio_and_error(placed, np.ones(len(placed)), units)
        alone = ratio_and_error(placed, np.ones(len(placed)), np.arange(len(placed)))[1]
        errors.append(error)
        sizes.append(min(len(placed), max(n, len(placed) * (alone / error) ** 2)) if error and n > 1 else n)
    area = float(placements[0].mean())
    interval = interval_around(area, math.hypot(*errors), int(least))
    if interval is None:
        return area, None
    low, high = area_interval(area, *sizes)
    return area, (max(0.0, min(low, interval[0])), min(1.0, max(high, interval[1])))


def area_interval(area: float, m: float, n: float) -> Interval:
    """The areas whose own error puts them within 1.96 of it of `area`, for m and n independent scores: as Wilson's
    interval of a rate it is right at 0 and 1. The error is Hanley and McNeil's (1982) with (m + n) / 2 for both sizes
    (Newcombe 2006, Statistics in Medicine 25, 559, method 5).

    >>> [round(end, 2) for end in area_interval(1.0, 20, 20)]
    [0.9, 1.0]
    """
    mean = (m + n) / 2 - 1

    def outside(truth: float) -> bool:
        spread = 1 + mean * (1 - truth) / (2 - truth) + mean * truth / (1 + truth)
        return (area - truth) ** 2 > 1.959964**2 * truth * (1 - truth) * spread / (m * n)

    ends = []
    for far in (0.0, 1.0):
        near = area
        for _ in range(50):
            middle = (far + near) / 2
            far, near = (middle, near) if outside(middle) else (far, middle)
        ends.append(near)
    return ends[0], ends[1]
