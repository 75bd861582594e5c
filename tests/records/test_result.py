"""A report's numbers follow from its sums, and it survives the way to JSON and back."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hornbook.facts.errors import InputError
from hornbook.records.result import DocumentRow, Report

rows = st.builds(
    DocumentRow,
    name=st.text(),
    nats=st.floats(0, 1e9),
    num_tokens=st.integers(1, 10**6),
    num_bytes=st.integers(1, 10**6),
    num_characters=st.integers(1, 10**6),
    num_words=st.integers(0, 10**6),
    end_nats=st.none() | st.floats(0, 100),
)


def _report(documents: list[DocumentRow], **more: object) -> Report:
    return Report(model="m", text="t", conventions={"window": "256"}, documents=documents, **more)  # type: ignore[arg-type]


def _row(nats: float, num_tokens: int = 1, **more: object) -> DocumentRow:
    counts = {"name": "a", "num_bytes": 1, "num_characters": 1, "num_words": 1, **more}
    return DocumentRow(nats=nats, num_tokens=num_tokens, **counts)  # type: ignore[arg-type]


@given(st.lists(rows, min_size=1, max_size=5))
def test_numbers_equal_those_of_exact_arithmetic(documents: list[DocumentRow]) -> None:
    report = _report(documents)
    nats = sum(Fraction(row.nats) for row in documents)
    assert report.nats == float(nats)
    assert report.loss_nats_per_token == pytest.approx(
        float(nats / sum(row.num_tokens for row in documents)), rel=1e-15
    )
    bits = float(nats / sum(row.num_bytes for row in documents)) / math.log(2)
    assert report.bits_per_byte == pytest.approx(bits, rel=1e-15)
    if report.loss_nats_per_token < 700:
        assert math.log(report.perplexity) == pytest.approx(report.loss_nats_per_token, rel=1e-12, abs=1e-15)


def test_the_uniform_model_over_256_bytes_costs_8_bits_per_byte() -> None:
    row = DocumentRow(name="a", nats=10 * math.log(256), num_tokens=10, num_bytes=10, num_characters=5, num_words=2)
    report = _report([row])
    assert report.perplexity == pytest.approx(256)
    assert report.bits_per_byte == row.bits_per_byte == pytest.approx(8)
    assert report.bits_per_character == pytest.approx(16)
    assert report.perplexity_per_word == pytest.approx(256.0**5)


def test_the_order_of_documents_does_not_show() -> None:
    documents = [_row(nats) for nats in (1e16, 1.0, 1.0, 0.1, 3e-7)]
    assert _report(documents).nats == _report(documents[::-1]).nats == 1e16 + 2


def test_ends_are_apart_and_unknown_is_none() -> None:
    report = _report([_row(5.0, end_nats=2.0), _row(5.0), _row(5.0, end_nats=4.0, num_words=0)])
    assert report.nats == 15
    assert report.end_nats_per_document == 3
    assert _report([_row(5.0, num_words=0)]).end_nats_per_document is None
    assert _report([_row(5.0, num_words=0)]).perplexity_per_word is None


@given(st.lists(rows, min_size=1, max_size=4))
def test_json_and_back_is_the_same_report(documents: list[DocumentRow]) -> None:
    report = _report(
        documents,
        intervals={"loss_nats_per_token": (1.0, 2.5), "bits_per_byte": (0.5, 0.75)},
        interval_method="bootstrap over documents",
        extra={"by_position": [{"position": 1, "nats": 2.0}], "verdict": "good", "by_heart": False},
    )
    assert Report.from_json(report.to_json()) == report


def test_the_names_are_those_of_the_command_line() -> None:
    report = _report([_row(2.0)], intervals={"loss_nats_per_token": (1.0, 3.0)}, extra={"by_heart": True})
    fields = json.loads(report.to_json())
    assert fields["loss_nats_per_token"] == 2
    assert fields["perplexity"] == math.exp(2)
    assert fields["loss_nats_per_token_interval_95"] == [1, 3]
    assert fields["perplexity_interval_95"] == [math.exp(1), math.exp(3)]
    assert (fields["num_tokens"], fields["num_bytes"], fields["num_documents"]) == (1, 1, 1)
    assert fields["by_heart"] is True
    assert "bits_per_byte_interval_95" not in fields
    with pytest.raises(ValueError, match="perplexity"):
        _report([_row(2.0)], extra={"perplexity": 3}).to_dict()


def test_an_infinite_perplexity_is_null() -> None:
    report = _report([_row(1e4)])
    assert report.perplexity == math.inf
    assert json.loads(report.to_json())["perplexity"] is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "not a report"),
        ("[]", "not a report"),
        ("{}", "not a report"),
        ('{"format": "hornbook report", "version": 99}', "version 99"),
        ('{"format": "hornbook report", "version": 1, "model": "m"}', "damaged"),
    ],
)
def test_what_is_not_a_report_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        Report.from_json(text)


def test_nothing_scored_is_no_report() -> None:
    with pytest.raises(InputError, match="no token of t was scored"):
        _report([])
    with pytest.raises(InputError, match="no token of t was scored"):
        _report([_row(0.0, 0)])
