"""Training a byte-level BPE, on a sample of the text where it is long."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from hornbook.facts.errors import InputError
from hornbook.text.bytelevel import BYTE_CHARACTERS, utf8

SAMPLE_BYTES = 200_000_000  # the training text is thinned to at most this much, evenly
DISTINCT_BYTES = 12_000_000  # ... and so that its different words are at most about this much (see `_sample`)
WORD_BYTES = 64  # longer words are cut for training: merging takes time quadratic in the length of a word


def train_merges(pieces: Iterable[str], num_tokens: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return vocabulary (token to id: 256 bytes, then merges) and merges, of at most `num_tokens` tokens.

    There are fewer when no pair occurs twice any more. Raises InputError when there is no text.
    """
    from tokenizers import Tokenizer, models, trainers

    sample = _sample(pieces)
    if not sample:
        raise InputError("there is no text to train a tokenizer on; give a text, or take the tokenizer bytes")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = _words()
    trainer = trainers.BpeTrainer(
        vocab_size=num_tokens, min_frequency=2, show_progress=False, initial_alphabet=sorted(BYTE_CHARACTERS)
    )
    tokenizer.train_from_iterator((piece.decode() for piece in sample), trainer)
    model: dict[str, Any] = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [(left, right) for left, right in model["merges"]]


def _sample(pieces: Iterable[str]) -> list[bytes]:
    """Return every k-th piece, k as small as the two limits allow.

    The trainer keeps about 90 to 130 bytes for each byte of *different* words (measured): English has few of them, text
    without spaces consists of them. Their share is estimated on about a million characters.
    """
    kept: list[bytes] = []
    stride, size = 1, 0
    for i, piece in enumerate(pieces):
        if i % stride or not piece:
            continue
        kept.append(utf8(piece))
        size += len(kept[-1])
        while size > SAMPLE_BYTES and len(kept) > 1:
            kept, stride = kept[::2], stride * 2
            size = sum(map(len, kept))
    limit = DISTINCT_BYTES / max(_distinct_share(kept[:: max(1, len(kept) // 16)]), 1e-3)
    while size > limit and len(kept) > 1:
        kept = kept[::2]
        size = sum(map(len, kept))
    return kept


def _distinct_share(pieces: list[bytes]) -> float:
    """Return bytes of different words / bytes of all words."""
    split = _words()
    words = [word for piece in pieces for word, _ in split.pre_tokenize_str(piece.decode())]
    return sum(map(len, set(words))) / max(1, sum(map(len, words)))


def _words() -> Any:
    """What cuts a text into the words that merges stay within."""
    from tokenizers import pre_tokenizers

    cut = pre_tokenizers.ByteLevel(add_prefix_space=False), pre_tokenizers.FixedLength(WORD_BYTES)
    return pre_tokenizers.Sequence(list(cut))
