"""The guide rails at work: what a run records goes in, sentences come out. Weights are looked at, never changed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from hornbook.data.shards import NUM_BYTES, Prepared
from hornbook.evaluation.baselines import count_ngrams, ngram_nats, training_stream
from hornbook.facts.by_heart import readings
from hornbook.facts.settings import Settings
from hornbook.facts.shape import GPTShape
from hornbook.model.decoder import Decoder
from hornbook.planning.budget import Range
from hornbook.planning.forecast import forecast
from hornbook.planning.health import LOST, Course, faults, leap, skipped, unigram_nats
from hornbook.planning.workload import learning_rates
from hornbook.records.run import is_run

PAIRS_TOKENS = 2**16  # of the training text, enough to tell whether a token says anything of the next
SKIPPED = "the gradient was not finite: the update was skipped and the weights stayed as they were"
SETTLED = 20  # steps before a weight that has not moved is a sign


class Rails:
    """Grows with the run; says each fault once."""

    def __init__(
        self, settings: Settings, shape: GPTShape, prepared: Prepared, model: Decoder, *, given: str | None
    ) -> None:
        """`given` are the weights that the run started from; None for fresh ones."""
        stream = training_stream(prepared.train)
        counts = np.bincount(stream, minlength=shape.vocabulary)
        self.losses, self.norms, self.tokens, self.validation = (list[float]() for _ in range(4))
        self.course = Course(
            shape=shape, train_losses=self.losses, gradient_norms=self.norms, validation_tokens=self.tokens,
            validation_losses=self.validation, unigram_nats=unigram_nats(counts.tolist()),
            bigram_nats=bigram_nats(stream[:PAIRS_TOKENS], shape.vocabulary),
            learning_rates=learning_rates(settings), warmup_steps=settings.schedule.warmup_steps,
            fresh=given is None, own_tokenizer=given is not None and _of_a_run(Path(given)),
            bytes_per_token=int(prepared.train.documents[:, NUM_BYTES].sum()) / prepared.train.num_tokens,
            leaked_share=prepared.leak["leaked_share"] or 0.0,
        )  # fmt: skip
        self.said: set[str] = set()
        self.tokens_per_epoch = prepared.train.num_tokens
        self.repeated_share = prepared.checkup.get("repeated_share", 0.0)
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
        """Faults of one update, by name. One that was skipped, and a loss that leapt, are said every time."""
        self._step(row)
        found = self._new(self.course) if row["step"] == 1 else {}
        if skipped(self.norms):
            return found | {"skipped": SKIPPED}
        return found if (sentence := leap(self.losses)) is None else found | {"leap": sentence}

    @property
    def is_lost(self) -> bool:
        """Whether the weights give no finite gradient any more."""
        return skipped(self.norms) >= LOST

    @property
    def was_skipped(self) -> bool:
        """Whether the last update was."""
        return skipped(self.norms) > 0

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
        read = readings(tokens / self.tokens_per_epoch, self.repeated_share)
        return forecast(self.tokens, self.validation, tokens, ceiling=ceiling, readings=read)

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

    def once(self, name: str, sentence: str) -> dict[str, str]:
        """A fault that was noticed elsewhere, unless it was said before."""
        found = {} if name in self.said else {name: sentence}
        self.said.add(name)
        return found

    def _new(self, course: Course) -> dict[str, str]:
        found = {name: sentence for name, sentence in faults(course).items() if name not in self.said}
        self.said |= found.keys()
        return found


def diverged(rows: Sequence[Mapping[str, Any]], kept: Iterable[int], folder: Path) -> str:
    """The sentence of a run whose weights are lost; of its checkpoints the steps `kept` are there. Those weights were
    sound from which an update could be computed."""
    applied = [row["step"] for row in rows if row["event"] == "step" and row["gradient_norm"] is not None]
    sound = max(applied, default=0) - 1
    before = max((step for step in kept if step <= sound), default=None)
    left = "no checkpoint from before is kept" if before is None else f"the last sound checkpoint is of step {before:,}"
    return (
        f"training has diverged: no gradient was finite after step {sound + 1:,}, and {left} in {folder}; try a lower "
        "--optimizer.learning_rate with a fresh --out."
    )


def bigram_nats(stream: np.ndarray, vocabulary: int) -> float | None:
    """Nats of a token given the one before, by counts of three quarters of the stream on the last quarter."""
    cut = len(stream) * 3 // 4
    if len(stream) - cut < 2:
        return None
    return float(ngram_nats(count_ngrams(stream[:cut], vocabulary, 2), stream[cut:], vocabulary)[-1].mean())


def _of_a_run(path: Path) -> bool:
    return is_run(path) or (path / "manifest.json").is_file()


@torch.no_grad()
def _fingerprints(model: Decoder) -> dict[str, int]:
    """A number for each weight that changes when it does: the sum of its values' bits, read as whole numbers."""
    # Piece by piece: the sum of whole numbers first makes a copy of them in 8 bytes.
    numbers = {name: p.float().flatten().view(torch.int32) for name, p in model.named_parameters()}
    return {name: sum(int(x[at : at + 2**20].sum()) for at in range(0, len(x), 2**20)) for name, x in numbers.items()}
