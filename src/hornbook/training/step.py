"""One update of the weights: steps 3 to 6 of the eight, on one screen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hornbook.data.packing import IGNORE
from hornbook.engine.threads import Microbatch, backward
from hornbook.likelihood import sum_nats
from hornbook.model.decoder import Decoder
from hornbook.optim.groups import Optimizer

if TYPE_CHECKING:
    from hornbook.engine.sharding import Sharded

Autocast = Callable[[], AbstractContextManager[Any]]  # makes what a forward pass in half precision stands in


def train_step(
    model: Decoder,
    optimizers: Sequence[Optimizer],
    microbatches: Sequence[Microbatch],
    *,
    lr_scale: float,
    clip_norm: float,
    autocast: Autocast | None = None,
    before_microbatch: Callable[[int], bool] = lambda index: True,
    num_tokens: int | None = None,
    sharded: Sharded | None = None,
    stops: bool = False,
) -> Pending | None:
    """Update `model` once from `microbatches`, at `lr_scale` times the optimizers' peak learning rates.

    The gradient is that of (all nats) / (all scored tokens): nats are summed over microbatches and divided once, so
    the update is the same however the batch is cut. `before_microbatch(index)` seeds what is random in the forward
    pass; when it returns False the update is abandoned, the weights stay, and None is returned. `num_tokens` are the
    scored tokens where the caller has counted them: a device is never waited for, then. With a `sharded` model they
    are those of all ranks, `microbatches` are this rank's, and `stops` tells all that this one was asked to stop.
    """
    if num_tokens is None:
        num_tokens = sum(int((targets != IGNORE).sum()) for _, targets, _ in microbatches)

    def nats_of(microbatch: Microbatch) -> Tensor:
        inputs, targets, documents = microbatch
        with autocast() if autocast else nullcontext():
            nats: Tensor = model(inputs, documents=documents, score=partial(summed_loss, model, targets.flatten()))
            return nats

    nats = torch.zeros((), device=microbatches[0][0].device)
    for parameter in model.parameters():  # 3. reset the gradients
        parameter.grad = None
    for index, microbatch in enumerate(microbatches):
        if not before_microbatch(index):
            return None
        if sharded is not None:
            sharded.last_piece(index == len(microbatches) - 1)
        nats += backward(nats_of, model, microbatch, num_tokens)  # 4. the loss, 5. its gradients
    if sharded is None:
        gradient_norm, asked = clip(model, clip_norm), None
    else:
        nats, gradient_norm, asked = sharded.summed(nats, stops)
        scale_down(sharded.gradients, gradient_norm, clip_norm)
    is_finite = gradient_norm < float("inf")
    skip = None if reading_is_free(nats.device) else ~is_finite
    if skip is not None or is_finite:
        for optimizer in optimizers:  # 6. update the weights
            optimizer.step(lr_scale, skip)
    if sharded is not None:
        sharded.updated()
    return Pending(nats, num_tokens, gradient_norm, asked)


def summed_loss(model: Decoder, targets_N: Tensor, hidden_BTD: Tensor) -> Tensor:
    """The sum of nats, (), to be differentiated once; by the kernels of an accelerator where there is one."""
    hidden_ND = hidden_BTD.flatten(0, 1)
    if model.compiled is None and reading_is_free(hidden_ND.device):
        return sum_nats(model.head, hidden_ND, targets_N, model.shape.vocabulary)
    from hornbook.model import compiled

    return compiled.sum_nats_in_large_chunks(model, hidden_ND, targets_N)


@torch.no_grad()
def clip(model: torch.nn.Module, clip_norm: float) -> Tensor:
    """Scale all gradients down to a global norm of at most `clip_norm` (Pascanu et al. 2013); return the norm before,
    (): where it is not finite, the gradients are worth nothing."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    scale_down(gradients, norm, clip_norm)
    return norm


def scale_down(gradients: list[Tensor], norm: Tensor, clip_norm: float) -> None:
    """Scale gradients, whose global norm is `norm`, as `clip` does."""
    if not reading_is_free(norm.device):
        torch._foreach_mul_(gradients, (clip_norm / norm).clamp(max=1.0))
    elif clip_norm < norm < float("inf"):
        torch._foreach_mul_(gradients, clip_norm / float(norm))


def reading_is_free(device: torch.device) -> bool:
    """Whether a number can be read without waiting for all that the device has yet to do."""
    return device.type == "cpu"


@dataclass(frozen=True)
class Update:
    """What one update saw: the sum of nats over its scored tokens, and the gradient's norm before clipping."""

    nats: float
    num_tokens: int
    gradient_norm: float | None  # None: it was not finite, and the weights stayed as they were
    stops: bool = False  # whether any process was asked to stop

    @property
    def loss(self) -> float:
        return self.nats / self.num_tokens


class Pending:
    """An update that a device may still be at. Nothing waits for it before `read`."""

    def __init__(self, nats: Tensor, num_tokens: int, gradient_norm: Tensor, stops: Tensor | None = None) -> None:
        # In pinned memory where it comes from a device: the copy stands in line behind the update.
        numbers = [nats, gradient_norm] if stops is None else [nats, gradient_norm, stops]
        self.values = torch.stack(numbers).to("cpu", non_blocking=True)
        self.num_tokens = num_tokens
        self.copied = torch.Event(nats.device) if nats.device.type != "cpu" else None
        if self.copied is not None:
            self.copied.record()

    def read(self) -> Update:
        if self.copied is not None:
            self.copied.synchronize()
        nats, norm, *stops = self.values.tolist()
        return Update(nats, self.num_tokens, norm if norm < float("inf") else None, any(stops))
