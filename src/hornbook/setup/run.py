"""How a fresh run begins: everything is chosen and written down before the first update."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import torch

from hornbook.data.manifest import held_out_in_words
from hornbook.data.shards import NUM_BYTES, NUM_TOKENS, START, Prepared, TokenStream
from hornbook.engine.device import device, this_device
from hornbook.facts.capacity import memorization_estimate
from hornbook.facts.errors import InputError, SystemFailure
from hornbook.facts.hardware import Accelerator, memory_bytes, usable_cores
from hornbook.facts.settings import Optimizer, Settings, to_toml
from hornbook.facts.shape import GPTShape
from hornbook.facts.text_warnings import tokenizer_fit
from hornbook.facts.units import counted, format_bytes, format_count, format_duration
from hornbook.planning.choose import (
    Machine,
    choose,
    given_length,
    no_plateau,
    worthwhile_epochs,
)
from hornbook.planning.health import RunFacts, run_facts, warnings
from hornbook.planning.memory import memory_by_choice
from hornbook.planning.workload import (
    CorpusStats,
    ResolvedSettings,
    StepTimes,
    TextEstimate,
    corpus_stats,
    fill_steps,
)
from hornbook.records.environment import environment
from hornbook.records.run import EVALUATION, LEFTOVERS, Run, default_out
from hornbook.reporting.live import View
from hornbook.setup.build import usd_per_hour
from hornbook.setup.text import is_prepared, prepared_text, stem
from hornbook.training.job import RunContext

if TYPE_CHECKING:
    from hornbook.engine.world import World
    from hornbook.setup.model import LoadedModel

MEASURED_FROM = 30  # steps: a shorter run is over before its pace is known
LEAST_STEPS, FEW_STEPS = 2, 30  # within a time: fewer than the first are refused, fewer than the second are said


def fresh(
    wanted: Settings, request: Mapping[str, Any], *, out: Path | None, from_: str | None, view: View, started: float,
    world: World | None = None,
) -> RunContext:  # fmt: skip
    """Prepare the text, choose what is open, find the number of steps, and then write the run folder."""
    if out is not None and out.exists() and (not out.is_dir() or {entry.name for entry in out.iterdir()} - LEFTOVERS):
        raise InputError(f"{out} exists and is not a run: give --out a fresh folder.")
    _refuse_early(wanted, Path("runs") if out is None else out, is_given=from_ is not None)
    opened = None if from_ is None else _given_model(from_, wanted)
    prepared = read_text(wanted, view)
    if opened is not None and prepared.tokenizer.fingerprint != opened.tokenizer.fingerprint:
        raise InputError(
            f"the text was prepared with another tokenizer than {from_} has: give the text itself, and no --tokenizer."
        )
    part, on = prepared.train, device()
    torch.set_num_threads(wanted.train.threads or usable_cores())
    device_here = this_device(on)
    data, machine = corpus_stats(prepared), Machine.of(device_here, 1 if world is None else world.size)
    choice = choose(wanted, data, machine, shape=opened.model.shape if opened is not None else None)
    settings, shape = choice.settings, choice.shape
    if world is not None:
        _share_out(world, prepared, wanted, settings)
    _refuse_too_large(settings, shape)
    settings.train.threads = torch.get_num_threads()
    for reason in choice.reasons:
        view.note(f"  {reason}")
    view.note(f"  {shape.family}: {format_count(shape.parameters)} parameters, vocabulary {shape.vocabulary:,}")
    reading = _text_estimate(prepared)
    settings, pace = _settled(choice, wanted, part, on, view, started, world)
    assert settings.train.steps is not None
    assert settings.train.batch is not None
    epochs = settings.train.steps * settings.train.batch * shape.context / data.num_tokens
    open_end = may_decide_of(wanted, settings)
    wrong = _warnings(run_facts(settings, shape, reading, may_decide=open_end), settings, device_here, wanted.optimizer)
    wrong += _unfit(opened, reading.bytes_per_token, view)
    text, again = (data.num_tokens, data.num_bytes), reading.readings_per_epoch
    ahead = memorization_estimate(*text, shape.parameters, epochs, readings_per_epoch=again).sentence
    if not any(sentence.startswith(ahead[:-1]) for sentence in wrong):
        view.note(f"  {ahead}")
    for sentence in prepared.checkup.get("sentences", []):
        view.note(f"  {sentence}")
    facts = _machine(on)
    run = Run.create(
        out if out is not None else default_out(stem(wanted.text.paths)), to_toml(settings),
        facts | {"request": dict(request), "from": from_, "chats": _holds_chats(prepared)}
        | ({} if world is None else {"processes": world.size}),
    )  # fmt: skip
    record_text(prepared, run)
    initial = opened.model if opened is not None else None
    start = RunContext(
        run, settings, shape, prepared, initial, device=device_here, world=world, may_decide=open_end,
        time=None if choice.seconds is None or no_plateau(settings) else (choice.seconds, choice.most_steps),
    )  # fmt: skip
    for sentence in wrong:
        view.note(f"  warning: {sentence}")
    plan = partial(_show_plan, start, reading, view, started, time.monotonic() - started)
    if pace is None and settings.train.steps >= MEASURED_FROM:
        return replace(start, plan=plan)
    plan(pace)
    return start


def _refuse_early(wanted: Settings, out: Path, *, is_given: bool) -> None:
    """Raise for what is wrong whatever the text is; a shape only where no model `is_given`, nor is left to the text."""
    given_length(wanted)
    usd_per_hour(wanted)
    there = next(folder for folder in (out, *out.parents) if folder.exists())
    try:
        TemporaryFile(dir=there).close()
    except OSError as error:
        raise SystemFailure(f"cannot write in {there}: {error.strerror}; give another --out.") from None
    model = wanted.model
    if not is_given and (model.width or model.preset or not (model.heads or model.kv_heads)):
        choose(wanted, CorpusStats(10**12, 10**12, 256), Machine.of(this_device(device())))


def _machine(on: torch.device) -> dict[str, Any]:
    """What a run is made with."""
    facts = environment(threads=torch.get_num_threads(), device=on.type)
    if on.type == "cpu":
        return facts | {"accelerator": None}
    from hornbook.engine.accelerator import accelerator_facts

    return facts | {"accelerator": accelerator_facts(on)}


def _holds_chats(prepared: Prepared) -> bool:
    """Whether the training documents are chats as text/chats.py writes them: over 90 % of a few hundred begin so."""
    part, tokenizer = prepared.train, prepared.tokenizer
    rows = part.documents[:: max(1, len(part.documents) // 200)].tolist()
    begins = [part.take(np.array([row[START]]), min(40, row[NUM_TOKENS]))[0] for row in rows if row[NUM_TOKENS]]
    return sum(tokenizer.decode(ids).startswith(("user: ", "system: ")) for ids in begins) > 0.9 * len(begins)


def _text_estimate(prepared: Prepared) -> TextEstimate:
    documents, heldout = prepared.train.documents, prepared.validation.documents
    median = float(np.median(documents[:, NUM_TOKENS]))
    num_heldout_bytes, readings = int(heldout[:, NUM_BYTES].sum()), prepared.readings_per_epoch or 1.0
    return TextEstimate(corpus_stats(prepared), num_heldout_bytes, median, [], readings)


def _share_out(*arguments: Any) -> None:
    """`share_out`, where there are several processes."""
    from hornbook.setup.processes import share_out

    share_out(*arguments)


def _given_model(name: str, wanted: Settings) -> LoadedModel:
    """The model that training starts from; the text is prepared with its tokenizer."""
    from hornbook.setup.model import open_model, refuse_other_shape, tokenizer_of

    opened = open_model(name)
    refuse_other_shape(wanted, opened)
    if wanted.text.tokenizer == "auto" and not is_prepared(wanted.text.paths):
        wanted.text.tokenizer = tokenizer_of(opened)
    return opened


def _unfit(opened: LoadedModel | None, bytes_per_token: float, view: View) -> list[str]:
    """Say how well the tokenizer of given weights fits the text; return the warning where it does not."""
    own = None
    if opened is None:
        return []
    if opened.run is not None and (opened.run.folder / EVALUATION).is_file():
        scored = msgspec.json.decode(opened.run.read(EVALUATION), type=dict[str, Any])
        own = scored["num_bytes"] / max(1, scored["num_tokens"])
    sentence, warning = tokenizer_fit(bytes_per_token, own)
    view.note(f"  {sentence}")
    return [] if warning is None else [warning]


def _show_plan(*arguments: Any) -> None:
    """`show_plan`, which counts n-grams: after the first updates, where they tell how long the run takes."""
    from hornbook.setup.expectation import show_plan

    show_plan(*arguments)


def _warnings(facts: RunFacts, settings: Settings, on: Accelerator, asked: Optimizer) -> list[str]:
    """What will go wrong with a run on this device."""
    train, room = settings.train, on.memory_bytes or memory_bytes()
    assert train.batch is not None
    needed = memory_by_choice(facts.shape, on, facts)(train.recompute, train.microbatch or train.batch).total
    wrong = warnings(msgspec.structs.replace(facts, needed_bytes=needed, available_bytes=room))
    if settings.optimizer.name == "muon" and asked.learning_rate and not asked.muon_learning_rate:
        wrong.append(
            "the learning rate given is AdamW's, and Muon updates the matrices of the blocks with its own of "
            f"{settings.optimizer.muon_learning_rate:g}: give --muon-lr too, or --optimizer adamw."
        )
    return wrong


def _refuse_too_large(settings: Settings, shape: GPTShape) -> None:
    """Raise InputError for what no memory of this machine could hold, before any of it is asked for."""
    memory, batch = memory_bytes(), settings.train.batch or 1
    for what, num_bytes, remedy in (
        (f"a model of {format_count(shape.parameters)} parameters", 4 * shape.parameters,
         "width, .intermediate_size or .layers"),
        (f"a step of {format_count(batch)} sequences", 8 * batch * shape.context, "context or --train.batch"),
    ):  # fmt: skip
        if memory is not None and num_bytes > memory:
            raise InputError(
                f"{what} takes more than the {format_bytes(memory)} of this machine: take a smaller --model.{remedy}."
            )


def _settled(
    choice: ResolvedSettings, wanted: Settings, text: TokenStream, on: torch.device, view: View, started: float,
    world: World | None,
) -> tuple[Settings, StepTimes | None]:  # fmt: skip
    """The settings with their number of steps, and the pace that a time had to know first. Raises InputError for a
    budget that holds no training."""
    if choice.settings.train.steps is not None:
        fill_steps(choice.settings, choice.settings.train.steps, choice.data)
        return choice.settings, None
    from hornbook.planning.wall import resolve_steps, wall_of
    from hornbook.setup.pace import measure

    pace = measure(choice.settings, choice.shape, text, on, world)
    spent = time.monotonic() - started
    settings = resolve_steps(choice, pace, spent)
    assert settings.train.steps is not None
    budget, enough = wanted.train.budget, settings.train.steps == choice.most_steps
    if budget is not None and settings.train.steps < LEAST_STEPS and not enough:
        needed = spent + wall_of(choice, pace, FEW_STEPS)
        raise InputError(
            f"the budget of {budget} covers the whole command, and the first step is after {format_duration(spent)}: "
            f"give more; {FEW_STEPS} steps with evaluations and the report take about {format_duration(needed)} in all."
        )
    if no_plateau(settings):
        view.note(
            f"  note: a {settings.schedule.name} schedule has no plateau, so the run cannot be shortened: where the "
            "machine gets slower, the budget is exceeded"
        )
    if enough:
        length = given_length(wanted)
        given = length not in (None, "budget")
        why = f"the length in {length}, within the budget" if given else _epochs_in_words(choice)
        view.note(f"  {counted(settings.train.steps, 'step')}: {why}")
    else:
        view.note(f"  {counted(settings.train.steps, 'step')} of {format_duration(pace.step)} fit the time")
    if settings.train.steps < FEW_STEPS:
        view.note("  warning: these are too few to learn from; is the machine busy, or the model large?")
    return settings, pace


def _epochs_in_words(choice: ResolvedSettings) -> str:
    epochs = worthwhile_epochs(choice.data, choice.shape) or 0.0
    return f"{epochs:.2g} epochs: more usually raise the validation loss on a text of this size (--epochs)"


def may_decide_of(asked: Settings, settings: Settings) -> bool:
    return given_length(asked) in (None, "budget") and bool(settings.checkpoint.best)


def read_text(wanted: Settings, view: View) -> Prepared:
    with view.progress("preparing") as progress:
        prepared = prepared_text(wanted.text, progress=progress)
    sides = ((prepared.train, "training"), (prepared.validation, "validation"))
    counts = " and ".join(f"{format_count(side.num_tokens)} {name}" for side, name in sides)
    view.note(f"text: {counts} tokens, {prepared.tokenizer.kind} tokenizer, in {_shown(prepared.folder)}")
    view.note(f"  {held_out_in_words(prepared.manifest)}")
    for note in prepared.manifest["report"].get("notes", []):
        view.note(f"  {note}.")
    return prepared


def record_text(prepared: Prepared, run: Run) -> None:
    """What the run needs of its text to be understood alone: the tokenizer, and which canaries were planted."""
    contents: dict[str, str | bytes] = {**prepared.tokenizer.files()}
    if prepared.manifest.get("canaries"):
        from hornbook.text.canaries import CANARIES

        contents[CANARIES] = (prepared.folder / CANARIES).read_bytes()
    run.write(contents)


def _shown(folder: Path) -> Path:
    """Relative to where we are, if it lies below."""
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
