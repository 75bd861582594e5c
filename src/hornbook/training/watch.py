"""What is seen of a run between two updates, steps 7 and 8 of the eight: looking at it changes no weight."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from hornbook.data.shards import Prepared
from hornbook.engine.signals import Stop
from hornbook.evaluation.probe import Probe, Seen, byte_lengths
from hornbook.facts.settings import Settings
from hornbook.facts.shape import GPTShape
from hornbook.model.decoder import Decoder
from hornbook.model.generate import generate
from hornbook.planning.workload import (
    COPY_PROBE_TOKENS,
    FIRST_PROBE,
    FIRST_SAMPLE,
    EvaluationSteps,
    corpus_stats,
    evaluation_steps,
    evaluation_steps_until,
    steps_per_epoch,
)

if TYPE_CHECKING:
    from hornbook.engine.world import World
    from hornbook.evaluation.copying import CopyProbe


@dataclass
class Watch:
    """What a run is looked at with, and when."""

    settings: Settings
    shape: GPTShape
    prepared: Prepared
    eval_steps: EvaluationSteps = field(init=False)

    def __post_init__(self) -> None:
        self.start_over()

    def start_over(self) -> None:
        """Plan the evaluations of a run that has decided nothing."""
        settings = self.settings
        assert settings.train.steps is not None
        assert settings.watch.evaluate_every is not None
        per_epoch = steps_per_epoch(settings, corpus_stats(self.prepared))
        self.eval_steps = evaluation_steps(settings.train.steps, per_epoch, settings.watch.evaluate_every)

    def follow(self, step: int, last: int, *, denser: bool) -> None:
        """Look at what the run does after `step`, where it was decided to end with update `last`; `denser`: at the
        decay, which was not planned."""
        planned: EvaluationSteps = self.eval_steps
        self.eval_steps = evaluation_steps_until(planned, step if denser else None, last)

    @cached_property
    def probes(self) -> dict[str, Probe]:
        tokens = self.settings.watch.probe_tokens
        assert tokens is not None
        return self._probes(tokens)

    @cached_property
    def copies(self) -> CopyProbe:
        from hornbook.evaluation.copying import CopyProbe

        text, tokens = self.prepared, min(COPY_PROBE_TOKENS, self.shape.context)
        return CopyProbe(text.train, text.validation, text.tokenizer, sample_tokens=tokens)

    def _probes(self, num_tokens: int) -> dict[str, Probe]:
        lengths = byte_lengths(self.prepared.tokenizer)
        sides = {"train": self.prepared.train, "validation": self.prepared.validation}
        return {
            name: Probe(part, context=self.shape.context, num_tokens=num_tokens, byte_lengths=lengths)
            for name, part in sides.items()
            if part.num_tokens > 1
        }

    def evaluate(
        self, model: Decoder, step: int, *, fresh: bool, stop: Stop, world: World | None = None
    ) -> dict[str, Any] | None:  # fmt: skip
        """What the probes say of the model after `step`, as the numbers of a row; None when a signal came meanwhile.
        Fresh weights are as surprised everywhere and copy nothing: a few windows say so, and the first update need not
        wait."""
        tokens = self.settings.watch.probe_tokens or FIRST_PROBE
        probes = self._probes(min(FIRST_PROBE, tokens)) if fresh else self.probes
        is_regular = self.eval_steps.is_regular(step)
        numbers: dict[str, Any] = {}
        scores: dict[str, Seen] = {}
        for name, probe in probes.items():
            if name == "train" and not is_regular:
                continue
            scored = probe.score(model, stop, world)
            if scored is None:
                return None
            if not math.isfinite(scored.loss):
                continue
            scores[name] = scored
            numbers[f"probe_{name}_loss_nats_per_token"] = scored.loss
            if not fresh:
                numbers[f"probe_{name}_window_nats"] = scored.window_nats
        if "validation" in scores:
            bits = scores["validation"].bits_per_byte
            numbers["probe_validation_bits_per_byte"] = bits
            if "train" in scores:
                numbers["probe_generalization_gap_bits_per_byte"] = bits - scores["train"].bits_per_byte
            if not fresh and self.searches_copies(step):
                numbers["copied_share"] = self.copies.score(model)
        return numbers

    def searches_copies(self, step: int) -> bool:
        """At the first regular evaluation after each sample, since searching takes as long as writing one."""
        sample_every, every = self.settings.watch.sample_every, self.eval_steps.every
        assert sample_every is not None
        before = (step - 1) // every * every
        return step == self.eval_steps.steps or (
            self.eval_steps.is_regular(step) and step // sample_every > before // sample_every
        )

    def samples(self, model: Decoder, *, fresh: bool, stop: Stop) -> dict[str, str] | None:
        """What the model writes after each prompt, always with the same randomness, so that samples can be compared;
        None when a signal came meanwhile."""
        tokenizer, watch = self.prepared.tokenizer, self.settings.watch
        num_tokens = min(watch.sample_tokens, FIRST_SAMPLE) if fresh else watch.sample_tokens
        texts: dict[str, str] = {}
        for prompt in watch.prompts or [""]:
            ids = [] if tokenizer.end_of_text is None else [tokenizer.end_of_text]
            ids += tokenizer.encode(prompt).tolist()
            if not ids:
                ids = self.prepared.train.take(np.zeros(1, np.int64), 1)[0].tolist()
            written: list[int] = []
            for token in generate(
                model, ids[-model.shape.context :], max_tokens=num_tokens, temperature=watch.temperature, seed=0,
                stop_ids=() if tokenizer.end_of_text is None else (tokenizer.end_of_text,),
            ):  # fmt: skip
                written.append(token)
                if stop.is_set():
                    return None
            texts[prompt] = tokenizer.decode(written, inside=bool(prompt))
        return texts
