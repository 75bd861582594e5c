"""Coverage of the intervals over simulated corpora whose true loss is known exactly."""

import numpy as np
import pytest

from hornbook.evaluation.intervals import (
    INTERVAL_DOCUMENTS,
    Estimate,
    clusters,
    difference,
    gap,
    one_passage,
    passage_parts,
    strata,
    wilson,
)

CHAIN = np.array([[0.9, 0.1], [0.3, 0.7]])  # p(next | state); its stationary distribution is (3/4, 1/4)
ENTROPY = float(np.array([0.75, 0.25]) @ (CHAIN * -np.log(CHAIN)).sum(1))  # nats per token: what the loss must cover


def simulate(lengths, generator):
    """Nats of documents of the given lengths under the chain that wrote them, (documents,)."""
    order = np.argsort(-lengths, kind="stable")
    longest_first = lengths[order]
    state, nats = (generator.random(len(lengths)) < 0.25).astype(np.int8), np.zeros(len(lengths))
    for t in range(longest_first[0]):
        still = int(np.searchsorted(-longest_first, -t, side="left"))
        here = state[:still]
        after = (generator.random(still) < CHAIN[here, 1]).astype(np.int8)
        nats[:still] -= np.log(CHAIN)[here, after]
        state[:still] = after
    back = np.empty(len(lengths))
    back[order] = nats
    return back


def coverage(documents, corpora, seed):
    """Share of corpora whose interval holds the true entropy, and whose interval of a null difference holds 0."""
    generator = np.random.default_rng(seed)
    lengths = np.clip(generator.lognormal(np.log(60), 0.7, documents * corpora), 8, 2000).astype(int)
    one, other = simulate(lengths, generator), simulate(lengths, generator)
    lengths, one, other = (x.reshape(corpora, documents) for x in (lengths, one, other))
    held = np.zeros(2)
    for i in range(corpora):
        low, high = clusters(one[i], lengths[i]).interval
        low_null, high_null = clusters(other[i] - one[i], lengths[i]).interval
        held += [low <= ENTROPY <= high, low_null <= 0 <= high_null]
    return held / corpora


@pytest.mark.parametrize("documents", [5, 30])
def test_coverage_of_a_few_hundred_corpora(documents):
    # 400 corpora at 95 %: 3.2 standard deviations are 3.5 points. The normal interval of 5 documents, or one half as
    # wide, falls outside.
    truth, null = coverage(documents, 400, seed=3)
    assert 0.915 <= truth <= 0.985
    assert 0.915 <= null <= 0.985


@pytest.mark.slow
@pytest.mark.parametrize("documents", [5, 30, 300])
def test_coverage_of_two_thousand_corpora(documents):
    truth, null = coverage(documents, 2000, seed=documents)
    print(f"{documents} documents: {truth:.4f} of the intervals hold the entropy, {null:.4f} the null difference")
    # Tokens of one chain make the variance of a sum proportional to size, not to size^1.5 as among documents that
    # differ: the degrees of freedom are then a little too few, which shows at 5 documents.
    most = 0.98 if documents == 5 else 0.97
    assert 0.93 <= truth <= most
    assert 0.93 <= null <= most


def test_a_paired_interval_is_narrower():
    generator = np.random.default_rng(0)
    hardness, sizes = generator.normal(2, 0.5, 100), generator.integers(50, 500, 100)
    a = hardness * sizes
    b = a - 0.01 * sizes + generator.normal(0, 0.2, 100)
    low, high = clusters(b - a, sizes).interval
    alone = clusters(a, sizes).interval
    assert -0.011 < low < -0.01 + 1e-3 < 0
    assert high < 0
    assert (high - low) * 50 < alone[1] - alone[0]


def test_too_few_documents_have_no_interval():
    few = np.arange(1.0, INTERVAL_DOCUMENTS)
    assert clusters(few, few + 1) is None
    assert clusters(np.append(few, 3.0), np.append(few + 1, 0)) is None  # an empty document says nothing
    assert clusters(np.append(few, 3.0), np.append(few + 1, 2)) is not None


def test_wilson_covers():
    generator = np.random.default_rng(2)
    for p in (0.25, 0.97):
        held = [low <= p <= high for low, high in (wilson(int(k), 200) for k in generator.binomial(200, p, 4000))]
        assert 0.93 < np.mean(held) < 0.97


def unequal(k, seed=0):
    generator = np.random.default_rng(seed)
    sizes = generator.lognormal(8, 1, k).round()
    return sizes * generator.normal(2, 0.3, k), sizes


def test_clusters_are_the_dense_formula_of_bell_and_mccaffrey():
    """CR2 of a weighted mean with (k, k) matrices: the hat matrix, and the working variance size^1.5 of a sum."""
    for k in (2, 3, 7, 40):
        a, b = unequal(k, k)
        found = clusters(a, b, at_least=2)
        h = b / b.sum()
        ratio = a.sum() / b.sum()
        assert found.value == pytest.approx(ratio, rel=1e-12)
        c = 1 / (1 - h)
        error = np.sqrt((c * ((a - ratio * b) / b.sum()) ** 2).sum())
        assert found.error == pytest.approx(error, rel=1e-12)
        # Residuals of sums: e = (I - h 1') y; the variance is the quadratic form e' diag(c) e.
        m = np.eye(k) - np.outer(h, np.ones(k))
        quadratic = np.diag(np.sqrt(c)) @ m @ np.diag(h**1.5) @ m.T @ np.diag(np.sqrt(c))
        dense = np.trace(quadratic) ** 2 / np.trace(quadratic @ quadratic)
        assert found.degrees == pytest.approx(dense, rel=1e-10)


def test_clusters_of_one_size_are_students_t():
    values = np.random.default_rng(3).normal(size=9)
    found = clusters(values * 7, np.full(9, 7))
    assert found.degrees == pytest.approx(8, rel=1e-12)
    assert found.error == pytest.approx(values.std(ddof=1) / 3)
    assert found.half_width == pytest.approx(2.306004 * values.std(ddof=1) / 3, rel=1e-6)
    assert clusters(np.array([1.0, 2.0]), np.array([5.0, 5.0]), at_least=2).degrees == pytest.approx(1)
    # Two of any sizes leave one degree of freedom.
    assert clusters(np.array([1.0, 2.0]), np.array([5.0, 1.0]), at_least=2).degrees == pytest.approx(1)


@pytest.mark.parametrize("rule", ["clusters", "strata"])
def test_order_scale_and_empty_units_change_nothing(rule):
    a, b = unequal(12)
    of = np.arange(12) // 4
    estimate = (lambda a, b, of: clusters(a, b)) if rule == "clusters" else strata
    found, order = estimate(a, b, of), np.random.default_rng(1).permutation(12)
    assert estimate(a[order], b[order], of[order]) == pytest.approx(found, rel=1e-12)
    assert estimate(a * 7, b * 3, of) == pytest.approx(
        (found.value * 7 / 3, found.error * 7 / 3, found.degrees), rel=1e-9
    )
    assert estimate(np.append(a, 0), np.append(b, 0), np.append(of, 5)) == pytest.approx(found, rel=1e-12)
    low, high = found.interval
    assert low < a.sum() / b.sum() < high


def test_strata_within_documents():
    a, b = unequal(10)
    one = strata(a, b, np.zeros(10, int))
    residual = a - a.sum() / b.sum() * b
    assert one.error == pytest.approx(np.sqrt(10 / 9 * (residual**2).sum()) / b.sum())
    assert one.degrees == pytest.approx(9)
    # What differs between documents is no doubt about these documents.
    apart = strata(np.repeat([1.0, 9.0], 5), np.ones(10), np.repeat([0, 1], 5))
    assert apart.interval == (5.0, 5.0)
    assert strata(a[:7], b[:7], np.zeros(7, int)) is None
    assert strata(a, b, np.array([0] * 9 + [1])) is None


def fractional_noise(n, hurst, draws, seed):
    """Fractional Gaussian noise (draws, n), by the Cholesky factor of its covariance."""
    lags = np.arange(n)
    power = np.abs(np.stack([lags - 1, lags, lags + 1])) ** (2.0 * hurst)
    covariance = (power[0] - 2 * power[1] + power[2]) / 2
    factor = np.linalg.cholesky(covariance[np.abs(lags[:, None] - lags)])
    return np.random.default_rng(seed).normal(size=(draws, n)) @ factor.T


@pytest.mark.parametrize(
    ("hurst", "paired", "expected"), [(0.75, False, 0.951), (0.7, True, 0.952), (0.5, False, 0.999)]
)
def test_a_passage_of_fractional_noise(hurst, paired, expected):
    """16 parts of a sum of such noise are such noise again; the mean of all that follows is 0."""
    parts = fractional_noise(16, hurst, 4000, 0)
    held = np.mean(
        [abs(e.value) <= e.half_width for e in (one_passage(p, np.ones(16), 4096, paired=paired) for p in parts)]
    )
    assert held == pytest.approx(expected, abs=0.011)  # 3.2 standard deviations of 4,000 draws


def test_a_passage_that_is_too_short_has_no_interval():
    assert one_passage(np.arange(16.0), np.ones(16), 2047) is None
    long, short = (one_passage(np.arange(16.0), np.ones(16), size).half_width for size in (163_840, 16_384))
    assert long == pytest.approx(short * 0.1**0.1)


def test_parts_are_cut_at_the_same_bytes_for_any_tokens():
    nats = np.random.default_rng(0).gamma(2, 1, 3200)
    one, two = np.arange(1, 3201), np.arange(2, 3201, 2)
    sums = [
        np.bincount(passage_parts(one, 3200), nats),
        np.bincount(passage_parts(two, 3200), nats.reshape(-1, 2).sum(1)),
    ]
    assert sums[0] == pytest.approx(sums[1])
    assert len(sums[0]) == 16


def test_a_model_against_itself_has_no_doubt():
    zero, sizes = np.zeros(16), np.arange(1.0, 17)
    for estimate in (
        clusters(zero, sizes),
        strata(zero, sizes, np.zeros(16, int)),
        one_passage(zero, sizes, 9999, paired=True),
    ):
        assert estimate.interval == (0.0, 0.0)
    assert clusters(sizes * 0.3, sizes).error == 0


def autoregressive(n, draws, seed):
    """AR(1) of 0.995 with a trend, mean 0 over each draw's text not enforced: (draws, n)."""
    generator = np.random.default_rng(seed)
    noise = generator.normal(size=(draws, n))
    x = np.empty((draws, n))
    x[:, 0] = noise[:, 0] / np.sqrt(1 - 0.995**2)
    for t in range(1, n):
        x[:, t] = 0.995 * x[:, t - 1] + noise[:, t]
    return x + np.linspace(-5, 5, n)


def test_gap_and_strata_hold_where_neighbours_depend():
    """A text of dependent tokens with a trend: pieces at random places of 16 strata against the whole of it, and the
    two sides of a stratum against each other (nothing was learned, so the gap is 0)."""
    texts, generator = autoregressive(16_000, 400, 1), np.random.default_rng(2)
    held = np.zeros(3)
    for text in texts:
        place = np.arange(16)[:, None] * 1000 + generator.integers(0, 800, (16, 1)) + np.arange(100)
        other = np.arange(16)[:, None] * 1000 + (place[:, :1] + 400 + generator.integers(0, 100, (16, 1))) % 1000 % 900
        train = other + np.arange(100)
        sides = [np.stack([text[where].sum(1), np.full(16, 100.0)], 1) for where in (place, train)]
        whole = strata(sides[0][:, 0], sides[0][:, 1], np.zeros(16, int))
        observations = text[place].ravel()
        naive = 1.96 * observations.std() / np.sqrt(len(observations))
        held += [
            abs(gap(*sides).value) <= gap(*sides).half_width,
            abs(whole.value - text.mean()) <= whole.half_width,
            abs(observations.mean() - text.mean()) <= naive,
        ]
    held /= len(texts)
    assert 0.92 <= held[0] <= 0.98
    assert held[1] >= 0.94
    assert held[2] < 0.4  # what taking tokens for independent would claim
    assert gap(sides[0][:4], sides[1][:4]) is None


def test_a_difference_of_sides_has_the_degrees_of_welch():
    one, other = Estimate(3.0, 1.0, 4), Estimate(1.0, 0.0, 9)
    assert difference(one, other) == Estimate(2.0, 1.0, 4)
    assert difference(one, None) is None
