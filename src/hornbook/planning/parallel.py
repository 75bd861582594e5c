"""How many devices train one model, from the memory of each: a copy on each, parts of one, or parts within a node."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import msgspec

from hornbook.facts.shape import GPTShape
from hornbook.facts.units import counted

Parallel = Literal["replicate", "shard", "hybrid"]
DEVICES_OF_A_NODE = 8  # with links of their own, as in an HGX or DGX machine
# Tokens of a batch by size: table 2.1 of Brown et al. 2020 (GPT-3).
PUBLISHED_BATCHES = (
    (125e6, 0.5e6), (760e6, 0.5e6), (1.3e9, 1e6), (2.7e9, 1e6), (6.7e9, 2e6), (13e9, 2e6), (175e9, 3.2e6),
)  # fmt: skip


class Layout(msgspec.Struct, frozen=True):
    """`shards` devices hold one copy of the weights, gradients and optimizer state between them."""

    parallel: Parallel | None  # None: one device
    shards: int
    devices: int

    @property
    def sentence(self) -> str:
        copies = self.devices // self.shards
        if self.parallel is None:
            return "one device"
        if self.parallel == "replicate":
            return "replicate: a full copy on each device"
        if self.parallel == "shard":
            return f"shard: one copy over all {counted(self.devices, 'device')}"
        return f"hybrid: a copy over {self.shards} devices of as few nodes as hold it, {copies} copies"


def layout_for(fits: Callable[[int], bool], devices: int, per_node: int = DEVICES_OF_A_NODE) -> Layout:
    """The layout with the least traffic that fits: `fits(shards)` says whether a copy over so many devices does.

    A copy on each device exchanges gradients alone; parts of a copy also weights, which stay within a node, or few,
    where that is enough. Where nothing fits, one copy over all devices.

    >>> [layout_for(lambda shards: shards >= 4, devices).parallel for devices in (1, 2, 4, 64)]
    [None, 'shard', 'shard', 'hybrid']
    >>> layout_for(lambda shards: True, 64).parallel, layout_for(lambda shards: shards > 8, 64).shards
    ('replicate', 16)
    """
    if devices == 1:
        return Layout(None, 1, 1)
    if fits(1):
        return Layout("replicate", 1, devices)
    nodes = range(1, devices // per_node) if devices % per_node == 0 else ()
    parts = (n * per_node for n in nodes if devices % (n * per_node) == 0 and fits(n * per_node))
    shards = next(parts, devices)
    return Layout("shard" if shards == devices else "hybrid", shards, devices)


def published_batch_tokens(parameters: float) -> int:
    """Tokens of one step that models of this size were trained with, between the rows of PUBLISHED_BATCHES.

    >>> published_batch_tokens(124e6), published_batch_tokens(6.7e9), published_batch_tokens(1e12)
    (500000, 2000000, 3200000)
    """
    rows = PUBLISHED_BATCHES
    if parameters <= rows[0][0] or parameters >= rows[-1][0]:
        return int(rows[0][1] if parameters <= rows[0][0] else rows[-1][1])
    (a, low), (b, high) = next((rows[i], rows[i + 1]) for i in range(len(rows) - 1) if parameters < rows[i + 1][0])
    share = math.log(parameters / a) / math.log(b / a)
    return round(math.exp(math.log(low) + share * math.log(high / low)))


def beside_shards(shape: GPTShape, gradients: int, on_cpu: bool) -> tuple[int, int]:
    """Bytes of buffers in the backward pass over shards, and what the update needs beside `gradients` bytes of them.

    A piece of a sharded model is a block, the table that is both embedding and head, or what is left. Where its
    gradient is summed there are the gradient, the input of the reduce-scatter and, on a CPU, gloo's copy of it; a table
    used twice is summed last. For the norm on a CPU the rows of all gradients are sent, received and joined.
    """
    parts = shape.parameters_by_part()
    blocks, table = parts["attention"] + parts["mlp"], 4 * shape.vocabulary * shape.width
    outside, copies = 4 * (shape.parameters - blocks), 3 if on_cpu else 2
    buffers = outside + copies * max(4 * blocks // shape.layers, 0 if shape.tied else table)
    return buffers, max((1 + copies) * outside, 3 * gradients if on_cpu else 0)
