"""A model whose weights are spread over ranks, as a plain one to look at: its blocks are put together one at a time."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from hornbook.model.decoder import Decoder

if TYPE_CHECKING:
    from hornbook.engine.sharding import Sharded


class Gathered:
    """`model`, in evaluation mode, for a forward pass on one rank or on all in step. Each rank has what lies outside
    the blocks, and the weights of the block that computes, in memory that all blocks have in common. No gradients."""

    def __init__(self, sharded: Sharded) -> None:
        """Collective."""
        with torch.device("meta"):
            self.model = Decoder(sharded.model.shape)
        self.sharded, self.layer, first = sharded, -1, "blocks.0."
        outside = sharded.all_rows({name: x for name, x in sharded.local.items() if not name.startswith("blocks.")})
        self.model.load_state_dict(outside, strict=False, assign=True)
        if self.model.shape.tied:
            self.model.head.projection.weight = self.model.embedding.weight
        self.block = {
            name.removeprefix(first): x.new_empty(sharded.sizes[name])
            for name, x in sharded.local.items() if name.startswith(first)
        }  # fmt: skip
        for layer, block in enumerate(self.model.blocks):
            block.load_state_dict(self.block, assign=True)
            block.register_forward_pre_hook(partial(self._enter, layer))
        self.model.requires_grad_(False).eval().spread = True

    def _enter(self, layer: int, *_: object) -> None:
        if layer != self.layer:
            self.sharded.world.tell("fetch", layer=layer)
            self.fetch(layer)

    def fetch(self, layer: int) -> None:
        """Put the weights of a block together. Collective."""
        into = {f"blocks.{layer}.{name}": whole for name, whole in self.block.items()}
        self.sharded.all_rows({name: self.sharded.local[name] for name in into}, into)
        self.layer = layer
