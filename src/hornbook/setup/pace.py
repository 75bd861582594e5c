"""What a run costs while it goes on: pace, hours, energy, money, peak memory, and the share of the peak it reaches."""

from __future__ import annotations

import statistics
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
import numpy as np
import torch

from hornbook.data.shards import TokenStream
from hornbook.engine.device import _best_of, device, this_device
from hornbook.evaluation.probe import Probe
from hornbook.facts.hardware import Accelerator, usable_cores
from hornbook.facts.settings import Settings, from_table
from hornbook.facts.shape import GPTShape
from hornbook.model.generate import generate
from hornbook.planning.choose import shape_of
from hornbook.planning.pace import StepTimes
from hornbook.setup.build import build, enough_steps, seconds_per_step
from hornbook.training.loop import Trainer

MEASURED_TOKENS, MEASURED_SECONDS = 4096, 0.5  # scored to learn how long that takes: the fewer of the two
MEASURED_FROM = 30  # steps: a shorter run is over before its pace is known


def measure(settings: Settings, shape: GPTShape, text: TokenStream, on: torch.device) -> StepTimes:
    """The pace of a few steps, of a short score and of some written tokens, of parts that are thrown away."""
    parts = build(settings, shape, text, on)
    return pace_of(parts, text, seconds_per_step(settings, parts))


def pace_of(parts: Trainer, text: TokenStream, step: float) -> StepTimes:
    """The pace of a model whose steps take `step` seconds. Draws from no randomness that training uses."""
    shape = parts.model.shape
    per_second = 3 * parts.batches.batch_size * shape.context / step  # tokens scored, about: a third of a step's work
    tokens = min(MEASURED_TOKENS, max(shape.context, int(MEASURED_SECONDS * per_second)))
    probe = Probe(text, context=shape.context, num_tokens=tokens, byte_lengths=np.ones(shape.vocabulary, np.int32))
    scored = _best_of(2, lambda: probe.score(parts.model)) / probe.num_tokens
    prompt = text.take(np.zeros(1, np.int64), 1)[0].tolist()
    written = _best_of(2, lambda: list(generate(parts.model, prompt, max_tokens=16, temperature=1.0, seed=0))) / 16
    return StepTimes(step, scored, written)


@dataclass
class FirstSteps:
    """Says what is expected of a run, as soon as its first steps have shown their pace and no update is under way."""

    plan: Callable[[StepTimes], None] | None
    parts: Trainer
    text: TokenStream
    seconds: list[float] = field(default_factory=list)

    def hear(self, seconds: float, is_last: bool) -> None:
        if self.plan is None:
            return
        self.seconds.append(seconds)
        if is_last and enough_steps(self.seconds):
            plan, self.plan = self.plan, None
            plan(pace_of(self.parts, self.text, statistics.median(self.seconds[1:])))


def measure_here(settings_toml: str, vocabulary: int) -> tuple[StepTimes, Accelerator]:
    """The pace of resolved settings on this machine, measured on random tokens: what `hornbook plan --measure` asks."""
    settings, on = from_table(tomllib.loads(settings_toml), source="the plan"), device()
    torch.set_num_threads(settings.train.threads or usable_cores())
    shape = shape_of(settings, vocabulary)
    ids = np.random.default_rng(0).integers(0, vocabulary, 65_536).astype(np.uint32)
    text = TokenStream([ids], np.array([[0, len(ids), len(ids), len(ids), 1]]), ["random"], separator=False)
    return measure(settings, shape, text, on), this_device(on)


if __name__ == "__main__":
    asked = msgspec.json.decode(sys.stdin.buffer.read())
    sys.stdout.buffer.write(msgspec.json.encode(measure_here(asked["settings"], asked["vocabulary"])))
