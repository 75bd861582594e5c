"""What is expected of a run, from the times of its first steps and what n-gram baselines get on its text."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from hornbook.data.shards import Prepared
from hornbook.engine.device import return_freed_memory
from hornbook.evaluation.baselines import baselines
from hornbook.evaluation.corpus import Conventions, beginning_of, part_documents
from hornbook.evaluation.probe import Places, selection_places
from hornbook.facts.settings import Settings
from hornbook.facts.shape import GPTShape
from hornbook.facts.text_warnings import leaked_in_words
from hornbook.planning.expected_loss import small_run_bits
from hornbook.planning.plan import brief
from hornbook.planning.plan_run import plan_of
from hornbook.planning.wall import overhead
from hornbook.planning.workload import REPORT_SECONDS, Range, StepTimes, TextEstimate
from hornbook.reporting.live import View
from hornbook.setup.build import usd_per_hour
from hornbook.training.job import RunContext


def show_plan(
    start: RunContext, reading: TextEstimate, view: View, started: float, spent: float, pace: StepTimes | None
) -> None:
    """Show and write the plan of a run, from its step times and what n-gram baselines get on its text. The run
    began at `started`, and before its first step `spent` seconds had gone."""
    settings, shape, begin = start.settings, start.shape, time.monotonic()
    selected_on = settings.watch.probe_tokens if settings.checkpoint.best else None
    chosen = selection_places(start.prepared.validation, shape.context, selected_on)
    levels = ngram_baselines(start.prepared, shape, chosen)
    leaked = start.prepared.leak["validation_leaked"]  # then what counts is as wrong about unseen text as the loss
    spent += time.monotonic() - begin
    assert start.device is not None
    planned = plan_of(
        settings, shape, reading, (1, start.device), pace=pace, spent=spent, usd=usd_per_hour(settings),
        expected=None if start.initial is not None or leaked else _expected(levels, settings, shape, reading),
        may_decide=start.may_decide,
    )  # fmt: skip
    view.note(f"  {brief(planned)}")
    if leaked and start.initial is None:
        view.note(f"  the expected loss is unknown: {leaked_in_words(start.prepared.leak)}")
    if pace is not None and planned.wall_seconds is not None:
        after = pace.scored * overhead(settings, shape, reading.data).scored_tokens + REPORT_SECONDS
        view.expect(started + planned.wall_seconds.central - after)
    text = {"repeated_share": start.prepared.checkup.get("repeated_share", 0.0), **start.prepared.leak}
    start.run.write_plan({"plan": planned.to_dict(), "pace": pace, "baselines": levels, "text": text})


def _expected(
    levels: Mapping[str, Mapping[str, Any]], settings: Settings, shape: GPTShape, reading: TextEstimate
) -> Range | None:
    """The final loss in nats per token that the counting models' levels promise a small run."""
    counted = [numbers["bits_per_byte"] for numbers in levels.values() if numbers["bits_per_byte"] is not None]
    if not counted or settings.train.steps is None or settings.train.batch is None:
        return None
    data, tokens = reading.data, settings.train.steps * settings.train.batch * shape.context
    if settings.optimizer.name != "muon" or shape.family == "gpt2":
        return None
    bits = small_run_bits(min(counted), shape.parameters, data.num_bytes, tokens, tokens / data.num_tokens)
    return None if bits is None else bits.times(math.log(2) * reading.bytes_per_token)


def ngram_baselines(
    prepared: Prepared, shape: GPTShape, leave_out: Sequence[Places] | None = None
) -> dict[str, dict[str, Any]]:
    """What n-gram baselines get on the validation text, `leave_out` aside; {} where there is none."""
    if prepared.validation.num_tokens < 2:
        return {}
    tokenizer = prepared.tokenizer
    how = Conventions(shape.context, max(1, shape.context // 2), beginning_of(tokenizer))
    return_freed_memory()  # of the first steps: counting takes its place
    return baselines(
        prepared.train, part_documents(prepared.validation, tokenizer), how, tokenizer.vocabulary, leave_out
    )  # fmt: skip
