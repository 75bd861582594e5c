"""The probe: a fixed set of windows of each side of the split, scored again and again while training."""

from __future__ import annotations

import threading
from contextlib import closing

import numpy as np
import torch

from hornbook.data.packing import IGNORE
from hornbook.data.shards import Part
from hornbook.evaluation.corpus import evaluating
from hornbook.facts.hardware import MOST_WORKERS
from hornbook.likelihood import Surprise, head_nats
from hornbook.model.decoder import Decoder
from hornbook.model.workers import in_parallel, workers_for

ROWS_TOKENS = 2048  # tokens of one forward pass


class Probe:
    """Evenly spread windows of a part, cut as training cuts them: each token is predicted from those before it in
    its window. So the two sides of a split are measured alike, and the curves can be compared.
    """

    def __init__(self, part: Part, *, context: int, num_tokens: int, byte_lengths: np.ndarray) -> None:
        """`byte_lengths` (vocabulary,) are the bytes that each id spells."""
        windows = max(1, min(num_tokens, part.num_tokens) // context)
        # On the grid that training cuts where it does not shift it, so that the windows are the ones it read.
        places = max(1, part.num_tokens // context)
        starts = np.arange(windows, dtype=np.int64) * places // windows * context
        tokens = torch.from_numpy(part.take(starts, context + 1))
        self.inputs, self.targets = tokens[:, :-1].clone(), tokens[:, 1:].clone()
        self.targets[:, part.num_tokens :] = IGNORE  # a part shorter than the context is not read twice
        scored = self.targets.numpy()[self.targets.numpy() != IGNORE]
        self.num_tokens, self.num_bytes = len(scored), int(byte_lengths[scored].sum())

    def score(self, model: Decoder, stop: threading.Event | None = None) -> Surprise | None:
        """The surprise of all windows, or None when `stop` was set meanwhile. Draws from no randomness."""
        device, vocabulary = next(model.parameters()).device, model.shape.vocabulary
        # A few windows are shared out as for the most workers, so that their bits are the same on any number of cores.
        rows = max(1, min(ROWS_TOKENS // self.inputs.shape[1], -(-len(self.inputs) // MOST_WORKERS)))
        nats = 0.0

        def some_nats(start: int) -> float:
            inputs = self.inputs[start : start + rows].to(device)
            targets = self.targets[start : start + rows].to(device)
            hidden = model.hidden(inputs).flatten(0, 1)
            return head_nats(model.head, hidden, targets.flatten(), vocabulary).sum().item()

        scored = in_parallel(some_nats, range(0, len(self.inputs), rows), workers_for(model, device))
        with evaluating(model), closing(scored):  # no worker is left when the model trains again
            for _, some in scored:
                if stop is not None and stop.is_set():
                    return None
                nats += some
        return Surprise(nats, self.num_tokens, self.num_bytes)
