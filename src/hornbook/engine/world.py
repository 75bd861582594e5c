"""The processes that train one model together, and what rank 0 tells the others.

Rank 0 runs the command as a single process would, and before each piece of work that takes all of them it tells the
others what it is. So what wall time, noise or a person decides is decided once. Orders are JSON; nothing is pickled.
"""

from __future__ import annotations

import atexit
import os
import sys
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
from hornbook.engine.launch import LOST, end_with_launcher
from hornbook.facts.errors import InputError, Interrupted, SystemFailure

START = "start with torchrun, or with --processes."
STORE = "HORNBOOK_STORE"  # a file through which the processes of one machine find each other
T = TypeVar("T")
PATIENCE_SECONDS = 10.0  # for the others to hear that this is the end
SHORT = 512  # bytes of an order that is sent at once, its length (8 bytes) included


@dataclass
class World:
    """`size` processes, of which this one is number `rank`, on `machines`."""

    rank: int
    size: int
    machines: int
    timeout_seconds: float
    is_in_step: bool = False

    def tell(self, order: str, **arguments: Any) -> None:
        """On rank 0: let all others do this. On another rank nothing: it does what it was told."""
        if self.rank == 0 and not self.is_in_step:
            self._send(_order(order, **arguments))

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
        short = _headed(content)
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

    def leave(self, error: Exception | None = None) -> None:
        """Let the others go, if they are still there. Where an error ends this process they may wait for something
        else than an order: then they learn of it when this process is gone."""
        if not dist.is_initialized():
            return
        if self.rank == 0:
            has_failed = isinstance(error, InputError | SystemFailure)
            sent = dist.broadcast(_headed(_order("end", has_failed=has_failed)), 0, async_op=True)
            try:
                sent.wait(timedelta(seconds=self.timeout_seconds if error is None else PATIENCE_SECONDS))
            except RuntimeError:
                if error is None:
                    raise
                codes = {InputError: 2, SystemFailure: 1}
                atexit.register(_end, codes.get(type(error)) or 128 + getattr(error, "signal_number", 0))
                return
        dist.destroy_process_group()


def _end(code: int) -> None:
    """End a process that PyTorch would keep until what it has under way is done."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _order(order: str, **arguments: Any) -> bytes:
    return msgspec.json.encode([order, arguments])


def _headed(content: bytes) -> Tensor:
    """The length of an order, and as much of it as is sent at once, (SHORT,)."""
    head = len(content).to_bytes(8, "little") + content[: SHORT - 8]
    return torch.frombuffer(bytearray(head.ljust(SHORT, b"\0")), dtype=torch.uint8)


def join(timeout_seconds: float) -> World:
    """Meet the other processes, as the environment names them: RANK, WORLD_SIZE and what else a launcher gives.

    A collective that takes longer than `timeout_seconds` counts as lost. Raises InputError where the environment lacks
    something, SystemFailure where the others do not come.
    """
    rank, size, local, of_machine = _places()
    end_with_launcher()
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
    return World(rank, size, machines=size // (of_machine or size), timeout_seconds=timeout_seconds)


def _places() -> tuple[int, int, int, int]:
    """The rank, of how many, that on its machine, of how many, 0 where nobody says. Raises InputError."""

    def number(name: str, default: str | None = None, most: int | None = None) -> int:
        value = os.environ.get(name, default)
        if value is None or not value.isdecimal() or (most is not None and int(value) > most):
            wanted = "a number" if most is None else f"a number from 0 to {most}"
            raise InputError(f"{name} is {value or 'not set'}, but must be {wanted}: {START}")
        return int(value)

    size = number("WORLD_SIZE")
    if not size:
        raise InputError(f"WORLD_SIZE is 0, but must be 1 or more: {START}")
    rank = number("RANK", most=size - 1)
    if STORE not in os.environ:
        number("MASTER_PORT", most=65535)
        if not os.environ.get("MASTER_ADDR"):
            raise InputError(f"MASTER_ADDR is not set: {START}")
    return rank, size, number("LOCAL_RANK", "0"), number("LOCAL_WORLD_SIZE", "0")


@contextmanager
def together(world: World) -> Iterator[None]:
    """What this process does in the world. At its end rank 0 lets the others go; where one of them is gone, a
    SystemFailure says so."""
    try:
        yield
    except (InputError, SystemFailure, Interrupted) as error:
        world.leave(error)
        raise
    except RuntimeError as error:
        if not is_loss(error):
            raise
        if "imed out" in str(error):
            raise SystemFailure(
                f"another process of this training did not answer for {world.timeout_seconds:g} s (--timeout), so this "
                "one cannot go on."
            ) from error
        raise SystemFailure(LOST) from error
    world.leave()


def is_loss(error: RuntimeError) -> bool:
    """Whether it says that another process does not answer: gloo's errors have no class of their own."""
    return isinstance(error, dist.DistError) or any(word in str(error) for word in ("gloo", "NCCL", "onnection"))
