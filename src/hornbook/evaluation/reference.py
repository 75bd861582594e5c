"""How hard are both sides for a model that has read neither? N-gram models of each, the scored stretch left out.

An n-gram model of the training text knows that text, so it is no reference for it. Here one is counted on two thirds
of a side at a time and scores windows of the third left out, and windows of the other side: both are new to it. Where
the two sides are of one kind, both surprise it alike; by how much they do not is what the sides differ by.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hornbook.data.shards import NUM_TOKENS, START, Part
from hornbook.evaluation.baselines import count_ngrams, ngram_nats

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FOLDS = 6  # two neighbours are left out together: a window may begin in one and end in the next
MOST_TOKENS = 2**19  # counted of a side; of more, evenly spread stretches


class LeftOut(NamedTuple):
    """Nats of each window by n-gram models of orders 1, 2, ...: `own` (orders, R) of the side they are counted on, with
    what lies around the window left out, and `other` (orders, S) of the other side."""

    own: Floats
    other: Floats

    def best(self) -> tuple[Floats, Floats]:
        """Of the order that is least surprised by both together: (R,), (S,)."""
        order = int(np.argmin(self.own.mean(1) + self.other.mean(1)))
        return self.own[order], self.other[order]


def leave_out(
    part: Part, positions: Ints, windows: Ints, others: Ints, vocabulary: int, stretch: int
) -> LeftOut | None:
    """Score `windows` (R, W) at `positions` (R,) of `part`, and `others` (S, W), by n-gram models of its other parts.

    `stretch`: how many tokens around a window are left out together, at most a sixth of the part; a shorter document is
    left out whole. It is as long as what is held out on the other side, so that both sides are as far from what is
    counted. All tokens of a window but the first are scored. None for a part shorter than 6 windows.
    """
    if part.num_tokens < FOLDS * windows.shape[1]:
        return None
    starts, lengths = _stretches(part, max(windows.shape[1], min(stretch, part.num_tokens // FOLDS)))
    folds = np.arange(len(starts)) % FOLDS
    fold_of = folds[np.searchsorted(starts, positions, side="right") - 1]
    own: list[Floats] = [np.empty(0)] * len(windows)
    other = []
    for fold in range(min(FOLDS, len(starts))):
        kept = (folds != fold) & (folds != (fold + 1) % FOLDS)
        if not lengths[kept].sum():
            return None
        levels = count_ngrams(_tokens(part, starts[kept], lengths[kept]), vocabulary)
        for i in np.flatnonzero(fold_of == fold).tolist():
            own[i] = np.array([nats.sum() for nats in ngram_nats(levels, windows[i], vocabulary)])
        if fold % (FOLDS // 2) == 0:  # two of the models are enough for windows that are new to all of them
            other.append([[nats.sum() for nats in ngram_nats(levels, window, vocabulary)] for window in others])
    return LeftOut(np.stack(own, 1), np.array(other).mean(0).T)


def _stretches(part: Part, length: int) -> tuple[Ints, Ints]:
    """Starts and lengths of stretches of at most `length` tokens that cover the documents, none crossing an edge."""
    starts: list[Ints] = []
    ends: list[Ints] = []
    for start, count in part.documents[part.documents[:, NUM_TOKENS] > 0][:, [START, NUM_TOKENS]].tolist():
        edges = np.linspace(start, start + count, max(1, count // length) + 1).astype(np.int64)
        starts.append(edges[:-1])
        ends.append(edges[1:])
    first = np.concatenate(starts)
    return first, np.concatenate(ends) - first


def _tokens(part: Part, starts: Ints, lengths: Ints) -> Ints:
    """The tokens of these stretches one after the other; of more than MOST_TOKENS, every so many of them."""
    every = max(1, -(-int(lengths.sum()) // MOST_TOKENS))
    pairs = zip(starts[::every].tolist(), lengths[::every].tolist(), strict=True)
    return np.concatenate([part.take(np.array([start]), count)[0] for start, count in pairs])
