"""How a document is cut into windows. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from hornbook.facts.errors import InputError


class Window(NamedTuple):
    """Inputs `start..stop` are read at once; the targets `first..stop` of them are scored. Target t follows input t."""

    start: int
    first: int
    stop: int


def windows(num_targets: int, window: int, stride: int) -> Iterator[Window]:
    """Cover targets: each is scored once, with more than `window - stride` inputs where there are as many.

    >>> [tuple(w) for w in windows(10, 4, 2)]
    [(0, 0, 4), (2, 4, 6), (4, 6, 8), (6, 8, 10)]
    >>> [tuple(w) for w in windows(10, 4, 4)]  # disjoint targets; the last window still reads all it can
    [(0, 0, 4), (4, 4, 8), (6, 8, 10)]
    """
    if not 0 < stride <= window:
        raise InputError(f"the stride is {stride} and the window {window} tokens, but 1 <= stride <= window must hold.")
    first = 0
    while first < num_targets:
        stop = min(first + (stride if first else window), num_targets)
        yield Window(max(0, stop - window), first, stop)
        first = stop
