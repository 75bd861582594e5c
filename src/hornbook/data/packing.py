"""How an epoch is cut into windows. Pure: the same arguments give the same windows on every machine.

The stream of N tokens is a circle. A grid of ceil(N / context) windows is laid on it, shifted by an offset that differs
from epoch to epoch, so that no token is always the first of its window. A window that starts at s predicts the tokens
s + 1, ..., s + context; the last window of the grid predicts only what is left. So each token is a target exactly once
an epoch, the first one included: what stands before it is the last one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

IGNORE = -1  # a target with this value is not scored and does not train

_UINT64 = 2**64


def num_windows(num_tokens: int, context: int) -> int:
    """How many windows an epoch has: ceil(num_tokens / context).

    >>> num_windows(10, 4), num_windows(8, 4), num_windows(3, 4)
    (3, 2, 1)
    """
    return -(-num_tokens // context)


def epoch_windows(num_tokens: int, context: int, seed: int, epoch: int) -> tuple[int, NDArray[np.int64]]:
    """The grid's offset in [0, num_tokens) and the order of its windows, a permutation (num_windows,).

    The randomness is Philox in its counter mode, keyed by (seed, epoch). Only the raw 64-bit stream is used, sorted
    stably: numpy promises never to change that stream, but not what Generator.permutation makes of it (NEP 19).

    >>> offset, order = epoch_windows(10, 4, seed=0, epoch=0)
    >>> 0 <= offset < 10, sorted(order.tolist())
    (True, [0, 1, 2])
    """
    raw = np.random.Philox(key=np.array([seed % _UINT64, epoch % _UINT64], dtype=np.uint64))
    offset = int(raw.random_raw()) % num_tokens
    order = np.argsort(raw.random_raw(num_windows(num_tokens, context)), kind="stable")
    return offset, order.astype(np.int64, copy=False)


def window_span(
    num_tokens: int, context: int, offset: int, windows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each window of the grid starts on the circle, and how many targets it has: two arrays like `windows`.

    >>> starts, lengths = window_span(10, 4, offset=7, windows=np.array([0, 1, 2]))
    >>> starts.tolist(), lengths.tolist()
    ([7, 1, 5], [4, 4, 2])
    """
    along = windows * context
    return (offset + along) % num_tokens, np.minimum(context, num_tokens - along)
