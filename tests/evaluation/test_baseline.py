import os
from pathlib import Path

import numpy as np
import pytest

from hornbook.data.shards import Part
from hornbook.evaluation import baseline
from hornbook.evaluation.baseline import bigram_nats


def part_of(ids, dtype=np.uint16):
    return Part([np.array(ids, dtype)], np.array([[0, len(ids), -1, -1, -1]]), ["all"], separator=False)


def test_by_hand():
    """0 1 0 1 0 2: after 0 comes 1 twice and 2 once."""
    nats = bigram_nats(part_of([0, 1, 0, 1, 0, 2]), np.array([[0, 1], [0, 2]]), 3)
    p = np.array([4, 3, 2]) / 9
    candidates = [-np.log((np.array([2, 1]) + s * p[[1, 2]]) / (3 + s)) for s in 2.0 ** np.arange(-4, 16)]
    assert nats[:, 0].tolist() == pytest.approx(min(candidates, key=np.sum).tolist())


def test_it_is_a_distribution():
    generator = np.random.default_rng(0)
    part = part_of(generator.integers(0, 9, 400))
    every_pair = np.array([[5, b] for b in range(10)])  # an id of the vocabulary that never occurs among them
    assert np.exp(-bigram_nats(part, every_pair, 10)).sum() == pytest.approx(1)


def test_it_learns_what_follows_what_and_not_more(monkeypatch):
    generator = np.random.default_rng(0)
    chain = np.cumsum(generator.integers(1, 3, 60_000)) % 8  # one bit per token
    rows = chain[-5000:].reshape(50, 100)
    assert bigram_nats(part_of(chain[:50_000]), rows, 8).mean() == pytest.approx(np.log(2), abs=0.01)
    monkeypatch.setattr(baseline, "_BLOCK_TOKENS", 1000)
    whole = bigram_nats(part_of(chain[:50_000]), rows, 8)
    monkeypatch.setattr(baseline, "_COUNTED_TOKENS", 10_000)  # a fifth of the blocks is enough
    assert bigram_nats(part_of(chain[:50_000]), rows, 8).mean() == pytest.approx(whole.mean(), abs=0.01)


def test_shakespeare_by_characters():
    """2.486 nats per character is the Witten-Bell bigram's, computed elsewhere."""
    root = Path(os.environ.get("HORNBOOK_DATA", Path(__file__).parents[2] / "../shared/data"))
    if not (root / "tinyshakespeare.txt").exists():
        pytest.skip("tinyshakespeare.txt is not here; HORNBOOK_DATA names its folder")
    text = (root / "tinyshakespeare.txt").read_bytes()
    ids = np.unique(np.frombuffer(text, np.uint8), return_inverse=True)[1]
    nats = bigram_nats(part_of(ids[:1_003_854]), ids[1_003_854:].reshape(20, -1), 65)
    assert nats.mean() == pytest.approx(2.486, abs=0.01)
