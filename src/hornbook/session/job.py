"""`hornbook.train`: what happens when. Of the eight steps, 1 to 6 are in training/; 7 and 8 stand here."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hornbook.evaluation.copying import CopyProbe
from hornbook.evaluation.corpus import byte_lengths
from hornbook.evaluation.probe import Probe
from hornbook.facts.errors import Interrupted, WorldError
from hornbook.facts.settings import Settings, from_table, overridden, read_table
from hornbook.likelihood import Surprise
from hornbook.model.generate import generate
from hornbook.records.run import Run, checkpoint_step, is_run
from hornbook.report.curves import only_memorizing
from hornbook.session.build import Parts, build, enough_steps, rate
from hornbook.session.costs import COPY_PROBE_TOKENS, FIRST_PROBE, FIRST_SAMPLE
from hornbook.session.finish import finish
from hornbook.session.live import View
from hornbook.session.meter import Meter, pace_of, this_device
from hornbook.session.models import device
from hornbook.session.rails import Rails
from hornbook.session.signals import Stop, stop_on_signals
from hornbook.session.start import Start, fresh, resumed, usd_per_hour
from hornbook.training import checkpoint as checkpoints
from hornbook.training.loop import Guard, Step, steps


def train(
    *texts: str, recipe: str | Path | None = None, out: str | Path | None = None, from_: str | None = None,
    view: View | None = None, started: float | None = None, **changes: Any,
) -> dict[str, Any]:  # fmt: skip
    """Train a model on `texts` and return the summary of its run, as `hornbook train --json` prints it.

    `changes` are settings by their dotted name, such as `**{"train.steps": 100}`, on top of `recipe`. With the `out`
    of an earlier run, that run goes on exactly where its newest checkpoint stands. Raises InputError for bad input,
    WorldError when the disk is full, Interrupted after a signal, when everything is saved.
    """
    started = time.monotonic() if started is None else started
    view = view or View(quiet=True)
    if texts:
        changes["text.paths"] = list(texts)
    request = overridden(read_table(Path(recipe)) if recipe is not None else {}, changes)
    wanted = from_table(request, source=str(recipe) if recipe is not None else "settings")
    folder = Path(out) if out is not None else None
    try:
        if folder is not None and is_run(folder):
            run = Run.open(folder)
            with run.lock():
                return _carry_out(resumed(run, wanted, request, from_=from_, view=view), view, started)
        start = fresh(wanted, request, out=folder, from_=from_, view=view, started=started)
        with start.run.lock():
            return _carry_out(start, view, started)
    except OSError as error:
        raise WorldError(f"cannot go on: {error.strerror or error}.") from error


@dataclass
class Job:
    """A run under way, and the few numbers that a checkpoint carries besides weights."""

    start: Start
    parts: Parts
    view: View
    meter: Meter
    rails: Rails
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    updates: int = 0  # steps that were applied: those with a finite gradient
    best_loss: float = math.inf
    best_step: int | None = None
    since_best: int = 0
    saved: int | None = None  # the step of the newest checkpoint, evaluation and sample
    evaluated: int | None = None
    sampled: int | None = None
    probes: dict[str, Probe] = field(default_factory=dict)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    parted: bool = False  # it was said that further epochs only memorize
    first_seconds: list[float] = field(default_factory=list)  # of the first steps, until they have shown their pace

    @property
    def run(self) -> Run:
        return self.start.run

    @property
    def settings(self) -> Settings:
        return self.start.settings

    @cached_property
    def copies(self) -> CopyProbe:
        text, tokens = self.start.prepared, min(COPY_PROBE_TOKENS, self.start.shape.context)
        return CopyProbe(text.train, text.validation, text.tokenizer, sample_tokens=tokens)

    @property
    def is_fresh(self) -> bool:
        return self.step == 0 and self.start.initial is None

    @property
    def final_tokens(self) -> int:
        train = self.settings.train
        return (train.steps or 0) * (train.batch or 0) * self.start.shape.context

    def save(self) -> None:
        """Write a checkpoint and drop what is no longer kept."""
        keep = self.settings.checkpoint
        state = {
            "tokens": self.tokens,
            "seconds": self.seconds,
            "updates": self.updates,
            "best_loss": self.best_loss if math.isfinite(self.best_loss) else None,
            "best_step": self.best_step,
            "since_best": self.since_best,
            "use_step": self.best_step if keep.best else None,
            "prepared": self.start.prepared.key,
        }
        if self.saved != self.step:
            checkpoints.save(
                self.run.folder / "checkpoints", step=self.step, model=self.parts.model,
                optimizers=self.parts.optimizers, state=state,
            )  # fmt: skip
            self.run.log({"event": "checkpoint", "step": self.step, "tokens": self.tokens})
            self.saved = self.step
        always = {checkpoints.name(0)} | ({checkpoints.name(self.best_step or 0)} if keep.best else set())
        checkpoints.prune(self.run.checkpoints(), keep=keep.keep, always=always)

    def restore(self, folder: Path) -> None:
        manifest = checkpoints.load_into(folder, model=self.parts.model, optimizers=self.parts.optimizers)
        state, self.step = manifest["state"], manifest["step"]
        self.tokens, self.seconds, self.updates = state["tokens"], state["seconds"], state["updates"]
        self.best_loss = math.inf if state["best_loss"] is None else state["best_loss"]
        self.best_step, self.since_best = state["best_step"], state["since_best"]
        self.run.log({"event": "resume", "step": self.step, "tokens": self.tokens, "cost": self.meter.reading()})
        self.saved = self.step
        evaluations = [row for row in self.run.rows() if row["event"] == "evaluation"]
        self.evaluated = evaluations[-1]["step"] if evaluations else None
        self.evaluations = evaluations
        samples = self.run.samples()
        self.sampled = samples[-1]["step"] if samples else None

    def forget_later(self) -> None:
        """What an earlier process wrote beyond where we go on from is void: damaged checkpoints and their rows."""
        for folder in self.run.checkpoints():
            if self.saved is None or checkpoint_step(folder) > self.saved:
                checkpoints.discard(folder)
        if self.saved is None and self.run.rows():
            self.run.log({"event": "resume", "step": 0, "tokens": 0, "cost": self.meter.reading()})


def _carry_out(start: Start, view: View, started: float) -> dict[str, Any]:
    on, settings = device(), start.settings
    parts = build(settings, start.shape, start.prepared.train, on)
    if start.initial is not None:
        checkpoints.fill(parts.model, checkpoints.weights(start.initial))
    # A session that was killed counts as far as it had been read.
    earlier: dict[str, float] = next((row["cost"] for row in reversed(start.run.rows()) if "cost" in row), {})
    precision = settings.train.precision
    device_here = this_device(on, precision)
    meter = Meter(started, on, device_here, usd_per_hour(settings), earlier, precision=precision)
    rails = Rails(settings, start.shape, start.prepared, parts.model, given=start.run.environment.get("from"))
    job = Job(start, parts, view, meter, rails)
    assert settings.watch.probe_tokens is not None
    job.probes = _probes(start, settings.watch.probe_tokens)
    if start.checkpoint is not None:
        job.restore(start.checkpoint)
        view.note(f"going on from step {job.step:,} of {settings.train.steps:,}")
    job.forget_later()
    rails.recall(job.run.rows())
    with stop_on_signals() as stop, view:
        reason = _train(job, stop)
        if reason == "interrupted":
            job.save()
            end = {"event": "end", "step": job.step, "tokens": job.tokens, "reason": reason}
            job.run.log(end | {"cost": meter.reading()})
            raise Interrupted(
                f"stopped at step {job.step:,}, everything is saved: go on with --out {job.run.folder}",
                stop.signal_number,
            )
        job.save()
        summary = finish(start, parts.model, view=view, stop=stop, meter=meter, step=job.step)
        end = {"event": "end", "step": job.step, "tokens": job.tokens, "reason": reason}
        job.run.log(end | {"plan_score": summary["plan_score"], "cost": meter.reading()})
    return summary


def _probes(start: Start, num_tokens: int) -> dict[str, Probe]:
    lengths = byte_lengths(start.prepared.tokenizer)
    sides = {"train": start.prepared.train, "validation": start.prepared.validation}
    return {
        name: Probe(part, context=start.shape.context, num_tokens=num_tokens, byte_lengths=lengths)
        for name, part in sides.items()
        if part.num_tokens > 1
    }


def _train(job: Job, stop: Stop) -> str:
    """Train, watching, until the length is reached, nothing improves any more, or a signal comes: says which."""
    settings, guard = job.settings, Guard()
    last, clip = settings.train.steps, settings.optimizer.clip_norm
    assert last is not None
    assert settings.train.microbatch is not None
    job.view.begin(first=job.step, total=last)
    reason = _look(job, stop)  # at step 0, and at what a signal kept from being looked at
    if reason is not None:
        return reason
    begin = time.perf_counter()
    for done in steps(
        job.parts.model, job.parts.optimizers, job.parts.batches, first=job.step, last=last,
        multiplier=rate(settings), microbatch=settings.train.microbatch, clip_norm=clip, seed=settings.train.seed,
        document_mask=settings.train.document_mask, autocast=job.parts.autocast, stop=stop,
    ):  # fmt: skip
        _record(job, done, time.perf_counter() - begin, guard)  # 7. print the losses
        reason = _look(job, stop)
        if reason is not None:
            return reason
        begin = time.perf_counter()
    return "interrupted" if stop.is_set() and job.step < last else "length reached"


def _look(job: Job, stop: Stop) -> str | None:
    """Evaluate, sample and save what is due at this step and not done yet; why training must end here, if it must."""
    settings, step = job.settings, job.step
    evaluate_every, sample_every = settings.watch.evaluate_every, settings.watch.sample_every
    every, patience = settings.checkpoint.every, settings.train.early_stop
    assert evaluate_every is not None
    assert sample_every is not None
    assert every is not None
    if (step % evaluate_every == 0 or step == settings.train.steps) and job.evaluated != step:
        if not _evaluate(job, stop):
            return "interrupted"
        if job.best_step == step and settings.checkpoint.best:
            job.save()
    enough = patience is not None and job.since_best >= patience
    if (step % sample_every == 0 or step == settings.train.steps or enough) and job.sampled != step:
        _sample(job, stop)  # 8. sample text
    if step % every == 0:
        job.save()
    return "no better validation loss" if enough else None


def _record(job: Job, done: Step, seconds: float, guard: Guard) -> None:
    update, settings = done.update, job.settings
    job.step = done.number
    job.tokens += update.num_tokens
    job.seconds += seconds
    job.updates += update.gradient_norm is not None
    rate_now = settings.optimizer.learning_rate or 0.0
    row = {
        "event": "step",
        "step": job.step,
        "tokens": job.tokens,
        "epoch": done.epoch,
        "seconds": job.seconds,
        "flops": job.tokens * job.start.shape.flops_per_token(),
        "train_loss_nats_per_token": update.loss,
        "learning_rate": rate_now * done.multiplier,
        "gradient_norm": update.gradient_norm,
        "tokens_per_second": update.num_tokens / seconds,
        "mfu": job.meter.mfu(update.num_tokens * job.start.shape.flops_per_token() / seconds),
    }
    job.run.log(row)
    job.view.row(row)
    sentence = guard.watch(update)
    _warn(job, job.rails.step(row) | ({} if sentence is None else {"leap": sentence}))
    _expect(job, seconds)
    if guard.hopeless:
        raise WorldError(
            f"training has diverged: no finite gradient in the last updates before step {job.step:,}; the last "
            f"checkpoint in {job.run.folder} is whole; try a lower --optimizer.learning_rate."
        )


def _expect(job: Job, seconds: float) -> None:
    """Say what is expected of the whole run, as soon as its first steps have shown their pace."""
    if job.start.plan is None or enough_steps(job.first_seconds):
        return
    job.first_seconds.append(seconds)
    if enough_steps(job.first_seconds):
        step = statistics.median(job.first_seconds[1:])
        job.start.plan(pace_of(job.parts, job.start.prepared.train, step))


def _warn(job: Job, faults: dict[str, str]) -> None:
    for fault, sentence in faults.items():
        job.run.log({"event": "warning", "step": job.step, "fault": fault, "sentence": sentence})
        job.view.note(f"step {job.step:,}: {sentence}")


def _evaluate(job: Job, stop: Stop) -> bool:
    """Score the probes and record it; False when a signal came meanwhile."""
    scores: dict[str, Surprise] = {}
    # Fresh weights copy nothing and are as surprised everywhere: a few windows say so; the first update need not wait.
    tokens = job.settings.watch.probe_tokens or FIRST_PROBE
    for name, probe in (_probes(job.start, min(FIRST_PROBE, tokens)) if job.is_fresh else job.probes).items():
        score = probe.score(job.parts.model, stop)
        if score is None:
            return False
        scores[name] = score
    row: dict[str, Any] = {
        "event": "evaluation",
        "step": job.step,
        "tokens": job.tokens,
        "epoch": job.parts.batches.epoch(job.step),
        "seconds": job.seconds,
        "flops": job.tokens * job.start.shape.flops_per_token(),
        "probe_train_loss_nats_per_token": scores["train"].loss,
    }
    if "validation" in scores:
        loss = scores["validation"].loss
        row |= {"validation_loss_nats_per_token": loss, "validation_bits_per_byte": scores["validation"].bits_per_byte}
        row["generalization_gap_bits_per_byte"] = scores["validation"].bits_per_byte - scores["train"].bits_per_byte
        if not job.is_fresh:
            row["copied_share"] = job.copies.score(job.parts.model)
        job.since_best += 1
        if loss < job.best_loss:
            job.best_loss, job.best_step, job.since_best = loss, job.step, 0
    warnings = job.rails.evaluation(row)
    ahead = job.rails.forecast(job.final_tokens)
    row["forecast_loss_nats_per_token"] = ahead and ahead.central
    row["forecast_loss_nats_per_token_interval_90"] = ahead and (ahead.low, ahead.high)
    row["cost"] = job.meter.reading()
    job.run.log(row)
    job.view.row(row)
    _warn(job, warnings)
    job.evaluated = job.step
    job.evaluations.append(row)
    sentence = None if job.parted else only_memorizing(job.evaluations, job.start.prepared.train.num_tokens)
    if sentence is not None:
        job.parted = True
        _warn(job, {"memorizing": sentence})
    return True


def _sample(job: Job, stop: Stop) -> None:
    """Let the model write, always from the same prompts and the same randomness, so that samples can be compared."""
    tokenizer, settings, model = job.start.prepared.tokenizer, job.settings, job.parts.model
    num_tokens = min(settings.watch.sample_tokens, FIRST_SAMPLE) if job.is_fresh else settings.watch.sample_tokens
    texts: dict[str, str] = {}
    for prompt in settings.watch.prompts or [""]:
        ids = [] if tokenizer.end_of_text is None else [tokenizer.end_of_text]
        ids += tokenizer.encode(prompt).tolist()
        if not ids:
            ids = job.start.prepared.train.take(np.zeros(1, np.int64), 1)[0].tolist()
        ids = ids[-model.shape.context :]
        written: list[int] = []
        for token in generate(
            model, ids, max_tokens=num_tokens, temperature=settings.watch.temperature, seed=0,
            stop_ids=() if tokenizer.end_of_text is None else (tokenizer.end_of_text,),
        ):  # fmt: skip
            written.append(token)
            if stop.is_set():
                return
        texts[prompt] = tokenizer.decode(written)
    for prompt, text in texts.items():
        job.run.log_sample(
            {"step": job.step, "tokens": job.tokens, "prompt": prompt, "text": text, "seed": 0,
             "temperature": settings.watch.temperature}
        )  # fmt: skip
        job.view.show_sample(prompt + text)
    job.sampled = job.step
