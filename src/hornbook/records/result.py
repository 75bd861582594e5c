"""Report: the outcome of an evaluation, one row per document, from whose sums every printed number follows."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec

from hornbook.facts.errors import InputError
from hornbook.facts.io import pretty
from hornbook.facts.tables import as_html, as_text

_FORMAT = "hornbook report"
_VERSION = 1


class DocumentRow(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over one document. They cover the same text: its scored tokens, bytes, characters and words."""

    name: str
    nats: float  # sum of -ln p over the scored tokens, the end of the document not among them
    num_tokens: int
    num_bytes: int
    num_characters: int
    num_words: int
    end_nats: float | None = None  # -ln p of the end after the document, None where it was not scored
    sums: dict[str, float] = {}  # over the scored tokens, of what is printed as their mean

    @property
    def bits_per_byte(self) -> float:
        """NaN for a document of which nothing was scored."""
        return self.nats / (math.log(2) * self.num_bytes) if self.num_bytes else math.nan


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What was evaluated on what, by which conventions, and what came out.

    `intervals` maps a number's name to its 95 % interval; `extra` holds what a command adds (values of JSON).

    >>> row = DocumentRow(name="a", nats=8 * math.log(2), num_tokens=4, num_bytes=8, num_characters=8, num_words=2)
    >>> report = Report(model="m", text="t", conventions={}, documents=[row])
    >>> round(report.loss_nats_per_token, 6), round(report.perplexity, 6), round(report.bits_per_byte, 6)
    (1.386294, 4.0, 1.0)
    """

    model: str
    text: str
    conventions: dict[str, str]
    documents: list[DocumentRow]
    intervals: dict[str, tuple[float, float]] = {}
    interval_method: str | None = None
    extra: dict[str, Any] = {}

    def __post_init__(self) -> None:
        if self.num_tokens == 0 or self.num_bytes == 0:
            raise InputError(f"no token of {self.text} was scored; give a text with at least two tokens")

    # Sums.

    @property
    def nats(self) -> float:
        return math.fsum(row.nats for row in self.documents)

    @property
    def num_tokens(self) -> int:
        return sum(row.num_tokens for row in self.documents)

    @property
    def num_bytes(self) -> int:
        return sum(row.num_bytes for row in self.documents)

    @property
    def num_characters(self) -> int:
        return sum(row.num_characters for row in self.documents)

    @property
    def num_words(self) -> int:
        return sum(row.num_words for row in self.documents)

    # What is printed.

    @property
    def loss_nats_per_token(self) -> float:
        return self.nats / self.num_tokens

    @property
    def perplexity(self) -> float:
        return exp_of_nats(self.loss_nats_per_token)

    @property
    def bits_per_byte(self) -> float:
        return self.nats / (math.log(2) * self.num_bytes)

    @property
    def bits_per_character(self) -> float:
        return self.nats / (math.log(2) * self.num_characters)

    @property
    def perplexity_per_word(self) -> float | None:
        """None for a text without words."""
        return exp_of_nats(self.nats / self.num_words) if self.num_words else None

    @property
    def end_nats_per_document(self) -> float | None:
        """Mean nats of predicting that a document ends where it ends, over the documents where that was scored."""
        ends = [row.end_nats for row in self.documents if row.end_nats is not None]
        return math.fsum(ends) / len(ends) if ends else None

    @property
    def numbers(self) -> dict[str, Any]:
        """Every number by its name in METRICS, the means over tokens after the others."""
        means = {name: math.fsum(row.sums.get(name, 0.0) for row in self.documents) / self.num_tokens
                 for name in self.documents[0].sums}  # fmt: skip
        return {name: getattr(self, name) for name in _PRINTED} | means

    def to_dict(self) -> dict[str, Any]:
        """The report as values of JSON, with the names of `--json`: every number, `<name>_interval_95` beside it."""
        intervals = dict(self.intervals)
        if "loss_nats_per_token" in intervals:  # exp is monotone, so it carries the interval over exactly
            low, high = intervals["loss_nats_per_token"]
            intervals.setdefault("perplexity", (exp_of_nats(low), exp_of_nats(high)))
        numbers: dict[str, Any] = {}
        for name, number in self.numbers.items():
            numbers[name] = number
            if name in intervals:
                numbers[f"{name}_interval_95"] = list(intervals.pop(name))
        fields = {
            "format": _FORMAT, "version": _VERSION, "model": self.model, "text": self.text,
            **numbers,
            **{f"{name}_interval_95": list(pair) for name, pair in intervals.items()},
            "num_documents": len(self.documents),
            "interval_method": self.interval_method,
            "conventions": self.conventions,
            "documents": [msgspec.structs.asdict(row) for row in self.documents],
        }  # fmt: skip
        if clash := fields.keys() & self.extra.keys():
            raise ValueError(f"extra results would hide {sorted(clash)}")
        return {**fields, **self.extra}

    def __str__(self) -> str:
        return as_text(self.to_dict())

    def _repr_html_(self) -> str:
        return as_html(self.to_dict())

    def to_json(self) -> str:
        """`to_dict` as JSON text. NaN and infinity become null."""
        return pretty(self.to_dict()).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> Report:
        """Read `to_json` back. Raises InputError when the text is not such a report or of a later version."""
        try:
            fields = msgspec.json.decode(text, type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise InputError(f"this is not a report: {error}") from error
        if fields.pop("format", None) != _FORMAT:
            raise InputError(f'this is not a report: it has no "format": "{_FORMAT}"')
        if (version := fields.pop("version", None)) != _VERSION:
            raise InputError(f"this report has version {version}; this hornbook reads version {_VERSION}")
        means = {name for row in fields.get("documents", []) for name in row.get("sums", ())}
        for name in (*_PRINTED, "num_documents", *means):
            fields.pop(name, None)
        suffix = "_interval_95"
        pairs = {key.removesuffix(suffix): fields.pop(key) for key in list(fields) if key.endswith(suffix)}
        if "loss_nats_per_token" in pairs:
            pairs.pop("perplexity", None)  # follows from it
        own = {name: fields.pop(name) for name in list(fields) if name in cls.__struct_fields__}
        try:
            return msgspec.convert({**own, "intervals": pairs, "extra": fields}, type=cls)
        except msgspec.ValidationError as error:
            raise InputError(f"this report is damaged: {error}") from error


_PRINTED = (
    "loss_nats_per_token", "perplexity", "bits_per_byte", "bits_per_character", "perplexity_per_word", "nats",
    "num_tokens", "num_bytes", "num_characters", "num_words", "end_nats_per_document",
)  # fmt: skip


def exp_of_nats(nats: float) -> float:
    """exp, infinite where a float ends (above 709 nats)."""
    return math.exp(nats) if nats < 709 else math.inf


def proof_verdict(reports: Path) -> str | None:
    """What `hornbook prove` said last of the run with these reports; None where that is absent or damaged."""
    try:
        return msgspec.json.decode((reports / "prove.json").read_bytes(), type=_Proof).verdict
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None


class _Proof(msgspec.Struct):
    verdict: str
