"""Whatever a run or a report records is catalogued."""

from __future__ import annotations

import pytest

from hornbook.facts.errors import InputError
from hornbook.facts.metrics import METRICS, metric
from hornbook.records.result import DocumentRow, Report

# The rows of metrics.jsonl, as the run folder's contract names them.
STEP = "step tokens epoch seconds flops train_loss_nats_per_token learning_rate gradient_norm tokens_per_second mfu"
EVALUATION = (
    "step tokens epoch seconds flops probe_validation_loss_nats_per_token probe_validation_bits_per_byte "
    "probe_train_loss_nats_per_token probe_generalization_gap_bits_per_byte copied_share"
)
INSPECTION = "logit probability log_probability nats rank entropy_nats"


@pytest.mark.parametrize("name", f"{STEP} {EVALUATION} {INSPECTION}".split())
def test_every_recorded_number_is_catalogued(name: str) -> None:
    assert metric(name).name == name


def test_every_number_of_a_report_is_catalogued() -> None:
    row = DocumentRow(name="a", nats=2.0, num_tokens=1, num_bytes=3, num_characters=3, num_words=1, end_nats=1.0)
    fields = Report(model="m", text="t", conventions={}, documents=[row]).to_dict()
    values = {**fields, **fields["documents"][0]}
    numbers = {name for name, value in values.items() if isinstance(value, int | float)} - {"version"}
    assert {"perplexity", "num_documents", "end_nats"} <= numbers <= METRICS.keys()


def test_each_is_one_sentence_and_names_its_unit() -> None:
    for name, known in METRICS.items():
        assert known.sentence.endswith(".")
        assert "\n" not in known.sentence
        assert known.better in ("lower", "higher", None)
        if name.endswith(("nats_per_token", "bits_per_byte")):
            assert known.unit.replace("/", "_per_") in name
            assert known.better == "lower"
        if name.startswith("num_"):
            assert (known.unit, known.better) == (name.removeprefix("num_"), None)


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(InputError, match=r'did you mean "perplexity"\?'):
        metric("perplexty")
