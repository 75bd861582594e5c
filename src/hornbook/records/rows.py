"""What the rows of the two logs must have for whoever reads them: a damaged line is named, not computed with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import msgspec

from hornbook.facts.errors import InputError
from hornbook.records.run import Row

Count = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
Number = Annotated[float, msgspec.Meta(ge=-1e300, le=1e300)]


class _Step(msgspec.Struct):
    step: Count
    tokens: Count
    epoch: Number
    seconds: Number
    flops: Number
    train_loss_nats_per_token: Number | None
    gradient_norm: Number | None
    learning_rate: Number | None = None


class _Evaluation(msgspec.Struct):
    step: Count
    tokens: Count
    epoch: Number = 0.0
    cost: dict[str, Number] = {}
    probe_validation_loss_nats_per_token: Number | None = None
    probe_validation_bits_per_byte: Number | None = None
    probe_validation_window_nats: list[Number] | None = None
    probe_train_loss_nats_per_token: Number | None = None
    probe_train_window_nats: list[Number] | None = None
    probe_generalization_gap_bits_per_byte: Number | None = None
    copied_share: Number | None = None


class _Resume(msgspec.Struct):
    step: Annotated[int, msgspec.Meta(ge=-1, le=2**62)]  # -1: from before the look at step 0
    cost: dict[str, Number] = {}


class _Decision(msgspec.Struct):
    decision: str
    step: Count
    from_step: Count
    sentence: str
    decay_steps: Count = 0
    batches: Count = 0


class _Warning(msgspec.Struct):
    step: Count
    sentence: str
    fault: str = ""
    windows: list[dict[str, Any]] = []


class _Checkpoint(msgspec.Struct):
    step: Count


class _End(msgspec.Struct):
    step: Count
    reason: str = ""
    cost: dict[str, Number] = {}
    plan_score: dict[str, Any] | None = None


class _Sample(msgspec.Struct):
    step: Count
    text: str
    prompt: str = ""
    tokens: Count | None = None


_KINDS: dict[str, type[msgspec.Struct]] = {
    "step": _Step, "evaluation": _Evaluation, "resume": _Resume, "decision": _Decision, "warning": _Warning,
    "checkpoint": _Checkpoint, "end": _End,
}  # fmt: skip


# What rows of an evaluation called the probe's numbers before they said so.
_OLD_KEYS = {
    "validation_loss_nats_per_token": "probe_validation_loss_nats_per_token",
    "validation_bits_per_byte": "probe_validation_bits_per_byte",
    "generalization_gap_bits_per_byte": "probe_generalization_gap_bits_per_byte",
}


def renamed(row: Row) -> Row:
    """A row of an evaluation by the names of today."""
    if row.get("event") != "evaluation":
        return row
    return {_OLD_KEYS.get(key, key): value for key, value in row.items()}


def check_row(row: Row) -> None:
    """Raise msgspec.ValidationError unless a row of metrics.jsonl has what its event needs; others are let through."""
    event = row["event"] if isinstance(row.get("event"), str) else None
    if event is None:
        raise msgspec.ValidationError("a row without an event")
    if event in _KINDS:
        msgspec.convert(row, _KINDS[event])


def check_sample(row: Row) -> None:
    """Raise msgspec.ValidationError unless this is a row of samples.jsonl."""
    msgspec.convert(row, _Resume if row.get("event") == "resume" else _Sample)


def without_replaced(rows: list[Row]) -> list[Row]:
    """Drop the rows that a later resume replaced: those with a greater step before a resume at step k. Decisions stay.

    >>> without_replaced([{"step": 1}, {"step": 2}, {"event": "resume", "step": 1}, {"step": 2}])
    [{'step': 1}, {'event': 'resume', 'step': 1}, {'step': 2}]
    """
    kept: list[Row] = []
    for row in rows:
        if row.get("event") == "resume":
            kept = [old for old in kept if old.get("step", 0) <= row["step"] or old.get("event") == "decision"]
        kept.append(row)
    return kept


def read_rows(path: Path, check: Callable[[Row], None] | None = None) -> list[Row]:
    """Rows of a .jsonl log, [] when it is absent. A torn last line (the writer was killed, or is writing) is left out.

    Raises InputError naming the line when a line before the last is not an object, or `check` says that it is none of
    ours by a ValidationError.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from None
    decoder = msgspec.json.Decoder(Row)
    rows = []
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            row = decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            if number < len(lines):
                raise InputError(_damaged(path, number)) from error
            continue
        try:
            if check is not None:
                check(row)
        except msgspec.ValidationError as error:
            raise InputError(_damaged(path, number)) from error
        rows.append(row)
    return rows


def _damaged(path: Path, number: int) -> str:
    return f"{path}, line {number}, is damaged; remove this line to read the others"
