"""A run under a budget: how many steps its time has room for, settled again while it goes on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from hornbook.planning.workload import REPORT_SECONDS, SAVING_BYTES_PER_SECOND, StepTimes
from hornbook.training.decisions import Decision, steady_steps
from hornbook.training.job import RunContext
from hornbook.training.pace import StepClock


@dataclass
class Deadline:
    """Settles the length of a run under a budget again: where its decay must begin, and halfway through that.

    The decay begins where it was planned, or as soon as its share of the time is all that is left. What evaluations,
    samples and saves cost is taken from the run so far, what comes after the last step from the plan, and both grow as
    the steps do where the machine gets slower.
    """

    seconds: float  # that the run may take, start to end
    most_steps: int | None  # that are enough however much time there is
    clock: StepClock
    plateau: float  # share of the steps before the decay
    planned: int  # the step at which the decay was planned to begin
    pace: StepTimes | None  # by which the run was planned
    scored_tokens: int  # after the last step
    saved_bytes: int
    earlier_seconds: float = 0.0  # of training, by processes before this one
    stepping: float = 0.0  # seconds in steps, of those since `begin`
    begin: float | None = None
    half_left: float = -math.inf  # seconds
    due_at: int | None = None

    def hear(self, seconds: float) -> None:
        if self.begin is None:
            self.begin = self._elapsed() - seconds
        self.stepping += seconds

    def due(self, step: int, decisions: Sequence[Decision]) -> bool:
        """Whether the length must be settled after this step: asked once, as soon as it is begun."""
        falls = [decision for decision in decisions if decision.decay_steps]
        if step <= 1 or not self.clock.recent or self.begin is None:
            return False
        if not falls:
            spent = self.earlier_seconds + self._elapsed() - self.begin
            left = self.seconds_left()
            is_due = step >= self.planned or spent >= self.plateau * (spent + max(0.0, left))
        else:
            once = len(falls) == 1 and falls[0].decision in ("length", "decay")
            half = falls[0].step + falls[0].decay_steps / 2
            is_due = once and (step >= half or self.seconds_left() <= self.half_left)
        if is_due:
            self.due_at = step
        return is_due

    def settle(self, step: int, last: int, decisions: Sequence[Decision]) -> Decision:
        """The length by the pace so far. What is left to `last` is never exceeded by a run that went back."""
        assert self.begin is not None
        left = self.seconds_left()
        beside = max(1.0, (self._elapsed() - self.begin) / self.stepping)
        steps = int(left / (self.clock.latest() * beside))
        if any(decision.decision == "decay" for decision in decisions):
            steps = min(steps, last - step)
        elif self.most_steps is not None:
            steps = min(steps, self.most_steps - step)
        self.half_left, self.begin, self.stepping = left / 2, None, 0.0
        return Decision(decision="length", step=step, from_step=step, decay_steps=max(1, steps))

    def seconds_left(self) -> float:
        """For steps and what happens between them."""
        after, slower = REPORT_SECONDS, 1.0
        if self.pace is not None:
            slower = max(1.0, self.clock.latest() / self.pace.step)
            after += self.pace.scored * self.scored_tokens
        return self.seconds - self._elapsed() - slower * (after + self.saved_bytes / SAVING_BYTES_PER_SECOND)

    def _elapsed(self) -> float:
        """Of the budget so far, in all processes."""
        return self.clock.telemetry.seconds - self.clock.telemetry.asleep_seconds


def deadline_of(context: RunContext, clock: StepClock, trained_seconds: float) -> Deadline:
    """That of a run whose time is limited, of which processes before this one have trained for so long."""
    assert context.time is not None
    settings, planned = context.settings, steady_steps(context.settings)
    plateau, steps = 1 - settings.schedule.decay_fraction, settings.train.steps or 0
    if settings.schedule.name == "constant" or planned >= steps:  # it only ends
        plateau, planned = 0.5, steps // 2
    pace = context.run.plan.get("pace")
    return Deadline(
        *context.time, clock, plateau, planned, None if pace is None else msgspec.convert(pace, StepTimes),
        2 * context.prepared.validation.num_tokens, 12 * context.shape.parameters, trained_seconds,
    )  # fmt: skip
