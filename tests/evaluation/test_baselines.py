import math
import os
import tracemalloc
from collections import defaultdict
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hornbook.data.shards import TokenStream
from hornbook.evaluation.baselines import baseline_nats, baselines, count_ngrams, ngram_nats
from hornbook.evaluation.corpus import Conventions, EncodedDocument
from hornbook.planning.memory import counting_bytes

DATA = Path(os.environ.get("HORNBOOK_DATA", Path(__file__).parents[3] / "shared" / "data"))


@lru_cache
def slow_counts(train, order, *, is_highest):
    """From dictionaries, straight from Chen and Goodman's formulas: what follows each context how often; discounts."""
    before = ["beginning", *train]  # what stands before the n-gram at i is before[i]
    places = defaultdict(list)
    for i in range(len(train) - order + 1):
        places[tuple(train[i : i + order])].append(i)
    counts = {gram: len(at if is_highest else {before[i] for i in at}) for gram, at in places.items()}
    after = defaultdict(dict)
    for gram, count in counts.items():
        after[gram[:-1]][gram[-1]] = count
    n = [sum(count == r for count in counts.values()) for r in range(5)]
    if all(n[1:]):
        y = n[1] / (n[1] + 2 * n[2])
        estimate = [0, 1 - 2 * y * n[2] / n[1], 2 - 3 * y * n[3] / n[2], 3 - 4 * y * n[4] / n[3]]
        if all(0 < estimate[r] < r for r in (1, 2, 3)):
            return after, estimate
    return after, [0, 0.5, 1, 1.5]


def slow_probability(train, context, token, vocabulary, *, is_highest=True):
    after, discount = slow_counts(train, len(context) + 1, is_highest=is_highest)
    shorter = slow_probability(train, context[1:], token, vocabulary, is_highest=False) if context else 1 / vocabulary
    follow = after.get(context)
    if not follow:
        return shorter
    count = follow.get(token, 0)
    spare = sum(discount[min(3, c)] for c in follow.values())
    return (count - discount[min(3, count)] + spare * shorter) / sum(follow.values())


def slow_nats(train, sequence, vocabulary, order):
    return [
        -math.log(slow_probability(tuple(train), tuple(sequence[max(0, t - order + 1) : t]), sequence[t], vocabulary))
        for t in range(1, len(sequence))
    ]


@given(st.lists(st.integers(0, 3), min_size=2, max_size=60), st.lists(st.integers(0, 4), min_size=2, max_size=12))
def test_equals_the_formula(train, sequence):
    levels = count_ngrams(np.array(train), 5, 3)
    fast = ngram_nats(levels, np.array(sequence), 5)
    assert len(levels) == min(3, len(train))
    for order in range(1, len(levels) + 1):
        assert fast[order - 1] == pytest.approx(slow_nats(train, sequence, 5, order), abs=1e-12)


def test_equals_the_formula_on_a_text_whose_counts_give_the_discounts(english):
    train, sequence = list(english[:3000].encode()), list(english[3000:3040].encode())
    levels = count_ngrams(np.array(train), 257)
    assert [level.stands.discounts[1] == 0.5 for level in levels] == [True, False, False, False, False]
    fast = ngram_nats(levels, np.array(sequence), 257)
    for order in range(1, 6):
        assert fast[order - 1] == pytest.approx(slow_nats(train, sequence, 257, order), abs=1e-12)


def test_numbers_too_large_to_be_sorted_with_their_positions_are_counted_too():
    train = np.random.default_rng(0).integers(0, 5, 40)
    few, many = count_ngrams(train, 5), count_ngrams(train, 2**57)
    for one, other in zip(few, many, strict=True):
        assert (one.codes // 5 == other.codes // 2**57).all()
        assert (one.stands.counts == other.stands.counts).all()
        assert one.continues is None or (one.continues.counts == other.continues.counts).all()


@given(
    st.integers(2, 400), st.integers(1, 40), st.floats(0.5, 3), st.integers(0, 2**32 - 1),
    st.lists(st.integers(0, 40), min_size=4, max_size=4),
)  # fmt: skip
def test_each_order_adds_up_to_one_after_any_context(length, kinds, skew, seed, context):
    train = (kinds * np.random.default_rng(seed).random(length) ** skew).astype(np.int64)
    levels, vocabulary = count_ngrams(train, 41), 41
    for before in (np.array(context), train[-5:-1], train[-4:]):  # the last stands at the end, where nothing follows
        rows = np.concatenate([np.tile(before, (vocabulary, 1)), np.arange(vocabulary)[:, None]], 1)
        for nats in ngram_nats(levels, rows, vocabulary):
            assert np.isfinite(nats).all()
            assert np.exp(-nats[:, -1]).sum() == pytest.approx(1, abs=1e-12)


def test_windows_are_read_alone():
    train = np.random.default_rng(0).integers(0, 6, 500).astype(np.uint16)
    windows = np.random.default_rng(1).integers(0, 7, (3, 9))
    found = baseline_nats(count_ngrams(train.astype(np.int64), 7), windows, 7)
    assert list(found) == ["uniform", "unigram", "2-gram", "3-gram", "4-gram", "5-gram"]
    assert found["uniform"] == pytest.approx(np.full((3, 8), math.log(7)))
    levels = count_ngrams(train.astype(np.int64), 7)
    for row, window in enumerate(windows):
        for order, nats in enumerate(ngram_nats(levels, window, 7)):
            assert (list(found.values())[order + 1][row] == nats).all()


def test_the_table_covers_the_tokens_that_evaluate_scores():
    train = np.random.default_rng(0).integers(0, 6, 500).astype(np.uint16)
    part = TokenStream([train], np.array([[0, 500, 500, 500, 1]]), ["t"], separator=False)
    tokens = np.array([1, 2, 3, 4])
    document = EncodedDocument("d", tokens, 8, 8, 1, "", np.full(7, 2))
    table = baselines(part, [document], Conventions(8, 4, 6, 6), 7)
    assert list(table) == ["uniform", "unigram", "2-gram", "3-gram", "4-gram", "5-gram"]
    assert table["uniform"]["loss_nats_per_token"] == pytest.approx(math.log(7))
    assert table["uniform"]["bits_per_byte"] == pytest.approx(math.log2(7) / 2)
    slow = slow_nats(train.tolist(), [6, 1, 2, 3, 4], 7, 2)
    assert table["2-gram"]["loss_nats_per_token"] == pytest.approx(sum(slow) / 4)


def test_tiny_shakespeare():
    path = DATA / "tinyshakespeare.txt"
    if not path.exists():
        pytest.skip(f"{path} is not there; set HORNBOOK_DATA")
    text = path.read_text()
    numbers = {c: i for i, c in enumerate(sorted(set(text)))}
    ids = np.array([numbers[c] for c in text])
    cut = int(0.9 * len(ids))
    losses = [nats.mean() for nats in ngram_nats(count_ngrams(ids[:cut], 65, 5), ids[cut:], 65)]
    of_kenlm = [
        2.48354,
        2.03810,
        1.71903,
        1.56114,
    ]  # lmplz -o 2 to -o 5 --discount_fallback; it has <s>, </s>, <unk> too
    assert losses[1:] == pytest.approx(of_kenlm, abs=1e-4)


def test_counting_holds_about_what_the_plan_of_a_run_allows_for_it(english):
    stream = np.frombuffer(english.encode(), np.uint8).astype(np.int64)
    tracemalloc.start()
    try:
        count_ngrams(stream, 257)
        peak = tracemalloc.get_traced_memory()[1] + stream.nbytes
    finally:
        tracemalloc.stop()
    assert 0.6 < peak / counting_bytes(len(stream), 257) < 1.4
