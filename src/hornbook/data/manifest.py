"""What prepared.json must say: right checksums do not make a number of what is none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from hornbook.facts.units import counted

Count = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
Number = Annotated[float, msgspec.Meta(ge=0, le=1e300)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class _File(msgspec.Struct):
    num_bytes: Count
    sha256: str


class _Tokenizer(msgspec.Struct):
    kind: str
    vocabulary: Count
    fingerprint: str
    end_of_text: Count | None
    asked: str


class _Part(msgspec.Struct):
    num_documents: Count
    num_bytes: Count
    num_characters: Count
    num_words: Count
    num_text_tokens: Count
    num_tokens: Count
    shards: list[str]


class _Parts(msgspec.Struct):
    train: _Part
    validation: _Part


class _Duplicate(msgspec.Struct):
    name: str
    of: str
    similarity: Share


class _Passage(msgspec.Struct):
    validation: str
    train: str
    start_word: Count
    num_words: Count
    shared_words: Count = 0
    train_documents: Count = 1


class _Checkup(msgspec.Struct):
    """What has a default is absent in folders from before it was looked for."""

    sentences: list[str]
    duplicates: list[_Duplicate]
    copies: list[_Duplicate]
    passages: list[_Passage]
    repeated_share: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    readings_per_epoch: Number | None = None
    leaked_share: Share | None = None
    leaked_share_with_changes: Share | None = None


class _Report(msgspec.Struct):
    notes: list[str] = []
    checkup: _Checkup | msgspec.UnsetType = msgspec.UNSET
    left_out_documents: Count = 0


class _Manifest(msgspec.Struct):
    key: str
    source: list[str]
    source_documents: Count
    split: Annotated[str, msgspec.Meta(pattern="^(hash|tail|blocks|folder|none)(:|$)")]
    tokenizer: _Tokenizer
    parts: _Parts
    report: _Report
    files: dict[str, _File]
    gap_characters: Count | None = None
    dedup: bool = False
    canaries: bool = False


def check_manifest(manifest: dict[str, Any]) -> None:
    """Raise msgspec.ValidationError where a value is missing or not of its kind."""
    msgspec.convert(manifest, _Manifest)


def held_out_in_words(manifest: Mapping[str, Any]) -> str:
    """One sentence: which share of a prepared text was kept back to judge the model, from where, and by which rule.

    >>> sides = {"train": {"num_bytes": 900}, "validation": {"num_bytes": 100, "num_documents": 2}}
    >>> held_out_in_words({"parts": sides, "split": "hash:0.1", "source_documents": 20})
    'held out for validation: 10% of the text, 2 documents drawn by a hash of each (--split hash:0.1)'
    >>> sides = {"train": {"num_bytes": 880}, "validation": {"num_bytes": 100, "num_documents": 8}}
    >>> sides["train"]["num_characters"], sides["validation"]["num_characters"] = 880, 100
    >>> held_out_in_words({"parts": sides, "split": "blocks:0.1", "source_documents": 1, "gap_characters": 20})
    'held out for validation: 10% of the text, 8 pieces from inside it; gaps around them lose 2.0% (--split blocks:0.1)'
    >>> held_out_in_words({"parts": sides, "split": "blocks:0.1", "source_documents": 1}).split("; ")[1]
    'gaps around them are left out (--split blocks:0.1)'
    """
    kind, _, argument = manifest["split"].partition(":")
    train, held = manifest["parts"]["train"], manifest["parts"]["validation"]
    if kind == "none":
        return "held out for validation: nothing (--split none)"
    inside = "it" if manifest["source_documents"] == 1 else "its documents"
    where = {
        "hash": f"{counted(held['num_documents'], 'document')} drawn by a hash of each",
        "tail": "its end",
        "blocks": f"{counted(held['num_documents'], 'piece')} from inside {inside}; {_lost_to_gaps(manifest)}",
        "folder": f"what lies in {argument}",
    }[kind]
    share = held["num_bytes"] / (held["num_bytes"] + train["num_bytes"])
    return f"held out for validation: {share:.0%} of the text, {where} (--split {manifest['split']})"


def _lost_to_gaps(manifest: Mapping[str, Any]) -> str:
    lost = manifest.get("gap_characters")
    if lost is None:  # prepared before this was written down
        return "gaps around them are left out"
    whole = lost + sum(part["num_characters"] for part in manifest["parts"].values())
    return f"gaps around them lose {lost / whole:.1%}"
