"""How far a run's losses have moved: a gap that grows, a curve that falls, each with its interval.

What is compared are windows with themselves (`facts.looks`): at two evaluations for the gap; for the fall at all in the
last quarter, since the slope of a straight line is a sum of its points with fixed weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import median
from typing import NamedTuple

from hornbook.facts.looks import (
    LEAST_WINDOWS,
    MOST_NOISE_NATS,
    WORTH_SAYING_NATS,
    Evaluation,
    mean_of_windows,
    noise_of,
    paired,
    wavering,
)

MOST_SWAY_NATS = 0.03  # by so much an evaluation wavers at most where its windows speak for themselves


class Change(NamedTuple):
    """By how much something changed, in nats per token, and half the width of its 95 % interval."""

    nats: float
    half: float

    @property
    def is_rise(self) -> bool:
        return self.nats > max(WORTH_SAYING_NATS, self.half)


class Gap(NamedTuple):
    """Validation loss above training loss. `first`: at the last evaluations before anything was read twice, where it
    says how the two texts differ; `growth` since then; `opened`: the first evaluation from which on that is beyond
    noise, after the one before it. None where unknown."""

    first: float | None = None
    growth: Change | None = None
    opened: tuple[Evaluation, Evaluation] | None = None


def is_apart(change: Change) -> bool:
    return change.nats > max(2 * WORTH_SAYING_NATS, change.half)


def gap_of(points: Sequence[Evaluation], read_once_tokens: float) -> Gap:
    """The gap of a run, in which up to `read_once_tokens` nothing was read twice."""
    both = [point for point in points if point.train_loss is not None]
    if not both:
        return Gap()
    early = [point for point in both if point.tokens <= read_once_tokens]
    later = both[max(1, len(early)) :]
    start = _median(early[-3:]) if early else both[0]
    first = _gap(start)
    noise = wavering([point.tokens for point in both], [_gap(point) for point in both])
    if not later or (noise is None and not all(_have_same_windows(start, point) for point in later)):
        return Gap(first)
    growth = gap_change(start, later[-1], noise)
    at = len(later)
    while at and (change := gap_change(start, later[at - 1], noise)) is not None and is_apart(change):
        at -= 1
    if at == len(later):
        return Gap(first, growth)
    return Gap(first, growth, (later[at - 1] if at else early[-1] if early else both[0], later[at]))


def _have_same_windows(start: Evaluation, point: Evaluation) -> bool:
    pairs = ((start.windows, point.windows), (start.train_windows, point.train_windows))
    return all(len(a) == len(b) >= LEAST_WINDOWS for a, b in pairs)


def _gap(point: Evaluation) -> float:
    return point.validation_loss - (point.train_loss or 0.0)


def fall_at_end(points: Sequence[Evaluation]) -> Change | None:
    """Fall of the least-squares line over the last quarter (three evaluations at least). It is a sum of points with
    fixed weights, so that each window has a fall of its own; to their interval comes the noise of the curve. None where
    that is unknown."""
    noise = noise_of(points)
    if noise is None:
        return None
    begin = points[-1].tokens - (points[-1].tokens - points[0].tokens) / 4
    late = points[-max(3, sum(point.tokens >= begin for point in points)) :]
    mean = math.fsum(point.tokens for point in late) / len(late)
    spread = math.fsum((point.tokens - mean) ** 2 for point in late)
    span = late[-1].tokens - late[0].tokens
    weights = [-(point.tokens - mean) / spread * span for point in late]
    if len({len(point.windows) for point in late}) == 1:
        falls = [
            math.fsum(w * x for w, x in zip(weights, nats, strict=True))
            for nats in zip(*(point.windows for point in late), strict=True)
        ]
        mean_fall = mean_of_windows(falls)
        if mean_fall is not None:
            sway = 2 * min(noise, MOST_SWAY_NATS) * span / math.sqrt(spread)
            return Change(mean_fall[0], math.hypot(mean_fall[1], sway))
    fall = math.fsum(w * point.validation_loss for w, point in zip(weights, late, strict=True))
    if len(points) >= 5 and all(b.validation_loss < a.validation_loss for a, b in pairwise(points[-5:])):
        return Change(fall, 0.0)  # five evaluations each below the one before are no noise
    return Change(fall, 3 * noise * span / math.sqrt(spread))


def _median(points: Sequence[Evaluation]) -> Evaluation:
    """The last point with the median of all losses, window by window: one evaluation at an unstable moment, when some
    windows have losses of 10 nats, must not be what all later ones are compared with."""
    if len({(len(point.windows), len(point.train_windows)) for point in points}) > 1:
        return points[-1]
    return replace(
        points[-1],
        validation_loss=median(point.validation_loss for point in points),
        train_loss=median(point.train_loss or 0.0 for point in points),
        windows=tuple(median(nats) for nats in zip(*(point.windows for point in points), strict=True)),
        train_windows=tuple(median(nats) for nats in zip(*(point.train_windows for point in points), strict=True)),
    )


def gap_change(start: Evaluation, point: Evaluation, noise: float | None) -> Change | None:
    """By windows where both points have them on both sides: two means of paired differences, and the hypotenuse of
    their intervals. Else the losses, with six times the noise of a gap; None without any."""
    validation = paired(point.windows, start.windows)
    train = paired(point.train_windows, start.train_windows)
    if validation is not None and train is not None:
        return Change(validation[0] - train[0], math.hypot(validation[1], train[1]))
    nats = (point.validation_loss - start.validation_loss) - ((point.train_loss or 0.0) - (start.train_loss or 0.0))
    return None if noise is None else Change(nats, min(6 * noise, MOST_NOISE_NATS))
