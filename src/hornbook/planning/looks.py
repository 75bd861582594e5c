"""When a run is looked at: often where its curve bends, then evenly, within a share of the time.

A look scores the probe. The loss falls fastest over the first steps, and a text that is read again and again has its
lowest validation loss within a few epochs, however many steps these are: so there are looks at steps 1, 2, 4, 8, ...
and at the end of each of the first ten epochs, of the validation probe only, besides the even ones of both probes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

FIRST_EPOCHS = 10
SHARE = 0.1  # of the time that looks may take
EVEN, LEAST_EVEN = 20, 4  # even looks of a run that has the time for them, and of one that has not
MOST_TOKENS, LEAST_TOKENS = 16_384, 4096  # of the probe: the standard error of a loss is about 1 % at the upper one
HALVED = 8192  # validation tokens from which on half of them are kept from the probe, to report what it has chosen
FORWARD, FORWARD_BESIDE_BFLOAT16 = 1 / 3, 0.55  # of a training step: evaluation computes in float32
AFTER_TURNING = 8  # even looks, at least, of a decay that was not planned


@dataclass(frozen=True)
class Looks:
    """The steps at which a run of `steps` is looked at; `extra` ones see the validation probe only."""

    steps: int
    every: int
    extra: frozenset[int]

    def even(self, step: int) -> bool:
        """Whether both probes are scored."""
        return step % self.every == 0 or step == self.steps

    def due(self, step: int) -> bool:
        return self.even(step) or step in self.extra

    @property
    def num_even(self) -> int:
        """Even looks after step 0."""
        return self.steps // self.every + (self.steps % self.every > 0)

    @property
    def num_extra(self) -> int:
        """Extra looks that are not even ones."""
        return sum(not self.even(step) for step in self.extra)


def looks(steps: int, steps_per_epoch: float, every: int) -> Looks:
    """
    >>> sorted(looks(40, 7.5, 20).extra)
    [1, 2, 4, 8, 15, 16, 23, 30, 32, 38]
    """
    doubling = {2**k for k in range(steps.bit_length())}
    epochs = {math.ceil(epoch * steps_per_epoch) for epoch in range(1, FIRST_EPOCHS + 1)}
    return Looks(steps, every, frozenset(step for step in doubling | epochs if step < steps))


def watching(
    steps: int, steps_per_epoch: float, step_tokens: int, validation_tokens: int, *, every: int | None,
    probe_tokens: int | None, bfloat16: bool = False,
) -> tuple[int, int]:  # fmt: skip
    """(steps between even looks, tokens of the probe on each side), so that looking takes about SHARE of the time.

    What is given stays. First the probe shrinks, to LEAST_TOKENS, then the looks become fewer.
    """
    forward = FORWARD_BESIDE_BFLOAT16 if bfloat16 else FORWARD
    allowed = SHARE * steps * step_tokens / forward  # tokens that may be scored
    extra = looks(steps, steps_per_epoch, every or steps).num_extra

    def scored(num_even: float, tokens: int) -> float:
        held = min(tokens, validation_tokens)
        return extra * held + num_even * (held + tokens)

    even = steps / every if every is not None else min(steps, EVEN)
    most = validation_tokens // 2 if validation_tokens >= HALVED else MOST_TOKENS
    tokens = probe_tokens or min(MOST_TOKENS, 8 * step_tokens, most)
    if probe_tokens is None and (planned := scored(even, tokens)) > allowed:
        tokens = max(min(tokens, LEAST_TOKENS), int(tokens * allowed / planned))
    if every is None:
        room = (allowed - scored(0, tokens)) / max(1, scored(1, tokens) - scored(0, tokens))
        even = min(even, max(LEAST_EVEN, room))
        every = max(1, min(steps, math.ceil(steps / even)))
    return every, tokens


def after_turning(planned: Looks, step: int, last: int) -> Looks:
    """The looks of a run that ends at `last` instead, as it decided at `step`: at least AFTER_TURNING until then."""
    every = max(1, min(planned.every, (last - step) // AFTER_TURNING))
    return Looks(last, every, frozenset(extra for extra in planned.extra if extra < last))
