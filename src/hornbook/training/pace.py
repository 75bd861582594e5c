"""What a run's own parts take: its steps, a scored token, a written one."""

from __future__ import annotations

import statistics
import sys
import time
import timeit
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from hornbook.data.shards import TokenStream
from hornbook.engine.device import Telemetry
from hornbook.evaluation.probe import Probe
from hornbook.facts.units import format_duration
from hornbook.model.generate import generate
from hornbook.planning.workload import StepTimes
from hornbook.training.loop import TrainState

MEASURED_TOKENS, MEASURED_SECONDS = 4096, 0.5  # scored to learn how long that takes: the fewer of the two


def pace_of(parts: TrainState, text: TokenStream, step: float) -> StepTimes:
    """The pace of a model whose steps take `step` seconds. Draws from no randomness that training uses."""
    model, world = parts.whole(), parts.sharded.world if parts.sharded else None
    shape = model.shape
    per_second = 3 * parts.batches.batch_size * shape.context / step  # tokens scored, about: a third of a step's work
    tokens = min(MEASURED_TOKENS, max(shape.context, int(MEASURED_SECONDS * per_second)))
    probe = Probe(text, context=shape.context, num_tokens=tokens, byte_lengths=np.ones(shape.vocabulary, np.int32))
    prompt = text.take(np.zeros(1, np.int64), 1)[0].tolist()
    score = timeit.repeat(lambda: probe.score(model, world=world), number=1, repeat=2)
    write = timeit.repeat(lambda: list(generate(model, prompt, max_tokens=16)), number=1, repeat=2)
    return StepTimes(step, min(score) / probe.num_tokens, min(write) / 16)


@dataclass
class FirstSteps:
    """Says what is expected of a run, as soon as its first steps have shown their pace and no update is under way."""

    plan: Callable[[StepTimes], None] | None
    parts: TrainState
    text: TokenStream
    seconds: list[float] = field(default_factory=list)

    def hear(self, seconds: float, is_last: bool) -> None:
        if self.plan is None:
            return
        self.seconds.append(seconds)
        if is_last and enough_steps(self.seconds):
            plan, self.plan = self.plan, None
            plan(pace_of(self.parts, self.text, statistics.median(self.seconds[1:])))


def enough_steps(seconds: Sequence[float]) -> bool:
    """Whether so many steps show their pace; the first does not count."""
    return len(seconds) >= 12 or (len(seconds) >= 3 and sum(seconds[1:]) > 3.0)


STOOD_STILL, LEAST_SECONDS = 100, 1.0  # a step so many times longer than others, and so long, was none
REMEMBERED = 256  # steps


@dataclass
class StepClock:
    """The seconds of the latest steps, without those in which the process, or the machine, stood still."""

    telemetry: Telemetry
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    slept: float = field(default_factory=lambda: suspended_seconds())

    def hear(self, seconds: float) -> tuple[float, str | None]:
        """The seconds of a step that count as training time, and a sentence where they are not all."""
        before, self.slept, counts = self.slept, suspended_seconds(), seconds
        still = self.slept - before  # that is in no step's time
        if len(self.recent) >= 5:
            usual = statistics.median(self.recent)
            if seconds > max(STOOD_STILL * usual, LEAST_SECONDS):
                counts, still = usual, still + seconds - usual
                self.telemetry.asleep_seconds += seconds - usual
        self.recent.append(counts)
        if still < LEAST_SECONDS:
            return counts, None
        return counts, f"the process stood still for {format_duration(still)}, which is not counted as training time."

    def latest(self) -> float:
        """The mean of the last quarter of the steps that are remembered, at least 16."""
        return statistics.fmean(list(self.recent)[-max(16, len(self.recent) // 4) :])


def suspended_seconds() -> float:
    """How long this machine was suspended since it was started, which time.monotonic leaves out; 0 where unknown."""
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
    return 0.0
