"""The windows of the training side and of the held-out side, what the model makes of them, and what is independent.

Windows lie evenly over all places where one fits inside a document, always the same ones: no verdict hangs on a draw.
"""

from __future__ import annotations

import re
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hornbook.data.shards import NUM_BYTES, NUM_CHARACTERS, NUM_TOKENS, START, TokenStream
from hornbook.evaluation.differences import Floats, Ints, Units, units_of
from hornbook.evaluation.ngram_search import find_spans
from hornbook.evaluation.score import Request, device_of, forward_rows, greedy_record, score_tokens
from hornbook.facts.errors import InputError
from hornbook.model.decoder import Decoder

LENGTHS = (8, 32, 50)  # tokens of a prefix and of its continuation, where context and documents allow
LEAKED_BYTES = 48  # shorter spans are common phrases, in code above all
_PIECE = re.compile(r"(.*)\[(\d+):\d*\]", re.DOTALL)  # the name of a part of a document (`text.split.Segment`)
_CONTEXTS = (6, 4, 2)  # tokens; what followed the last time they stood in the window is what repeats


class Windows(NamedTuple):
    """Windows of one side as the model sees them: positions in the stream (R,), documents (R,), tokens (R, W), nats
    (R, W - 1) of each token but the first, and whether it was the model's first choice, (R, W - 1)."""

    positions: Ints
    documents: Ints
    tokens: Ints
    nats: Floats
    first_choice: NDArray[np.bool_]

    def matched(self, prefix: int) -> Ints:
        """How many tokens greedy decoding continues rightly after `prefix` tokens: it reads what teacher forcing reads
        until its first error."""
        matched: Ints = np.cumprod(self.first_choice[:, prefix - 1 :], axis=1, dtype=np.int64).sum(1)
        return matched

    def repeats(self, prefix: int, asked: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which of the windows `asked` (R,) repeat themselves, (R,): half of what comes after `prefix` tokens is what
        followed the same tokens before in the window. Whoever continues such a window need not have read it."""
        repeats = asked.copy()
        repeats[asked] = [repeated_share(row, prefix) >= 0.5 for row in self.tokens[asked].tolist()]
        return repeats

    def only(self, kept: NDArray[np.bool_]) -> Windows:
        return self._replace(**{name: column[kept] for name, column in self._asdict().items()})


def repeated_share(tokens: list[int], prefix: int) -> float:
    """The share of tokens after `prefix` that are what followed the longest known context when it last stood there.

    >>> repeated_share([1, 2, 3, 1, 2, 3, 1, 2, 3, 9], 6)
    0.75
    """
    followed: dict[tuple[int, ...], int] = {}
    right = 0
    for i, token in enumerate(tokens):
        contexts = [tuple(tokens[i - n : i]) for n in _CONTEXTS if i >= n]
        if i >= prefix:
            right += next((followed[context] for context in contexts if context in followed), None) == token
        followed |= dict.fromkeys(contexts, token)
    return right / max(1, len(tokens) - prefix)


def num_bytes(part: TokenStream, lengths: NDArray[np.int32]) -> int:
    """The bytes of a side; where they are not known, estimated from an even sample of its tokens, whose bytes are
    `lengths` (vocabulary,)."""
    known = part.documents[:, NUM_BYTES]
    if (known >= 0).all():
        return int(known.sum())
    sample = part.take(np.linspace(0, part.num_tokens - 1, 1000).astype(np.int64), 1)
    return round(float(lengths[sample].mean()) * part.num_tokens)


def longest_half(model: Decoder, train: TokenStream, validation: TokenStream) -> int:
    """Half a window: what the context allows, and documents that hold four fifths of each side's tokens. Raises
    InputError when a side is empty, or its documents are shorter than 4 tokens."""
    limits = [2 * LENGTHS[-1], model.shape.context + 1]
    for part in (train, validation):
        lengths = np.sort(part.documents[:, NUM_TOKENS])
        if lengths.sum() == 0:
            raise InputError("one of the two texts is empty; give a training text and a held-out text.")
        limits.append(int(lengths[np.searchsorted(np.cumsum(lengths), lengths.sum() / 5)]))
    if (longest := min(limits) // 2) < 2:
        raise InputError("the documents are too short to be continued: most have fewer than 4 tokens.")
    return longest


def read_windows(model: Decoder, part: TokenStream, count: int, length: int) -> Windows:
    """At most `count` windows of `length` tokens, fewer where they would overlap."""
    room = np.maximum(0, part.documents[:, NUM_TOKENS] - length + 1)
    ends = np.cumsum(room)
    count = int(min(count, max(1, part.documents[room > 0, NUM_TOKENS].sum() // length)))
    places = ((np.arange(count) + 0.5) * (ends[-1] / count)).astype(np.int64)
    documents = np.searchsorted(ends, places, side="right")
    positions = part.documents[documents, START] + places - (ends - room)[documents]
    tokens = part.take(positions, length)
    return Windows(positions, documents, tokens, *window_scores(model, tokens))


def window_scores(model: Decoder, tokens: Ints) -> tuple[Floats, NDArray[np.bool_]]:
    """Nats of each token but the first, (R, W - 1), and whether the model would have chosen it."""
    length = tokens.shape[1] - 1
    shape = forward_rows(length, model, device_of(model)), length
    records = np.stack(score_tokens(model, [Request(row, length) for row in tokens], greedy_record, shape=shape))
    return np.ascontiguousarray(records["nats"]), np.ascontiguousarray(records["is_greedy"])


def without_ambiguous(
    train: TokenStream, trained: Windows, held_out: Windows, prefix: int, bytes_per_token: float
) -> tuple[Windows, Windows]:
    """Leave out training windows that begin like another place of the training text and go on differently (no one
    could continue both), and held-out windows half of which, and 48 bytes or the whole, stand in the training text."""
    width = trained.tokens.shape[1]
    leaked = min(width, max(prefix, round(LEAKED_BYTES / bytes_per_token)))
    kept = np.ones(len(trained.tokens) + len(held_out.tokens), bool)
    for spans in find_spans(train, [*trained.tokens, *held_out.tokens], prefix):
        diverges = (spans.query_start == 0) & (spans.length < width)
        stands = (spans.query >= len(trained.tokens)) & (spans.length >= leaked)
        kept[spans.query[np.where(spans.query < len(trained.tokens), diverges, stands)]] = False
    first, second = np.split(kept, [len(trained.tokens)])
    return trained.only(first), held_out.only(second)


def independent_units(
    train: TokenStream, validation: TokenStream, trained: Windows, held_out: Windows, num_bytes: tuple[int, int]
) -> Units:
    """What is independent of the windows of these two sides, `num_bytes` long."""
    sources = [[_piece(name) for name in part.names] for part in (train, validation)]
    pieces = {source for source, start in sources[1] if start is not None}
    common = pieces & {source for source, _ in sources[0]}
    strata = _strata((train, validation), (trained, held_out), sources, common) if common else None
    return units_of((trained.documents, held_out.documents), strata, num_bytes, bool(common))


def _piece(name: str) -> tuple[str, int | None]:
    """The document that a segment is of and the character that it begins at; None for a whole document."""
    match = _PIECE.fullmatch(name)
    return (match[1], int(match[2])) if match else (name, None)


def _strata(
    parts: tuple[TokenStream, TokenStream], windows: tuple[Windows, Windows],
    sources: list[list[tuple[str, int | None]]], common: set[str],
) -> tuple[Ints, Ints]:  # fmt: skip
    """The stratum of each window: every document with n held-out pieces is cut into n equal strata; -1 elsewhere."""
    ends, num_strata = dict.fromkeys(common, 0), dict.fromkeys(common, 0)
    for is_heldout, (part, pieces) in enumerate(zip(parts, sources, strict=True)):
        for (source, start), num_characters in zip(pieces, part.documents[:, NUM_CHARACTERS].tolist(), strict=True):
            if source in common:
                ends[source] = max(ends[source], (start or 0) + num_characters)
                num_strata[source] += is_heldout
    order = sorted(common)
    first = dict(zip(order, accumulate((num_strata[source] for source in order), initial=0), strict=False))
    sides = []
    for part, pieces, side in zip(parts, sources, windows, strict=True):
        rows = part.documents[side.documents]
        middle = (side.positions + side.tokens.shape[1] / 2 - rows[:, START]) / np.maximum(1, rows[:, NUM_TOKENS])
        strata = np.full(len(rows), -1)
        for i, document in enumerate(side.documents.tolist()):
            source, start = pieces[document]
            if source in common:
                character = (start or 0) + middle[i] * rows[i, NUM_CHARACTERS]
                stratum = int(character * num_strata[source] / max(1, ends[source]))
                strata[i] = first[source] + min(num_strata[source] - 1, stratum)
        sides.append(strata)
    return sides[0], sides[1]
