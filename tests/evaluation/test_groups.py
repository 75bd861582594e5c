"""Two recipes, several runs of each: intervals that cover seeds and documents, and what a number of runs could see."""

import math

import numpy as np
import pytest

from hornbook.evaluation.comparison import compare
from hornbook.evaluation.groups import best_of, compare_groups, smallest_difference, spread
from hornbook.evaluation.intervals import Estimate, clusters
from hornbook.facts.errors import InputError
from hornbook.facts.statistics import t_quantile
from hornbook.records.result import DocumentRow, Report

BYTES = np.full(12, 1000)


def report(bits_per_byte, name="run", hashes=None):
    """A run with so many bits per byte in each of 12 documents."""
    bits = np.broadcast_to(bits_per_byte, BYTES.shape)
    rows = [
        DocumentRow(name=f"d{i}", nats=float(x * n * math.log(2)), num_tokens=int(n), num_bytes=int(n),
                    num_characters=int(n), num_words=10)
        for i, (x, n) in enumerate(zip(bits, BYTES, strict=True))
    ]  # fmt: skip
    hashes = hashes or [str(i) for i in range(len(rows))]
    return Report(model=name, text="t", conventions={}, documents=rows, extra={"text_sha256": hashes})


def runs(*bits):
    return [report(x) for x in bits]


def test_where_only_seeds_differ_it_is_welch():
    result = compare_groups(runs(2.0, 2.2, 2.1), runs(1.5, 1.7, 1.6))
    assert result["difference_bits_per_byte"] == pytest.approx(-0.5)
    half_width = t_quantile(4) * math.sqrt(2 * 0.01 / 3)
    low, high = result["difference_bits_per_byte_interval_95"]
    assert (low, high) == (pytest.approx(-0.5 - half_width), pytest.approx(-0.5 + half_width))
    assert result["beyond_chance"] is True
    assert "B is better by 0.5000 bits/byte" in result["verdict"]
    assert result["half_width_of_documents"] == 0


def test_where_only_documents_differ_it_is_the_interval_of_two_models():
    effect = np.linspace(-0.1, 0.2, 12)
    same_a, same_b = ([report(bits + of_run) for of_run in (0.0, 1e-9)] for bits in (2.0, 2.0 + effect))
    result, alone = compare_groups(same_a, same_b), compare(same_a[0], same_b[0])
    for key in ("difference_bits_per_byte", "difference_bits_per_byte_interval_95"):
        assert result[key] == pytest.approx(alone[key])


def test_the_sides_and_the_order_of_runs_do_not_matter():
    generator = np.random.default_rng(0)
    a, b = ([report(2 + generator.normal(0, 0.1, 12)) for _ in range(n)] for n in (2, 4))
    one, other = compare_groups(a, b), compare_groups(b[::-1], a[::-1])
    low, high = one["difference_bits_per_byte_interval_95"]
    assert other["difference_bits_per_byte_interval_95"] == pytest.approx([-high, -low])
    assert one["smallest_difference_seen"] == pytest.approx(other["smallest_difference_seen"])
    turned = [report([row.bits_per_byte for row in one.documents][::-1]) for one in a]
    assert compare_groups(a, turned)["verdict"].startswith("A and B are equally good")


def test_what_is_refused():
    with pytest.raises(InputError, match=r"^B is one run, .*--seeds"):
        compare_groups(runs(1.0, 1.1), runs(1.0))
    with pytest.raises(InputError, match=r"^run and copy are the same model, and a run counts once"):
        compare_groups([report(1.0), report(1.0, "copy")], runs(1.2, 1.3))
    with pytest.raises(InputError, match="are the same model"):
        compare_groups(runs(1.0, 1.1), runs(1.1, 1.3))
    other = report(1.0, "elsewhere", hashes=["x"] * 12)
    with pytest.raises(InputError, match="elsewhere did not score the same bytes"):
        compare_groups(runs(1.0, 1.1), [report(1.0), other])


def test_more_runs_see_more_down_to_what_the_text_allows():
    of_documents = Estimate(0.0, 0.05, 11)
    seen = list(smallest_difference([0.1, 0.1], of_documents).values())
    assert seen == sorted(seen, reverse=True)
    assert seen[-1] > (t_quantile(11) + t_quantile(11, 0.2)) * 0.05
    # What differs between documents only because single runs do, more runs take away.
    generator = np.random.default_rng(1)
    a, b = ([report(2 + generator.normal(0, 0.1, 12)) for _ in range(3)] for _ in range(2))
    chance = compare_groups(a, b)["smallest_difference_seen"]
    shift = np.where(np.arange(12) % 2, 0.3, -0.3)
    b = [report(np.array([row.bits_per_byte for row in one.documents]) + shift) for one in b]
    real = compare_groups(a, b)["smallest_difference_seen"]
    error = clusters(shift, np.ones(12)).error
    assert chance["10"] < 0.6 * chance["3"]
    assert real["10"] > error


def test_on_a_passage_what_would_be_seen_is_what_its_rule_sees():
    """Of a text of unknown kind 2.4 half-widths are needed, and the sizes that are told must be seen by that rule."""
    of_documents = Estimate(0.0, 0.05, 400)
    size = smallest_difference([1e-9, 1e-9], of_documents, factor=2.4)["10"]
    drawn = np.random.default_rng(3).normal(size, of_documents.error, 20_000)
    assert np.mean(drawn > 2.4 * t_quantile(400) * of_documents.error) == pytest.approx(0.8, abs=0.02)
    assert size > 1.5 * smallest_difference([1e-9, 1e-9], of_documents)["10"]


def test_the_best_of_equals_is_seldom_beyond_chance():
    generator = np.random.default_rng(2)
    wrong = 0
    for _ in range(200):
        groups = {f"g{i}": runs(*(2 + generator.normal(0, 0.1, 3))) for i in range(4)}
        chosen = best_of(groups)
        wrong += chosen["lead"]["beyond_chance"]
        assert chosen["lead"]["difference_bits_per_byte"] <= 0
    assert wrong <= 0.07 * 200
    assert spread([1.0, 3.0]).mean == 2
    sure = best_of({"x": runs(2.0, 2.01), "y": runs(1.0, 1.01), "z": runs(3.0, 3.01)})
    assert (sure["best"], sure["second"]) == ("y", "x")
    assert sure["lead"]["beyond_chance"] is True
    assert "best of 3, ahead of x by 1.0000" in sure["verdict"]
