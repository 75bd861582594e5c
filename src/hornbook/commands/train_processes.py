"""`hornbook train` by several processes: --processes launches them on this machine, torchrun on many."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from hornbook.commands.train import begin
from hornbook.engine.launch import LOST, LOST_ANOTHER, end_with_launcher, launch, resume_with
from hornbook.facts.errors import InputError, Interrupted, SystemFailure, in_words
from hornbook.facts.io import json_bytes
from hornbook.facts.printing import ready_streams
from hornbook.facts.settings import FREE, Settings, from_table, parse_table
from hornbook.facts.tables import Result
from hornbook.facts.threads import let_waiting_threads_sleep
from hornbook.records.run import Run, default_out, is_run
from hornbook.reporting.live import View
from hornbook.setup.text import stem

# Until training listens to it, Ctrl-C ends a process at once: inside an import Python answers with a long traceback.
CHILD = (
    "import signal; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    "from hornbook.commands.train_processes import child; child()"
)
ERRORS: dict[str, type[Exception]] = {"InputError": InputError, "SystemFailure": SystemFailure}


class _Asked(msgspec.Struct):
    """What the launcher hands to its processes."""

    wanted: Settings
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


def share_as_before(wanted: Settings, request: dict[str, Any], folder: Path) -> None:
    """Let as many processes go on with a run as have last trained it, in the same way, where nothing else is asked."""
    if is_run(folder):
        before = from_table(parse_table(Run(folder).settings_toml, folder / "settings.toml"), source=str(folder)).train
        for name in FREE:
            if name not in request.get("train", {}):
                setattr(wanted.train, name, getattr(before, name))


def by_several(
    wanted: Settings, request: dict[str, Any], *, out: Path | None, from_: str | None, finish: bool,
    trackers: list[str], view: View, started: float,
) -> Result:  # fmt: skip
    """As one of the processes that a launcher has started, {} in all but rank 0; else as their launcher."""
    if "RANK" not in os.environ:
        quiet, verbose = view.console.quiet, view.verbose
        asked = _Asked(wanted, request, str(out) if out else None, from_, finish, trackers, quiet, verbose, started)
        return _launched(wanted, asked)
    size, number, given = os.environ.get("WORLD_SIZE"), str(wanted.train.processes), request.get("train", {})
    if os.environ["RANK"] == "0" and "processes" in given and number not in ("1", size):
        view.note(f"  note: --processes {number} does nothing under a launcher, which has started {size}")
        wanted.train.processes = 1  # so that the run is not resumed by as many
    if size == "1":
        if "parallel" in given:
            view.note(f"  note: --parallel {wanted.train.parallel} does nothing with one process")
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


def _launched(wanted: Settings, asked: _Asked) -> Result:
    """Train by so many processes of this machine, and return rank 0's summary.

    Raises what rank 0 raises; SystemFailure when a process was killed, after all others have ended.
    """
    processes = wanted.train.processes
    with tempfile.TemporaryDirectory(prefix="hornbook-") as name, _named(asked, wanted) as run:
        folder = Path(name)
        (folder / "asked.json").write_bytes(msgspec.json.encode(asked))
        ended = launch([sys.executable, "-P", "-c", CHILD, name], processes, {"HORNBOOK_STORE": str(folder / "store")})
        outcomes = {rank: _outcome(folder, rank) for rank in range(processes)}
    if ended is None:
        return Result(outcomes[0].summary)
    if outcomes[0].error == "InputError":  # however another one ended after that
        raise InputError(outcomes[0].sentence)
    go_on = resume_with(run) if is_run(run) else ""
    asked_by = ended.asked or (-ended.code if -ended.code in (signal.SIGINT, signal.SIGTERM) else 0)
    if asked_by and ended.code < 0:
        raise Interrupted(f"stopped before there was anything to save{go_on}.", asked_by)
    if ended.code < 0 or all(outcome.error is None for outcome in outcomes.values()):
        how = signal.Signals(-ended.code).name if ended.code < 0 else f"exit code {ended.code}"
        raise SystemFailure(f"process {ended.rank} of {processes} has ended ({how}), so all others were ended{go_on}.")
    failed = outcomes[ended.rank] if outcomes[ended.rank].error else next(o for o in outcomes.values() if o.error)
    if failed.error == "Interrupted":
        raise Interrupted(failed.sentence, ended.asked or failed.signal_number)
    raise ERRORS.get(failed.error or "", SystemFailure)(failed.sentence)


@contextmanager
def _named(asked: _Asked, wanted: Settings) -> Iterator[Path]:
    """The folder of the run, which has its name before its processes start: only so can it be told if all of them die.
    Where it has been made for that and no run came of it, it is removed."""
    if asked.out is not None:
        yield Path(asked.out)
        return
    folder = default_out(stem(wanted.text.paths))
    asked.out = str(folder)
    try:
        yield folder
    finally:
        with suppress(OSError):  # not empty
            folder.rmdir()
            folder.parent.rmdir()


def _outcome(folder: Path, rank: int) -> _Outcome:
    with suppress(OSError):
        return msgspec.json.decode((folder / f"outcome-{rank}.json").read_bytes(), type=_Outcome)
    return _Outcome()


def child() -> NoReturn:
    """One of the processes that `_launched` has started."""
    folder = Path(sys.argv[1])
    end_with_launcher()
    ready_streams()
    let_waiting_threads_sleep()
    rank, outcome = int(os.environ["RANK"]), _Outcome()
    asked = msgspec.json.decode((folder / "asked.json").read_bytes(), type=_Asked)
    try:
        outcome.summary = by_several(
            asked.wanted, asked.request,
            out=None if asked.out is None else Path(asked.out), from_=asked.from_, finish=asked.finish,
            trackers=asked.trackers, view=View(quiet=asked.quiet or rank > 0, verbose=asked.verbose),
            started=asked.started,
        )  # fmt: skip
    except (InputError, SystemFailure, Interrupted) as error:
        outcome.error, outcome.sentence = type(error).__name__, str(error)
        outcome.signal_number = getattr(error, "signal_number", 0)
    except Exception as error:
        if (sentence := in_words(error)) is None:
            raise
        outcome.error, outcome.sentence = "SystemFailure", sentence
    with suppress(OSError):  # the launcher is gone, or the disk full
        (folder / f"outcome-{rank}.json").write_bytes(json_bytes(outcome))
    sys.stdout.flush()
    sys.stderr.flush()
    code = 0 if outcome.error is None else LOST_ANOTHER if outcome.sentence == LOST else 1
    os._exit(code)  # by the interpreter's end, a thread of gloo's now and then aborts a process that is done
