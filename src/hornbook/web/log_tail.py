"""A run's log as it grows: bytes are read once, from where the last reading ended to the last whole line.

Events are decoded at once and kept as rows. Steps, of which there may be a million, are looked for only by their first
bytes until a run is opened: then they become columns of numbers, by a tail of their own.
"""

from __future__ import annotations

import math
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from hornbook.facts.errors import InputError
from hornbook.facts.io import OPENED, read_at
from hornbook.records.rows import check_row, renamed
from hornbook.records.run import Row

CHUNK_BYTES = 2**17  # decoded at once: what stays in a cache, and is not mapped anew each time
LINE_BYTES = 16 * 2**20  # no line of ours is longer
_STEP = b'{"event":"step"'
Floats = NDArray[np.float64]


class _Step(msgspec.Struct, gc=False):
    """What of a line becomes columns; of an event that is no step, only whether it is a resume."""

    event: str
    step: int = 0
    tokens: float = 0
    epoch: float = math.nan
    seconds: float = math.nan
    flops: float = math.nan
    train_loss_nats_per_token: float | None = None
    learning_rate: float | None = None
    muon_learning_rate: float | None = None
    gradient_norm: float | None = None
    tokens_per_second: float | None = None
    mfu: float | None = None

    def numbers(self) -> tuple[float | None, ...]:
        return (
            self.step, self.tokens, self.epoch, self.seconds, self.flops, self.train_loss_nats_per_token,
            self.learning_rate, self.muon_learning_rate, self.gradient_norm, self.tokens_per_second, self.mfu,
        )  # fmt: skip


COLUMNS = _Step.__struct_fields__[1:]
_LINES = msgspec.json.Decoder(_Step)
_ROW = msgspec.json.Decoder(Row)


class Tail:
    """Where in a file that only grows a reader stands. `is_new` after a reading: the file is another one, or shorter
    than what was read, and was read from its beginning. `share_read`: of its bytes, up to a torn last line 1.0."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path, self.offset, self.is_new, self.share_read = path, offset, False, 1.0
        self._inode = -1

    def read(self, until: float = math.inf) -> Iterator[bytes]:
        """Yield what was appended since, in whole lines. A torn last line waits for its end; no file is an empty one.
        What is not read `until` then, by time.perf_counter, is left for the next time, but a part is always read.

        Raises InputError where the file cannot be read or is none of ours.
        """
        self.is_new, self.share_read = False, 1.0
        try:
            descriptor = os.open(self.path, os.O_RDONLY | OPENED)
        except FileNotFoundError:
            return
        except OSError as error:
            raise InputError(f"{self.path.name} cannot be read: {error.strerror}.") from None
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise InputError(f"{self.path.name} is not a regular file.")
            if status.st_size < self.offset or self._inode not in (-1, status.st_ino):
                self.offset, self.is_new = 0, True
            self._inode, size = status.st_ino, CHUNK_BYTES
            while self.offset < status.st_size:
                chunk = read_at(descriptor, size, self.offset)
                whole = chunk.rfind(b"\n") + 1
                if whole:
                    self.offset += whole
                    size = CHUNK_BYTES
                    yield chunk[:whole]
                    if time.perf_counter() > until and self.offset < status.st_size:
                        self.share_read = self.offset / status.st_size
                        return
                elif len(chunk) < size:  # torn
                    return
                elif (size := 2 * size) > LINE_BYTES:
                    raise InputError(f"{self.path.name} has a line that is too long, at byte {self.offset:,}.")
        finally:
            os.close(descriptor)

    def size(self) -> int:
        """Of the file, in bytes; 0 where there is none."""
        try:
            return os.lstat(self.path).st_size
        except OSError:
            return 0

    def end_of_last_line(self) -> int:
        """Where the next whole line will begin."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | OPENED)
        except OSError:
            return 0
        try:
            stop = os.fstat(descriptor).st_size
            while stop > 0:
                start = max(0, stop - 65_536)
                at = read_at(descriptor, stop - start, start).rfind(b"\n")
                if at >= 0:
                    return start + at + 1
                stop = start
            return 0
        finally:
            os.close(descriptor)


class RunLog:
    """metrics.jsonl of one run. `events`: the rows that still hold, but steps. `last_step`: the last step, None before
    the first."""

    def __init__(self, path: Path) -> None:
        self._tail, self._steps = Tail(path), Steps(path)
        self.events: list[Row] = []
        self.last_step: Row | None = None

    @property
    def offset(self) -> int:
        return self._tail.offset

    def refresh(self, until: float = math.inf) -> bool:
        """Take in what was appended, see `Tail.read`; return whether that was all. Raises InputError where a line is
        damaged."""
        for chunk in self._tail.read(until):
            if self._tail.is_new:
                self.events, self.last_step = [], None
                self._tail.is_new = False
            self._take(chunk)
        return self._tail.share_read == 1

    def _take(self, chunk: bytes) -> None:
        """Rows of whole lines. A line of a step is known by the letter that its event begins with."""
        newlines = np.flatnonzero(np.frombuffer(chunk, np.uint8) == ord("\n"))
        starts = np.concatenate([[0], newlines[:-1] + 1])
        padded = np.frombuffer(chunk + b" " * len(_STEP), np.uint8)
        is_step = padded[starts + len(_STEP) - len('step"')] == ord("s")
        after = 0  # the last resume
        for start, stop in zip(starts[~is_step].tolist(), newlines[~is_step].tolist(), strict=True):
            if start == stop:
                continue
            row = self._decoded(chunk[start:stop])
            if row["event"] == "resume":
                last = row["step"]
                self.events = [
                    old for old in self.events if old.get("step", 0) <= last or old.get("event") == "decision"
                ]
                self.last_step, after = row, start
            if row["event"] == "step":  # written by another hand
                self.last_step = row
            else:
                self.events.append(row)
        steps = np.flatnonzero(is_step & (starts >= after))
        if len(steps):
            self.last_step = self._decoded(chunk[starts[steps[-1]] : newlines[steps[-1]]])

    def _decoded(self, line: bytes) -> Row:
        try:
            row = _ROW.decode(line)
            check_row(row)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{self._tail.path.name} is damaged before byte {self.offset:,} ({error}).") from None
        return renamed(row)

    def steps(self, until: float = math.inf) -> Steps:
        """The steps up to now as columns, see `Tail.read`. Raises InputError where a line is damaged."""
        self._steps.refresh(until)
        return self._steps


class Steps:
    """The steps of one log as columns, (steps,) each, NaN where a number is not known."""

    def __init__(self, path: Path) -> None:
        self._tail, self._block, self.count = Tail(path), np.empty((len(COLUMNS), 256)), 0

    def __getitem__(self, name: str) -> Floats:
        return self._block[COLUMNS.index(name), : self.count]

    @property
    def offset(self) -> int:
        return self._tail.offset

    @property
    def share_read(self) -> float:
        """How much of the log these are, from 0 to 1."""
        return self._tail.share_read

    def refresh(self, until: float = math.inf) -> None:
        for chunk in self._tail.read(until):
            if self._tail.is_new:
                self.count = 0
                self._tail.is_new = False
            try:
                lines = _LINES.decode_lines(chunk)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise InputError(f"{self._tail.path.name} is damaged before byte {self.offset:,} ({error}).") from None
            pending: list[tuple[float | None, ...]] = []
            for line in lines:
                if line.event == "step":
                    pending.append(line.numbers())
                elif line.event == "resume":
                    self._append(pending)
                    pending = []
                    self.count = int(np.searchsorted(self["step"], line.step, side="right"))
            self._append(pending)

    def _append(self, rows: list[tuple[float | None, ...]]) -> None:
        if not rows:
            return
        needed = self.count + len(rows)
        if needed > self._block.shape[1]:
            grown = np.empty((len(COLUMNS), needed * 3 // 2))
            grown[:, : self.count] = self._block[:, : self.count]
            self._block = grown
        self._block[:, self.count : needed] = np.array(rows, np.float64).T
        self.count = needed
