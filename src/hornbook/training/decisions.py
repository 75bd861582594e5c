"""What a run decides while it goes on. Weights are a function of the settings, the text and these decisions.

Whatever wall time, noise or a person decides is one kind of record. It is on the disk before the first update that
depends on it, and in the manifest of every later checkpoint; a run that is resumed from before it makes it at the same
step again, without asking.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from hornbook.facts.errors import InputError
from hornbook.facts.settings import Settings
from hornbook.optim.schedule import decay_start, lr_scale

if TYPE_CHECKING:
    from hornbook.facts.looks import Evaluation

DECAY = 0.5  # of the steps up to the best look: so long is the decay that follows it
FINISH = 0.25  # of the steps so far: so long is the decay of a run that is finished early


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """Made after update `step`, and true of all later ones. Steps are counted on: the next is number `step` + 1, its
    batch too.

    decay     validation loss has risen: the run takes the weights of `from_step` and decays over `decay_steps` more
    end       validation loss has risen while the learning rate decayed: the run ends
    stop      `train.early_stop` evaluations went by without a better one: the run ends
    length    a budget allows `decay_steps` more, over which the learning rate decays
    finish    a person wants the run finished: likewise
    lengthen  a person wants it longer, by the settings: what was decided of its length after `step` is void
    skip      numbers went wrong: the next `batches` updates are left out, so that the weights stay as they are
    """

    decision: Literal["decay", "end", "stop", "length", "finish", "lengthen", "skip"]
    step: int
    from_step: int
    decay_steps: int = 0
    batches: int = 0  # that are left out

    def __post_init__(self) -> None:
        decays = self.decision in ("decay", "length", "finish")
        enough = self.decay_steps >= decays and self.batches >= (self.decision == "skip")
        if not (0 <= self.from_step <= self.step and enough):
            raise ValueError("its steps contradict each other")

    @property
    def sentence(self) -> str:
        risen, more = f"validation loss has risen since step {self.from_step:,}", f"{self.decay_steps:,} more steps"
        match self.decision:
            case "decay":
                return (
                    f"{risen}: the run goes back to the weights of that step and decays the learning rate over {more}."
                )
            case "end":
                return (
                    f"{risen} although the learning rate decays: the run ends here, with the weights of step "
                    f"{self.from_step:,}."
                )
            case "stop":
                return f"no evaluation since step {self.from_step:,} was better: the run ends here."
            case "length":
                return f"at the pace so far the budget has time for {more}."
            case "finish":
                return f"the run is finished early, on request: the learning rate decays over {more}."
            case "lengthen":
                return "the run is made longer, on request."
            case "skip":
                return (
                    f"numbers went wrong: the run goes back to the weights of step {self.step:,} and leaves out "
                    f"{self.batches:,} batch{'es' * (self.batches > 1)}, so that not every token is read once an epoch."
                )


def in_force(decisions: Sequence[Decision]) -> list[Decision]:
    """Those that hold, in the order in which they were made: a run that was made longer has no other length."""
    kept: list[Decision] = []
    for decision in decisions:
        if decision.decision == "lengthen":
            kept = [earlier for earlier in kept if earlier.decision not in ("length", "finish", "lengthen")]
        if decision not in kept:
            kept.append(decision)
    return kept


def last_step(settings: Settings, decisions: Sequence[Decision] = ()) -> int:
    """The number of the last update."""
    last = settings.train.steps or 0
    for decision in decisions:
        if decision.decision not in ("lengthen", "skip"):
            last = decision.step + decision.decay_steps
    return last


def skipped_batches(decisions: Sequence[Decision]) -> frozenset[int]:
    """The numbers of the updates whose batches are left out."""
    ranges = (range(made.step + 1, made.step + 1 + made.batches) for made in decisions if made.decision == "skip")
    return frozenset(chain.from_iterable(ranges))


def steady_steps(settings: Settings) -> int:
    """After how many steps the learning rate begins to fall: weights up to there are those of any longer run too."""
    return decay_start(**_schedule(settings))


def decisions_of(rows: Sequence[Mapping[str, Any]]) -> list[Decision]:
    """The decisions that a run's rows record, those that still hold."""
    return in_force([decision_of(row) for row in rows if row.get("event") == "decision"])


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
    evaluations: Sequence[Evaluation], settings: Settings, step: int, decisions: Sequence[Decision] = (), *,
    epoch_tokens: int = 0,
) -> Decision | None:  # fmt: skip
    """The decision that the evaluations up to `step` call for, if they do, after earlier `decisions`. None before one
    epoch, of `epoch_tokens`, is read."""
    from hornbook.facts.looks import turned, went_on

    for earlier in decisions:
        if earlier.decision == "decay":
            evaluations = went_on(evaluations, from_step=earlier.from_step, step=earlier.step)
    best = turned(evaluations, after_tokens=epoch_tokens)
    if best is None:
        return None
    if decays(settings, step, decisions):
        return Decision(decision="end", step=step, from_step=best.step)
    steps = max(1, min(round(DECAY * best.step), (settings.train.steps or 0) - step))
    return Decision(decision="decay", step=step, from_step=best.step, decay_steps=steps)


def finish(settings: Settings, step: int, decisions: Sequence[Decision]) -> Decision:
    """To finish after `step` updates: what is left of the steps, but no longer decay than is needed."""
    steps = min(max(1, round(FINISH * step)), last_step(settings, decisions) - step)
    return Decision(decision="finish", step=step, from_step=step, decay_steps=steps)


def lr_schedule(settings: Settings, decisions: Sequence[Decision] = ()) -> Callable[[int], float]:
    """Share of the peak learning rate as a function of the update's number from 0."""
    final, falls = settings.schedule.final_fraction, [decision for decision in decisions if decision.decay_steps]

    def scale(step: int, known: int) -> float:
        """By the first `known` of them."""
        if not known:
            return lr_scale(step, **_schedule(settings), final_fraction=final)
        newest = falls[known - 1]
        if step < newest.step:
            return scale(step, known - 1)
        begin = scale(newest.from_step, known - 1)
        if newest.decision == "length" and settings.schedule.name == "constant":
            return begin
        return final + (begin - final) * max(0.0, 1 - (step - newest.step) / newest.decay_steps)

    return lambda step: scale(step, len(falls))


def decays(settings: Settings, step: int, decisions: Sequence[Decision] = ()) -> bool:
    """Whether after `step` updates the learning rate decays, as planned or as decided."""
    constant = settings.schedule.name == "constant"
    decided = any(earlier.decay_steps and not (constant and earlier.decision == "length") for earlier in decisions)
    return decided or step >= steady_steps(settings)


def _schedule(settings: Settings) -> dict[str, Any]:
    schedule = settings.schedule
    return {
        "name": schedule.name, "steps": settings.train.steps, "warmup_steps": schedule.warmup_steps,
        "decay_fraction": schedule.decay_fraction,
    }  # fmt: skip
