"""Guide rails: does this run's curve look like that of a healthy run? Named faults, as sentences.

Everything is read from what a run records. Each rule waits until it can be sure: a healthy run must be left in peace.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from hornbook.facts.shape import GPTShape
from hornbook.planning.budget import Range
from hornbook.planning.forecast import leaves_band
from hornbook.planning.sanity import FAR, rate_rule

LEAKED = 0.1  # share of the validation text from which on its loss is that of text known by heart
COPIED = 0.15  # share of the unigram level below which no model of unseen text gets: it sees the answers
PATIENCE = 200  # steps before a standstill means anything
STANDSTILL = 0.015  # share of the unigram level by which a quarter of a run improves at least
ALL_BYTES = 300  # ids: so many spell single bytes or characters, and have no longer tokens
FEW_BYTES = 1.5  # a token: the tokenizer hardly knows the text
LOST = 10  # updates in a row without a finite gradient: the weights are lost
RECENT = 50  # losses that the next is held against
HIGH = 2.5  # times the rule: high enough to need a warm-up


class Course(msgspec.Struct, frozen=True, kw_only=True):
    """What a run has recorded so far. Losses in nats per token; what is unknown is None and not judged."""

    shape: GPTShape
    train_losses: Sequence[float]  # of the steps 1, 2, ...
    gradient_norms: Sequence[float] = ()  # of the same steps, before clipping
    validation_tokens: Sequence[float] = ()  # trained on when each evaluation was made
    validation_losses: Sequence[float] = ()
    unigram_nats: float | None = None  # loss of a model that knows only how frequent each token is
    bigram_nats: float | None = None  # of one that also knows which token stands before, on text it has not counted
    epochs: float | None = None  # how often the training text has been read
    learning_rates: Mapping[str, float] = msgspec.field(default_factory=dict)  # peaks by kind: `sanity.rate_rule`
    warmup_steps: int | None = None
    leaked_share: float = 0.0  # of the validation text that stands in the training text too
    fresh: bool = True  # False: started from given weights
    own_tokenizer: bool = False  # the given weights are of a run, which keeps the tokenizer it was trained with
    bytes_per_token: float | None = None  # of the training text
    movement: Mapping[str, float] = msgspec.field(default_factory=dict)  # by weight: change since step 0, relative


def start_range(shape: GPTShape) -> Range | None:
    """The first loss of a fresh model, by its initialisation; None where nothing simple holds.

    An untied head that starts at zero says ln V exactly. GPT-2's N(0, 0.02) gives logits of variance width x 0.02^2,
    and log-sum-exp of a normal adds half its variance; a tied head favours the token that was just read, up to as much
    again and a little.

    >>> r = start_range(GPTShape(family="qwen3", layers=2, width=64, heads=2, context=64, vocabulary=65))
    >>> f"{r.low:.2f} {r.central:.2f} {r.high:.2f}"
    '4.12 4.17 4.22'
    """
    level = math.log(shape.vocabulary)
    if shape.family != "gpt2":
        if shape.tied:
            return None
        return Range(level - 0.05, level, level + 0.05, "ln V: the head starts at zero")
    half_variance = shape.width * 0.02**2 / 2
    return Range(level - 0.1, level + half_variance, level + 2 * half_variance + 0.5, "ln V and GPT-2's first weights")


def unigram_nats(counts: Sequence[int]) -> float:
    """Entropy of the token frequencies: what one reaches by knowing them and nothing else.

    >>> round(unigram_nats([1, 1, 2]) / math.log(2), 9)
    1.5
    """
    p = np.asarray(counts, dtype=np.float64)
    p = p[p > 0] / p.sum()
    return float(-(p * np.log(p)).sum())


def faults(course: Course) -> dict[str, str]:
    """What is wrong with this run, by name, each as a sentence; empty for a healthy one."""
    found = {name: rule(course) for name, rule in RULES.items()}
    said = {name: sentence for name, sentence in found.items() if sentence is not None}
    if not said and (outside := leaves_band(course.validation_tokens, course.validation_losses)) is not None:
        said["left its forecast"] = outside
    return said


def _highest(course: Course) -> tuple[float, str]:
    """The learning rate that is highest in units of its rule, and its name; (0, "") where none is known."""
    width, rates = course.shape.width, course.learning_rates
    ratios = [(rate / rate_rule(kind, width), f"{rate:g} for {kind}") for kind, rate in rates.items()]
    return max(ratios, default=(0.0, ""))


def _start(c: Course) -> str | None:
    if not c.train_losses:
        return None
    first, level = c.train_losses[0], math.log(c.shape.vocabulary)
    if not c.fresh:
        if first <= level + 0.5:
            return None
        few = c.bytes_per_token is not None and c.bytes_per_token < FEW_BYTES and c.shape.vocabulary > ALL_BYTES
        return (
            f"the given weights start at {first:.2f} nats per token, worse than knowing nothing (ln V = {level:.2f}): "
            "the text is unlike what they were trained on"
            + (f", and their tokenizer spells only {c.bytes_per_token:.2f} bytes of it with a token" if few else "")
            + ("." if c.own_tokenizer else "; or the tokenizer beside them is not the one they were trained with.")
        )
    expected = start_range(c.shape)
    if expected is None or expected.contains(first):
        return None
    return (
        f"the first loss is {first:.2f} nats per token, where a fresh model starts between {expected.low:.2f} and "
        f"{expected.high:.2f}: the initial weights, the head or the targets are not what they should be."
    )


def _too_low(c: Course) -> str | None:
    if not c.validation_losses or c.unigram_nats is None or not c.fresh or len(c.train_losses) < 10:
        return None
    if max(c.validation_losses[-1], c.train_losses[-1]) > COPIED * c.unigram_nats:
        return None
    return f"the validation loss is {c.validation_losses[-1]:.2f} nats per token, lower than any model of unseen text:"


def _targets(c: Course) -> str | None:
    low = _too_low(c)
    if low is None or c.leaked_share >= LEAKED:
        return None
    return (
        f"{low} the targets are not shifted by one, so that the model sees the answer (or the validation text was "
        "trained on)."
    )


def _leaked(c: Course) -> str | None:
    low = _too_low(c)
    if low is None or c.leaked_share < LEAKED:
        return None
    return f"{low} {c.leaked_share:.0%} of the validation text stands in the training text too, so it was seen."


def _tokenizer(c: Course) -> str | None:
    """Only within the first epoch: later a validation loss may rise because the text is being learned by heart."""
    if len(c.validation_losses) < 2 or c.epochs is None or c.epochs > 1 or len(c.train_losses) < 20:
        return None
    train, level = float(np.median(c.train_losses[-10:])), math.log(c.shape.vocabulary)
    if min(c.validation_losses[-2:]) < level + 0.1 or train > level - 0.5:
        return None
    return (
        f"the validation loss of {c.validation_losses[-1]:.2f} nats per token is above ln V = {level:.2f} while the "
        f"training loss is {train:.2f}, within the first epoch: the validation text is unlike the training text, as of "
        "another language or another tokenizer."
    )


def _only_frequencies(c: Course) -> str | None:
    """Three quarters of the steps so far, after the fall from ln V, in which nothing is learned beyond frequencies.

    A slow start (warm-up, a small learning rate, GPT-2's small first weights) looks the same as targets that do not
    belong to the inputs, and as a text in which a token says nothing of the next: only the last can be told apart.
    """
    steps = len(c.train_losses)
    if c.unigram_nats is None or steps < max(PATIENCE, 4 * (c.warmup_steps or 0)) or _highest(c)[0] > FAR:
        return None
    quarters = [float(np.median(part)) for part in np.array_split(np.asarray(c.train_losses), 4)[1:]]
    stands = quarters[0] - quarters[2] < STANDSTILL * c.unigram_nats
    at_unigram = all(abs(q - c.unigram_nats) < 0.05 * c.unigram_nats for q in quarters)
    if not (stands and at_unigram and quarters[2] > (1 - STANDSTILL) * c.unigram_nats):
        return None
    stood = (
        f"the loss has stood at {quarters[2]:.2f} nats per token, the level of the token frequencies "
        f"({c.unigram_nats:.2f}), for most of {steps:,} steps: "
    )
    if c.bigram_nats is not None and c.bigram_nats > (1 - STANDSTILL) * c.unigram_nats:
        pairs = f"counts of token pairs do no better on text they have not counted ({c.bigram_nats:.2f})"
        return f"{stood}{pairs}, so there may be little else to learn."
    return (
        f"{stood}nothing else has been learned yet. A slow start looks like this (a low learning rate, a long "
        "warm-up), and so do targets that do not belong to the inputs."
    )


def _rate(c: Course) -> str | None:
    ratio, rate = _highest(c)
    if ratio <= FAR:
        return None
    return (
        f"the learning rate {rate} is {ratio:,.0f} times the rule at width {c.shape.width}"
        f"{' and there is no warm-up' if c.warmup_steps == 0 else ''}: lower it."
    )


def _warmup(c: Course) -> str | None:
    ratio, rate = _highest(c)
    if c.warmup_steps != 0:
        return None
    if not HIGH < ratio <= FAR or not c.fresh:
        return _early_rise(c)
    return (
        f"there is no warm-up and the learning rate {rate} is {ratio:.1f} times the rule at width {c.shape.width}: "
        "warm up for a hundred steps, or lower it."
    )


def _early_rise(c: Course) -> str | None:
    """Without warm-up, a loss that jumps in the first steps."""
    early = [loss for loss in c.train_losses[:30] if math.isfinite(loss)]
    if len(early) < 10 or max(early) < early[0] + 0.5:
        return None
    return (
        f"the loss rose from {early[0]:.2f} to {max(early):.2f} nats per token in the first steps, and there is no "
        "warm-up: warm up for a hundred steps, or lower the learning rate."
    )


def _diverged(c: Course) -> str | None:
    losses = np.asarray(c.train_losses, dtype=np.float64)
    losses = losses[np.isfinite(losses)]  # the others were skipped, and said
    if len(losses) < 40:
        return None
    smooth = [float(np.nanmedian(part)) for part in np.array_split(losses, len(losses) // 10)]
    best = min(smooth)
    if min(smooth[-2:]) < best + 1.0:
        return None
    return (
        f"the training loss has risen from {best:.2f} to {smooth[-1]:.2f} nats per token: the run diverges, lower the "
        "learning rate."
    )


def _frozen(c: Course) -> str | None:
    """A weight that has not moved at all while others have, once every layer has had its turn."""
    if len(c.train_losses) < 20:
        return None
    still = sorted(name for name, moved in c.movement.items() if moved == 0.0)
    if not still or len(still) == len(c.movement):
        return None
    named = ", ".join(still[:3]) + (f" and {len(still) - 3} more" if len(still) > 3 else "")
    return f"{named} have not changed since the start while other weights have: a layer is frozen."


RULES = {
    "first loss": _start, "targets not shifted": _targets, "validation text seen": _leaked,
    "unlike validation text": _tokenizer, "only token frequencies": _only_frequencies,
    "learning rate": _rate, "no warm-up": _warmup, "diverges": _diverged, "frozen layer": _frozen,
}  # fmt: skip


def leap(train_losses: Sequence[float]) -> str | None:
    """The last loss, where it is more than 20 median absolute deviations, and 1 nat, above the median of those before.

    >>> leap([3.0, 3.1] * 20 + [5.0])
    'the loss leapt from about 3.05 to 5.00'
    >>> leap([3.0, 3.1] * 20 + [3.2])
    """
    *before, loss = [x for x in train_losses[-2 * RECENT :] if math.isfinite(x)][-RECENT - 1 :] or [math.nan]
    if len(before) < 20 or not math.isfinite(train_losses[-1]):
        return None
    middle = statistics.median(before)
    deviation = statistics.median(abs(value - middle) for value in before)
    if loss > middle + max(1.0, 20 * deviation):
        return f"the loss leapt from about {middle:.2f} to {loss:.2f}"
    return None


def skipped(gradient_norms: Sequence[float]) -> int:
    """How many of the last updates had no finite gradient and were skipped, in a row.

    >>> skipped([1.0, math.nan, 2.0, math.nan, math.nan])
    2
    """
    return next((n for n, norm in enumerate(reversed(gradient_norms)) if math.isfinite(norm)), len(gradient_norms))
