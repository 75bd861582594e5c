"""Steps 1 and 2 of the eight: each epoch, each batch. A generator, so that its caller decides what happens between."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hornbook.data.loader import Batches
from hornbook.engine.device import can_pin
from hornbook.engine.threads import Microbatch
from hornbook.model.decoder import Decoder
from hornbook.optim.groups import Optimizer
from hornbook.training.step import Autocast, Pending, Update, reading_is_free, train_step


@dataclass(frozen=True)
class Step:
    """One finished update. `number` counts from 1; `epoch` is how much of the training text has been seen; `seconds`
    are its share of the time since the update before it was finished, without what the caller did while nothing was
    under way."""

    number: int
    epoch: float
    lr_scale: float
    update: Update
    seconds: float
    is_last: bool  # whether no later one is under way


def steps(
    model: Decoder,
    optimizers: Sequence[Optimizer],
    batches: Batches,
    *,
    first: int,
    last: int,
    lr_schedule: Callable[[int], float],
    microbatch: int,
    clip_norm: float,
    seed: int,
    document_mask: bool = False,
    autocast: Autocast | None = None,
    stop: threading.Event | None = None,
    uses_weights: Callable[[int], bool] | None = None,
) -> Iterator[Step]:
    """Train from update `first` (0 for a fresh model) to `last`; yield each. Ends early when `stop` is set.

    The batch of an update is a function of its number and of the data's seed, dropout of (seed, update, microbatch):
    nothing that happens between two steps, and no earlier step, changes what the next one sees.

    An accelerator is at an update while the next is handed to it, so that it never waits: an update is yielded after
    the next has begun, except where the caller `uses_weights` of that number, by default always.
    """
    stop, device = stop or threading.Event(), next(model.parameters()).device
    number, under_way, begin = first, deque[tuple[int, Pending]](), time.perf_counter()

    def seed_dropout(index: int) -> bool:
        if model.dropout:
            torch.manual_seed(dropout_seed(seed, number, index))
        return not stop.is_set()

    def finished(count: int) -> list[Step]:
        nonlocal begin
        updates = [(n, pending.read()) for n, pending in (under_way.popleft() for _ in range(count))]
        seconds, begin = (time.perf_counter() - begin) / count, time.perf_counter()
        return [Step(n, batches.epoch(n), lr_schedule(n - 1), update, seconds, n == number) for n, update in updates]

    while number < last and not stop.is_set():
        epoch = int(batches.epoch(number))  # 1. each epoch
        while number < last and int(batches.epoch(number)) == epoch:  # 2. each batch
            model.train()
            pending = train_step(
                model, optimizers, list(microbatches(batches, number, microbatch, device, document_mask)),
                lr_scale=lr_schedule(number), clip_norm=clip_norm, autocast=autocast, before_microbatch=seed_dropout,
                num_tokens=int(batches.spans(number)[1].sum()),
            )  # fmt: skip
            if pending is not None:
                number += 1
                under_way.append((number, pending))
            pauses = uses_weights is None or uses_weights(number)  # asked once for each number
            waits = pauses or pending is None or reading_is_free(device)
            if count := len(under_way) - (not waits):
                yield from finished(count)
            if waits:
                begin = time.perf_counter()
            if pending is None:
                return
    if under_way:
        yield from finished(len(under_way))


def dropout_seed(seed: int, number: int, index: int) -> int:
    """A seed for the dropout of one microbatch of one update, unlike that of any other."""
    return int(np.random.SeedSequence([seed, number, index]).generate_state(1, np.uint64)[0])


def microbatches(
    batches: Batches, number: int, size: int, device: torch.device, document_mask: bool
) -> Iterator[Microbatch]:
    """The batch of update `number`, cut into pieces of at most `size` sequences on `device`."""
    arrays: list[np.ndarray[Any, Any]] = [*batches.batch(number)]
    if document_mask:
        arrays.append(batches.documents(number))
    tensors = [torch.from_numpy(array) for array in arrays]
    if device.type != "cpu":  # from pinned memory, or the copy would wait for all that the device has to do
        pinned = [tensor.pin_memory() if can_pin(device) else tensor for tensor in tensors]
        tensors = [tensor.to(device, non_blocking=True) for tensor in pinned]
    for start in range(0, len(tensors[0]), size):
        inputs, targets, *documents = (tensor[start : start + size] for tensor in tensors)
        yield inputs, targets, documents[0] if documents else None


@dataclass(frozen=True)
class TrainState:
    """What training works with."""

    model: Decoder
    optimizers: list[Optimizer]
    batches: Batches
    autocast: Autocast | None

    def release(self) -> None:
        """Drop what only updates need, three times the weights: gradients and the optimizers."""
        self.optimizers.clear()
        self.model.zero_grad(set_to_none=True)
