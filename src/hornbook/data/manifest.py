"""What prepared.json must say: right checksums do not make a number of what is none."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

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
