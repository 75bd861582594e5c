"""One update of the weights: steps 3 to 6 of the eight, on one screen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import torch
from torch import Tensor

from hornbook.data.packing import IGNORE
from hornbook.engine.threads import in_parallel, workers_for
from hornbook.likelihood import sum_nats
from hornbook.model import compiled
from hornbook.model.decoder import Decoder
from hornbook.optim.groups import Optimizer

SHORT = 1e9  # FLOPs of a microbatch, some milliseconds: below, handing rows over takes more than it gives


@dataclass(frozen=True)
class Update:
    """What one update saw: the sum of nats over its scored tokens, and the gradient's norm before clipping."""

    nats: float
    num_tokens: int
    gradient_norm: float | None  # None: it was not finite, and the weights stayed as they were

    @property
    def loss(self) -> float:
        return self.nats / self.num_tokens


class Pending:
    """An update that a device may still be at. Nothing waits for it before `read`."""

    def __init__(self, nats: Tensor, num_tokens: int, gradient_norm: Tensor) -> None:
        # In pinned memory where it comes from a device: the copy stands in line behind the update.
        self.seen = torch.stack([nats, gradient_norm]).to("cpu", non_blocking=True)
        self.num_tokens = num_tokens
        self.copied = torch.Event(nats.device) if nats.device.type != "cpu" else None
        if self.copied is not None:
            self.copied.record()

    def read(self) -> Update:
        if self.copied is not None:
            self.copied.synchronize()
        nats, norm = self.seen.tolist()
        return Update(nats, self.num_tokens, norm if norm < float("inf") else None)


Microbatch = tuple[Tensor, Tensor, Tensor | None]  # inputs, targets, documents or None: each (B, T)
Autocast = Callable[..., AbstractContextManager[Any]]  # makes what a forward pass in half precision stands in


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
) -> Pending | None:
    """Update `model` once from `microbatches`, at `lr_scale` times the optimizers' peak learning rates.

    The gradient is that of (all nats) / (all scored tokens): nats are summed over microbatches and divided once, so
    the update is the same however the batch is cut. `before_microbatch(index)` seeds what is random in the forward
    pass; when it returns False the update is abandoned, the weights stay, and None is returned. `num_tokens` are the
    scored tokens where the caller has counted them: a device is never waited for, then.
    """
    if num_tokens is None:
        num_tokens = sum(int((targets != IGNORE).sum()) for _, targets, _ in microbatches)
    nats = torch.zeros((), device=microbatches[0][0].device)
    for parameter in model.parameters():  # 3. reset the gradients
        parameter.grad = None
    for index, microbatch in enumerate(microbatches):
        if not before_microbatch(index):
            return None
        nats += backward(model, microbatch, num_tokens, autocast)  # 4. the loss, as a sum, and 5. its gradients
    gradient_norm = clip(model, clip_norm)
    is_finite = gradient_norm < float("inf")
    skip = None if reading_is_free(nats.device) else ~is_finite
    if skip is not None or is_finite:
        for optimizer in optimizers:  # 6. update the weights
            optimizer.step(lr_scale, skip)
    return Pending(nats, num_tokens, gradient_norm)


def backward(model: Decoder, microbatch: Microbatch, num_tokens: int, autocast: Autocast | None = None) -> Tensor:
    """The nats of a microbatch, (); the gradient of nats / num_tokens is added to that of every parameter.

    A narrow model on a CPU has its rows shared out: each core does some from the embedding to the gradients, which are
    summed in the order of the rows.
    """

    def nats_of(rows: Microbatch) -> Tensor:
        inputs, targets, documents = rows
        # Threads do not share the copies of weights that autocast keeps: each is in a graph of one thread's.
        with autocast(cache_enabled=workers == 1) if autocast else nullcontext():
            hidden = model.hidden(inputs, documents_BT=documents)
            if wide:
                return compiled.sum_nats(model, hidden.flatten(0, 1), targets.flatten())
            return sum_nats(model.head, hidden.flatten(0, 1), targets.flatten(), model.shape.vocabulary)

    inputs, parameters = microbatch[0], list(model.parameters())
    wide = model.differentiate is not None or not reading_is_free(inputs.device)
    is_short = inputs.numel() * model.shape.flops_per_token() < SHORT
    workers = 1 if is_short or wide or model.dropout else min(workers_for(model, inputs.device), len(inputs))
    if workers == 1:
        nats = nats_of(microbatch)
        (nats / num_tokens).backward()  # type: ignore[no-untyped-call]
        return nats.detach()

    def differentiate(numbered: tuple[int, Microbatch]) -> tuple[Tensor, Sequence[Tensor]]:
        index, rows = numbered
        nats = nats_of(rows)
        if index == 0:  # nobody else touches the parameters' gradients until these are there
            (nats / num_tokens).backward()  # type: ignore[no-untyped-call]
            return nats.detach(), []
        return nats.detach(), torch.autograd.grad(nats / num_tokens, parameters)

    cut = [repeat(None) if tensor is None else tensor.tensor_split(workers) for tensor in microbatch]
    numbered = enumerate(zip(*cut, strict=False))
    total = torch.zeros(())
    for (index, _), (nats, gradients) in in_parallel(differentiate, numbered, workers, gradients=True):
        total += nats
        for parameter, gradient in zip(parameters, gradients, strict=index > 0):
            assert parameter.grad is not None
            parameter.grad.add_(gradient)
    return total


@torch.no_grad()
def clip(model: torch.nn.Module, clip_norm: float) -> Tensor:
    """Scale all gradients down to a global norm of at most `clip_norm`; return the norm before, (): then, where it is
    not finite, the gradients are worth nothing."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    if not reading_is_free(norm.device):
        torch._foreach_mul_(gradients, (clip_norm / norm).clamp(max=1.0))
    elif clip_norm < norm < float("inf"):
        torch._foreach_mul_(gradients, clip_norm / float(norm))
    return norm


def reading_is_free(device: torch.device) -> bool:
    """Whether a number can be read without waiting for all that the device has yet to do."""
    return device.type == "cpu"
