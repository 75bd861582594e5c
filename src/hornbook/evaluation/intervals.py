"""How sure a number is: 95 % intervals of ratios of sums, by resampling documents or blocks. Pure.

Loss and bits per byte are ratios of sums over documents, and the tokens of a document depend on each other: what is
resampled is the document (a cluster bootstrap), or contiguous blocks where there are few documents. The percentiles
of plain resampled ratios cover too little when there are 30 documents of unequal length; the studentized bootstrap
(bootstrap-t: Efron and Tibshirani 1993, section 12.5) resamples (ratio - truth) / standard error and holds its 95 %.
"""

from __future__ import annotations

import math

import numpy as np

INTERVAL_DOCUMENTS = 30  # from so many documents on they are what is resampled; below, blocks of their bytes
MINIMUM_CLUSTERS = 8  # fewer documents or blocks say too little about their own spread


def bootstrap_ratio(
    numerators: np.ndarray, denominators: np.ndarray, *, seed: int = 0, resamples: int = 2000, level: float = 0.95
) -> tuple[float, float] | None:
    """Interval of sum(numerators) / sum(denominators), each (n,) with one entry per independent cluster.

    For a paired difference the numerators are the differences. None for fewer than MINIMUM_CLUSTERS clusters with a
    positive denominator. Same inputs and seed, same interval; no other random state is touched.

    >>> bootstrap_ratio(np.full(20, 3.0), np.full(20, 2.0))  # no spread, no doubt
    (1.5, 1.5)
    """
    kept = denominators > 0
    a, b = numerators[kept].astype(float), denominators[kept].astype(float)
    n = len(b)
    if n < MINIMUM_CLUSTERS:
        return None
    b = b / b.mean()  # so that squares stay of order one; the ratio is scaled back at the end
    scale = denominators[kept].mean()
    ratio = a.sum() / b.sum()
    residual = a - ratio * b
    error = math.sqrt(n / (n - 1) * float(residual @ residual)) / n
    if error <= 1e-14 * abs(ratio):
        return float(ratio / scale), float(ratio / scale)
    # With weights w: ratio* - ratio = w.residual / w.b, and its standard error needs only these five sums.
    moments = np.stack([residual, b, residual**2, residual * b, b**2], 1)
    generator = np.random.default_rng(seed)
    studentized = []
    rows = max(1, 2**21 // n)
    for start in range(0, resamples, rows):
        r = min(rows, resamples - start)
        drawn = generator.integers(n, size=(r, n)) + n * np.arange(r)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=r * n).reshape(r, n).astype(float)
        e, total, ee, eb, bb = (weights @ moments).T
        shift = e / total
        squares = np.maximum(ee - 2 * shift * eb + shift**2 * bb, 0)
        spread = np.sqrt(n / (n - 1) * squares) / total
        # A resample of one cluster n times has no spread of its own and says nothing.
        studentized.append((shift / np.where(spread > 0, spread, np.nan))[spread > 1e-9 * error])
    low, high = np.quantile(np.concatenate(studentized), [(1 - level) / 2, (1 + level) / 2])
    return float((ratio - high * error) / scale), float((ratio - low * error) / scale)


def block_bytes(num_bytes: int) -> int:
    """Bytes per block for a text of few documents: 60 blocks, of at most 8 KiB, and at most 2,000 blocks.

    Blocks count as independent, so they must be long against the reach of the dependence between tokens, and many. The
    length depends on the text alone, so that two models, whatever their tokens, are compared on the same blocks.

    >>> block_bytes(111_540), block_bytes(2_000_000), block_bytes(100_000_000), block_bytes(500)
    (1859, 8192, 50000, 64)
    """
    return max(64, min(8192, num_bytes // 60), num_bytes // 2000)


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
