"""The plan of a run: everything that can be said before anything is spent, as one object and as lines of text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec

from hornbook.facts.errors import InputError
from hornbook.facts.hardware import Accelerator
from hornbook.facts.shape import GPTShape
from hornbook.facts.tables import html_table
from hornbook.facts.units import counted, format_bytes, format_count, format_duration, format_usd
from hornbook.planning.budget import Range, budget, training_flops, typical_shape
from hornbook.planning.expected_loss import (
    FrontierPoint,
    chinchilla_loss,
    expected_loss,
    frontier,
    why_no_loss,
)
from hornbook.planning.memory import Memory, counting_bytes, evaluation_bytes, largest_microbatch, memory
from hornbook.planning.sanity import Recipe, sanity

# Preparing, tokenizers, scoring and plots of a job on a CPU, beside its training, and for each id of the vocabulary its
# place in the tokenizer; measured.
JOB_BYTES, ID_BYTES = 55 * 2**20, 500
TYPICAL_CONTEXT, TYPICAL_VOCABULARY = 4096, 32_000  # where only a size is given: Llama 2's


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What `hornbook plan --json` prints. Intervals are 90 % ranges; the unknown is None, and `unknown` says why."""

    parameters: int
    parameters_by_part: dict[str, int] | None
    num_tokens: int
    flops_per_token: float
    flops: float
    accelerator: str
    num_accelerators: int
    utilisation: float | None
    utilisation_interval_90: tuple[float, float] | None
    gpu_hours: float | None
    gpu_hours_interval_90: tuple[float, float] | None
    wall_seconds: float | None
    wall_seconds_interval_90: tuple[float, float] | None
    energy_kwh: float | None
    energy_kwh_interval_90: tuple[float, float] | None
    price_usd: float | None
    price_usd_interval_90: tuple[float, float] | None
    steps: int | None
    epochs: float | None
    warmup_share: float | None
    loss_nats_per_token: float | None
    loss_nats_per_token_interval_90: tuple[float, float] | None
    bits_per_byte: float | None
    bits_per_byte_interval_90: tuple[float, float] | None
    memory_bytes: dict[str, int] | None  # on each device at `microbatch`, by part, and `total`
    memory_bytes_checkpointing: int | None  # the total, recomputing activations
    microbatch: int | None
    largest_microbatch: int | None
    largest_microbatch_checkpointing: int | None
    compute_optimal: FrontierPoint | None  # the best split of the same FLOPs
    frontier: list[FrontierPoint]
    chosen: list[str]  # automatically, each with its reason
    reasons: dict[str, str]
    assumed: list[str]
    unknown: list[str]
    warnings: list[str]

    def to_dict(self) -> dict[str, Any]:
        result: dict[str, Any] = msgspec.to_builtins(self)
        return result

    def __str__(self) -> str:
        return "\n".join(render(self))

    def _repr_html_(self) -> str:
        return html_table((line[:14], line[14:]) for line in render(self))


def shape_of_size(parameters: int, *, context: int | None = None) -> GPTShape:
    """A Llama-like shape of about this size, for when only the size is given.

    >>> shape = shape_of_size(7_000_000_000)
    >>> shape.layers, shape.width, abs(shape.parameters / 7e9 - 1) < 0.05
    (31, 4224, True)
    """
    layers, width = typical_shape(parameters)
    heads = max(1, round(width / 128))
    width = heads * 128 if width >= 128 else max(8, width // 8 * 8)
    vocabulary = min(TYPICAL_VOCABULARY, max(256, parameters // (8 * width)))  # embedding and head: at most a quarter
    layer = 12 * width * width
    layers = max(1, round((parameters - 2 * vocabulary * width) / layer))
    return GPTShape(
        family="llama", layers=layers, width=width, heads=heads, context=context or TYPICAL_CONTEXT,
        vocabulary=vocabulary,
    )  # fmt: skip


def make_plan(
    *, tokens: int, on: tuple[int, Accelerator], shape: GPTShape | None = None, parameters: int | None = None,
    context: int | None = None, usd_per_hour: float | None = None, recipe: Recipe | None = None,
    microbatch: int | None = None, accumulating: bool = False, checkpointing: bool = False,
    memory_bytes: int | None = None, wall: Range | None = None, loss: Range | None = None,
    bytes_per_token: float | None = None, chosen: Sequence[str] = (), assumed: Sequence[str] = (),
) -> Plan:  # fmt: skip
    """Plan the training of a `shape`, or of a size in `parameters`, on `tokens` tokens.

    `usd_per_hour` pays for all accelerators. `memory_bytes` is one device's, by default as sold. `recipe` is judged by
    `sanity`. `wall`, the seconds of the whole job, replaces the published runs; `loss` replaces the published laws of
    it. Raises InputError unless one of shape and parameters is given.
    """
    count, accelerator = on
    size, full, flops = _model(shape, parameters, context, tokens)
    costs = budget(
        flops, accelerator, count=count, parameters=size, usd_per_hour=usd_per_hour, wall=wall,
    )  # fmt: skip
    passes = tokens / recipe.train_tokens if recipe and recipe.train_tokens else None
    loss = loss or expected_loss(size, tokens, full.vocabulary, epochs=passes or 1.0)
    per_byte = None if loss is None or bytes_per_token is None else loss.times(1 / (math.log(2) * bytes_per_token))
    room = memory_bytes or accelerator.memory_bytes
    parts = _parts(full, accelerator, count, room, recipe, accumulating)
    needed = parts(checkpointing, microbatch or 1)
    ranges = {name: getattr(costs, name) for name in _COSTS} | {"loss_nats_per_token": loss, "bits_per_byte": per_byte}
    if shape is None:
        assumed = [*assumed, f"only the size is given: a context of {full.context:,} tokens and a Llama's shape."]
    points = frontier(flops, accelerator, count=count, usd_per_hour=usd_per_hour)
    return Plan(
        parameters=size,
        parameters_by_part=None if shape is None else shape.parameters_by_part(),
        num_tokens=tokens,
        flops_per_token=flops / tokens,
        flops=costs.flops,
        accelerator=accelerator.name,
        num_accelerators=count,
        steps=recipe.steps if recipe else None,
        epochs=passes,
        warmup_share=recipe.warmup_steps / max(recipe.steps, 1) if recipe else None,
        microbatch=microbatch or 1,
        compute_optimal=next((point for point in points if point.flops == flops), None),
        frontier=points,
        reasons={name: value.reason for name, value in ranges.items() if value is not None},
        chosen=list(chosen),
        assumed=list(assumed),
        unknown=[*costs.unknown, *([] if loss is not None else [why_no_loss(size, tokens) or ""])],
        warnings=_warnings(recipe, needed, room, full, parts),
        **_intervals(ranges),
        **_memory(parts, needed, microbatch or 1, room),
    )


_COSTS = ("utilisation", "gpu_hours", "wall_seconds", "energy_kwh", "price_usd")


def _warnings(recipe: Recipe | None, needed: Memory, room: int | None, shape: GPTShape, parts: _Parts) -> list[str]:
    """What is wrong with the recipe, whose memory is filled in; without one, whether the model fits at all."""
    if recipe is None:
        return _too_large(needed, room, shape, parts)
    if recipe.needed_bytes is None:
        recipe = msgspec.structs.replace(recipe, needed_bytes=needed.total, available_bytes=room)
    return sanity(recipe)


def _model(
    shape: GPTShape | None, parameters: int | None, context: int | None, tokens: int
) -> tuple[int, GPTShape, float]:
    """Parameters, a shape, FLOPs."""
    if tokens < 1:
        raise InputError(f"a plan needs tokens to train on, and {tokens} were given.")
    if shape is not None and parameters is None:
        return shape.parameters, shape, float(shape.flops_per_token() * tokens)
    if shape is not None or parameters is None:
        raise InputError("a plan needs either a model's shape or its size (--parameters 7B), and not both.")
    full = shape_of_size(parameters, context=context)
    return parameters, full, training_flops(parameters, tokens, context=full.context)


def _intervals(ranges: dict[str, Range | None]) -> dict[str, Any]:
    numbers: dict[str, Any] = {}
    for name, value in ranges.items():
        numbers[name] = None if value is None else value.central
        numbers[f"{name}_interval_90"] = None if value is None else (value.low, value.high)
    return numbers


def _memory(parts: _Parts, needed: Memory, microbatch: int, room: int | None) -> dict[str, Any]:
    most = (None, None) if room is None else tuple(largest_microbatch(room, partial(parts, c)) for c in (False, True))
    return {
        "memory_bytes": {part: int(getattr(needed, part)) for part in _PARTS} | {"total": needed.total},
        "memory_bytes_checkpointing": parts(True, microbatch).total,
        "largest_microbatch": most[0],
        "largest_microbatch_checkpointing": most[1],
    }


_PARTS = ("weights", "gradients", "optimizer", "best", "activations", "logits", "counting", "process", "margin")


class _Parts(msgspec.Struct, frozen=True):
    """Memory by microbatch, everything else fixed."""

    shape: GPTShape
    on_cpu: bool
    half: bool
    accumulating: bool
    recipe: Recipe | None
    shards: int = 1

    def __call__(self, checkpointing: bool, microbatch: int) -> Memory:
        recipe = self.recipe
        threads = None if recipe is None else recipe.threads
        needed = memory(
            self.shape, microbatch, optimizer="adamw" if recipe is None else recipe.optimizer, half=self.half,
            checkpointing=checkpointing, accumulating=self.accumulating, on_cpu=self.on_cpu, threads=threads,
            shards=self.shards,
        )  # fmt: skip
        if not self.on_cpu or recipe is None:
            return needed
        job = JOB_BYTES + ID_BYTES * self.shape.vocabulary + evaluation_bytes(self.shape, threads)
        return msgspec.structs.replace(
            needed, process=needed.process + job,
            counting=counting_bytes(recipe.train_tokens or 0, self.shape.vocabulary),
            best=recipe.is_scored * needed.weights + recipe.may_decide * needed.optimizer,
        )  # fmt: skip


def _parts(
    shape: GPTShape, accelerator: Accelerator, count: int, room: int | None, recipe: Recipe | None, accumulating: bool
) -> _Parts:
    """Mixed precision where the accelerator has 16-bit arithmetic, on a CPU where the recipe says so; shards over all
    devices where one copy does not fit on each."""
    on_cpu = not any(dtype in accelerator.peak_flops for dtype in ("bfloat16", "float16"))
    half = not on_cpu or (recipe is not None and recipe.precision == "bfloat16")
    whole = _Parts(shape, on_cpu, half, accumulating, recipe)
    split = count > 1 and room is not None and whole(True, 1).total > room
    return msgspec.structs.replace(whole, shards=count) if split else whole


def _too_large(needed: Memory, room: int | None, shape: GPTShape, parts: _Parts) -> list[str]:
    if room is None or needed.total <= room:
        return []
    how = "sharded over all of them" if parts.shards > 1 else "with a full copy on each device"
    return [
        f"the run does not fit: one window of {shape.context:,} tokens needs {format_bytes(needed.total)}, {how}, and "
        f"a device has {format_bytes(room)}; with checkpointing it needs {format_bytes(parts(True, 1).total)}."
    ]


def score(plan: Plan, **actual: float) -> dict[str, dict[str, Any]]:
    """Predicted against actual for each number given by its key: {key: {predicted, actual, factor, inside}}.

    Raises InputError for a key that a plan does not have.

    >>> from hornbook.facts.hardware import lookup
    >>> plan = make_plan(parameters=7_000_000_000, tokens=2 * 10**12, on=lookup("8xA100"))
    >>> score(plan, gpu_hours=184_320)["gpu_hours"]["inside"]
    True
    """
    scored = {}
    for key, value in actual.items():
        if key not in Plan.__struct_fields__:
            raise InputError(f'a plan says nothing about "{key}".')
        predicted, interval = getattr(plan, key), getattr(plan, f"{key}_interval_90", None)
        if isinstance(predicted, dict):
            predicted = predicted["total"]
        known = predicted is not None and predicted > 0 and value > 0
        scored[key] = {
            "predicted": predicted,
            "actual": value,
            "factor": math.exp(abs(math.log(predicted / value))) if known else None,
            "inside": None if interval is None else interval[0] <= value <= interval[1],
        }
    return scored


def render(plan: Plan) -> list[str]:
    """The plan as plain lines, one number each with its range; reasons, what is unknown and warnings come last."""
    lines = [
        f"model         {format_count(plan.parameters)} parameters" + _by_part(plan),
        f"training      {format_count(plan.num_tokens)} tokens"
        + (
            ""
            if plan.steps is None
            else f" in {counted(plan.steps, 'step')}, {plan.warmup_share or 0:.0%} of them warm-up"
        )
        + (
            ""
            if plan.epochs is None
            else f", {plan.epochs:,.0f} epochs"
            if plan.epochs >= 100
            else f", {plan.epochs:.3g} epochs"
        ),
        f"arithmetic    {plan.flops:.3g} FLOPs, {plan.flops_per_token:.3g} a token, attention included",
        f"hardware      {plan.num_accelerators} x {plan.accelerator}"
        + _span(plan, "utilisation", "{:.0%}").replace(", ", ", using ", 1),
    ]
    for name, key, form in (
        ("device-hours", "gpu_hours", "number"),
        ("wall time", "wall_seconds", "time"),
        ("energy, kWh", "energy_kwh", "number"),
        ("price", "price_usd", "money"),
        ("final loss", "loss_nats_per_token", "{:.2f}"),
        ("bits per byte", "bits_per_byte", "{:.2f}"),
    ):
        if key == "gpu_hours" and plan.num_accelerators == 1 and (plan.gpu_hours or 0.0) < 1:
            continue  # the wall time says it
        if said := _span(plan, key, form):
            lines.append(f"{name:<14}{said.removeprefix(', ')}")
    lines += [*_memory_lines(plan), *_best_lines(plan)]
    lines += [f"chosen        {reason}" for reason in plan.chosen]
    lines += [f"because       {reason}" for reason in dict.fromkeys(plan.reasons.values())]
    lines += [f"assumed       {sentence}" for sentence in plan.assumed]
    lines += [f"unknown       {sentence}" for sentence in plan.unknown]
    return lines + [f"warning       {sentence}" for sentence in plan.warnings]


def brief(plan: Plan) -> str:
    """What stands above a run that begins: time, memory, loss, money as far as they are known."""
    spans = (
        ("time", "wall_seconds", "time"),
        ("price", "price_usd", "money"),
        ("bits per byte", "bits_per_byte", "{:.2f}"),
    )
    said = [
        f"{name} {_span(plan, key, form).removeprefix(', ')}" for name, key, form in spans if _span(plan, key, form)
    ]
    said.append(f"memory {format_bytes((plan.memory_bytes or {}).get('total', 0))}")
    return f"plan: {', '.join(said)}"


def _memory_lines(plan: Plan) -> list[str]:
    if plan.memory_bytes is None:
        return []
    parts = ", ".join(f"{part} {format_bytes(plan.memory_bytes[part])}" for part in _PARTS)
    most = (plan.largest_microbatch, plan.largest_microbatch_checkpointing)
    fits = ["unknown" if number is None else f"{number:,}" for number in most]
    return [
        f"memory        {format_bytes(plan.memory_bytes['total'])} a device at microbatch {plan.microbatch}, "
        f"{format_bytes(plan.memory_bytes_checkpointing or 0)} with checkpointing",
        f"              {parts}",
        *([f"microbatch    at most {fits[0]} windows, with checkpointing {fits[1]}"] if most[0] is not None else []),
    ]


def _best_lines(plan: Plan) -> list[str]:
    lines = []
    if plan.compute_optimal is not None:
        here = chinchilla_loss(plan.parameters, plan.num_tokens)
        lines.append(f"same money    best spent on {_point(plan.compute_optimal)}; this plan: {here:.2f}")
    for point in plan.frontier:
        cost = "" if point.price_usd is None else f", {format_usd(point.price_usd)}"
        lines.append(f"frontier      {point.flops:.2g} FLOPs{cost}: {_point(point)}")
    return lines


def _point(point: FrontierPoint) -> str:
    return (
        f"{format_count(point.parameters)} parameters and {format_count(point.tokens)} tokens: "
        f"{point.loss_nats_per_token:.2f} nats per token"
    )


def _by_part(plan: Plan) -> str:
    parts = {name: number for name, number in (plan.parameters_by_part or {}).items() if number}
    return ": " + ", ".join(f"{name} {format_count(number)}" for name, number in parts.items()) if parts else ""


def _span(plan: Plan, key: str, form: str) -> str:
    """', central (low to high)', ', central' where that is given, or '' where the number is unknown."""
    central, interval = getattr(plan, key), getattr(plan, f"{key}_interval_90")
    if central is None:
        return ""
    forms = {"time": format_duration, "money": format_usd, "number": _number}
    write = forms.get(form, form.format)
    if interval is None or interval[0] == interval[1]:
        return f", {central:,.0f}" if form == "number" else f", {write(central)}"
    return f", {write(central)} ({write(interval[0])} to {write(interval[1])})"


def _number(number: float) -> str:
    """Three digits, none of them in front of an e.

    >>> _number(0.01234), _number(117234.5)
    ('0.0123', '117,000')
    """
    digits = float(f"{number:.3g}")
    return f"{digits:,.0f}" if digits >= 100 else f"{digits:.3g}"
