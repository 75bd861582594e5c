"""Coverage of the intervals over simulated corpora whose true loss is known exactly."""

import numpy as np
import pytest

from hornbook.evaluation.intervals import MINIMUM_CLUSTERS, block_bytes, bootstrap_ratio, wilson

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
        low, high = bootstrap_ratio(one[i], lengths[i], seed=i, resamples=1000)
        low_null, high_null = bootstrap_ratio(other[i] - one[i], lengths[i], seed=i, resamples=1000)
        held += [low <= ENTROPY <= high, low_null <= 0 <= high_null]
    return held / corpora


def test_coverage_of_a_few_hundred_corpora():
    # 400 corpora at 95 %: 3.2 standard deviations are 3.5 points. The plain percentile interval of so few unequal
    # documents, or one half as wide, falls outside.
    truth, null = coverage(30, 400, seed=3)
    assert 0.915 <= truth <= 0.985
    assert 0.915 <= null <= 0.985


@pytest.mark.slow
@pytest.mark.parametrize("documents", [30, 300])
def test_coverage_of_two_thousand_corpora(documents):
    truth, null = coverage(documents, 2000, seed=documents)
    print(f"{documents} documents: {truth:.4f} of the intervals hold the entropy, {null:.4f} the null difference")
    assert 0.93 <= truth <= 0.97
    assert 0.93 <= null <= 0.97


def test_a_paired_interval_is_narrower():
    generator = np.random.default_rng(0)
    hardness, sizes = generator.normal(2, 0.5, 100), generator.integers(50, 500, 100)
    a = hardness * sizes
    b = a - 0.01 * sizes + generator.normal(0, 0.2, 100)
    low, high = bootstrap_ratio(b - a, sizes)
    alone = bootstrap_ratio(a, sizes)
    assert -0.011 < low < -0.01 + 1e-3 < 0
    assert high < 0
    assert (high - low) * 50 < alone[1] - alone[0]


def test_scales_with_the_units_and_depends_on_nothing_else():
    generator = np.random.default_rng(1)
    a, b = generator.gamma(2, 3, 40), generator.integers(1, 9, 40)
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    low, high = bootstrap_ratio(a, b, seed=5)
    assert (np.random.get_state()[1] == before).all()
    assert bootstrap_ratio(a, b, seed=5) == (low, high)
    assert bootstrap_ratio(a * 7, b * 3, seed=5) == pytest.approx((low * 7 / 3, high * 7 / 3))
    assert low < a.sum() / b.sum() < high


def test_empty_documents_change_nothing():
    a, b = np.arange(20) % 7 + 1.0, np.arange(20) % 5 + 1.0
    assert bootstrap_ratio(np.append(a, 0), np.append(b, 0)) == bootstrap_ratio(a, b)


def test_too_few_clusters_have_no_interval():
    few = np.arange(1.0, MINIMUM_CLUSTERS)
    assert bootstrap_ratio(few, few + 1) is None


def test_blocks_are_long_and_many():
    for num_bytes in (600, 10_000, 10**6, 10**8):
        assert 9 <= num_bytes // block_bytes(num_bytes) <= 2000


def test_wilson_covers():
    generator = np.random.default_rng(2)
    for p in (0.25, 0.97):
        held = [low <= p <= high for low, high in (wilson(int(k), 200) for k in generator.binomial(200, p, 4000))]
        assert 0.93 < np.mean(held) < 0.97
