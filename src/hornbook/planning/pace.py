"""The wall time of a whole job from the pace of its parts: steps, evaluations, samples, scoring, the report."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import msgspec
import numpy as np

REACHED = 0.33  # of a matrix product's speed that training of small models reaches on a CPU
UNMEASURED_FACTOR = 2.0  # between an estimate from a matrix product and a run
MEASURED_FACTOR = 1.15  # between a probe of a run and the run
REPORT_SECONDS = 3.0  # plots, pages, two inspections
SAVING_BYTES_PER_SECOND = 3e8  # to write, flush and hash a checkpoint


class StepTimes(msgspec.Struct, frozen=True):
    """Seconds of one step, of scoring one token and of writing one; runs lie within `factor` in nine cases of ten."""

    step: float
    scored: float
    written: float
    factor: float = MEASURED_FACTOR


class Overhead(msgspec.Struct, frozen=True, kw_only=True):
    """What a job does besides its steps. Tokens are those of all evaluations, of all samples and of the last score."""

    evaluated_tokens: int
    sampled_tokens: int
    scored_tokens: int
    saved_bytes: int


def wall_seconds(pace: StepTimes, steps: int, watched: Overhead) -> float:
    """Seconds from the first step to the printed summary.

    >>> w = Overhead(evaluated_tokens=1000, sampled_tokens=100, scored_tokens=5000, saved_bytes=0)
    >>> wall_seconds(StepTimes(step=0.5, scored=0.001, written=0.01), 100, w) - REPORT_SECONDS
    57.0
    """
    watching = pace.scored * (watched.evaluated_tokens + watched.scored_tokens) + pace.written * watched.sampled_tokens
    return steps * pace.step + watching + watched.saved_bytes / SAVING_BYTES_PER_SECOND + REPORT_SECONDS


def steps_within(seconds: float, wall: Callable[[int], float], *, most: int | None = None) -> int:
    """The most steps, up to `most`, whose `wall` time is at most `seconds`, at least 1; `wall` grows with the steps.

    >>> steps_within(10.0, lambda steps: 1.0 + steps / 10)
    90
    """
    low, high, most = 1, 2, 2**40 if most is None else most
    while high <= most and wall(high) <= seconds:
        low, high = high, 2 * high
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if wall(middle) <= seconds else (low, middle)
    return low


def estimated(flops_per_step: float, flops_per_token: float, parameters: int, flops_per_second: float) -> StepTimes:
    """The pace of a machine that was not measured with this model: a forward pass is a third of a step, and writing
    a token reads every weight."""
    written = max(0.003, 4 * parameters / 10e9)
    return StepTimes(
        flops_per_step / flops_per_second, flops_per_token / 3 / flops_per_second, written, UNMEASURED_FACTOR
    )


def product_flops_per_second(size: int = 768, repeats: int = 3) -> float:
    """FLOP/s of this machine's processors in a float32 matrix product, the best of some hundredths of a second."""
    a = np.ones((size, size), np.float32)
    best = math.inf
    for _ in range(repeats):
        begin = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - begin)
    return 2 * size**3 / best
