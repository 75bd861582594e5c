"""Canaries: random words planted in a training text a known number of times, to see how well they are remembered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import msgspec
import numpy as np

from hornbook.facts.errors import InputError
from hornbook.text.documents import Document

REPETITIONS = (1, 2, 4, 8, 16, 32, 64)
_PAYLOAD_WORDS = 6
_VOCABULARY_WORDS = 1000
_READ_CHARACTERS = 2**22


class Canary(msgspec.Struct, frozen=True):
    """A text and how many times it was planted; 0 for those kept back as the null."""

    text: str
    repetitions: int


class Canaries(msgspec.Struct, frozen=True):
    """The canaries of a run, and the words from which they, and all they are compared with, are drawn."""

    words: list[str]
    canaries: list[Canary]


def make_canaries(pieces: Iterable[str], *, each: int = 10, null: int = 20, seed: int = 0) -> Canaries:
    """`each` canaries for every number of REPETITIONS, and `null` that are not planted. Same text and seed, same
    canaries.

    They are made of the text's own most frequent words, so that every tokenizer has them. Raises InputError when the
    text has too few different words.
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
    counts_of = [r for r in REPETITIONS for _ in range(each)] + [0] * null
    return Canaries(words, [Canary(next(texts), repetitions) for repetitions in counts_of])


def random_payloads(words: list[str], generator: np.random.Generator) -> Iterator[str]:
    """Endless canary texts, each word drawn independently."""
    while True:
        yield " ".join(words[i] for i in generator.integers(len(words), size=_PAYLOAD_WORDS))


def canary_documents(canaries: Canaries) -> list[Document]:
    """The documents to add to the training side: each planted canary as often as it says."""
    return [
        Document(f"canary {number}, copy {copy + 1}", lambda text=canary.text: iter([text]))  # type: ignore[misc]
        for number, canary in enumerate(canaries.canaries)
        for copy in range(canary.repetitions)
    ]
