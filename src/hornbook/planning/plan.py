"""The plan of a run, before anything is spent. Its lines of text are made in `plan_text`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from hornbook.facts.errors import InputError
from hornbook.facts.hardware import Accelerator
from hornbook.facts.shape import GPTShape
from hornbook.facts.tables import html_table
from hornbook.facts.units import format_bytes, format_count, format_duration, format_usd
from hornbook.planning.budget import budget, training_flops, typical_shape
from hornbook.planning.expected_loss import FrontierPoint, expected_loss, frontier, why_no_loss
from hornbook.planning.health import RunFacts, warnings
from hornbook.planning.memory import Memory, largest_microbatch, memory_by_choice
from hornbook.planning.parallel import Layout, Parallel, layout_for, published_batch_tokens
from hornbook.planning.workload import Range, flat

TYPICAL_CONTEXT, TYPICAL_VOCABULARY = 4096, 32_000  # where only a size is given: Llama 2's


MemoryOf = Callable[[bool, int], Memory]  # by checkpointing and microbatch


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a run needs and reaches. Each `Range` holds in nine cases of ten; the unknown is None, and `unknown` says
    why. `to_dict` is what `hornbook plan --json` prints."""

    text: str | None  # what is trained on, as it was named; None where only sizes are given
    parameters: int
    parameters_by_part: dict[str, int] | None
    num_tokens: int
    flops_per_token: float
    flops: float
    accelerator: str
    num_accelerators: int
    parallel: Parallel | None  # None: one device
    shards: int  # devices that hold one copy of the model between them
    utilisation: Range | float | None  # a number where the hours are given
    gpu_hours: Range | None
    wall_seconds: Range | None
    energy_kwh: Range | None
    price_usd: Range | None
    steps: int | None
    epochs: float | None
    warmup_share: float | None
    loss_nats_per_token: Range | None
    bits_per_byte: Range | None
    memory_bytes: dict[str, int]  # on each device at `microbatch`, by part, and `total`
    memory_bytes_checkpointing: int  # the total, recomputing activations
    microbatch: int
    recompute: bool  # activations are computed again in the backward pass; the memory is that of it
    largest_microbatch: int | None
    largest_microbatch_checkpointing: int | None
    compute_optimal: FrontierPoint | None  # the best split of the same FLOPs
    frontier: list[FrontierPoint]
    chosen: list[str]  # automatically, each with its reason
    reasons: dict[str, str]  # of the ranges
    assumed: list[str]
    unknown: list[str]
    warnings: list[str]

    def to_dict(self) -> dict[str, Any]:
        """As values of JSON: a range is its central value, and its ends are `<name>_interval_90`."""
        table: dict[str, Any] = {}
        for name in self.__struct_fields__:
            value = getattr(self, name)
            table |= flat(name, value) if name in RANGES else {name: value}
        return table

    def __str__(self) -> str:
        from hornbook.planning.plan_text import render

        return "\n".join(render(self))

    def _repr_html_(self) -> str:
        from hornbook.planning.plan_text import render

        return html_table((line[:14], line[14:]) for line in render(self))


RANGES = (
    "utilisation", "gpu_hours", "wall_seconds", "energy_kwh", "price_usd", "loss_nats_per_token", "bits_per_byte",
)  # fmt: skip


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
    context: int | None = None, usd_per_hour: float | None = None, facts: RunFacts | None = None,
    microbatch: int | None = None, checkpointing: bool = False,
    memory_bytes: int | None = None, wall: Range | None = None, loss: Range | None = None, text: str | None = None,
    bytes_per_token: float | None = None, chosen: Sequence[str] = (), assumed: Sequence[str] = (),
) -> Plan:  # fmt: skip
    """Plan the training of a `shape`, or of a size in `parameters`, on `tokens` tokens.

    `usd_per_hour` pays for all accelerators. `memory_bytes` is one device's, by default as sold. `facts` are what the
    health checks judge. `wall`, the seconds of the whole job, replaces the published runs; `loss`, in nats per token,
    the published laws. Raises InputError unless one of shape and parameters is given.
    """
    count, accelerator = on
    size, full, flops = _model(shape, parameters, context, tokens)
    costs = budget(flops, accelerator, count=count, parameters=size, usd_per_hour=usd_per_hour, wall=wall)
    passes = tokens / facts.train_tokens if facts and facts.train_tokens else None
    loss = loss or expected_loss(size, tokens, full.vocabulary, epochs=passes or 1.0)
    per_byte = None if loss is None or bytes_per_token is None else loss.times(1 / (math.log(2) * bytes_per_token))
    room = memory_bytes or accelerator.memory_bytes
    parts_of = memory_by_choice(full, accelerator, facts)
    layout = layout_for(lambda shards: room is None or parts_of(True, 1, shards).total <= room, count)
    memory_of = partial(parts_of, shards=layout.shards)
    if shape is None:
        assumed = [*assumed, f"only the size is given: a context of {full.context:,} tokens and Llama's proportions."]
    if facts is None:
        batch = published_batch_tokens(size)
        assumed = [*assumed, f"steps of {format_count(batch)} tokens, as GPT-3's sizes had (Brown et al. 2020)."]
        if microbatch is None and room is not None:
            checkpointing, microbatch = _fitting(memory_of, room, max(1, batch // full.context // count))
    needed = memory_of(checkpointing, microbatch or 1)
    ranges: dict[str, Any] = {name: getattr(costs, name) for name in RANGES[:5]}
    ranges |= {"loss_nats_per_token": loss, "bits_per_byte": per_byte}
    points = frontier(flops, accelerator, count=count, usd_per_hour=usd_per_hour)
    return Plan(
        text=text,
        parameters=size,
        parameters_by_part=None if shape is None else shape.parameters_by_part(),
        num_tokens=tokens,
        flops_per_token=flops / tokens,
        flops=costs.flops,
        accelerator=accelerator.name,
        num_accelerators=count,
        parallel=layout.parallel,
        shards=layout.shards,
        steps=facts.steps if facts else math.ceil(tokens / batch),
        epochs=passes,
        warmup_share=facts.warmup_steps / max(facts.steps, 1) if facts else None,
        microbatch=microbatch or 1,
        recompute=checkpointing,
        compute_optimal=next((point for point in points if point.flops == flops), None),
        frontier=points,
        reasons={name: value.reason for name, value in ranges.items() if value is not None},
        chosen=list(chosen),
        assumed=list(assumed),
        unknown=[*costs.unknown, *([] if loss is not None else [why_no_loss(size, tokens) or ""])],
        warnings=_warnings(facts, needed, room, full, memory_of, layout),
        **ranges,
        **_memory(memory_of, needed, microbatch or 1, room),
    )


def _fitting(memory_of: MemoryOf, room: int, windows: int) -> tuple[bool, int]:
    """Whether to recompute activations, and the microbatch, where a device is to take `windows` a step."""
    whole, recomputing = (largest_microbatch(room, partial(memory_of, recompute)) for recompute in (False, True))
    return not whole, min(windows, max(1, whole or recomputing))


def _warnings(
    facts: RunFacts | None, needed: Memory, room: int | None, shape: GPTShape, memory_of: MemoryOf, layout: Layout
) -> list[str]:
    """What will go wrong, by the facts with the memory filled in; without them, whether the model fits at all."""
    if facts is not None:
        return warnings(msgspec.structs.replace(facts, needed_bytes=needed.total, available_bytes=room))
    if room is None or needed.total <= room:
        return []
    copies = "sharded over all of them" if layout.shards > 1 else "with a full copy on each device"
    return [
        f"the run does not fit: one window of {shape.context:,} tokens needs {format_bytes(needed.total)}, {copies}, "
        f"and a device has {format_bytes(room)}; with checkpointing it needs {format_bytes(memory_of(True, 1).total)}."
    ]


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


def _memory(memory_of: MemoryOf, needed: Memory, microbatch: int, room: int | None) -> dict[str, Any]:
    most = [
        None if room is None else largest_microbatch(room, partial(memory_of, checkpointing))
        for checkpointing in (False, True)
    ]
    return {
        "memory_bytes": {part: int(getattr(needed, part)) for part in PARTS} | {"total": needed.total},
        "memory_bytes_checkpointing": memory_of(True, microbatch).total,
        "largest_microbatch": most[0],
        "largest_microbatch_checkpointing": most[1],
    }


PARTS = (
    "weights", "gradients", "optimizer", "best", "activations", "logits", "buffers", "updating", "counting",
    "process", "margin",
)  # fmt: skip


def score(plan: Mapping[str, Any], **actual: float) -> dict[str, dict[str, Any]]:
    """Predicted against actual for each number given by its key: {key: {predicted, actual, factor, inside}}. `plan` is
    as `Plan.to_dict` has it.

    Raises InputError for a key that a plan does not have.

    >>> from hornbook.facts.accelerators import lookup
    >>> plan = make_plan(parameters=7_000_000_000, tokens=2 * 10**12, on=lookup("8xA100"))
    >>> score(plan.to_dict(), gpu_hours=184_320)["gpu_hours"]["inside"]
    True
    """
    scored = {}
    for key, value in actual.items():
        if key not in plan:
            raise InputError(f'a plan says nothing about "{key}".')
        predicted, interval = plan[key], plan.get(f"{key}_interval_90")
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


def brief(plan: Plan) -> str:
    """The line above a run that begins: time, price and bits per byte as far as they are known, and memory."""
    spans = [
        ("time", plan.wall_seconds, format_duration), ("price", plan.price_usd, format_usd),
        ("bits per byte", plan.bits_per_byte, "{:.2f}".format),
    ]  # fmt: skip
    known = [f"{name} {span(value, write)}" for name, value, write in spans if value is not None]
    return f"plan: {', '.join([*known, 'memory ' + format_bytes(plan.memory_bytes['total'])])}"


def span(value: Range | float, write: Callable[[float], str]) -> str:
    """ "central (low to high)", or "central" where that is given."""
    if isinstance(value, Range) and value.low < value.high:
        return f"{write(value.central)} ({write(value.low)} to {write(value.high)})"
    central = value.central if isinstance(value, Range) else value
    return f"{central:,.0f}" if write is number else write(central)


def number(value: float) -> str:
    """Three digits, none of them in front of an e.

    >>> number(0.01234), number(117234.5)
    ('0.0123', '117,000')
    """
    digits = float(f"{value:.3g}")
    return f"{digits:,.0f}" if digits >= 100 else f"{digits:.3g}"
