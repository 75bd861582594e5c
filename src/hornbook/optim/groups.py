"""Which parameter is updated how."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor, nn

Named = dict[str, Tensor]


def groups(model: nn.Module) -> tuple[Named, Named]:
    """(matrices, others) of the trainable parameters.

    Matrices are the weights of linear layers: they are decayed, and Muon may update those inside the blocks.
    Others are look-up tables, norms and biases: never decayed. A tied head is the embedding's look-up table.
    """
    linear = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    looked_up = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    matrices: Named = {}
    others: Named = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            chosen = matrices if id(parameter) in linear - looked_up else others
            chosen[name] = parameter
    return matrices, others


class Optimizer(Protocol):
    """What updates weights from gradients: `AdamW` or `Muon`."""

    def step(self, lr_scale: float, skip: Tensor | None = None) -> None: ...
    def state(self) -> dict[str, Tensor]: ...
    def load(self, state: Mapping[str, Tensor], updates: int) -> None: ...
