"""What a run does besides its steps, how long all of it takes, and how many steps fit a time."""

from __future__ import annotations

import copy
import math

import msgspec

from hornbook.facts.settings import Settings
from hornbook.facts.shape import GPTShape
from hornbook.planning.choose import CorpusStats, ResolvedSettings, fill_steps, steps_per_epoch
from hornbook.planning.looks import looks
from hornbook.planning.pace import Overhead, StepTimes, steps_within, wall_seconds

COPY_PROBE_TOKENS = 64  # of each of the free samples that are searched for copies at every evaluation

FIRST_PROBE = 512  # tokens of each side, at most, that are scored before the first update

FIRST_SAMPLE = 16  # tokens, at most, that fresh weights write


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


def settle(choice: ResolvedSettings, pace: StepTimes, spent: float) -> Settings:
    """The settings with their number of steps: the one chosen, or as many as fit the time that is left of a budget
    and are worth it."""

    def wall(steps: int) -> float:
        return spent + wall_of(choice, pace, steps)

    steps = choice.settings.train.steps
    if steps is None:
        steps = steps_within(choice.seconds or 0.0, wall, most=choice.most_steps)
    return _filled(choice, steps)


def wall_of(choice: ResolvedSettings, pace: StepTimes, steps: int) -> float:
    """Seconds from the first step to the summary, were it `steps` long."""
    return wall_seconds(pace, steps, watched(_filled(choice, steps), choice.shape, choice.data))


def _filled(choice: ResolvedSettings, steps: int) -> Settings:
    settings = copy.deepcopy(choice.settings)
    fill_steps(settings, steps, choice.data)
    return settings


def watched(settings: Settings, shape: GPTShape, data: CorpusStats) -> Overhead:
    """What a run with these settings does besides its steps."""
    steps, watch, held = settings.train.steps, settings.watch, data.validation_tokens
    assert steps is not None
    assert watch.evaluate_every is not None
    every = (watch.sample_every, settings.checkpoint.every)
    samples, saves = (1 + math.ceil(steps / (interval or steps)) for interval in every)
    seen, probe = looks(steps, steps_per_epoch(settings, data), watch.evaluate_every), watch.probe_tokens or 0
    # Eight samples are written together: a position of all of them takes about twice as long as a token of one.
    copies = 2 * min(COPY_PROBE_TOKENS, shape.context) if held else 0
    prompts = max(1, len(watch.prompts))
    return Overhead(
        evaluated_tokens=sum(min(FIRST_PROBE, tokens) + seen.num_even * tokens for tokens in (probe, min(probe, held)))
        + seen.num_extra * min(probe, held),
        sampled_tokens=prompts * (min(FIRST_SAMPLE, watch.sample_tokens) + (samples - 1) * watch.sample_tokens)
        + (samples - 1) * copies,
        scored_tokens=2 * held,  # windows overlap by half
        saved_bytes=saves * shape.parameters * 12,
    )


def learning_rates(settings: Settings) -> dict[str, float]:
    """Peaks, as `health.usual_learning_rate` names them."""
    o = settings.optimizer
    if o.name == "muon":
        return {"Muon": o.muon_learning_rate or 0.0, "AdamW beside Muon": o.learning_rate or 0.0}
    return {"AdamW": o.learning_rate or 0.0}
