import numpy as np
import pytest

from hornbook.facts.errors import InputError
from hornbook.planning.ladder import Point, fit

SIZES, LENGTHS = (60_000, 150_000, 400_000, 1_000_000), (250_000, 500_000, 1_000_000)


def truth(n: float, d: float, alpha: float, beta: float) -> float:
    return float(1.2 + 12 * n**-alpha + 60 * d**-beta)


@pytest.mark.parametrize(("alpha", "beta"), [(0.3, 0.35), (0.5, 0.3), (0.25, 0.5)])
def test_the_band_of_a_larger_run_holds_the_truth(alpha: float, beta: float) -> None:
    held = 0
    for seed in range(10):
        noise = np.random.default_rng(seed).normal(1, 0.01, 7)
        runs = [
            (SIZES[0], LENGTHS[0]),
            (SIZES[0], LENGTHS[1]),
            (SIZES[1], LENGTHS[1]),
            *((n, LENGTHS[2]) for n in SIZES),
        ]
        points = [Point(n, d, truth(n, d, alpha, beta) * e) for (n, d), e in zip(runs, noise, strict=True)]
        low, central, high = fit(points).at(4_000_000, 1_000_000)
        assert low < central < high
        held += low <= truth(4e6, 1e6, alpha, beta) <= high
    assert held >= 8


def test_few_runs_tell_nothing() -> None:
    with pytest.raises(InputError, match="at least 5"):
        fit([Point(10**5, 10**5, 3.0)] * 4)
