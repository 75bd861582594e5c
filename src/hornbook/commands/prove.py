"""`hornbook prove`: a run is repeated, killed at random moments and watched in another way, and must come out the same.

Every training is a process of its own, and every kill a SIGKILL. What the run decided is replayed: with the decisions
fixed, nothing but the settings and the text may have a say in the weights.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, cast

from hornbook.commands.options import add_texts, check_inputs, value
from hornbook.facts.errors import InputError, Interrupted, SystemFailure
from hornbook.facts.io import pretty
from hornbook.facts.printing import print, print_json
from hornbook.facts.settings import parse_table, read_table
from hornbook.facts.units import counted

if TYPE_CHECKING:
    from hornbook.facts.tables import Result
    from hornbook.records.run import Run

STEPS, KILLS = 100, 5
KILL, HALT, GO_ON = (getattr(signal, name, 0) for name in ("SIGKILL", "SIGSTOP", "SIGCONT"))  # 0 on Windows
INSIDE = 3  # every third kill comes inside a save
TIMED = ("seconds", "tokens_per_second", "mfu", "cost")  # of a row of the log: wall time
SHOWN = 10  # differences


def flags(parser: argparse.ArgumentParser) -> None:
    add_texts(parser, "a run; or with --recipe the files, folders or globs to train on")
    parser.add_argument("--recipe", metavar="FILE", help="prove a recipe on the texts, instead of a run")
    parser.add_argument("--steps", type=value(int), metavar="N", help=f"repeat so many steps (default: {STEPS})")
    parser.add_argument("--kills", type=value(int), metavar="N", default=KILLS, help=f"kills (default: {KILLS})")
    parser.add_argument("--seed", type=value(int), metavar="N", default=0, help="of the moments of the kills")


def command(arguments: argparse.Namespace) -> None:
    check_inputs(*arguments.texts)
    proof = prove(
        *arguments.texts, recipe=arguments.recipe, steps=arguments.steps, kills=arguments.kills, seed=arguments.seed
    )
    if arguments.json:
        print_json(proof)
    else:
        print(proof["verdict"])
        for difference in proof["differences"]:
            print(f"  {difference}")


def prove(
    *run_or_texts: str, recipe: str | Path | None = None, steps: int | None = None, kills: int = KILLS, seed: int = 0
) -> Result:
    """Whether a run comes out the same after SIGKILLs at random moments, with other intervals, and by two processes
    instead of one where that is promised, as `hornbook prove --json` prints it.

    Given is a run, or with a `recipe` the texts to train on. The first `steps` are trained undisturbed, by as many
    processes as the run; again with `kills`, a third of them inside a save; again with other intervals of evaluation,
    sampling and saving; and on a CPU, in float32 and with two microbatches a step, by two processes instead of one or
    by one instead of two. `proved` says whether the losses of all steps and the final weights agree bit for bit and no
    checkpoint that was recorded was lost; `differences` what does not. Of a run it is kept in reports/prove.json.
    Raises InputError for bad input, SystemFailure where a training fails.
    """
    from hornbook.facts.tables import Result
    from hornbook.records.run import Run
    from hornbook.setup.replay import replay

    if (steps is not None and steps < 2) or kills < 0 or not KILL:
        signals = "prove stops and kills processes by signals that Windows lacks: run it in WSL."
        raise InputError("a proof takes at least 2 steps, and kills that are not negative." if KILL else signals)
    if recipe is None and len(run_or_texts) != 1:
        raise InputError("give one run, or --recipe FILE and the texts to train on.")
    with _sigterm_as_exception(), tempfile.TemporaryDirectory(prefix="hornbook-prove-") as scratch:
        of = Run.open(run_or_texts[0]) if recipe is None else None
        first = Path(scratch) / "undisturbed"
        if of is None:
            last = steps or STEPS
            several = _by(read_table(Path(str(recipe))).get("train", {}).get("processes", 1))
            _finish(first, last, *run_or_texts, "--recipe", str(recipe), "--steps", str(last), *several)
        else:
            last = replay(of, first, steps=steps or STEPS)
            _finish(first, last, *_processes(of))
        undisturbed = Run.open(first)
        processes = _processes(undisturbed)
        attempt = _Killed(Path(scratch) / "killed", processes, last, kills, random.Random(seed))
        replay(undisturbed, attempt.folder, steps=last, changes={"checkpoint.every": max(1, last // (2 * kills + 1))})
        attempt.train()
        watched = Path(scratch) / "watched"
        replay(undisturbed, watched, steps=last, changes=_other_intervals(undisturbed))
        _finish(watched, last, *processes)
        differences = []
        if of is not None and _is_from_here(of, undisturbed):
            differences = _differences("the run itself", of, undisturbed, last, weights=False)
        differences += attempt.lost + _differences("after kills", Run.open(attempt.folder), undisturbed, last)
        differences += _differences("with other intervals", Run.open(watched), undisturbed, last)
        if (others := _other_processes(undisturbed)) is not None:
            replay(undisturbed, elsewhere := Path(scratch) / "elsewhere", steps=last)
            _finish(elsewhere, last, *_by(others))
            differences += _differences(_in_words(others), Run.open(elsewhere), undisturbed, last)
    proof = {
        "run": None if of is None else str(of.folder), "proved": not differences, "steps": last,
        "kills": attempt.kills, "kills_inside_saves": attempt.inside, "other_processes": others,
        "differences": differences, "verdict": _verdict(last, attempt, others, differences),
    }  # fmt: skip
    if of is not None:
        _keep(of, proof)
    return Result(proof)


def _other_intervals(run: Run) -> dict[str, Any]:
    """Of evaluations, samples and saves: none of them as before, and none a multiple."""
    table = _settings(run)
    names = (("watch", "evaluate_every"), ("watch", "sample_every"), ("checkpoint", "every"))
    return {f"{section}.{key}": max(2, table[section][key] * 2 // 3 + 1) for section, key in names}


def _processes(run: Run) -> tuple[str, ...]:
    """How many trained it, and how they shared the weights, as flags."""
    parallel = _settings(run)["train"].get("parallel")
    return _by(run.environment.get("processes", 1)) + (("--parallel", parallel) if parallel else ())


def _by(processes: int) -> tuple[str, ...]:
    return ("--processes", str(processes))


def _other_processes(run: Run) -> int | None:
    """The number of processes that give the same bits, None where none is promised: one microbatch for each of two, on
    a CPU in float32; where they share the weights, with rows of which each has a multiple of 16."""
    train, processes = _settings(run)["train"], run.environment.get("processes", 1)
    halves = train["batch"] == 2 * train["microbatch"] and train["precision"] == "float32"
    alike = processes == 1 or _settings(run)["model"]["width"] % 32 == 0
    on_cpu = run.environment.get("device", "cpu") == "cpu"
    return 3 - processes if processes in (1, 2) and halves and alike and on_cpu else None


def _settings(run: Run) -> dict[str, Any]:
    return parse_table(run.settings_toml, run.folder / "settings.toml")


def _is_from_here(run: Run, here: Run) -> bool:
    """Whether its bits can be expected of this machine and installation."""
    from hornbook.setup.model import beginning

    then, now = beginning(run), beginning(here)
    return (then.versions, then.cpu, then.plain) == (now.versions, now.cpu, now.plain)


# ---- Processes


@contextmanager
def _sigterm_as_exception() -> Iterator[None]:
    """Let SIGTERM end what is done as Ctrl-C does, with all that has to be put away; a second one ends it at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise Interrupted("stopped before there was a verdict; nothing was left half-written.", number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _train(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A training, which ends here at the latest."""
    command = [sys.executable, "-P", "-m", "hornbook", "train", *arguments, "--out", str(folder)]
    errors = folder.with_name(f"{folder.name}.err").open("wb")
    with errors:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors)
    try:
        yield process
    finally:
        if process.poll() is None:
            for training in _ranks(process) or [process.pid]:  # one that has launched others ends with them
                _signal(training, KILL)
        process.wait()


def _finish(folder: Path, last: int, *arguments: str) -> None:
    """Train until the weights of the last step are saved; its report is not wanted."""
    with _train(folder, *arguments) as process:
        while process.poll() is None and not _is_saved(folder, last):
            time.sleep(0.02)
    if not _is_saved(folder, last):
        lines = folder.with_name(f"{folder.name}.err").read_text(errors="replace").strip().splitlines()
        raise SystemFailure(f"a training of the proof failed: {lines[-1] if lines else 'it ended without a word'}")


def _ranks(process: subprocess.Popen[bytes]) -> list[int]:
    """The ids of the processes that train: those that this one has launched, or its own."""
    arguments = cast(list[str], process.args)
    if "--processes" not in arguments or arguments[arguments.index("--processes") + 1] == "1":
        return [process.pid]
    tasks = Path(f"/proc/{process.pid}/task")
    try:
        return [int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()]
    except OSError:  # where there is no /proc
        lines = subprocess.run(("ps", "-A", "-o", "pid=,ppid="), capture_output=True, text=True).stdout.splitlines()
        return [int(line.split()[0]) for line in lines if line.split()[1] == str(process.pid)]


def _signal(process_id: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process_id, number)


def _is_saved(folder: Path, step: int) -> bool:
    from hornbook.engine.checkpoint import MANIFEST, name

    recorded = _recorded(folder)
    return step in recorded and (folder / "checkpoints" / name(step) / MANIFEST).is_file()


def _recorded(folder: Path) -> set[int]:
    """The steps whose checkpoints the log says are on the disk, whatever was resumed since."""
    from hornbook.records.rows import read_rows

    rows = read_rows(folder / "metrics.jsonl")
    return {row["step"] for row in rows if row["event"] == "checkpoint"}


@dataclass
class _Killed:
    """A training that is killed again and again, and what was lost by it."""

    folder: Path
    processes: tuple[str, ...]  # flags
    last: int
    wanted: int
    draw: random.Random
    kills: int = 0
    inside: int = 0
    lost: list[str] = field(default_factory=list)

    def train(self) -> None:
        targets = sorted(self.draw.randrange(1, max(2, self.last * 9 // 10)) for _ in range(self.wanted))
        for number, target in enumerate(targets):
            inside = number % INSIDE == INSIDE - 1
            with _train(self.folder, *self.processes) as process:
                self._wait(process, target)
                killed = self._kill_inside_save(process) if inside else self._kill(process)
                process.wait()
            self.kills += killed
            self.inside += killed and inside
            if killed:
                self._check()
            if _is_saved(self.folder, self.last):
                break
        _finish(self.folder, self.last, *self.processes)

    def _wait(self, process: subprocess.Popen[bytes], target: int) -> None:
        """Until this process has gone on beyond the step."""
        log = self.folder / "metrics.jsonl"
        log.touch()
        before = log.stat().st_size
        while process.poll() is None and _latest(log, before) < target:
            time.sleep(0.002)

    def _kill(self, process: subprocess.Popen[bytes]) -> bool:
        time.sleep(self.draw.uniform(0, 0.05))
        return self._kill_one(process, _ranks(process))

    def _kill_one(self, process: subprocess.Popen[bytes], ranks: Sequence[int]) -> bool:
        """Whether one of several `ranks`, which then all end, or the only one, was killed before its end."""
        victim = self.draw.choice(ranks) if len(ranks) > 1 else process.pid
        _signal(victim, KILL)
        for rank in ranks:
            _signal(rank, GO_ON)
        return process.wait() == (-KILL if victim == process.pid else 1)

    def _kill_inside_save(self, process: subprocess.Popen[bytes]) -> bool:
        """Stopped as soon as something hidden is seen: if it is there still, the process stands inside a save."""
        folder, ranks = self.folder / "checkpoints", _ranks(process)
        while process.poll() is None:
            if not _saving(folder, ranks):
                continue
            for rank in ranks:
                _signal(rank, HALT)
            if len(ranks) > 1:
                time.sleep(0.05)  # they are the launcher's children, for which nobody else can wait
            else:
                os.waitpid(process.pid, getattr(os, "WUNTRACED", 0))
            if _saving(folder, ranks):
                return self._kill_one(process, ranks)
            for rank in ranks:
                _signal(rank, GO_ON)
        return False

    def _check(self) -> None:
        """What was recorded before the kill must be there, or what came after it."""
        from hornbook.engine.loading import verify
        from hornbook.records.run import Run, checkpoint_step

        newest, folders = max(_recorded(self.folder), default=None), Run(self.folder).checkpoints()
        if newest is None:
            return
        if not folders or checkpoint_step(folders[-1]) < newest:
            self.lost.append(f"after kill {self.kills}: the checkpoint of step {newest:,} was recorded and is lost")
            return
        try:
            verify(folders[-1])
        except InputError as error:
            self.lost.append(f"after kill {self.kills}: {error}")


def _latest(log: Path, start: int) -> int:
    """The newest step that stands in the log beyond `start` bytes; 0 before there is one."""
    with log.open("rb") as file:
        file.seek(max(start, file.seek(0, os.SEEK_END) - 4096))
        steps = re.findall(rb'"event":"step","step":(\d+)', file.read())
    return max(map(int, steps), default=0)


def _saving(folder: Path, process_ids: Sequence[int]) -> bool:
    return any(name.endswith(tuple(f".{number}" for number in process_ids)) for name in os.listdir(folder))


# ---- Verdict


def _differences(what: str, run: Run, other: Run, last: int, *, weights: bool = True) -> list[str]:
    """Where the steps of `run` up to the last are not those of the `other`, to the last bit; and its final weights."""
    differences, ours, theirs = [], _steps(run, last), _steps(other, last)
    if weights:
        changed = _changed_tensors(run.checkpoint_folder(last), other.checkpoint_folder(last))
        differences += [f"{what}: {file} of step {last:,} is another ({name})" for file, name in changed.items()]
    for step in range(1, last + 1):
        mine, its = ours.get(step, {}), theirs.get(step, {})
        for key in [key for key in its if mine.get(key) != its[key]] if mine else ["the step"]:
            differences.append(f"{what}: step {step:,}: {key} is {mine.get(key)} instead of {its.get(key)}")
    if len(differences) > SHOWN:
        differences[SHOWN:] = [f"{what}: {counted(len(differences) - SHOWN, 'more difference')}"]
    return differences


def _changed_tensors(checkpoint: Path, other: Path) -> dict[str, str]:
    """The first of the weights and of the moments that differ in a bit; the checkpoints may be in other parts."""
    from hornbook.engine.checkpoint import MODEL, OPTIMIZER, read_manifest

    manifests = read_manifest(checkpoint), read_manifest(other)
    if manifests[0]["state"]["prepared"] != manifests[1]["state"]["prepared"]:
        raise InputError("the text was changed meanwhile, so that nothing can be proved: leave it as it is.")
    if manifests[0]["files"] == manifests[1]["files"]:
        return {}
    from hornbook.engine.loading import stored
    from hornbook.engine.tensor_files import bytes_of

    changed: dict[str, str] = {}
    for file in (MODEL, OPTIMIZER):
        ours, theirs = stored(checkpoint, file), stored(other, file)
        for name in sorted({*ours, *theirs}):
            if name not in ours or name not in theirs or bytes_of(ours[name]) != bytes_of(theirs[name]):
                changed.setdefault(file, name)
    return changed


def _steps(run: Run, last: int) -> dict[int, dict[str, Any]]:
    rows = [row for row in run.rows() if row["event"] == "step" and row["step"] <= last]
    return {row["step"]: {key: number for key, number in row.items() if key not in TIMED} for row in rows}


def _verdict(last: int, attempt: _Killed, others: int | None, differences: Sequence[str]) -> str:
    done = f"{counted(attempt.kills, 'SIGKILL')}, {attempt.inside} of them inside a save, and with other intervals"
    done += "" if others is None else f", and {_in_words(others)}"
    if differences:
        return f"NOT proved: of {counted(last, 'step')} after {done}: {differences[0]}."
    return f"Proved: after {done}, the losses of {counted(last, 'step')} and the weights are the same to the last bit."


def _in_words(processes: int) -> str:
    return "by one process" if processes == 1 else f"by {processes} processes"


def _keep(run: Run, proof: dict[str, Any]) -> None:
    from hornbook.reporting.report import write_pages

    run.write_report("prove.json", pretty(proof))
    if (run.reports / "report.html").is_file():
        write_pages(run)
