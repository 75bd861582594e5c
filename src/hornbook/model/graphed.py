"""Decoding on an accelerator: the pass of one token recorded once as a CUDA graph, then replayed.

A pass of a small model is some hundred kernels of a few microseconds, and Python takes several times as long to launch
them. What is recorded reads the token and its place from fixed memory and attends to the whole cache behind a mask.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from hornbook.model.decoder import Cache, Decoder

FEWEST_TOKENS = 48  # recording takes about as long as writing so many


class GraphedDecoder:
    """One token more for each row of `cache`, which is filled by it and by `Decoder.hidden` alike."""

    @torch.no_grad()
    def __init__(self, model: Decoder, cache: Cache) -> None:
        self.model, self.cache = model, cache
        device, rows = cache.store.device, cache.store.shape[2]
        cache.store.zero_()  # what is masked is still multiplied, by zero
        self.tokens_B1 = torch.zeros((rows, 1), dtype=torch.int64, device=device)
        self.place = torch.zeros(1, dtype=torch.int64, device=device)
        beside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream(device))
        self.graph, training = torch.cuda.CUDAGraph(), model.training
        model.eval()  # what drops out is not recorded
        with torch.cuda.stream(beside):  # what is chosen or loaded at a first call cannot be recorded
            for _ in range(2):
                self._pass()
        torch.cuda.current_stream(device).wait_stream(beside)
        with torch.cuda.graph(self.graph):
            self.logits_BV = self._pass()
        model.train(training)

    def _pass(self) -> Tensor:
        model, slots = self.model, Slots(self.cache.store, self.place)
        x, rotary = model.embed(self.tokens_B1, self.place)
        mask = (torch.arange(self.cache.capacity, device=x.device) <= self.place)[None, None, None]
        for layer, block in enumerate(model.blocks):
            x = block(x, rotary, mask, partial(slots.append, layer))
        logits_BV: Tensor = model.head(x[:, -1])
        return logits_BV

    @torch.no_grad()
    def __call__(self, tokens_B1: Tensor) -> Tensor:
        """Logits (B, V) after `tokens_B1`, in memory that the next call overwrites."""
        self.tokens_B1.copy_(tokens_B1)
        self.place.fill_(self.cache.length)
        self.graph.replay()
        self.cache.length += 1
        return self.logits_BV


class Slots:
    """A cache whose next place is known to the device alone; what it returns is all of it."""

    def __init__(self, store: Tensor, place: Tensor) -> None:
        self.store, self.place = store, place

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """As `Cache.append`, with keys and values of one token."""
        store = self.store[layer]
        store[0].index_copy_(2, self.place, keys)
        store[1].index_copy_(2, self.place, values)
        return store[0], store[1]


def graphed_decoder(model: Decoder, cache: Cache, num_tokens: int) -> GraphedDecoder | None:
    """What decodes with `cache`; None where recording takes longer than it saves."""
    return GraphedDecoder(model, cache) if num_tokens >= FEWEST_TOKENS else None
