"""How sure a ratio of sums is: 95 % intervals for many documents, for pieces of a few, for one passage. Pure.

Loss and bits per byte are sums over sums, and the tokens of a text depend on each other over thousands of tokens. So
what counts as independent is a document, or a piece drawn at a random place of its stratum; a single contiguous passage
is cut into 16 parts whose dependence is that of prose (fractional Gaussian noise). benchmarks/conclude_coverage.py
holds each against real texts. Numerators (nats, or differences of nats) and denominators (bytes, tokens) are (n,).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hornbook.facts.statistics import t_quantile

Numbers = NDArray[np.float64] | NDArray[np.int64]

INTERVAL_DOCUMENTS = 5  # from so many documents on they speak for others of their kind; measured, docs/evaluation.md
STRATA_PIECES = 8  # so few pieces of one to four documents speak for these documents
PASSAGE_BYTES = 2048  # a shorter passage says nothing of how it goes on
PASSAGE_PARTS = 16
UNKNOWN_KIND = 2.4  # half-widths of a paired passage that hold for any kind of text (a Hurst exponent of 0.9)


class Estimate(NamedTuple):
    """A number, its standard error and the degrees of freedom of that error."""

    value: float
    error: float
    degrees: float

    @property
    def half_width(self) -> float:
        return t_quantile(self.degrees) * self.error if self.error else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """95 %, by Student's t."""
        return self.value - self.half_width, self.value + self.half_width


def clusters(numerators: Numbers, denominators: Numbers, *, at_least: int = INTERVAL_DOCUMENTS) -> Estimate | None:
    """The ratio of sums of independent documents of unequal size; None for fewer than `at_least` (2 or more) that have
    a denominator. It speaks for documents like these.

    The standard error is CR2 (Bell and McCaffrey 2002) of a mean weighted by size: the squared residual of a document
    with a share h of the size is divided by 1 - h, which the fit took from it. The degrees of freedom are theirs too,
    with size^1.5 as working variance of a document's sum. Documents of one size: exactly Student's t of the mean.

    >>> estimate = clusters(np.array([1.0, 2.0, 3.0]), np.ones(3), at_least=2)
    >>> [round(x, 6) for x in estimate]
    [2.0, 0.57735, 2.0]
    """
    kept = denominators > 0
    a, b = numerators[kept].astype(float), denominators[kept].astype(float)
    if len(b) < max(2, at_least):
        return None
    total = b.sum()
    ratio, share = a.sum() / total, b / total
    residual = (a - ratio * b) / total
    c, s = 1 / (1 - share), share**1.5
    # tr(G)^2 / tr(G^2) for G = g' diag(s) g, written out so that it takes O(n) instead of an (n, n) matrix.
    g, hh, ss, hs = s.sum(), (c * share * share).sum(), (c * s * s).sum(), (c * share * s).sum()
    r = g * share * share - 2 * share * s
    trace = (c * (s + r)).sum()
    square = 2 * hh * ss + (g * hh) ** 2 + 2 * hs * hs - 4 * g * hh * hs + (c * c * (2 * s * r + s * s)).sum()
    error = math.sqrt(float((c * residual * residual).sum()))
    return Estimate(float(ratio), _or_zero(error, ratio), float(trace**2 / square))


def strata(numerators: Numbers, denominators: Numbers, documents: NDArray[np.int64]) -> Estimate | None:
    """The ratio of sums of pieces spread over a few documents, each at a random place of its own stratum; `documents`
    (n,) numbers the document that each is of. It speaks for these documents as a whole, not for others.

    Within each document the pieces are a sample of its strata, and differ from the document's own ratio (Cochran 1977,
    sections 5.9 and 6.4, without the finite population correction: dependence between neighbours takes more than that);
    degrees of freedom after Satterthwaite (1946). None for fewer than 8 pieces, or one alone of its document.

    >>> [round(x, 6) for x in strata(np.arange(8.0), np.ones(8), np.zeros(8, int))]
    [3.5, 0.866025, 7.0]
    """
    kept = denominators > 0
    a, b = numerators[kept].astype(float), denominators[kept].astype(float)
    _, place = np.unique(documents[kept], return_inverse=True)
    counts = np.bincount(place)
    if len(b) < STRATA_PIECES or counts.min() < 2:
        return None
    residual = a - (np.bincount(place, a) / np.bincount(place, b))[place] * b
    variances = counts / (counts - 1) * np.bincount(place, residual**2)
    ratio, total = a.sum() / b.sum(), float(variances.sum())
    error = _or_zero(math.sqrt(total) / float(b.sum()), ratio)
    degrees = total**2 / float((variances**2 / (counts - 1)).sum()) if error else float(counts.sum() - len(counts))
    return Estimate(float(ratio), error, degrees)


def one_passage(numerators: Numbers, denominators: Numbers, num_bytes: int, *, paired: bool = False) -> Estimate | None:
    """The ratio of sums of a contiguous passage of `num_bytes`, from its 16 parts of equal bytes (`passage_parts`).
    It speaks for prose that goes on as this passage does; not for other texts, nor for a file of many parts.

    The parts depend on each other as fractional Gaussian noise of Hurst exponent H does, whose mean of 16 has the
    variance S^2 / 16 * 15 / (16^(2 - 2H) - 1) for the variance S^2 among the parts (Beran 1994, section 8.4, with the
    bias of S^2 taken out). Half-widths in S, fitted on novels: 1.2 (H = 0.75) for values, less in long passages; 1.0
    (H = 0.7) for paired differences. None below 2,048 bytes.

    >>> estimate = one_passage(np.arange(16.0), np.ones(16), 4096, paired=True)
    >>> estimate.value, round(estimate.half_width, 3), round(float(np.arange(16.0).std(ddof=1)), 3)
    (7.5, 4.761, 4.761)
    """
    if num_bytes < PASSAGE_BYTES:
        return None
    a, b = numerators.astype(float), denominators.astype(float)
    ratio = a.sum() / b.sum()
    spread = math.sqrt(float(((a - ratio * b) ** 2).sum()) / (PASSAGE_PARTS - 1)) / float(b.mean())
    half_width = spread * (1.0 if paired else 1.2 * min(1.0, (16384 / num_bytes) ** 0.1))
    degrees = PASSAGE_PARTS - 1
    return Estimate(float(ratio), _or_zero(half_width / t_quantile(degrees), ratio), degrees)


def passage_parts(ends: NDArray[np.int64], num_bytes: int) -> NDArray[np.int64]:
    """Which of the 16 parts of equal bytes each token is in, (n,); `ends` (n,) are the bytes up to its end. A token
    lies where it ends, so that two models, whatever their tokens, are compared on the same parts.

    >>> passage_parts(np.array([1, 2, 3, 32]), 32).tolist()
    [0, 0, 1, 15]
    """
    parts: NDArray[np.int64] = (np.maximum(ends, 1) - 1) * PASSAGE_PARTS // max(1, num_bytes)
    return np.minimum(parts, PASSAGE_PARTS - 1)  # a tokenizer that puts a space before a text spells a byte too many


def gap(held_out: NDArray[np.float64], train: NDArray[np.float64]) -> Estimate | None:
    """How much more nats a byte the validation side of a text takes than its training side: both (k, 2), the nats and
    bytes of a validation piece and of as much training text in the same stratum. None for fewer than 5 strata.

    Differences within strata drop what makes a stretch of the text hard for any model; the interval is Student's t.

    >>> estimate = gap(np.array([[2.0, 1]] * 4 + [[3.0, 1]]), np.array([[1.0, 1]] * 5))
    >>> round(estimate.value, 9), round(estimate.error, 9), estimate.degrees
    (1.2, 0.2, 4)
    """
    k = len(held_out)
    if k < INTERVAL_DOCUMENTS:
        return None
    differences = held_out[:, 0] / held_out[:, 1] - train[:, 0] / train[:, 1]
    return Estimate(float(differences.mean()), float(differences.std(ddof=1)) / math.sqrt(k), k - 1)


def difference(a: Estimate | None, b: Estimate | None) -> Estimate | None:
    """a - b of two independent sides, with the degrees of freedom of Welch (1947); None where a side has no interval.

    >>> round(difference(Estimate(3.0, 3.0, 4), Estimate(1.0, 3.0, 4)).degrees, 9)
    8.0
    """
    if a is None or b is None:
        return None
    error = math.hypot(a.error, b.error)
    parts = a.error**4 / a.degrees + b.error**4 / b.degrees
    return Estimate(a.value - b.value, error, error**4 / parts if parts else min(a.degrees, b.degrees))


def _or_zero(error: float, ratio: float) -> float:
    """What is left of rounding where all ratios are equal is no spread."""
    return 0.0 if error <= 1e-14 * abs(ratio) else error


def wilson(successes: int, trials: int, *, z: float = 1.959964) -> tuple[float, float]:
    """95 % interval of a proportion of independent trials (Wilson 1927); right also near 0 and 1.

    >>> low, high = wilson(0, 10)
    >>> round(low, 4), round(high, 4)
    (0.0, 0.2775)
    """
    p, shrink = successes / trials, 1 + z * z / trials
    centre = (p + z * z / (2 * trials)) / shrink
    half = z / shrink * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials))
    return max(0.0, centre - half), min(1.0, centre + half)
