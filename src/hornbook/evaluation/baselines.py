"""What is a loss worth? Uniform, unigram and interpolated n-gram models of the same training text, on the same tokens.

Interpolation by Witten and Bell (1991), method C: with c(h w) how often w follows the context h, and t(h) how many
different tokens do,  p(w | h) = (c(h w) + t(h) p(w | h shortened by a token)) / (c(h) + t(h)).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hornbook.data.shards import Part
from hornbook.evaluation.corpus import Conventions, EncodedDocument

Ids = NDArray[np.int64]

ORDER = 5
MOST_TOKENS = 2**22  # of a longer training text, evenly spread stretches are counted
_STRETCH_TOKENS = 2**16


class Level(NamedTuple):
    """The n-grams of one order: sorted `codes`, (context's place in the order below) x vocabulary + token; `counts` of
    each; and of each context, by its place, `followed` = c(h) and `distinct` = t(h).
    """

    codes: Ids
    counts: Ids
    followed: Ids
    distinct: Ids


def count_ngrams(stream: Ids, vocabulary: int, order: int = ORDER) -> list[Level]:
    """Count the n-grams of a stream of ids (n,) up to `order`, or up to n where the stream is shorter."""
    levels: list[Level] = []
    context, places = np.zeros(len(stream), np.int64), 1  # the place of what stands before each token; order 1: nothing
    for length in range(1, min(order, len(stream)) + 1):
        seen = context[length - 1 :] * vocabulary
        seen += stream[length - 1 :]
        del context  # before the peak: `planning.memory` counts what is held at it
        codes, where, counts = np.unique(seen, return_inverse=True, return_counts=True)
        before = codes // vocabulary
        followed = np.bincount(before, counts, places).astype(np.int64)
        levels.append(Level(codes, counts, followed, np.bincount(before, minlength=places)))
        places = len(codes)
        context = np.full(len(stream), -1)
        context[length:] = where[:-1]
    return levels


def ngram_nats(levels: Sequence[Level], sequence: Ids, vocabulary: int) -> list[NDArray[np.float64]]:
    """Nats of each token of `sequence` but the first, (n - 1,), by the n-gram models of order 1, 2, ... of `levels`."""
    n = len(sequence)
    p = np.full(n, 1 / vocabulary)
    context = np.zeros(n, np.int64)
    results = []
    for level in levels:
        known = context >= 0
        place = np.where(known, context, 0)
        codes = place * vocabulary + sequence
        found = np.minimum(np.searchsorted(level.codes, codes), len(level.codes) - 1)
        hit = known & (level.codes[found] == codes)
        count, distinct = np.where(hit, level.counts[found], 0), level.distinct[place]
        total = level.followed[place] + distinct
        p = np.where(known & (total > 0), (count + distinct * p) / np.maximum(total, 1), p)
        results.append(-np.log(p[1:]))
        context = np.full(n, -1)
        context[1:] = np.where(hit, found, -1)[:-1]
    return results


def ngram_names(order: int) -> list[str]:
    """
    >>> ngram_names(3)
    ['unigram', '2-gram', '3-gram']
    """
    return ["unigram", *(f"{n}-gram" for n in range(2, order + 1))]


def training_stream(part: Part) -> Ids:
    """The ids of a part, or evenly spread stretches of it where they are more than MOST_TOKENS."""
    every = -(-part.num_tokens // MOST_TOKENS)
    starts = range(0, part.num_tokens, _STRETCH_TOKENS * every)
    pieces = [part.take(np.array([s]), min(_STRETCH_TOKENS, part.num_tokens - s))[0] for s in starts]
    return np.concatenate(pieces)


def baselines(
    part: Part, documents: Sequence[EncodedDocument], how: Conventions, vocabulary: int
) -> dict[str, dict[str, Any]]:
    """Loss and bits per byte of each baseline on the tokens that `evaluate` scores."""
    stream = training_stream(part)
    levels = count_ngrams(stream, vocabulary)
    order = len(levels)
    before = [] if how.beginning is None else [how.beginning]
    sums: list[list[float]] = [[] for _ in range(order + 1)]
    num_tokens = 0
    for document in documents:
        sequence = np.concatenate([np.array(before, np.int64), document.tokens]).astype(np.int64)
        if len(sequence) < 2:
            continue
        num_tokens += len(sequence) - 1
        sums[0].append(math.log(vocabulary) * (len(sequence) - 1))
        for total, nats in zip(sums[1:], ngram_nats(levels, sequence, vocabulary), strict=True):
            total.append(math.fsum(nats.tolist()))
    num_bytes = sum(document.num_bytes for document in documents)
    names = ["uniform", *ngram_names(order)]
    return {
        name: {
            "loss_nats_per_token": math.fsum(total) / num_tokens if num_tokens else None,
            "bits_per_byte": math.fsum(total) / (math.log(2) * num_bytes) if num_bytes else None,
            "num_tokens_counted": len(stream) if name != "uniform" else 0,
        }
        for name, total in zip(names, sums, strict=True)
    }
