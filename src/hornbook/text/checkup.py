"""Is the text fit to learn from? Duplicates within the training side, and leaks from it into the validation side.

- Exact duplicates have the same SHA-256. Near duplicates have the same MinHash in half of 128 bins: one permutation
  (Li, Owen and Zhang 2012), empty bins filled from the next (Shrivastava and Li 2014), shingles of 4 words, candidates
  from 32 bands of 4 bins (Leskovec, Rajaraman and Ullman, section 3.4). The share of equal bins estimates the
  similarity with a standard deviation of at most 0.045.
- Repetition is counted by 8-grams of words, whether a document repeats another or itself.
- What a leak is stands in `leaks`.

Memory: 8 bytes for each of at most 2^22 8-grams at once (a larger validation side takes more passes over the training
side), 16 for each of at most 2^20 places, and about 700 bytes per document.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hornbook.facts.capacity import REPEATED
from hornbook.facts.text_warnings import LEAKED, leaked_in_words
from hornbook.facts.units import counted
from hornbook.text.grams import GRAM_WORDS, Hashes, Named, mixed, ngram_hashes, piece_words
from hornbook.text.leaks import PASSAGE_WORDS, SHOWN, Leaks, Places, indexes, passages

NEAR = 0.5  # of the bins
NATURAL_SHARE = 0.001  # of the words may be in formulas and quotations; below, nothing is said
_SHINGLE_WORDS = GRAM_WORDS // 2
_BINS, _BAND = 128, 4
_SAMPLE_GRAMS = 2**17
_EMPTY = 2**32 - 1  # in a signature: no shingle fell into this bin


class Duplicate(NamedTuple):
    """`name` is a copy of `of`, which comes first; `similarity` is 1 for an exact one, else an estimate: how many of
    the sequences of 4 words that either has stand in both."""

    name: str
    of: str
    similarity: float


@dataclass(frozen=True)
class Checkup:
    """What was found. Shares are of words (of 8-grams for `repeated_share`).

    `duplicates` are documents of the training side that come earlier on it too: those to leave out. `repeated_share`
    is how much of the training side had occurred in it before; `readings_per_epoch` how often its 8-grams occur on
    average, each counted once: what is read in one epoch is read so often (1 for a text without repetition, None
    without words). `copies` are documents of the validation side that are a document of the training side.
    """

    train_documents: int
    train_words: int
    validation_words: int
    duplicates: list[Duplicate]
    repeated_share: float
    readings_per_epoch: float | None
    copies: list[Duplicate]
    leaks: Leaks

    @property
    def leaked_share(self) -> float:
        """Of the words of the validation side, those in passages and there in 8-grams that the training side has."""
        return self.leaks.shared_words / max(1, self.validation_words)

    @property
    def leaked_share_with_changes(self) -> float:
        """The same with the words between these 8-grams, which a copy with changed words has."""
        return self.leaks.num_words / max(1, self.validation_words)

    @property
    def validation_leaked(self) -> bool:
        return self.leaked_share_with_changes >= LEAKED

    def to_dict(self) -> dict[str, Any]:
        """As values of JSON: counts, shares, sentences, and the first or longest SHOWN of each kind."""
        return {
            "train_documents": self.train_documents, "train_words": self.train_words,
            "validation_words": self.validation_words, "repeated_share": self.repeated_share,
            "readings_per_epoch": self.readings_per_epoch, "duplicate_documents": len(self.duplicates),
            "exact_duplicate_documents": sum(duplicate.similarity == 1 for duplicate in self.duplicates),
            "validation_documents_also_in_train": len(self.copies), "leaked_share": self.leaked_share,
            "leaked_share_with_changes": self.leaked_share_with_changes, "validation_leaked": self.validation_leaked,
            "leaked_passages": self.leaks.num_passages, "sentences": self.sentences(),
            "duplicates": [duplicate._asdict() for duplicate in self.duplicates[:SHOWN]],
            "copies": [copy._asdict() for copy in self.copies[:SHOWN]],
            "passages": [passage._asdict() for passage in self.leaks.longest],
        }  # fmt: skip

    def sentences(self) -> list[str]:
        """What a person should know, one sentence each; none when there is nothing to say."""
        sentences = []
        if self.duplicates:
            sentences.append(
                f"{len(self.duplicates):,} of {self.train_documents:,} training documents "
                f"{'are duplicates' if len(self.duplicates) > 1 else 'is a duplicate'} of an earlier one"
                f"{_like(self.duplicates)}: --dedup leaves {'them' if len(self.duplicates) > 1 else 'it'} out."
            )
        if (self.readings_per_epoch or 0) >= REPEATED:
            sentences.append(
                f"The training text repeats itself: sequences of {GRAM_WORDS} words occur in it "
                f"{self.readings_per_epoch:.1f} times on average, so one epoch sees each that many times."
            )
        if self.copies:
            sentences.append(
                f"{counted(len(self.copies), 'validation document')} "
                f"{'are copies of training documents' if len(self.copies) > 1 else 'is a copy of a training document'}"
                f"{_like(self.copies)}: --dedup leaves what was copied out of the training text."
            )
        if self.leaked_share_with_changes >= NATURAL_SHARE:
            shares = {name: getattr(self, name) for name in ("leaked_share", "leaked_share_with_changes")}
            sentences.append(
                f"{leaked_in_words(shares)}, so its loss is not that of unseen text "
                f"({counted(self.leaks.num_passages, 'passage')}; {_longest(self.leaks)})."
            )
        if 0 < self.validation_words < PASSAGE_WORDS and not self.copies:
            sentences.append(
                f"The validation text has {counted(self.validation_words, 'word')}, so whether passages of "
                f"{PASSAGE_WORDS} words leaked into it could not be checked."
            )
        return sentences


def _like(duplicates: Sequence[Duplicate]) -> str:
    """How many are exact, and one of them."""
    exact, first = sum(duplicate.similarity == 1 for duplicate in duplicates), duplicates[0]
    like = "the same as" if first.similarity == 1 else f"about {first.similarity:.0%} like"
    near = f", {len(duplicates) - exact:,} nearly" if exact < len(duplicates) else ""
    return f" ({exact:,} exact{near}), such as {first.name}, {like} {first.of}"


def _longest(leaks: Leaks) -> str:
    """How much of the longest passage stands in the training text, how much of it in a row, and where."""
    longest = leaks.longest[0]
    least = "" if longest.all_places else "at least "
    more = f" and {least}{longest.train_documents - 1:,} more" if longest.train_documents > 1 else ""
    within = "all in a row, "
    if longest.longest_sequence_words < longest.num_words:
        within = (
            f"{longest.shared_words:,} of them in sequences of {GRAM_WORDS} words or more and {least or 'at most '}"
            f"{longest.longest_sequence_words:,} in a row, "
        )
    return f"the longest has {longest.num_words:,} words of {longest.validation}, {within}in {longest.train}{more}"


def check_up(train: Sequence[Named], validation: Sequence[Named]) -> Checkup:
    """Read both sides and report duplicates and leaks. Deterministic; draws no random numbers."""
    learned, held_out, repeats, places = _Signatures(), _Signatures(), _Repeats(), Places()
    parts = indexes((j, held_out.read(document)) for j, document in enumerate(validation))
    index = next(parts)
    for i, document in enumerate(train):
        index.mark(repeats.counted(learned.read(document)), i, places)
    hits = index.hits()
    for index in parts:
        for i, document in enumerate(train):
            index.mark((ngram_hashes(words, GRAM_WORDS) for _, words in piece_words(document)), i, places)
        hits += index.hits()
    train_names, validation_names = [d.name for d in train], [d.name for d in validation]
    return Checkup(
        train_documents=len(train),
        train_words=learned.num_words,
        validation_words=held_out.num_words,
        duplicates=_duplicates(learned, train_names, learned, train_names),
        repeated_share=repeats.share,
        readings_per_epoch=repeats.readings,
        copies=_duplicates(held_out, validation_names, learned, train_names),
        leaks=passages(hits, places, train_names, validation_names),
    )


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
        for text, words in piece_words(document):
            digest.update(text)
            self.num_words += len(words) - carried
            shingles = mixed(ngram_hashes(words[max(0, carried - _SHINGLE_WORDS + 1) :], _SHINGLE_WORDS))
            np.minimum.at(bins, shingles >> np.uint64(57), (shingles >> np.uint64(24)).astype(np.uint32))
            yield ngram_hashes(words, GRAM_WORDS)
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

    def counted(self, pieces: Iterable[Hashes]) -> Iterator[Hashes]:
        """The n-grams, piece by piece, which are counted as they pass."""
        for grams in pieces:
            hashes = mixed(grams)
            self._waiting.append(hashes[hashes << (np.uint64(64) - self._shift) == 0] if self._shift else hashes)
            self._num_waiting += len(self._waiting[-1])
            if self._num_waiting > _SAMPLE_GRAMS:
                self._merge()
            yield grams

    @property
    def readings(self) -> float | None:
        """How often an n-gram occurs, on average over the different ones; None without any."""
        self._merge()
        return int(self._counts.sum()) / len(self._seen) if len(self._seen) else None

    @property
    def share(self) -> float:
        """Of the n-grams, those that occurred before."""
        return 1 - 1 / (self.readings or 1)

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
