"""The windows of a batch that a model is most surprised by, as text with its source: shown where numbers go wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from hornbook.data.loader import Batches
from hornbook.data.shards import START
from hornbook.evaluation.probe import ROWS_TOKENS
from hornbook.evaluation.score import Request, nats_alone, score_tokens
from hornbook.facts.hardware import MOST_WORKERS
from hornbook.facts.printing import on_one_line
from hornbook.model.decoder import Decoder
from hornbook.text.tokenizer import Tokenizer

MOST_WINDOWS = 3  # shown of a batch
BEFORE, AFTER = 16, 8  # tokens shown around the hardest one


def hardest_windows(model: Decoder, batches: Batches, tokenizer: Tokenizer, number: int) -> list[dict[str, Any]]:
    """The windows of the batch of update `number` (from 1), the hardest first and at most MOST_WINDOWS, by the weights
    as they are: `document`, its name; `position` of the hardest token, in tokens from where that begins; the window's
    `nats_per_token`, None where they are not finite; `text` around that token; and, of all windows of the batch,
    `not_finite`, how many have no finite loss, of `windows`. Draws from no randomness.
    """
    starts, lengths = batches.spans(number - 1)
    part, context = batches.part, batches.context
    rows = part.take(starts, context + 1)
    requests = [Request(row[: length + 1], int(length)) for row, length in zip(rows, lengths.tolist(), strict=True)]
    shape = (max(1, min(ROWS_TOKENS // context, -(-len(requests) // MOST_WORKERS))), context)
    nats = [records["nats"] for records in score_tokens(model, requests, nats_alone, shape=shape)]
    means = np.array([float(row.mean()) for row in nats])
    lost = int((~np.isfinite(means)).sum())
    order = np.argsort(np.where(np.isfinite(means), -means, -math.inf), kind="stable")[:MOST_WINDOWS]
    owners = part.document_ids(starts, context + 1)
    windows = []
    for row in order.tolist():
        finite = np.isfinite(nats[row])
        at = 1 + int(np.argmax(nats[row]) if finite.all() else np.argmin(finite))  # the hardest target
        document = int(owners[row, at])
        position = int((starts[row] + at) % part.num_tokens - part.documents[document, START])
        ids = rows[row, max(0, at - BEFORE) : at + AFTER].tolist()
        windows.append({
            "document": part.names[document], "position": max(0, position),
            "nats_per_token": float(means[row]) if math.isfinite(means[row]) else None,
            "text": on_one_line(tokenizer.decode(ids)), "not_finite": lost, "windows": len(requests),
        })  # fmt: skip
    return windows


def windows_in_words(windows: Sequence[dict[str, Any]]) -> str:
    """What is wrong with a batch, by its `hardest_windows`.

    >>> window = {"document": "a.txt", "position": 1200, "nats_per_token": 9.5, "text": "x = 0", "windows": 8}
    >>> windows_in_words([window | {"not_finite": 0}])
    'the hardest window of its batch, of 9.50 nats per token, is in a.txt at token 1,200: "x = 0"'
    >>> windows_in_words([window | {"not_finite": 2}])
    '2 of the 8 windows of its batch have no finite loss, the first in a.txt at token 1,200: "x = 0"'
    >>> windows_in_words([window | {"not_finite": 8}])
    'no window of its batch has a finite loss, so it is the weights, not the text'
    """
    first = windows[0]
    where = f'in {first["document"]} at token {first["position"]:,}: "{first["text"]}"'
    if first["not_finite"] == first["windows"]:
        return "no window of its batch has a finite loss, so it is the weights, not the text"
    if first["not_finite"]:
        count = f"{first['not_finite']:,} of the {first['windows']:,} windows"
        return f"{count} of its batch have no finite loss, the first {where}"
    return f"the hardest window of its batch, of {first['nats_per_token']:.2f} nats per token, is {where}"
