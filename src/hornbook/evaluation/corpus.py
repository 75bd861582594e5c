"""Score documents: windows -> a record of each token -> one row of sums per document -> Report.

The convention, unless another is asked for: documents are separate; one `<|endoftext|>`, never scored, stands before
each; windows are as long as the context and move by half of it, so that each token is scored exactly once with at
least half a window before it where there is as much; predicting the end of the document is reported apart. A model
without such a token cannot predict the first token of a document: that token and its bytes leave both sums.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np

from hornbook.data.shards import NUM_TOKENS, TokenStream
from hornbook.evaluation.breakdown import PassageParts, Positions, by_source, counts_within, intervals
from hornbook.evaluation.probe import Places, byte_lengths
from hornbook.evaluation.score import Progress, Records, Request, no_records, score_tokens
from hornbook.evaluation.windows import windows
from hornbook.facts.errors import InputError
from hornbook.model.decoder import Decoder
from hornbook.records.result import DocumentRow, Report
from hornbook.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from hornbook.engine.world import World


@dataclass(frozen=True, eq=False)
class EncodedDocument:
    """A document ready to be scored. The counts and the hash cover exactly the text that will be scored.

    `tokens` (n,) are all ids without `<|endoftext|>`; `byte_lengths` (vocabulary,) has the bytes each id spells;
    `lost_bytes` are those of the text that the tokens do not give back.
    """

    name: str
    tokens: np.ndarray
    num_bytes: int
    num_characters: int
    num_words: int
    sha256: str
    byte_lengths: np.ndarray
    lost_bytes: int = 0


def beginning_of(tokenizer: Tokenizer) -> int | None:
    """The id that stands unscored before a text: the tokenizer's beginning, else its end of text, else None."""
    return tokenizer.end_of_text if tokenizer.beginning is None else tokenizer.beginning


def encode_documents(texts: Iterable[tuple[str, str]], tokenizer: Tokenizer) -> list[EncodedDocument]:
    """Encode (name, text) pairs. Where no token can stand before a text, its first token leaves the counts."""
    lengths, documents = byte_lengths(tokenizer), []
    for name, text in texts:
        tokens, data = tokenizer.encode(text), text.encode()
        lost = tokenizer.lost_bytes(text, tokens)
        if beginning_of(tokenizer) is None:
            data = data[int(lengths[tokens[:1]].sum()) :]
            text = data.decode(errors="replace")
        counts, digest = (len(data), len(text), len(text.split())), hashlib.sha256(data).hexdigest()
        documents.append(EncodedDocument(name, tokens, *counts, digest, lengths, lost))
    return documents


def part_documents(part: TokenStream, tokenizer: Tokenizer) -> list[EncodedDocument]:
    """The documents of one part of a prepared text."""
    lengths, documents = byte_lengths(tokenizer), []
    for i, (name, row) in enumerate(zip(part.names, part.documents.tolist(), strict=True)):
        tokens, (num_bytes, num_characters, num_words) = part.document_tokens(i), row[NUM_TOKENS + 1 :]
        data = tokenizer.decode_bytes(tokens)
        lost = max(0, num_bytes - len(data)) if tokenizer.kind == "foreign" else 0  # at least
        counts, digest = (num_bytes, num_characters, num_words), hashlib.sha256(data).hexdigest()
        documents.append(EncodedDocument(name, tokens, *counts, digest, lengths, lost))
    return documents


def lost_share(documents: Sequence[EncodedDocument]) -> float:
    """Of the bytes of the documents, those that their tokens do not give back."""
    return sum(document.lost_bytes for document in documents) / max(1, sum(d.num_bytes for d in documents))


class Conventions(NamedTuple):
    """How documents are scored: `beginning` stands unscored before each, `end` is predicted after each."""

    window: int
    stride: int
    beginning: int | None
    end: int | None = None


def conventions(
    model: Decoder, tokenizer: Tokenizer, *, window: int | None = None, stride: int | None = None,
    per_document: bool = False,
) -> Conventions:  # fmt: skip
    """The default conventions for a model, or those asked for. `per_document`: each document is cut into disjoint
    windows of the context (stride = window), the cheapest: one pass over the text, half a window of context on average.

    Raises InputError when the window exceeds the context or the stride the window.
    """
    context = model.shape.context
    if per_document and (window is not None or stride is not None):
        raise InputError("--per-document means disjoint windows of the whole context; leave out --window and --stride.")
    window = context if window is None else window
    if not 1 <= window <= context:
        raise InputError(f"the window is {window} tokens, but must be from 1 to the model's context of {context}.")
    stride = (window if per_document else max(1, window // 2)) if stride is None else stride
    if not 1 <= stride <= window:
        raise InputError(f"the stride is {stride} tokens, but must be from 1 to the window of {window}.")
    end = tokenizer.end_of_text if tokenizer.kind != "foreign" else None
    return Conventions(window, stride, beginning_of(tokenizer), end)


def conventions_in_words(chosen: Conventions, model: Decoder, num_documents: int) -> dict[str, str]:
    """What travels beside the numbers, so that a reader can tell why two of them differ."""
    rule = f"id {chosen.beginning} before each document, not scored"
    return {
        "window": f"{chosen.window} tokens",
        "stride": f"{chosen.stride} tokens",
        "beginning": rule if chosen.beginning is not None else "none: the first token and its bytes are not scored",
        "end": "not predicted" if chosen.end is None else "predicted and reported apart",
        "dtype": f"{str(next(model.parameters()).dtype).removeprefix('torch.')}, sums in float64",
        "documents": f"{num_documents}, separate",
    }


# ---- Records of tokens


def document_requests(document: EncodedDocument, how: Conventions) -> list[Request]:
    """The windows of a document; one after the other, they score each of its targets once."""
    before = [] if how.beginning is None else [how.beginning]
    after = [] if how.end is None else [how.end]
    sequence = np.concatenate([np.array(before, np.int64), document.tokens, np.array(after, np.int64)]).astype(np.int64)
    cuts = windows(max(0, len(sequence) - 1), how.window, how.stride)
    return [Request(sequence[cut.start : cut.stop + 1], cut.stop - cut.first) for cut in cuts]


def document_records(
    model: Decoder, documents: Sequence[EncodedDocument], how: Conventions, *, batch_size: int = 256,
    progress: Progress | None = None, world: World | None = None,
) -> Iterator[Records]:  # fmt: skip
    """The records of every target of each document, in order: its tokens (all but the first without `beginning`), then
    the end where that is predicted. At least `batch_size` windows are gathered before they are computed; it cannot show
    in the bits.
    """
    total = sum(len(d.tokens) + (how.beginning is not None) + (how.end is not None) - 1 for d in documents)
    scored = 0

    def done(count: int) -> None:
        nonlocal scored
        scored += count
        if progress is not None:
            progress(scored, total)

    counts: list[int] = []  # of the windows of each document that waits
    pending: list[Request] = []
    for number, document in enumerate(documents, 1):
        requests = document_requests(document, how)
        counts.append(len(requests))
        pending.extend(requests)
        if len(pending) >= batch_size or number == len(documents):
            records = iter(score_tokens(model, pending, done=done, world=world))
            yield from [np.concatenate([no_records(), *islice(records, count)]) for count in counts]
            counts, pending = [], []


# ---- Sums


def document_row(document: EncodedDocument, records: Records, how: Conventions) -> DocumentRow:
    """The row of one document. `math.fsum` rounds the exact sum once, so no order of adding can show."""
    inside = records[:-1] if how.end is not None else records
    return DocumentRow(
        name=document.name, num_tokens=len(inside), num_bytes=document.num_bytes,
        num_characters=document.num_characters, num_words=document.num_words,
        end_nats=float(records["nats"][-1]) if how.end is not None else None, **_sums(inside),
    )  # fmt: skip


def _sums(records: Records) -> dict[str, Any]:
    sums = {name: math.fsum(records[name].tolist()) for name in records.dtype.names or ()}
    return {"nats": sums.pop("nats"), "sums": sums}


def kept_tokens(document: EncodedDocument, left_out: Places) -> np.ndarray:
    """Which tokens of a document count, (n,) bool."""
    kept = np.ones(len(document.tokens), bool)
    for start, stop in left_out:
        kept[start:stop] = False
    return kept


def remaining_row(
    row: DocumentRow, document: EncodedDocument, records: Records, kept: np.ndarray, tokenizer: Tokenizer
) -> tuple[DocumentRow, str]:
    """The row of what is left of a document, and the SHA-256 of its bytes. `records` and `kept` (n,) are of its scored
    tokens, its last n; the end of the document is left as it is."""
    spelled = [tokenizer.token_bytes(token) for token in document.tokens[len(document.tokens) - len(kept) :].tolist()]
    num_bytes, num_characters, num_words = counts_within(spelled, ~kept)
    digest = hashlib.sha256(b"".join(token for token, stays in zip(spelled, kept, strict=True) if stays))
    return msgspec.structs.replace(
        row, num_tokens=int(kept.sum()), num_bytes=row.num_bytes - num_bytes,
        num_characters=row.num_characters - num_characters, num_words=row.num_words - num_words,
        **_sums(records[kept]),
    ), digest.hexdigest()  # fmt: skip


def corpus_report(
    model: Decoder, documents: Sequence[EncodedDocument], how: Conventions, *, model_name: str, text_name: str,
    batch_size: int = 256, progress: Progress | None = None, leave_out: Sequence[Places] | None = None,
    tokenizer: Tokenizer | None = None, world: World | None = None,
) -> Report:  # fmt: skip
    """Score documents and report loss, perplexity and bits per byte with 95 % intervals, by position and by source.

    `leave_out` names token places of each document that are read but counted in no sum (`tokenizer` tells their
    characters and words): the validation windows by which weights were chosen, say. The processes of a `world`, which
    have the same weights, help.
    Raises InputError when no token can be scored.
    """
    masks = [kept_tokens(d, out) for d, out in zip(documents, leave_out or [()] * len(documents), strict=True)]
    rows, hashes, positions = [], [], Positions(how.window)
    sizes = [d.num_bytes - int(d.byte_lengths[d.tokens[~kept]].sum()) for d, kept in zip(documents, masks, strict=True)]
    parts = PassageParts(sum(sizes))
    scores = document_records(model, documents, how, batch_size=batch_size, progress=progress, world=world)
    for document, mask, records in zip(documents, masks, scores, strict=True):
        row, digest = document_row(document, records, how), document.sha256
        inside, first = records[: row.num_tokens], len(document.tokens) - row.num_tokens
        kept, scored = mask[first:], document.tokens[first:]
        if not kept.all():
            assert tokenizer is not None
            row, digest = remaining_row(row, document, inside, kept, tokenizer)
        rows.append(row)
        hashes.append(digest)
        positions.add(inside["nats"], how.stride, kept)
        parts.add(inside[kept], document.byte_lengths[scored[kept]])
    pairs, scope = intervals(rows, parts)
    extra: dict[str, Any] = {
        "vocabulary": model.shape.vocabulary, "by_position": positions.table(), "text_sha256": hashes,
    }  # fmt: skip
    if scope.rule == "passage":
        extra["parts"] = parts.table()
    if sources := by_source(rows):
        extra["by_source"] = sources
    if lost := lost_share(documents):
        extra["lost_share"] = lost
    return Report(
        model=model_name, text=text_name, conventions=conventions_in_words(how, model, len(documents)),
        documents=rows, intervals=pairs, interval_method=scope.sentence, extra=extra,
    )  # fmt: skip
