"""What the loss curves of a run say, in sentences that claim no more than the curves show.

A curve has been seen only at its looks, on a probe of some windows. So a lowest point is said to lie between two
looks, and two looks are compared window by window (`facts.looks`). docs/conclusions.md has each sentence's rule.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from hornbook.facts.by_heart import READ_ONCE, readings
from hornbook.facts.looks import Evaluation, noise_of, went_on, worse
from hornbook.reporting.changes import Gap, gap_of

Rows = Sequence[Mapping[str, Any]]

VALLEY_NATS, BUMP_NATS = 0.15, 0.1  # see `around_best`


@dataclass(frozen=True)
class Curves:
    """What the looks that the present weights descend from show. Losses in nats per token, None where unknown."""

    rows: Rows
    looks: Sequence[Evaluation]
    beside_best: tuple[Evaluation | None, Evaluation | None]  # see `around_best`
    tokens_per_epoch: int
    epochs: float  # that these weights have read
    readings: float  # epochs, times how often the text stands in itself
    gap: Gap

    @property
    def first(self) -> Evaluation:
        return self.looks[0]

    @property
    def last(self) -> Evaluation:
        return self.looks[-1]

    @property
    def best(self) -> Evaluation:
        return min(self.looks, key=lambda look: look.validation_loss)

    @property
    def repeated(self) -> bool:
        """Whether more than a few tokens were read twice."""
        return self.readings > READ_ONCE

    @cached_property
    def turned_upward(self) -> bool:
        """Whether the last two looks are worse than the best, or two earlier ones were and no look since was below
        both."""
        looks, best, lowest_since = self.looks, self.best, math.inf
        for stop in range(len(looks), 1, -1):
            two = looks[stop - 2 : stop]
            if two[0].step <= best.step:
                return False
            noise = noise_of(looks[:stop])
            if min(look.validation_loss for look in two) <= lowest_since and all(worse(x, best, noise) for x in two):
                return True
            lowest_since = min(lowest_since, two[1].validation_loss)
        return False

    def train_loss(self, look: Evaluation) -> float | None:
        """The probe's training loss at a look, or at the nearest one that has it, later ones first; without a probe,
        the mean of the steps around it (5 % of the run)."""
        known = [
            (abs(other.tokens - look.tokens), -other.step, other.train_loss)
            for other in self.looks
            if other.train_loss is not None
        ]
        if known:
            return min(known)[2]
        reach = (self.last.tokens - self.first.tokens) / 20
        steps = zip(*train_losses(self.rows), strict=True)
        near = [loss for tokens, loss in steps if abs(tokens - look.tokens) <= reach]
        return math.fsum(near) / len(near) if near else None


def evaluations(rows: Rows) -> list[Evaluation]:
    """The looks in order of step; of two at one step (before and after a resume) the later one counts."""
    by_step: dict[int, Evaluation] = {}
    for row in rows:
        loss = row.get("probe_validation_loss_nats_per_token")
        if row.get("event") != "evaluation" or loss is None:
            continue
        by_step[row["step"]] = Evaluation(
            step=row["step"],
            tokens=row["tokens"],
            validation_loss=loss,
            train_loss=row.get("probe_train_loss_nats_per_token"),
            gap=row.get("probe_generalization_gap_bits_per_byte"),
            copied=row.get("copied_share"),
            windows=tuple(row.get("probe_validation_window_nats") or ()),
            train_windows=tuple(row.get("probe_train_window_nats") or ()),
        )
    return [by_step[step] for step in sorted(by_step)]


def train_losses(rows: Rows) -> tuple[list[int], list[float]]:
    """Tokens seen and training loss of each step; a step whose loss was not finite is left out."""
    key = "train_loss_nats_per_token"
    steps = [row for row in rows if row.get("event") == "step" and row.get(key) is not None]
    return [row["tokens"] for row in steps], [row[key] for row in steps]


def best_step_between(rows: Rows) -> tuple[int | None, int | None]:
    """The steps of the looks between which the lowest validation loss lies, see `around_best`; None at an end of the
    curve, and where there is no look."""
    looks, _, around = _branches(rows)
    if not looks:
        return None, None
    before, after = around_best(around)
    return (before.step if before else None), (after.step if after else None)


def read_curves(rows: Rows, *, tokens_per_epoch: int, repeated_share: float = 0.0) -> Curves | None:
    """Judge the curves; None without an evaluation. `repeated_share`: of the training text that stands in it before,
    by the check-up. Where a run went back to earlier weights, what it gave up is not judged and not read."""
    looks, given_up, around = _branches(rows)
    if not looks:
        return None
    epochs = (max((row["tokens"] for row in rows if "tokens" in row), default=0) - given_up) / tokens_per_epoch
    gap = gap_of(looks, READ_ONCE * tokens_per_epoch / readings(1.0, repeated_share))
    read = readings(epochs, repeated_share)
    return Curves(rows, looks, around_best(around), tokens_per_epoch, epochs, read, gap)


def _branches(rows: Rows) -> tuple[list[Evaluation], int, list[Evaluation]]:
    """The looks that the present weights descend from, the tokens that were given up before them, and the looks among
    which the best one has its neighbours: those of the branch that was given up, where the run went back to it."""
    looks, given_up = evaluations(rows), 0
    around = looks
    for row in rows:
        if row.get("event") == "decision" and row["decision"] == "decay" and looks:
            before, last_tokens = [look for look in looks if look.step <= row["step"]], looks[-1].tokens
            looks = went_on(looks, from_step=row["from_step"], step=row["step"])
            given_up += last_tokens - looks[-1].tokens
            best = min(looks, key=lambda look: look.validation_loss)
            around = before if best.step <= row["from_step"] else looks
    return looks, given_up, around


def around_best(looks: Sequence[Evaluation]) -> tuple[Evaluation | None, Evaluation | None]:
    """The looks between which the lowest point lies: before and after the best one, or None at an end. Where a bump of
    0.1 nats stands between the best and another look that is as low to 0.15 nats, as in an unstable start, the lowest
    point may lie in either valley: then from before the first to after the last of them."""
    at = min(range(len(looks)), key=lambda i: looks[i].validation_loss)
    losses = [look.validation_loss for look in looks]
    first = last = at
    for i, loss in enumerate(losses):
        between = losses[min(i, at) + 1 : max(i, at)]
        if loss < losses[at] + VALLEY_NATS and between and max(between) > loss + BUMP_NATS:
            first, last = min(first, i), max(last, i)
    return looks[first - 1] if first else None, looks[last + 1] if last + 1 < len(looks) else None
