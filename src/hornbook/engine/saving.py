"""When a run is saved; on an accelerator its checkpoints are written beside training, from a copy in host memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from hornbook.engine.checkpoint import Contents
from hornbook.engine.device import can_pin
from hornbook.engine.tensor_files import RowsOf, copy_tensors

WITHIN_SECONDS = 1800.0  # so much is lost at most when a machine dies


@dataclass
class Saver:
    """Writes one checkpoint at a time; what is to follow a finished one happens in `settle`, in the caller's thread."""

    every: int  # steps
    steady: int = 0  # after this step too: from there a run can be made longer
    beside: bool = False  # whether writing may go on beside training
    latest: float = field(default_factory=time.monotonic)
    due_at: int | None = None
    host: dict[str, dict[str, Tensor | RowsOf]] = field(default_factory=dict)  # pinned copies, used again
    writing: Future[Path] | None = None
    then: Callable[[], None] | None = None

    @cached_property
    def pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1)

    def mark_due(self, step: int) -> bool:
        """Whether a checkpoint belongs after this step: settled once, as soon as it is begun."""
        if step % self.every == 0 or step == self.steady or time.monotonic() > self.latest + WITHIN_SECONDS:
            self.due_at = step
        return step == self.due_at

    def write(
        self, contents: Contents, write: Callable[[Contents], Path], *, then: Callable[[], None], beside: bool
    ) -> None:
        """Let `write` make a checkpoint of `contents`, then call `then`; `beside`: return once these are copied, where
        that may be."""
        self.settle()
        self.latest = time.monotonic()
        if beside and self.beside:
            self.writing, self.then = self.pool.submit(write, self._copied(contents)), then
        else:
            write(contents)
            then()

    def listen(self) -> None:
        """Settle if what is being written has been written, or cannot be."""
        if self.writing is not None and self.writing.done():
            self.settle()

    def settle(self) -> None:
        """Wait until what is being written is on the disk. Raises what writing raised."""
        if self.writing is not None:
            (writing, self.writing), then = (self.writing, None), self.then
            writing.result()
            assert then is not None
            then()

    def _copied(self, contents: Contents) -> Contents:
        """The tensors as they are now, in pinned host memory, which the next copy overwrites."""
        copy_tensors(contents, self.host, pin=can_pin)
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        return {file: self.host[file] for file in contents}
