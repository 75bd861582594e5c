"""`hornbook prepare`: documents -> tokenizer -> shards, with a report on the data."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from hornbook.data.shards import Prepared
from hornbook.facts.capacity import REPETITION_SENTENCE, memorization_estimate
from hornbook.facts.errors import InputError
from hornbook.facts.settings import Settings, from_table, overridden
from hornbook.facts.tables import Result
from hornbook.facts.units import parse_count
from hornbook.planning.choose import Machine, choose
from hornbook.planning.workload import corpus_stats
from hornbook.setup.text import Progress, prepared_text


def prepare(
    *texts: str, out: str | Path | None = None, parameters: str | None = None, progress: Progress | None = None,
    **settings: Any,
) -> Result:  # fmt: skip
    """Prepare `texts` and return the data report, as `hornbook prepare --json` prints it.

    `settings` are those of the section [text]: tokenizer, split, field, separator, errors, dedup, canaries. The outlook
    is for a model of so many `parameters` ("124M"), or of the size that training would choose for so much text. Raises
    InputError for bad input, SystemFailure when the disk is full.
    """
    changes = {f"text.{name.removeprefix('text.')}": value for name, value in settings.items()}
    wanted = from_table(overridden({"text": {"paths": list(texts)}}, changes), source="settings").text
    prepared = prepared_text(wanted, out=Path(out) if out is not None else None, progress=progress)
    expected = _outlook(prepared, parameters)
    report = {"prepared": str(prepared.folder)} | prepared.manifest
    return Result(report | ({} if expected is None else {"outlook": expected}))


def _outlook(prepared: Prepared, parameters: str | None) -> dict[str, Any] | None:
    """What to expect of training on this text; None where it is too short to choose a size for."""
    data = corpus_stats(prepared)
    if parameters is not None:
        size = int(parse_count(parameters, "--parameters"))
    else:
        try:
            size = choose(Settings(), data, Machine(True, math.inf)).shape.parameters
        except InputError:
            return None
    again = prepared.readings_per_epoch or 1.0
    expected = memorization_estimate(data.num_tokens, data.num_bytes, size, readings_per_epoch=again)
    return {"num_parameters": size, "sentences": [expected.sentence, REPETITION_SENTENCE]} | {
        name: getattr(expected, name) for name in ("data_bits", "capacity_bits", "fill", "by_heart_epochs", "expect")
    }
