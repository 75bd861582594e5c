"""What is known to go wrong with a recipe, said before it is run."""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

from hornbook.facts.capacity import effective_tokens, memorization_estimate
from hornbook.facts.shape import GPTShape
from hornbook.facts.units import counted, format_bytes

OCCURRENCES = 20  # an id seen less often on average is hardly learned
FAR = 8.0  # a learning rate this many times off its rule is not a matter of taste
MUON_RATE = 0.02  # does not depend on the width: updates have a fixed size (Jordan et al. 2024)
BESIDE_MUON_RATE = 0.01  # of tables, head and norms at width 128, falling with the root of the width


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a run before it starts. What is unknown is None and not judged."""

    shape: GPTShape
    batch_tokens: int  # tokens of one step
    steps: int
    warmup_steps: int = 0
    evaluate_every: int | None = None  # steps; None: only at the end, which always happens
    optimizer: str = "adamw"
    precision: str | None = None
    threads: int | None = None  # of a CPU
    is_scored: bool = False  # there is a validation text: a copy of the best weights is held
    may_decide: bool = False  # and with them the optimizer's state, since the run may go back
    learning_rates: Mapping[str, float] = msgspec.field(default_factory=dict)  # peaks by kind, see `rate_rule`
    train_tokens: int | None = None  # of one epoch
    train_bytes: int | None = None
    readings_per_epoch: float = 1.0  # of what the text has, where it repeats itself
    median_document_tokens: float | None = None
    needed_bytes: int | None = None  # on each device
    available_bytes: int | None = None


def rate_rule(kind: str, width: int) -> float:
    """The usual peak learning rate of "adamw" (1.5e-3 at width 768, falling as 1 / width, Yang et al. 2022,
    arXiv:2203.03466, at most 3e-3), of "muon" matrices (0.02) and of what AdamW moves "beside muon".

    >>> [f"{rate_rule('adamw', width):.2g}" for width in (128, 768, 4096)], rate_rule("muon", 128)
    (['0.003', '0.0015', '0.00028'], 0.02)
    """
    if kind == "muon":
        return MUON_RATE
    if kind == "beside muon":
        return BESIDE_MUON_RATE * min(1.0, math.sqrt(128 / width))
    return min(3e-3, 1.5e-3 * 768 / width)


def sanity(recipe: Recipe) -> list[str]:
    """Sentences about what will go wrong; empty when nothing is known to."""
    return [*_length(recipe), *_text(recipe), *_heart(recipe), *_rate(recipe), *_fit(recipe)]


def epochs(recipe: Recipe) -> float | None:
    """How often each training token will be a target."""
    return recipe.steps * recipe.batch_tokens / recipe.train_tokens if recipe.train_tokens else None


def _length(r: Recipe) -> list[str]:
    said = []
    if r.warmup_steps >= r.steps:
        said.append(f"the run is all warm-up: {counted(r.warmup_steps, 'warm-up step')} of {r.steps:,}; give it fewer.")
    elif r.warmup_steps > r.steps / 2:
        said.append(f"most of the run is warm-up: {counted(r.warmup_steps, 'step')} of {r.steps:,}; give it fewer.")
    if r.evaluate_every is not None and r.evaluate_every > r.steps:
        said.append(
            f"validation never fires while training: it comes every {r.evaluate_every:,} steps and the run has "
            f"{r.steps:,}; evaluate more often."
        )
    if r.train_tokens is not None and r.train_tokens < r.batch_tokens:
        said.append(
            f"the text has fewer tokens than one batch ({r.train_tokens:,} of {r.batch_tokens:,}): every step sees all "
            "of it more than once; make the batch smaller."
        )
    return said


def _text(r: Recipe) -> list[str]:
    said = []
    if r.median_document_tokens is not None and r.median_document_tokens < r.shape.context:
        said.append(
            f"the context of {r.shape.context:,} tokens is longer than most documents (median "
            f"{r.median_document_tokens:,.0f}): much of a window is other documents; a shorter one learns as much."
        )
    if r.train_tokens is not None and r.train_tokens < OCCURRENCES * r.shape.vocabulary:
        said.append(
            f"the vocabulary of {r.shape.vocabulary:,} is too large for this text: {r.train_tokens:,} tokens show an "
            f"id {r.train_tokens / r.shape.vocabulary:.1f} times on average; take a smaller one."
        )
    return said


def _heart(r: Recipe) -> list[str]:
    """Capacity against content, where the text is repeated often enough for it to matter."""
    passes = epochs(r)
    if passes is None or r.train_tokens is None:
        return []
    said = []
    if r.train_bytes is not None:
        found = memorization_estimate(
            r.train_tokens, r.train_bytes, r.shape.parameters, passes, readings_per_epoch=r.readings_per_epoch
        )
        if found.expect != "not by heart":
            said.append(f"{found.sentence[:-1]}; take a smaller model, more text or fewer epochs.")
    if passes > 16:
        worth = effective_tokens(1.0, passes)
        said.append(
            f"{passes:,.0f} epochs are worth about {worth:.0f} epochs of fresh text (Muennighoff et al. 2023): "
            "fewer would do."
        )
    return said


def _rate(r: Recipe) -> list[str]:
    said = []
    for kind, rate in r.learning_rates.items():
        rule = rate_rule(kind, r.shape.width)
        if not rule / FAR <= rate <= rule * FAR:
            side, ratio = ("above", rate / rule) if rate > rule else ("below", rule / rate)
            said.append(
                f"the learning rate {rate:g} is {ratio:,.0f} times {side} the rule for {kind} at width "
                f"{r.shape.width} ({rule:.2g})."
            )
    return said


def _fit(r: Recipe) -> list[str]:
    if r.needed_bytes is None or r.available_bytes is None or r.needed_bytes <= r.available_bytes:
        return []
    return [
        f"the run does not fit: it needs {format_bytes(r.needed_bytes)} on each device and there are "
        f"{format_bytes(r.available_bytes)}; take a smaller microbatch, checkpointing or a smaller model."
    ]
