import math

import msgspec
import numpy as np
import pytest

from hornbook.evaluation.breakdown import PassageParts
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
    assert result["verdict"].startswith("B is better by 0.0201 bits/byte, 95 % 0.0187 to 0.0215, on 200 documents")


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


def passages(shift, *, noise=0.1):
    """Two byte-level chains over one long text, with tokens of one and of two bytes."""
    generator = np.random.default_rng(1)
    nats = generator.gamma(2, 0.7, 40_000)
    other = nats.reshape(-1, 2).sum(1) + shift + generator.normal(0, noise, 20_000)
    reports = []
    for name, scores, lengths in (("a", nats, np.ones(40_000, int)), ("b", other, np.full(20_000, 2))):
        parts = PassageParts(40_000)
        records = np.zeros(len(scores), [("nats", float)])
        records["nats"] = scores
        parts.add(records, lengths)
        made = report(name, [scores.sum()])
        rows = [msgspec.structs.replace(made.documents[0], num_bytes=40_000, num_tokens=len(scores))]
        extra = made.extra | {"parts": parts.table()}
        reports.append(msgspec.structs.replace(made, documents=rows, extra=extra))
        assert parts.sums["num_bytes"].tolist() == [2500] * 16
        assert parts.sums["nats"].sum() == pytest.approx(scores.sum())
    return reports


def test_one_passage_is_compared_on_parts_of_equal_bytes():
    result = compare(*passages(-0.02))
    assert result["interval_over"] == "16 parts of 1 document"
    low, high = result["difference_bits_per_byte_interval_95"]
    assert low <= -0.01 / math.log(2) <= high < 0
    assert result["beyond_chance"] is True
    assert "like this passage" in result["interval_about"]


def test_in_one_passage_beyond_chance_takes_more_than_the_interval():
    result = compare(*passages(-0.02, noise=0.45))
    low, high = result["difference_bits_per_byte_interval_95"]
    assert low < high < 0
    assert result["beyond_chance"] is False
    assert "on one text of unknown kind this could still be chance" in result["verdict"]
    # A report without parts (of an earlier version) has no interval to offer.
    a, b = (msgspec.structs.replace(r, extra={"text_sha256": ["h0"]}) for r in passages(-0.02))
    assert compare(a, b)["beyond_chance"] is None


def test_two_runs_are_not_two_recipes():
    assert "Noise between seeds is not included" in compare(*pair(-4.0))["verdict"]
