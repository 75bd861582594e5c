import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hornbook.evaluation.differences import Units, area_interval, auc, rate_difference, ratio_difference, units_of
from hornbook.evaluation.intervals import clusters, difference, gap, one_passage


def truths(successes, trials):
    return np.arange(trials) < successes


def each(m, n):
    """Every window is a document of its own."""
    return Units("documents", np.arange(m), np.arange(n))


def test_rates_as_newcombe_published_them():
    """Newcombe 1998, table II, method 10."""
    for (a, m), (b, n), low, high in [
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((5, 56), (0, 29), -0.0381, 0.1926),
        ((10, 10), (0, 20), 0.6791, 1.0000),
    ]:
        assert rate_difference(each(m, n), truths(a, m), truths(b, n)) == pytest.approx((low, high), abs=2e-4)


def test_windows_of_one_document_count_for_less():
    alone = rate_difference(each(80, 80), truths(40, 80), truths(0, 80))
    units = Units("documents", np.arange(80) // 8, np.arange(80))
    together = rate_difference(units, truths(40, 80), truths(0, 80))
    assert together[1] - together[0] > 1.5 * (alone[1] - alone[0])


def test_what_is_independent():
    documents = np.arange(12), np.arange(6)
    assert units_of(documents, None, (9, 9), False).unit == "documents"
    assert units_of((documents[0], np.zeros(6, int)), None, (9, 9), False).unit == "passages"
    strata = np.arange(12) // 2, np.array([5, 4, 3, 2, 1, -1])
    units = units_of(documents, strata, (9, 9), True)
    assert (units.unit, units.count) == ("strata", 5)
    assert units.train.tolist() == [-1, -1, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4]  # the stratum without a held-out piece is out
    assert units.heldout.tolist() == [4, 3, 2, 1, 0, -1]
    few = units_of(documents, (strata[0], np.full(6, 2)), (9, 9), True)
    assert (few.unit, few.alike) == ("passages", True)


def test_the_difference_is_that_of_the_method_for_its_units():
    generator = np.random.default_rng(0)
    a, b = generator.normal(5, 1, 64), np.ones(64)
    c, d = generator.normal(6, 1, 64), np.full(64, 2.0)
    labels = np.arange(64) // 4
    parts = [np.bincount(labels, column) for column in (a, b, c, d)]
    for kind, wanted in (
        ("documents", difference(clusters(parts[2], parts[3]), clusters(parts[0], parts[1]))),
        ("strata", gap(np.stack(parts[2:], 1), np.stack(parts[:2], 1))),
        ("passages", difference(one_passage(parts[2], parts[3], 5000), one_passage(parts[0], parts[1], 9000))),
    ):
        value, estimate = ratio_difference(Units(kind, labels, labels, (9000, 5000), True), (a, b), (c, d))
        assert (value, estimate) == (wanted.value, wanted)
    other = ratio_difference(Units("passages", labels, labels, (9000, 5000), False), (a, b), (c, d))[1]
    assert other.error == pytest.approx(2 * wanted.error)


def test_too_little_text_has_no_interval():
    few = np.arange(15)
    value, estimate = ratio_difference(Units("passages", few, few, (9000, 9000)), (few, few + 1), (few + 1, few + 1))
    assert estimate is None
    assert value == pytest.approx(15 / 120)
    assert auc(Units("passages", few, few, (9000, 9000)), few.astype(float), few.astype(float)) == (0.5, None)


scores = st.lists(st.integers(0, 4), min_size=1, max_size=12)


@given(scores, scores)
def test_the_auc_is_a_count_over_pairs(a, b):
    pairs = [(x > y) + (x == y) / 2 for x in a for y in b]
    area, _ = auc(each(len(a), len(b)), np.array(a, float), np.array(b, float))
    assert area == pytest.approx(np.mean(pairs))


def test_the_interval_of_the_auc_has_width_where_all_pairs_are_in_order():
    x = np.arange(20.0)
    area, (low, high) = auc(each(20, 20), x + 20, x)
    assert (area, high) == (1, 1)
    assert 0.8 < low < 0.95
    assert auc(each(20, 20), x, x + 20)[1] == pytest.approx((0, 1 - low))
    units = Units("documents", np.arange(20) % 5, np.arange(20) % 5)
    wider = auc(units, np.tile(x[:5], 4) + 20, np.tile(x[:5], 4))[1]
    assert wider[0] < low  # four scores of one document are not four documents
    for end in area_interval(0.8, 30, 50):  # each end is 1.96 of its own errors away: Hanley and McNeil's by hand
        q1, q2 = end / (2 - end), 2 * end**2 / (1 + end)
        variance = (end * (1 - end) + 39 * (q1 - end**2) + 39 * (q2 - end**2)) / (30 * 50)
        assert abs(0.8 - end) / np.sqrt(variance) == pytest.approx(1.96, abs=1e-3)


def test_the_interval_of_the_auc_holds_where_hardly_a_pair_is_out_of_order():
    generator = np.random.default_rng(2)
    truth, held = 0.983053, []  # of normals 3 apart: the normal distribution at 3 / root of 2
    for _ in range(300):
        _, (low, high) = auc(each(20, 20), generator.normal(3, 1, 20), generator.normal(0, 1, 20))
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
        _, (low, high) = auc(Units("documents", units, units), x + 0.5 * np.sqrt(2), y)
        held.append(low <= truth <= high)
    assert np.mean(held) == pytest.approx(0.95, abs=0.035)


def test_strata_take_off_what_makes_a_stretch_hard():
    """Both sides wander together, far more than they differ: within strata neither the AUC nor the gap is misled."""
    generator = np.random.default_rng(3)
    labels, missed = np.arange(64) // 4, {"strata": 0, "windows": 0}
    for _ in range(200):
        level = generator.normal(0, 3) * np.linspace(-1, 1, 64) + generator.normal(0, 1, 16).repeat(4)
        a, b = level + generator.normal(0, 0.5, (2, 64))
        sides = labels, labels[:32]  # the held-out text is all from the first half
        for kind, units in (("windows", each(64, 32)), ("strata", units_of(sides, sides, (9, 9), True))):
            _, (low, high) = auc(units, a, b[:32])
            missed[kind] += not low <= 0.5 <= high
    assert missed["strata"] <= 16
    assert missed["windows"] > 60
