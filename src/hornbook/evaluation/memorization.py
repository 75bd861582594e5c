"""Has the model learned from the training text, or memorized it? Four measures, each beside a held-out control.

What is measured is a window of at most 100 tokens inside a document, evenly spread over the training and the validation
side (`evaluation/sides.py`). Training windows that begin like another place of the training text and go on differently
are left out (no one could continue both), and so are held-out windows that stand in the training text by half.

1. Extraction (Carlini et al. 2022): the share of windows that greedy decoding continues word for word, though they do
   not repeat themselves.
2. Copying: how much of freely generated text stands in the training text in longer spans than held-out text, or other
   places of the training text, ever have.
3. Generalization gap in bits per byte, beside that of models that have read neither side (`evaluation/reference.py`);
   memorized bits against capacity; whether the loss tells the sides apart (AUC).
4. Exposure of planted canaries (Carlini et al. 2019): `evaluation/exposure.py`.

Two texts of different kinds differ for every model. Where the n-gram models find that they do, the gap concludes
nothing. What may be called "memorized" is `facts/by_heart.py`; what is independent, `evaluation/differences.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from hornbook.data.shards import TokenStream
from hornbook.evaluation.copying import WORST, copying, place
from hornbook.evaluation.differences import Findings, Interval, Units, rate_difference
from hornbook.evaluation.exposure import exposure_table
from hornbook.evaluation.generalization import Generalization, generalization
from hornbook.evaluation.probe import byte_lengths
from hornbook.evaluation.sides import (
    LENGTHS,
    Windows,
    independent_units,
    longest_half,
    num_bytes,
    read_windows,
    without_ambiguous,
)
from hornbook.facts.by_heart import ByHeart, by_heart
from hornbook.facts.errors import InputError
from hornbook.model.decoder import Decoder
from hornbook.text.canaries import Canaries
from hornbook.text.tokenizer import Tokenizer


class Memorization(msgspec.Struct, frozen=True, kw_only=True):
    """What was found. `numbers` (None: not known) and `intervals` by name; tables as rows of JSON values.

    `by_heart` is the verdict's boolean, and `grounds` are what it rests on: extraction, copying, gap. When it is false
    and `learned_enough` too, it says nothing: the model does not beat a bigram model. `texts_differ`: the two sides are
    of different kinds, and the gap between them says nothing of the model.
    """

    verdict: str
    by_heart: bool
    grounds: list[str]
    learned_enough: bool
    texts_differ: bool
    knows_better: bool
    numbers: dict[str, float | None]
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
        first = ("verdict", "by_heart", "grounds", "learned_enough", "texts_differ", "knows_better")
        return {**{key: fields.pop(key) for key in first}, **pairs, **fields}


def memorization(
    model: Decoder, train: TokenStream, validation: TokenStream, tokenizer: Tokenizer, *,
    canaries: Canaries | None = None,
    reference: Decoder | None = None, readings: float | None = None, repeated_share: float = 0.0,
    num_windows: int = 256, num_samples: int = 64, sample_tokens: int = 256, num_candidates: int = 10_000,
    seed: int = 0,
) -> Memorization:  # fmt: skip
    """Measure what `model` has memorized of `train`, against `validation`, which it must not have seen.

    `reference` is a model trained alike that has read neither text; without one, n-gram models are the reference.
    `readings` is how often a passage of `train` was read (`facts.by_heart.readings`; None: not known), `repeated_share`
    how much of it had occurred in it before. `seed` draws the free samples. Same arguments, same result; no other
    random state is touched. Raises InputError when a side's documents are too short for windows of 4 tokens.
    """
    longest = longest_half(model, train, validation)
    lengths = sorted({min(length, longest) for length in LENGTHS})
    trained, held_out = (read_windows(model, part, num_windows, 2 * longest) for part in (train, validation))
    spelled = byte_lengths(tokenizer)
    per_token = float(spelled[held_out.tokens].mean())
    trained, held_out = without_ambiguous(train, trained, held_out, longest, per_token)
    if not len(trained.tokens) or not len(held_out.tokens):
        raise InputError("every held-out passage also stands in the training text: name another text with --heldout.")
    units = independent_units(
        train, validation, trained, held_out, (num_bytes(train, spelled), num_bytes(validation, spelled))
    )
    gap = generalization(
        model, train, validation, trained, held_out, units, spelled, reference=reference, repeated_share=repeated_share
    )
    findings = gap.findings
    extraction, discoverable = _extraction(findings, units, trained, held_out, lengths)
    copies = copying(
        model, train, validation, tokenizer, num_samples=num_samples, sample_tokens=sample_tokens,
        generator=np.random.default_rng(seed),
    )  # fmt: skip
    findings.numbers |= copies.findings.numbers
    findings.intervals |= copies.findings.intervals
    table: list[dict[str, Any]] = []
    if canaries is not None:
        table, correlation = exposure_table(model, tokenizer, canaries, num_candidates=num_candidates, seed=seed)
        findings.add("canary_rank_correlation", correlation)
    copied = findings.low("copied_share") - (findings.numbers["control_copied_share"] or 0.0)
    ruling = by_heart(
        train_loss=float(trained.nats.mean()), new_loss=gap.new_loss, readings=readings, share_low=gap.share_low or 0.0,
        texts_differ=gap.texts_differ, extraction_low=findings.low("excess_extraction_rate"),
        copying_low=min(findings.low("excess_copied_share"), copied),
    )  # fmt: skip
    return Memorization(
        verdict=verdict(findings.numbers, gap, ruling), by_heart=ruling.holds, grounds=[*ruling.grounds],
        learned_enough=ruling.holds or gap.learned_enough, texts_differ=gap.texts_differ,
        knows_better=not ruling.holds and gap.knows_better and gap.learned_enough, numbers=findings.numbers,
        intervals=findings.intervals, extraction=extraction, discoverable=discoverable, copying=copies.rows,
        canaries=table, passages=_worst(train, trained, tokenizer, longest), copies=copies.longest,
        conventions={
            "window_tokens": 2 * longest, "train_windows": len(trained.tokens), "heldout_windows": len(held_out.tokens),
            "samples": num_samples, "sample_tokens": min(sample_tokens, model.shape.context), "seed": seed,
            "independent": units.unit, "num_independent": units.count, "readings": readings,
            "reference": "n-gram models" if reference is None else "a model", "memorized_bits_against": gap.against,
        },
    )  # fmt: skip


# ---- The measures


def _extraction(
    findings: Findings, units: Units, trained: Windows, held_out: Windows, lengths: Sequence[int]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The tables, the rates of the longest prefix and suffix among the findings. A window that repeats itself counts
    as not continued: whoever continues it need not have read it."""
    rows: list[dict[str, Any]] = []
    sides = trained, held_out
    for prefix in lengths:
        matched = [side.matched(prefix) for side in sides]
        new = [~side.repeats(prefix, tokens >= lengths[0]) for side, tokens in zip(sides, matched, strict=True)]
        for suffix in lengths:
            right = [(tokens >= suffix) & once for tokens, once in zip(matched, new, strict=True)]
            low, high = rate_difference(units, right[0], right[1])
            rows.append({
                "prefix_tokens": prefix, "suffix_tokens": suffix, "extraction_rate": float(right[0].mean()),
                "control_extraction_rate": float(right[1].mean()), "excess_extraction_rate_interval_95": [low, high],
                "matched_tokens": float(np.minimum(matched[0], suffix).mean()),
                "control_matched_tokens": float(np.minimum(matched[1], suffix).mean()),
            })  # fmt: skip
    last = rows[-1]
    findings.add("extraction_rate", last["extraction_rate"])
    findings.add("control_extraction_rate", last["control_extraction_rate"])
    excess = last["extraction_rate"] - last["control_extraction_rate"]
    findings.add("excess_extraction_rate", excess, tuple(last["excess_extraction_rate_interval_95"]))
    discoverable = []
    for samples in (1, 100, 10_000):  # (n, p)-discoverable (Hayes et al. 2024), p one half, temperature 1
        needed = -math.log1p(-(0.5 ** (1 / samples)))  # nats of a suffix that n samples contain with probability 1/2
        shares = [float((side.nats[:, lengths[-1] - 1 :].sum(1) <= needed).mean()) for side in sides]
        discoverable.append({"samples": samples, "probability": 0.5, "share": shares[0], "control_share": shares[1]})
    return rows, discoverable


# ---- What a person sees


def _worst(train: TokenStream, trained: Windows, tokenizer: Tokenizer, prefix: int) -> list[dict[str, Any]]:
    matched, nats, lengths = trained.matched(prefix), trained.nats[:, prefix - 1 :].sum(1), byte_lengths(tokenizer)
    return [
        {"matched_tokens": int(matched[i]), "suffix_nats": float(nats[i]),
         "prompt": tokenizer.decode(trained.tokens[i, :prefix]),
         "matched_text": tokenizer.decode(trained.tokens[i, prefix : prefix + matched[i]]),
         **place(train, tokenizer, lengths, int(trained.positions[i]) + prefix, trained.tokens.shape[1] - prefix)}
        for i in np.lexsort((nats, -matched))[:WORST].tolist()
    ]  # fmt: skip


def verdict(numbers: dict[str, float | None], gap: Generalization, ruling: ByHeart) -> str:
    """The sentence. `ruling` is what the rule says of these findings."""
    n = {name: number if number is not None else math.nan for name, number in numbers.items()}
    rates = f"{n['extraction_rate']:.0%} of its training passages word for word"
    rates += f" ({n['control_extraction_rate']:.0%} of held-out ones)"
    share = n["generalization_gap_share"]
    less = f"is {abs(share):.0%} {'more' if share < 0 else 'less'} surprised by its training text than by new text"
    if ruling.holds:
        grounds = {
            "extraction": f"continues {rates}",
            "copying": f"copies {n['copied_share']:.0%} of its samples from the training text in spans of at least "
            f"{n['copied_span_threshold_tokens']:.0f} tokens (new text: {n['control_copied_share']:.0%})",
            "gap": less,
        }
        return f"Memorized: the model {', and '.join(grounds[name] for name in ruling.grounds)}."
    if gap.texts_differ:
        return (
            f"No sign of memorization: the model continues {rates}. It {less}, but the two texts differ in kind "
            f"(n-gram models that have seen neither tell {n['text_kind_auc']:.0%} of their passages apart), so "
            "nothing follows from that."
        )
    loss, bigram = n["heldout_loss_nats_per_token"], n["bigram_heldout_loss_nats_per_token"]
    if not gap.learned_enough:
        return (
            f"The model has not learned enough to tell: its loss on new text, {loss:.2f} nats per token, does not beat "
            f"a bigram model's {bigram:.2f}."
        )
    headline = "Not memorized"
    if gap.knows_better:
        headline += " word for word, but the training text is known better than new text"
    elif share > 0:
        less += ", which could be chance" if gap.share_low is not None else ", on too little text to rule out chance"
    return f"{headline}: the model continues {rates}, and {less}."
