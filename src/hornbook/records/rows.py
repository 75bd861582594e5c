"""What the rows of the two logs must have for whoever reads them: a damaged line is named, not computed with."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from hornbook.text.files import shown

Row = dict[str, Any]
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
    decision: Literal["decay", "end"]
    step: Count
    from_step: Count
    sentence: str
    decay_steps: Count = 0


class _Warning(msgspec.Struct):
    step: Count
    sentence: str
    fault: str = ""


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


def json_bytes(content: Any) -> bytes:
    """JSON. Numpy's numbers and paths become plain values, NaN and infinity null; a file name that is not UTF-8 is
    written as it is printed."""
    try:
        return msgspec.json.encode(content, enc_hook=_plain)
    except UnicodeEncodeError:
        return msgspec.json.encode(_printable(msgspec.to_builtins(content, enc_hook=_plain)))


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, dict):
        return {_printable(key): _printable(each) for key, each in value.items()}
    return [_printable(each) for each in value] if isinstance(value, list | tuple) else value


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    item = getattr(value, "item", None)
    if item is None:
        raise TypeError(f"{type(value).__name__} cannot be written to a log")
    plain = item()
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain


def pretty(content: Any) -> bytes:
    """JSON for people."""
    return msgspec.json.format(json_bytes(content), indent=2) + b"\n"
