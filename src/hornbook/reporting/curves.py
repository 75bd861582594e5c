"""The loss curves of a run: where they were lowest, how they end, and how far training and validation loss are apart.

A curve is known only at its evaluations, on a probe of some windows: its lowest point lies between two of them.
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
    """What the evaluations that the present weights descend from show. Losses in nats per token, None where unknown."""

    rows: Rows
    points: Sequence[Evaluation]
    beside_best: tuple[Evaluation | None, Evaluation | None]  # see `around_best`
    tokens_per_epoch: int
    epochs: float  # that these weights have read
    readings: float  # epochs, times how often the text stands in itself
    gap: Gap

    @property
    def first(self) -> Evaluation:
        return self.points[0]

    @property
    def last(self) -> Evaluation:
        return self.points[-1]

    @property
    def best(self) -> Evaluation:
        return min(self.points, key=lambda point: point.validation_loss)

    @property
    def repeated(self) -> bool:
        """Whether more than a few tokens were read twice."""
        return self.readings > READ_ONCE

    @cached_property
    def turned_upward(self) -> bool:
        """Whether the last two points are worse than the best, or two earlier were and none since was below both."""
        points, best, lowest_since = self.points, self.best, math.inf
        for stop in range(len(points), 1, -1):
            two = points[stop - 2 : stop]
            if two[0].step <= best.step:
                return False
            noise = noise_of(points[:stop])
            if min(point.validation_loss for point in two) <= lowest_since and all(worse(x, best, noise) for x in two):
                return True
            lowest_since = min(lowest_since, two[1].validation_loss)
        return False

    def train_loss(self, point: Evaluation) -> float | None:
        """The probe's training loss at a point, or at the nearest that has it, later ones first; without a probe, the
        mean of the steps around it (5 % of the run)."""
        measured = [other for other in self.points if other.train_loss is not None]
        if measured:
            return min(measured, key=lambda other: (abs(other.tokens - point.tokens), -other.step)).train_loss
        reach = (self.last.tokens - self.first.tokens) / 20
        steps = zip(*train_losses(self.rows), strict=True)
        near = [loss for tokens, loss in steps if abs(tokens - point.tokens) <= reach]
        return math.fsum(near) / len(near) if near else None


def evaluations(rows: Rows) -> list[Evaluation]:
    """The evaluations in order of step; of two at one step (before and after a resume) the later one counts."""
    by_step: dict[int, Evaluation] = {}
    for row in rows:
        loss = row.get("probe_validation_loss_nats_per_token")
        if row.get("event") != "evaluation" or loss is None:
            continue
        by_step[row["step"]] = Evaluation(
            row["step"], row["tokens"], loss,
            train_loss=row.get("probe_train_loss_nats_per_token"),
            gap=row.get("probe_generalization_gap_bits_per_byte"),
            copied=row.get("copied_share"),
            windows=tuple(row.get("probe_validation_window_nats") or ()),
            train_windows=tuple(row.get("probe_train_window_nats") or ()),
        )  # fmt: skip
    return [by_step[step] for step in sorted(by_step)]


def train_losses(rows: Rows) -> tuple[list[int], list[float]]:
    """Tokens seen and training loss of each step; a step whose loss was not finite is left out."""
    key = "train_loss_nats_per_token"
    steps = [row for row in rows if row.get("event") == "step" and row.get(key) is not None]
    return [row["tokens"] for row in steps], [row[key] for row in steps]


def best_step_between(rows: Rows) -> tuple[int | None, int | None]:
    """The steps between which the lowest validation loss lies, see `around_best`; None at an end of the curve, and
    without any evaluation."""
    points, _, around = _branches(rows)
    if not points:
        return None, None
    before, after = around_best(around)
    return (before.step if before else None), (after.step if after else None)


def read_curves(rows: Rows, *, tokens_per_epoch: int, repeated_share: float = 0.0) -> Curves | None:
    """Judge the curves; None without an evaluation. `repeated_share`: of the training text that stands in it before,
    by the check-up. Where a run went back to earlier weights, what it gave up is not judged and not read."""
    points, given_up, around = _branches(rows)
    if not points:
        return None
    epochs = (max((row["tokens"] for row in rows if "tokens" in row), default=0) - given_up) / tokens_per_epoch
    gap = gap_of(points, READ_ONCE * tokens_per_epoch / readings(1.0, repeated_share))
    read = readings(epochs, repeated_share)
    return Curves(rows, points, around_best(around), tokens_per_epoch, epochs, read, gap)


def _branches(rows: Rows) -> tuple[list[Evaluation], int, list[Evaluation]]:
    """The points that the present weights descend from, the tokens that were given up before them, and the points among
    which the best one has its neighbours: those of the branch that was given up, where the run went back to it."""
    points, given_up = evaluations(rows), 0
    around = points
    for row in rows:
        if row.get("event") == "decision" and row["decision"] == "decay" and points:
            before, last_tokens = [point for point in points if point.step <= row["step"]], points[-1].tokens
            points = went_on(points, from_step=row["from_step"], step=row["step"])
            given_up += last_tokens - points[-1].tokens
            best = min(points, key=lambda point: point.validation_loss)
            around = before if best.step <= row["from_step"] else points
    return points, given_up, around


def around_best(points: Sequence[Evaluation]) -> tuple[Evaluation | None, Evaluation | None]:
    """The points between which the lowest loss lies: before and after the best one, or None at an end. Where a bump of
    0.1 nats stands between the best and another point that is as low to 0.15 nats, as in an unstable start, it may lie
    in either valley: then from before the first to after the last of them."""
    at = min(range(len(points)), key=lambda i: points[i].validation_loss)
    losses = [point.validation_loss for point in points]
    first = last = at
    for i, loss in enumerate(losses):
        between = losses[min(i, at) + 1 : max(i, at)]
        if loss < losses[at] + VALLEY_NATS and between and max(between) > loss + BUMP_NATS:
            first, last = min(first, i), max(last, i)
    return points[first - 1] if first else None, points[last + 1] if last + 1 < len(points) else None
