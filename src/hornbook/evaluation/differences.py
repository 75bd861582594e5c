"""Differences between the training side and the held-out side, with 95 % intervals: ratios of sums, rates, and how well
scores part the two. Pure.

What is independent is a document where each side has 5 or more; else a stratum, where both sides are parts of the same
documents and each held-out piece is set against training text from around it; else each side is one passage, and its
16 parts depend on each other as those of prose do (`evaluation/intervals.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hornbook.evaluation.intervals import (
    INTERVAL_DOCUMENTS,
    PASSAGE_PARTS,
    Estimate,
    clusters,
    difference,
    gap,
    one_passage,
    wilson,
)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Interval = tuple[float, float]
UnitName = Literal["documents", "strata", "passages"]

OTHER_TEXT = 2.0  # times as wide as for a passage of the same text: what holds for a text of any kind (Hurst 0.9)


@dataclass(frozen=True)
class Units:
    """The independent unit of each window: `train` (R,), `heldout` (S,), numbered from 0, -1 where a window belongs to
    none; strata have the same number on both sides.

    num_bytes: of the two texts. alike: both sides are parts of the same documents.
    """

    unit: UnitName
    train: Ints
    heldout: Ints
    num_bytes: tuple[int, int] = (0, 0)
    alike: bool = False

    @property
    def count(self) -> int:
        """Of the smaller side."""
        return min(len(np.unique(side[side >= 0])) for side in (self.train, self.heldout))


def units_of(
    documents: tuple[Ints, Ints], strata: tuple[Ints, Ints] | None, num_bytes: tuple[int, int], alike: bool
) -> Units:
    """The units that two sides allow: `documents` and `strata` of each window of the training and the held-out side
    (strata -1: in none; None where the sides are not parts of the same documents)."""
    both = np.empty(0) if strata is None else np.intersect1d(strata[0][strata[0] >= 0], strata[1][strata[1] >= 0])
    if strata is not None and len(both) >= INTERVAL_DOCUMENTS:
        first, second = (np.where(np.isin(side, both), np.searchsorted(both, side), -1) for side in strata)
        return Units("strata", first, second, num_bytes, alike)
    numbered = [np.unique(side, return_inverse=True)[1].astype(np.int64) for side in documents]
    if not alike and min(int(side.max()) + 1 for side in numbered) >= INTERVAL_DOCUMENTS:
        return Units("documents", numbered[0], numbered[1], num_bytes, alike)
    parts = [np.arange(len(side)) * PASSAGE_PARTS // len(side) for side in documents]
    return Units("passages", parts[0], parts[1], num_bytes, alike)


def ratio_difference(
    units: Units, train: tuple[Floats, Floats], heldout: tuple[Floats, Floats]
) -> tuple[float, Estimate | None]:
    """Held-out minus training: each side's sum of numerators (n,) over sum of denominators (n,), and its estimate with
    a standard error; None where the text is too short for one."""
    if units.unit == "strata":
        (a, b), (c, d) = (
            [np.bincount(labels[labels >= 0], column[labels >= 0]) for column in side]
            for labels, side in ((units.heldout, heldout), (units.train, train))
        )
        estimate = gap(np.stack([a, b], 1), np.stack([c, d], 1))
    else:
        estimate = difference(
            _side(units, units.heldout, heldout, units.num_bytes[1]),
            _side(units, units.train, train, units.num_bytes[0]),
        )
    if estimate is not None:
        return estimate.value, estimate
    return float(heldout[0].sum() / heldout[1].sum() - train[0].sum() / train[1].sum()), None


class Findings:
    """Numbers (None: not known) and their 95 % intervals, by name, as they are found."""

    def __init__(self) -> None:
        self.numbers: dict[str, float | None] = {}
        self.intervals: dict[str, Interval] = {}

    def add(self, name: str, number: float | None, interval: Interval | None = None, scale: float = 1.0) -> None:
        """`scale` is multiplied into both."""
        self.numbers[name] = None if number is None else float(number) * scale
        if interval is not None:
            self.intervals[name] = (float(interval[0]) * scale, float(interval[1]) * scale)

    def low(self, name: str) -> float:
        """The lower end of the interval; minus infinity where there is none: then nothing is shown."""
        return self.intervals.get(name, (-math.inf, math.inf))[0]


def _side(units: Units, labels: Ints, side: tuple[Floats, Floats], num_bytes: int) -> Estimate | None:
    """One side's ratio. Two passages of different texts differ by more than two of the same do."""
    if units.unit == "passages" and len(np.unique(labels)) < PASSAGE_PARTS:
        return None
    sums = [np.bincount(labels, column) for column in side]
    if units.unit == "documents":
        return clusters(sums[0], sums[1])
    passage = one_passage(sums[0], sums[1], num_bytes)
    return passage if passage is None or units.alike else passage._replace(error=OTHER_TEXT * passage.error)


def rate_difference(units: Units, train: NDArray[np.bool_], heldout: NDArray[np.bool_]) -> Interval:
    """The interval of mean(train) - mean(heldout) (Newcombe 1998, method 10), right also where a rate is 0 or 1.

    Dependent windows count for less: trials are divided by how much larger the variance over units is.
    """
    ends = []
    for successes, labels in ((train, units.train), (heldout, units.heldout)):
        rate, n = float(successes.mean()), len(successes)
        error, binomial = _error(successes.astype(float), labels), rate * (1 - rate) / max(1, n - 1)
        trials = max(1, round(n * min(1.0, binomial / error**2 if binomial and error else 1.0)))
        ends.append((rate, *wilson(round(rate * trials), trials)))
    (rate_a, low_a, high_a), (rate_b, low_b, high_b) = ends
    return (
        rate_a - rate_b - math.hypot(rate_a - low_a, high_b - rate_b),
        rate_a - rate_b + math.hypot(high_a - rate_a, rate_b - low_b),
    )


def _error(values: Floats, labels: Ints) -> float:
    """Standard error of a mean with units as what is independent; 0 where there is only one."""
    _, labels = np.unique(labels, return_inverse=True)
    mean = clusters(np.bincount(labels, values), np.bincount(labels), at_least=2)
    return 0.0 if mean is None else mean.error


def auc(units: Units, train: Floats, heldout: Floats) -> tuple[float, Interval | None]:
    """The probability that a score of `train` exceeds one of `heldout`, ties counting half, and its interval. Where the
    units are strata, both are drawn from one stratum.

    The variance is that of the placements (DeLong et al. 1988), summed over units (Obuchowski 1997), or that of the
    strata's own values. It falls to zero where all pairs are in order, so the interval is widened to that of
    `area_interval`, whose sizes are the scores divided by how much larger the variance over units is.

    >>> each = np.arange(5)
    >>> round(auc(Units("documents", each, each), np.array([3.0, 2, 3, 3, 3]), np.array([2.0, 1, 1, 1, 1]))[0], 9)
    0.98
    """
    if units.unit == "strata":
        k = int(units.train.max()) + 1
        pairs = [placements(train[units.train == j], heldout[units.heldout == j])[0] for j in range(k)]
        estimate = clusters(np.array([placed.mean() for placed in pairs]), np.ones(k))
        sizes = [float(k), float(k)]
    else:
        placed = placements(train, heldout)
        sides = [
            _side(units, labels, (values, np.ones(len(values))), num_bytes)
            for values, labels, num_bytes in zip(placed, (units.train, units.heldout), units.num_bytes, strict=True)
        ]
        estimate, sizes = difference(*sides), []
        if estimate is not None:
            estimate = estimate._replace(value=float(placed[0].mean()))
        for values, labels in zip(placed, (units.train, units.heldout), strict=True):
            n, together, alone = len(np.unique(labels)), _error(values, labels), _error(values, np.arange(len(values)))
            sizes.append(min(float(len(values)), max(n, len(values) * (alone / together) ** 2)) if together else n)
    if estimate is None:
        return float(placements(train, heldout)[0].mean()), None
    area = estimate.value
    low, high = area_interval(area, *sizes)
    return area, (max(0.0, min(low, estimate.interval[0])), min(1.0, max(high, estimate.interval[1])))


def placements(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """For each score of `a` the share of `b` that it exceeds, and for each of `b` the share of `a` that exceeds it."""
    return num_below(a, b) / len(b), num_below(-b, -a) / len(a)


def num_below(values: Floats, others: Floats) -> Floats:
    """How many of `others` (n,) each of `values` (m,) exceeds, equal ones counting half, (m,)."""
    ordered = np.sort(others)
    counts: Floats = (np.searchsorted(ordered, values) + np.searchsorted(ordered, values, side="right")) / 2
    return counts


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
