"""The processes that train one model together, and what rank 0 tells the others.

Rank 0 runs the command as a single process would, and before each piece of work that takes all of them it tells the
others what it is. So what wall time, noise or a person decides is decided once. Orders are JSON; nothing is pickled.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import msgspec
import torch
import torch.distributed as dist
from torch import Tensor

from hornbook.engine.device import device
from hornbook.engine.launch import LOST
from hornbook.facts.errors import InputError, Interrupted, SystemFailure

STORE = "HORNBOOK_STORE"  # a file through which the processes of one machine find each other
T = TypeVar("T")
SHORT = 512  # bytes of an order that is sent at once, its length (8 bytes) included


@dataclass
class World:
    """`size` processes, of which this one is number `rank`, on `machines`."""

    rank: int
    size: int
    machines: int
    is_in_step: bool = False

    def tell(self, order: str, **arguments: Any) -> None:
        """On rank 0: let all others do this. On another rank nothing: it does what it was told."""
        if self.rank == 0 and not self.is_in_step:
            self._send(msgspec.json.encode([order, arguments]))

    @contextmanager
    def in_step(self) -> Iterator[None]:
        """All make the same calls inside, so that rank 0 need not tell them."""
        self.is_in_step = True
        try:
            yield
        finally:
            self.is_in_step = False

    def hear(self) -> tuple[str, dict[str, Any]]:
        """The next order of rank 0 and its arguments."""
        order, arguments = msgspec.json.decode(self._send(b""), type=tuple[str, dict[str, Any]])
        return order, arguments

    def _send(self, content: bytes) -> bytes:
        """What rank 0 gives as `content`, on every rank."""
        short = torch.zeros(SHORT, dtype=torch.uint8)
        if self.rank == 0:
            start = content[: SHORT - 8]
            head = len(content).to_bytes(8, "little") + start
            short[: len(head)] = torch.frombuffer(bytearray(head), dtype=torch.uint8)
        dist.broadcast(short, 0)
        received = short.numpy().tobytes()
        length = int.from_bytes(received[:8], "little")
        if length <= SHORT - 8:
            return received[8 : 8 + length]
        rest = torch.empty(length, dtype=torch.uint8)
        if self.rank == 0:
            rest = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        dist.broadcast(rest, 0)
        return rest.numpy().tobytes()

    def sum(self, numbers: Tensor) -> Tensor:
        """The sum over all ranks, in place."""
        dist.all_reduce(numbers)
        return numbers

    def each(self, work: Callable[[], T]) -> list[T]:
        """What `work` gives on each rank, by rank, as JSON. Where one fails, InputError or SystemFailure is raised
        on all, so that they stay together: all but rank 0 then hear what that does about it."""
        outcome: list[Any]
        try:
            outcome = [work(), None, ""]
        except (InputError, SystemFailure) as error:
            outcome = [None, type(error).__name__, str(error)]
        except OSError as error:
            sentence = f"cannot continue: {error.strerror or error} (process {self.rank} of {self.size})."
            outcome = [None, "SystemFailure", sentence]
        outcomes = [msgspec.json.decode(content) for content in self._gathered(msgspec.json.encode(outcome))]
        for _, failure, sentence in outcomes:
            if failure is not None:
                raise InputError(sentence) if failure == "InputError" else SystemFailure(sentence)
        return [value for value, _, _ in outcomes]

    def _gathered(self, content: bytes) -> list[bytes]:
        """The `content` of each rank, on every rank."""
        lengths = torch.zeros(self.size, dtype=torch.int64)
        lengths[self.rank] = len(content)
        received = torch.zeros(self.size, int(self.sum(lengths).max()), dtype=torch.uint8)
        sent = received[self.rank].clone()
        sent[: len(content)] = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        dist.all_gather(list(received), sent)
        return [row[:length].numpy().tobytes() for row, length in zip(received, lengths.tolist(), strict=True)]

    def collect(self, content: bytes) -> list[bytes]:
        """What each rank gives as `content`, in their order; on all ranks but 0 nothing."""
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(sizes, torch.tensor([len(content)]))
        if self.rank > 0 and content:
            dist.send(torch.frombuffer(bytearray(content), dtype=torch.uint8), 0)
        if self.rank > 0:
            return []
        contents = [content]
        for rank in range(1, self.size):
            received = torch.empty(int(sizes[rank]), dtype=torch.uint8)
            if len(received):
                dist.recv(received, rank)
            contents.append(received.numpy().tobytes())
        return contents

    def leave(self) -> None:
        """Let the others go, if they are still there."""
        if dist.is_initialized():
            self.tell("end")
            dist.destroy_process_group()


def join(timeout_seconds: float) -> World:
    """Meet the other processes, as the environment names them: RANK, WORLD_SIZE and what else a launcher gives.

    A collective that takes longer than `timeout_seconds` counts as lost. Raises InputError where the environment lacks
    something, SystemFailure where the others do not come.
    """
    try:
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        local, of_machine = (int(os.environ.get(name, "0")) for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"))
    except (KeyError, ValueError):
        raise InputError("RANK and WORLD_SIZE must be numbers: start with torchrun, or with --processes.") from None
    on, backend = device(), "gloo"
    if on.type != "cpu":
        torch.accelerator.set_device_index(local)
        backend = f"cpu:gloo,{on.type}:{dist.get_default_backend_for_device(on)}"
    timeout, path = timedelta(seconds=timeout_seconds), os.environ.get(STORE)
    try:
        store = dist.FileStore(path, size) if path else None  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
    except (RuntimeError, ValueError) as error:
        raise SystemFailure(f"the {size} processes did not find each other: {str(error).splitlines()[0]}") from None
    return World(rank, size, machines=size // (of_machine or size))


@contextmanager
def together(world: World) -> Iterator[None]:
    """What this process does in the world. At its end rank 0 lets the others go; where one of them is gone, a
    SystemFailure says so."""
    try:
        yield
    except (InputError, SystemFailure, Interrupted):
        world.leave()
        raise
    except RuntimeError as error:
        if not is_loss(error):
            raise
        raise SystemFailure(LOST) from error
    world.leave()


def is_loss(error: RuntimeError) -> bool:
    """Whether it says that another process does not answer: gloo's errors have no class of their own."""
    return isinstance(error, dist.DistError) or any(word in str(error) for word in ("gloo", "NCCL", "onnection"))
