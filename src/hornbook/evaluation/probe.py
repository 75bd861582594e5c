"""The probe: a fixed set of windows of each side of the split, scored again and again while training.

The lowest of many evaluations on the same windows is lower than the model deserves. So a run that uses its best weights
is scored on the validation text outside the probe (`selection_places`); where the probe is most of it, the report
says so instead.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from hornbook.data.shards import NUM_TOKENS, START, TokenStream
from hornbook.evaluation.score import Request, nats_alone, score_tokens
from hornbook.facts.hardware import MOST_WORKERS
from hornbook.likelihood import Surprise
from hornbook.model.decoder import Decoder
from hornbook.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from hornbook.engine.world import World

ROWS_TOKENS = 2048  # tokens of one forward pass
REPORTED_SHARE = 0.4  # of the validation text that must remain outside the probe


@dataclass(frozen=True)
class Seen:
    """The probe's surprise, and the mean nats per token of each window, in order, so that two evaluations can be
    compared window by window."""

    surprise: Surprise
    window_nats: list[float]

    @property
    def loss(self) -> float:
        return self.surprise.loss

    @property
    def bits_per_byte(self) -> float:
        return self.surprise.bits_per_byte


class _Stopped(Exception):
    """No more is to be scored."""


class Probe:
    """Evenly spread windows of a part, cut as training cuts them: each token is predicted from those before it in
    its window. So the two sides of a split are measured alike, and the curves can be compared.
    """

    def __init__(self, part: TokenStream, *, context: int, num_tokens: int, byte_lengths: np.ndarray) -> None:
        """`byte_lengths` (vocabulary,) are the bytes that each id spells."""
        self.context, starts = context, probe_starts(part, context, num_tokens)
        tokens = part.take(starts, context + 1)[:, : part.num_tokens + 1]  # a part shorter than that is not read twice
        self.requests = [Request(row, len(row) - 1) for row in tokens]
        self.num_tokens, self.num_bytes = tokens[:, 1:].size, int(byte_lengths[tokens[:, 1:]].sum())

    def score(self, model: Decoder, stop: threading.Event | None = None, world: World | None = None) -> Seen | None:
        """The surprise of all windows, shared out over a `world`, or None when `stop` was set meanwhile. Draws from no
        randomness."""
        # A few windows are shared out as for the most workers, so that their bits are the same on any number of cores.
        rows = max(1, min(ROWS_TOKENS // self.context, -(-len(self.requests) // MOST_WORKERS)))

        def done(_: int) -> None:
            if stop is not None and stop.is_set():
                raise _Stopped

        try:
            shape = (rows, self.context)
            scored = score_tokens(model, self.requests, nats_alone, shape=shape, done=done, world=world)
        except _Stopped:
            return None
        nats = torch.from_numpy(np.stack([records["nats"] for records in scored])).sum(1).numpy()
        means = [round(float(mean), 5) for mean in nats / max(1, self.requests[0].num_scored)]
        return Seen(Surprise(math.fsum(nats.tolist()), self.num_tokens, self.num_bytes), means)


def probe_starts(part: TokenStream, context: int, num_tokens: int) -> np.ndarray:
    """Where the windows begin, (n,): on the grid of training without shifts, so that they are windows that it reads."""
    windows = max(1, min(num_tokens, part.num_tokens) // context)
    return np.arange(windows, dtype=np.int64) * max(1, part.num_tokens // context) // windows * context


def probed_places(part: TokenStream, context: int, num_tokens: int) -> list[Places]:
    """The tokens of each document that a probe of this part scores, as (start, stop) within the document."""
    starts = probe_starts(part, context, num_tokens)
    windows = list(zip(starts.tolist(), np.minimum(starts + context, part.num_tokens - 1).tolist(), strict=True))
    places: list[Places] = []
    for start, length in part.documents[:, [START, NUM_TOKENS]].tolist():
        inside = [(max(0, a + 1 - start), min(length, b + 1 - start)) for a, b in windows]
        places.append([(a, b) for a, b in inside if a < b])
    return places


def selection_places(part: TokenStream, context: int, num_tokens: int | None) -> list[Places] | None:
    """The places of each validation document by which the weights were chosen, on a probe of `num_tokens` (None: the
    last weights are used). None where nothing is to be left out, or too little would remain."""
    if num_tokens is None or part.num_tokens < 2:
        return None
    places = probed_places(part, context, num_tokens)
    chosen = sum(stop - start for document in places for start, stop in document)
    return places if chosen <= (1 - REPORTED_SHARE) * part.documents[:, NUM_TOKENS].sum() else None


def byte_lengths(tokenizer: Tokenizer) -> np.ndarray:
    """How many bytes each id spells, (vocabulary,) int32; none for `<|endoftext|>`."""
    return np.array([len(tokenizer.token_bytes(i)) for i in range(tokenizer.vocabulary)], np.int32)


Places = Sequence[tuple[int, int]]  # (start, stop) among the tokens of a document
