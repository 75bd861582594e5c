"""The guide rails at work: what a run records goes in, sentences come out. Weights are looked at, never changed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from hornbook.data.shards import NUM_BYTES, Prepared
from hornbook.evaluation.baselines import training_stream
from hornbook.facts.settings import Settings
from hornbook.facts.shape import GPTShape
from hornbook.model.decoder import Decoder
from hornbook.planning.budget import Range
from hornbook.planning.forecast import forecast
from hornbook.planning.rails import Course, faults, unigram_nats
from hornbook.records.run import is_run
from hornbook.session.costs import learning_rates

SETTLED = 20  # steps before a weight that has not moved is a sign


class Rails:
    """Grows with the run; says each fault once."""

    def __init__(
        self, settings: Settings, shape: GPTShape, prepared: Prepared, model: Decoder, *, given: str | None
    ) -> None:
        """`given` are the weights that the run started from; None for fresh ones."""
        found = prepared.manifest["report"].get("checkup", {})  # of the text before --dedup
        counts = np.bincount(training_stream(prepared.train), minlength=shape.vocabulary)
        self.losses, self.norms, self.tokens, self.validation = (list[float]() for _ in range(4))
        self.course = Course(
            shape=shape, train_losses=self.losses, gradient_norms=self.norms, validation_tokens=self.tokens,
            validation_losses=self.validation, unigram_nats=unigram_nats(counts.tolist()),
            learning_rates=learning_rates(settings), warmup_steps=settings.schedule.warmup_steps,
            fresh=given is None, own_tokenizer=given is not None and _of_a_run(Path(given)),
            bytes_per_token=int(prepared.train.documents[:, NUM_BYTES].sum()) / prepared.train.num_tokens,
            leaked_share=0.0 if prepared.manifest.get("dedup") else found.get("leaked_share", 0.0),
        )  # fmt: skip
        self.said: set[str] = set()
        self.model, self.start, self.since = model, _fingerprints(model), 0

    def recall(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take in what an earlier process has recorded."""
        for row in rows:
            if row["event"] == "step":
                self._step(row)
            elif row["event"] == "evaluation":
                self._evaluation(row)
            elif row["event"] == "warning" and "fault" in row:
                self.said.add(row["fault"])
        self.since = 0

    def step(self, row: Mapping[str, Any]) -> dict[str, str]:
        self._step(row)
        return self._new(self.course) if row["step"] == 1 else {}

    def evaluation(self, row: Mapping[str, Any]) -> dict[str, str]:
        """Faults, by name, that nobody has heard of yet."""
        self._evaluation(row)
        movement = {}
        if self.since >= SETTLED:
            movement = {name: float(now != self.start[name]) for name, now in _fingerprints(self.model).items()}
        return self._new(msgspec.structs.replace(self.course, epochs=row["epoch"], movement=movement))

    def forecast(self, tokens: int) -> Range | None:
        """Where the validation loss will stand after `tokens`, by this run's own curve."""
        ceiling = math.log(self.course.shape.vocabulary)
        return forecast(self.tokens, self.validation, tokens, ceiling=ceiling)

    def _step(self, row: Mapping[str, Any]) -> None:
        loss, norm = row["train_loss_nats_per_token"], row["gradient_norm"]
        self.losses.append(math.nan if loss is None else loss)
        self.norms.append(math.nan if norm is None else norm)
        self.since += 1

    def _evaluation(self, row: Mapping[str, Any]) -> None:
        loss = row.get("probe_validation_loss_nats_per_token")
        if loss is not None and row["tokens"] > 0:
            self.tokens.append(row["tokens"])
            self.validation.append(loss)

    def _new(self, course: Course) -> dict[str, str]:
        found = {name: sentence for name, sentence in faults(course).items() if name not in self.said}
        self.said |= found.keys()
        return found


def _of_a_run(path: Path) -> bool:
    return is_run(path) or (path / "manifest.json").is_file()


@torch.no_grad()
def _fingerprints(model: Decoder) -> dict[str, int]:
    """A number for each weight that changes when it does: the sum of its values' bits, read as whole numbers."""
    return {name: int(p.float().view(torch.int32).sum()) for name, p in model.named_parameters()}
