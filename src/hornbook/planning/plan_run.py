"""The plan of resolved settings."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np

from hornbook.facts.hardware import HERE, Accelerator, memory_bytes
from hornbook.facts.io import shown
from hornbook.facts.settings import Settings
from hornbook.facts.shape import GPTShape
from hornbook.facts.units import format_count
from hornbook.planning.health import run_facts
from hornbook.planning.plan import Plan, make_plan
from hornbook.planning.wall import overhead, wall_seconds
from hornbook.planning.workload import CorpusStats, Range, StepTimes, TextEstimate

UNMEASURED_FACTOR = 2.0  # between an estimate from a matrix product and a run


def plan_of(
    settings: Settings, shape: GPTShape, reading: TextEstimate | None, on: tuple[int, Accelerator], *,
    pace: StepTimes | None,
    spent: float = 0.0, usd: float | None = None, chosen: Sequence[str] = (), assumed: Sequence[str] = (),
    expected: Range | None = None, fits: bool = False, may_decide: bool = False,
) -> Plan:  # fmt: skip
    """The plan of resolved settings. With a `pace` of this machine, `spent` seconds have gone before the first step;
    `expected` is the loss in nats per token where more is known of the text than the published laws say; `fits` says
    that the steps follow from a time, `may_decide` that the run may go back to its best look."""
    train = settings.train
    assert train.steps is not None
    assert train.batch is not None
    step_tokens = train.batch * shape.context
    facts = run_facts(settings, shape, reading, may_decide=may_decide)
    microbatch = train.microbatch or train.batch
    data = CorpusStats(step_tokens, 0, shape.vocabulary) if reading is None else reading.data
    return make_plan(
        tokens=train.steps * step_tokens, on=on, shape=shape, usd_per_hour=usd, facts=facts, microbatch=microbatch,
        checkpointing=train.recompute,
        memory_bytes=memory_bytes() if on[1].name == HERE or on[1].memory_bytes is None else None,
        wall=None if pace is None else _around(
            spent + wall_seconds(pace, train.steps, overhead(settings, shape, data)), pace.factor, fits
        ),
        loss=expected, bytes_per_token=None if reading is None else reading.bytes_per_token,
        text=None if reading is None else _named(settings.text.paths, data.num_tokens),
        chosen=list(chosen), assumed=list(assumed),
    )  # fmt: skip


def _named(paths: Sequence[str], num_tokens: int) -> str:
    names = ", ".join(map(shown, paths[:3])) + f" and {len(paths) - 3} more" * (len(paths) > 3)
    return f"{names or 'the built-in corpus'}: {format_count(num_tokens)} tokens to train on"


def _around(seconds: float, factor: float, fits: bool) -> Range:
    why = "steps of this run were timed here" if factor < 2 else "only a matrix product was timed here, not this run"
    if fits:
        why = "training first times its steps and takes as many as fit the budget"
    return Range(seconds / factor, seconds, seconds * factor, f"{why}; start, evaluations, samples and report included")


def estimated(flops_per_step: float, flops_per_token: float, parameters: int, flops_per_second: float) -> StepTimes:
    """The pace of a machine that was not measured with this model: a forward pass is a third of a step, and writing
    a token reads every weight."""
    written = max(0.003, 4 * parameters / 10e9)
    step, scored = flops_per_step / flops_per_second, flops_per_token / 3 / flops_per_second
    return StepTimes(step, scored, written, UNMEASURED_FACTOR)


def product_flops_per_second(size: int = 768, repeats: int = 3) -> float:
    """FLOP/s of this machine's processors in a float32 matrix product, the best of some hundredths of a second."""
    a = np.ones((size, size), np.float32)
    best = math.inf
    for _ in range(repeats):
        begin = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - begin)
    return 2 * size**3 / best
