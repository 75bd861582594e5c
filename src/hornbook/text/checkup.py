"""Is the text fit to learn from? Duplicates within the training side, and leaks from it into the validation side.

Texts are compared by words: ASCII letters and digits in lower case, everything of ASCII that is neither separates, and
each character from U+0800 on begins a word of its own, so that scripts without spaces have words as well.

- Exact duplicates have the same SHA-256. Near duplicates have the same MinHash in half of 128 bins: one permutation
  (Li, Owen and Zhang 2012), empty bins filled from the next (Shrivastava and Li 2014), shingles of 4 words, candidates
  from 32 bands of 4 bins (Leskovec, Rajaraman and Ullman, section 3.4).
- A leak is a passage of the validation side whose 8-grams of words (as in Radford et al. 2019, section 4) stand in the
  training side. Up to 16 words between two such 8-grams are bridged, for copies with changed words; a passage has at
  least 24 words. In the State of the Union texts, split by year, 0.02 % of the words are in such a passage by nature.

Memory: 8 bytes for each of at most 2^22 8-grams at once (a larger validation side takes more passes over the training
side), and about 700 bytes per document.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby, pairwise
from operator import itemgetter
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from hornbook.facts.quantities import counted

GRAM_WORDS, BRIDGED_WORDS, PASSAGE_WORDS = 8, 16, 24
SHOWN = 20  # named one by one
NEAR = 0.5  # of the bins
NATURAL_SHARE = 0.001  # of the words may be in formulas and quotations; below, nothing is said
_SHINGLE_WORDS = GRAM_WORDS // 2
_BINS, _BAND = 128, 4
_INDEX_GRAMS = 2**22
_SAMPLE_GRAMS = 2**17
_EMPTY = 2**32 - 1  # in a signature: no shingle fell into this bin
_BASE = 0x9E3779B97F4A7C15  # odd, so it has an inverse modulo 2^64
_WORD_BYTES = bytes(b + 32 * (65 <= b <= 90) if b >= 128 or chr(b).isalnum() else 32 for b in range(256))

Hashes = NDArray[np.uint64]


class Named(Protocol):
    """A document or a segment of one."""

    @property
    def name(self) -> str: ...
    @property
    def pieces(self) -> Callable[[], Iterator[str]]: ...


class Duplicate(NamedTuple):
    """`name` is a copy of `of`, which comes first; `similarity` is 1 for an exact one, else the share of equal bins."""

    name: str
    of: str
    similarity: float


class Passage(NamedTuple):
    """Words `start_word : start_word + num_words` of the document `validation`, which stand in `train` as well."""

    validation: str
    train: str
    start_word: int
    num_words: int


@dataclass(frozen=True)
class Checkup:
    """What was found. Shares are of words (of 8-grams for `repeated_share`).

    `duplicates` are documents of the training side that come earlier on it too: those to leave out. `repeated_share`
    is how much of the training side had occurred in it before. `copies` are documents of the validation side that are
    a document of the training side. `passages` are all leaks, the longest first.
    """

    train_documents: int
    train_words: int
    validation_words: int
    duplicates: list[Duplicate]
    repeated_share: float
    copies: list[Duplicate]
    passages: list[Passage]

    @property
    def leaked_words(self) -> int:
        return sum(passage.num_words for passage in self.passages)

    @property
    def leaked_share(self) -> float:
        return self.leaked_words / self.validation_words if self.validation_words else 0.0

    def to_dict(self) -> dict[str, Any]:
        """As values of JSON: counts, shares, sentences, and the first or longest SHOWN of each kind."""
        return {
            "train_documents": self.train_documents, "train_words": self.train_words,
            "validation_words": self.validation_words, "repeated_share": self.repeated_share,
            "duplicate_documents": len(self.duplicates),
            "exact_duplicate_documents": sum(duplicate.similarity == 1 for duplicate in self.duplicates),
            "validation_documents_also_in_train": len(self.copies), "leaked_share": self.leaked_share,
            "leaked_passages": len(self.passages), "sentences": self.sentences(),
            "duplicates": [each._asdict() for each in self.duplicates[:SHOWN]],
            "copies": [each._asdict() for each in self.copies[:SHOWN]],
            "passages": [each._asdict() for each in self.passages[:SHOWN]],
        }  # fmt: skip

    def sentences(self) -> list[str]:
        """What a person should know, one sentence each; none when there is nothing to say."""
        said = []
        if self.duplicates:
            exact = sum(duplicate.similarity == 1 for duplicate in self.duplicates)
            first = self.duplicates[0]
            said.append(
                f"{len(self.duplicates):,} of {self.train_documents:,} training documents "
                f"{'are duplicates' if len(self.duplicates) > 1 else 'is a duplicate'} of an earlier one ("
                f"{exact:,} exact), such as {first.name} of {first.of}: --dedup leaves them out."
            )
        if self.copies:
            first = self.copies[0]
            said.append(
                f"{len(self.copies):,} validation document{'s are' if len(self.copies) > 1 else ' is'} in the training "
                f"text too, such as {first.name}, which is {first.of} there: --dedup leaves the training copy out."
            )
        if self.leaked_share >= NATURAL_SHARE:
            worst = self.passages[0]
            said.append(
                f"{self.leaked_share:.1%} of the validation text also stands in the training text, so its loss is too "
                f"low ({counted(len(self.passages), 'passage')}; the longest has {worst.num_words:,} words of "
                f"{worst.validation} and stands in {worst.train})."
            )
        if 0 < self.validation_words < PASSAGE_WORDS and not self.copies:
            said.append(
                f"The validation text has {counted(self.validation_words, 'word')}, so whether passages of "
                f"{PASSAGE_WORDS} words leaked into it could not be looked at."
            )
        return said


def check_up(train: Sequence[Named], validation: Sequence[Named]) -> Checkup:
    """Read both sides and report duplicates and leaks. Deterministic; draws no random numbers."""
    learned, kept_back, repeats = _Signatures(), _Signatures(), _Repeats()
    indexes = _indexes(validation, kept_back)
    index = next(indexes)
    for i, document in enumerate(train):
        for grams in learned.read(document):
            repeats.add(grams)
            index.mark(grams, i)
    hits = index.hits()
    for index in indexes:
        for i, document in enumerate(train):
            for _, words in _words(document):
                index.mark(_grams(words, GRAM_WORDS), i)
        hits += index.hits()
    passages = [
        Passage(validation[j].name, train[source].name, start, length) for j, start, length, source in _passages(hits)
    ]
    train_names, validation_names = [d.name for d in train], [d.name for d in validation]
    return Checkup(
        train_documents=len(train),
        train_words=learned.num_words,
        validation_words=kept_back.num_words,
        duplicates=_duplicates(learned, train_names, learned, train_names),
        repeated_share=repeats.share,
        copies=_duplicates(kept_back, validation_names, learned, train_names),
        passages=sorted(passages, key=lambda passage: -passage.num_words),
    )


# ---- Words and their n-grams


@lru_cache(maxsize=32)
def _powers(count: int) -> tuple[Hashes, Hashes]:
    """_BASE^i and _BASE^-i modulo 2^64 for i < count."""
    up, down = (np.full(count, base, np.uint64) for base in (_BASE, pow(_BASE, -1, 2**64)))
    up[0] = down[0] = 1
    return np.cumprod(up), np.cumprod(down)


def _mixed(hashes: Hashes) -> Hashes:
    """Each bit of the result depends on each bit of the input (the finalizer of MurmurHash3)."""
    hashes = (hashes ^ (hashes >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    hashes = (hashes ^ (hashes >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return hashes ^ (hashes >> np.uint64(33))


_BYTE_HASHES = _mixed(np.arange(1, 257, dtype=np.uint64))
_BYTE_HASHES[32] = 0  # so that a word's hash ends where the word ends


def _word_hashes(text: bytes) -> Hashes:
    """The hash of each word, (num_words,): sums of byte hashes times powers, moved to the word's start."""
    data = np.frombuffer(text.translate(_WORD_BYTES), np.uint8)
    if not len(data):
        return np.empty(0, np.uint64)
    first = data != 32
    first[1:] &= data[:-1] == 32
    starts = np.flatnonzero(first | (data >= 0xE0))
    up, down = _powers(1 << len(data).bit_length())
    sums = np.concatenate([[np.uint64(0)], np.cumsum(_BYTE_HASHES[data] * up[: len(data)])])
    return _mixed(np.diff(sums[np.append(starts, len(data))]) * down[starts])


def _words(document: Named) -> Iterator[tuple[bytes, Hashes]]:
    """Each piece's bytes, and the hashes of its words after the last GRAM_WORDS - 1 words of the piece before."""
    before = np.empty(0, np.uint64)
    for piece in document.pieces():
        words = np.concatenate([before, _word_hashes(piece.encode())])
        yield piece.encode(), words
        before = words[max(0, len(words) - GRAM_WORDS + 1) :]


def _grams(words: Hashes, length: int) -> Hashes:
    """The hash of each `length` words that follow each other; `length` is a power of 2."""
    done = 1
    while done < length:
        words = words[: max(0, len(words) - done)] * np.uint64(pow(_BASE, done, 2**64)) + words[done:]
        done *= 2
    return words


# ---- Duplicates


class _Signatures:
    """SHA-256 and MinHash of each document read."""

    def __init__(self) -> None:
        self.digests: list[bytes] = []
        self.bins: list[NDArray[np.uint32]] = []
        self.num_words = 0

    def read(self, document: Named) -> Iterator[Hashes]:
        """Yield the document's 8-grams piece by piece; what is kept is there after the last one."""
        digest, bins, carried = hashlib.sha256(), np.full(_BINS, _EMPTY, np.uint32), 0
        for text, words in _words(document):
            digest.update(text)
            self.num_words += len(words) - carried
            shingles = _mixed(_grams(words[max(0, carried - _SHINGLE_WORDS + 1) :], _SHINGLE_WORDS))
            np.minimum.at(bins, shingles >> np.uint64(57), (shingles >> np.uint64(24)).astype(np.uint32))
            yield _grams(words, GRAM_WORDS)
            carried = min(len(words), GRAM_WORDS - 1)
        self.digests.append(digest.digest())
        self.bins.append(_filled(bins))


def _filled(bins: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Empty bins get the value of the next one that is not, plus their distance; a document without any stays empty."""
    full = np.flatnonzero(bins != _EMPTY)
    if not 0 < len(full) < _BINS:
        return bins
    source = np.append(full, full[0] + _BINS)[np.searchsorted(full, np.arange(_BINS))]
    distance = (source - np.arange(_BINS)).astype(np.uint32)
    filled: NDArray[np.uint32] = bins[source % _BINS] + distance * np.uint32(0x9E3779B1)
    return filled


def _duplicates(
    side: _Signatures, names: Sequence[str], other: _Signatures, other_names: Sequence[str]
) -> list[Duplicate]:
    """The documents of `side` that are a copy of one of `other`, of an earlier one where the sides are the same."""
    first: dict[bytes, int] = {}
    for i, digest in enumerate(other.digests):
        first.setdefault(digest, i)
    best: dict[int, tuple[float, int]] = {}
    for i, digest in enumerate(side.digests):
        if (j := first.get(digest, i)) != i or (side is not other and digest in first):
            best[i] = (1.0, j)
    a, b = (np.array(s.bins, np.uint32).reshape(-1, _BINS) for s in (side, other))
    for band in range(0, _BINS, _BAND):
        key_a, key_b = (bins[:, band : band + _BAND].copy().view("V16")[:, 0].tolist() for bins in (a, b))
        seen: dict[bytes, int] = {}
        for j, key in enumerate(key_b):
            seen.setdefault(key, j)
        for i, key in enumerate(key_a):
            j = seen.get(key, -1)
            if j < 0 or (side is other and j >= i) or best.get(i, (0.0, 0))[0] == 1 or a[i, 0] == _EMPTY:
                continue
            similarity = float((a[i] == b[j]).mean())
            if similarity >= NEAR:  # equal bins do not make equal texts: 1 is kept for those
                best[i] = max(best.get(i, (0.0, 0)), (min(similarity, 1 - 1 / _BINS), j))
    return [Duplicate(names[i], other_names[j], similarity) for i, (similarity, j) in sorted(best.items())]


class _Repeats:
    """How many of the n-grams occurred before, from a sample of hashes that is thinned as it fills."""

    def __init__(self) -> None:
        self._shift, self._seen, self._counts = np.uint64(0), np.empty(0, np.uint64), np.empty(0, np.int64)
        self._waiting: list[Hashes] = []
        self._num_waiting = 0

    def add(self, grams: Hashes) -> None:
        self._waiting.append(self._sampled(grams))
        self._num_waiting += len(self._waiting[-1])
        if self._num_waiting > _SAMPLE_GRAMS:
            self._merge()

    @property
    def share(self) -> float:
        self._merge()
        return 1 - len(self._seen) / int(self._counts.sum()) if len(self._seen) else 0.0

    def _sampled(self, grams: Hashes) -> Hashes:
        hashes = _mixed(grams)
        return hashes[hashes << (np.uint64(64) - self._shift) == 0] if self._shift else hashes

    def _merge(self) -> None:
        grams = np.concatenate([self._seen, *self._waiting])
        weights = np.concatenate([self._counts, np.ones(len(grams) - len(self._seen), np.int64)])
        self._seen, inverse = np.unique(grams, return_inverse=True)
        self._counts, self._waiting = np.bincount(inverse, weights, len(self._seen)).astype(np.int64), []
        self._num_waiting = 0
        while len(self._seen) > _SAMPLE_GRAMS:
            self._shift += np.uint64(1)
            kept = self._seen << (np.uint64(64) - self._shift) == 0
            self._seen, self._counts = self._seen[kept], self._counts[kept]


# ---- Leaks

_Hits = tuple[int, NDArray[np.int64], NDArray[np.int32]]  # a validation document, places of 8-grams, where they stand


class _Index:
    """Some 8-grams of the validation side, as (document, place of the first, hashes), and where they were first met."""

    def __init__(self, parts: Sequence[tuple[int, int, Hashes]]) -> None:
        self._parts = parts
        keys = np.sort(np.concatenate([np.empty(0, np.uint64), *(grams for _, _, grams in parts)]))
        self._keys = keys[np.diff(keys, prepend=~keys[:1]) != 0]  # np.unique, which hashes, takes ten times as long
        self._owner = np.full(len(self._keys), -1, np.int32)
        # Most 8-grams of the training side are not here; 16 slots for each that is tell so without a search.
        self._shift = np.uint64(64 - max(10, (16 * len(self._keys)).bit_length()))
        self._filter = np.zeros(2 ** (64 - int(self._shift)), bool)
        self._filter[self._keys >> self._shift] = True

    def mark(self, grams: Hashes, document: int) -> None:
        """These 8-grams stand in this document of the training side."""
        grams = grams[self._filter[grams >> self._shift]]
        if len(grams):
            at = np.minimum(np.searchsorted(self._keys, grams), len(self._keys) - 1)
            at = at[self._keys[at] == grams]
            self._owner[at[self._owner[at] < 0]] = document

    def hits(self) -> list[_Hits]:
        found = []
        for document, start, grams in self._parts:
            owners = self._owner[np.searchsorted(self._keys, grams)]
            places = np.flatnonzero(owners >= 0)
            found.append((document, places + start, owners[places]))
        return found


def _indexes(validation: Sequence[Named], signatures: _Signatures) -> Iterator[_Index]:
    """The validation side as indexes of bounded size; at least one."""
    parts: list[tuple[int, int, Hashes]] = []
    size = 0
    for j, document in enumerate(validation):
        start = 0
        for grams in signatures.read(document):
            parts.append((j, start, grams))
            start, size = start + len(grams), size + len(grams)
            if size >= _INDEX_GRAMS:
                yield _Index(parts)
                parts, size = [], 0
    yield _Index(parts)


def _passages(hits: Sequence[_Hits]) -> Iterator[tuple[int, int, int, int]]:
    """(validation document, first word, words, training document) of each passage that the hits make up."""
    for document, group in groupby(hits, itemgetter(0)):
        some = list(group)
        places = np.concatenate([places for _, places, _ in some])
        owners = np.concatenate([owners for _, _, owners in some])
        breaks = np.flatnonzero(np.diff(places) > GRAM_WORDS + BRIDGED_WORDS) + 1
        for start, stop in pairwise([0, *breaks.tolist(), len(places)]):
            length = int(places[stop - 1] - places[start]) + GRAM_WORDS if stop > start else 0
            if length >= PASSAGE_WORDS:
                yield document, int(places[start]), length, int(np.bincount(owners[start:stop]).argmax())
