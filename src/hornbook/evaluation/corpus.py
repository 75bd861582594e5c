"""Score documents: windows -> nats of each token -> one row of sums per document -> Report.

The convention, unless another is asked for: documents are separate; one `<|endoftext|>`, never scored, stands before
each; windows are as long as the context and move by half of it, so that each token is scored exactly once with at
least half a window before it where there is as much; predicting the end of the document is reported apart. A model
without such a token cannot predict the first token of a document: that token and its bytes leave both sums.

The same bits for any batch size: the bits of a matrix product depend on its number of rows, so the forward pass sees
only a few fixed shapes, and which shape a window gets depends on its own length alone.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np
import torch
from torch import Tensor

from hornbook.data.shards import NUM_TOKENS, TokenStream
from hornbook.engine.threads import in_parallel, workers_for
from hornbook.evaluation.breakdown import Positions, TrainState, by_source, counts_within, intervals
from hornbook.evaluation.windows import windows
from hornbook.facts.errors import InputError
from hornbook.likelihood import head_nats
from hornbook.model.decoder import Decoder
from hornbook.records.result import DocumentRow, Report
from hornbook.text.tokenizer import Tokenizer

Progress = Callable[[int, int], None]  # (targets scored, targets to score)

T = TypeVar("T")


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


def byte_lengths(tokenizer: Tokenizer) -> np.ndarray:
    """How many bytes each id spells, (vocabulary,) int32; none for `<|endoftext|>`."""
    return np.array([len(tokenizer.token_bytes(i)) for i in range(tokenizer.vocabulary)], np.int32)


def beginning_of(tokenizer: Tokenizer) -> int | None:
    """The id that stands unscored before a text: the tokenizer's beginning, else its end of text, else None."""
    return tokenizer.end_of_text if tokenizer.beginning is None else tokenizer.beginning


def encode_documents(texts: Iterable[tuple[str, str]], tokenizer: Tokenizer) -> list[EncodedDocument]:
    """Encode (name, text) pairs. Where no token can stand before a text, its first token leaves the counts."""
    lengths = byte_lengths(tokenizer)
    return [_encode(name, text, tokenizer, lengths) for name, text in texts]


def _encode(name: str, text: str, tokenizer: Tokenizer, lengths: np.ndarray) -> EncodedDocument:
    tokens, scored = tokenizer.encode(text), text.encode()
    lost = tokenizer.lost_bytes(text, tokens)
    if beginning_of(tokenizer) is None:
        scored = scored[int(lengths[tokens[:1]].sum()) :]
        text = scored.decode(errors="replace")
    digest = hashlib.sha256(scored).hexdigest()
    return EncodedDocument(name, tokens, len(scored), len(text), len(text.split()), digest, lengths, lost)


def part_documents(part: TokenStream, tokenizer: Tokenizer) -> list[EncodedDocument]:
    """The documents of one part of a prepared text."""
    lengths = byte_lengths(tokenizer)
    documents = []
    for i in range(len(part.names)):
        tokens, row = part.document_tokens(i), part.documents[i]
        data = tokenizer.decode_bytes(tokens)
        digest = hashlib.sha256(data).hexdigest()
        num_bytes, num_characters, num_words = (int(n) for n in row[NUM_TOKENS + 1 :])
        lost = max(0, num_bytes - len(data)) if tokenizer.kind == "foreign" else 0  # at least
        documents.append(
            EncodedDocument(part.names[i], tokens, num_bytes, num_characters, num_words, digest, lengths, lost)
        )  # fmt: skip
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
    end = "predicted and reported apart" if chosen.end is not None else "not predicted"
    rule = f"id {chosen.beginning} before each document, not scored"
    return {
        "window": f"{chosen.window} tokens",
        "stride": f"{chosen.stride} tokens",
        "beginning": rule if chosen.beginning is not None else "none: the first token and its bytes are not scored",
        "end": end,
        "dtype": f"{str(next(model.parameters()).dtype).removeprefix('torch.')}, sums in float64",
        "documents": f"{num_documents}, separate",
    }


# ---- Fixed shapes


def padded_length(num_inputs: int, model: Decoder) -> int:
    """The length a window is padded to: 2^k or 3 x 2^k from 32 on, at most the context where positions are learned."""
    length = 32
    while length < num_inputs:
        length = length * 3 // 2 if length & (length - 1) == 0 else length * 4 // 3
    return min(length, model.shape.context) if model.positions is not None else length


def forward_rows(length: int, model: Decoder, device: torch.device) -> int:
    """How many windows of `length` are computed at once: a function of the model, the length and the kind of device.

    Wide models fill the machine with fewer tokens. Rows x length is a multiple of 64, so that no product of matrices
    has a ragged last tile, in which the bits could depend on where a row stands.
    """
    tokens = min(2048, max(1024, 1 << int(math.log2(2**20 / model.shape.width))))
    tokens *= 1 if device.type == "cpu" else 16
    step = 64 // math.gcd(64, length)
    return max(1, tokens // length // step) * step


class Job(NamedTuple):
    """One window to compute: `inputs` (n,) int64, its last targets (m,) to be scored, where their nats go, (m,), and
    which target of the document the first of them is.
    """

    inputs: np.ndarray
    targets: np.ndarray
    nats: np.ndarray
    first: int = 0


def head_vocabulary(model: Decoder) -> int:
    """What `head_nats` sizes its chunks by: at least 4,096, lest a small vocabulary be padded to endless rows."""
    return max(model.shape.vocabulary, 4096)


def groups(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Cut into runs of `size`; the last may be shorter."""
    return (items[start : start + size] for start in range(0, len(items), size))


class Batch(NamedTuple):
    """Windows that are computed together: `tokens` (B, T) int64, `scored` (N,) places of what is scored among them."""

    jobs: Sequence[Job]
    tokens: np.ndarray
    scored: np.ndarray
    targets: np.ndarray


def batches(model: Decoder, jobs: Iterable[Job], device: torch.device) -> Iterator[Batch]:
    """Windows of all lengths in batches of fixed shapes."""
    by_length: dict[int, list[Job]] = {}
    for job in jobs:
        by_length.setdefault(padded_length(len(job.inputs), model), []).append(job)
    for length, group in by_length.items():
        rows = forward_rows(length, model, device)
        for together in groups(group, rows):
            tokens = np.zeros((rows, length), np.int64)
            scored = np.zeros((rows, length), bool)
            for row, job in enumerate(together):
                tokens[row, : len(job.inputs)] = job.inputs
                scored[row, len(job.inputs) - len(job.targets) : len(job.inputs)] = True
            yield Batch(together, tokens, np.flatnonzero(scored), np.concatenate([job.targets for job in together]))


def hidden_states(model: Decoder, batch: Batch, device: torch.device) -> tuple[Tensor, Tensor]:
    """The scored positions' hidden states (N, D) and targets (N,)."""
    hidden = model.hidden(torch.from_numpy(batch.tokens).to(device)).flatten(0, 1)
    return hidden[torch.from_numpy(batch.scored).to(device)], torch.from_numpy(batch.targets).to(device)


def document_jobs(document: EncodedDocument, how: Conventions) -> tuple[np.ndarray, list[Job]]:
    """The nats to fill, one for each target in order, and the windows that fill them."""
    before = [] if how.beginning is None else [how.beginning]
    after = [] if how.end is None else [how.end]
    sequence = np.concatenate([np.array(before, np.int64), document.tokens, np.array(after, np.int64)]).astype(np.int64)
    nats = np.full(max(0, len(sequence) - 1), np.nan)
    jobs = [
        Job(sequence[w.start : w.stop], sequence[w.first + 1 : w.stop + 1], nats[w.first : w.stop], w.first)
        for w in windows(len(nats), how.window, how.stride)
    ]
    return nats, jobs


@contextmanager
def evaluating(model: Decoder) -> Iterator[None]:
    """No gradients and no dropout inside; the model's mode afterwards is what it was."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def compute(
    model: Decoder, jobs: Iterable[Job], device: torch.device | str, done: Callable[[int], None] | None = None
) -> None:
    """Fill the nats of every job; `done` hears how many were scored in each forward pass."""
    device = torch.device(device)

    def score(batch: Batch) -> np.ndarray:
        return head_nats(model.head, *hidden_states(model, batch, device), head_vocabulary(model)).cpu().numpy()

    with evaluating(model):
        for batch, nats in in_parallel(score, batches(model, jobs, device), workers_for(model, device)):
            start = 0
            for job in batch.jobs:
                job.nats[:] = nats[start : start + len(job.nats)]
                start += len(job.nats)
            if done is not None:
                done(start)


def token_nats(
    model: Decoder, documents: Sequence[EncodedDocument], how: Conventions, *, batch_size: int = 256,
    device: torch.device | str = "cpu", progress: Progress | None = None,
) -> Iterator[np.ndarray]:  # fmt: skip
    """Nats of every target of each document, in order: its tokens (all but the first without `beginning`), then the
    end where that is predicted. `batch_size` windows are gathered before they are computed; it cannot show in the bits.
    """
    total = sum(len(d.tokens) + (how.beginning is not None) + (how.end is not None) - 1 for d in documents)
    scored = 0

    def done(count: int) -> None:
        nonlocal scored
        scored += count
        if progress is not None:
            progress(scored, total)

    waiting: list[np.ndarray] = []
    pending: list[Job] = []
    for document in documents:
        nats, jobs = document_jobs(document, how)
        waiting.append(nats)
        pending.extend(jobs)
        if len(pending) >= batch_size:
            for some in groups(pending, batch_size):
                compute(model, some, device, done)
            yield from waiting
            waiting, pending = [], []
    compute(model, pending, device, done)
    yield from waiting


# ---- Sums


def document_row(document: EncodedDocument, nats: np.ndarray, how: Conventions) -> DocumentRow:
    """The row of one document. `math.fsum` rounds the exact sum once, so no order of adding can show."""
    inside = nats[:-1] if how.end is not None else nats
    return DocumentRow(
        name=document.name,
        nats=math.fsum(inside.tolist()),
        num_tokens=len(inside),
        num_bytes=document.num_bytes,
        num_characters=document.num_characters,
        num_words=document.num_words,
        end_nats=float(nats[-1]) if how.end is not None else None,
    )


Places = Sequence[tuple[int, int]]  # (start, stop) among the tokens of a document


def kept_tokens(document: EncodedDocument, left_out: Places) -> np.ndarray:
    """Which tokens of a document count, (n,) bool."""
    kept = np.ones(len(document.tokens), bool)
    for start, stop in left_out:
        kept[start:stop] = False
    return kept


def remaining_row(
    row: DocumentRow, document: EncodedDocument, nats: np.ndarray, kept: np.ndarray, tokenizer: Tokenizer
) -> tuple[DocumentRow, str]:
    """The row of what is left of a document, and the SHA-256 of its bytes. `nats` and `kept` (n,) are of its scored
    tokens, its last n; the end of the document is left as it is."""
    spelled = [tokenizer.token_bytes(token) for token in document.tokens[len(document.tokens) - len(nats) :].tolist()]
    num_bytes, num_characters, num_words = counts_within(spelled, ~kept)
    digest = hashlib.sha256(b"".join(token for token, stays in zip(spelled, kept, strict=True) if stays))
    return msgspec.structs.replace(
        row, nats=math.fsum(nats[kept].tolist()), num_tokens=int(kept.sum()), num_bytes=row.num_bytes - num_bytes,
        num_characters=row.num_characters - num_characters, num_words=row.num_words - num_words,
    ), digest.hexdigest()  # fmt: skip


def evaluate(
    model: Decoder, documents: Sequence[EncodedDocument], how: Conventions, *, model_name: str, text_name: str,
    batch_size: int = 256, device: torch.device | str = "cpu", progress: Progress | None = None,
    leave_out: Sequence[Places] | None = None, tokenizer: Tokenizer | None = None,
) -> Report:  # fmt: skip
    """Score documents and report loss, perplexity and bits per byte with 95 % intervals, by position and by source.

    `leave_out` names token places of each document that are read but counted in no sum (`tokenizer` tells their
    characters and words): the validation windows by which weights were chosen, say.
    Raises InputError when no token can be scored.
    """
    masks = [kept_tokens(d, out) for d, out in zip(documents, leave_out or [()] * len(documents), strict=True)]
    rows, hashes, positions = [], [], Positions(how.window)
    sizes = [d.num_bytes - int(d.byte_lengths[d.tokens[~kept]].sum()) for d, kept in zip(documents, masks, strict=True)]
    parts = TrainState(sum(sizes))
    scores = token_nats(model, documents, how, batch_size=batch_size, device=device, progress=progress)
    for document, mask, nats in zip(documents, masks, scores, strict=True):
        row, digest = document_row(document, nats, how), document.sha256
        inside, first = nats[: row.num_tokens], len(document.tokens) - row.num_tokens
        kept, scored = mask[first:], document.tokens[first:]
        if not kept.all():
            assert tokenizer is not None
            row, digest = remaining_row(row, document, inside, kept, tokenizer)
        rows.append(row)
        hashes.append(digest)
        positions.add(inside, how.stride, kept)
        parts.add(inside[kept], document.byte_lengths[scored[kept]])
    pairs, what = intervals(rows, parts)
    extra: dict[str, Any] = {
        "vocabulary": model.shape.vocabulary, "by_position": positions.table(), "text_sha256": hashes,
    }  # fmt: skip
    if what.rule == "passage":
        extra["parts"] = parts.sums.tolist()
    if sources := by_source(rows):
        extra["by_source"] = sources
    if lost := lost_share(documents):
        extra["lost_share"] = lost
    return Report(
        model=model_name,
        text=text_name,
        conventions=conventions_in_words(how, model, len(documents)),
        documents=rows,
        intervals=pairs,
        interval_method=what.sentence,
        extra=extra,
    )
