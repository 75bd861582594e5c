"""How the learning rate moves."""

from __future__ import annotations

import math


def lr_scale(
    step: int, *, kind: str, steps: int, warmup_steps: int, decay_fraction: float = 0.6, final_fraction: float = 0.0
) -> float:
    """Share of the peak learning rate for update number `step` (from 0) of `steps`.

    Linear warm-up first, in all kinds. `wsd` then stays and decays linearly over the last `decay_fraction` of all
    steps (Hu et al. 2024); `cosine` falls along half a cosine (Loshchilov and Hutter 2017), `linear` along a line;
    `constant` stays. All but `constant` end at `final_fraction`.

    >>> [round(lr_scale(s, kind="wsd", steps=10, warmup_steps=2, decay_fraction=0.5), 2) for s in range(10)]
    [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2]
    >>> round(lr_scale(6, kind="cosine", steps=10, warmup_steps=2), 6)  # the middle of the cosine
    0.5
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if kind == "constant":
        return 1.0
    start = decay_start(kind=kind, steps=steps, warmup_steps=warmup_steps, decay_fraction=decay_fraction)
    if step < start:
        return 1.0
    progress = min(1.0, (step - start) / max(1, steps - start))
    falling = 0.5 * (1 + math.cos(math.pi * progress)) if kind == "cosine" else 1 - progress
    return final_fraction + (1 - final_fraction) * falling


def decay_start(*, kind: str, steps: int, warmup_steps: int, decay_fraction: float = 0.6) -> int:
    """The first update, from 0, whose learning rate falls; `steps` for a schedule that never does."""
    if kind == "constant":
        return steps
    return max(warmup_steps, steps - round(decay_fraction * steps)) if kind == "wsd" else warmup_steps
