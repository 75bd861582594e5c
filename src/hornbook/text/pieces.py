"""A text as pieces that can be encoded one after the other: cut where a tokenizer would cut as well."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

PIECE = 1 << 16  # characters; the longest piece, and where a run without whitespace is cut

# \s of the split patterns (Unicode White_Space); Python's \s and str.isspace() also take U+001C to U+001F.
WHITESPACE = (
    "\t\n\x0b\x0c\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"
)

# A line break may belong to the punctuation before it ("...\n" is one token for Llama 3 and Qwen), so it comes second.
_BEFORE_SPACE = re.compile(f"[^{WHITESPACE}]([ \t\xa0\u3000])")
_BEFORE_WHITESPACE = re.compile(f"[^{WHITESPACE}]([{WHITESPACE}])")


def safe_pieces(stream: Iterable[str]) -> Iterator[str]:
    """Cut a stream of strings into pieces of at most 65,536 characters; the result depends only on the concatenation.

    A piece ends before the last whitespace that follows something else: there the split pattern of every byte-level
    tokenizer has a boundary, so cutting changes no token (a blank is preferred to a line break, see `_BEFORE_SPACE`).
    A run without such a place is cut hard after 65,536 characters, which bounds the memory and time that it can take.

    >>> [len(piece) for piece in safe_pieces(["word " * 30_000])]
    [65534, 65535, 18931]
    >>> [len(piece) for piece in safe_pieces("a" * 70_000)]
    [65536, 4464]
    """
    parts: list[str] = []
    size = 0
    for text in stream:
        parts.append(text)
        size += len(text)
        if size <= PIECE:
            continue
        whole = "".join(parts)
        start = 0
        while size - start > PIECE:
            stop = _cut(whole, start)
            yield whole[start:stop]
            start = stop
        parts, size = [whole[start:]], size - start
    if size:
        yield "".join(parts)


def _cut(text: str, start: int) -> int:
    """Return where the piece that begins at `start` ends; `text` goes on for more than PIECE characters."""
    for pattern in (_BEFORE_SPACE, _BEFORE_WHITESPACE):
        width = 256  # look at the end of the piece first: there is nearly always a place
        while True:
            low = max(start, start + PIECE - width)
            places = [match.start(1) for match in pattern.finditer(text, low, start + PIECE + 1)]
            if places:
                return places[-1]
            if low == start:
                break
            width *= 16
    return start + PIECE
