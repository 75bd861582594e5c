"""A run that rises has turned; one that wavers around a level, spikes once or is read too soon has not."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from hornbook.facts.looks import Evaluation, mean_of_windows, turned, wavering, went_on
from hornbook.facts.statistics import t_quantile


def _looks(
    curve: Callable[[int], float], steps: list[int], *, windows: int = 32, scatter: float = 0.0, sway: float = 0.0,
    seed: int = 0,
) -> list[Evaluation]:  # fmt: skip
    """`sway` moves a whole look; `scatter` each window of it. Windows differ from each other by far more than both."""
    draw = random.Random(seed).gauss
    level = [draw(0, 0.5) for _ in range(windows)]
    looks = []
    for step in steps:
        loss = curve(step) + draw(0, sway)
        nats = tuple(loss + own + draw(0, scatter) for own in level)
        mean = math.fsum(nats) / windows if windows else loss
        looks.append(Evaluation(step, step * 100, mean, None, windows=nats))
    return looks


BENT = [0, 1, 2, 4, 8, 16, 32, 64, 100, 128, 200, 256, 300]


def _rising(step: int) -> float:
    return 5.5 - 0.3 * math.log2(1 + step) if step < 100 else 5.5 - 0.3 * math.log2(101) + 0.002 * (step - 100)


def test_a_run_that_rises_has_turned_at_its_best_look() -> None:
    looks = _looks(_rising, BENT, scatter=0.1, sway=0.005)
    best = turned(looks)
    assert best is not None
    assert best.step == 100
    assert turned(looks[:9]) is None
    assert turned(looks[:10]) is None, "28 steps after a best look at 100 are too soon"
    assert turned([]) is None
    assert turned(looks, after_tokens=30_000) is None
    assert turned(looks, after_tokens=29_999) is not None


def test_half_of_the_tokens_before_must_have_come_since() -> None:
    def curve(step: int) -> float:
        return 4 + abs(step - 100) / 100

    assert turned(_looks(curve, [0, 50, 100, 125, 150])) is None
    assert turned(_looks(curve, [0, 50, 100, 125, 151])) is not None


def test_looks_that_were_given_up_are_not_those_of_the_weights() -> None:
    looks = _looks(lambda step: 4.0, [0, 50, 100, 150, 200, 220, 240])
    kept = went_on(looks, from_step=100, step=200)
    assert [(look.step, look.tokens) for look in kept] == [(0, 0), (50, 5000), (100, 10000), (220, 12000), (240, 14000)]


def test_one_spike_is_no_turn_and_fresh_weights_are_no_best_look() -> None:
    looks = _looks(lambda step: 4 - step / 1000 + 2 * (step == 300), [0, 50, 100, 200, 300])
    assert turned(looks) is None
    assert turned(_looks(lambda step: 4 + step / 100, [0, 50, 100, 200])) is None


@pytest.mark.parametrize("windows", [0, 32])
@pytest.mark.parametrize("sway", [0.002, 0.01, 0.02])
def test_a_plateau_never_counts(windows: int, sway: float) -> None:
    wrong = 0
    for seed in range(300):
        steps = [0, 1, 2, 4, 8, 16, *range(32, 800, 32)]
        looks = _looks(
            lambda step: 3 + 2 * math.exp(-step / 20), steps, windows=windows, scatter=0.1, sway=sway, seed=seed
        )
        wrong += any(turned(looks[: k + 1]) is not None for k in range(8, len(looks)))
    assert wrong <= 6  # 2 % of whole runs, each judged at some twenty looks


def test_a_bend_between_distant_looks_is_no_noise() -> None:
    """Looks at powers of two of a steep curve scatter by half a nat around straight lines."""
    looks = _looks(lambda step: 3 + 0.35 * (math.log2(step + 1) - 6) ** 2, [0, 1, 2, 4, 8, 16, 32, 64, 128, 256])
    noise = wavering([look.tokens for look in looks], [look.validation_loss for look in looks])
    assert noise is not None
    assert noise > 0.2
    best = turned(looks)
    assert best is not None
    assert best.step == 64


def test_windows_are_grouped_with_their_neighbours() -> None:
    """Neighbours that are alike count once: 160 windows in 16 runs of ten equal values are 16 observations."""
    draw = random.Random(1).gauss
    few = [draw(0, 1) for _ in range(16)]
    many = [value for value in few for _ in range(10)]
    assert mean_of_windows(many) == pytest.approx(mean_of_windows(few))
    mean = math.fsum(few) / 16
    error = math.sqrt(math.fsum((value - mean) ** 2 for value in few) / 15 / 16)
    assert mean_of_windows(few) == pytest.approx((mean, t_quantile(15) * error))
    assert mean_of_windows(few[:7]) is None


def test_the_interval_of_windows_holds_the_mean_at_its_rate() -> None:
    generator = random.Random(5)
    held = 0
    for _ in range(1000):
        mean, half = mean_of_windows([generator.gauss(0, 1) for _ in range(40)]) or (9.0, 0.0)
        held += abs(mean) <= half
    assert 930 <= held <= 970
