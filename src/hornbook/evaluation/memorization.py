"""Has the model learned the training text, or learned it by heart? Four measures, each beside a held-out control.

Where nothing else is said, what is measured is a window of at most 100 tokens inside a document, drawn evenly over the
training and the validation side with a recorded seed. Training windows that begin like another place of the training
text and go on differently are left out (no one could continue both), and so are held-out windows half of which stand
in the training text.

1. Extraction (Carlini et al. 2022): the share of windows that greedy decoding continues word for word.
2. Copying: how much of freely generated text stands in the training text in longer spans than held-out text ever has.
3. Generalization gap in bits per byte; memorized bits against capacity; whether the loss tells the sides apart (AUC).
4. Exposure of planted canaries (Carlini et al. 2019): `evaluation/exposure.py`.

Were the labels training and held-out drawn at random, each excess would be zero on average. Intervals are 95 %;
the independent unit is the document where a side's windows come from 30 documents or more, else the window.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from hornbook.data.shards import NUM_BYTES, NUM_TOKENS, START, Part
from hornbook.data.spans import find_spans
from hornbook.evaluation.baselines import window_nats
from hornbook.evaluation.copying import WORST, copying, place
from hornbook.evaluation.corpus import byte_lengths
from hornbook.evaluation.differences import (
    Floats,
    Interval,
    Ints,
    auc,
    interval_around,
    rate_difference,
    ratio_and_error,
)
from hornbook.evaluation.exposure import exposure_table
from hornbook.evaluation.intervals import INTERVAL_DOCUMENTS
from hornbook.facts.capacity import capacity_bits
from hornbook.facts.errors import InputError
from hornbook.likelihood import chunk_rows, token_nats
from hornbook.model.decoder import Decoder
from hornbook.text.canaries import Canaries
from hornbook.text.tokenizer import Tokenizer

LENGTHS = (8, 32, 50)  # tokens of a prefix and of its continuation, where context and documents allow
MATERIAL = 0.01  # less than one passage in a hundred is not "by heart"
HALF = 0.5  # of the surprise at new text, gone on the training text: by heart, whether or not greedy decoding shows it


class Memorization(msgspec.Struct, frozen=True, kw_only=True):
    """What was found. `numbers` and `intervals` by name; tables as rows of JSON values.

    `by_heart` is the verdict's boolean. When it is false and `learned_enough` too, it says nothing: the model does
    not beat a bigram model on held-out text.
    """

    verdict: str
    by_heart: bool
    learned_enough: bool
    numbers: dict[str, float]
    intervals: dict[str, Interval]
    extraction: list[dict[str, Any]]  # a row for each prefix and suffix length
    discoverable: list[dict[str, Any]]  # a row for each number of samples
    copying: list[dict[str, Any]]  # a row for each span length
    canaries: list[dict[str, Any]]  # a row for each number of repetitions; empty where none were planted
    passages: list[dict[str, Any]]  # the training passages that are known best
    copies: list[dict[str, Any]]  # the longest spans that samples have in common with the training text
    conventions: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """As `--json` prints it: every number by its name, `<name>_interval_95` beside it."""
        fields = msgspec.to_builtins(self)
        numbers, intervals = fields.pop("numbers"), fields.pop("intervals")
        pairs: dict[str, Any] = {}
        for name, number in numbers.items():
            pairs[name] = number
            if name in intervals:
                pairs[f"{name}_interval_95"] = intervals[name]
        return {**{key: fields.pop(key) for key in ("verdict", "by_heart", "learned_enough")}, **pairs, **fields}


class Windows(NamedTuple):
    """Windows of one side as the model sees them: positions in the stream (R,), documents (R,), tokens (R, W), nats
    (R, W - 1) of each token but the first, and whether it was the model's first choice, (R, W - 1)."""

    positions: Ints
    documents: Ints
    tokens: Ints
    nats: Floats
    first_choice: NDArray[np.bool_]

    def units(self) -> Ints:
        """The independent unit of each window."""
        _, units = np.unique(self.documents, return_inverse=True)
        return units if units.max() + 1 >= INTERVAL_DOCUMENTS else np.arange(len(units))

    def matched(self, prefix: int) -> Ints:
        """How many tokens greedy decoding continues rightly after `prefix` tokens: it reads what teacher forcing reads
        until its first error."""
        matched: Ints = np.cumprod(self.first_choice[:, prefix - 1 :], axis=1, dtype=np.int64).sum(1)
        return matched


def memorization(
    model: Decoder, train: Part, validation: Part, tokenizer: Tokenizer, *, canaries: Canaries | None = None,
    reference: Decoder | None = None, num_windows: int = 256, num_samples: int = 64, sample_tokens: int = 256,
    num_candidates: int = 10_000, seed: int = 0,
) -> Memorization:  # fmt: skip
    """Measure what `model` knows of `train` by heart, against `validation`, which it must not have seen.

    `reference` is a model that has not seen `train` (or only once): its surprise is taken off before the sides are
    compared, so that one side being the harder text does not show. Same arguments, same result; no other random state
    is touched. Raises InputError when a side's documents are too short for windows of 4 tokens.
    """
    generator = np.random.default_rng(seed)
    longest = _longest(model, train, validation)
    lengths = sorted({min(length, longest) for length in LENGTHS})
    sides = [_read(model, part, num_windows, 2 * longest, generator) for part in (train, validation)]
    trained, held_out = _without_ambiguous(train, sides[0], sides[1], longest)
    if not len(trained.tokens) or not len(held_out.tokens):
        raise InputError("every held-out passage also stands in the training text: name another text with --heldout.")
    found = _Findings()
    extraction, discoverable = _extraction(found, trained, held_out, lengths)
    counting = window_nats(train, held_out.tokens, model.shape.vocabulary)
    against = _gap(found, model, reference, train, trained, held_out, byte_lengths(tokenizer), counting)
    copies = copying(
        model, train, validation, tokenizer, num_samples=num_samples, sample_tokens=sample_tokens, generator=generator
    )
    for name, number in copies.numbers.items():
        found.add(name, number, copies.intervals.get(name))
    table: list[dict[str, Any]] = []
    if canaries is not None:
        table, found.numbers["canary_rank_correlation"] = exposure_table(
            model, tokenizer, canaries, num_candidates=num_candidates, seed=seed
        )
    found.numbers["bigram_heldout_loss_nats_per_token"] = float(counting["2-gram"].mean())
    by_heart, learned_enough, verdict = _verdict(found)
    return Memorization(
        verdict=verdict, by_heart=by_heart, learned_enough=learned_enough, numbers=found.numbers,
        intervals=found.intervals, extraction=extraction, discoverable=discoverable, copying=copies.rows,
        canaries=table, passages=_worst(train, trained, tokenizer, longest), copies=copies.longest,
        conventions={
            "window_tokens": 2 * longest, "train_windows": len(trained.tokens), "heldout_windows": len(held_out.tokens),
            "samples": num_samples, "sample_tokens": min(sample_tokens, model.shape.context), "seed": seed,
            "reference": reference is not None, "memorized_bits_against": against,
        },
    )  # fmt: skip


class _Findings:
    """Numbers with their intervals, as they are found."""

    def __init__(self) -> None:
        self.numbers: dict[str, float] = {}
        self.intervals: dict[str, Interval] = {}

    def add(self, name: str, number: float, interval: Interval | None) -> None:
        self.numbers[name] = float(number)
        if interval is not None:
            self.intervals[name] = (float(interval[0]), float(interval[1]))

    def low(self, name: str) -> float:
        """The lower end of the interval; minus infinity where there is none: then nothing is shown."""
        return self.intervals.get(name, (-math.inf, math.inf))[0]


# ---- Windows


def _longest(model: Decoder, train: Part, validation: Part) -> int:
    """Half a window: what the context allows, and documents that hold half of each side's tokens."""
    limits = [2 * LENGTHS[-1], model.shape.context + 1]
    for part in (train, validation):
        lengths = np.sort(part.documents[:, NUM_TOKENS])
        if lengths.sum() == 0:
            raise InputError("one of the two texts is empty; give a training text and a held-out text.")
        limits.append(int(lengths[np.searchsorted(np.cumsum(lengths), lengths.sum() / 2)]))
    if (longest := min(limits) // 2) < 2:
        raise InputError("the documents are too short to be continued: most have fewer than 4 tokens.")
    return longest


def _read(model: Decoder, part: Part, count: int, length: int, generator: np.random.Generator) -> Windows:
    """Windows spread evenly over all places where one fits, fewer where they would overlap."""
    room = np.maximum(0, part.documents[:, NUM_TOKENS] - length + 1)
    ends = np.cumsum(room)
    count = int(min(count, max(1, part.documents[room > 0, NUM_TOKENS].sum() // length)))
    places = ((np.arange(count) + generator.random(count)) * (ends[-1] / count)).astype(np.int64)
    documents = np.searchsorted(ends, places, side="right")
    positions = part.documents[documents, START] + places - (ends - room)[documents]
    tokens = part.take(positions, length)
    return Windows(positions, documents, tokens, *_scores(model, tokens))


@torch.inference_mode()
def _scores(model: Decoder, tokens: Ints) -> tuple[Floats, NDArray[np.bool_]]:
    """Nats of each token but the first, (R, W - 1), and whether the model would have chosen it."""
    device, training = next(model.parameters()).device, model.training
    rows = max(1, chunk_rows(model.shape.vocabulary, bytes_per_logit=8) // tokens.shape[1])
    nats, first_choice = [], []
    model.eval()
    for start in range(0, len(tokens), rows):
        ids = torch.from_numpy(tokens[start : start + rows]).to(device)
        logits = model(ids[:, :-1]).flatten(0, 1).double()
        targets = ids[:, 1:].flatten()
        nats.append(token_nats(logits, targets).view(len(ids), -1).cpu().numpy())
        first_choice.append((logits.argmax(-1) == targets).view(len(ids), -1).cpu().numpy())
    model.train(training)
    return np.concatenate(nats), np.concatenate(first_choice)


def _without_ambiguous(train: Part, trained: Windows, held_out: Windows, prefix: int) -> tuple[Windows, Windows]:
    """Leave out what the module's docstring says."""
    kept = np.ones(len(trained.tokens) + len(held_out.tokens), bool)
    for spans in find_spans(train, [*trained.tokens, *held_out.tokens], prefix):
        diverges = (spans.query_start == 0) & (spans.length < trained.tokens.shape[1])
        kept[spans.query[diverges | (spans.query >= len(trained.tokens))]] = False
    first, second = np.split(kept, [len(trained.tokens)])
    return Windows(*(column[first] for column in trained)), Windows(*(column[second] for column in held_out))


# ---- The measures


def _extraction(
    found: _Findings, trained: Windows, held_out: Windows, lengths: Sequence[int]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    for prefix in lengths:
        matched = trained.matched(prefix), held_out.matched(prefix)
        for suffix in lengths:
            right = [tokens >= suffix for tokens in matched]
            low, high = rate_difference(right[0], right[1], trained.units(), held_out.units())
            rows.append({
                "prefix_tokens": prefix, "suffix_tokens": suffix, "extraction_rate": float(right[0].mean()),
                "control_extraction_rate": float(right[1].mean()), "excess_extraction_rate_interval_95": [low, high],
                "matched_tokens": float(np.minimum(matched[0], suffix).mean()),
                "control_matched_tokens": float(np.minimum(matched[1], suffix).mean()),
            })  # fmt: skip
    last = rows[-1]
    found.add("extraction_rate", last["extraction_rate"], None)
    found.add("control_extraction_rate", last["control_extraction_rate"], None)
    excess = last["extraction_rate"] - last["control_extraction_rate"]
    found.add("excess_extraction_rate", excess, tuple(last["excess_extraction_rate_interval_95"]))
    discoverable = []
    for samples in (1, 100, 10_000):  # (n, p)-discoverable (Hayes et al. 2024), p one half, temperature 1
        needed = -math.log1p(-(0.5 ** (1 / samples)))  # nats of a suffix that n samples contain with probability 1/2
        shares = [float((side.nats[:, lengths[-1] - 1 :].sum(1) <= needed).mean()) for side in (trained, held_out)]
        discoverable.append({"samples": samples, "probability": 0.5, "share": shares[0], "control_share": shares[1]})
    return rows, discoverable


def _gap(
    found: _Findings, model: Decoder, reference: Decoder | None, train: Part, trained: Windows, held_out: Windows,
    lengths: NDArray[np.int32], counting: dict[str, Floats],
) -> str:  # fmt: skip
    """Returns whose surprise at held-out text memorized bits are counted from: the model's, or where a model that only
    counts has less, that one's. What a model is surer of than it may be on new text is not held in memory."""
    sides, known, lowest = [], [], []
    for name, side in (("train", trained), ("heldout", held_out)):
        found.numbers[f"{name}_loss_nats_per_token"] = float(side.nats.mean())
        num_bytes = lengths[side.tokens[:, 1:]].sum(1).astype(float)
        nats = side.nats if reference is None else side.nats - _scores(reference, side.tokens)[0]
        sides.append(ratio_and_error(nats.sum(1) / math.log(2), num_bytes, side.units()))
        known.append(-nats.mean(1))
        worst = -np.sort(-side.nats, axis=1)[:, : max(1, side.nats.shape[1] // 5)]
        lowest.append(-worst.mean(1))  # Min-20 % (Shi et al. 2023)
    (trained_bits, error_a, n_a), (held_bits, error_b, n_b) = sides
    interval = interval_around(held_bits - trained_bits, math.hypot(error_a, error_b), min(n_a, n_b))
    gap = held_bits - trained_bits
    found.add("generalization_gap_bits_per_byte", gap, interval)
    heldout_bits = held_out.nats.sum() / math.log(2) / lengths[held_out.tokens[:, 1:]].sum()
    share = interval and (interval[0] / heldout_bits, interval[1] / heldout_bits)
    found.add("generalization_gap_share", gap / heldout_bits, share)
    known_bytes = train.documents[:, NUM_BYTES]
    per_token = lengths[trained.tokens].mean()
    total = float(known_bytes.sum() if (known_bytes >= 0).all() else per_token * train.num_tokens)
    against = min(counting, key=lambda name: counting[name].mean())
    if counting[against].mean() < held_out.nats.mean():
        nats = counting[against] - (held_out.nats - nats)
        held_bits, error_b, n_b = ratio_and_error(nats.sum(1) / math.log(2), num_bytes, held_out.units())
        interval = interval_around(held_bits - trained_bits, math.hypot(error_a, error_b), min(n_a, n_b))
    else:
        against = "the model"
    memorized = max(0.0, held_bits - trained_bits) * total
    found.add("memorized_bits", memorized, interval and (interval[0] * total, interval[1] * total))
    found.numbers["capacity_bits"] = capacity_bits(sum(p.numel() for p in model.parameters()))
    for name, scores in (("membership_auc", known), ("membership_auc_min_20", lowest)):
        found.add(name, *auc(scores[0], scores[1], trained.units(), held_out.units()))
    return against


# ---- What a person sees


def _worst(train: Part, trained: Windows, tokenizer: Tokenizer, prefix: int) -> list[dict[str, Any]]:
    matched, nats, lengths = trained.matched(prefix), trained.nats[:, prefix - 1 :].sum(1), byte_lengths(tokenizer)
    return [
        {"matched_tokens": int(matched[i]), "suffix_nats": float(nats[i]),
         "prompt": tokenizer.decode(trained.tokens[i, :prefix]),
         "matched_text": tokenizer.decode(trained.tokens[i, prefix : prefix + matched[i]]),
         **place(train, tokenizer, lengths, int(trained.positions[i]) + prefix, trained.tokens.shape[1] - prefix)}
        for i in np.lexsort((nats, -matched))[:WORST].tolist()
    ]  # fmt: skip


def _verdict(found: _Findings) -> tuple[bool, bool, str]:
    """(by heart, learned enough to tell, the sentence)."""
    n, evidence = found.numbers, []
    rates = f"{n['extraction_rate']:.0%} of its training passages word for word"
    rates += f" ({n['control_extraction_rate']:.0%} of new ones)"
    if found.low("excess_extraction_rate") > MATERIAL:
        evidence.append(f"continues {rates}")
    if min(found.low("excess_copied_share"), found.low("copied_share") - n["control_copied_share"]) > MATERIAL:
        evidence.append(
            f"copies {n['copied_share']:.0%} of what it writes from the training text in spans of at least "
            f"{n['copied_span_threshold_tokens']:.0f} tokens, where new text has {n['control_copied_share']:.0%}"
        )
    share = n["generalization_gap_share"]
    less = f"finds its training text {abs(share):.0%} {'more' if share < 0 else 'less'} surprising than new text"
    if found.low("generalization_gap_share") > HALF:
        evidence.append(less)
    if evidence:
        return True, True, f"Learned by heart: the model {', and '.join(evidence)}."
    loss, bigram = n["heldout_loss_nats_per_token"], n["bigram_heldout_loss_nats_per_token"]
    if loss >= bigram:
        return False, False, (
            f"The model has not learned enough to tell: its loss on new text, {loss:.2f} nats per token, does not beat "
            f"a bigram model's {bigram:.2f}."
        )  # fmt: skip
    headline = "Not learned by heart"
    if found.low("generalization_gap_share") > 0:
        headline += " word for word, but it knows its training text better than new text"
    return False, True, f"{headline}: the model continues {rates}, and {less}."
