"""Automatic defaults: from the text, the machine and the budget to the settings of a run, each with its reason.

Only what the person left open is chosen. The rules were tuned on the State of the Union texts and on the standard
library's source; `docs/decisions/` says how.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import msgspec

from hornbook.facts.capacity import BITS_PER_BYTE, FREE_EPOCHS, capacity_bits
from hornbook.facts.errors import InputError
from hornbook.facts.hardware import HERE, Accelerator, has_bfloat16_units
from hornbook.facts.settings import LENGTHS, Model, Settings
from hornbook.facts.shape import FAMILIES, GPTShape, preset
from hornbook.facts.units import counted, parse_duration
from hornbook.planning.memory import Memory, largest_microbatch, memory
from hornbook.planning.workload import (
    REACHED,
    CorpusStats,
    ResolvedSettings,
    steps_of,
    steps_per_epoch,
    usual_learning_rate,
)

# (width, layers): the ladder from which an automatic size is taken. Heads are 32 wide up to 128, then 64.
LADDER = (
    (64, 2), (96, 3), (128, 4), (160, 4), (192, 5), (256, 6), (320, 8), (384, 8), (448, 8), (512, 10), (640, 12),
    (768, 12),
)  # fmt: skip
DEFAULT_SECONDS = 180.0  # on a CPU, start to end
TOKENS_PER_PARAMETER = 1.0  # of those that multiply: what a run of minutes should at least see
ROOM = 0.9  # of an accelerator's memory: the rest is for what is looked at in between
SHAPE = {  # setting -> what a shape calls it
    name: name for name in ("family", "layers", "width", "heads", "kv_heads", "context", "tied", "rope_base")
} | {"intermediate_size": "hidden"}
EPOCHS = 6.0  # of a text that is small beside the model, where no length is given


@dataclass(frozen=True)
class Machine:
    """What choosing needs to know: `flops_per_second` is what training reaches, not a peak."""

    accelerator: bool
    flops_per_second: float
    bfloat16: bool = False  # a CPU that is fast in it
    memory_bytes: int | None = None  # of an accelerator, where it is known

    @classmethod
    def of(cls, device: Accelerator, count: int = 1) -> Machine:
        """What training reaches on devices by their peak."""
        peak = device.training_flops()
        assert peak is not None  # every device that can be named has one
        is_accelerator = peak[0] != "float32"
        memory = device.memory_bytes if is_accelerator else None
        return cls(is_accelerator, REACHED * count * peak[1], device.name == HERE and has_bfloat16_units(), memory)


def choose(
    settings: Settings, data: CorpusStats, machine: Machine, *, shape: GPTShape | None = None
) -> ResolvedSettings:
    """Fill in what `settings` leaves open. Raises InputError when the text cannot fill one context."""
    reasons: list[str] = []
    given, seconds = given_length(settings), budget_seconds(settings, accelerator=machine.accelerator)
    epochs = settings.train.epochs
    if not given and machine.accelerator:
        epochs = 1.0
        reasons.append("length: one epoch, the default on an accelerator (--epochs, --steps, --tokens, --budget)")
    elif not given:
        reasons.append("length: about 3 minutes, the default on a CPU (--budget, --steps, --epochs, --tokens)")
    shape = shape or _shape(settings, data, machine, seconds, reasons)
    if data.num_tokens < shape.context + 1:
        raise InputError(
            f"the training text has {data.num_tokens:,} tokens, fewer than one context of {shape.context} plus one "
            "to predict: give more text or a smaller --model.context."
        )
    chosen = msgspec.convert(msgspec.to_builtins(settings), Settings)  # a copy, checked
    _fill_model(chosen, shape)
    _fill_batch(chosen, shape, data, machine, reasons)
    _fill_optimizer(chosen, shape, machine, reasons)
    train = chosen.train
    if not given:
        train.epochs = epochs
    if chosen.checkpoint.best is None:
        chosen.checkpoint.best = seconds is not None and given in (None, "budget")
    most = most_steps(chosen, data, shape)
    train.steps = steps_of(chosen, data) if seconds is None else None
    train.epochs = train.tokens = train.budget = None
    return ResolvedSettings(chosen, shape, data, reasons, seconds, most)


def budget_seconds(settings: Settings, *, accelerator: bool) -> float | None:
    """The wall time that a run may take, start to end: what is given, or what is usual on a CPU where nothing is."""
    if settings.train.budget is not None:
        return parse_duration(settings.train.budget, "the budget")
    return DEFAULT_SECONDS if given_length(settings) is None and not accelerator else None


def no_plateau(settings: Settings) -> bool:
    """Whether the learning rate falls from the warm-up on, by a length that must be known before."""
    return settings.schedule.name in ("cosine", "linear")


def most_steps(settings: Settings, data: CorpusStats, shape: GPTShape) -> int | None:
    """However much time there is, no more steps than these: the length that is given, else what is worth it."""
    steps, epochs = steps_of(settings, data), worthwhile_epochs(data, shape)
    if steps is not None or epochs is None:
        return steps
    return math.ceil(epochs * steps_per_epoch(settings, data))


def worthwhile_epochs(data: CorpusStats, shape: GPTShape) -> float | None:
    """After how many epochs, the learning rate's decay at their end, a run on this text is at its best; None where the
    model cannot hold the text, and more of them are always better.

    EPOCHS / sqrt(1 - share of the model's capacity that the text fills). Measured on ten texts with the sizes that are
    chosen for them, ends after 1 to 32 epochs: 4 to 6 epochs were the best at 5 kB, 4 to 8 at 24 kB, 8 (of 4, 8, 16 and
    24) at 200 kB; 16 cost 0.7 to 1.8, 0.7 to 1.1 and 0.3 nats.

    >>> shape = GPTShape(family="qwen3", layers=2, width=64, heads=2, context=256, vocabulary=320)
    >>> [round(worthwhile_epochs(CorpusStats(1, num_bytes, 320), shape), 1) for num_bytes in (5_000, 24_000, 150_000)]
    [6.1, 6.3, 9.1]
    """
    fill = BITS_PER_BYTE * data.num_bytes / capacity_bits(shape.parameters)
    return EPOCHS / math.sqrt(1 - fill) if fill < 1 else None


def given_length(settings: Settings) -> str | None:
    """Which length is given; a budget may stand beside another, as its limit. Raises InputError for two others, or for
    a budget that is not a time."""
    given = [name for name in LENGTHS if getattr(settings.train, name) is not None]
    if len(given) > 1 and given[1] != "budget":
        raise InputError(f"a run has one length, not both {given[0]} and {given[1]}: leave one out.")
    if settings.train.budget is not None:
        parse_duration(settings.train.budget, "the budget")
    return given[0] if given else None


def shape_of(settings: Settings, vocabulary: int) -> GPTShape:
    """The shape that resolved settings describe."""
    return GPTShape(**_named(settings.model), vocabulary=vocabulary)


def _named(model: Model) -> dict[str, Any]:
    """What is given of a shape, by its own names."""
    given = {own: getattr(model, name) for name, own in SHAPE.items()}
    return {own: value for own, value in given.items() if value is not None}


def _shape(
    settings: Settings, data: CorpusStats, machine: Machine, seconds: float | None, reasons: list[str]
) -> GPTShape:
    model = settings.model
    named = _named(model)
    if model.preset is not None:
        base = msgspec.structs.asdict(preset(model.preset))
        if named.keys() & {"family", "width", "heads"}:  # what was derived for the preset must be derived again
            for derived in ("hidden", "head_width", "norm_epsilon", "activation", "kv_heads", "tied"):
                base.pop(derived)
        return GPTShape(**(base | named | {"vocabulary": data.vocabulary}))
    defaults: dict[str, Any] = {"family": "qwen3"}
    if "width" not in named or "layers" not in named:
        width, layers = _size(data, machine, seconds, settings)
        defaults |= {"width": width, "layers": layers}
        reason, how = f"model: {counted(layers, 'layer')} of width {width}, for this much text", "(--model.*)"
        if seconds is not None:
            reason += (
                f" and time at {machine.flops_per_second / 1e9:,.3g} GFLOP/s; a busier machine may choose a smaller one"
            )
            how = "(--model.preset, or --model.width and --model.layers, or a recipe fix it)"
        reasons.append(f"{reason} {how}")
    merged = defaults | named
    if "heads" not in merged:
        head = 32 if merged["width"] <= 128 else 64
        merged["heads"] = max(1, merged["width"] // head)
        while merged["width"] % merged["heads"]:
            merged["heads"] -= 1
    if "context" not in merged:
        merged["context"] = _context(data, machine)
        reasons.append(f"context: {merged['context']} tokens (--model.context)")
    family = FAMILIES.get(merged["family"])
    if "rope_base" not in merged and family is not None and family.positions == "rotary":
        merged["rope_base"] = 1_000.0 if merged["context"] <= 256 else 10_000.0
    return GPTShape(**merged, vocabulary=data.vocabulary)


def _context(data: CorpusStats, machine: Machine) -> int:
    largest = 1024 if machine.accelerator else 256
    while largest > 32 and largest * 16 > data.num_tokens:  # some windows for every side
        largest //= 2
    return largest


def _size(data: CorpusStats, machine: Machine, seconds: float | None, settings: Settings) -> tuple[int, int]:
    """The largest of LADDER that sees TOKENS_PER_PARAMETER within the time and FREE_EPOCHS."""
    best = LADDER[0]
    for width, layers in LADDER:
        shape = GPTShape(family="qwen3", layers=layers, width=width, heads=1, context=256, vocabulary=data.vocabulary)
        affordable = FREE_EPOCHS * data.num_tokens
        if seconds is not None:
            affordable = min(affordable, seconds * machine.flops_per_second / shape.flops_per_token())
        elif settings.train.tokens is not None:
            affordable = min(affordable, settings.train.tokens)
        if affordable >= TOKENS_PER_PARAMETER * shape.matmul_parameters:
            best = (width, layers)
    return best


def _fill_model(settings: Settings, shape: GPTShape) -> None:
    model = settings.model
    model.preset = None
    for name, own in SHAPE.items():
        setattr(model, name, getattr(shape, own))


def _fill_batch(settings: Settings, shape: GPTShape, data: CorpusStats, machine: Machine, reasons: list[str]) -> None:
    train = settings.train
    if train.batch is None:
        # Small batches learn most from each token; Muon wants at least about 16 tokens per feature of width.
        tokens = 16 * shape.width if not machine.accelerator else max(32_768, 64 * shape.width)
        tokens = min(tokens, max(shape.context, data.num_tokens // 8))
        train.batch = max(1, round(tokens / shape.context))
        if machine.accelerator and train.batch > 8:
            train.batch -= train.batch % 8  # it may have to be cut into equal microbatches
        reasons.append(f"batch: {counted(train.batch, 'sequence')} of {shape.context} tokens (--train.batch)")
    if train.precision is None:
        train.precision = "bfloat16" if machine.accelerator or machine.bfloat16 else "float32"
    if train.compile is None:
        train.compile = machine.accelerator
    if train.microbatch is None:
        train.microbatch = _microbatch(settings, shape, machine)


def _microbatch(settings: Settings, shape: GPTShape, machine: Machine) -> int:
    """Small enough that a signal is answered within seconds; on an accelerator what fits its memory and divides the
    batch, so that all microbatches have one shape."""
    train = settings.train
    assert train.batch is not None
    batch, flops = train.batch, 1e15 if machine.accelerator else 6e11
    most = min(batch, max(1, int(flops / (shape.flops_per_token() * shape.context))))
    if machine.memory_bytes is not None:

        def needs(windows: int) -> Memory:
            return memory(
                shape, windows, optimizer=settings.optimizer.name or "adamw", half=train.precision == "bfloat16",
                checkpointing=train.recompute, accumulating=windows < batch, on_cpu=False,
            )  # fmt: skip

        room = int(ROOM * machine.memory_bytes)
        if most < batch or needs(batch).total > room:
            most = min(most, max(1, largest_microbatch(room, needs)))
    if not machine.accelerator:
        return most
    fits = max(windows for windows in range(1, most + 1) if batch % windows == 0)
    return fits if 4 * fits >= most else most  # of an awkward batch the last microbatch is shorter


def _fill_optimizer(settings: Settings, shape: GPTShape, machine: Machine, reasons: list[str]) -> None:
    optimizer, train = settings.optimizer, settings.train
    assert train.batch is not None
    tokens = train.batch * shape.context
    if optimizer.name is None:
        # Orthogonalising costs about 4.2 x width / tokens of a step: beyond 1, AdamW sees more text in the same time.
        optimizer.name = "muon" if shape.family != "gpt2" and tokens >= 4 * shape.width else "adamw"
        reasons.append(f"optimizer: {optimizer.name} (--optimizer.name)")
    muon = optimizer.name == "muon"
    if optimizer.learning_rate is None:
        # AdamW alone: Porian et al. 2024 as OLMo uses it, capped.
        alone = min(3e-3, 0.0047 * (shape.parameters / 108e6) ** (-1 / 3) / 2)
        beside = usual_learning_rate("AdamW beside Muon", shape.width)
        optimizer.learning_rate = beside if muon else float(f"{alone:.2g}")
    if optimizer.muon_learning_rate is None:
        optimizer.muon_learning_rate = 0.03
    if optimizer.momentum is None:
        optimizer.momentum = 0.95 if machine.accelerator else 0.9  # runs of few steps do not live long enough for more
    if optimizer.weight_decay is None:
        optimizer.weight_decay = 0.0 if muon else 0.1
    if optimizer.beta2 is None:
        optimizer.beta2 = 0.95 if muon or tokens >= 65_536 else 0.99
