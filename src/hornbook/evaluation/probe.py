"""The probe: a fixed set of windows of each side of the split, scored again and again while training."""

from __future__ import annotations

import math
import threading
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch

from hornbook.data.packing import IGNORE
from hornbook.data.shards import NUM_TOKENS, START, TokenStream
from hornbook.engine.threads import in_parallel, workers_for
from hornbook.evaluation.corpus import evaluating
from hornbook.facts.hardware import MOST_WORKERS
from hornbook.likelihood import Surprise, head_nats
from hornbook.model.decoder import Decoder

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
        tokens = torch.from_numpy(part.take(starts, context + 1))
        self.inputs, self.targets = tokens[:, :-1].clone(), tokens[:, 1:].clone()
        self.targets[:, part.num_tokens :] = IGNORE  # a part shorter than the context is not read twice
        kept = self.targets.numpy() != IGNORE
        self.counts, scored = kept.sum(1), self.targets.numpy()[kept]
        self.num_tokens, self.num_bytes = len(scored), int(byte_lengths[scored].sum())

    def score(self, model: Decoder, stop: threading.Event | None = None) -> Seen | None:
        """The surprise of all windows, or None when `stop` was set meanwhile. Draws from no randomness."""
        device, vocabulary = next(model.parameters()).device, model.shape.vocabulary
        # A few windows are shared out as for the most workers, so that their bits are the same on any number of cores.
        rows = max(1, min(ROWS_TOKENS // self.inputs.shape[1], -(-len(self.inputs) // MOST_WORKERS)))
        nats = np.zeros(len(self.inputs))

        def some_nats(start: int) -> np.ndarray:
            inputs = self.inputs[start : start + rows].to(device)
            targets = self.targets[start : start + rows].to(device)
            hidden = model.hidden(inputs).flatten(0, 1)
            each = head_nats(model.head, hidden, targets.flatten(), vocabulary)
            return each.view(len(inputs), -1).sum(1).cpu().numpy()

        scored = in_parallel(some_nats, range(0, len(self.inputs), rows), workers_for(model, device))
        with evaluating(model), closing(scored):  # no worker is left when the model trains again
            for start, some in scored:
                if stop is not None and stop.is_set():
                    return None
                nats[start : start + len(some)] = some
        windows = [round(float(mean), 5) for mean in nats / np.maximum(self.counts, 1)]
        return Seen(Surprise(math.fsum(nats.tolist()), self.num_tokens, self.num_bytes), windows)

    def ranges(self, part: TokenStream) -> list[list[tuple[int, int]]]:
        """The tokens of each document of the part that this probe scores, as (start, stop) within the document."""
        ranges: list[list[tuple[int, int]]] = []
        stops = np.minimum(self.starts + self.context, self.length - 1)
        for start, num_tokens in part.documents[:, [START, NUM_TOKENS]].tolist():
            inside = [(max(0, a + 1 - start), min(num_tokens, b + 1 - start)) for a, b in
                      zip(self.starts.tolist(), stops.tolist(), strict=True)]  # fmt: skip
            ranges.append([(a, b) for a, b in inside if a < b])
        return ranges
