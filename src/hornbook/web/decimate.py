"""Many points as few: the least and the greatest of each bucket, so that no spike is lost however far one zooms out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def bucket_starts(x: Floats, points: int) -> NDArray[np.int64]:
    """Where the buckets of `x` (n,), which never falls, begin: at most `points` of equal width, none of them empty.

    >>> bucket_starts(np.array([0.0, 1, 2, 3, 100]), 4).tolist()
    [0, 4]
    """
    edges = np.linspace(x[0], x[-1], points + 1)[:-1]
    return np.unique(np.searchsorted(x, edges))


def extremes(values: Floats, starts: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """The least and the greatest of `values` (n,) in each bucket; NaN where a bucket has nothing else.

    >>> [part.tolist() for part in extremes(np.array([1.0, 5, np.nan, 2, 3]), np.array([0, 3]))]
    [[1.0, 2.0], [5.0, 3.0]]
    """
    return np.fmin.reduceat(values, starts), np.fmax.reduceat(values, starts)
