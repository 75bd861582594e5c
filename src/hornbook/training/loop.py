"""Steps 1 and 2 of the eight: each epoch, each batch. A generator, so that its caller decides what happens between."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hornbook.data.loader import Batches
from hornbook.data.packing import IGNORE
from hornbook.engine import checkpoint as checkpoints
from hornbook.engine.device import can_pin
from hornbook.engine.tensor_files import RowsOf, copy_tensors, first_not_finite, without_rows
from hornbook.engine.threads import Microbatch
from hornbook.model.decoder import Decoder
from hornbook.optim.groups import Optimizer
from hornbook.training.step import Autocast, Pending, Update, reading_is_free, train_step

if TYPE_CHECKING:
    from hornbook.engine.sharding import Sharded


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
    sharded: Sharded | None = None,
) -> Iterator[Step]:
    """Train from update `first` (0 for a fresh model) to `last`; yield each. Ends early when `stop` is set.

    The batch of an update is a function of its number and of the data's seed, dropout of (seed, update, microbatch):
    nothing that happens between two steps, and no earlier step, changes what the next one sees.

    An accelerator is at an update while the next is handed to it, so that it never waits: an update is yielded after
    the next has begun, except where the caller `uses_weights` of that number, by default always.
    """
    stop, device = stop or threading.Event(), next(model.parameters()).device
    number, under_way, begin = first, deque[tuple[int, Pending]](), time.perf_counter()

    def finished(count: int) -> list[Step]:
        nonlocal begin
        updates = [(n, pending.read()) for n, pending in (under_way.popleft() for _ in range(count))]
        if any(update.stops for _, update in updates):
            stop.set()
        seconds, begin = (time.perf_counter() - begin) / count, time.perf_counter()
        return [Step(n, batches.epoch(n), lr_schedule(n - 1), update, seconds, n == number) for n, update in updates]

    while number < last and not stop.is_set():
        epoch = int(batches.epoch(number))  # 1. each epoch
        while number < last and int(batches.epoch(number)) == epoch:  # 2. each batch
            pending = update(
                model, optimizers, batches, number, lr_schedule(number), microbatch=microbatch, clip_norm=clip_norm,
                seed=seed, document_mask=document_mask, autocast=autocast, stop=stop, sharded=sharded,
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


def update(
    model: Decoder, optimizers: Sequence[Optimizer], batches: Batches, number: int, lr_scale: float, *, microbatch: int,
    clip_norm: float, seed: int, document_mask: bool, autocast: Autocast | None, stop: threading.Event,
    sharded: Sharded | None = None,
) -> Pending | None:  # fmt: skip
    """Begin update `number`; None where it was abandoned since `stop` is set. With a `sharded` model every rank does
    so, with every so many microbatches, and nobody abandons what takes all of them."""
    rank, ranks = (0, 1) if sharded is None else (sharded.world.rank, sharded.world.size)
    if sharded is not None:
        sharded.world.tell("update", number=number, lr_scale=lr_scale)

    def seed_dropout(index: int) -> bool:
        if model.dropout:
            torch.manual_seed(dropout_seed(seed, number, rank + index * ranks))
        return sharded is not None or not stop.is_set()

    model.train()
    device = next(model.parameters()).device
    return train_step(
        model, optimizers, list(microbatches(batches, number, microbatch, device, document_mask, (rank, ranks))),
        lr_scale=lr_scale, clip_norm=clip_norm, autocast=autocast, before_microbatch=seed_dropout,
        num_tokens=int(batches.spans(number)[1].sum()), sharded=sharded, stops=stop.is_set(),
    )  # fmt: skip


def dropout_seed(seed: int, number: int, index: int) -> int:
    """A seed for the dropout of one microbatch of one update, unlike that of any other."""
    return int(np.random.SeedSequence([seed, number, index]).generate_state(1, np.uint64)[0])


def microbatches(
    batches: Batches, number: int, size: int, device: torch.device, document_mask: bool, share: tuple[int, int] = (0, 1)
) -> Iterator[Microbatch]:  # fmt: skip
    """The batch of update `number`, cut into pieces of at most `size` sequences on `device`.

    Of several ranks, `share` (rank, ranks), each has every so many pieces and loads no others; all have equally many,
    so that they meet: where there are too few, the last ones have no token that is scored.
    """
    rank, ranks = share
    cuts = [(start, min(start + size, batches.batch_size)) for start in range(0, batches.batch_size, size)]
    mine = cuts[rank::ranks]
    rows = np.concatenate([np.arange(*cut) for cut in mine or cuts[:1]]) if ranks > 1 else slice(None)
    arrays: list[np.ndarray[Any, Any]] = [*batches.batch(number, rows)]
    lengths = [size, size, size]  # of what a piece has of each
    if document_mask:
        arrays.append(batches.documents(number, rows))
        if batches.pack is not None:
            arrays[2], lengths[2] = batches.pack(arrays[2], size)
    tensors = [torch.from_numpy(array) for array in arrays]
    if device.type != "cpu":  # from pinned memory, or the copy would wait for all that the device has to do
        tensors = [(x.pin_memory() if can_pin(device) else x).to(device, non_blocking=True) for x in tensors]
    columns = [*map(torch.split, tensors, lengths), *[repeat(None)] * (not document_mask)]
    pieces: list[Microbatch] = [*zip(*columns, strict=False)]
    yield from pieces[: len(mine)]
    inputs, targets, documents = pieces[0]
    for _ in range(-(-len(cuts) // ranks) - len(mine)):
        yield inputs, torch.full_like(targets, IGNORE), documents


@dataclass(frozen=True)
class TrainState:
    """What training works with."""

    model: Decoder
    optimizers: list[Optimizer]
    batches: Batches
    autocast: Autocast | None
    sharded: Sharded | None = None
    kept: dict[str, dict[str, Tensor | RowsOf]] = field(default_factory=dict)  # by file and name, in host memory

    def whole(self) -> Decoder:
        """The model to look at, until the next update."""
        return self.model if self.sharded is None else self.sharded.gather()

    def is_finite(self) -> bool:
        """Whether all weights are finite numbers."""
        if self.sharded is None:
            return first_not_finite(self.model.state_dict()) is None
        from hornbook.engine import parts

        return parts.is_finite(self.sharded)

    def take_over(self, model: Decoder) -> None:
        """Go on with the weights of `model`."""
        if self.sharded is None:
            checkpoints.fill(checkpoints.weights(self.model), checkpoints.weights(model))
        else:
            self.sharded.scatter(iter(model.named_parameters()))

    # ---- What is saved and loaded: where several processes share the weights, by each its rows

    def contents(self, *, optimizers: bool) -> checkpoints.Contents:
        """What this process saves, by file and name; without `optimizers` the weights alone."""
        wanted = self.optimizers if optimizers else ()
        if self.sharded is None:
            return checkpoints.contents(self.model, wanted)
        from hornbook.engine import parts

        return parts.contents(self.sharded, wanted)

    def write(self, contents: checkpoints.Contents, final: Path, *, step: int, state: dict[str, Any]) -> Path:
        """Write `contents`, which may be those that are `kept`, as a checkpoint; several processes each their part."""
        if self.sharded is None or self.sharded.shards == 1:
            return checkpoints.write(final, contents, step=step, shape=self.model.shape, state=state)
        from hornbook.engine import parts

        return parts.write(self.sharded, final, contents, is_kept=contents is self.kept, step=step, state=state)

    def load(self, folder: Path, updates: int | None = None) -> dict[str, Any]:
        """Put a checkpoint into model and optimizers, and return its manifest. `updates` applied so far; None: as it
        says itself."""
        if self.sharded is not None:
            from hornbook.engine import parts

            return parts.load(self.sharded, self.optimizers, folder, updates)
        from hornbook.engine import loading

        return loading.load_into(folder, model=self.model, optimizers=self.optimizers, updates=updates)

    def keep(self, *, optimizers: bool) -> None:
        """Copy what would be saved now, in place of what was kept before."""
        self._tell("keep", optimizers=optimizers)
        contents = self.contents(optimizers=optimizers)
        if self.kept.keys() != contents.keys():
            self.kept.clear()  # before the new ones are made
        copy_tensors(contents, self.kept)

    def drop_kept(self) -> None:
        if self.kept:
            self._tell("drop_kept")
            self.kept.clear()

    def put_back(self, updates: int) -> None:
        """What was kept in place of what is: of weights and optimizers, after so many `updates`."""
        self._tell("put_back", updates=updates)
        if self.kept:
            weights = checkpoints.weights(self.model) if self.sharded is None else self.sharded.local
            checkpoints.fill(weights, without_rows(self.kept[checkpoints.MODEL]))
            for optimizer in self.optimizers:
                optimizer.load(without_rows(self.kept[checkpoints.OPTIMIZER]), updates)
        if self.sharded is not None:
            from hornbook.engine import parts

            parts.share(self.sharded, self.optimizers, updates)

    def _tell(self, order: str, **arguments: Any) -> None:
        if self.sharded is not None:
            self.sharded.world.tell(order, **arguments)

    def release(self) -> None:
        """Drop what only updates need, three times the weights."""
        self._tell("release")
        self.optimizers.clear()
        for weight in chain(self.model.parameters(), () if self.sharded is None else self.sharded.local.values()):
            weight.grad = None
