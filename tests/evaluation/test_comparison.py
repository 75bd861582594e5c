import math

import msgspec
import numpy as np
import pytest

from hornbook.evaluation.breakdown import Blocks
from hornbook.evaluation.comparison import compare
from hornbook.facts.errors import InputError
from hornbook.records.result import DocumentRow, Report


def report(model, nats, hashes=None, window="64 tokens", tokens=100):
    rows = [
        DocumentRow(name=f"d{i}", nats=float(x), num_tokens=tokens, num_bytes=300, num_characters=300, num_words=50)
        for i, x in enumerate(nats)
    ]
    hashes = [f"h{i}" for i in range(len(rows))] if hashes is None else hashes
    return Report(
        model=model, text="t", conventions={"window": window}, documents=rows, extra={"text_sha256": hashes}
    )  # fmt: skip


def pair(shift, count=200, noise=2.0):
    generator = np.random.default_rng(0)
    hardness = generator.normal(300, 60, count)
    return report("a", hardness), report("b", hardness + shift + generator.normal(0, noise, count), tokens=170)


def test_the_difference_is_that_of_the_two_numbers():
    a, b = pair(-4.0)
    result = compare(a, b)
    assert result["difference_bits_per_byte"] == pytest.approx(b.bits_per_byte - a.bits_per_byte, abs=1e-12)
    low, high = result["difference_bits_per_byte_interval_95"]
    assert low < -4.0 / (300 * math.log(2)) < high < 0
    assert result["beyond_chance"] is True
    assert result["verdict"].startswith("B is better by 0.0201 bits/byte, 95 % 0.0187 to 0.0214, on 200 documents")


def test_it_is_antisymmetric():
    a, b = pair(-4.0)
    one, other = compare(a, b), compare(b, a)
    assert one["difference_bits_per_byte"] == -other["difference_bits_per_byte"]
    assert other["verdict"].startswith("A is better by")
    low, high = one["difference_bits_per_byte_interval_95"]
    assert other["difference_bits_per_byte_interval_95"] == pytest.approx([-high, -low])


def test_what_can_be_chance_is_called_chance():
    a, b = pair(0.0, noise=30.0)
    result = compare(a, b)
    assert result["beyond_chance"] is False
    assert "chance" in result["verdict"]
    few = compare(*pair(-4.0, count=3))
    assert few["beyond_chance"] is None
    assert few["difference_bits_per_byte_interval_95"] is None
    same = compare(a, a)
    assert same["difference_bits_per_byte"] == 0
    assert same["beyond_chance"] is False


def test_another_text_is_refused():
    a = report("a", [1.0, 2.0])
    with pytest.raises(InputError, match='"d1"'):
        compare(a, report("b", [1.0, 2.0], hashes=["h0", "other"]))
    with pytest.raises(InputError, match="2 documents and b on 3"):
        compare(a, report("b", [1.0, 2.0, 3.0]))


def test_differing_conventions_are_named():
    a, b = report("a", [1.0] * 9), report("b", [2.0] * 9, window="32 tokens")
    assert compare(a, b)["differing_conventions"] == ["window"]


def test_few_documents_are_compared_on_blocks_of_bytes():
    """Two byte-level chains over one long text, with tokens of one and of two bytes: the same blocks all the same."""
    generator = np.random.default_rng(1)
    nats = generator.gamma(2, 0.7, 40_000)
    reports = []
    for name, scores, lengths in (
        ("a", nats, np.ones(40_000, int)),
        ("b", nats.reshape(-1, 2).sum(1) - 0.02, np.full(20_000, 2)),
    ):
        blocks = Blocks(1, 40_000)
        blocks.add(scores, lengths)
        made = report(name, [scores.sum()])
        rows = [msgspec.structs.replace(made.documents[0], num_bytes=40_000, num_tokens=len(scores))]
        extra = made.extra | {"blocks": blocks.rows}
        reports.append(msgspec.structs.replace(made, documents=rows, extra=extra))
        assert sum(b for _, _, b in blocks.rows) == 40_000
        assert sum(x for x, _, _ in blocks.rows) == pytest.approx(scores.sum())
    result = compare(*reports)
    assert result["interval_over"] == "60 blocks of 1 document"
    low, high = result["difference_bits_per_byte_interval_95"]
    assert low <= -0.01 / math.log(2) <= high < 0
