"""How the learning rate moves: a warm-up, then one of LR_SCHEDULES."""

from __future__ import annotations

import math
from bisect import bisect_left

# ---- Learning-rate schedules. To add one: a function here, in LR_SCHEDULES, and its name in facts/settings.py.
# A schedule is the scale after `step` of the `steps` that follow the warm-up: 1 at first, never rising, at least 0, for
# which `final_fraction` stands. `decay_steps` is how long a decay at the end is to be.


def wsd(step: int, steps: int, decay_steps: int) -> float:
    """Warm-up, stable, decay (Hu et al. 2024)."""
    start = max(0, steps - decay_steps)
    return linear(max(0, step - start), steps - start, decay_steps)


def cosine(step: int, steps: int, decay_steps: int) -> float:
    """Half a cosine (Loshchilov and Hutter 2017)."""
    return 0.5 * (1 + math.cos(math.pi * (step / steps)))


def linear(step: int, steps: int, decay_steps: int) -> float:
    return 1 - step / max(1, steps)


def constant(step: int, steps: int, decay_steps: int) -> float:
    return 1.0


LR_SCHEDULES = {"wsd": wsd, "cosine": cosine, "linear": linear, "constant": constant}


def lr_scale(
    step: int, *, name: str, steps: int, warmup_steps: int, decay_fraction: float = 0.6, final_fraction: float = 0.0
) -> float:
    """Share of the peak learning rate for update number `step` (from 0) of `steps`, by a schedule of LR_SCHEDULES.

    A linear warm-up comes first in all of them. What falls ends at `final_fraction`; `wsd` falls over the last
    `decay_fraction` of all steps.

    >>> [round(lr_scale(s, name="wsd", steps=10, warmup_steps=2, decay_fraction=0.5), 2) for s in range(10)]
    [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2]
    >>> round(lr_scale(6, name="cosine", steps=10, warmup_steps=2), 6)  # the middle of the cosine
    0.5
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    rest = max(1, steps - warmup_steps)
    scale = LR_SCHEDULES[name](min(step - warmup_steps, rest), rest, round(decay_fraction * steps))
    return 1.0 if scale == 1.0 else final_fraction + (1 - final_fraction) * scale


def decay_start(*, name: str, steps: int, warmup_steps: int, decay_fraction: float = 0.6) -> int:
    """The update, from 0, after which the learning rate falls; `steps` for a schedule that never does."""

    def falls(step: int) -> bool:
        at = step + 1
        return lr_scale(at, name=name, steps=steps, warmup_steps=warmup_steps, decay_fraction=decay_fraction) < 1

    return warmup_steps + bisect_left(range(warmup_steps, steps), True, key=falls)
