"""Words and n-grams as hashes, and a table in which the n-grams of a long text are looked up as it is streamed past.

Texts are compared by words: ASCII letters and digits in lower case, everything of ASCII that is neither separates, and
each character from U+0800 on begins a word of its own, so that scripts without spaces have words as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

GRAM_WORDS = 8
_BASE = 0x9E3779B97F4A7C15  # odd, so it has an inverse modulo 2^64
_WORD_BYTES = bytes(b + 32 * (65 <= b <= 90) if b >= 128 or chr(b).isalnum() else 32 for b in range(256))

Hashes = NDArray[np.uint64]
Ints = NDArray[np.int64]
U = TypeVar("U", np.uint32, np.uint64)


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


def ngram_hashes(hashes: NDArray[U], n: int) -> NDArray[U]:
    """The hash of each n neighbours, (len(hashes) - n + 1,), of the type of the given ones.

    A polynomial in _BASE (Karp and Rabin 1987): hash(xy) = hash(x) * _BASE^|y| + hash(y), so the hashes of n-grams grow
    as n's binary digits are read, in about 2 log2(n) passes.
    """
    modulus = 256**hashes.itemsize
    one, length = hashes, 1
    for digit in f"{n:b}"[1:]:
        hashes = hashes[:-length] * hashes.dtype.type(pow(_BASE, length, modulus)) + hashes[length:]
        length *= 2
        if digit == "1":
            hashes = hashes[:-1] * hashes.dtype.type(_BASE % modulus) + one[length:]
            length += 1
    return hashes


class HashTable(Generic[U]):
    """Sorted hashes (k,), in which those of a long text are looked up; few of these are in it.

    A table of bits, 8 to 16 for each hash, turns nearly all others away and stays in the cache; for what passes,
    `_first` tells where the hashes with the same leading bits begin.
    """

    def __init__(self, hashes: NDArray[U]) -> None:
        self.hashes: NDArray[U] = hashes
        width = 8 * hashes.itemsize
        bits = min(28, max(16, (8 * len(hashes)).bit_length()))
        self._bit_shift, filled = np.uint8(width - bits), np.zeros(2**bits, bool)
        filled[hashes >> self._bit_shift] = True
        self._bits = np.packbits(filled, bitorder="little")
        bits = min(24, len(hashes).bit_length())
        self._first_shift = np.uint8(width - bits)
        leading = (hashes >> self._first_shift).astype(np.int64)
        self._first = np.append(0, np.cumsum(np.bincount(leading, minlength=2**bits)))

    def pairs(self, hashes: NDArray[U], most: int = 2**20) -> Iterator[tuple[Ints, Ints]]:
        """All pairs (place in `hashes`, place in the table) of equal hashes, from at most `most` candidates at once."""
        slots = hashes >> self._bit_shift
        byte, bit = self._bits[slots >> np.uint8(3)], (slots & np.uint8(7)).astype(np.uint8)
        places = np.flatnonzero((byte >> bit) & np.uint8(1))
        slots = hashes[places] >> self._first_shift
        first = self._first[slots]
        counts = self._first[slots + np.uint8(1)] - first
        ends = np.cumsum(counts)
        for begin in range(0, int(ends[-1]) if len(ends) else 0, most):
            pairs = np.arange(begin, min(begin + most, ends[-1]))
            row = np.repeat(np.arange(len(ends)), counts) if ends[-1] <= most else np.searchsorted(ends, pairs, "right")
            candidates = first[row] + pairs - (ends[row] - counts[row])
            equal = self.hashes[candidates] == hashes[places[row]]
            yield places[row[equal]], candidates[equal]
