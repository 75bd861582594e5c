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
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hornbook.commands.options import add_texts, check_inputs, value
from hornbook.facts.errors import InputError, SystemFailure
from hornbook.facts.io import pretty
from hornbook.facts.printing import print, print_json
from hornbook.facts.units import counted

if TYPE_CHECKING:
    from hornbook.facts.tables import Result
    from hornbook.records.run import Run

STEPS, KILLS = 100, 5
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
    """Whether a run comes out the same after SIGKILLs at random moments and with other intervals, as
    `hornbook prove --json` prints it.

    Given is a run, or with a `recipe` the texts to train on. The first `steps` are trained undisturbed; again with
    `kills`, a third of them inside a save; and again with other intervals of evaluation, sampling and saving. `proved`
    says whether the losses of all steps and the final weights agree bit for bit and no checkpoint that was recorded was
    lost; `differences` what does not. Of a run it is kept in reports/prove.json. Raises InputError for bad input,
    SystemFailure where a training fails.
    """
    from hornbook.facts.tables import Result
    from hornbook.records.run import Run

    if sys.platform == "win32":
        raise InputError("prove stops and kills processes by signals that Windows lacks: run it in WSL.")
    if (steps is not None and steps < 2) or kills < 0:
        raise InputError("a proof takes at least 2 steps, and kills that are not negative.")
    if recipe is None and len(run_or_texts) != 1:
        raise InputError("give one run, or --recipe FILE and the texts to train on.")
    with tempfile.TemporaryDirectory(prefix="hornbook-prove-") as scratch:
        of = Run.open(run_or_texts[0]) if recipe is None else None
        first = Path(scratch) / "undisturbed"
        if of is None:
            length = ("--steps", str(steps or STEPS))
            _finish(_train(first, *run_or_texts, "--recipe", str(recipe), *length), first, steps or STEPS)
            last = steps or STEPS
        else:
            last = replay(of, first, steps=steps or STEPS)
            _finish(_train(first), first, last)
        undisturbed = Run.open(first)
        attempt = _Killed(Path(scratch) / "killed", last, kills, random.Random(seed))
        replay(undisturbed, attempt.folder, steps=last, changes={"checkpoint.every": max(1, last // (2 * kills + 1))})
        attempt.train()
        watched = Path(scratch) / "watched"
        replay(undisturbed, watched, steps=last, changes=_other_intervals(undisturbed))
        _finish(_train(watched), watched, last)
        differences = []
        if of is not None and _is_from_here(of, undisturbed):
            differences = _differences("the run itself", of, undisturbed, last, weights=False)
        differences += attempt.lost + _differences("after kills", Run.open(attempt.folder), undisturbed, last)
        differences += _differences("with other intervals", Run.open(watched), undisturbed, last)
    proof = {
        "run": None if of is None else str(of.folder), "proved": not differences, "steps": last,
        "kills": attempt.kills, "kills_inside_saves": attempt.inside, "differences": differences,
        "verdict": _verdict(last, attempt, differences),
    }  # fmt: skip
    if of is not None:
        _keep(of, proof)
    return Result(proof)


def replay(run: Run, folder: Path, *, steps: int, changes: dict[str, Any] | None = None) -> int:
    """Make a run of the same settings and decisions in `folder`, which has yet to begin and decides nothing else, ends
    after `steps`, or with `run`, and returns its last step. `changes` are settings that change no weights."""
    import msgspec

    from hornbook.engine.device import device
    from hornbook.facts.settings import from_table, overridden, to_toml
    from hornbook.records.environment import environment as make_environment
    from hornbook.records.run import Run
    from hornbook.training.deciding import sentence
    from hornbook.training.decisions import Decision, decisions_of, last_step

    settings = from_table(overridden(_settings(run), changes or {}), source=str(run.folder))
    settings.train.early_stop = None  # it is among the decisions
    made = decisions_of(run.rows())
    last = min(steps, last_step(settings, made))
    made = [decision for decision in made if decision.step < last]
    if last < last_step(settings, made):
        made.append(Decision(decision="stop", step=last, from_step=last))
    environment = run.environment
    request = {section: dict(values) for section, values in environment["request"].items() if section != "train"}
    request["train"] = {"steps": settings.train.steps}  # a length that is given leaves nothing to decide
    now = make_environment(threads=settings.train.threads or 1, device=device().type)
    copy = Run.create(folder, to_toml(settings), environment | now | {"request": request})
    for decision in made:
        copy.log({"event": "decision", "sentence": sentence(decision)} | msgspec.to_builtins(decision))
    return last


def _other_intervals(run: Run) -> dict[str, Any]:
    """Of evaluations, samples and saves: none of them as before, and none a multiple."""
    table = _settings(run)
    names = (("watch", "evaluate_every"), ("watch", "sample_every"), ("checkpoint", "every"))
    return {f"{section}.{key}": max(2, table[section][key] * 2 // 3 + 1) for section, key in names}


def _settings(run: Run) -> dict[str, Any]:
    from hornbook.facts.settings import parse_table

    return parse_table(run.settings_toml, run.folder / "settings.toml")


def _is_from_here(run: Run, here: Run) -> bool:
    """Whether its bits can be expected of this machine and installation."""
    from hornbook.setup.model import beginning

    then, now = beginning(run), beginning(here)
    return (then.versions, then.cpu, then.plain) == (now.versions, now.cpu, now.plain)


# ---- Processes


def _train(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", "-m", "hornbook", "train", *arguments, "--out", str(folder)]
    errors = folder.with_name(f"{folder.name}.err").open("wb")
    with errors:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors)


def _finish(process: subprocess.Popen[bytes], folder: Path, last: int) -> None:
    """Wait until the weights of the last step are saved; its report is not wanted."""
    while process.poll() is None and not _is_saved(folder, last):
        time.sleep(0.02)
    process.kill()
    process.wait()
    if not _is_saved(folder, last):
        lines = folder.with_name(f"{folder.name}.err").read_text(errors="replace").strip().splitlines()
        raise SystemFailure(f"a training of the proof failed: {lines[-1] if lines else 'it ended without a word'}")


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
            process = _train(self.folder)
            self._wait(process, target)
            killed = self._kill_inside_save(process) if inside else self._kill(process)
            process.wait()
            self.kills += killed
            self.inside += killed and inside
            if killed:
                self._check()
            if _is_saved(self.folder, self.last):
                break
        _finish(_train(self.folder), self.folder, self.last)

    def _wait(self, process: subprocess.Popen[bytes], target: int) -> None:
        """Until this process has gone on beyond the step."""
        log = self.folder / "metrics.jsonl"
        log.touch()
        before = log.stat().st_size
        while process.poll() is None and _latest(log, before) < target:
            time.sleep(0.002)

    def _kill(self, process: subprocess.Popen[bytes]) -> bool:
        if sys.platform == "win32":
            return False
        time.sleep(self.draw.uniform(0, 0.05))
        process.kill()
        return process.wait() == -signal.SIGKILL

    def _kill_inside_save(self, process: subprocess.Popen[bytes]) -> bool:
        """Stopped as soon as something hidden is seen: if it is there still, the process stands inside a save."""
        if sys.platform == "win32":
            return False
        folder = self.folder / "checkpoints"
        while process.poll() is None:
            if not _saving(folder, process.pid):
                continue
            os.kill(process.pid, signal.SIGSTOP)
            os.waitpid(process.pid, os.WUNTRACED)
            inside = _saving(folder, process.pid)
            os.kill(process.pid, signal.SIGKILL if inside else signal.SIGCONT)
            if inside:
                return process.wait() == -signal.SIGKILL
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


def _saving(folder: Path, process_id: int) -> bool:
    return any(name.endswith(f".{process_id}") for name in os.listdir(folder))


# ---- Verdict


def _differences(what: str, run: Run, other: Run, last: int, *, weights: bool = True) -> list[str]:
    """Where the steps of `run` up to the last are not those of the `other`, to the last bit; and its final weights."""
    from hornbook.engine.checkpoint import read_manifest

    differences, ours, theirs = [], _steps(run, last), _steps(other, last)
    if weights:
        mine, its = (read_manifest(one.checkpoint_folder(last))["files"] for one in (run, other))
        differences += [f"{what}: {file} of step {last:,} is another" for file in its if mine.get(file) != its[file]]
    for step in range(1, last + 1):
        mine, its = ours.get(step, {}), theirs.get(step, {})
        for key in [key for key in its if mine.get(key) != its[key]] if mine else ["the step"]:
            differences.append(f"{what}: step {step:,}: {key} is {mine.get(key)} instead of {its.get(key)}")
    if len(differences) > SHOWN:
        differences[SHOWN:] = [f"{what}: {counted(len(differences) - SHOWN, 'more difference')}"]
    return differences


def _steps(run: Run, last: int) -> dict[int, dict[str, Any]]:
    rows = [row for row in run.rows() if row["event"] == "step" and row["step"] <= last]
    return {row["step"]: {key: number for key, number in row.items() if key not in TIMED} for row in rows}


def _verdict(last: int, attempt: _Killed, differences: Sequence[str]) -> str:
    done = f"{counted(attempt.kills, 'SIGKILL')}, {attempt.inside} of them inside a save, and with other intervals"
    if differences:
        return f"NOT proved: of {counted(last, 'step')} after {done}: {differences[0]}."
    return f"Proved: after {done}, the losses of {counted(last, 'step')} and the weights are the same to the last bit."


def _keep(run: Run, proof: dict[str, Any]) -> None:
    from hornbook.reporting.pages import with_proof

    run.write_report("prove.json", pretty(proof))
    page = run.reports / "report.html"
    if page.is_file():
        run.write_report("report.html", with_proof(page.read_text(encoding="utf-8"), proof["verdict"]))
