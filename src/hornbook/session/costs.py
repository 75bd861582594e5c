"""`hornbook.plan`: what a training run needs, before anything is spent. Torch-free."""

from __future__ import annotations

import copy
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from hornbook.data.shards import MANIFEST
from hornbook.facts.errors import InputError, WorldError
from hornbook.facts.hardware import HERE, Accelerator, custom, lookup
from hornbook.facts.quantities import format_count, parse_count, parse_price
from hornbook.facts.settings import Settings, Text, from_table, overridden, read_table, to_toml
from hornbook.facts.shape import GPTShape, preset
from hornbook.planning.budget import Range, implied_utilisation, refuse_impossible
from hornbook.planning.choose import (
    Choice,
    Data,
    Machine,
    choose,
    fill_steps,
    given_length,
    steps_per_epoch,
    worthwhile_epochs,
)
from hornbook.planning.looks import looks
from hornbook.planning.pace import (
    MEASURED_FACTOR,
    Pace,
    Watched,
    estimated,
    product_flops_per_second,
    steps_within,
    wall_seconds,
)  # fmt: skip
from hornbook.planning.plan import Plan, make_plan
from hornbook.planning.sanity import Recipe
from hornbook.records.environment import memory_bytes
from hornbook.session.texts import automatic_share, is_prepared, prepared_folder, read_documents
from hornbook.text.split import default_rule
from hornbook.text.tokenizer import default_vocabulary

SAMPLE_CHARACTERS = 4_000_000  # of a text that is not prepared, read to know its characters and documents
START_SECONDS = 5.0  # until the first step: importing, opening the text, making the model
COPY_PROBE_TOKENS = 64  # of each of the free samples that are searched for copies at every evaluation
FIRST_PROBE = 512  # tokens of each side, at most, that are scored before the first update
FIRST_SAMPLE = 16  # tokens, at most, that fresh weights write


class Reading(msgspec.Struct, frozen=True):
    """What a plan needs to know of a text. `assumed` says what was not counted but estimated."""

    data: Data
    validation_bytes: int
    median_document_tokens: float
    assumed: list[str]
    readings_per_epoch: float = 1.0

    @property
    def bytes_per_token(self) -> float:
        """Of the text whose loss is predicted: validation text, or the training text where there is none."""
        if self.data.validation_tokens > 1:
            return self.validation_bytes / self.data.validation_tokens
        return self.data.num_bytes / self.data.num_tokens


def plan(
    *given: str | Path, parameters: str | None = None, tokens: str | None = None, on: str | None = None,
    price: str | None = None, peak: str | None = None, context: int | None = None, hours: str | None = None,
    measure: bool = False, **changes: Any,
) -> Plan:  # fmt: skip
    """Plan the training of texts as `train` would choose it, of a recipe, or of `parameters` ("7B") on `tokens` ("2T").

    `given` are texts or a recipe (a .toml file); `changes` are settings by their dotted names. `on` is a device known
    by name ("8xA100"), or any with its `peak` in FLOP/s, by default this machine, which `measure` tries for some
    seconds; `price` ("30/hour") pays for all of them. `hours` are the device-hours that a training of that size is said
    to take: what they imply and cost is planned. Raises InputError for what cannot be read, is missing or impossible.
    """
    recipes = [Path(each) for each in given if str(each).endswith(".toml")]
    texts = [str(each) for each in given if not str(each).endswith(".toml")]
    if len(recipes) > 1:
        raise InputError(f"a plan is for one recipe, and {len(recipes)} were given.")
    devices = _devices(on, peak)
    usd = None if price is None else parse_price(price)
    length = None if tokens is None else parse_count(tokens, "--tokens")
    if parameters is not None or (length is not None and not given and not changes):
        if given:
            raise InputError("a recipe or a text has its own size: leave out --parameters, or it.")
        return _of_size(
            parameters, length, devices, usd, context, None if hours is None else parse_count(hours, "--hours")
        )
    if hours is not None:
        raise InputError("hours are judged for a size: give --parameters, --tokens and --on with --hours.")
    if texts:
        changes["text.paths"] = texts
    if length is not None:
        changes["train.tokens"] = length
    if context is not None:
        changes["model.context"] = context
    source = str(recipes[0]) if recipes else "settings"
    settings = from_table(overridden(read_table(recipes[0]) if recipes else {}, changes), source=source)
    count, device = devices or (1, custom(HERE, product_flops_per_second()))
    reading = None if _needs_no_text(settings) else read(settings.text)
    return _planned(settings, reading, (count, device), usd, measure)


def _devices(on: str | None, peak: str | None) -> tuple[int, Accelerator] | None:
    if peak is not None:
        return 1, custom(on or HERE, parse_count(peak, "--peak"))
    return None if on is None else lookup(on)


def _of_size(
    parameters: str | None, tokens: int | None, devices: tuple[int, Accelerator] | None, usd: float | None,
    context: int | None, hours: int | None,
) -> Plan:  # fmt: skip
    if parameters is None:
        raise InputError("name a size, such as --parameters 7B, or give a recipe or a text.")
    size = parse_count(parameters, "--parameters")
    if tokens is None:
        raise InputError("name the length of the training, such as --tokens 2T.")
    if devices is None:
        raise InputError("name what it is to run on, such as --on 8xA100.")
    given = None
    if hours is not None:
        refuse_impossible(size, tokens, hours, devices[1])
        seconds = 3600 * hours / devices[0]
        given = Range(seconds, seconds, seconds, "the hours are given, and all of them paid for")
    made = make_plan(tokens=tokens, on=devices, context=context, parameters=size, usd_per_hour=usd, wall=given)
    if hours is None:
        return made
    return msgspec.structs.replace(made, utilisation=implied_utilisation(made.flops, hours, devices[1]))


def _needs_no_text(settings: Settings) -> bool:
    """Whether the size and the length stand in the settings themselves, and no text is named."""
    train = settings.train
    length = train.tokens is not None or (train.steps is not None and train.batch is not None)
    return length and settings.model.preset is not None and not settings.text.paths


def _planned(
    settings: Settings, reading: Reading | None, on: tuple[int, Accelerator], usd: float | None, measuring: bool
) -> Plan:
    """Choose what is open as `train` does, and plan that."""
    assumed: list[str] = []
    if reading is None:
        assert settings.model.preset is not None
        vocabulary = preset(settings.model.preset).vocabulary
        data = Data(10**15, 4 * 10**15, vocabulary)
        assumed.append(f"no text is given: a vocabulary of {vocabulary:,} ids, and no token seen twice.")
    else:
        data, assumed = reading.data, list(reading.assumed)
    machine = Machine.of(on[1], on[0])
    choice = choose(settings, data, machine)
    assert choice.settings.train.batch is not None
    step_tokens = choice.settings.train.batch * choice.shape.context
    here = on[1].name == HERE
    flops = choice.shape.flops_per_token()
    pace = estimated(flops * step_tokens, flops, choice.shape.parameters, machine.flops_per_second)
    if measuring:
        pace, device = _measured(settle(choice, pace, START_SECONDS), choice.shape.vocabulary)
        on, here = (1, device), True
    resolved = settle(choice, pace, START_SECONDS)
    steps = resolved.train.steps or 0
    said, fits = f"steps: {steps:,}", False
    if steps == choice.most_steps:
        said += f" ({worthwhile_epochs(choice.data, choice.shape):.2g} epochs: more would raise the validation loss)"
    elif choice.seconds is not None and here:  # then the steps vary, not the time
        said += f" ({steps / pace.factor:,.0f} to {steps * pace.factor:,.0f}: as many as fit the time when it begins)"
        pace, fits = msgspec.structs.replace(pace, factor=MEASURED_FACTOR), True
    return plan_of(
        resolved, choice.shape, reading, on, pace=pace if here else None, spent=START_SECONDS if here else 0.0, usd=usd,
        chosen=[*choice.reasons, said], assumed=assumed, fits=fits,
        may_decide=given_length(settings) in (None, "budget") and bool(choice.settings.checkpoint.best),
    )  # fmt: skip


def _measured(settings: Settings, vocabulary: int) -> tuple[Pace, Accelerator]:
    """The pace of these settings on this machine, by another process, since this one stays without torch."""
    asked = msgspec.json.encode({"settings": to_toml(settings), "vocabulary": vocabulary})
    done = subprocess.run(
        [sys.executable, "-P", "-m", "hornbook.session.meter"], input=asked, capture_output=True, check=False
    )
    if done.returncode:
        raise WorldError(f"the measurement failed: {done.stderr.decode(errors='replace').strip().splitlines()[-1:]}.")
    return msgspec.json.decode(done.stdout, type=tuple[Pace, Accelerator])


def settle(choice: Choice, pace: Pace, spent: float) -> Settings:
    """The settings with their number of steps: the one chosen, or as many as fit the time that is left of a budget
    and are worth it."""

    def wall(steps: int) -> float:
        return spent + wall_of(choice, pace, steps)

    steps = choice.settings.train.steps
    if steps is None:
        steps = steps_within(choice.seconds or 0.0, wall, most=choice.most_steps)
    return _filled(choice, steps)


def wall_of(choice: Choice, pace: Pace, steps: int) -> float:
    """Seconds from the first step to the summary, were it `steps` long."""
    return wall_seconds(pace, steps, watched(_filled(choice, steps), choice.shape, choice.data))


def _filled(choice: Choice, steps: int) -> Settings:
    settings = copy.deepcopy(choice.settings)
    fill_steps(settings, steps, choice.data)
    return settings


def watched(settings: Settings, shape: GPTShape, data: Data) -> Watched:
    """What a run with these settings does besides its steps."""
    steps, watch, held = settings.train.steps, settings.watch, data.validation_tokens
    assert steps is not None
    assert watch.evaluate_every is not None
    every = (watch.sample_every, settings.checkpoint.every)
    samples, saves = (1 + steps // (each or steps) + (steps % (each or steps) > 0) for each in every)
    seen, probe = looks(steps, steps_per_epoch(settings, data), watch.evaluate_every), watch.probe_tokens or 0
    # Eight samples are written together: a position of all of them takes about twice as long as a token of one.
    copies = 2 * min(COPY_PROBE_TOKENS, shape.context) if held else 0
    prompts = max(1, len(watch.prompts))
    return Watched(
        evaluated_tokens=sum(min(FIRST_PROBE, tokens) + seen.num_even * tokens for tokens in (probe, min(probe, held)))
        + seen.num_extra * min(probe, held),
        sampled_tokens=prompts * (min(FIRST_SAMPLE, watch.sample_tokens) + (samples - 1) * watch.sample_tokens)
        + (samples - 1) * copies,
        scored_tokens=2 * held,  # windows overlap by half
        saved_bytes=saves * shape.parameters * 12,
    )


def plan_of(
    settings: Settings, shape: GPTShape, reading: Reading | None, on: tuple[int, Accelerator], *, pace: Pace | None,
    spent: float = 0.0, usd: float | None = None, chosen: Sequence[str] = (), assumed: Sequence[str] = (),
    expected: Range | None = None, fits: bool = False, may_decide: bool = False,
) -> Plan:  # fmt: skip
    """The plan of resolved settings. With a `pace` of this machine, `spent` seconds have gone before the first step;
    `expected` is the loss in nats per token where more is known of the text than the published laws say; `fits` says
    that the steps follow from a time, `may_decide` that the run may go back to its best look."""
    train, schedule = settings.train, settings.schedule
    assert train.steps is not None
    assert train.batch is not None
    assert schedule.warmup_steps is not None
    step_tokens = train.batch * shape.context
    recipe = Recipe(
        shape=shape, batch_tokens=step_tokens, steps=train.steps, warmup_steps=schedule.warmup_steps,
        evaluate_every=settings.watch.evaluate_every, optimizer=settings.optimizer.name or "adamw",
        precision=train.precision, threads=train.threads, may_decide=may_decide,
        is_scored=reading is not None and reading.data.validation_tokens > 1,
        learning_rates=learning_rates(settings),
        train_tokens=None if reading is None else reading.data.num_tokens,
        train_bytes=None if reading is None else reading.data.num_bytes,
        readings_per_epoch=1.0 if reading is None else reading.readings_per_epoch,
        median_document_tokens=None if reading is None else reading.median_document_tokens,
    )  # fmt: skip
    microbatch = train.microbatch or train.batch
    data = Data(step_tokens, 0, shape.vocabulary) if reading is None else reading.data
    return make_plan(
        tokens=train.steps * step_tokens, on=on, shape=shape, usd_per_hour=usd, recipe=recipe, microbatch=microbatch,
        accumulating=microbatch < train.batch, checkpointing=train.recompute,
        memory_bytes=memory_bytes() if on[1].name == HERE or on[1].memory_bytes is None else None,
        wall=None if pace is None else _around(
            spent + wall_seconds(pace, train.steps, watched(settings, shape, data)), pace.factor, fits
        ),
        loss=expected, bytes_per_token=None if reading is None else reading.bytes_per_token,
        chosen=list(chosen), assumed=list(assumed),
    )  # fmt: skip


def _around(seconds: float, factor: float, fits: bool) -> Range:
    why = "steps of this run were measured here" if factor < 2 else "a matrix product was measured here, not this run"
    if fits:
        why = "training measures its pace and takes the steps that fit the time"
    return Range(seconds / factor, seconds, seconds * factor, f"{why}; start, evaluations, samples and report included")


def learning_rates(settings: Settings) -> dict[str, float]:
    """Peaks by the kinds that `sanity.rate_rule` knows."""
    o = settings.optimizer
    if o.name == "muon":
        return {"muon": o.matrix_learning_rate or 0.0, "beside muon": o.learning_rate or 0.0}
    return {"adamw": o.learning_rate or 0.0}


# ---- Reading a text without preparing it


def read(text: Text) -> Reading:
    """Counts of a prepared text, or of what was prepared of this text before; else estimates from a part of it."""
    folder = prepared_folder(text)
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return _estimated(text)
    found = msgspec.json.decode(manifest.read_bytes())
    train, validation = found["parts"]["train"], found["parts"]["validation"]
    data = Data(
        train["num_tokens"], train["num_bytes"], found["tokenizer"]["vocabulary"], validation["num_tokens"]
    )  # fmt: skip
    said = [] if is_prepared(text.paths) else [f"the text is what it was when {folder} was prepared."]
    documents = max(1, train["num_documents"])
    return Reading(data, validation["num_bytes"], train["num_tokens"] / documents, said)


def _estimated(text: Text) -> Reading:
    """From the first characters of a text and the sizes of its files."""
    found, seen, sizes = read_documents(text), set[str](), list[int]()
    characters = num_bytes = 0
    for document in found:
        sizes.append(0)
        for piece in document.pieces():
            length = len(piece.encode())
            characters, num_bytes, sizes[-1] = characters + len(piece), num_bytes + length, sizes[-1] + length
            seen.update(piece)
            if characters > SAMPLE_CHARACTERS:
                break
        if characters > SAMPLE_CHARACTERS:
            break
    whole = 1.0
    if characters > SAMPLE_CHARACTERS:  # compressed files have more text than bytes: then this is too little
        whole = max(1.0, sum(map(os.path.getsize, {document.path for document in found})) / num_bytes)
    kept = 1.0 - _validation_share(text, len(found), round(whole * characters))
    total = round(whole * num_bytes)
    vocabulary, per_token = _tokens(text.tokenizer, kept * total, len(seen), num_bytes / max(1, characters))
    tokens = round(kept * total / per_token)
    like = "" if text.tokenizer in ("bytes", "characters") else " as in English prose"
    said = (
        f"the text is not prepared yet: {per_token:.2g} bytes a token{like}, about {format_count(tokens)} tokens to "
        "train on."
    )
    held = round((1 - kept) * total)
    data = Data(tokens, round(kept * total), vocabulary, round(held / per_token))
    return Reading(data, held, statistics.median(sizes) / per_token, [said])


def _validation_share(text: Text, num_documents: int, characters: int) -> float:
    kind, _, share = text.split.partition(":")
    if kind == "auto":
        return automatic_share(default_rule(num_documents).partition(":")[0], num_documents, characters)
    try:
        return float(share)
    except ValueError:  # a folder, or none
        return 0.0 if kind == "none" else 0.1


def _tokens(tokenizer: str, num_bytes: float, num_characters: int, bytes_per_character: float) -> tuple[int, float]:
    """(ids, bytes a token) that a tokenizer will have; of a BPE as on English prose, where the
    formula was within 4 % of what `prepare` made of 8 kB to 12 MB."""
    if tokenizer in ("bytes", "characters"):
        return (257, 1.0) if tokenizer == "bytes" else (num_characters + 1, bytes_per_character)
    asked = "50257" if tokenizer == "gpt2" else tokenizer.partition(":")[2]
    vocabulary = int(asked) if asked.isdecimal() else default_vocabulary(round(num_bytes))
    return vocabulary, min(4.4, max(1.0, 0.62 * math.log(vocabulary) - 1.58 - 26 / max(1, vocabulary - 256)))
