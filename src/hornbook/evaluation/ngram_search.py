"""Exact search: where do these token sequences stand in a training text of any size? Torch-free, in bounded memory.

The queries are small and the text is large, so the queries are indexed and the text is streamed once: the n-grams of
the queries are hashed, those of the text are hashed as it passes, and where a hash agrees the tokens are compared and
the match is followed to both of its ends. Nothing is decided by a hash alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hornbook.data.shards import NUM_TOKENS, START, TokenStream
from hornbook.text.grams import HashTable, Ints, mixed, ngram_hashes

_CHUNK_TOKENS = 2**16  # hashed at once: the arrays of a chunk stay in a core's cache
_PAIRS = 2**16  # hits compared at once: in a text that repeats itself 2**20 held 150 MiB, and took a third longer


class Spans(NamedTuple):
    """Maximal matches, each an entry of five arrays (n,).

    `queries[query][query_start : query_start + length]` stands at `position` of the part's stream, in `document`.
    """

    query: Ints
    query_start: Ints
    length: Ints
    position: Ints
    document: Ints


def find_spans(part: TokenStream, queries: Sequence[NDArray[np.integer]], min_length: int) -> Iterator[Spans]:
    """Yield all maximal matches of at least `min_length` tokens, by rising place in the stream.

    A match is maximal when neither end can be moved outwards: the tokens there differ, or the query or the document
    ends. It never crosses a document. What is yielded at once stems from at most 2^16 pairs of equal hashes; the
    memory is that of the queries and of one chunk, whatever the size of the part.

    >>> part = TokenStream([np.array([9, 1, 2, 3, 4, 9, 2, 3], np.uint16)], np.array([[1, 4, 4, 4, 1], [6, 2, 2, 2,
    ...     1]]), "ab")
    >>> [[column.tolist() for column in spans] for spans in find_spans(part, [np.array([7, 2, 3, 4, 5])], 2)]
    [[[0, 0], [1, 1], [3, 2], [2, 6], [0, 1]]]
    """
    if min_length < 1:
        raise ValueError(f"min_length is {min_length}, but must be at least 1")
    index = _Index(queries, min_length)
    if not len(index.hashes) or not len(part.documents):
        return
    table = HashTable(index.hashes)
    for start, ids in _chunks(part, min_length - 1):
        for positions, grams in table.pairs(_hashes(ids, min_length), _PAIRS):
            spans = _followed(part, index, positions + start, index.places[grams])
            if len(spans.length):
                yield spans


def all_spans(part: TokenStream, queries: Sequence[NDArray[np.integer]], min_length: int) -> Spans:
    """What `find_spans` yields, in one piece."""
    pieces = [Spans(*[np.empty(0, np.int64)] * 5), *find_spans(part, queries, min_length)]
    return Spans(*map(np.concatenate, zip(*pieces, strict=True)))


def longest_matches(part: TokenStream, queries: Sequence[NDArray[np.integer]], min_length: int) -> list[Ints]:
    """For each place of each query, how many tokens from there on stand together in a document of the part.

    Lengths below `min_length` are given as 0.

    >>> part = TokenStream([np.array([1, 2, 3, 4], np.uint16)], np.array([[0, 4, 4, 4, 1]]), ["a"], separator=False)
    >>> longest_matches(part, [np.array([2, 3, 9, 3, 4])], 2)[0].tolist()
    [2, 0, 0, 2, 0]
    """
    starts = np.cumsum([0, *map(len, queries)])
    longest = np.zeros(starts[-1], np.int64)
    for spans in find_spans(part, queries, min_length):
        np.maximum.at(longest, starts[spans.query] + spans.query_start, spans.length)
    parts = [longest[start:stop] for start, stop in pairwise(starts)]
    for matches in parts:
        # A match of n tokens holds one of n - 1 that starts a token later.
        along = np.arange(len(matches))
        matches[:] = np.maximum.accumulate(matches + along) - along
        matches[matches < min_length] = 0
    return parts


def shared_tokens(part: TokenStream, queries: Sequence[NDArray[np.integer]], length: int) -> NDArray[np.bool_]:
    """Which of the queries' tokens, one query after the other, lie in `length` that stand together in the part.

    One pass over the part, whatever it repeats: of each n-gram of the queries one place is enough.

    >>> part = TokenStream([np.array([9, 1, 2, 3, 4], np.uint16)], np.array([[1, 4, 4, 4, 1]]), ["a"])
    >>> shared_tokens(part, [np.array([7, 2, 3, 4, 5])], 2).tolist()
    [False, True, True, True, False]
    """
    index = _Index(queries, length)
    if not len(index.hashes):
        return np.zeros(len(index.tokens), bool)
    # One place of each n-gram. 32 bits find it in the part and 64 tell it from the others: of those, 32 are too few.
    hashes = ngram_hashes(mixed(index.tokens.astype(np.uint64) + np.uint64(1)), length)[index.places]
    _, first, numbers = np.unique(hashes, return_index=True, return_inverse=True)
    samples, order = index.places[first], np.argsort(index.hashes[first])
    table, is_shared, along = HashTable(index.hashes[first][order]), np.zeros(len(first), bool), np.arange(length)
    for _, ids in _chunks(part, length - 1):
        for positions, rows in table.pairs(_hashes(ids, length), _PAIRS):
            new = ~is_shared[order[rows]]
            positions, grams = positions[new], order[rows[new]]
            same = ids[positions[:, None] + along] == index.tokens[samples[grams][:, None] + along]
            is_shared[grams[same.all(1)]] = True
    ends = np.zeros(len(index.tokens), np.int64)
    starts = index.places[is_shared[numbers]]
    ends[starts] = starts + length
    tokens_shared: NDArray[np.bool_] = np.maximum.accumulate(ends) > np.arange(len(ends))
    return tokens_shared


class _Index:
    """All n-grams of the queries: `tokens` of one after the other, sorted `hashes` with `places` in `tokens`."""

    def __init__(self, queries: Sequence[NDArray[np.integer]], n: int) -> None:
        self.starts = np.cumsum([0, *map(len, queries)])
        self.tokens = np.concatenate([np.empty(0, np.int64), *queries]).astype(np.int64)
        self.n = n
        inside = [np.arange(start, start + len(q) - n + 1) for q, start in zip(queries, self.starts, strict=False)]
        places = np.concatenate([np.empty(0, np.int64), *inside]).astype(np.int64)
        hashes = _hashes(self.tokens, n)[places] if len(places) else np.empty(0, np.uint32)
        pairs = np.sort(hashes.astype(np.uint64) << np.uint64(32) | places.astype(np.uint64))  # faster than argsort
        self.hashes = (pairs >> np.uint64(32)).astype(np.uint32)
        self.places = (pairs & np.uint64(2**32 - 1)).astype(np.int64)


def _chunks(part: TokenStream, overlap: int) -> Iterator[tuple[int, NDArray[np.uint32]]]:
    """The stream in pieces that share `overlap` tokens with the next one, each with its place; shards do not show."""
    bounds = np.cumsum([0, *map(len, part.shards)])
    for start in range(0, part.num_tokens - overlap, _CHUNK_TOKENS):
        stop = min(start + _CHUNK_TOKENS + overlap, part.num_tokens)
        first, last = np.searchsorted(bounds, [start, stop - 1], side="right") - 1
        slices = [part.shards[s][max(0, start - bounds[s]) : stop - bounds[s]] for s in range(first, last + 1)]
        yield start, np.concatenate(slices).astype(np.uint32)


def _hashes(ids: NDArray[np.integer], n: int) -> NDArray[np.uint32]:
    """The hash of each n-gram, (len(ids) - n + 1,); the factor moves what tells tokens apart into the leading bits."""
    return ngram_hashes(ids.astype(np.uint32) * np.uint32(2654435769), n)


def _followed(part: TokenStream, index: _Index, positions: Ints, grams: Ints) -> Spans:
    """The maximal matches that begin with one of these pairs of n-grams."""
    document = np.searchsorted(part.documents[:, START], positions, side="right") - 1
    begin = part.documents[document, START]
    end = begin + part.documents[document, NUM_TOKENS]
    query = np.searchsorted(index.starts, grams, side="right") - 1
    inside = (document >= 0) & (positions + index.n <= end)
    # Where the tokens before agree as well, the match begins earlier and is found there.
    at_edge = (positions == begin) | (grams == index.starts[query])
    before = part.take(positions - 1, 1)[:, 0] == index.tokens[grams - 1]
    kept = np.flatnonzero(inside & (at_edge | ~before))
    positions, grams, query, document = positions[kept], grams[kept], query[kept], document[kept]
    room = np.minimum(end[kept] - positions, index.starts[query + 1] - grams)
    length = np.zeros(len(kept), np.int64)
    active, step = np.arange(len(kept)), index.n
    while len(active):
        going = []
        for some in np.array_split(active, -(-len(active) * step // _PAIRS)):
            ahead = np.arange(step) + length[some, None]
            same = part.take(positions[some] + length[some], step) == index.tokens[
                np.minimum(grams[some, None] + ahead, len(index.tokens) - 1)
            ]  # fmt: skip
            same &= ahead < room[some, None]
            run = np.where(same.all(1), step, same.argmin(1))
            length[some] += run
            going.append(some[run == step])
        active, step = np.concatenate(going), min(2 * step, _PAIRS)
    matched = np.flatnonzero(length >= index.n)  # the others had equal hashes only
    grams = (grams - index.starts[query])[matched]
    return Spans(query[matched], grams, length[matched], positions[matched], document[matched])
