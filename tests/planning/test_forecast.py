import math

import numpy as np
import pytest

from hornbook.planning.forecast import forecast, leaves_band

TOKENS = [50_000.0 * k for k in range(1, 41)]


def curve(floor: float, height: float, exponent: float, noise: float = 0.0, seed: int = 0) -> list[float]:
    """A law whose loss at the first point is floor + height, with noise as a share of the loss."""
    generator = np.random.default_rng(seed)
    x = np.asarray(TOKENS) / TOKENS[0]
    y = (floor + height * x**-exponent) * (1 + noise * generator.standard_normal(len(x)))
    return [float(value) for value in y]


def test_the_band_of_half_a_run_contains_its_end() -> None:
    """Over 300 laws drawn at random, noise of 1 %. The band is one of nine in ten; all 300 ends lie in it."""
    generator, inside = np.random.default_rng(0), 0
    for seed in range(300):
        floor, height, exponent = generator.uniform((0.5, 0.5, 0.1), (3.0, 4.0, 1.0))
        losses = curve(floor, height, exponent, noise=0.01, seed=seed)
        band = forecast(TOKENS[:20], losses[:20], TOKENS[-1])
        assert band is not None
        end = curve(floor, height, exponent)[-1]
        inside += band.low <= end <= band.high
        assert (band.high - band.low) < 0.6 * end
    assert inside >= 297


def test_one_wild_point_does_not_carry_the_fit() -> None:
    clean = curve(2.0, 2.0, 0.4)
    wild = [*clean[:12], 9.0, *clean[13:20]]
    a, b = forecast(TOKENS[:20], clean[:20], TOKENS[-1]), forecast(TOKENS[:20], wild, TOKENS[-1])
    assert a is not None
    assert b is not None
    assert a.central == pytest.approx(b.central, rel=0.02)


def test_a_few_points_say_nothing() -> None:
    assert forecast(TOKENS[:5], curve(2, 2, 0.4)[:5], TOKENS[-1]) is None
    assert forecast(TOKENS[:8], [math.nan] * 8, TOKENS[-1]) is None
    assert leaves_band([], []) is None


def test_the_ceiling_caps_the_band() -> None:
    band = forecast(TOKENS[:10], [4.1] * 10, TOKENS[-1], ceiling=math.log(65))
    assert band is not None
    assert band.central == pytest.approx(4.1)
    assert band.high == math.log(65)


def test_nothing_is_forecast_of_a_curve_that_rises_or_stands_above_the_ceiling() -> None:
    falling = curve(2.0, 2.0, 0.4)[:20]
    assert forecast(TOKENS[:20], falling, TOKENS[-1], ceiling=math.log(384)) is not None
    rising = [*falling[:10], *(falling[9] * 1.03**k for k in range(1, 11))]
    assert forecast(TOKENS[:20], rising, TOKENS[-1], ceiling=math.log(384)) is None
    assert forecast(TOKENS[:10], [8.7] * 10, TOKENS[-1], ceiling=math.log(384)) is None


def test_nothing_is_forecast_of_a_text_that_is_read_again_and_again() -> None:
    losses = curve(2.0, 2.0, 0.4)[:20]
    assert forecast(TOKENS[:20], losses, TOKENS[-1], readings=4.0) is not None
    assert forecast(TOKENS[:20], losses, TOKENS[-1], readings=4.1) is None


def test_a_curve_that_falls_more_slowly_than_forecast_is_no_fault() -> None:
    """A power law, then still down but slowly: the band is too low, and the run is healthy."""
    losses = [10 * k**-0.5 for k in range(1, 13)] + [2.88, 2.875, 2.87]
    band = forecast(TOKENS[:12], losses[:12], TOKENS[14])
    assert band is not None
    assert losses[-1] > band.high
    assert leaves_band(TOKENS[:15], losses) is None


def test_it_refits_as_it_goes() -> None:
    losses = curve(1.5, 3.0, 0.5, noise=0.01, seed=3)
    early, late = (forecast(TOKENS[:k], losses[:k], TOKENS[-1]) for k in (8, 30))
    assert early is not None
    assert late is not None
    assert late.high - late.low < early.high - early.low


@pytest.mark.parametrize("seed", range(20))
def test_healthy_curves_stay_within(seed: int) -> None:
    losses = curve(1.0 + seed % 5 / 2, 1.0 + seed % 3, 0.2 + seed % 4 / 5, noise=0.01, seed=seed)
    assert not any(leaves_band(TOKENS[:k], losses[:k]) for k in range(4, len(TOKENS) + 1))


def test_a_fall_below_is_no_fault_and_a_rise_is() -> None:
    losses = curve(2.0, 2.0, 0.4, noise=0.005, seed=1)
    fallen = [*losses[:37], *(0.85 * loss for loss in losses[37:])]
    risen = [*losses[:37], *(1.3 * loss for loss in losses[37:])]
    assert leaves_band(TOKENS, fallen) is None
    assert "is above its forecast" in (leaves_band(TOKENS, risen) or "")
    assert leaves_band(TOKENS, [*losses[:37], math.nan, math.nan, math.nan]) is not None
