"""How far a run's losses have moved: a gap that grows, a curve that falls, each with its interval.

What is compared are windows with themselves (`facts.looks`): of two looks for the gap, and for the fall of all looks in
the last quarter, since the slope of a straight line is a sum of its points with fixed weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import median
from typing import NamedTuple

from hornbook.facts.looks import MOST_NOISE_NATS, WORTH_SAYING_NATS, Evaluation, mean_of_windows, wavering

MOST_SWAY_NATS = 0.03  # by so much an evaluation wavers at most where its windows speak for themselves


class Change(NamedTuple):
    """By how much something changed, in nats per token, and half the width of its 95 % interval."""

    nats: float
    half: float

    @property
    def is_rise(self) -> bool:
        return self.nats > max(WORTH_SAYING_NATS, self.half)


def gap_growth(
    looks: Sequence[Evaluation], read_once_tokens: float
) -> tuple[float | None, Change | None, tuple[Evaluation, Evaluation] | None]:
    """The gap at the last looks before anything was read twice, how far validation loss has moved away from
    training loss since (until then a gap says how the two texts differ), and the two looks between which that became
    clear."""
    both = [look for look in looks if look.train_loss is not None]
    early = [look for look in both if look.tokens <= read_once_tokens]
    later = both[len(early) :] if early else both[1:]
    if not both:
        return None, None, None
    start = _median(early[-3:]) if early else both[0]
    first_gap = start.validation_loss - (start.train_loss or 0.0)
    if not later:
        return first_gap, None, None
    gaps = [look.validation_loss - (look.train_loss or 0.0) for look in both]
    noise = wavering([look.tokens for look in both], gaps)
    changes = [gap_change(start, look, noise) for look in later]
    if any(change is None for change in changes):
        return first_gap, None, None
    apart = [change is not None and change.nats > max(2 * WORTH_SAYING_NATS, change.half) for change in changes]
    if not apart[-1]:
        return first_gap, changes[-1], None
    first = len(apart) - apart[::-1].index(False) if False in apart else 0
    return first_gap, changes[-1], (later[first - 1] if first else early[-1] if early else both[0], later[first])


def fall_at_end(looks: Sequence[Evaluation], noise: float | None) -> Change | None:
    """Fall of the least-squares line over the last quarter (three looks at least). It is a sum of looks with fixed
    weights, so that each window has a fall of its own; to their interval comes the wavering of the looks."""
    if noise is None:
        return None
    begin = looks[-1].tokens - (looks[-1].tokens - looks[0].tokens) / 4
    late = looks[-max(3, sum(look.tokens >= begin for look in looks)) :]
    mean = math.fsum(look.tokens for look in late) / len(late)
    spread = math.fsum((look.tokens - mean) ** 2 for look in late)
    span = late[-1].tokens - late[0].tokens
    weights = [-(look.tokens - mean) / spread * span for look in late]
    if len({len(look.windows) for look in late}) == 1:
        falls = [
            math.fsum(w * x for w, x in zip(weights, nats, strict=True))
            for nats in zip(*(look.windows for look in late), strict=True)
        ]
        paired = mean_of_windows(falls)
        if paired is not None:
            return Change(paired[0], math.hypot(paired[1], 2 * min(noise, MOST_SWAY_NATS) * span / math.sqrt(spread)))
    fall = math.fsum(w * look.validation_loss for w, look in zip(weights, late, strict=True))
    if len(looks) >= 5 and all(b.validation_loss < a.validation_loss for a, b in pairwise(looks[-5:])):
        return Change(fall, 0.0)  # five looks each below the one before are no noise
    return Change(fall, 3 * noise * span / math.sqrt(spread))


def _median(looks: Sequence[Evaluation]) -> Evaluation:
    """The last of the looks with the median of their losses, window by window: one look at an unstable moment, when
    some windows have losses of 10 nats, must not be what all later ones are compared with."""
    if len({(len(look.windows), len(look.train_windows)) for look in looks}) > 1:
        return looks[-1]
    return replace(
        looks[-1],
        validation_loss=median(look.validation_loss for look in looks),
        train_loss=median(look.train_loss or 0.0 for look in looks),
        windows=tuple(median(nats) for nats in zip(*(look.windows for look in looks), strict=True)),
        train_windows=tuple(median(nats) for nats in zip(*(look.train_windows for look in looks), strict=True)),
    )


def gap_change(start: Evaluation, look: Evaluation, noise: float | None) -> Change | None:
    """By windows where both looks have them on both sides: two means of paired differences, and the hypotenuse of their
    intervals. Else the losses, with six times the noise of a gap; None without any."""
    nats = (look.validation_loss - start.validation_loss) - ((look.train_loss or 0.0) - (start.train_loss or 0.0))
    pairs = []
    for late, early in ((look.windows, start.windows), (look.train_windows, start.train_windows)):
        if len(late) == len(early):
            pairs.append(mean_of_windows([a - b for a, b in zip(late, early, strict=True)]))
    if len(pairs) == 2 and pairs[0] is not None and pairs[1] is not None:
        return Change(pairs[0][0] - pairs[1][0], math.hypot(pairs[0][1], pairs[1][1]))
    return None if noise is None else Change(nats, min(6 * noise, MOST_NOISE_NATS))
