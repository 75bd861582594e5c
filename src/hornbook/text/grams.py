"""Words and sequences of words as numbers, for texts that are compared.

Texts are compared by words: ASCII letters and digits in lower case, everything of ASCII that is neither separates, and
each character from U+0800 on begins a word of its own, so that scripts without spaces have words as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

GRAM_WORDS = 8
_BASE = 0x9E3779B97F4A7C15  # odd, so it has an inverse modulo 2^64
_WORD_BYTES = bytes(b + 32 * (65 <= b <= 90) if b >= 128 or chr(b).isalnum() else 32 for b in range(256))

Hashes = NDArray[np.uint64]


class Named(Protocol):
    """A document or a segment of one."""

    @property
    def name(self) -> str: ...
    @property
    def pieces(self) -> Callable[[], Iterator[str]]: ...


@lru_cache(maxsize=32)
def _powers(count: int) -> tuple[Hashes, Hashes]:
    """_BASE^i and _BASE^-i modulo 2^64 for i < count."""
    up, down = (np.full(count, base, np.uint64) for base in (_BASE, pow(_BASE, -1, 2**64)))
    up[0] = down[0] = 1
    return np.cumprod(up), np.cumprod(down)


def mixed(hashes: Hashes) -> Hashes:
    """Each bit of the result depends on each bit of the input (the finalizer of MurmurHash3)."""
    hashes = (hashes ^ (hashes >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    hashes = (hashes ^ (hashes >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return hashes ^ (hashes >> np.uint64(33))


_BYTE_HASHES = mixed(np.arange(1, 257, dtype=np.uint64))
_BYTE_HASHES[32] = 0  # so that a word's hash ends where the word ends


def word_hashes(text: bytes) -> Hashes:
    """The hash of each word, (num_words,): sums of byte hashes times powers, moved to the word's start."""
    data = np.frombuffer(text.translate(_WORD_BYTES), np.uint8)
    if not len(data):
        return np.empty(0, np.uint64)
    first = data != 32
    first[1:] &= data[:-1] == 32
    starts = np.flatnonzero(first | (data >= 0xE0))
    up, down = _powers(1 << len(data).bit_length())
    sums = np.concatenate([[np.uint64(0)], np.cumsum(_BYTE_HASHES[data] * up[: len(data)])])
    return mixed(np.diff(sums[np.append(starts, len(data))]) * down[starts])


def piece_words(document: Named) -> Iterator[tuple[bytes, Hashes]]:
    """Each piece's bytes, and the hashes of its words after the last GRAM_WORDS - 1 words of the piece before."""
    before = np.empty(0, np.uint64)
    for piece in document.pieces():
        words = np.concatenate([before, word_hashes(piece.encode())])
        yield piece.encode(), words
        before = words[max(0, len(words) - GRAM_WORDS + 1) :]


def word_grams(words: Hashes, length: int) -> Hashes:
    """The hash of each `length` words that follow each other; `length` is a power of 2."""
    done = 1
    while done < length:
        words = words[: max(0, len(words) - done)] * np.uint64(pow(_BASE, done, 2**64)) + words[done:]
        done *= 2
    return words
