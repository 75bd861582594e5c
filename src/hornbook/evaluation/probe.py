"""The probe: a fixed set of windows of each side of the split, scored again and again while training."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

import numpy as np
import torch

from hornbook.data.shards import NUM_TOKENS, START, TokenStream
from hornbook.evaluation.score import Request, nats_alone, score_tokens
from hornbook.facts.hardware import MOST_WORKERS
from hornbook.likelihood import Surprise
from hornbook.model.decoder import Decoder
from hornbook.text.tokenizer import Tokenizer

ROWS_TOKENS = 2048  # tokens of one forward pass


@dataclass(frozen=True)
class Seen:
    """What a look at the probe saw: its surprise, and the mean nats per token of each window, in order, so that two
    looks can be compared window by window."""

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
        windows = max(1, min(num_tokens, part.num_tokens) // context)
        # On the grid that training cuts where it does not shift it, so that the windows are the ones it read.
        places = max(1, part.num_tokens // context)
        starts = np.arange(windows, dtype=np.int64) * places // windows * context
        self.starts, self.context, self.length = starts, context, part.num_tokens
        tokens = part.take(starts, context + 1)[:, : part.num_tokens + 1]  # a part shorter than that is not read twice
        self.requests = [Request(row, len(row) - 1) for row in tokens]
        self.num_tokens, self.num_bytes = tokens[:, 1:].size, int(byte_lengths[tokens[:, 1:]].sum())

    def score(self, model: Decoder, stop: threading.Event | None = None) -> Seen | None:
        """The surprise of all windows, or None when `stop` was set meanwhile. Draws from no randomness."""
        # A few windows are shared out as for the most workers, so that their bits are the same on any number of cores.
        rows = max(1, min(ROWS_TOKENS // self.context, -(-len(self.requests) // MOST_WORKERS)))

        def done(_: int) -> None:
            if stop is not None and stop.is_set():
                raise _Stopped

        try:
            scored = score_tokens(model, self.requests, nats_alone, shape=(rows, self.context), done=done)
        except _Stopped:
            return None
        nats = torch.from_numpy(np.stack([records["nats"] for records in scored])).sum(1).numpy()
        means = [round(float(mean), 5) for mean in nats / max(1, self.requests[0].num_scored)]
        return Seen(Surprise(math.fsum(nats.tolist()), self.num_tokens, self.num_bytes), means)

    def ranges(self, part: TokenStream) -> list[list[tuple[int, int]]]:
        """The tokens of each document of the part that this probe scores, as (start, stop) within the document."""
        ranges: list[list[tuple[int, int]]] = []
        stops = np.minimum(self.starts + self.context, self.length - 1)
        for start, num_tokens in part.documents[:, [START, NUM_TOKENS]].tolist():
            inside = [(max(0, a + 1 - start), min(num_tokens, b + 1 - start)) for a, b in
                      zip(self.starts.tolist(), stops.tolist(), strict=True)]  # fmt: skip
            ranges.append([(a, b) for a, b in inside if a < b])
        return ranges


def byte_lengths(tokenizer: Tokenizer) -> np.ndarray:
    """How many bytes each id spells, (vocabulary,) int32; none for `<|endoftext|>`."""
    return np.array([len(tokenizer.token_bytes(i)) for i in range(tokenizer.vocabulary)], np.int32)
