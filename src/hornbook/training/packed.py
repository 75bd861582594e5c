"""Documents as a flash kernel takes them: where each begins in the rows of a microbatch laid end to end.

Worked out where batches are made, so that the device is never asked, and always of one length, so that what is compiled
for it stays: twice what the text has on average, filled up with documents of no tokens. A microbatch with more of them
doubles the length, and is compiled for once more. Loaded only where that kernel is used.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from hornbook.data.loader import Batches
from hornbook.data.shards import START, TokenStream
from hornbook.model import packed
from hornbook.model.decoder import Decoder

BLOCK = 128  # tokens that the kernel computes at once; each document has memory and idle blocks for no fewer
SPARE = 16  # documents, for few rows with more than the average


def pack_documents(batches: Batches, model: Decoder, on: torch.device) -> None:
    """Let `batches` say where documents begin, instead of whose each token is, where `model` can be trained so on `on`
    and the text is not of short documents."""
    part = batches.part
    is_long = part.num_tokens >= BLOCK * len(part.documents)
    if is_long and is_met_once(part, batches.context) and packed.is_possible(model.shape, model.dropout, on):
        batches.pack = partial(document_begins, per_token=len(part.documents) / part.num_tokens)


def is_met_once(part: TokenStream, context: int) -> bool:
    """Whether no window has two pieces of a document with others between, across the end of the stream: a mask lets
    those attend to each other."""
    begins = part.documents[:, START] - int(part.separator)
    longest = np.diff(begins, append=part.num_tokens).max(initial=0)
    return bool(longest == part.num_tokens or part.num_tokens - longest >= context)


def document_begins(documents_BT: NDArray[np.int32], rows: int, per_token: float) -> tuple[NDArray[np.int32], int]:
    """For each piece of `rows` rows where its documents begin, then how many tokens it has until there are N + 1
    numbers: int32, one piece after the other; and N + 1. The text has `per_token` documents for each token.

    >>> document_begins(np.array([[3, 3, 4], [4, 4, 4]], np.int32), 2, 1 / 6)[0][:5].tolist()
    [0, 2, 3, 6, 6]
    """
    B, T = documents_BT.shape
    rows = min(rows, B)
    is_first = np.ones((B, T), bool)
    is_first[:, 1:] = documents_BT[:, 1:] != documents_BT[:, :-1]
    pieces = [is_first[start : start + rows] for start in range(0, B, rows)]
    N = rows + 2 * int(rows * T * per_token) + SPARE
    while max(piece.sum() for piece in pieces) > N:
        N *= 2
    begins = np.array([[piece.size] * (N + 1) for piece in pieces], np.int32)
    for row, piece in zip(begins, pieces, strict=True):
        places = np.flatnonzero(piece)
        row[: len(places)] = places
    return begins.ravel(), N + 1
