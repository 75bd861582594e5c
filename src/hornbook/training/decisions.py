"""What a run decides while it goes on. Weights are a function of the settings, the text and these decisions.

Where nobody gave a length, a run that has turned (`facts.looks.turned`) is not trained further: before the learning
rate has begun to fall it goes back to the weights of its best look and decays from there, later it ends. A decision is
on the disk before the first update that depends on it, and a run that is resumed from before it makes it at the same
step again, without asking.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from hornbook.facts.errors import InputError
from hornbook.facts.settings import Settings
from hornbook.optim.schedule import decay_start, lr_scale

if TYPE_CHECKING:
    from hornbook.facts.looks import Evaluation

DECAY = 0.5  # of the steps up to the best look: so long is the decay that follows it


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """Made after update `step`: the run takes the weights of `from_step` and decays over `decay_steps` more, or ends.

    Steps are counted on: the update after it is number `step` + 1, its batch too.
    """

    decision: Literal["decay", "end"]
    step: int
    from_step: int
    decay_steps: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.from_step <= self.step or self.decay_steps < (self.decision == "decay"):
            raise ValueError("its steps contradict each other")

    @property
    def last(self) -> int:
        """The number of the last update."""
        return self.step + self.decay_steps

    @property
    def sentence(self) -> str:
        risen = f"validation loss has risen since step {self.from_step:,}"
        if self.decision == "end":
            return (
                f"{risen} although the learning rate decays: the run ends here, with the weights of step "
                f"{self.from_step:,}."
            )
        return (
            f"{risen}: the run goes back to the weights of that step and decays the learning rate over "
            f"{self.decay_steps:,} more steps."
        )


def steady_steps(settings: Settings) -> int:
    """After how many steps the learning rate begins to fall: weights up to there are those of any longer run too."""
    return decay_start(**_schedule(settings))


def decisions_of(rows: Sequence[Mapping[str, Any]]) -> list[Decision]:
    """The decisions that a run's rows record."""
    return [decision_of(row) for row in rows if row.get("event") == "decision"]


def decision_of(row: Mapping[str, Any]) -> Decision:
    """A decision as it was recorded. Raises InputError when it is none."""
    try:
        return msgspec.convert(row, Decision)
    except msgspec.ValidationError as error:
        raise InputError(f"a decision that was recorded is damaged ({error}): give --out a fresh folder.") from None


def tokens_read(rows: Sequence[Mapping[str, Any]], step: int) -> int:
    """The training tokens that the weights after `step` have read; what was given up before is not among them.

    >>> rows = [{"event": "step", "step": s, "tokens": 10 * s} for s in range(1, 13)]
    >>> decision = {"event": "decision", "decision": "decay", "step": 10, "from_step": 4, "decay_steps": 2}
    >>> tokens_read([*rows, decision], 9), tokens_read([*rows, decision], 12)
    (90, 60)
    """
    tokens_at = {0: 0} | {row["step"]: row["tokens"] for row in rows if row.get("event") == "step"}

    def spent(at: int) -> int:
        return max((tokens for number, tokens in tokens_at.items() if number <= at), default=0)

    went_back = [d for d in decisions_of(rows) if d.decision == "decay" and d.step <= step]
    return spent(step) - sum(spent(d.step) - spent(d.from_step) for d in went_back)


def decide(
    evaluations: Sequence[Evaluation], settings: Settings, step: int, earlier: Decision | None = None, *,
    epoch_tokens: int = 0,
) -> Decision | None:  # fmt: skip
    """The decision that the evaluations up to `step` call for, if they do, after an `earlier` one. None before one
    epoch, of `epoch_tokens`, is read."""
    from hornbook.facts.looks import turned, went_on

    if earlier is not None:
        evaluations = went_on(evaluations, from_step=earlier.from_step, step=earlier.step)
    best = turned(evaluations, after_tokens=epoch_tokens)
    if best is None:
        return None
    if earlier is not None or decays(settings, step):
        return Decision(decision="end", step=step, from_step=best.step)
    steps = max(1, min(round(DECAY * best.step), (settings.train.steps or 0) - step))
    return Decision(decision="decay", step=step, from_step=best.step, decay_steps=steps)


def lr_schedule(settings: Settings, decision: Decision | None = None) -> Callable[[int], float]:
    """Share of the peak learning rate as a function of the update's number from 0."""
    final = settings.schedule.final_fraction

    def planned(step: int) -> float:
        return lr_scale(step, **_schedule(settings), final_fraction=final)

    def decided(step: int) -> float:
        if decision is None or decision.decision == "end" or step < decision.step:
            return planned(step)
        left = 1 - (step - decision.step) / decision.decay_steps
        return final + (planned(decision.from_step) - final) * max(0.0, left)

    return decided


def decays(settings: Settings, step: int) -> bool:
    """Whether after `step` updates the learning rate falls as planned."""
    return step >= steady_steps(settings)


def _schedule(settings: Settings) -> dict[str, Any]:
    schedule = settings.schedule
    return {
        "name": schedule.name, "steps": settings.train.steps, "warmup_steps": schedule.warmup_steps,
        "decay_fraction": schedule.decay_fraction,
    }  # fmt: skip
