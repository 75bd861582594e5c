"""Pieces of text -> ids, by as many threads as there are cores: the encoders work without the interpreter's lock."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hornbook.text.tokenizer import Tokenizer

_Piece = tuple[int, bool, str]  # number of its segment, whether it is the segment's first, text
_TASK_CHARACTERS = 2**18  # what a thread encodes at once: long enough to hide the hand-over, short enough for memory


class Encoded(NamedTuple):
    """A piece of a segment, encoded, and what is counted of it."""

    segment: int  # its number
    ids: NDArray[np.int32]
    num_bytes: int
    num_characters: int
    num_words: int
    begins_in_word: bool
    ends_in_word: bool
    lost_bytes: int


def _encode(tokenizer: Tokenizer, pieces: Sequence[_Piece]) -> list[Encoded]:
    # A tokenizer may treat the first piece of a document differently: behind "" none is the first.
    ids = (list(tokenizer.encode_document([text] if is_first else ["", text]))[-1] for _, is_first, text in pieces)
    return [
        Encoded(
            segment, tokens, len(text.encode()), len(text), len(text.split()), not text[:1].isspace(),
            text != "" and not text[-1].isspace(), tokenizer.lost_bytes(text, tokens),
        )
        for (segment, _, text), tokens in zip(pieces, ids, strict=True)
    ]  # fmt: skip


def _tasks(pieces: Iterator[tuple[int, str]]) -> Iterator[list[_Piece]]:
    task: list[_Piece] = []
    last, size = -1, 0
    for segment, text in pieces:
        task.append((segment, segment != last, text))
        last, size = segment, size + len(text) + 1
        if size >= _TASK_CHARACTERS:
            yield task
            task, size = [], 0
    if task:
        yield task


def encoded(pieces: Iterator[tuple[int, str]], tokenizer: Tokenizer, threads: int) -> Iterator[Encoded]:
    """All `pieces` (number of the segment, text) in order, encoded."""
    waiting: deque[Future[list[Encoded]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="encode") as pool:
        for task in _tasks(pieces):
            waiting.append(pool.submit(_encode, tokenizer, task))
            if len(waiting) > 2 * threads:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
