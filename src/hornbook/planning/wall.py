"""How long a run takes besides its steps, and how many steps fit a time."""

from __future__ import annotations

import copy
import math
from bisect import bisect_right
from collections.abc import Callable

import msgspec

from hornbook.facts.settings import Settings
from hornbook.facts.shape import GPTShape
from hornbook.planning.workload import (
    COPY_PROBE_TOKENS,
    FIRST_PROBE,
    FIRST_SAMPLE,
    REPORT_SECONDS,
    SAVING_BYTES_PER_SECOND,
    CorpusStats,
    ResolvedSettings,
    StepTimes,
    evaluation_steps,
    fill_steps,
    steps_per_epoch,
)


class Overhead(msgspec.Struct, frozen=True, kw_only=True):
    """What a job does besides its steps. Tokens are those of all evaluations, of all samples and of the last score."""

    evaluated_tokens: int
    sampled_tokens: int
    scored_tokens: int
    saved_bytes: int


def overhead(settings: Settings, shape: GPTShape, data: CorpusStats) -> Overhead:
    """What a run with these settings does besides its steps."""
    steps, watch, validation = settings.train.steps, settings.watch, data.validation_tokens
    assert steps is not None
    assert watch.evaluate_every is not None
    every = (watch.sample_every, settings.checkpoint.every)
    samples, saves = (1 + math.ceil(steps / (interval or steps)) for interval in every)
    evaluations = evaluation_steps(steps, steps_per_epoch(settings, data), watch.evaluate_every)
    probe = watch.probe_tokens or 0
    # Eight samples are written together: a position of all of them takes about twice as long as a token of one.
    copies = 2 * min(COPY_PROBE_TOKENS, shape.context) if validation else 0
    prompts = max(1, len(watch.prompts))
    sides = (probe, min(probe, validation))
    return Overhead(
        evaluated_tokens=sum(min(FIRST_PROBE, tokens) + evaluations.num_even * tokens for tokens in sides)
        + evaluations.num_extra * min(probe, validation),
        sampled_tokens=prompts * (min(FIRST_SAMPLE, watch.sample_tokens) + (samples - 1) * watch.sample_tokens)
        + (samples - 1) * copies,
        scored_tokens=2 * validation,  # windows overlap by half
        saved_bytes=saves * shape.parameters * 12,
    )


def wall_seconds(pace: StepTimes, steps: int, overhead: Overhead) -> float:
    """Seconds from the first step to the printed summary.

    >>> overhead = Overhead(evaluated_tokens=1000, sampled_tokens=100, scored_tokens=5000, saved_bytes=0)
    >>> wall_seconds(StepTimes(step=0.5, scored=0.001, written=0.01), 100, overhead) - REPORT_SECONDS
    57.0
    """
    scoring = pace.scored * (overhead.evaluated_tokens + overhead.scored_tokens)
    saving = overhead.saved_bytes / SAVING_BYTES_PER_SECOND
    return steps * pace.step + scoring + pace.written * overhead.sampled_tokens + saving + REPORT_SECONDS


def steps_within(seconds: float, wall: Callable[[int], float], *, most: int | None = None) -> int:
    """The most steps, up to `most`, whose `wall` time is at most `seconds`, at least 1; `wall` grows with the steps.

    >>> steps_within(10.0, lambda steps: 1.0 + steps / 10)
    90
    """
    return max(1, bisect_right(range(1, (2**40 if most is None else most) + 1), seconds, key=wall))


def wall_of(choice: ResolvedSettings, pace: StepTimes, steps: int) -> float:
    """Seconds from the first step to the summary, were it `steps` long."""
    return wall_seconds(pace, steps, overhead(_filled(choice, steps), choice.shape, choice.data))


def resolve_steps(choice: ResolvedSettings, pace: StepTimes, spent: float) -> Settings:
    """The settings with their number of steps: the one chosen, or as many as fit the time that is left of a budget,
    `spent` seconds of which have gone, and are worth it."""
    steps = choice.settings.train.steps
    if steps is None:
        seconds = choice.seconds or 0.0
        steps = steps_within(seconds, lambda number: spent + wall_of(choice, pace, number), most=choice.most_steps)
    return _filled(choice, steps)


def _filled(choice: ResolvedSettings, steps: int) -> Settings:
    settings = copy.deepcopy(choice.settings)
    fill_steps(settings, steps, choice.data)
    return settings
