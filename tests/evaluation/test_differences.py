import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hornbook.evaluation.differences import area_interval, auc, interval_around, rate_difference, ratio_and_error


def truths(successes, trials):
    return np.arange(trials) < successes


def test_rates_as_newcombe_published_them():
    """Newcombe 1998, table II, method 10."""
    for (a, m), (b, n), low, high in [
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((5, 56), (0, 29), -0.0381, 0.1926),
        ((10, 10), (0, 20), 0.6791, 1.0000),
    ]:
        ends = rate_difference(truths(a, m), truths(b, n), np.arange(m), np.arange(n))
        assert ends == pytest.approx((low, high), abs=2e-4)


def test_windows_of_one_document_count_for_less():
    alone = rate_difference(truths(40, 80), truths(0, 80), np.arange(80), np.arange(80))
    together = rate_difference(truths(40, 80), truths(0, 80), np.arange(80) // 8, np.arange(80))
    assert together[1] - together[0] > 1.5 * (alone[1] - alone[0])


def test_the_error_is_the_spread_of_repeated_draws():
    """Clusters of unequal size with a common shift: the error must be that of the ratio over many draws."""
    generator = np.random.default_rng(0)

    def draw():
        sizes = generator.integers(1, 9, 40)
        units = np.repeat(np.arange(40), sizes)
        b = generator.uniform(1, 3, len(units))
        return ratio_and_error(b * (0.5 + np.repeat(generator.normal(0, 0.2, 40), sizes)), b, units)

    ratios, errors, units = zip(*(draw() for _ in range(600)), strict=True)
    assert np.mean(errors) == pytest.approx(np.std(ratios), rel=0.1)
    assert set(units) == {40}
    held = [low <= 0.5 <= high for low, high in map(interval_around, ratios, errors, units)]
    assert np.mean(held) == pytest.approx(0.95, abs=0.03)


def test_one_unit_has_no_interval():
    assert interval_around(*ratio_and_error(np.ones(3), np.ones(3), np.zeros(3, np.int64))) is None


scores = st.lists(st.integers(0, 4), min_size=1, max_size=12)


@given(scores, scores)
def test_the_auc_is_a_count_over_pairs(a, b):
    pairs = [(x > y) + (x == y) / 2 for x in a for y in b]
    area, _ = auc(np.array(a, float), np.array(b, float), np.arange(len(a)), np.arange(len(b)))
    assert area == pytest.approx(np.mean(pairs))


def test_the_interval_of_the_auc_has_width_where_all_pairs_are_in_order():
    x = np.arange(20.0)
    units = np.arange(20)
    area, (low, high) = auc(x + 20, x, units, units)
    assert (area, high) == (1, 1)
    assert 0.8 < low < 0.95
    assert auc(x, x + 20, units, units)[1] == pytest.approx((0, 1 - low))
    wider = auc(np.tile(x[:5], 4) + 20, np.tile(x[:5], 4), units % 5, units % 5)[1]
    assert wider[0] < low  # four scores of one document are not four documents
    for end in area_interval(0.8, 30, 50):  # each end is 1.96 of its own errors away: Hanley and McNeil's by hand
        q1, q2 = end / (2 - end), 2 * end**2 / (1 + end)
        variance = (end * (1 - end) + 39 * (q1 - end**2) + 39 * (q2 - end**2)) / (30 * 50)
        assert abs(0.8 - end) / np.sqrt(variance) == pytest.approx(1.96, abs=1e-3)


def test_the_interval_of_the_auc_holds_where_hardly_a_pair_is_out_of_order():
    generator = np.random.default_rng(2)
    truth, held, units = 0.983053, [], np.arange(20)  # of normals 3 apart: the normal distribution at 3 / root of 2
    for _ in range(300):
        _, (low, high) = auc(generator.normal(3, 1, 20), generator.normal(0, 1, 20), units, units)
        held.append(low <= truth <= high)
    assert np.mean(held) > 0.93


def test_the_interval_of_the_auc_holds_its_95_percent():
    generator = np.random.default_rng(1)
    truth, held = 0.6915, []  # of normals one half apart times the root of 2: the normal distribution at 1/2
    for _ in range(300):
        shifts = generator.normal(0, 0.5, (2, 40)).repeat(3, 1)
        noise = generator.normal(0, np.sqrt(0.75), (2, 120))
        units = np.arange(120) // 3
        x, y = shifts + noise
        _, (low, high) = auc(x + 0.5 * np.sqrt(2), y, units, units)
        held.append(low <= truth <= high)
    assert np.mean(held) == pytest.approx(0.95, abs=0.035)
