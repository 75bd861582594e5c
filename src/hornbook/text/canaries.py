"""Canaries: random words planted in a training text a known number of times, to see how well they are remembered."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import msgspec
import numpy as np

from hornbook.facts.errors import InputError
from hornbook.text.documents import Document
from hornbook.text.pieces import safe_pieces
from hornbook.text.split import Segment

CANARIES = "canaries.json"  # in a prepared folder and a run
REPETITIONS = (1, 2, 4, 8, 16, 32, 64)
BEFORE = "\n"  # what stands before a planted canary, and behind it
_PAYLOAD_WORDS = 6
_VOCABULARY_WORDS = 1000
_READ_CHARACTERS = 2**22
_SPACE = re.compile(r"\s")


class Canary(msgspec.Struct, frozen=True):
    """A text and how many times it was planted; 0 for those kept back as the null."""

    text: str
    repetitions: int


class Canaries(msgspec.Struct, frozen=True):
    """The canaries of a run, and the words from which they, and all they are compared with, are drawn."""

    words: list[str]
    canaries: list[Canary]


def make_canaries(
    pieces: Iterable[str], *, each: int = 10, null: int = 50, largest_share: float = 0.1, seed: int = 0
) -> Canaries:
    """`each` canaries for every number of REPETITIONS, and `null` that are not planted. Same text and seed, same
    canaries.

    They are made of the text's own most frequent words, so that every tokenizer has them. The largest numbers of
    repetitions are left out where the planted ones would be more than `largest_share` of the text. Raises InputError
    when the text has too few different words, or is too short to plant any.
    """
    counts: Counter[str] = Counter()
    read = 0
    for piece in pieces:
        counts.update(piece.split())
        if (read := read + len(piece)) > _READ_CHARACTERS:
            break
    words = sorted(counts, key=lambda word: (-counts[word], word))[:_VOCABULARY_WORDS]
    if len(words) < 20:
        raise InputError(f"canaries need at least 20 different words, but the text has {len(words)}; give more text.")
    texts = random_payloads(words, np.random.default_rng(seed))
    canaries = [Canary(next(texts), 0) for _ in range(null)]
    room = largest_share * read
    for repetitions in REPETITIONS:
        planted = [Canary(next(texts), repetitions) for _ in range(each)]
        room -= sum(len(canary.text) + 2 * len(BEFORE) for canary in planted) * repetitions
        if room < 0:
            break
        canaries += planted
    if len(canaries) == null:
        raise InputError(f"a text of {read:,} characters is too short to plant canaries in: give more text.")
    return Canaries(words, canaries)


def planted_canaries(folder: Path) -> Canaries | None:
    """The canaries that a prepared folder or a run has on record; None where none were planted."""
    try:
        return msgspec.json.decode((folder / CANARIES).read_bytes(), type=Canaries)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError:
        raise InputError(f"{folder / CANARIES} is damaged; put back the file of the prepared text") from None


def random_payloads(words: list[str], generator: np.random.Generator) -> Iterator[str]:
    """Endless canary texts, each word drawn independently."""
    while True:
        yield " ".join(words[i] for i in generator.integers(len(words), size=_PAYLOAD_WORDS))


def plant(segments: Sequence[Segment], canaries: Canaries, *, seed: int = 0) -> list[Segment]:
    """The segments with each canary put in as often as it says, on lines of their own, at random places in random
    order: nothing but how often it stands there tells one canary from another.
    """
    generator = np.random.default_rng([seed, 1])
    texts = [canary.text for canary in canaries.canaries for _ in range(canary.repetitions)]
    lengths = [sum(map(len, segment.pieces())) for segment in segments]
    ends = np.cumsum(lengths)
    places = np.sort(generator.integers(ends[-1], size=len(texts)))
    order = generator.permutation(len(texts))
    planted, first = [], 0
    for segment, length, end in zip(segments, lengths, ends.tolist(), strict=True):
        last = int(np.searchsorted(places, end))
        lines = [(int(places[i]) - (end - length), texts[order[i]]) for i in range(first, last)]
        pieces = partial(_planted, segment, lines) if lines else segment.pieces
        planted.append(Segment(Document(segment.name, pieces, segment.document.path), 0, None))
        first = last
    return planted


def _planted(segment: Segment, lines: Sequence[tuple[int, str]]) -> Iterator[str]:
    def stream() -> Iterator[str]:
        position, number = 0, 0
        for piece in segment.pieces():
            start = 0
            while number < len(lines) and lines[number][0] < position + len(piece):
                space = _SPACE.search(piece, max(start, lines[number][0] - position))
                stop = len(piece) if space is None else space.start()
                yield f"{piece[start:stop]}{BEFORE}{lines[number][1]}{BEFORE}"
                start, number = stop, number + 1
            yield piece[start:]
            position += len(piece)

    return safe_pieces(stream())
