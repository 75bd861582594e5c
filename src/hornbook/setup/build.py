"""Settings -> objects: the model, its optimizers, its batches, the job that trains them; how long a step takes."""

from __future__ import annotations

import statistics
from functools import partial
from typing import TYPE_CHECKING

import torch

from hornbook.data.loader import Batches
from hornbook.data.shards import TokenStream
from hornbook.engine.device import Telemetry, device, this_device
from hornbook.engine.saving import Saver
from hornbook.facts.errors import InputError
from hornbook.facts.settings import Settings
from hornbook.facts.shape import GPTShape
from hornbook.facts.units import parse_price
from hornbook.model.decoder import Decoder
from hornbook.model.init import fresh_weights, initialise
from hornbook.optim.adamw import AdamW
from hornbook.optim.groups import Optimizer, groups
from hornbook.optim.muon import Muon
from hornbook.planning.workload import learning_rates
from hornbook.reporting.live import View
from hornbook.training.decisions import steady_steps
from hornbook.training.job import Job, RunContext
from hornbook.training.loop import TrainState, steps
from hornbook.training.monitor import Monitor
from hornbook.training.pace import FirstSteps, StepClock, enough_steps
from hornbook.training.watch import Watch

if TYPE_CHECKING:
    from hornbook.engine.sharding import Sharded
    from hornbook.engine.world import World


def build(
    settings: Settings, shape: GPTShape, text: TokenStream, on: torch.device, world: World | None = None, *,
    is_fresh: bool = True,
) -> TrainState:  # fmt: skip
    """Parts for resolved settings, to be trained on `text`, by all processes of a `world`: with fresh weights, except
    where others follow."""
    train, sharded = settings.train, None
    assert train.batch is not None
    be_deterministic(train.deterministic)
    if world is None:
        model = initialise(Decoder(shape, dropout=settings.model.dropout), train.seed).to(on)
    else:
        from hornbook.setup.processes import spread

        sharded = spread(world, settings, shape, on)
        model = sharded.model
    model.recompute = train.recompute
    if train.recompute and on.type == "cpu":
        from hornbook.engine.heap import give_back_memory

        give_back_memory()
    if train.compile:
        from hornbook.model.compiled import compile_training

        compile_training(model)
    batches = Batches(text, context=shape.context, batch=train.batch, seed=train.seed, shift=train.shift_windows)
    if train.precision == "bfloat16" and not torch.amp.is_autocast_available(on.type):
        raise InputError(f"train.precision is bfloat16, but {on.type} trains in float32 only.")
    autocast = partial(torch.autocast, on.type, torch.bfloat16) if train.precision == "bfloat16" else None
    if train.document_mask and autocast is not None and on.type == "cuda":
        from hornbook.training.packed import pack_documents

        pack_documents(batches, model, on)
    state = TrainState(model, make_optimizers(settings, model, sharded), batches, autocast, sharded)
    if sharded is not None and is_fresh and sharded.world.rank == 0:  # the others have built and listen
        sharded.scatter(fresh_weights(shape, sharded.sizes, train.seed))
    return state


def start_job(context: RunContext, view: View, started: float) -> Job:
    """The job of a fresh run, or of one that goes on; `started` is when its command did, by time.monotonic()."""
    on, settings, prepared, run = device(), context.settings, context.prepared, context.run
    assert settings.checkpoint.every is not None
    world = context.world
    given = context.initial is not None or context.checkpoint is not None
    state = build(settings, context.shape, prepared.train, on, world, is_fresh=not given)
    if context.initial is not None:
        state.take_over(context.initial)
    # A process that was killed counts as far as its cost had been read.
    earlier: dict[str, float] = next((row["cost"] for row in reversed(run.rows()) if "cost" in row), {})
    precision = settings.train.precision
    telemetry = Telemetry(
        started, on, this_device(on, precision), usd_per_hour(settings), earlier, precision=precision,
        processes=world.size if world else 1, machines=world.machines if world else 1,
    )  # fmt: skip
    clock = StepClock(telemetry)
    in_parts = state.sharded is not None and state.sharded.shards > 1  # all write, and meet for that between updates
    job = Job(
        context, state, view, telemetry,
        Monitor(
            context.shape, prepared, learning_rates=learning_rates(settings),
            warmup_steps=settings.schedule.warmup_steps, given=run.environment.get("from"),
            spike_zscore=settings.train.skip_spikes,
        ),
        Watch(settings, context.shape, prepared),
        Saver(settings.checkpoint.every, steady_steps(settings), beside=on.type != "cpu" and not in_parts),
        FirstSteps(context.plan, state, prepared.train), clock,
    )  # fmt: skip
    if context.checkpoint is not None:
        job.restore(context.checkpoint)
        view.note(f"resuming from step {job.step:,} of {job.last:,}")
    if context.time is not None:
        from hornbook.training.deadline import deadline_of

        job.deadline = deadline_of(context, clock, job.seconds)
    job.forget_later()
    job.monitor.recall(run.rows())
    return job


def usd_per_hour(settings: Settings) -> float | None:
    return None if settings.watch.price is None else parse_price(settings.watch.price)


def be_deterministic(wanted: bool) -> None:
    """Whether kernels that add in any order are ruled out: on an accelerator the backward pass of attention is one."""
    if torch.are_deterministic_algorithms_enabled() != wanted:  # the call imports the compiler: 65 MiB, and a second
        torch.use_deterministic_algorithms(wanted)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # nothing reads it


def make_optimizers(settings: Settings, model: Decoder, sharded: Sharded | None = None) -> list[Optimizer]:
    """AdamW for all, or Muon for the matrices inside the blocks and AdamW for the rest; of a `sharded` model each
    process updates its rows."""
    o = settings.optimizer
    assert o.learning_rate is not None
    assert o.muon_learning_rate is not None
    assert o.weight_decay is not None
    assert o.beta2 is not None
    assert o.momentum is not None
    matrices, others = groups(model)
    optimizers: list[Optimizer] = []
    if sharded is not None:
        matrices, others = ({name: sharded.local[name] for name in group} for group in (matrices, others))
    if o.name == "muon":
        inside = {name: p for name, p in matrices.items() if name.startswith("blocks.")}
        matrices = {name: p for name, p in matrices.items() if name not in inside}
        spread = (None, None) if sharded is None else (sharded.sizes, sharded.together)
        optimizers.append(
            Muon(inside, learning_rate=o.muon_learning_rate, momentum=o.momentum, weight_decay=o.weight_decay,
                 sizes=spread[0], together=spread[1])
        )  # fmt: skip
    for parameters, decay in ((matrices, o.weight_decay), (others, 0.0)):
        if parameters:
            optimizers.append(
                AdamW(parameters, learning_rate=o.learning_rate, beta1=o.beta1, beta2=o.beta2, epsilon=o.epsilon,
                      weight_decay=decay)
            )  # fmt: skip
    if sharded is not None:
        sharded.share(optimizers)
    return optimizers


def seconds_per_step(settings: Settings, parts: TrainState) -> float:
    """Median of a few steps of parts that are thrown away: nothing that training uses is touched."""
    assert settings.train.microbatch is not None
    trial = steps(
        parts.model, parts.optimizers, parts.batches, first=0, last=12, lr_schedule=lambda step: 0.0,
        microbatch=settings.train.microbatch, clip_norm=1.0, seed=0, document_mask=settings.train.document_mask,
        autocast=parts.autocast, uses_weights=lambda step: False, sharded=parts.sharded,
    )  # fmt: skip
    seconds: list[float] = []
    for done in trial:
        seconds.append(done.seconds)
        if enough_steps(seconds):
            break
    return statistics.median(seconds[1:])
