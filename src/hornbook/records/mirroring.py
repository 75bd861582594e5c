"""A run's log, copied to the trackers of others while it is written: `train --log tensorboard,wandb`.

A tracker is a file in mirrors/ with a class `Mirror(run, settings)`: `place` (a sentence's end that says where to
look), `keeps` (whether what an earlier session sent stays, so that it is not sent again), `numbers(numbers, step,
event)`, `text(name, text, numbers, step)`, `back(step)` (the rows after it are void) and `close()`. They work in a
thread of their own: a tracker that is slow or fails costs the training nothing.
"""

from __future__ import annotations

import importlib.util
import math
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from hornbook.facts.errors import InputError, suggestion
from hornbook.facts.settings import parse_table
from hornbook.records.rows import read_rows
from hornbook.records.run import Row, Run

CLOSE_SECONDS = 60.0  # that a tracker may take for what is left when the run has ended
SAMPLE = "sample"


def tracker_names(log: str | Sequence[str]) -> list[str]:
    """The trackers that "tensorboard,wandb" names. Raises InputError for an unknown one, and for one whose package is
    not installed."""
    named = [word.strip() for word in (log.split(",") if isinstance(log, str) else log)]
    known = sorted(path.stem for path in (Path(__file__).parent / "mirrors").glob("[!_]*.py"))
    for name in named:
        if name not in known:
            raise InputError(f'--log knows no "{name}"{suggestion(name, known)}: there is {" and ".join(known)}.')
        if importlib.util.find_spec(name) is None:
            raise InputError(f'--log {name} needs the package {name}: pip install -e ".[{name}]" in the checkout.')
    return list(dict.fromkeys(named))


@contextmanager
def mirrored(run: Run, names: Sequence[str], note: Callable[[str], None]) -> Iterator[None]:
    """Copy what `run` logs meanwhile, and, where a tracker has nothing of it yet, what it has logged; `note` is told
    where to look, and of a failure."""
    logged = sorted([*run.rows(), *map(_as_row, run.samples())], key=lambda row: int(row.get("step", 0)))
    files = (run.folder / "metrics.jsonl", run.folder / "samples.jsonl")
    sent = {_place(_as_row(row)) for file in files for row in read_rows(file)}
    run.mirrors = [Tracker(name, run, logged, sent, note) for name in names]
    try:
        yield
    finally:
        trackers, run.mirrors = run.mirrors, []
        for tracker in trackers:
            tracker.close()


class Tracker:
    """One tracker, fed by a thread of its own with the rows of the run's log, after those that are `logged`; one that
    keeps what it was sent in an earlier session is not sent what is at a place in `sent`."""

    def __init__(
        self, name: str, run: Run, logged: Sequence[Row], sent: set[tuple[Any, ...]], note: Callable[[str], None]
    ) -> None:
        self.name, self.run, self.logged, self.sent, self.note = name, run, logged, sent, note
        self._rows: queue.SimpleQueue[Row | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def row(self, row: Mapping[str, Any]) -> None:
        """A row of either log was written."""
        if self._thread.is_alive():
            self._rows.put(_as_row(row))

    def close(self) -> None:
        """Send what is left."""
        self._rows.put(None)
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            self.note(f"warning: {self.name} took too long for the rest, which is left out.")

    def _work(self) -> None:
        at = 0
        try:
            settings = parse_table(self.run.settings_toml, self.run.folder / "settings.toml")
            is_new = not (self.run.folder / self.name).exists()
            mirror = import_module(f"hornbook.records.mirrors.{self.name}").Mirror(self.run, settings)
            self.note(f"  {self.name}: {mirror.place}")
            for row in self.logged if is_new or not mirror.keeps else []:
                _send(mirror, row)
            while (row_or_end := self._rows.get()) is not None:
                at = row_or_end.get("step", at)
                if not (mirror.keeps and _place(row_or_end) in self.sent):
                    _send(mirror, row_or_end)
            mirror.close()
        except Exception as error:  # whatever it is, it is the tracker's: this thread ends, the training does not
            reason = " ".join(str(error).split()) or type(error).__name__
            self.note(f"warning: {self.name} failed after step {at:,} ({reason}): the run goes on without it.")
            raise SystemExit from error


def _as_row(row: Mapping[str, Any]) -> Row:
    """A row of samples.jsonl has no event of its own."""
    return {"event": SAMPLE, **row}


def _place(row: Row) -> tuple[Any, ...]:
    return row["event"], row.get("step"), row.get("prompt")


def _send(mirror: Any, row: Row) -> None:
    if row["event"] == "resume":
        mirror.back(row["step"])
    elif row["event"] == SAMPLE:
        name = f"{SAMPLE}: {row['prompt'][:40]}" if row.get("prompt") else SAMPLE
        mirror.text(name, row.get("prompt", "") + row["text"], _numbers(row), row["step"])
    elif row["event"] in ("step", "evaluation"):
        mirror.numbers(_numbers(row), row["step"], row["event"])


def _numbers(row: Row) -> dict[str, float]:
    """The finite numbers of a row by their names in facts/metrics.py, those of its cost among them."""
    flat = row | row.get("cost", {})
    is_number = {name for name, value in flat.items() if type(value) in (int, float) and math.isfinite(value)}
    return {name: flat[name] for name in flat if name in is_number and name not in ("seed", "temperature")}
