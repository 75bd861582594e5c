"""How a run goes on: where its newest checkpoint stands, or, made longer, from before its learning rate fell."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import torch

from hornbook.data.shards import Prepared
from hornbook.engine import checkpoint as checkpoints
from hornbook.engine import loading
from hornbook.engine.device import device
from hornbook.facts.errors import InputError
from hornbook.facts.hardware import usable_cores
from hornbook.facts.settings import FREE, LENGTHS, Settings, from_table, to_toml
from hornbook.facts.shape import GPTShape
from hornbook.facts.units import counted
from hornbook.planning.choose import budget_seconds, most_steps, no_plateau, shape_of
from hornbook.planning.workload import corpus_stats, steps_of
from hornbook.records.environment import environment
from hornbook.records.run import Run, checkpoint_step
from hornbook.reporting.live import View
from hornbook.setup.model import UNCHECKED, beginning, last_saved, open_model, settings_of
from hornbook.setup.run import may_decide_of, read_text, record_text
from hornbook.setup.text import prepared_before
from hornbook.text.canaries import CANARIES
from hornbook.training.deciding import sentence
from hornbook.training.decisions import Decision, decisions_of, last_step, steady_steps
from hornbook.training.job import RunContext
from hornbook.training.left_out import why_not_good

if TYPE_CHECKING:
    from hornbook.engine.world import World


def refuse_running(run: Run) -> None:
    """Raise InputError where a process trains the run."""
    from hornbook.records.listing import is_running

    if is_running(run.folder):
        holder = (run.folder / ".lock").read_text("utf-8", "replace").strip().removeprefix("process ")
        raise InputError(
            f"{run.folder} is training: stop it first (Ctrl-C there, or kill -TERM {holder}), then give --finish again."
        )


def resumed(
    run: Run, wanted: Settings, request: Mapping[str, Any], *, from_: str | None, view: View, world: World | None = None
) -> RunContext:  # fmt: skip
    """Where a run goes on: its newest checkpoint that is whole; made longer, the last one from before the learning rate
    fell. Raises InputError when more than a greater length is asked for."""
    settings = settings_of(run)
    facts = beginning(run)
    if from_ is not None and not _same_file(from_, facts.from_ or ""):
        raise InputError(f"{run.folder} began from {facts.from_ or 'fresh weights'}: leave out --from.")
    original = from_table(facts.request, source="the run's request")
    _refuse_changes(run, settings, original, wanted, request)
    if any(getattr(settings.train, name) != getattr(wanted.train, name) for name in FREE):
        for name in FREE:
            setattr(settings.train, name, getattr(wanted.train, name))
        run.write({"settings.toml": to_toml(settings)})  # from now on it resumes so
    began, now_by = run.environment.get("processes", 1), 1 if world is None else world.size
    if now_by != began and "processes" not in request.get("train", {}):
        view.note(f"  note: processes that train: {began} when the run began, {now_by} from here on")
    if wanted.text.paths:
        original.text.paths = wanted.text.paths  # the same files, as they are called from here
    if run.hashes is None:
        view.note(f"  note: {run.folder}: {UNCHECKED}")
    torch.set_num_threads(settings.train.threads or usable_cores())
    now = environment()
    if facts.versions.get("torch") != now["versions"]["torch"] or facts.cpu != now["cpu"]:
        view.note("  note: the run began on another machine or version of torch, so it resumes, but not bit for bit")
    if facts.plain != now["plain"]:
        view.note("  note: the run began with another HORNBOOK_PLAIN, so it resumes, but not bit for bit")
    original.text.tokenizer = settings.text.tokenizer
    prepared = read_text(original, view)
    newest = _newest_whole(run, view, world)
    if newest is None:
        opened = open_model(facts.from_) if facts.from_ else None
        shape = opened.model.shape if opened is not None else shape_of(settings, prepared.tokenizer.vocabulary)
        initial = opened.model if opened is not None else None
    else:
        initial, shape = None, loading.shape_of(newest)
        key = checkpoints.read_manifest(newest)["state"].get("prepared", "")
        before = None if key == prepared.key else prepared_before(original.text, key)
        if key != prepared.key and before is None:
            raise InputError(
                f"the text has changed since {run.folder} began: give --out a fresh folder to train on the new text."
            )
        prepared = before or prepared
        run.check("tokenizer.json", "tokenizer_config.json", CANARIES)
    if newest is None:  # the run was killed as it began
        record_text(prepared, run)
    if steps := _made_longer(run, settings, original, wanted, prepared):
        newest = _lengthen(run, settings, steps, newest, view, world)
    if world is not None:
        from hornbook.setup.processes import tell_text

        tell_text(world, prepared, original.text)
    longer = any(made.decision == "lengthen" for made in decisions_of(run.rows()))
    return RunContext(
        run, settings, shape, prepared, initial, newest, world=world, may_decide=may_decide_of(original, settings),
        time=None if longer else _time_limit(original, settings, prepared, shape),
    )  # fmt: skip


def _time_limit(
    asked: Settings, settings: Settings, prepared: Prepared, shape: GPTShape
) -> tuple[float, int | None] | None:
    """That of a run which can be shortened while it goes on, as `asked` for; None where it has none."""
    seconds = budget_seconds(asked, accelerator=device().type != "cpu")
    if seconds is None or no_plateau(settings):
        return None
    longest = copy.deepcopy(settings)
    for name in ("steps", "tokens", "epochs"):
        setattr(longest.train, name, getattr(asked.train, name))
    return seconds, most_steps(longest, corpus_stats(prepared), shape)


def _refuse_changes(
    run: Run, settings: Settings, original: Settings, wanted: Settings, request: Mapping[str, Any]
) -> None:
    """Whatever is asked for now must be what was asked for, or what the run has, lengths aside."""
    for section, values in request.items():
        for key in values:
            asked, has = (getattr(getattr(s, section), key) for s in (wanted, settings))
            before = getattr(getattr(original, section), key)
            # Where nothing is checked, what the run has may have been changed since it was asked for.
            as_asked = asked == before and (run.hashes is not None or key in ("tokenizer", "best", "preset", "threads"))
            same = asked == has or as_asked or (section == "text" and _same_text(key, asked, has))
            if not same and not (section == "train" and key in (*LENGTHS, *FREE)):
                raise InputError(
                    f"{run.folder} has {section}.{key} = {has!r}, not {asked!r}: a resumed run keeps its settings "
                    "(only a greater length is allowed); give --out a fresh folder."
                )


def _same_text(key: str, asked: Any, has: Any) -> bool:
    """Whether two settings of the text name the same files, from here; of files that are not there from here, what is
    in them will say."""
    if key == "paths":
        paired = len(asked) == len(has) and all(map(_same_file, asked, has))
        return paired or not any(Path(path).exists() for path in has)
    before, _, name = asked.rpartition(":")
    return before == has.rpartition(":")[0] and _same_file(name, has.rpartition(":")[2])


def _same_file(a: str, b: str) -> bool:
    """Whether two spellings name one place, or, of a model on a hub, are the same."""
    return os.path.realpath(a) == os.path.realpath(b)


def _made_longer(run: Run, settings: Settings, original: Settings, wanted: Settings, prepared: Prepared) -> int:
    """How many steps the run is to have where they are more than it has, else 0."""
    asked = {name: getattr(wanted.train, name) for name in LENGTHS if getattr(wanted.train, name) is not None}
    before = {name: getattr(original.train, name) for name in LENGTHS if getattr(original.train, name) is not None}
    if not asked or asked == before:
        return 0
    if "budget" in asked:
        raise InputError(f"{run.folder} cannot be extended by a time: give --steps, --epochs or --tokens.")
    decisions, longer = decisions_of(run.rows()), copy.deepcopy(settings)
    has = last_step(settings, decisions)
    for name in ("steps", "tokens", "epochs"):
        setattr(longer.train, name, getattr(wanted.train, name))
    steps = steps_of(longer, corpus_stats(prepared)) or has
    if steps < has:
        raise InputError(f"{run.folder} has a length of {has:,} steps and can only be made longer, not {steps:,}.")
    if steps > has and (ended := [made for made in decisions if made.decision in ("decay", "end", "stop")]):
        raise InputError(
            f"{run.folder} was ended by its own decision at step {ended[-1].step:,}: give --out a fresh folder and a "
            "length, which is then kept."
        )
    if steps > has and may_decide_of(original, settings) and not wanted.checkpoint.best:
        settings.checkpoint.best = False  # who gives a length gets it, and the last weights
    return steps if steps > has else 0


def _lengthen(
    run: Run, settings: Settings, steps: int, newest: Path | None, view: View, world: World | None
) -> Path | None:
    """Give the run its new length, and return the checkpoint from which that gives the weights of a run that was
    planned so. Raises InputError where none is kept."""
    made = [decision.step for decision in decisions_of(run.rows()) if decision.decision in ("length", "finish")]
    steady = min([steady_steps(settings), *made])
    if newest is not None and checkpoint_step(newest) > steady:
        decisions, early = decisions_of(run.rows()), [f for f in run.checkpoints() if 0 < checkpoint_step(f) <= steady]
        before = [folder for folder in early if _is_good(folder, decisions, world)]
        if not before:
            raise InputError(
                f"{run.folder} cannot be made longer: its learning rate has decayed since step {steady:,}, and no "
                "checkpoint from before that is kept; give --out a fresh folder."
            )
        again = checkpoint_step(newest) - checkpoint_step(before[-1])
        newest = before[-1]
        view.note(
            f"  the learning rate of a longer run decays later: this one resumes from step {checkpoint_step(newest):,} "
            f"and trains {counted(again, 'step')} again"
        )
        for folder in run.checkpoints():  # before the length is written: then nobody goes on from them
            if checkpoint_step(folder) > checkpoint_step(newest):
                checkpoints.discard(folder)
    if made:
        at = 0 if newest is None else checkpoint_step(newest)
        longer = Decision(decision="lengthen", step=at, from_step=at)
        run.log({"event": "decision", "sentence": sentence(longer)} | msgspec.to_builtins(longer))
    settings.train.steps = steps
    run.write({"settings.toml": to_toml(settings)})
    return newest


def _newest_whole(run: Run, view: View, world: World | None) -> Path | None:
    """The newest checkpoint whose files are what was written; a damaged one is named and passed over."""
    folders = run.checkpoints()
    if folders and last_saved(run) > checkpoint_step(folders[-1]):
        view.note(f"  {run.folder} has lost its newest checkpoint, of step {last_saved(run):,}")
    recorded = decisions_of(run.rows())
    return next((folder for folder in reversed(folders) if _is_good(folder, recorded, world, view)), None)


def _is_good(checkpoint: Path, recorded: Sequence[Decision], world: World | None, view: View | None = None) -> bool:
    """Whether a run with the `recorded` decisions can go on from it; if not, `view` is told."""
    reason = why_not_good(checkpoint, recorded, world)
    if reason is not None and view is not None:
        view.note(f"  {reason}")
    return reason is None
