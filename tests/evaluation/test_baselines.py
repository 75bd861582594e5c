import math
import os
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hornbook.data.shards import Part
from hornbook.evaluation.baselines import baselines, count_ngrams, ngram_nats
from hornbook.evaluation.corpus import Conventions, EncodedDocument
from hornbook.planning.memory import counting_bytes

DATA = Path(os.environ.get("HORNBOOK_DATA", Path(__file__).parents[3] / "shared" / "data"))


def slow_nats(train, sequence, vocabulary, order):
    """Witten-Bell from dictionaries, straight from the formula."""
    grams = Counter(tuple(train[i : i + n]) for n in range(1, order + 1) for i in range(len(train) - n + 1))

    def p(context, token):
        if len(context) == 0:
            lower = 1 / vocabulary
        else:
            lower = p(context[1:], token)
        after = [count for gram, count in grams.items() if gram[:-1] == context]
        if not after:
            return lower
        return (grams[(*context, token)] + len(after) * lower) / (sum(after) + len(after))

    return [
        -math.log(p(tuple(sequence[max(0, t - order + 1) : t]), sequence[t])) for t in range(1, len(sequence))
    ]  # fmt: skip


@given(st.lists(st.integers(0, 3), min_size=2, max_size=30), st.lists(st.integers(0, 4), min_size=2, max_size=12))
def test_equals_the_formula(train, sequence):
    levels = count_ngrams(np.array(train), 5, 3)
    fast = ngram_nats(levels, np.array(sequence), 5)
    assert len(levels) == min(3, len(train))
    for order in range(1, len(levels) + 1):
        assert fast[order - 1] == pytest.approx(slow_nats(train, sequence, 5, order), abs=1e-12)


def test_probabilities_add_up_to_one():
    train = np.random.default_rng(0).integers(0, 6, 300)
    levels = count_ngrams(train, 7, 4)
    for context in ([1, 2, 3], [6, 6, 6], [0, 6, 2]):
        total = sum(np.exp(-ngram_nats(levels, np.array([*context, w]), 7)[3][-1]) for w in range(7))
        assert total == pytest.approx(1, abs=1e-12)


def test_the_table_covers_the_tokens_that_evaluate_scores():
    train = np.random.default_rng(0).integers(0, 6, 500).astype(np.uint16)
    part = Part([train], np.array([[0, 500, 500, 500, 1]]), ["t"], separator=False)
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
    assert [round(losses[n], 3) for n in (0, 1, 2, 4)] == [3.347, 2.486, 2.049, 1.669]


def test_counting_holds_about_what_the_plan_of_a_run_allows_for_it(english):
    stream = np.frombuffer(english.encode(), np.uint8).astype(np.int64)
    tracemalloc.start()
    try:
        count_ngrams(stream, 257)
        peak = tracemalloc.get_traced_memory()[1] + stream.nbytes
    finally:
        tracemalloc.stop()
    assert 0.6 < peak / counting_bytes(len(stream), 257) < 1.4
