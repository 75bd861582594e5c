"""Looks at a run: two of them compared window by window, and whether a run has turned.

A look scores the same windows as the one before, so most of what makes a loss uncertain (which windows they are) drops
out of the difference. What remains are the windows' own differences, and that validation loss wavers from step to step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from hornbook.facts.statistics import mean_and_error, t_quantile

LEAST_WINDOWS = 8  # below, windows say nothing of their own scatter
GROUPS = 16  # of neighbouring windows, which resemble each other: the units of an interval
# A change below this is not worth a sentence: 0.02 nats is 2 % of perplexity, whatever the text and the tokenizer.
WORTH_SAYING_NATS = 0.02
WORSE_NATS = 0.03  # the best of many looks at a plateau lies below it by about so much
# So much of five times the wavering counts at most: more is the bend of a steep curve, or an unstable run.
MOST_WAVERING_NATS = 0.15
# The same for logs without windows, where the scatter of the looks stands for all noise.
MOST_NOISE_NATS = 0.5
SURE = 0.005  # one-sided: a run is compared with its best look again and again


@dataclass(frozen=True)
class Evaluation:
    """One look. Losses in nats per token; `train_loss` is the probe's, None without one. `windows` and `train_windows`:
    the mean nats per token of each probe window of the validation and the training text, in an order that is the same
    in all looks of a run; empty in old logs."""

    step: int
    tokens: int
    validation_loss: float
    train_loss: float | None
    gap: float | None = None  # bits per byte of validation over training
    copied: float | None = None  # share of what it freely writes
    windows: tuple[float, ...] = ()
    train_windows: tuple[float, ...] = ()


def mean_of_windows(values: Sequence[float], *, tail: float = 0.025) -> tuple[float, float] | None:
    """Mean of one value per window and half the width of its interval, which misses with probability `tail` on each
    side: mean +- t(k - 1) s / sqrt k over k groups of neighbouring windows. None for fewer than 8 windows.

    >>> mean_of_windows([1.0, 2.0]) is None
    True
    >>> mean, half = mean_of_windows([0.9, 1.1] * 8)
    >>> round(mean, 3), round(half, 3)
    (1.0, 0.055)
    """
    n = len(values)
    if n < LEAST_WINDOWS:
        return None
    k = min(n, GROUPS)
    cuts = [i * n // k for i in range(k + 1)]
    groups = [math.fsum(values[a:b]) / (b - a) for a, b in pairwise(cuts)]
    _, error = mean_and_error(groups)
    return math.fsum(values) / n, t_quantile(k - 1, tail) * error


def paired(late: Sequence[float], early: Sequence[float], *, tail: float = 0.025) -> tuple[float, float] | None:
    """`mean_of_windows` of the differences of the same windows at two looks; None where they are not the same."""
    if len(late) != len(early):
        return None
    return mean_of_windows([a - b for a, b in zip(late, early, strict=True)], tail=tail)


def wavering(tokens: Sequence[int], values: Sequence[float]) -> float | None:
    """Standard deviation of one of `values`, from how far each lies off the line between its neighbours, over the
    logarithm of the tokens; None under 4 looks.

    Taken from the later half, where a curve bends least; what it still bends counts as noise. The factor makes up for
    few residuals: with three of them a lucky draw is often half of the truth.
    """
    if len(values) < 4:
        return None
    late = [(math.log1p(count), value) for count, value in zip(tokens, values, strict=True)]
    if len(late) > 4:
        late = late[1:]  # the fall from fresh weights is no noise
    late, squares = late[-max(5, len(late) // 2) :], []
    for (before, low), (at, value), (after, high) in zip(late, late[1:], late[2:], strict=False):
        weight = (at - before) / (after - before)
        squares.append((value - low * (1 - weight) - high * weight) ** 2 / (1 + weight**2 + (1 - weight) ** 2))
    return math.sqrt(math.fsum(squares) / len(squares)) * (1 + 3 / len(squares))


def worse(look: Evaluation, best: Evaluation, noise: float | None) -> bool:
    """Whether validation loss at `look` is above that at `best`, the lowest of many, beyond chance and by 0.03 nats.

    By windows where both have them: the mean of the paired differences is above its own interval and five times the
    `noise` (`wavering` of validation loss), of which at most 0.15 nats counts. Else the losses differ by six times the
    noise, of which at most 0.5 nats counts; without a noise nothing is worse.
    """
    rise_of_windows = paired(look.windows, best.windows, tail=SURE)
    if rise_of_windows is not None:
        clear = max(WORSE_NATS, min(5 * (noise or 0.0), MOST_WAVERING_NATS))
        return rise_of_windows[0] > max(clear, rise_of_windows[1])
    if noise is None:
        return False
    rise = look.validation_loss - best.validation_loss
    return rise > max(WORSE_NATS, min(6 * noise, MOST_NOISE_NATS))


def went_on(looks: Sequence[Evaluation], *, from_step: int, step: int) -> list[Evaluation]:
    """The looks that the present weights descend from, where a run went back after update `step` to the weights of
    `from_step` and trained on under later numbers. Tokens are those that these weights have read."""
    kept = [look for look in looks if look.step <= from_step]
    before = max((look.tokens for look in looks if look.step <= step), default=0)
    given_up = before - (kept[-1].tokens if kept else 0)
    return kept + [replace(look, tokens=look.tokens - given_up) for look in looks if look.step > step]


def noise_of(looks: Sequence[Evaluation]) -> float | None:
    """How far validation loss wavers from look to look."""
    return wavering([look.tokens for look in looks], [look.validation_loss for look in looks])


def turned(looks: Sequence[Evaluation], *, after_tokens: float = 0) -> Evaluation | None:
    """The best look of a run that has turned, else None. `looks` in order of step, the newest last.

    Turned: the two newest looks, both after the best, are `worse`, and the tokens since the best exceed half of those
    before it. A plateau is not worse; one bad look between good ones is a spike. Fresh weights are no best look.
    Nothing has turned before `after_tokens`: in the first epoch, where nothing was read twice, a loss that rises is an
    unstable start, or that of another kind of text, and often falls again.
    """
    if not looks:
        return None
    best, newest = min(looks, key=lambda look: look.validation_loss), looks[-1]
    after = [look for look in looks[-2:] if look.step > best.step]
    if newest.tokens <= after_tokens or best.tokens == 0 or len(after) < 2 or newest.tokens <= 1.5 * best.tokens:
        return None
    noise = noise_of(looks)
    return best if all(worse(look, best, noise) for look in after) else None
