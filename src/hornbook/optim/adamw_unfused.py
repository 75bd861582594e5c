"""AdamW where a device lacks the fused kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from hornbook.optim.adamw import AdamW


def update(
    of: AdamW, parameters: list[Tensor], gradients: list[Tensor], first: list[Tensor], second: list[Tensor],
    rate: float, skip: Tensor | None,
) -> None:  # fmt: skip
    """What the fused kernel does, to rounding, in operations that every device has: `parameters` and the moments
    `first` and `second` are changed in place, after so many updates as `of.count`, (), says, this one included; no bit
    of them where `skip`, () bool, is true."""
    squares = list(torch._foreach_mul(gradients, gradients))
    if skip is not None:  # towards where the moments are: they stay
        gradients = [torch.where(skip, *pair) for pair in zip(first, gradients, strict=True)]
        squares = [torch.where(skip, *pair) for pair in zip(second, squares, strict=True)]
    torch._foreach_lerp_(first, gradients, 1 - of.beta1)
    torch._foreach_lerp_(second, squares, 1 - of.beta2)
    roots = torch._foreach_sqrt(torch._foreach_div(second, 1 - of.beta2**of.count))
    torch._foreach_add_(roots, of.epsilon)
    steps = list(torch._foreach_div(torch._foreach_div(first, 1 - of.beta1**of.count), roots))
    torch._foreach_add_(steps, parameters, alpha=of.weight_decay)
    if skip is not None:
        steps = [step.masked_fill_(skip, 0.0) for step in steps]
    torch._foreach_add_(parameters, steps, alpha=-rate)
