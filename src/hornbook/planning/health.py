"""Health checks: what is known to go wrong with a run, before it starts (`warnings`) and from its curve (`issues`).

Pure functions of what is known and recorded. Each check waits until it can be sure: a healthy run is left alone.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from hornbook.facts.capacity import effective_tokens, memorization_estimate
from hornbook.facts.settings import Settings
from hornbook.facts.shape import GPTShape
from hornbook.facts.text_warnings import MOSTLY_LEAKED
from hornbook.facts.units import counted, format_bytes
from hornbook.planning.workload import TextEstimate, learning_rates, usual_learning_rate

OCCURRENCES = 20  # an id seen less often on average is hardly learned
FAR, HIGH = 8.0, 2.5  # times the usual learning rate: a mistake, and high enough to need a warm-up
COPIED = 0.15  # share of the unigram entropy below which no model of unseen text gets
PATIENCE = 200  # steps before a standstill means anything
STANDSTILL = 0.015  # share of the unigram entropy by which a quarter of a run improves at least
ALL_BYTES = 300  # ids: so many spell single bytes or characters, and have no longer tokens
FEW_BYTES = 1.5  # a token: the tokenizer hardly knows the text
DIVERGED_STEPS = 10  # in a row without a finite gradient: the weights are lost
AGAINST = "a smaller model, more text or fewer epochs prevent"  # memorizing, where the length was given
RECENT = 50  # losses that the next is compared with


class RunFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a run before it starts. What is unknown is None and not judged."""

    shape: GPTShape
    batch_tokens: int  # tokens of one step
    steps: int
    warmup_steps: int = 0
    evaluate_every: int | None = None  # steps; None: only at the end, which always happens
    optimizer: str = "adamw"
    precision: str | None = None
    threads: int | None = None  # of a CPU
    processes: int = 1  # that train together
    accumulating: bool = False  # gradients of several microbatches in each
    dropout: bool = False
    is_scored: bool = False  # there is a validation text: a copy of the best weights is held
    may_decide: bool = False  # and with them the optimizer's state, since the run may go back
    learning_rates: Mapping[str, float] = msgspec.field(default_factory=dict)  # peaks, see `usual_learning_rate`
    train_tokens: int | None = None  # of one epoch
    train_bytes: int | None = None
    readings_per_epoch: float = 1.0  # of what the text has, where it repeats itself
    median_document_tokens: float | None = None
    needed_bytes: int | None = None  # on each device
    available_bytes: int | None = None


class History(msgspec.Struct, frozen=True, kw_only=True):
    """What a run has recorded so far. Losses in nats per token; what is unknown is None and not judged."""

    shape: GPTShape
    train_losses: Sequence[float]  # of the steps 1, 2, ...
    validation_tokens: Sequence[float] = ()  # trained on when each evaluation was made
    validation_losses: Sequence[float] = ()
    unigram_nats: float | None = None  # entropy of the token frequencies
    bigram_nats: float | None = None  # of a bigram model, on text that it has not counted
    epochs: float | None = None  # how often the training text has been read
    learning_rates: Mapping[str, float] = msgspec.field(default_factory=dict)  # peaks, see `usual_learning_rate`
    warmup_steps: int | None = None
    leaked_share: float = 0.0  # of the validation text that is in the training text too
    fresh: bool = True  # False: started from given weights
    own_tokenizer: bool = False  # the given weights are of a run, which keeps the tokenizer it was trained with
    bytes_per_token: float | None = None  # of the training text


# ---- Before a run


def run_facts(settings: Settings, shape: GPTShape, text: TextEstimate | None, *, may_decide: bool) -> RunFacts:
    """The facts of resolved settings, on a `text` where there is one."""
    train, schedule = settings.train, settings.schedule
    assert train.steps is not None
    assert train.batch is not None
    assert schedule.warmup_steps is not None
    return RunFacts(
        shape=shape, batch_tokens=train.batch * shape.context, steps=train.steps, warmup_steps=schedule.warmup_steps,
        evaluate_every=settings.watch.evaluate_every, optimizer=settings.optimizer.name or "adamw",
        precision=train.precision, threads=train.threads, processes=train.processes, may_decide=may_decide,
        accumulating=(train.microbatch or train.batch) * train.processes < train.batch,
        dropout=settings.model.dropout > 0, is_scored=text is not None and text.data.validation_tokens > 1,
        learning_rates=learning_rates(settings), train_tokens=None if text is None else text.data.num_tokens,
        train_bytes=None if text is None else text.data.num_bytes,
        readings_per_epoch=1.0 if text is None else text.readings_per_epoch,
        median_document_tokens=None if text is None else text.median_document_tokens,
    )  # fmt: skip


def warnings(facts: RunFacts) -> list[str]:
    """Sentences about what will go wrong; empty when nothing is known to."""
    rates, width = [], facts.shape.width
    for optimizer, rate in facts.learning_rates.items():
        usual = usual_learning_rate(optimizer, width)
        if not usual / FAR <= rate <= usual * FAR:
            side, ratio = ("above", rate / usual) if rate > usual else ("below", usual / rate)
            rates.append(
                f"the learning rate {rate:g} of {optimizer} is {ratio:,.0f} times {side} the usual one at width "
                f"{width} ({usual:.2g})."
            )
    memory, needed, available = [], facts.needed_bytes, facts.available_bytes
    if needed is not None and available is not None and needed > available:
        memory.append(
            f"the run does not fit in memory: it needs {format_bytes(needed)} per device and has "
            f"{format_bytes(available)}; use a smaller microbatch, activation checkpointing or a smaller model."
        )
    return [*_length(facts), *_text(facts), *_memorization(facts), *rates, *memory]


def _length(r: RunFacts) -> list[str]:
    sentences = []
    if r.warmup_steps >= r.steps:
        sentences.append(
            f"the whole run is warm-up: {counted(r.warmup_steps, 'warm-up step')} of {r.steps:,}; use fewer."
        )
    elif r.warmup_steps > r.steps / 2:
        sentences.append(f"most of the run is warm-up: {counted(r.warmup_steps, 'step')} of {r.steps:,}; use fewer.")
    if r.evaluate_every is not None and r.evaluate_every > r.steps:
        sentences.append(
            f"no regular evaluation comes before the end: it is every {r.evaluate_every:,} steps, but the run has only "
            f"{r.steps:,}; evaluate more often."
        )
    if r.train_tokens is not None and r.train_tokens < r.batch_tokens:
        sentences.append(
            f"the text has fewer tokens than one batch ({r.train_tokens:,} of {r.batch_tokens:,}): every step sees all "
            "of it more than once; make the batch smaller."
        )
    return sentences


def _text(r: RunFacts) -> list[str]:
    sentences = []
    if r.median_document_tokens is not None and r.median_document_tokens < r.shape.context:
        sentences.append(
            f"the context of {r.shape.context:,} tokens is longer than most documents (median "
            f"{r.median_document_tokens:,.0f}): much of each window is other documents; a shorter one learns as much."
        )
    if r.train_tokens is not None and r.train_tokens < OCCURRENCES * r.shape.vocabulary:
        sentences.append(
            f"the vocabulary of {r.shape.vocabulary:,} is too large for this text: {r.train_tokens:,} tokens show each "
            f"id {r.train_tokens / r.shape.vocabulary:.1f} times on average; use a smaller one."
        )
    return sentences


def _memorization(r: RunFacts) -> list[str]:
    """The model's capacity against the text, where that is repeated often enough for it to matter."""
    if not r.train_tokens:
        return []
    sentences, epochs = [], r.steps * r.batch_tokens / r.train_tokens
    if r.train_bytes is not None:
        estimate = memorization_estimate(
            r.train_tokens, r.train_bytes, r.shape.parameters, epochs, readings_per_epoch=r.readings_per_epoch
        )
        if estimate.expect != "not by heart":
            remedy = "a smaller model or more text delays" if r.may_decide else AGAINST
            sentences.append(f"{estimate.sentence[:-1]}; {remedy} it.")
    if epochs > 16:
        sentences.append(
            f"{epochs:,.0f} epochs are worth about {effective_tokens(1.0, epochs):.0f} epochs of fresh text "
            "(Muennighoff et al. 2023): for the validation loss fewer would do."
        )
    return sentences


# ---- While it runs


def issues(history: History) -> dict[str, str]:
    """What is wrong with this run, by name, each as a sentence; empty for a healthy one."""
    sentences = {name: sentence for name, check in CHECKS.items() if (sentence := check(history)) is not None}
    if sentences or not history.validation_losses:
        return sentences
    from hornbook.planning.forecast import leaves_band

    outside = leaves_band(history.validation_tokens, history.validation_losses)
    return {} if outside is None else {"left its forecast": outside}


def unigram_nats(counts: Sequence[int]) -> float:
    """Entropy of the token frequencies: the loss of a unigram model.

    >>> round(unigram_nats([1, 1, 2]) / math.log(2), 9)
    1.5
    """
    p = np.asarray(counts, dtype=np.float64)
    p = p[p > 0] / p.sum()
    return float(-(p * np.log(p)).sum())


def _highest(h: History) -> tuple[float, str]:
    """The learning rate that is highest in units of the usual one, and its name; (0, "") where none is known."""
    width, rates = h.shape.width, h.learning_rates
    ratios = [(rate / usual_learning_rate(name, width), f"{rate:g} of {name}") for name, rate in rates.items()]
    return max(ratios, default=(0.0, ""))


def _given_weights(h: History) -> str | None:
    level = math.log(h.shape.vocabulary)
    if h.fresh or not h.train_losses or h.train_losses[0] <= level + 0.5:
        return None
    few = h.bytes_per_token is not None and h.bytes_per_token < FEW_BYTES and h.shape.vocabulary > ALL_BYTES
    return (
        f"the initial weights start at {h.train_losses[0]:.2f} nats per token, worse than uniform guessing (ln V = "
        f"{level:.2f}): the text is unlike the one they were trained on, or they have memorized that one"
        + (f", and their tokenizer covers only {h.bytes_per_token:.2f} bytes of it per token" if few else "")
        + ("." if h.own_tokenizer else "; or their folder's tokenizer is not the one they were trained with.")
    )


def _leaked(h: History) -> str | None:
    if not h.validation_losses or h.unigram_nats is None or not h.fresh or len(h.train_losses) < 10:
        return None
    loss = h.validation_losses[-1]
    if h.leaked_share < MOSTLY_LEAKED or max(loss, h.train_losses[-1]) > COPIED * h.unigram_nats:
        return None
    return (
        f"the validation loss of {loss:.2f} nats per token is too low for unseen text: {h.leaked_share:.0%} of the "
        "validation text is also in the training text."
    )


def _unlike(h: History) -> str | None:
    """Only within the first epoch: later a validation loss may rise because the text is being memorized."""
    if len(h.validation_losses) < 2 or h.epochs is None or h.epochs > 1 or len(h.train_losses) < 20:
        return None
    train, level = float(np.median(h.train_losses[-10:])), math.log(h.shape.vocabulary)
    if min(h.validation_losses[-2:]) < level + 0.1 or train > level - 0.5:
        return None
    return (
        f"the validation loss of {h.validation_losses[-1]:.2f} nats per token is above ln V = {level:.2f} while the "
        f"training loss is {train:.2f}, within the first epoch: the validation text is unlike the training text, "
        "for example in another language or from another tokenizer."
    )


def _only_frequencies(h: History) -> str | None:
    """Three quarters of the steps so far, after the fall from ln V, in which nothing is learned beyond frequencies.

    A slow start (warm-up, a small learning rate, GPT-2's small first weights) looks the same as targets that do not
    belong to the inputs, and as a text in which a token says nothing of the next: only the last can be told apart.
    """
    steps = len(h.train_losses)
    if h.unigram_nats is None or steps < max(PATIENCE, 4 * (h.warmup_steps or 0)) or _highest(h)[0] > FAR:
        return None
    quarters = [float(np.median(part)) for part in np.array_split(np.asarray(h.train_losses), 4)[1:]]
    stands = quarters[0] - quarters[2] < STANDSTILL * h.unigram_nats
    at_unigram = all(abs(q - h.unigram_nats) < 0.05 * h.unigram_nats for q in quarters)
    if not (stands and at_unigram and quarters[2] > (1 - STANDSTILL) * h.unigram_nats):
        return None
    stood = (
        f"the loss has been stuck at {quarters[2]:.2f} nats per token, the level of token frequencies alone "
        f"({h.unigram_nats:.2f}), for most of {steps:,} steps: "
    )
    if h.bigram_nats is not None and h.bigram_nats > (1 - STANDSTILL) * h.unigram_nats:
        return (
            f"{stood}a bigram model does no better on held-out text ({h.bigram_nats:.2f}), so there may be little else "
            "to learn."
        )
    return (
        f"{stood}nothing else has been learned yet. A slow start looks like this (a low learning rate, a long "
        "warm-up), and so do targets that are misaligned with the inputs."
    )


def _learning_rate(h: History) -> str | None:
    ratio, rate = _highest(h)
    if ratio <= FAR:
        return None
    without = " and there is no warm-up" if h.warmup_steps == 0 else ""
    return f"the learning rate {rate} is {ratio:,.0f} times the usual one at width {h.shape.width}{without}: lower it."


def _no_warmup(h: History) -> str | None:
    """A high learning rate, or a loss that jumps in the first steps."""
    if h.warmup_steps != 0:
        return None
    ratio, rate = _highest(h)
    if HIGH < ratio <= FAR and h.fresh:
        return (
            f"there is no warm-up and the learning rate {rate} is {ratio:.1f} times the usual one at width "
            f"{h.shape.width}: warm up for a hundred steps, or lower it."
        )
    early = [loss for loss in h.train_losses[:30] if math.isfinite(loss)]
    if len(early) < 10 or max(early) < early[0] + 0.5:
        return None
    return (
        f"the loss rose from {early[0]:.2f} to {max(early):.2f} nats per token in the first steps, and there is no "
        "warm-up: warm up for a hundred steps, or lower the learning rate."
    )


def _diverges(h: History) -> str | None:
    losses = np.asarray(h.train_losses, dtype=np.float64)
    losses = losses[np.isfinite(losses)]  # the others were skipped, with a warning of their own
    if len(losses) < 40:
        return None
    smooth = [float(np.median(part)) for part in np.array_split(losses, len(losses) // 10)]
    best = min(smooth)
    if min(smooth[-2:]) < best + 1.0:
        return None
    return (
        f"the training loss has risen from {best:.2f} to {smooth[-1]:.2f} nats per token: the run is diverging; lower "
        "the learning rate."
    )


CHECKS = {
    "given weights": _given_weights, "validation text seen": _leaked, "unlike validation text": _unlike,
    "only token frequencies": _only_frequencies, "learning rate": _learning_rate, "no warm-up": _no_warmup,
    "diverges": _diverges,
}  # fmt: skip


def loss_spike(train_losses: Sequence[float]) -> str | None:
    """The last loss, where it is more than 20 median absolute deviations, and 1 nat, above the median of those before.

    >>> loss_spike([3.0, 3.1] * 20 + [5.0])
    'the loss jumped from about 3.05 to 5.00'
    >>> loss_spike([3.0, 3.1] * 20 + [3.2])
    """
    *before, loss = [x for x in train_losses[-2 * RECENT :] if math.isfinite(x)][-RECENT - 1 :] or [math.nan]
    if len(before) < 20 or not math.isfinite(train_losses[-1]):
        return None
    middle = statistics.median(before)
    deviation = statistics.median(abs(value - middle) for value in before)
    if loss > middle + max(1.0, 20 * deviation):
        return f"the loss jumped from about {middle:.2f} to {loss:.2f}"
    return None


def skipped_updates(gradient_norms: Sequence[float]) -> int:
    """How many of the last updates had no finite gradient and were skipped, in a row.

    >>> skipped_updates([1.0, math.nan, 2.0, math.nan, math.nan])
    2
    """
    return next((n for n, norm in enumerate(reversed(gradient_norms)) if math.isfinite(norm)), len(gradient_norms))
