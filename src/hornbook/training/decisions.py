"""What a run decides while it goes on. Weights are a function of the settings, the text and these decisions.

Whatever wall time, noise or a person decides is one kind of record. It is on the disk before the first update that
depends on it, and in the manifest of every later checkpoint; a run that is resumed from before it makes it at the same
step again, without asking.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, Literal

import msgspec

from hornbook.facts.errors import InputError
from hornbook.facts.settings import Settings
from hornbook.optim.schedule import decay_start, lr_scale


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
