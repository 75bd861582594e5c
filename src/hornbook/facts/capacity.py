"""How much text a model can hold, what repeating a text is worth, and what to expect: two published laws."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from hornbook.facts.units import format_count

BITS_PER_PARAMETER = 3.6  # what a GPT can memorize of random data (Morris et al. 2025, arXiv 2505.24832, abstract)
BITS_PER_BYTE = 2.0  # what prose costs a good small model: 8 / compression ratio of strong compressors
REPEATED = 1.2  # readings in one epoch from which on a text repeats itself; novels have 1.00
REPETITIONS = 15.387756  # R*_D (Muennighoff et al. 2023, arXiv 2305.16264, equation 5 and appendix A)
FREE_EPOCHS = 4.0  # up to so many, repeated tokens are worth nearly as much as new ones (same, abstract)


def effective_tokens(unique_tokens: float, epochs: float) -> float:
    """How many new tokens `epochs` over `unique_tokens` are worth: U + U R* (1 - exp(-(epochs - 1) / R*)).

    Below one epoch it is what was read. It never exceeds U (1 + R*), 16.4 times the text.

    >>> [round(effective_tokens(1.0, epochs), 2) for epochs in (0.5, 1, 2, 4, 8, 16, 40)]
    [0.5, 1.0, 1.97, 3.73, 6.62, 10.58, 15.17]
    """
    if epochs <= 1:
        return unique_tokens * epochs
    return unique_tokens * (1 - REPETITIONS * math.expm1(-(epochs - 1) / REPETITIONS))


_WORTH = ", ".join(f"{epochs} epochs {effective_tokens(1.0, epochs):.1f} times" for epochs in (4, 16))
REPETITION_SENTENCE = (
    f"Each further epoch teaches less: {_WORTH} as much as one, and any number of them at most "
    f"{1 + REPETITIONS:.1f} times (Muennighoff et al. 2023, arXiv 2305.16264)."
)


def capacity_bits(parameters: int) -> float:
    """What a model of so many parameters can memorize, in bits."""
    return BITS_PER_PARAMETER * parameters


@dataclass(frozen=True)
class MemorizationEstimate:
    """What to expect of training on a text; `fill` is the text's bits over the model's capacity.

    `by_heart_epochs` is None where the text does not fit; it is right within a factor of about 3. `effective_tokens`
    and `expect` are for the number of epochs given, or for as many as one likes.
    """

    data_bits: float
    capacity_bits: float
    effective_tokens: float
    by_heart_epochs: float | None
    expect: Literal["by heart", "in part", "not by heart"]
    sentence: str

    @property
    def fill(self) -> float:
        return self.data_bits / self.capacity_bits


def memorization_estimate(
    num_tokens: int, num_bytes: int, parameters: int, epochs: float | None = None, *, readings_per_epoch: float = 1.0
) -> MemorizationEstimate:
    """Will `parameters` memorize this text, and within how many epochs? In one epoch what the text has is read
    `readings_per_epoch` times: so much of it is repetition.

    A rule of thumb, ours: (1 + R*) / (1 - fill) epochs. After 1 + R* epochs a further one teaches a third of what new
    text would, so what still lowers the loss is memory, and a nearly full model takes longer. Epochs until the
    training loss was half of the validation loss: 6 for GPT-2 124M on 5 thousand tokens (Raschka 2024, chapter 5), and
    32 to 51 for models of 0.1M to 0.6M parameters on 5 to 20 kB (batches of 1,024 bytes, AdamW): longer where an epoch
    is few steps and the model small.

    >>> memorization_estimate(5145, 20479, 124_000_000).sentence
    '5,145 tokens against 124M parameters: this will be memorized within 5 to 50 epochs (a rough rule).'
    >>> memorization_estimate(10**9, 4 * 10**9, 124_000_000).expect
    'not by heart'
    """
    again = readings_per_epoch if readings_per_epoch >= REPEATED else 1.0
    data, capacity = BITS_PER_BYTE * num_bytes / again, capacity_bits(parameters)
    needed = (1 + REPETITIONS) / (1 - data / capacity) / again if data < capacity else None
    free, tokens = FREE_EPOCHS / again, num_tokens / again
    expect: Literal["by heart", "in part", "not by heart"] = "not by heart"
    if needed is not None and (epochs is None or epochs > free):
        expect = "by heart" if epochs is None or epochs >= needed else "in part"
    distinct = "" if again == 1 else f", {tokens:,.0f} without repetition,"
    sentence = f"{num_tokens:,} tokens{distinct} against {format_count(parameters)} parameters: "
    if needed is None:
        sentence += (
            f"the text has {data / capacity:.1f} times the bits that the model can store, so it cannot be "
            f"memorized, and up to {free:.2g} epochs teach nearly as much as new text would."
        )
    elif epochs is not None and expect != "by heart":
        part = "little memorization is expected" if expect == "not by heart" else "part of it will be memorized"
        sentence += f"with {round(epochs, 1):g} epochs {part} (all of it within {_roughly(needed)})."
    else:
        sentence += f"this will be memorized within {_roughly(needed)} epochs (a rough rule)."
    effective = effective_tokens(tokens, math.inf if epochs is None else epochs * again)
    return MemorizationEstimate(data, capacity, effective, needed, expect, sentence)


def _roughly(epochs: float) -> str:
    """A factor of 3 either way, each end with one digit."""
    ends = (float(f"{end:.1g}") for end in (epochs / 3, 3 * epochs))
    return " to ".join(f"{end:,.0f}" if end >= 1 else f"{end:g}" for end in ends)
