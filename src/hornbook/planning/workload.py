"""What a run of given settings does, and when it is evaluated; `wall` says how long that takes.

Evaluations are dense where the curve bends, then regular, within a share of the time. The loss falls fastest over the
first steps, and a text that is read again and again has its lowest validation loss within a few epochs, however many
steps these are: so the validation probe is scored at steps 1, 2, 4, 8, ... and at the end of each of the first ten
epochs, besides the regular evaluations of both probes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import msgspec

from hornbook.data.shards import Prepared
from hornbook.facts.settings import Settings
from hornbook.facts.shape import GPTShape

FIRST_EPOCHS = 10
SHARE = 0.1  # of the time that evaluations may take
EVEN, LEAST_EVEN = 20, 4  # regular evaluations of a run that has the time for them, and of one that has not
MOST_TOKENS, LEAST_TOKENS = 16_384, 4096  # of the probe: the standard error of a loss is about 1 % at the upper one
HALVED = 8192  # validation tokens from which on half of them are kept from the probe, to report what it has chosen
FORWARD, FORWARD_BESIDE_BFLOAT16 = 1 / 3, 0.55  # of a training step: evaluation computes in float32
AFTER_TURNING = 8  # regular evaluations, at least, of a decay that was not planned

COPY_PROBE_TOKENS = 64  # of each of the free samples that are searched for copies at every evaluation
FIRST_PROBE = 512  # tokens of each side, at most, that are scored before the first update
FIRST_SAMPLE = 16  # tokens, at most, that fresh weights write

REACHED = 0.33  # of a matrix product's speed that training of small models reaches on a CPU
MEASURED_FACTOR = 1.15  # between a probe of a run and the run
REPORT_SECONDS = 3.0  # plots, pages, two inspections
SAVING_BYTES_PER_SECOND = 3e8  # to write, flush and hash a checkpoint


class Range(msgspec.Struct, frozen=True):
    """A central value and its 90 % range, with the reason for its width."""

    low: float
    central: float
    high: float
    reason: str

    def times(self, factor: float) -> Range:
        return Range(self.low * factor, self.central * factor, self.high * factor, self.reason)

    def contains(self, value: float) -> bool:
        return self.low <= value <= self.high


def flat(name: str, value: Range | float | None) -> dict[str, Any]:
    """As values of JSON: the central value by its name, the ends as `<name>_interval_90`; None where unknown.

    >>> flat("gpu_hours", Range(1.0, 2.0, 4.0, "measured"))
    {'gpu_hours': 2.0, 'gpu_hours_interval_90': (1.0, 4.0)}
    """
    if isinstance(value, Range):
        return {name: value.central, f"{name}_interval_90": (value.low, value.high)}
    return {name: value, f"{name}_interval_90": None}


@dataclass(frozen=True)
class CorpusStats:
    """The training side: ids, bytes, and the vocabulary of its tokenizer; and how many ids validate it."""

    num_tokens: int
    num_bytes: int
    vocabulary: int
    validation_tokens: int = 0


def corpus_stats(prepared: Prepared) -> CorpusStats:
    return CorpusStats(
        prepared.train.num_tokens, prepared.manifest["parts"]["train"]["num_bytes"], prepared.tokenizer.vocabulary,
        prepared.validation.num_tokens,
    )  # fmt: skip


class TextEstimate(msgspec.Struct, frozen=True):
    """What a plan needs to know of a text. `assumed` says what was not counted but estimated."""

    data: CorpusStats
    validation_bytes: int
    median_document_tokens: float
    assumed: list[str]
    readings_per_epoch: float = 1.0

    @property
    def bytes_per_token(self) -> float:
        """Of the text whose loss is predicted: validation text, or the training text where there is none."""
        if self.data.validation_tokens > 1:
            return self.validation_bytes / self.data.validation_tokens
        return self.data.num_bytes / self.data.num_tokens


@dataclass(frozen=True)
class ResolvedSettings:
    """The settings with nothing left open but the number of steps under a budget, and why."""

    settings: Settings
    shape: GPTShape
    data: CorpusStats
    reasons: list[str]
    seconds: float | None  # the wall time that steps are to be found for
    most_steps: int | None  # not more of them than these, however much time there is


def usual_learning_rate(optimizer: str, width: int) -> float:
    """The usual peak learning rate of "AdamW" (1.5e-3 at width 768, falling as 1 / width, Yang et al. 2022,
    arXiv:2203.03466, at most 3e-3), of "Muon" (0.02 at any width, since its updates have a fixed size: Jordan et al.
    2024), and of "AdamW beside Muon" (tables, head and norms: 0.01 at width 128, falling with the root of the width).

    >>> [f"{usual_learning_rate('AdamW', width):.2g}" for width in (128, 768, 4096)], usual_learning_rate("Muon", 128)
    (['0.003', '0.0015', '0.00028'], 0.02)
    """
    if optimizer == "Muon":
        return 0.02
    if optimizer == "AdamW beside Muon":
        return 0.01 * min(1.0, math.pow(128 / width, 0.5))
    return min(3e-3, 1.5e-3 * 768 / width)


def learning_rates(settings: Settings) -> dict[str, float]:
    """Peaks, as `usual_learning_rate` names them."""
    optimizer = settings.optimizer
    rate = optimizer.learning_rate or 0.0
    if optimizer.name == "muon":
        return {"Muon": optimizer.muon_learning_rate or 0.0, "AdamW beside Muon": rate}
    return {"AdamW": rate}


# ---- Steps and epochs


def _batch_and_context(settings: Settings) -> tuple[int, int]:
    """Of settings in which both are chosen."""
    assert settings.train.batch is not None
    assert settings.model.context is not None
    return settings.train.batch, settings.model.context


def step_tokens(settings: Settings) -> int:
    """Tokens of one step."""
    return math.prod(_batch_and_context(settings))


def steps_per_epoch(settings: Settings, data: CorpusStats) -> float:
    """An epoch may end within a step."""
    batch, context = _batch_and_context(settings)
    return math.ceil(data.num_tokens / context) / batch


def steps_of(settings: Settings, data: CorpusStats) -> int | None:
    """The number of steps of a length given in steps, tokens or epochs; None when there is none of them."""
    train = settings.train
    if train.tokens is not None:
        return math.ceil(train.tokens / step_tokens(settings))
    if train.epochs is not None:
        return math.ceil(train.epochs * steps_per_epoch(settings, data))
    return train.steps


def fill_steps(settings: Settings, steps: int, data: CorpusStats) -> None:
    """Fill in what follows from the number of steps."""
    train, watch, keep = settings.train, settings.watch, settings.checkpoint
    train.steps = steps
    if settings.schedule.warmup_steps is None:
        settings.schedule.warmup_steps = min(max(1, steps // 10), max(10, steps // 50))
    watch.evaluate_every, watch.probe_tokens = evaluation_interval(
        steps, steps_per_epoch(settings, data), step_tokens(settings), data.validation_tokens,
        every=watch.evaluate_every, probe_tokens=watch.probe_tokens, bfloat16=train.precision == "bfloat16",
    )  # fmt: skip
    watch.sample_every = watch.sample_every or max(1, steps // 5)
    keep.every = keep.every or max(1, steps // 5)


# ---- Evaluations


@dataclass(frozen=True)
class EvaluationSteps:
    """The steps at which a run of `steps` is evaluated; the `extra` ones score the validation probe only."""

    steps: int
    every: int
    extra: frozenset[int]

    def is_regular(self, step: int) -> bool:
        """Whether both probes are scored."""
        return step % self.every == 0 or step == self.steps

    def due(self, step: int) -> bool:
        return self.is_regular(step) or step in self.extra

    @property
    def num_even(self) -> int:
        """Even evaluations after step 0."""
        return math.ceil(self.steps / self.every)

    @property
    def num_extra(self) -> int:
        """Extra evaluations that are not regular ones."""
        return sum(not self.is_regular(step) for step in self.extra)


def evaluation_steps(steps: int, steps_per_epoch: float, every: int) -> EvaluationSteps:
    """
    >>> sorted(evaluation_steps(40, 7.5, 20).extra)
    [1, 2, 4, 8, 15, 16, 23, 30, 32, 38]
    """
    doubling = {2**k for k in range(steps.bit_length())}
    epochs = {math.ceil(epoch * steps_per_epoch) for epoch in range(1, FIRST_EPOCHS + 1)}
    return EvaluationSteps(steps, every, frozenset(step for step in doubling | epochs if step < steps))


def evaluation_steps_until(planned: EvaluationSteps, step: int | None, last: int) -> EvaluationSteps:
    """Those of a run that ends at `last` instead; with a `step`, at least AFTER_TURNING from there on."""
    every = planned.every if step is None else max(1, min(planned.every, (last - step) // AFTER_TURNING))
    return EvaluationSteps(last, every, frozenset(extra for extra in planned.extra if extra < last))


def evaluation_interval(
    steps: int, steps_per_epoch: float, step_tokens: int, validation_tokens: int, *, every: int | None,
    probe_tokens: int | None, bfloat16: bool = False,
) -> tuple[int, int]:  # fmt: skip
    """(steps between regular evaluations, tokens of the probe on each side): evaluating takes about SHARE of the
    time. What is given stays. First the probe shrinks, to LEAST_TOKENS, then evaluations become fewer."""
    forward = FORWARD_BESIDE_BFLOAT16 if bfloat16 else FORWARD
    allowed = SHARE * steps * step_tokens / forward  # tokens that may be scored
    extra = evaluation_steps(steps, steps_per_epoch, every or steps).num_extra

    def scored(num_even: float, tokens: int) -> float:
        validation = min(tokens, validation_tokens)
        return extra * validation + num_even * (validation + tokens)

    even = steps / every if every is not None else min(steps, EVEN)
    most = validation_tokens // 2 if validation_tokens >= HALVED else MOST_TOKENS
    tokens = probe_tokens or min(MOST_TOKENS, 8 * step_tokens, most)
    if probe_tokens is None and (planned := scored(even, tokens)) > allowed:
        tokens = max(min(tokens, LEAST_TOKENS), int(tokens * allowed / planned))
    if every is None:
        room = (allowed - scored(0, tokens)) / max(1, scored(1, tokens) - scored(0, tokens))
        even = min(even, max(LEAST_EVEN, room))
        every = max(1, min(steps, math.ceil(steps / even)))
    return every, tokens


class StepTimes(msgspec.Struct, frozen=True):
    """Seconds of one step, of scoring one token and of writing one; runs lie within `factor` in nine cases of ten."""

    step: float
    scored: float
    written: float
    factor: float = MEASURED_FACTOR
