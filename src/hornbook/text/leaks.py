"""Leaks: passages of the validation side whose 8-grams of words (as in Radford et al. 2019, section 4) stand in the
training side. Up to 16 words between two such 8-grams are bridged, for copies with changed words; a passage has at
least 24 words. In the State of the Union texts, split by year, 0.02 % of the words are in such a passage by nature.

The validation side is indexed in parts of bounded size, and the training side is streamed past each. Which of the
8-grams stand there is known exactly; where they stand is kept for the first 2^20 places, so that counts of documents
and longest sequences are lower bounds beyond.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, pairwise
from operator import itemgetter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hornbook.text.grams import GRAM_WORDS, Hashes, HashTable, Ints

BRIDGED_WORDS, PASSAGE_WORDS = 16, 24
SHOWN = 20  # named one by one
_INDEX_GRAMS = 2**22
_MOST_PLACES = 2**20


class Passage(NamedTuple):
    """Words `start_word : start_word + num_words` of the document `validation`. `shared_words` of them lie in 8-grams
    that the training side has; the others lie between such.

    `train` is the training document that has most of these 8-grams, `train_documents` counts all that have any, and
    `longest_sequence_words` is the longest sequence that stands in one of them as it stands here. The last two are
    lower bounds where `all_places` is false.
    """

    validation: str
    train: str
    start_word: int
    num_words: int
    shared_words: int
    longest_sequence_words: int
    train_documents: int
    all_places: bool


class Leaks(NamedTuple):
    """All passages counted, and the SHOWN longest ones, the longest first."""

    num_passages: int
    num_words: int
    shared_words: int
    longest: list[Passage]


class Places:
    """Where in the training side 8-grams of the validation side stand: the first _MOST_PLACES places."""

    def __init__(self) -> None:
        self.complete, self._held = True, 0
        self._rows: list[tuple[Ints, int, Ints]] = []

    def add(self, keys: Ints, document: int, places: Ints) -> None:
        room = _MOST_PLACES - self._held
        self.complete &= len(keys) <= room
        if room and len(keys):
            self._rows.append((keys[:room], document, places[:room]))
            self._held += len(self._rows[-1][0])

    def by_key(self) -> tuple[Ints, Ints, Ints]:
        """Sorted keys, with the document and the place of each."""
        none = np.empty(0, np.int64)
        keys = np.concatenate([none, *(keys for keys, _, _ in self._rows)])
        documents = np.repeat([d for _, d, _ in self._rows], [len(keys) for keys, _, _ in self._rows]).astype(np.int64)
        places = np.concatenate([none, *(places for _, _, places in self._rows)])
        order = np.argsort(keys, kind="stable")
        return keys[order], documents[order], places[order]


class Hits(NamedTuple):
    """8-grams of one validation document that stand in the training side: the first word of each, rising, its key, and
    the first training document that has it."""

    document: int
    words: Ints
    keys: Ints
    owners: NDArray[np.int32]


class Index:
    """Some 8-grams of the validation side, as (document, place of the first, hashes), and where they were first met.
    Their keys begin at `first_key`."""

    def __init__(self, parts: Sequence[tuple[int, int, Hashes]], first_key: int) -> None:
        self._parts, self._first_key = parts, first_key
        keys = np.sort(np.concatenate([np.empty(0, np.uint64), *(grams for _, _, grams in parts)]))
        self._table = HashTable(
            keys[np.diff(keys, prepend=~keys[:1]) != 0]
        )  # np.unique, which hashes, takes ten times as long
        self._owner = np.full(len(self._table.hashes), -1, np.int32)

    def mark(self, pieces: Iterable[Hashes], document: int, places: Places) -> None:
        """These 8-grams, piece by piece, are those of this document of the training side."""
        start = 0
        for grams in pieces:
            for positions, keys in self._table.pairs(grams):
                self._owner[keys[self._owner[keys] < 0]] = document
                places.add(keys + self._first_key, document, positions + start)
            start += len(grams)

    def hits(self) -> list[Hits]:
        hits = []
        for document, start, grams in self._parts:
            keys = np.searchsorted(self._table.hashes, grams)
            words = np.flatnonzero(self._owner[keys] >= 0)
            keys = keys[words]
            hits.append(Hits(document, words + start, keys + self._first_key, self._owner[keys]))
        return hits


def indexes(validation: Iterator[tuple[int, Iterator[Hashes]]]) -> Iterator[Index]:
    """The validation side, as (document, its 8-grams piece by piece), in indexes of bounded size; at least one."""
    parts: list[tuple[int, int, Hashes]] = []
    size = first_key = 0
    for document, pieces in validation:
        start = 0
        for grams in pieces:
            parts.append((document, start, grams))
            start, size = start + len(grams), size + len(grams)
            if size >= _INDEX_GRAMS:
                yield Index(parts, first_key)
                parts, size, first_key = [], 0, first_key + size
    yield Index(parts, first_key)


def passages(hits: Sequence[Hits], places: Places, train: Sequence[str], validation: Sequence[str]) -> Leaks:
    """The passages that the hits make up; `train` and `validation` are the documents' names."""
    spans: list[tuple[int, int, Hits]] = []  # words, shared words, hits of one passage
    for document, group in groupby(hits, itemgetter(0)):
        parts = list(group)
        words, keys, owners = (np.concatenate([part[i] for part in parts]) for i in (1, 2, 3))
        breaks = np.flatnonzero(np.diff(words) > GRAM_WORDS + BRIDGED_WORDS) + 1
        for start, stop in pairwise([0, *breaks.tolist(), len(words)]):
            if stop == start or (length := int(words[stop - 1] - words[start]) + GRAM_WORDS) < PASSAGE_WORDS:
                continue
            run = words[start:stop]
            shared = GRAM_WORDS + int(np.minimum(np.diff(run), GRAM_WORDS).sum())
            spans.append((length, shared, Hits(document, run, keys[start:stop], owners[start:stop])))
    spans.sort(key=lambda span: -span[0])
    table = places.by_key()
    return Leaks(
        len(spans), sum(length for length, _, _ in spans), sum(shared for _, shared, _ in spans),
        [
            Passage(validation[h.document], train[source], int(h.words[0]), length, shared, sequence, documents,
                    complete and places.complete)
            for length, shared, h in spans[:SHOWN] for source, documents, sequence, complete in [_sources(h, table)]
        ],
    )  # fmt: skip


def _sources(hits: Hits, table: tuple[Ints, Ints, Ints]) -> tuple[int, int, int, bool]:
    """The training document with most of the 8-grams, how many have any, the longest common sequence in words, and
    whether it was looked for in all places of the table."""
    keys, documents, places = table
    rows, _, _ = _rows(keys, np.unique(hits.keys))
    having = documents[rows][np.append(True, (np.diff(documents[rows]) != 0) | (np.diff(keys[rows]) != 0))[: len(rows)]]
    rows, counts, complete = _rows(keys, hits.keys)
    words, sources = np.repeat(hits.words, counts), documents[rows]
    distances = places[rows] - words  # a sequence that both sides have lies in one document at one distance
    order = np.lexsort((words, distances, sources))
    breaks = np.zeros(max(0, len(order) - 1), bool)
    for column, step in ((words, 1), (distances, 0), (sources, 0)):
        breaks |= np.diff(column[order]) != step
    ends = np.concatenate([[0], np.flatnonzero(breaks) + 1, [len(order)]])
    longest = GRAM_WORDS - 1 + max(1, int(np.diff(ends).max()))
    source = int(np.bincount(having if len(having) else hits.owners).argmax())
    num_documents = len(np.unique(np.concatenate([having, hits.owners])))
    return source, num_documents, longest, complete


def _rows(keys: Ints, queries: Ints) -> tuple[Ints, Ints, bool]:
    """The places in sorted `keys` of each of the `queries`, how many they are, and whether these are all: where they
    would be more than _MOST_PLACES (sequences that come again and again on both sides) only the first ones of each."""
    first, last = (np.searchsorted(keys, queries, side) for side in ("left", "right"))
    counts = last - first
    complete = bool(counts.sum() <= _MOST_PLACES)
    if not complete:
        counts = np.minimum(counts, max(1, _MOST_PLACES // len(queries)))
    return np.repeat(first - np.cumsum(counts) + counts, counts) + np.arange(counts.sum()), counts, complete
