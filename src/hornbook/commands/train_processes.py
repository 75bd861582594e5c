"""`hornbook train` by several processes: --processes launches them on this machine, torchrun on many."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from hornbook.commands.train import begin
from hornbook.engine.launch import LOST, LOST_ANOTHER, end_with_launcher, launch
from hornbook.facts.errors import InputError, Interrupted, SystemFailure
from hornbook.facts.io import json_bytes
from hornbook.facts.printing import ready_streams
from hornbook.facts.settings import Settings, from_table
from hornbook.facts.tables import Result
from hornbook.facts.threads import let_waiting_threads_sleep
from hornbook.reporting.live import View

ERRORS: dict[str, type[Exception]] = {"InputError": InputError, "SystemFailure": SystemFailure}


class _Asked(msgspec.Struct):
    """What the launcher hands to its processes."""

    request: dict[str, Any]
    out: str | None
    from_: str | None
    finish: bool
    trackers: list[str]
    quiet: bool
    verbose: bool
    started: float  # by time.monotonic(), which all processes of a machine share


class _Outcome(msgspec.Struct):
    """What one of them hands back: a summary, or the class and sentence of its error."""

    summary: dict[str, Any] = {}
    error: str | None = None
    sentence: str = ""
    signal_number: int = 0


def by_several(
    wanted: Settings, request: dict[str, Any], *, out: Path | None, from_: str | None, finish: bool,
    trackers: list[str], view: View, started: float,
) -> Result:  # fmt: skip
    """As one of the processes that a launcher has started, {} in all but rank 0; else as their launcher."""
    if "RANK" not in os.environ:
        return _launched(
            wanted.train.processes,
            _Asked(
                request, str(out) if out else None, from_, finish, trackers, view.console.quiet, view.verbose, started
            ),
        )
    if os.environ.get("WORLD_SIZE") == "1":
        return begin(
            wanted, request, out=out, from_=from_, finish=finish, trackers=trackers, view=view, started=started
        )
    from hornbook.engine.world import join, together

    world = join(wanted.train.timeout)
    with together(world):
        if world.rank == 0:
            return begin(wanted, request, out=out, from_=from_, finish=finish, trackers=trackers, view=view,
                         started=started, world=world)  # fmt: skip
        from hornbook.setup.processes import follow

        follow(world)
    return Result({})


def _launched(processes: int, asked: _Asked) -> Result:
    """Train by so many processes of this machine, and return rank 0's summary.

    Raises what rank 0 raises; SystemFailure when a process was killed, after all others have ended.
    """
    with tempfile.TemporaryDirectory(prefix="hornbook-") as name:
        folder = Path(name)
        (folder / "asked.json").write_bytes(msgspec.json.encode(asked))
        command = [sys.executable, "-m", "hornbook.commands.train_processes", name]
        ended = launch(command, processes, {"HORNBOOK_STORE": str(folder / "store")})
        outcomes = {rank: _outcome(folder, rank) for rank in range(processes)}
    if ended is None:
        return Result(outcomes[0].summary)
    if ended.asked and ended.code < 0:
        raise Interrupted("stopped before there was anything to save.", ended.asked)
    if outcomes[0].error == "InputError":  # however another one ended after that
        raise InputError(outcomes[0].sentence)
    if ended.code < 0 or all(outcome.error is None for outcome in outcomes.values()):
        how = signal.Signals(-ended.code).name if ended.code < 0 else f"exit code {ended.code}"
        go_on = f"; resume with: hornbook train --out {asked.out}" if asked.out is not None else ""
        raise SystemFailure(f"process {ended.rank} of {processes} has ended ({how}), so all others were ended{go_on}.")
    failed = outcomes[ended.rank] if outcomes[ended.rank].error else next(o for o in outcomes.values() if o.error)
    if failed.error == "Interrupted":
        raise Interrupted(failed.sentence, failed.signal_number)
    raise ERRORS.get(failed.error or "", SystemFailure)(failed.sentence)


def _outcome(folder: Path, rank: int) -> _Outcome:
    with suppress(OSError):
        return msgspec.json.decode((folder / f"outcome-{rank}.json").read_bytes(), type=_Outcome)
    return _Outcome()


def _child(folder: Path) -> int:
    """One of the processes that `launched` has started."""
    end_with_launcher()
    ready_streams()
    let_waiting_threads_sleep()
    rank, outcome = int(os.environ["RANK"]), _Outcome()
    asked = msgspec.json.decode((folder / "asked.json").read_bytes(), type=_Asked)
    try:
        outcome.summary = by_several(
            from_table(asked.request, source="settings"), asked.request,
            out=None if asked.out is None else Path(asked.out), from_=asked.from_, finish=asked.finish,
            trackers=asked.trackers, view=View(quiet=asked.quiet or rank > 0, verbose=asked.verbose),
            started=asked.started,
        )  # fmt: skip
    except (InputError, SystemFailure, Interrupted) as error:
        outcome.error, outcome.sentence = type(error).__name__, str(error)
        outcome.signal_number = getattr(error, "signal_number", 0)
    with suppress(FileNotFoundError):  # the launcher is gone
        (folder / f"outcome-{rank}.json").write_bytes(json_bytes(outcome))
    if outcome.error is None:
        return 0
    return LOST_ANOTHER if outcome.sentence == LOST else 1


if __name__ == "__main__":
    code = _child(Path(sys.argv[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # by the interpreter's end, a thread of gloo's now and then aborts a process that is done
