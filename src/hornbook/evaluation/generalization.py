"""The gap between the training side and the held-out side, beside that of models which have read neither.

Two texts of different kinds differ for every model, whatever it has read. So the gap is set against a reference: n-gram
models that have read neither the window scored nor its surroundings (`evaluation/reference.py`), or a model trained
alike that has read neither text. Where the n-gram models of the two sides can tell which side a passage is from, the
texts differ in kind, and the gap concludes nothing.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hornbook.data.shards import NUM_TOKENS, TokenStream
from hornbook.evaluation.baselines import baseline_nats, count_ngrams, training_stream
from hornbook.evaluation.differences import (
    Findings,
    Floats,
    Interval,
    Units,
    area_interval,
    auc,
    placements,
    ratio_difference,
)
from hornbook.evaluation.reference import LeftOut, leave_out
from hornbook.evaluation.sides import Windows, num_bytes, window_scores
from hornbook.facts.capacity import capacity_bits
from hornbook.model.decoder import Decoder

DIFFERENT = 0.87  # of pairs told apart: of parts of one text 0.37 to 0.84 were, of two texts 0.94 to 1
ALIKE = 1.1  # a reference model that is more surprised by new text than that many times the model is not trained alike
_BITS = 1 / math.log(2)


class Generalization(NamedTuple):
    """findings: the numbers. share_low: the lower end of the share of the surprise at new text that is gone on the
    training text, beyond the reference; None where there is no interval. against: whose surprise at new text memorized
    bits are counted from."""

    findings: Findings
    texts_differ: bool
    learned_enough: bool
    knows_better: bool
    share_low: float | None
    new_loss: float
    against: str


class _Sides(NamedTuple):
    """Both sides' windows, and the bytes of the tokens that are scored, (R,) and (S,)."""

    units: Units
    trained: Windows
    held_out: Windows
    train_bytes: Floats
    heldout_bytes: Floats

    def difference(self, train_nats: Floats, heldout_nats: Floats) -> tuple[float, Interval | None]:
        """Held-out minus training side in bits per byte, from the nats of each window, and its interval."""
        sides = (train_nats * _BITS, self.train_bytes), (heldout_nats * _BITS, self.heldout_bytes)
        value, estimate = ratio_difference(self.units, *sides)
        return value, None if estimate is None else estimate.interval


def generalization(
    model: Decoder, train: TokenStream, validation: TokenStream, trained: Windows, held_out: Windows, units: Units,
    lengths: NDArray[np.int32], *, reference: Decoder | None = None, repeated_share: float = 0.0,
) -> Generalization:  # fmt: skip
    """Measure the gap and what follows from it; `lengths` (vocabulary,) are the bytes that each id spells."""
    vocabulary = model.shape.vocabulary
    train_bytes, heldout_bytes = (lengths[side.tokens[:, 1:]].sum(1).astype(float) for side in (trained, held_out))
    sides = _Sides(units, trained, held_out, train_bytes, heldout_bytes)
    nats = trained.nats.sum(1), held_out.nats.sum(1)
    left_out = _left_out(train, validation, trained, held_out, vocabulary)
    counting = baseline_nats(count_ngrams(training_stream(train), vocabulary), held_out.tokens, vocabulary)
    findings, heldout_loss, bigram_loss = Findings(), float(held_out.nats.mean()), float(counting["2-gram"].mean())
    findings.add("train_loss_nats_per_token", float(trained.nats.mean()))
    findings.add("heldout_loss_nats_per_token", heldout_loss)
    findings.add("bigram_heldout_loss_nats_per_token", bigram_loss)
    per_byte = float(nats[1].sum() / heldout_bytes.sum()) * _BITS
    value, interval = sides.difference(*nats)
    findings.add("generalization_gap_bits_per_byte", value, interval)
    findings.add("generalization_gap_share", value, interval, 1 / per_byte)
    differ, area = _kind(left_out)
    findings.add("text_kind_auc", area)
    known = _reference(sides, reference, left_out, nats)
    beyond = (value, None) if known is None else sides.difference(nats[0] - known[0], nats[1] - known[1])
    findings.add("excess_gap_bits_per_byte", *beyond)
    against, least = _least(counting, held_out)
    memory, interval, share_low = _memory(sides, nats, known, least)
    capacity = capacity_bits(sum(parameter.numel() for parameter in model.parameters()))
    findings.add("capacity_bits", capacity)
    findings.add("memorized_bits", None)
    if not differ and known is not None:
        distinct = num_bytes(train, lengths) * (1 - repeated_share)
        bits, low, high = (min(max(0.0, x * distinct), capacity) for x in (memory, *(interval or (0.0, 0.0))))
        findings.add("memorized_bits", bits, (low, high) if interval else None)
    findings.add("membership_auc", *auc(units, -trained.nats.mean(1), -held_out.nats.mean(1)))
    findings.add("membership_auc_min_20", *auc(units, -_lowest(trained.nats), -_lowest(held_out.nats)))
    gaps = [findings.low(f"{name}_gap_bits_per_byte") for name in ("generalization", "excess")]
    enough = heldout_loss < bigram_loss
    if differ and left_out[0] is not None and len(left_out[0].own) > 1:
        enough = enough or nats[0].sum() < left_out[0].own[1].sum()
    return Generalization(
        findings, differ, bool(enough), known is not None and not differ and min(gaps) > 0, share_low,
        float(least.mean()), against,
    )  # fmt: skip


def _least(counting: dict[str, Floats], held_out: Windows) -> tuple[str, Floats]:
    """The least surprise at new text that is known, the model's own or an n-gram baseline's, and whose it is: what is
    memorized is counted from it, since being wrongly sure of new text is no memory."""
    name = min(counting, key=lambda name: counting[name].mean())
    return (name, counting[name]) if counting[name].mean() < held_out.nats.mean() else ("the model", held_out.nats)


def _memory(
    sides: _Sides, nats: tuple[Floats, Floats], known: tuple[Floats, Floats] | None, least: Floats
) -> tuple[float, Interval | None, float | None]:
    """Bits per byte of what is memorized, its interval, and the lower end of its share of the surprise at new
    text: with the reference's gap taken off or without, whichever is less."""
    gaps = [sides.difference(nats[0], least.sum(1))]
    if known is not None:
        gaps.append(sides.difference(nats[0] - known[0], least.sum(1) - known[1]))
    lows = [interval[0] for _, interval in gaps if interval is not None]
    per_byte = float(least.sum() * _BITS / sides.heldout_bytes.sum())
    value, interval = min(gaps, key=lambda gap: gap[0])
    return value, interval, min(lows) / per_byte if lows and known is not None else None


def _lowest(nats: Floats) -> Floats:
    """Min-20 % (Shi et al. 2023): the mean of each window's most surprising fifth, (R,)."""
    worst = -np.sort(-nats, axis=1)[:, : max(1, nats.shape[1] // 5)]
    mean: Floats = worst.mean(1)
    return mean


def _left_out(
    train: TokenStream, validation: TokenStream, trained: Windows, held_out: Windows, vocabulary: int
) -> tuple[LeftOut | None, LeftOut | None]:
    """N-gram models of the training side, and of the held-out side, each with the stretch around a window left out: as
    much of it as one held-out document is long, for most of the held-out text."""
    sizes = np.sort(validation.documents[:, NUM_TOKENS])
    stretch = int(sizes[np.searchsorted(np.cumsum(sizes), sizes.sum() / 2)])
    return (
        leave_out(train, trained.positions, trained.tokens, held_out.tokens, vocabulary, stretch),
        leave_out(validation, held_out.positions, held_out.tokens, trained.tokens, vocabulary, stretch),
    )


def _kind(left_out: tuple[LeftOut | None, LeftOut | None]) -> tuple[bool, float | None]:
    """Do the two texts differ in kind? And how often n-gram models of the two sides, neither of which has read what it
    scores, find a training passage more like the training text than a held-out passage is (None: too little text)."""
    by_train, by_heldout = (None if counted is None else counted.best() for counted in left_out)
    if by_train is None:
        return False, None
    like = -by_train[0], -by_train[1]
    if by_heldout is not None:
        like = like[0] + by_heldout[1], like[1] + by_heldout[0]
    area = float(placements(*like)[0].mean())
    return area > DIFFERENT and area_interval(area, len(like[0]), len(like[1]))[0] > 0.5, area


def _reference(
    sides: _Sides, model: Decoder | None, left_out: tuple[LeftOut | None, LeftOut | None], nats: tuple[Floats, Floats]
) -> tuple[Floats, Floats] | None:
    """The nats of each window by the reference, which has read neither; None where there is none that is fit."""
    if model is not None:
        known = tuple(window_scores(model, side.tokens)[0].sum(1) for side in (sides.trained, sides.held_out))
        return (known[0], known[1]) if known[1].sum() <= ALIKE * nats[1].sum() else None
    return None if left_out[0] is None else left_out[0].best()
