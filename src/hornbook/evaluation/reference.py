"""How hard are both sides for a model that has read neither? N-gram models of each, the scored stretch left out.

An n-gram model of the training text knows that text, so it is no reference for it. Here one is counted on five sixths
of a side at a time and scores windows of the sixth left out, and windows of the other side: both are new to it. Where
the two sides are of one kind, both surprise it alike; by how much they do not is what the sides differ by. What stands
several times in a side is left out wherever it stands.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hornbook.data.shards import NUM_TOKENS, START, TokenStream
from hornbook.evaluation.baselines import NgramOrder, count_ngrams, ngram_nats
from hornbook.evaluation.differences import Floats, Ints
from hornbook.evaluation.ngram_search import all_spans
from hornbook.evaluation.sides import repeated_share

FOLDS = 6
MOST_TOKENS = 2**19  # counted of a side; of more, evenly spread stretches
MOST_COPIES = 2  # a text that says everything more often, not stretch by stretch, has no part that is new to the rest


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
    part: TokenStream, positions: Ints, windows: Ints, others: Ints, vocabulary: int, stretch: int
) -> LeftOut | None:
    """Score `windows` (R, W) at `positions` (R,) of `part`, and `others` (S, W), by n-gram models of its other parts.

    `stretch`: how many tokens around a window are left out together, at most a sixth of what is not a copy; a shorter
    document is left out whole. It is as long as what is held out on the other side, so that both sides are as far from
    what is counted. All tokens of a window but the first are scored. None for a part shorter than 6 windows, or in
    which everything is a copy of everything.
    """
    width = windows.shape[1]
    if part.num_tokens < FOLDS * width:
        return None
    query, begin, end = _occurrences(part, positions, windows)
    copies = len(query) / len(windows)
    most = int(part.num_tokens / (FOLDS * max(1.0, copies)))
    for size in sorted({max(width, min(stretch, most)), width}, reverse=True):
        starts, lengths = _stretches(part, size)
        first, last = (np.searchsorted(starts, places, side="right") - 1 for places in (begin, end - 1))
        own = np.searchsorted(starts, positions, side="right") - 1
        labels = _linked(len(starts), own[query], first)
        if np.bincount(labels).max() <= len(starts) / 2:
            break
    else:
        if copies > MOST_COPIES:
            return None
        labels = np.arange(len(starts))
    folds = np.unique(labels, return_inverse=True)[1] % FOLDS
    scored: list[Floats] = [np.empty(0)] * len(windows)
    other: list[Floats] = []
    for fold in range(FOLDS):
        inside = np.flatnonzero(folds[own] == fold)
        kept = folds != fold
        kept[last[np.isin(query, inside)]] = False  # a window may end in the next stretch
        if not len(inside) and other:
            continue
        if not lengths[kept].sum():
            return None
        ngrams = count_ngrams(_tokens(part, starts[kept], lengths[kept]), vocabulary)
        if len(inside):
            for i, nats in zip(inside.tolist(), _sums(ngrams, windows[inside], vocabulary).T, strict=True):
                scored[i] = nats
        if fold % (FOLDS // 2) == 0:  # two of the models are enough for windows that are new to all of them
            other.append(_sums(ngrams, others, vocabulary))
    orders = min(min(map(len, scored)), *map(len, other))
    return LeftOut(np.stack([nats[:orders] for nats in scored], 1), np.mean([nats[:orders] for nats in other], axis=0))


def _sums(ngrams: list[NgramOrder], windows: Ints, vocabulary: int) -> Floats:
    """The nats of each window by each order, (orders, R)."""
    return np.stack([nats.sum(-1) for nats in ngram_nats(ngrams, windows, vocabulary)])


def _occurrences(part: TokenStream, positions: Ints, windows: Ints) -> tuple[Ints, Ints, Ints]:
    """Every place of the part where three quarters of a window stand: the window, and the first token and the one after
    the last of where it stands. Of a window that repeats itself, such as a ruled line, only its own place."""
    width = windows.shape[1]
    repeats_itself = np.array([repeated_share(row, width // 2) >= 0.5 for row in windows.tolist()], bool)
    alone, others = np.flatnonzero(repeats_itself), np.flatnonzero(~repeats_itself)
    spans = all_spans(part, list(windows[others]), max(1, 3 * width // 4))
    return (
        np.concatenate([others[spans.query], alone]),
        np.concatenate([np.maximum(spans.position - spans.query_start, 0), positions[alone]]),
        np.concatenate([spans.position + spans.length, positions[alone] + width]),
    )


def _linked(count: int, a: Ints, b: Ints) -> Ints:
    """The connected component of each of `count` nodes, of the edges (a, b): the lowest node in it.

    >>> _linked(5, np.array([0, 3]), np.array([2, 2])).tolist()
    [0, 1, 0, 0, 4]
    """
    labels = np.arange(count)
    while True:
        least = np.minimum(labels[a], labels[b])
        before = labels.copy()
        np.minimum.at(labels, a, least)
        np.minimum.at(labels, b, least)
        if (labels == before).all():
            return labels


def _stretches(part: TokenStream, length: int) -> tuple[Ints, Ints]:
    """Starts and lengths of stretches of at most `length` tokens that cover the documents, none crossing an edge."""
    starts: list[Ints] = []
    ends: list[Ints] = []
    for start, count in part.documents[part.documents[:, NUM_TOKENS] > 0][:, [START, NUM_TOKENS]].tolist():
        edges = np.linspace(start, start + count, max(1, count // length) + 1).astype(np.int64)
        starts.append(edges[:-1])
        ends.append(edges[1:])
    first = np.concatenate(starts)
    return first, np.concatenate(ends) - first


def _tokens(part: TokenStream, starts: Ints, lengths: Ints) -> Ints:
    """The tokens of these stretches one after the other; of more than MOST_TOKENS, every so many of them."""
    every = max(1, -(-int(lengths.sum()) // MOST_TOKENS))
    pairs = zip(starts[::every].tolist(), lengths[::every].tolist(), strict=True)
    return np.concatenate([part.take(np.array([start]), count)[0] for start, count in pairs])
