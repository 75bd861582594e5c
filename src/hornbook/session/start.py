"""How a run begins: fresh, with everything chosen and written down, or where its newest checkpoint stands."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hornbook.data.shards import NUM_BYTES, NUM_TOKENS, Part, Prepared
from hornbook.evaluation.baselines import baselines
from hornbook.evaluation.corpus import Conventions, Places, beginning_of, part_documents
from hornbook.facts.capacity import outlook
from hornbook.facts.errors import InputError
from hornbook.facts.hardware import Accelerator, usable_cores
from hornbook.facts.leaks import leaked_in_words
from hornbook.facts.quantities import counted, format_bytes, format_count, format_duration, parse_price
from hornbook.facts.settings import LENGTHS, Settings, from_table, to_toml
from hornbook.facts.shape import GPTShape
from hornbook.model.decoder import Decoder
from hornbook.planning.budget import Range
from hornbook.planning.choose import (
    SHAPE,
    Choice,
    Machine,
    choose,
    fill_steps,
    given_length,
    shape_of,
    steps_of,
    worthwhile_epochs,
)
from hornbook.planning.expect import small_run_bits
from hornbook.planning.pace import REPORT_SECONDS, Pace
from hornbook.planning.plan import brief
from hornbook.records.environment import environment
from hornbook.records.run import LEFTOVERS, Run, checkpoint_step, default_out
from hornbook.report.prepared import held_out_in_words
from hornbook.session.chosen import chosen_on
from hornbook.session.costs import Reading, plan_of, settle, wall_of, watched
from hornbook.session.decisions import decisions_of
from hornbook.session.live import View
from hornbook.session.meter import MEASURED_FROM, measure, return_freed_memory, this_device
from hornbook.session.models import (
    UNCHECKED,
    Opened,
    accelerator_facts,
    beginning,
    device,
    last_saved,
    open_model,
    settings_of,
)
from hornbook.session.texts import data_of, is_prepared, prepared_before, prepared_text, stem
from hornbook.text.canaries import CANARIES
from hornbook.text.disk import write_aside
from hornbook.training import checkpoint as checkpoints

LEAST_STEPS, FEW_STEPS = 2, 30  # within a time: fewer than the first are refused, fewer than the second are said


@dataclass(frozen=True)
class Start:
    """Everything that is settled before the first update."""

    run: Run
    settings: Settings
    shape: GPTShape
    prepared: Prepared
    initial: Decoder | None = None  # given weights, of --from
    checkpoint: Path | None = None  # to go on from
    device: Accelerator | None = None  # where it was measured just now
    plan: Callable[[Pace], None] | None = None  # to be called once the pace of the first steps is known
    may_decide: bool = False  # whether the run may end early: nobody gave it a length, and its best weights are used


def fresh(
    wanted: Settings, request: Mapping[str, Any], *, out: Path | None, from_: str | None, view: View, started: float
) -> Start:
    """Prepare the text, choose what is open, find the number of steps, and then write the run folder."""
    if out is not None and out.exists() and (not out.is_dir() or {entry.name for entry in out.iterdir()} - LEFTOVERS):
        raise InputError(f"{out} exists and is not a run: give --out a fresh folder.")
    given_length(wanted)  # what is wrong is said before the text is read
    usd_per_hour(wanted)
    opened = open_model(from_) if from_ is not None else None
    if opened is not None:
        _refuse_other_shape(wanted, opened)
        if wanted.text.tokenizer == "auto" and not is_prepared(wanted.text.paths):
            wanted.text.tokenizer = tokenizer_of(opened)
    prepared = _prepare(wanted, view)
    if opened is not None and prepared.tokenizer.fingerprint != opened.tokenizer.fingerprint:
        raise InputError(
            f"the text was prepared with another tokenizer than {from_} has: give the text itself, and no --tokenizer."
        )
    part, on = prepared.train, device()
    torch.set_num_threads(wanted.train.threads or usable_cores())
    device_here = this_device(on)
    data = data_of(prepared)
    choice = choose(wanted, data, Machine.of(device_here), shape=opened.model.shape if opened is not None else None)
    settings, shape = choice.settings, choice.shape
    _refuse_too_large(settings, shape)
    settings.train.threads = torch.get_num_threads()
    for reason in choice.reasons:
        view.note(f"  {reason}")
    view.note(f"  {shape.family}: {format_count(shape.parameters)} parameters, vocabulary {shape.vocabulary:,}")
    reading = Reading(
        data, int(prepared.validation.documents[:, NUM_BYTES].sum()),
        float(np.median(part.documents[:, NUM_TOKENS])), [], prepared.readings_per_epoch or 1.0,
    )  # fmt: skip
    settings, pace = _settled(choice, part, on, view, started, wanted.train.budget)
    assert settings.train.steps is not None
    assert settings.train.batch is not None
    epochs = settings.train.steps * settings.train.batch * shape.context / data.num_tokens
    open_end = _may_decide(wanted, settings)
    wrong = plan_of(settings, shape, reading, (1, device_here), pace=None, may_decide=open_end).warnings
    text, again = (data.num_tokens, data.num_bytes), reading.readings_per_epoch
    ahead = outlook(*text, shape.parameters, epochs, readings_per_epoch=again).sentence
    if not any(sentence.startswith(ahead[:-1]) for sentence in wrong):
        view.note(f"  {ahead}")
    for sentence in prepared.checkup.get("sentences", []):
        view.note(f"  {sentence}")
    facts = environment(threads=torch.get_num_threads(), device=on.type) | {"accelerator": accelerator_facts(on)}
    run = Run.create(
        out if out is not None else default_out(stem(wanted.text.paths)), to_toml(settings),
        facts | {"request": dict(request), "from": from_},
    )  # fmt: skip
    _record_text(prepared, run)
    initial = opened.model if opened is not None else None
    start = Start(run, settings, shape, prepared, initial, device=device_here, may_decide=open_end)
    for sentence in wrong:
        view.note(f"  warning: {sentence}")
    plan = partial(_plan, start, reading, view, started, time.monotonic() - started)
    if pace is None and settings.train.steps >= MEASURED_FROM:
        return replace(start, plan=plan)
    plan(pace)
    return start


def _refuse_too_large(settings: Settings, shape: GPTShape) -> None:
    """Raise InputError for what no memory of this machine could hold, before any of it is asked for."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    batch = settings.train.batch or 1
    for what, num_bytes, remedy in (
        (f"a model of {format_count(shape.parameters)} parameters", 4 * shape.parameters, "width, .hidden or .layers"),
        (f"a step of {format_count(batch)} sequences", 8 * batch * shape.context, "context or --train.batch"),
    ):
        if num_bytes > memory:
            raise InputError(
                f"{what} takes more than the {format_bytes(memory)} of this machine: take a smaller --model.{remedy}."
            )


def _settled(
    choice: Choice, text: Part, on: torch.device, view: View, started: float, budget: str | None
) -> tuple[Settings, Pace | None]:
    """The settings with their number of steps, and the pace that a time had to know first. Raises InputError for a
    `budget` that holds no training."""
    if choice.settings.train.steps is not None:
        fill_steps(choice.settings, choice.settings.train.steps, choice.data)
        return choice.settings, None
    pace = measure(choice.settings, choice.shape, text, on)
    spent = time.monotonic() - started
    settings = settle(choice, pace, spent)
    assert settings.train.steps is not None
    if budget is not None and settings.train.steps < LEAST_STEPS:
        needed = spent + wall_of(choice, pace, FEW_STEPS)
        raise InputError(
            f"the budget of {budget} is from start to end, and the first step comes after {format_duration(spent)}: "
            f"give more, {FEW_STEPS} steps with evaluations and the report take about {format_duration(needed)} in all."
        )
    if settings.train.steps == choice.most_steps:
        view.note(f"  {counted(settings.train.steps, 'step')}: {_epochs_in_words(choice)}")
    else:
        view.note(f"  {counted(settings.train.steps, 'step')} of {format_duration(pace.step)} fit the time")
    if settings.train.steps < FEW_STEPS:
        view.note("  warning: these are too few to learn from; is the machine busy, or the model large?")
    return settings, pace


def _epochs_in_words(choice: Choice) -> str:
    epochs = worthwhile_epochs(choice.data, choice.shape) or 0.0
    return f"{epochs:.2g} epochs, since after more of them validation loss would rise on a text of this size (--epochs)"


def _may_decide(asked: Settings, settings: Settings) -> bool:
    return given_length(asked) in (None, "budget") and bool(settings.checkpoint.best)


def _plan(start: Start, reading: Reading, view: View, started: float, spent: float, pace: Pace | None) -> None:
    """What is expected of a run, from its pace and what models that only count get: said, and written down. The run
    began at `started`, and before its first step `spent` seconds had gone."""
    settings, shape, begin = start.settings, start.shape, time.monotonic()
    levels = counting_models(start.prepared, shape, chosen_on(settings, start.prepared))
    leaked = start.prepared.leak["validation_leaked"]  # then what counts is as wrong about unseen text as the loss
    spent += time.monotonic() - begin
    assert start.device is not None
    planned = plan_of(
        settings, shape, reading, (1, start.device), pace=pace, spent=spent, usd=usd_per_hour(settings),
        expected=None if start.initial is not None or leaked else _expected(levels, settings, shape, reading),
        may_decide=start.may_decide,
    )  # fmt: skip
    view.note(f"  {brief(planned)}")
    if leaked and start.initial is None:
        view.note(f"  which loss to expect is unknown: {leaked_in_words(start.prepared.leak)}")
    if pace is not None and planned.wall_seconds is not None:
        after = pace.scored * watched(settings, shape, reading.data).scored_tokens + REPORT_SECONDS
        view.expect(started + planned.wall_seconds - after)
    start.run.write_plan({"plan": planned, "pace": pace, "baselines": levels})


def _expected(
    levels: Mapping[str, Mapping[str, Any]], settings: Settings, shape: GPTShape, reading: Reading
) -> Range | None:
    """The final loss in nats per token that the counting models' levels promise a small run."""
    counted = [each["bits_per_byte"] for each in levels.values() if each["bits_per_byte"] is not None]
    if not counted or settings.train.steps is None or settings.train.batch is None:
        return None
    data, tokens = reading.data, settings.train.steps * settings.train.batch * shape.context
    if settings.optimizer.name != "muon" or shape.family == "gpt2":
        return None
    bits = small_run_bits(min(counted), shape.parameters, data.num_bytes, tokens, tokens / data.num_tokens)
    return None if bits is None else bits.times(math.log(2) * reading.bytes_per_token)


def counting_models(
    prepared: Prepared, shape: GPTShape, leave_out: Sequence[Places] | None = None
) -> dict[str, dict[str, Any]]:
    """What n-gram baselines get on the validation text, `leave_out` aside; {} where there is none."""
    if prepared.validation.num_tokens < 2:
        return {}
    tokenizer = prepared.tokenizer
    how = Conventions(shape.context, max(1, shape.context // 2), beginning_of(tokenizer))
    return_freed_memory()  # of the first steps: counting takes its place
    return baselines(
        prepared.train, part_documents(prepared.validation, tokenizer), how, tokenizer.vocabulary, leave_out
    )  # fmt: skip


def usd_per_hour(settings: Settings) -> float | None:
    return None if settings.watch.price is None else parse_price(settings.watch.price)


def resumed(run: Run, wanted: Settings, request: Mapping[str, Any], *, from_: str | None, view: View) -> Start:
    """The newest checkpoint that is whole. Raises InputError when more than a greater length is asked for."""
    settings = settings_of(run)
    facts = beginning(run)
    if from_ is not None and not _same_file(from_, facts.from_ or ""):
        raise InputError(f"{run.folder} began from {facts.from_ or 'fresh weights'}: leave out --from.")
    original = from_table(facts.request, source="the run's request")
    _refuse_changes(run, settings, original, wanted, request)
    if wanted.text.paths:
        original.text.paths = wanted.text.paths  # the same files, as they are called from here
    if run.hashes is None:
        view.note(f"  note: {run.folder}: {UNCHECKED}")
    torch.set_num_threads(settings.train.threads or usable_cores())
    now = environment()
    if facts.versions.get("torch") != now["versions"]["torch"] or facts.cpu != now["cpu"]:
        view.note("  note: the run began on another machine or version of torch, so it goes on, but not bit for bit")
    original.text.tokenizer = settings.text.tokenizer
    prepared = _prepare(original, view)
    newest = _newest_whole(run, view)
    if newest is None:
        opened = open_model(facts.from_) if facts.from_ else None
        shape = opened.model.shape if opened is not None else shape_of(settings, prepared.tokenizer.vocabulary)
        initial = opened.model if opened is not None else None
    else:
        initial, shape = None, checkpoints.shape_of(newest)
        key = checkpoints.read_manifest(newest)["state"].get("prepared", "")
        before = None if key == prepared.key else prepared_before(original.text, key)
        if key != prepared.key and before is None:
            raise InputError(
                f"the text has changed since {run.folder} began: give --out a fresh folder to train on the new text."
            )
        prepared = before or prepared
        run.check("tokenizer.json", "tokenizer_config.json", CANARIES)
    if newest is None:  # the run was killed as it began
        _record_text(prepared, run)
    _lengthen(run, settings, original, wanted, prepared)
    return Start(run, settings, shape, prepared, initial, newest, may_decide=_may_decide(original, settings))


def _prepare(wanted: Settings, view: View) -> Prepared:
    with view.progress("preparing") as progress:
        prepared = prepared_text(wanted.text, progress=progress)
    sides = ((prepared.train, "training"), (prepared.validation, "validation"))
    counts = " and ".join(f"{format_count(side.num_tokens)} {name}" for side, name in sides)
    view.note(f"text: {counts} tokens, {prepared.tokenizer.kind} tokenizer, in {_shown(prepared.folder)}")
    view.note(f"  {held_out_in_words(prepared.manifest)}")
    for note in prepared.manifest["report"].get("notes", []):
        view.note(f"  {note}.")
    return prepared


def _record_text(prepared: Prepared, run: Run) -> None:
    """What the run needs of its text to be understood alone: the tokenizer, and which canaries were planted."""
    contents: dict[str, str | bytes] = {**prepared.tokenizer.files()}
    if (prepared.folder / CANARIES).is_file():
        contents[CANARIES] = (prepared.folder / CANARIES).read_bytes()
    run.write(contents)


def _shown(folder: Path) -> Path:
    """Relative to where we are, if it lies below."""
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def tokenizer_of(opened: Opened) -> str:
    """A folder with the tokenizer of given weights, so that the text is prepared with it."""
    folder = opened.run.folder if opened.run is not None else Path(opened.name)
    if not (folder / "tokenizer.json").is_file():  # a GGUF file or a hub id
        folder = Path("prepared") / f"tokenizer-{opened.tokenizer.fingerprint[:8]}"
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in opened.tokenizer.files().items():
            write_aside(folder / name, content)
    return str(folder)


def _refuse_other_shape(wanted: Settings, opened: Opened) -> None:
    """Given weights have their shape: raises InputError when another one is asked for."""
    for name in ("preset", *SHAPE):
        asked = getattr(wanted.model, name)
        if asked is not None and asked != getattr(opened.model.shape, name, None):
            raise InputError(f"model.{name} is {asked!r}, but the shape is that of {opened.name}: leave it out.")


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
            if not same and not (section == "train" and key in LENGTHS):
                raise InputError(
                    f"{run.folder} has {section}.{key} = {has!r}, not {asked!r}: a run that goes on keeps its settings "
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


def _lengthen(run: Run, settings: Settings, original: Settings, wanted: Settings, prepared: Prepared) -> None:
    asked = {name: getattr(wanted.train, name) for name in LENGTHS if getattr(wanted.train, name) is not None}
    before = {name: getattr(original.train, name) for name in LENGTHS if getattr(original.train, name) is not None}
    if not asked or asked == before:
        return
    if "budget" in asked:
        raise InputError(f"{run.folder} goes on for a number of steps: give --steps, --epochs or --tokens.")
    has = settings.train.steps or 0
    settings.train.steps, settings.train.tokens, settings.train.epochs = (
        wanted.train.steps, wanted.train.tokens, wanted.train.epochs,
    )  # fmt: skip
    steps = steps_of(settings, data_of(prepared)) or has
    settings.train.steps, settings.train.tokens, settings.train.epochs = steps, None, None
    if steps < has:
        raise InputError(f"{run.folder} has a length of {has:,} steps and can only be made longer, not {steps:,}.")
    if steps > has and (ended := decisions_of(run.rows())):
        raise InputError(
            f"{run.folder} was ended by its own decision at step {ended[-1].step:,}: give --out a fresh folder and a "
            "length, which is then kept."
        )
    if steps > has:
        if _may_decide(original, settings) and not wanted.checkpoint.best:
            settings.checkpoint.best = False  # who gives a length gets it, and the last weights
        run.write_settings(to_toml(settings))


def _newest_whole(run: Run, view: View) -> Path | None:
    """The newest checkpoint whose files are what was written; a damaged one is named and passed over."""
    found = run.checkpoints()
    if found and last_saved(run) > checkpoint_step(found[-1]):
        view.note(f"  {run.folder} has lost its newest checkpoint, of step {last_saved(run):,}")
    for folder in reversed(found):
        try:
            checkpoints.verify(folder)
        except InputError as error:
            view.note(f"  {error}")
        else:
            return folder
    return None
