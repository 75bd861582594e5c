"""How much of what a model writes stands in its training text, in longer spans than new text would have in common?

The threshold comes from text that nobody copied: the longest spans that held-out text, or other places of the training
text itself, share with the training text. What samples share in longer spans than those is copied.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hornbook.data.shards import START, TokenStream
from hornbook.evaluation.differences import Findings, Floats, Ints
from hornbook.evaluation.intervals import INTERVAL_DOCUMENTS, clusters
from hornbook.evaluation.ngram_search import Spans, all_spans, find_spans, longest_matches
from hornbook.evaluation.probe import byte_lengths
from hornbook.evaluation.sides import num_bytes
from hornbook.model.decoder import Decoder
from hornbook.model.generate import generate_batch
from hornbook.text.tokenizer import Tokenizer

WORST = 10  # copies shown
_BLOCK = 2**20  # tokens read at once
_PROBE_TOKENS = 2**23  # searched at each evaluation while training


class Copying(NamedTuple):
    """The numbers, a row for each span length, and the longest copies."""

    findings: Findings
    rows: list[dict[str, Any]]
    longest: list[dict[str, Any]]


def copying(
    model: Decoder, train: TokenStream, validation: TokenStream, tokenizer: Tokenizer, *, num_samples: int,
    sample_tokens: int, generator: np.random.Generator,
) -> Copying:  # fmt: skip
    """Compare `num_samples` free samples with the training text, beside windows of the same length of held-out text and
    of the training text itself, whose own place does not count: where the held-out text is of another kind, they show
    what a text of this kind has in common with it by nature.

    The threshold is the 99th percentile, over every other window's places, of the longest span that begins there and
    also stands in the training text, on the side where it is larger; the remaining windows are the control. What
    stands twice in a sample counts once: a run of spaces is not a copy.
    """
    length = min(sample_tokens, model.shape.context)
    samples = _samples(model, train, validation, num_samples, length, generator)
    heldout = _windows(validation, length, 2 * num_samples)
    shortest = _shortest(validation, tokenizer)
    longest = longest_matches(train, [*samples, *heldout], shortest)
    written, heldout_longest = longest[:num_samples], longest[num_samples:]
    sides = [(heldout, heldout_longest), _matched_elsewhere(train, length, 2 * num_samples, shortest)]
    threshold = max(_threshold(matches[::2], shortest) for _, matches in sides if matches)
    control = max(
        _mean(_copied(windows[1::2], matches[1::2], threshold)) for windows, matches in sides if len(matches) > 1
    )
    copied = _copied(samples, written, threshold)
    sizes = np.array([float(len(sample)) for sample in samples])
    # In how many pieces of the training text, each as long as the held-out text, does a token's span stand? Were the
    # labels exchanged, in as many as that ratio times the held-out text has it.
    size, ratio = validation.num_tokens, train.num_tokens / validation.num_tokens
    in_train, spans, train_squares = _counted(train, samples, threshold, size)
    in_validation, _, validation_squares = _counted(validation, samples, threshold, size)
    share = clusters(np.array([float(mask.sum()) for mask in copied]), sizes, at_least=2)
    excess = clusters(in_train - ratio * in_validation, sizes, at_least=2)
    assert share is not None
    assert excess is not None
    # Many samples may copy one passage, and it is one draw which side that stands on.
    drawn = math.sqrt(train_squares + ratio**2 * validation_squares) / sizes.sum()
    excess = excess._replace(error=math.hypot(excess.error, drawn))
    findings = Findings()
    findings.add("copied_share", share.value, share.interval)
    findings.add("control_copied_share", control)
    findings.add("excess_copied_share", excess.value, excess.interval)
    findings.add("copied_span_threshold_tokens", threshold)
    findings.add("longest_copied_span_tokens", max(int(matches.max(initial=0)) for matches in written))
    rows = _by_span(written, heldout_longest[1::2], shortest, length)
    return Copying(findings, rows, _longest_copies(train, tokenizer, spans))


def _by_span(written: Sequence[Ints], control: Sequence[Ints], shortest: int, longest: int) -> list[dict[str, Any]]:
    """A row for each span length: the share of tokens within such a match, and of places where none begins."""
    rows, span = [], shortest
    while span <= longest:
        rows.append({"span_tokens": span, "copied_share": _mean([_covered(m, span) for m in written]),
                     "control_copied_share": _mean([_covered(m, span) for m in control]),
                     "novel_share": _mean([m < span for m in written]),
                     "control_novel_share": _mean([m < span for m in control])})  # fmt: skip
        span = max(span + 1, span * 3 // 2)
    return rows


class CopyProbe:
    """A few free samples, always from the same randomness, scored again and again while training: how much of them
    stands in the training text in longer spans than held-out text shares? Of a long training text, its beginning.
    """

    def __init__(
        self, train: TokenStream, validation: TokenStream, tokenizer: Tokenizer, *, sample_tokens: int
    ) -> None:
        self._train, self._validation = train.first(_PROBE_TOKENS), validation
        self._length = sample_tokens
        shortest = _shortest(validation, tokenizer)
        windows = _windows(validation, self._length, 128)
        self.threshold = _threshold(longest_matches(self._train, windows, shortest), shortest)

    def score(self, model: Decoder) -> float:
        """The share of the samples' tokens. Draws from no other randomness."""
        samples = _samples(model, self._train, self._validation, 8, self._length, np.random.default_rng(0))
        return _mean([_covered(m, self.threshold) for m in longest_matches(self._train, samples, self.threshold)])

    def spans(self, tokenizer: Tokenizer, text: str) -> list[list[int]]:
        """[from, to] in characters of what of a text stands in the training text in such spans."""
        ids, raw = np.array(tokenizer.encode(text), np.int64), text.encode()
        (longest,) = longest_matches(self._train, [ids], self.threshold) if len(ids) else (ids,)
        ends = np.cumsum([len(tokenizer.token_bytes(int(i))) for i in ids])
        mask = np.diff(np.concatenate([[False], _covered(longest, self.threshold), [False]]).astype(int))
        characters = [len(raw[:end].decode("utf-8", "ignore")) for end in [0, *ends.tolist()]]
        pairs = zip(np.flatnonzero(mask == 1).tolist(), np.flatnonzero(mask == -1).tolist(), strict=True)
        return [[characters[begin], characters[end]] for begin, end in pairs]


def _windows(part: TokenStream, length: int, count: int) -> list[Ints]:
    """Windows of `length` tokens of a text, evenly spread: at most `count`, fewer where they would overlap."""
    return list(part.take(_places(part, length, count), min(length, part.num_tokens)))


def _places(part: TokenStream, length: int, count: int) -> Ints:
    count = max(2, min(count, part.num_tokens // length))
    places: Ints = (np.arange(count) * part.num_tokens // count + length // 2) % part.num_tokens
    return places


def _matched_elsewhere(train: TokenStream, length: int, count: int, shortest: int) -> tuple[list[Ints], list[Ints]]:
    """Windows of the training text, and for each of their places the longest span that begins there and stands at
    another place of the training text as well. Windows half of which are a copy of another place are left out: whoever
    copies those does copy."""
    windows, starts = _windows(train, length, count), _places(train, length, count)
    longest = np.zeros((len(windows), len(windows[0])), np.int64)
    for spans in find_spans(train, windows, shortest):
        away = np.abs(spans.position - starts[spans.query] - spans.query_start) >= length
        np.maximum.at(longest, (spans.query[away], spans.query_start[away]), spans.length[away])
    along = np.arange(longest.shape[1])
    longest = np.maximum.accumulate(longest + along, axis=1) - along
    longest[longest < shortest] = 0
    kept = [i for i, matches in enumerate(longest) if _covered(matches, max(shortest, length // 2)).mean() < 0.5]
    return [windows[i] for i in kept], [longest[i] for i in kept]


def _copied(windows: Sequence[Ints], longest: Sequence[Ints], span: int) -> list[NDArray[np.bool_]]:
    """Which tokens of each window lie in a match of `span` tokens that has not come before in the window."""
    return [
        _covered(_once(tokens, matches, span), span) for tokens, matches in zip(windows, longest, strict=True)
    ]  # fmt: skip


def _once(tokens: Ints, longest: Ints, span: int) -> Ints:
    """`span` where a match of at least that many tokens begins which has not come before in `tokens`; elsewhere 0.

    >>> _once(np.array([7, 7, 7, 7, 8]), np.array([4, 3, 2, 0, 0]), 2).tolist()
    [2, 0, 0, 0, 0]
    """
    seen: set[bytes] = set()
    once = np.zeros(len(tokens), np.int64)
    for i in range(len(tokens) - span + 1):
        gram = tokens[i : i + span].tobytes()
        if longest[i] >= span and gram not in seen:
            once[i] = span
        seen.add(gram)
    return once


def _shortest(validation: TokenStream, tokenizer: Tokenizer) -> int:
    """Spans shorter than 12 bytes are words: they are not looked for."""
    return max(2, round(12 * validation.num_tokens / max(1, num_bytes(validation, byte_lengths(tokenizer)))))


def _threshold(longest: Sequence[Ints], shortest: int) -> int:
    """Longer than what begins at 99 of 100 places of text that was not copied and stands in the training text too."""
    return max(shortest, 1 + int(np.quantile(np.concatenate(longest), 0.99)))


def _samples(
    model: Decoder, train: TokenStream, validation: TokenStream, count: int, length: int, generator: np.random.Generator
) -> list[Ints]:
    """Free text: what the model writes at temperature 1 after one token, drawn from both sides by turns, so that
    neither is favoured and no sample must begin as a document does."""
    starts = np.empty((count, 1), np.int64)
    for i, part in enumerate((train, validation)):
        starts[i::2] = part.take(generator.integers(part.num_tokens, size=len(starts[i::2])), 1)
    seeds = generator.integers(2**31, size=count).tolist()
    return [
        np.array(ids, np.int64)
        for i in range(0, count, 16)
        for ids in generate_batch(model, starts[i : i + 16].tolist(), max_tokens=length, seeds=seeds[i : i + 16])
    ]


def _covered(longest: Ints, span: int) -> NDArray[np.bool_]:
    """Which places lie in a match of at least `span` tokens, from the longest match that begins at each."""
    along = np.arange(len(longest))
    ends = np.maximum.accumulate(np.where(longest >= span, along + longest, 0))
    return ends > along


def _mean(masks: Sequence[NDArray[np.bool_]]) -> float:
    return float(np.concatenate(masks).mean())


def _counted(part: TokenStream, samples: Sequence[Ints], span: int, size: int) -> tuple[Floats, Spans, float]:
    """For each sample, the sum over its tokens of how many pieces of `size` tokens of the part have it in a span; the
    spans; and the sum of squares of how many of these tokens stand in each document, or, where the part has few
    documents, in each stretch as long as a sample.
    """
    lengths = np.array([len(sample) for sample in samples])
    spans = all_spans(part, samples, span)
    begin = (np.cumsum(lengths) - lengths)[spans.query] + spans.query_start
    counts: Floats = np.zeros(len(samples))
    np.add.at(counts, spans.query, _uncovered(spans.position // size, begin, spans.length))
    few = len(part.documents) < INTERVAL_DOCUMENTS
    _, unit = np.unique(spans.position // lengths.max() if few else spans.document, return_inverse=True)
    in_unit = np.bincount(unit, _uncovered(unit, begin, spans.length))
    return counts, spans, float((in_unit**2).sum())


def _uncovered(group: Ints, begin: Ints, length: Ints) -> Floats:
    """How many tokens each span (n,) covers that no span before it does, of those of its group.

    >>> _uncovered(np.array([0, 0, 1]), np.array([0, 2, 2]), np.array([4, 3, 3])).tolist()
    [4.0, 1.0, 3.0]
    """
    room = int((begin + length).max(initial=0))
    begin = begin + group * room
    order = np.argsort(begin)
    ends = np.maximum.accumulate((begin + length)[order])
    before = np.concatenate([[0], ends[:-1]])[: len(ends)]
    new = np.empty(len(begin))
    new[order] = ends - np.maximum(np.minimum(before, ends), begin[order])
    return new


def _longest_copies(train: TokenStream, tokenizer: Tokenizer, spans: Spans) -> list[dict[str, Any]]:
    lengths, order = byte_lengths(tokenizer), np.argsort(-spans.length, kind="stable")[:WORST]
    return [
        {"sample": query, **place(train, tokenizer, lengths, position, length)}
        for query, _, length, position, _ in zip(*(column[order].tolist() for column in spans), strict=True)
    ]


def place(
    train: TokenStream, tokenizer: Tokenizer, lengths: NDArray[np.int32], position: int, length: int
) -> dict[str, Any]:
    """Where these tokens of the training text stand, for a person: the document, the place in it, and the text.

    `lengths` (vocabulary,) are the bytes that each id spells.
    """
    document = int(np.searchsorted(train.documents[:, START], position, side="right")) - 1
    begin = int(train.documents[document, START])
    before = sum(
        int(lengths[train.take(np.array([start]), min(_BLOCK, position - start))[0]].sum())
        for start in range(begin, position, _BLOCK)
    )
    return {
        "document": train.names[document], "token_in_document": position - begin, "byte_in_document": before,
        "num_tokens": length, "text": tokenizer.decode(train.take(np.array([position]), length)[0]),
    }  # fmt: skip
