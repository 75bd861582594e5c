"""What changes, as server-sent events: the files are asked for their size, and only what is new is read.

No lock, no watching thread: a run never notices that it is looked at.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from threading import Event
from typing import Any

import msgspec

from hornbook.facts.errors import InputError
from hornbook.facts.io import json_bytes
from hornbook.records.run import Row
from hornbook.web.copied import CopiedSpans
from hornbook.web.folder import RunFiles, RunsFolder
from hornbook.web.log_tail import Tail
from hornbook.web.overview import is_read, overview

POLL_SECONDS, LIST_SECONDS = 0.5, 1.0
QUIET_SECONDS = 15.0  # a comment after so long without an event, so that a lost connection is noticed
MOST_BYTES = 2 * 2**20  # of new rows that are sent; of more, the page asks for the columns
_LEFT_OUT = ("probe_train_window_nats", "probe_validation_window_nats")


class Overviews:
    """The rows of the list, each made anew only when its run has changed."""

    def __init__(self, folder: RunsFolder) -> None:
        self.folder = folder
        self._rows: dict[str, tuple[Any, Row]] = {}
        self.num_unread = 0

    def rows(self, until: float = math.inf) -> dict[str, Row]:
        """By id, the oldest first; the newest are read first. `num_unread` have changed and are not read `until` then
        (by time.perf_counter): they are as they were, or left out."""
        kept, self.num_unread = {}, 0
        for run in reversed(self.folder.runs().values()):
            stamp, known = run.stamp(), self._rows.get(run.id)
            if known is None or known[0] != stamp:
                if is_read(run, until):
                    known = stamp, overview(run)
                else:
                    self.num_unread += 1
            if known is not None:
                kept[run.id] = known
        self._rows = dict(reversed(kept.items()))
        return {name: row for name, (_, row) in self._rows.items()}


def event(name: str, content: Any, number: int | None = None) -> bytes:
    """One server-sent event; JSON has no line ends."""
    head = "" if number is None else f"id: {number}\n"
    return f"{head}event: {name}\ndata: ".encode() + json_bytes(content) + b"\n\n"


async def list_events(overviews: Overviews, lock: asyncio.Lock, stopping: Event) -> AsyncIterator[bytes]:
    """`runs` events: what the list does not have yet."""
    async with lock:
        before = await asyncio.to_thread(overviews.rows)
    quiet = 0.0
    yield b": connected\n\n"
    while not stopping.is_set():
        await asyncio.sleep(LIST_SECONDS)
        async with lock:
            now = await asyncio.to_thread(overviews.rows)
        changed = [row for name, row in now.items() if before.get(name) is not row]
        removed = [name for name in before if name not in now]
        before, quiet = now, quiet + LIST_SECONDS
        if changed or removed:
            yield event("runs", {"runs": changed, "removed": removed})
            quiet = 0.0
        elif quiet >= QUIET_SECONDS:
            yield b": nothing new\n\n"
            quiet = 0.0


async def run_events(
    run: RunFiles, offset: int, overviews: Overviews, lock: asyncio.Lock, stopping: Event, copied: CopiedSpans
) -> AsyncIterator[bytes]:
    """`rows`, `reload`, `samples` and `state` events of one run, from byte `offset` of its log."""
    tail, samples_size, stamp, quiet = (
        Tail(run.folder / "metrics.jsonl", offset),
        (_size(run), copied.version(run)),
        None,
        0.0,
    )
    yield b": connected\n\n"
    while not stopping.is_set():
        new = _new_rows(tail)
        if new is not None:
            name, content = new
            yield event(name, content, tail.offset)
        if (size := (_size(run), copied.version(run))) != samples_size:
            samples_size = size
            yield event("samples", {})
        if (now := (run.stamp()[1:])) != stamp:
            async with lock:
                rows = await asyncio.to_thread(overviews.rows)
            if run.id not in rows:
                return
            if stamp is not None:
                yield event("state", rows[run.id])
            stamp = now
        quiet = 0.0 if new else quiet + POLL_SECONDS
        if quiet >= QUIET_SECONDS:
            yield b": nothing new\n\n"
            quiet = 0.0
        await asyncio.sleep(POLL_SECONDS)


def _new_rows(tail: Tail) -> tuple[str, Row] | None:
    """The event for what was appended since; None where nothing was."""
    if tail.size() - tail.offset > MOST_BYTES:
        tail.offset = tail.end_of_last_line()
        return "reload", {"offset": tail.offset}
    chunks = []
    try:
        for chunk in tail.read():
            if tail.is_new:
                tail.offset = tail.end_of_last_line()
                return "reload", {"offset": tail.offset}
            chunks.append(chunk)
        rows = [row for chunk in chunks for row in msgspec.json.Decoder(Row).decode_lines(chunk)]
    except (InputError, msgspec.DecodeError, UnicodeDecodeError):
        return "reload", {"offset": tail.offset}
    if not rows:
        return None
    short = [{key: value for key, value in row.items() if key not in _LEFT_OUT} for row in rows]
    return "rows", {"rows": short, "offset": tail.offset}


def _size(run: RunFiles) -> int:
    return Tail(run.folder / "samples.jsonl").size()
