"""The KV cache: keys and values of what has been read, in memory set aside once."""

from __future__ import annotations

import torch
from torch import Tensor

from hornbook.facts.shape import GPTShape


class Cache:
    """Keys and values of `length` tokens for each layer, (batch, kv_heads, capacity, head_width), filled in place."""

    def __init__(
        self, shape: GPTShape, *, batch: int, capacity: int, device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        size = (shape.layers, 2, batch, shape.kv_heads, capacity, shape.head_width)
        self.store = torch.empty(size, device=device, dtype=dtype)
        self.capacity = capacity
        self.length = 0

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new (batch, kv_heads, T, head_width) keys and values; return all so far. `length` moves later."""
        end = self.length + keys.shape[2]
        if end > self.capacity:
            raise ValueError(f"the cache holds {self.capacity} tokens, not {end}.")
        store = self.store[layer]
        store[0, :, :, self.length : end] = keys
        store[1, :, :, self.length : end] = values
        return store[0, :, :, :end], store[1, :, :, :end]
