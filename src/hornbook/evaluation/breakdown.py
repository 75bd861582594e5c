"""What the nats of a text's tokens say beyond their sum: intervals, sums by position in the context and by source."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from hornbook.evaluation.intervals import (
    INTERVAL_DOCUMENTS,
    PASSAGE_BYTES,
    PASSAGE_PARTS,
    STRATA_PIECES,
    Estimate,
    clusters,
    one_passage,
    passage_parts,
    strata,
)
from hornbook.evaluation.windows import windows
from hornbook.facts.units import counted
from hornbook.records.result import DocumentRow


class Positions:
    """Sums by the number of tokens a target could see, in buckets 1, 2-3, 4-7, ... up to the window, which is in the
    last."""

    def __init__(self, window: int) -> None:
        self.window = window
        self.nats = np.zeros(64)
        self.counts = np.zeros(64, np.int64)

    def add(self, nats: np.ndarray, stride: int, kept: np.ndarray) -> None:
        """`nats` (n,) of one document, of which only `kept` (n,) bool count."""
        for w in windows(len(nats), self.window, stride):
            seen = np.arange(w.first - w.start + 1, w.stop - w.start + 1).clip(max=max(1, self.window - 1))
            chosen = kept[w.first : w.stop]
            buckets = np.frexp(seen)[1][chosen] - 1
            self.nats += np.bincount(buckets, nats[w.first : w.stop][chosen], 64)
            self.counts += np.bincount(buckets, minlength=64)

    def table(self) -> list[dict[str, Any]]:
        return [
            {"context_tokens": [2**k, self.window if 2 ** (k + 1) >= self.window else 2 ** (k + 1) - 1],
             "num_tokens": int(self.counts[k]), "loss_nats_per_token": float(self.nats[k] / self.counts[k])}
            for k in np.flatnonzero(self.counts).tolist()
        ]  # fmt: skip


class PassageParts:
    """Sums over the 16 parts of equal bytes of a text, its documents one after the other.

    `sums`: (16,) by name, of the fields of the records, and of `num_tokens` and `num_bytes`.
    """

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes, self.read = num_bytes, 0
        self.sums: dict[str, np.ndarray] = {}

    def add(self, records: np.ndarray, num_bytes: np.ndarray) -> None:
        """The records and bytes of each scored token of the next document, (n,) both."""
        part = passage_parts(self.read + np.cumsum(num_bytes), self.num_bytes)
        fields = {name: records[name] for name in records.dtype.names or ()}
        for name, values in (fields | {"num_tokens": np.ones(len(records)), "num_bytes": num_bytes}).items():
            self.sums[name] = self.sums.get(name, 0) + np.bincount(part, values, PASSAGE_PARTS)
        self.read += int(num_bytes.sum())

    def table(self) -> list[list[float]]:
        """Nats, tokens and bytes of each part."""
        return np.stack([self.sums[name] for name in ("nats", "num_tokens", "num_bytes")], 1).tolist()  # type: ignore[no-any-return]


class IntervalScope(NamedTuple):
    """What an interval over the rows of a report speaks for, and by which rule: "documents", "pieces", "passage", or
    "none". `documents` (n,) numbers the document that each row is of; `about` and `over` are clauses.
    """

    rule: str
    documents: np.ndarray
    about: str
    over: str

    @property
    def sentence(self) -> str:
        return f"none: {self.about}" if self.rule == "none" else f"about {self.about} (from {self.over})"


def interval_scope(rows: Sequence[DocumentRow]) -> IntervalScope:
    """What these rows can speak for: whole documents, pieces of documents (named `document[start:stop]`), or one text.

    Pieces of documents, 8 and more and 2 of each, speak for those documents; 5 documents for others of their kind; a
    contiguous text of 2,048 bytes for prose that goes on in the same way; less for nothing but itself.
    """
    names = [re.sub(r"\[\d+:\d*\]$", "", row.name) for row in rows]
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    is_piece = any(name != row.name for name, row in zip(names, rows, strict=True))
    # Documents of one name are still documents: only pieces are put together.
    documents = np.array([number[name] if is_piece else i for i, name in enumerate(names)], int)
    counts = np.unique(documents[np.array([row.num_bytes > 0 for row in rows], bool)], return_counts=True)[1]
    num_documents, num_rows = len(counts), int(counts.sum())
    num_bytes = sum(row.num_bytes for row in rows)
    of = counted(num_documents, "document")
    these, them = ("this document", "it") if num_documents == 1 else (f"these {num_documents:,} documents", "them")
    if num_rows > num_documents and num_rows >= STRATA_PIECES and counts.min() > 1:
        about = f"{these} as a whole, had the model not trained on {them}; not about others"
        return IntervalScope("pieces", documents, about, f"{num_rows:,} pieces of {of}")
    if num_documents >= INTERVAL_DOCUMENTS:
        about = "other text of this kind; too narrow where a few documents are unlike the rest"
        return IntervalScope("documents", documents, about, of)
    if num_rows > num_documents:
        reason = f"{counted(num_rows, 'piece')} of {of} are too few for an interval (8 pieces, 2 of each document)"
        return IntervalScope("none", documents, reason, f"{num_rows:,} pieces of {of}")
    if num_bytes < PASSAGE_BYTES:
        reason = f"a text under {PASSAGE_BYTES:,} bytes and {INTERVAL_DOCUMENTS} documents is too short for an interval"
        return IntervalScope("none", documents, reason, of)
    passage = "this passage" if num_documents == 1 else f"these {num_documents} passages"
    about = (
        f"prose that continues like {passage}, not about other texts; too narrow for code, manuals, plays and files of "
        "many parts"
    )
    return IntervalScope("passage", documents, about, f"{PASSAGE_PARTS} parts of {of}")


def estimate(
    scope: IntervalScope, numerators: np.ndarray, denominators: np.ndarray, parts: np.ndarray | None = None,
    num_bytes: int = 0, *, paired: bool = False,
) -> Estimate | None:  # fmt: skip
    """The ratio of the sums of the rows, (n,) both, by the rule of `scope`; of a passage, from its `parts` (16, 2):
    numerators and denominators. None where there is no interval."""
    if scope.rule == "documents":
        return clusters(np.bincount(scope.documents, numerators), np.bincount(scope.documents, denominators))
    if scope.rule == "pieces":
        return strata(numerators, denominators, scope.documents)
    if scope.rule == "passage" and parts is not None:
        return one_passage(parts[:, 0], parts[:, 1], num_bytes, paired=paired)
    return None


def intervals(rows: Sequence[DocumentRow], parts: PassageParts) -> tuple[dict[str, tuple[float, float]], IntervalScope]:
    """95 % intervals of loss, bits per byte and the means over tokens, and what they are about."""
    scope, pairs = interval_scope(rows), {}
    ratios = [("loss_nats_per_token", "nats", "num_tokens", 1.0), ("bits_per_byte", "nats", "num_bytes", math.log(2))]
    ratios += [(name, name, "num_tokens", 1.0) for name in rows[0].sums] if rows else []
    for name, over, under, unit in ratios:
        numerators = np.array([row.nats if over == "nats" else row.sums[over] for row in rows], float)
        denominators = np.array([getattr(row, under) for row in rows], float) * unit
        passage = np.stack([parts.sums[over], parts.sums[under] * unit], 1) if rows else None
        ratio = estimate(scope, numerators, denominators, passage, parts.num_bytes)
        if ratio is not None:
            pairs[name] = ratio.interval
    return pairs, scope


def counts_within(tokens: Sequence[bytes], chosen: np.ndarray) -> tuple[int, int, int]:
    """The bytes, characters and words of the chosen tokens of a text, (n,) bool. A character or word that tokens share
    belongs to the one in which it begins, so that the counts of what is chosen and of the rest add up.

    >>> counts_within([b"two w", b"ords h", b"ere"], np.array([True, False, True]))
    (8, 8, 2)
    """
    sizes = np.array([len(token) for token in tokens])
    text = b"".join(tokens).decode("utf-8", "surrogateescape")
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    alone = (codes < 0x80) | ((codes >= 0xDC80) & (codes <= 0xDCFF))  # a byte that is no UTF-8 is a surrogate here
    lengths = np.where(alone, 1, np.where(codes < 0x800, 2, np.where(codes < 0x10000, 3, 4)))
    owner = np.searchsorted(np.cumsum(sizes), np.cumsum(lengths) - lengths, side="right")
    words = np.array([match.start() for match in re.finditer(r"\S+", text)], int)
    return int(sizes[chosen].sum()), int(chosen[owner].sum()), int(chosen[owner[words]].sum())


def by_source(rows: Sequence[DocumentRow]) -> dict[str, dict[str, Any]]:
    """Sums by the file documents came from, or by its folder where every document is a file; empty for one source."""
    from hornbook.likelihood import Surprise  # torch, which a comparison of reports does not need

    files = [row.name.split("#")[0].split("[")[0] for row in rows]
    files = [re.sub(r":\d+$", "", file) for file in files]
    if len(set(files)) == len(files):
        files = [file.rpartition("/")[0] or "." for file in files]
    groups: dict[str, list[DocumentRow]] = {}
    for file, row in zip(files, rows, strict=True):
        groups.setdefault(file, []).append(row)
    if not 1 < len(groups) < len(rows):
        return {}
    table = {}
    for file, group in sorted(groups.items()):
        num_tokens, num_bytes = sum(row.num_tokens for row in group), sum(row.num_bytes for row in group)
        total = Surprise(math.fsum(row.nats for row in group), num_tokens, num_bytes)
        table[file] = {
            "num_documents": len(group), "num_tokens": num_tokens, "num_bytes": num_bytes,
            "loss_nats_per_token": total.loss if num_tokens else None,
            "bits_per_byte": total.bits_per_byte if num_bytes else None,
        }  # fmt: skip
    return table
