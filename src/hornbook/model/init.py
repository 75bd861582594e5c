"""Fresh weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from hornbook.facts.shape import GPTShape
from hornbook.model.decoder import Decoder


def initialise(model: Decoder, seed: int) -> Decoder:
    """Fill every weight of `model` in place and return it; the same seed gives the same bits on any device."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, weight in fresh_weights(model.shape, {name: p.shape for name, p in parameters.items()}, seed):
            parameters[name].copy_(weight)
    return model


def fresh_weights(shape: GPTShape, sizes: Mapping[str, Sequence[int]], seed: int) -> Iterator[tuple[str, Tensor]]:
    """The parameters of a model and their fresh values, float32 on the CPU, one after the other, in the order of
    `sizes`.

    `gpt2`: N(0, 0.02), projections into the residual stream divided by sqrt(2 x layers) (Radford et al. 2019); where
    the embedding is not tied to the head, it and the positions are N(0, 1), so that what the blocks add does not drown
    them.
    The others: N(0, 1/(3 x width in)) for matrices, zeros for projections into the residual stream and for an untied
    head, so that the first step sees the uniform distribution and a loss of exactly ln V.
    """
    generator, gpt2 = torch.Generator().manual_seed(seed), shape.family == "gpt2"
    for name, size in sizes.items():
        if len(size) == 1:
            yield name, torch.full(size, 1.0 if "norm" in name and name.endswith("weight") else 0.0)
            continue
        into_residual = name.endswith(("attention.output.weight", "mlp.down.weight"))
        embeds = name in ("embedding.weight", "positions.weight")
        if gpt2 and (shape.tied or not embeds):
            std = 0.02 / math.sqrt(2 * shape.layers) if into_residual else 0.02
        elif into_residual or name == "head.projection.weight":
            std = 0.0
        elif embeds:
            std = 1 / math.sqrt(shape.width) if shape.tied else 1.0
        else:
            std = 1 / math.sqrt(3 * size[1])
        yield name, torch.randn(size, generator=generator) * std if std else torch.zeros(size)
