"""`hornbook.plan`: what a training run needs, before anything is spent. Torch-free."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

from hornbook.commands.options import add_settings, add_texts, given_settings, value
from hornbook.facts.accelerators import lookup
from hornbook.facts.errors import InputError, SystemFailure
from hornbook.facts.hardware import HERE, Accelerator, custom, usable_cores
from hornbook.facts.printing import print, print_json
from hornbook.facts.settings import Settings, from_table, overridden, read_table, to_toml
from hornbook.facts.shape import preset
from hornbook.facts.units import parse_count, parse_price
from hornbook.planning.budget import implied_utilisation, refuse_impossible
from hornbook.planning.choose import Machine, choose, given_length, worthwhile_epochs
from hornbook.planning.plan import Plan, make_plan
from hornbook.planning.plan_run import estimated, plan_of, product_flops_per_second
from hornbook.planning.wall import resolve_steps
from hornbook.planning.workload import MEASURED_FACTOR, CorpusStats, Range, StepTimes, TextEstimate
from hornbook.setup.estimate import read

START_SECONDS = 5.0  # until the first step: importing, opening the text, making the model


def flags(parser: argparse.ArgumentParser) -> None:
    add_texts(parser, "texts as for train, or a recipe (a .toml file); none: the built-in corpus")
    parser.add_argument("--recipe", metavar="FILE", help="a TOML file of settings; flags override it")
    parser.add_argument("--parameters", "--size", metavar="N", help="a model size, such as 7B, without recipe or text")
    parser.add_argument("--tokens", "--train.tokens", metavar="N", help="length of the training, such as 2T")
    parser.add_argument("--context", "--model.context", type=value(int), metavar="N", help="context length in tokens")
    parser.add_argument("--on", metavar="DEVICES", help="hardware, such as 8xA100 (default: this machine)")
    parser.add_argument("--peak", metavar="FLOPS", help="peak FLOP/s of an unlisted device, such as 300T")
    parser.add_argument("--price", metavar="PRICE", help="price of all devices together, such as 30/hour")
    parser.add_argument("--hours", metavar="N", help="reported device-hours: prints the implied utilisation and cost")
    parser.add_argument("--measure", action="store_true", help="measure this machine for a few seconds first")
    parser.add_argument("--plot", metavar="FILE", help="plot the best loss against cost, as .png or .svg")
    add_settings(parser, lambda name: name not in ("train.tokens", "model.context"))


def command(arguments: argparse.Namespace) -> None:
    import msgspec

    from hornbook.planning.plan_text import render

    made = plan(
        *arguments.texts, recipe=arguments.recipe, parameters=arguments.parameters, tokens=arguments.tokens,
        on=arguments.on, price=arguments.price, peak=arguments.peak, context=arguments.context, hours=arguments.hours,
        measure=arguments.measure, **given_settings(arguments),
    )  # fmt: skip
    if arguments.plot is not None:
        from hornbook.reporting.plots import cost_plot

        cost_plot([msgspec.to_builtins(point) for point in made.frontier], arguments.plot)
    if arguments.json:
        print_json(made.to_dict())
    else:
        print("\n".join(render(made)))


def plan(
    *given: str | Path, recipe: str | Path | None = None, parameters: str | None = None, tokens: str | None = None,
    on: str | None = None, price: str | None = None, peak: str | None = None, context: int | None = None,
    hours: str | None = None, measure: bool = False, **changes: Any,
) -> Plan:  # fmt: skip
    """Plan the training of texts as `train` would choose it, of a recipe, or of `parameters` ("7B") on `tokens` ("2T").

    `given` are texts or a recipe (a .toml file, also given as `recipe`); `changes` are settings by any of their names.
    `on` is a device known by name ("8xA100"), or any with its `peak` in FLOP/s, by default this machine, which
    `measure` times for some seconds; `price` ("30/hour") pays for all of them. `hours` are the reported device-hours of
    a training of that size: the plan is what they imply and cost. Raises InputError for what cannot be read, is missing
    or impossible.
    """
    recipes = [Path(name) for name in given if str(name).endswith(".toml")]
    recipes += [] if recipe is None else [Path(recipe)]
    texts = [str(name) for name in given if not str(name).endswith(".toml")]
    if len(recipes) > 1:
        raise InputError(f"a plan is for one recipe, and {len(recipes)} were given.")
    devices = _devices(on, peak)
    usd = None if price is None else parse_price(price)
    length = None if tokens is None else parse_count(tokens, "--tokens")
    if parameters is not None or (length is not None and not texts and not recipes and not changes):
        if texts or recipes:
            raise InputError("a recipe or a text already sets the size: give either that or --parameters.")
        return _of_size(
            parameters, length, devices, usd, context, None if hours is None else parse_count(hours, "--hours")
        )
    if hours is not None:
        raise InputError("--hours needs a model size: give --parameters, --tokens and --on as well.")
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
        raise InputError("give a size, such as --parameters 7B, or give a recipe or a text.")
    size = parse_count(parameters, "--parameters")
    if tokens is None:
        raise InputError("give the length of the training, such as --tokens 2T.")
    if devices is None:
        raise InputError("give the hardware, such as --on 8xA100.")
    wall = None
    if hours is not None:
        refuse_impossible(size, tokens, hours, devices[1])
        seconds = 3600 * hours / devices[0]
        wall = Range(seconds, seconds, seconds, "the hours are given, and all of them are paid for")
    made = make_plan(tokens=tokens, on=devices, context=context, parameters=size, usd_per_hour=usd, wall=wall)
    if hours is None:
        return made
    return msgspec.structs.replace(made, utilisation=implied_utilisation(made.flops, hours, devices[1]))


def _needs_no_text(settings: Settings) -> bool:
    """Whether the size and the length stand in the settings themselves, and no text is named."""
    train = settings.train
    length = train.tokens is not None or (train.steps is not None and train.batch is not None)
    return length and settings.model.preset is not None and not settings.text.paths


def _planned(
    settings: Settings, reading: TextEstimate | None, on: tuple[int, Accelerator], usd: float | None, measuring: bool
) -> Plan:
    """Choose what is open as `train` does, and plan that."""
    assumed: list[str] = []
    if reading is None:
        assert settings.model.preset is not None
        vocabulary = preset(settings.model.preset).vocabulary
        data = CorpusStats(10**15, 4 * 10**15, vocabulary)
        assumed.append(f"no text is given: a vocabulary of {vocabulary:,} ids and one pass over the text.")
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
        pace, device = _measured(resolve_steps(choice, pace, START_SECONDS), choice.shape.vocabulary)
        on, here = (1, device), True
    resolved = resolve_steps(choice, pace, START_SECONDS)
    processes, microbatch = settings.train.processes, resolved.train.microbatch
    if processes > 1 and settings.train.microbatch is None and microbatch is not None:  # as `share_out` does
        resolved.train.microbatch = min(microbatch, -(-choice.settings.train.batch // processes))
    if processes > 1 and settings.train.threads is None:
        resolved.train.threads = max(1, usable_cores() // processes)
    steps = resolved.train.steps or 0
    reason, fits = f"steps: {steps:,}", False
    if steps == choice.most_steps:
        epochs = worthwhile_epochs(choice.data, choice.shape)
        if given_length(settings) in (None, "budget"):
            reason += f" ({epochs:.2g} epochs: more would raise the validation loss)"
    elif choice.seconds is not None and here:  # then the steps vary, not the time
        reason += f" ({steps / pace.factor:,.0f} to {steps * pace.factor:,.0f}: as many as fit the time)"
        pace, fits = msgspec.structs.replace(pace, factor=MEASURED_FACTOR), True
    return plan_of(
        resolved, choice.shape, reading, on, pace=pace if here else None, spent=START_SECONDS if here else 0.0, usd=usd,
        chosen=[*choice.reasons, reason], assumed=assumed, fits=fits,
        may_decide=given_length(settings) in (None, "budget") and bool(choice.settings.checkpoint.best),
    )  # fmt: skip


def _measured(settings: Settings, vocabulary: int) -> tuple[StepTimes, Accelerator]:
    """The pace of these settings on this machine, by another process, since this one stays without torch."""
    request = msgspec.json.encode({"settings": to_toml(settings), "vocabulary": vocabulary})
    done = subprocess.run(
        [sys.executable, "-P", "-m", "hornbook.setup.pace"], input=request, capture_output=True, check=False
    )
    if done.returncode:
        raise SystemFailure(
            f"the measurement failed: {done.stderr.decode(errors='replace').strip().splitlines()[-1:]}."
        )
    return msgspec.json.decode(done.stdout, type=tuple[StepTimes, Accelerator])


# ---- Reading a text without preparing it
