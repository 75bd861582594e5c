"""The health checks at work: what a run records goes in, sentences come out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from hornbook.data.shards import NUM_BYTES, Prepared
from hornbook.facts.shape import GPTShape
from hornbook.planning.health import DIVERGED_STEPS, History, issues, loss_spike, skipped_updates, unigram_nats
from hornbook.planning.workload import Range
from hornbook.records.run import is_run

JUDGED_STEPS = 10  # before, no issue depends on the entropies of the text
BIGRAM_TOKENS = 2**16  # of the training text, enough to tell whether a token says anything of the next
SKIPPED = "the gradient was not finite: the update was skipped and the weights stayed as they were"


class Monitor:
    """Grows with the run; reports each issue once."""

    def __init__(
        self, shape: GPTShape, prepared: Prepared, *, learning_rates: Mapping[str, float], warmup_steps: int | None,
        given: str | None, spike_zscore: float | None = None,
    ) -> None:  # fmt: skip
        """`learning_rates` are peaks, as `workload.usual_learning_rate` names them. `given` are the weights that
        the run started from; None for fresh ones. `spike_zscore`: from which on a loss has `spiked`."""
        self.losses, self.norms, self.tokens, self.validation = (list[float]() for _ in range(4))
        self.numbers: list[int] = []  # of the updates
        self.spike_zscore = spike_zscore
        self.history = History(
            shape=shape, train_losses=self.losses, validation_tokens=self.tokens, validation_losses=self.validation,
            learning_rates=learning_rates, warmup_steps=warmup_steps,
            fresh=given is None, own_tokenizer=given is not None and _of_a_run(Path(given)),
            bytes_per_token=int(prepared.train.documents[:, NUM_BYTES].sum()) / prepared.train.num_tokens,
            leaked_share=prepared.leak["leaked_share"] or 0.0,
        )  # fmt: skip
        self.reported: set[str] = set()
        self.train, self.tokens_per_epoch = prepared.train, prepared.train.num_tokens
        self.repeated_share = prepared.checkup.get("repeated_share", 0.0)

    def recall(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take in what was recorded so far, and nothing else."""
        for seen in (self.losses, self.norms, self.tokens, self.validation, self.numbers, self.reported):
            seen.clear()
        for row in rows:
            if row["event"] == "step":
                self._step(row)
            elif row["event"] == "evaluation":
                self._evaluation(row)
            elif row["event"] == "warning" and "fault" in row:
                self.reported.add(row["fault"])

    def step(self, row: Mapping[str, Any]) -> dict[str, str]:
        """Issues of one update, by name. A skipped update and a loss spike are reported every time."""
        self._step(row)
        sentences = self._new(issues(self.history)) if row["step"] == 1 else {}
        if self.was_skipped:
            sentences["skipped"] = SKIPPED
        elif (spike := loss_spike(self.losses)) is not None:
            sentences["loss spike"] = spike
        return sentences

    @property
    def diverged(self) -> bool:
        """Whether the weights give no finite gradient any more."""
        return skipped_updates(self.norms) >= DIVERGED_STEPS

    @property
    def spiked(self) -> bool:
        """Whether the last loss is one for which its batch is to be left out."""
        if self.spike_zscore is None:
            return False
        from hornbook.training.left_out import robust_zscore

        return robust_zscore(self.losses) > self.spike_zscore

    @property
    def was_skipped(self) -> bool:
        """Whether the last update was."""
        return skipped_updates(self.norms) > 0

    def evaluation(self, row: Mapping[str, Any]) -> dict[str, str]:
        """Issues that were not reported yet, by name."""
        self._evaluation(row)
        history = msgspec.structs.replace(self.history, epochs=row["epoch"])
        if len(self.losses) >= JUDGED_STEPS:  # the first update need not wait for counting
            history = msgspec.structs.replace(history, **self.entropies)
        return self._new(issues(history))

    @cached_property
    def entropies(self) -> dict[str, float | None]:
        """What a unigram and a bigram model of the training text get, in nats per token."""
        from hornbook.evaluation.baselines import training_stream

        stream, vocabulary = training_stream(self.train), self.history.shape.vocabulary
        unigram = unigram_nats(np.bincount(stream, minlength=vocabulary).tolist())
        return {"unigram_nats": unigram, "bigram_nats": bigram_nats(stream[:BIGRAM_TOKENS], vocabulary)}

    def forecast(self, tokens: int) -> Range | None:
        """Where the validation loss will stand after `tokens`, by this run's own curve."""
        if not self.tokens:
            return None
        from hornbook.facts.by_heart import readings
        from hornbook.planning.forecast import forecast

        ceiling = math.log(self.history.shape.vocabulary)
        read = readings(tokens / self.tokens_per_epoch, self.repeated_share)
        return forecast(self.tokens, self.validation, tokens, ceiling=ceiling, readings=read)

    def once(self, name: str, sentence: str) -> dict[str, str]:
        """An issue that was noticed elsewhere, unless it was reported before."""
        return self._new({name: sentence})

    def _step(self, row: Mapping[str, Any]) -> None:
        loss, norm = row["train_loss_nats_per_token"], row["gradient_norm"]
        self.numbers.append(row["step"])
        self.losses.append(math.nan if loss is None else loss)
        self.norms.append(math.nan if norm is None else norm)

    def _evaluation(self, row: Mapping[str, Any]) -> None:
        loss = row.get("probe_validation_loss_nats_per_token")
        if loss is not None and row["tokens"] > 0:
            self.tokens.append(row["tokens"])
            self.validation.append(loss)

    def _new(self, sentences: Mapping[str, str]) -> dict[str, str]:
        new = {name: sentence for name, sentence in sentences.items() if name not in self.reported}
        self.reported |= new.keys()
        return new


def divergence_sentence(rows: Sequence[Mapping[str, Any]], kept: Iterable[int], folder: Path) -> str:
    """For a run that has diverged, of which the checkpoints of steps `kept` are there. Weights are sound where an
    update could be computed from them."""
    applied = [row["step"] for row in rows if row["event"] == "step" and row["gradient_norm"] is not None]
    sound = max(applied, default=0) - 1
    before = max((step for step in kept if step <= sound), default=None)
    left = "no checkpoint from before is kept" if before is None else f"the last good checkpoint is of step {before:,}"
    return (
        f"training has diverged: no gradient was finite after step {sound + 1:,}, and {left} in {folder}; try a lower "
        "--optimizer.learning_rate with a fresh --out."
    )


def bigram_nats(stream: np.ndarray, vocabulary: int) -> float | None:
    """Nats of a token given the one before, by counts of three quarters of the stream on the last quarter."""
    from hornbook.evaluation.baselines import count_ngrams, ngram_nats

    cut = len(stream) * 3 // 4
    if len(stream) - cut < 2:
        return None
    return float(ngram_nats(count_ngrams(stream[:cut], vocabulary, 2), stream[cut:], vocabulary)[-1].mean())


def _of_a_run(path: Path) -> bool:
    return is_run(path) or (path / "manifest.json").is_file()
