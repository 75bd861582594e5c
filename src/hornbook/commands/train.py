"""`hornbook.train`: what happens when. Of the eight steps, 1 to 6 are in training/; 7 and 8 stand in watch.py."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from hornbook.commands.train_report import finish
from hornbook.engine import checkpoint as checkpoints
from hornbook.engine.device import Telemetry, device, return_freed_memory, this_device
from hornbook.engine.saving import Saver
from hornbook.engine.signals import Stop, stop_on_signals
from hornbook.facts.errors import InputError, Interrupted, SystemFailure
from hornbook.facts.settings import Settings, from_table, overridden, read_table
from hornbook.planning.choose import step_tokens
from hornbook.records.run import Run, checkpoint_step, is_run
from hornbook.reporting.curves import evaluations
from hornbook.reporting.live import View
from hornbook.reporting.words import only_memorizing
from hornbook.setup.build import build
from hornbook.setup.decisions import Decision, decays, decide, decision_of, decisions_of, rate, steady_steps
from hornbook.setup.pace import FirstSteps
from hornbook.setup.resume import resumed
from hornbook.setup.run import RunContext, fresh, usd_per_hour
from hornbook.training.best import Best, prune
from hornbook.training.loop import Step, Trainer, steps
from hornbook.training.monitor import Rails, diverged
from hornbook.training.watch import Watch


def train(
    *texts: str, recipe: str | Path | None = None, out: str | Path | None = None, from_: str | None = None,
    view: View | None = None, started: float | None = None, **changes: Any,
) -> dict[str, Any]:  # fmt: skip
    """Train a model on `texts` and return the summary of its run, as `hornbook train --json` prints it.

    `changes` are settings by their dotted name, such as `**{"train.steps": 100}`, on top of `recipe`. With the `out`
    of an earlier run, that run goes on exactly where its newest checkpoint stands. Raises InputError for bad input,
    SystemFailure when the disk is full, Interrupted after a signal, when everything is saved.
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
        raise SystemFailure(f"cannot go on: {error.strerror or error}.") from error


@dataclass
class Job:
    """A run under way, and the few numbers that a checkpoint carries besides weights."""

    start: RunContext
    parts: Trainer
    view: View
    meter: Telemetry
    rails: Rails
    watch: Watch
    saver: Saver
    first_steps: FirstSteps
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    updates: int = 0  # steps that were applied: those with a finite gradient
    best: Best = field(default_factory=Best)
    since_best: int = 0  # even looks
    decision: Decision | None = None  # that the weights are a function of
    recorded: list[Decision] = field(default_factory=list)  # in the log, perhaps by a process that went further
    saved: int | None = None  # the steps of the newest checkpoint, evaluation and sample
    evaluated: int | None = None
    sampled: int | None = None
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    parted: bool = False  # it was said that what is learned now does not carry over

    @property
    def run(self) -> Run:
        return self.start.run

    @property
    def settings(self) -> Settings:
        return self.start.settings

    @property
    def is_fresh(self) -> bool:
        return self.step == 0 and self.run.environment.get("from") is None

    @property
    def last(self) -> int:
        """The number of the last update."""
        return self.watch.looks.steps

    def looked_at(self, step: int) -> bool:
        """Whether anything is done with the weights after this step."""
        sample_every = self.settings.watch.sample_every
        assert sample_every is not None
        return self.saver.due(step) or step % sample_every == 0 or self.watch.looks.due(step)

    @property
    def position(self) -> dict[str, Any]:
        """How far training is."""
        return {
            "step": self.step,
            "tokens": self.tokens,
            "epoch": self.parts.batches.epoch(self.step),
            "seconds": self.seconds,
            "flops": self.tokens * self.start.shape.flops_per_token(),
        }

    def save(self, *, beside: bool = False) -> None:
        """Write a checkpoint and drop what is no longer kept; `beside`: while an accelerator trains on."""
        self.saver.settle()
        keep, parts, step, tokens = self.settings.checkpoint, self.parts, self.step, self.tokens
        state = {
            "tokens": self.tokens,
            "seconds": self.seconds,
            "updates": self.updates,
            "since_best": self.since_best,
            "use_step": self.best.step if keep.best else None,
            "decision": None if self.decision is None else msgspec.to_builtins(self.decision),
            "prepared": self.start.prepared.key,
        } | self.best.state()
        drop_old = partial(prune, self.run, keep=keep.keep, steady=self.saver.steady)
        if self.saved == step:
            drop_old()
            return

        def written() -> None:
            self.run.log({"event": "checkpoint", "step": step, "tokens": tokens})
            drop_old()

        self.best.write(self.run, parts, step)
        self.saver.write(
            self.run.checkpoint_folder(step), checkpoints.contents(parts.model, parts.optimizers if step else ()),
            step=step, shape=parts.model.shape, state=state, then=written, beside=beside,
        )  # fmt: skip
        self.saved = step

    def restore(self, folder: Path) -> None:
        manifest = checkpoints.load_into(folder, model=self.parts.model, optimizers=self.parts.optimizers)
        state, self.step = manifest["state"], manifest["step"]
        if missing := {"tokens", "seconds", "updates", "since_best", "best_loss", "best_step"} - state.keys():
            raise InputError(f"{folder} is damaged: it has no {min(missing)}; go back to an older checkpoint.")
        self.tokens, self.seconds, self.updates = state["tokens"], state["seconds"], state["updates"]
        self.best, self.since_best = Best.of(state), state["since_best"]
        self.run.log({"event": "resume", "step": self.step, "tokens": self.tokens, "cost": self.meter.reading()})
        self.saved = self.step
        self.recorded = decisions_of(self.run.rows())
        if state.get("decision") is not None:
            self.follow(decision_of(state["decision"]))
        self.evaluations = [row for row in self.run.rows() if row["event"] in ("evaluation", "decision")]
        self.evaluated = max((row["step"] for row in self.evaluations if row["event"] == "evaluation"), default=None)
        self.parted = any(row.get("fault") == "memorizing" for row in self.run.rows())
        samples = self.run.samples()
        self.sampled = samples[-1]["step"] if samples else None

    def follow(self, decision: Decision) -> None:
        """From now on the run is what was decided; it is written down where it is not yet."""
        self.decision = decision
        self.watch.follow(decision.step, decision.last)
        self.view.total = self.last
        if decision not in self.recorded:
            self.recorded.append(decision)
            row = {"event": "decision", "tokens": self.tokens, "sentence": decision.sentence}
            row |= msgspec.to_builtins(decision)
            self.run.log(row)
            self.evaluations.append(row)
            self.view.note(f"step {decision.step:,}: {decision.sentence}")

    def forget_later(self) -> None:
        """What an earlier process wrote beyond where we go on from is void: damaged checkpoints and their rows."""
        for folder in self.run.checkpoints():
            if self.saved is None or checkpoint_step(folder) > self.saved:
                checkpoints.discard(folder)
        if self.saved is None and self.run.rows():
            # What was seen at step 0 is seen again: that of the earlier process is void as well.
            self.run.log({"event": "resume", "step": -1, "tokens": 0, "cost": self.meter.reading()})
            self.recorded = decisions_of(self.run.rows())


def _carry_out(start: RunContext, view: View, started: float) -> dict[str, Any]:
    on, settings = device(), start.settings
    parts = build(settings, start.shape, start.prepared.train, on)
    if start.initial is not None:
        checkpoints.fill(parts.model, checkpoints.weights(start.initial))
    # A session that was killed counts as far as it had been read.
    earlier: dict[str, float] = next((row["cost"] for row in reversed(start.run.rows()) if "cost" in row), {})
    precision = settings.train.precision
    device_here = this_device(on, precision)
    meter = Telemetry(started, on, device_here, usd_per_hour(settings), earlier, precision=precision)
    rails = Rails(settings, start.shape, start.prepared, parts.model, given=start.run.environment.get("from"))
    assert settings.checkpoint.every is not None
    saver = Saver(settings.checkpoint.every, steady_steps(settings), beside=on.type != "cpu")
    first_steps = FirstSteps(start.plan, parts, start.prepared.train)
    job = Job(start, parts, view, meter, rails, Watch(settings, start.shape, start.prepared), saver, first_steps)
    if start.checkpoint is not None:
        job.restore(start.checkpoint)
        view.note(f"going on from step {job.step:,} of {job.last:,}")
    job.forget_later()
    rails.recall(job.run.rows())
    with stop_on_signals() as stop, view:
        try:
            reason = _train(job, stop)
            job.save()
        except BaseException:
            with suppress(OSError):  # what is being written still belongs to whoever holds the lock
                saver.settle()
            raise
        saver.host.clear()
        end = {"event": "end", "step": job.step, "tokens": job.tokens, "reason": reason}
        if reason == "interrupted":
            job.run.log(end | {"cost": meter.reading()})
            raise Interrupted(
                f"stopped at step {job.step:,}, everything is saved: go on with --out {job.run.folder}",
                stop.signal_number,
            )
        parts.release()
        return_freed_memory()
        summary = finish(
            start, parts.model, watch=job.watch, best=job.best, view=view, stop=stop, meter=meter, last=job.position
        )  # fmt: skip
        job.run.log(end | {"plan_score": summary["plan_score"], "cost": meter.reading()})
        if "bits_per_byte" not in summary and job.rails.was_skipped:
            raise SystemFailure(f"{_diverged(job)} The report up to there is {summary['report']}.")
    return summary


def _train(job: Job, stop: Stop) -> str:
    """Train, watching, until the length is reached, nothing improves any more, or a signal comes: says which."""
    settings = job.settings
    assert settings.train.microbatch is not None
    job.view.begin(first=job.step, total=job.last)
    job.saver.due(job.step)
    reason = _look(job, stop)  # at step 0, and at what a signal kept from being looked at
    while reason is None and job.step < job.last and not stop.is_set():
        decision = job.decision
        for done in steps(
            job.parts.model, job.parts.optimizers, job.parts.batches, first=job.step, last=job.last,
            lr_scale=rate(settings, decision), microbatch=settings.train.microbatch,
            clip_norm=settings.optimizer.clip_norm, seed=settings.train.seed,
            document_mask=settings.train.document_mask, autocast=job.parts.autocast, stop=stop, looked_at=job.looked_at,
        ):  # fmt: skip
            _record(job, done)  # 7. print the losses
            reason = _look(job, stop)
            if reason is not None or job.decision is not decision:
                break
    if reason is not None:
        return reason
    if stop.is_set() and job.step < job.last:
        return "interrupted"
    return "length reached" if job.decision is None else f"turned: {job.decision.decision}"


def _look(job: Job, stop: Stop) -> str | None:
    """Evaluate, decide, sample and save what is due at this step and not done yet; why training must end here, if it
    must."""
    settings, step = job.settings, job.step
    sample_every, patience = settings.watch.sample_every, settings.train.early_stop
    assert sample_every is not None
    if job.watch.looks.due(step) and job.evaluated != step:
        if not _evaluate(job, stop):
            return "interrupted"
        if job.saved == step:  # by a process that was interrupted before this look: its manifest knows nothing of it
            job.saved = None
            job.save()
    if step % sample_every == 0 and job.sampled != step:
        _sample(job, stop)  # 8. sample text
    _decide(job)
    enough = patience is not None and job.since_best >= patience
    ends = step == job.last or enough
    if ends and job.sampled != step:
        _sample(job, stop)
    if job.saver.due_at == step:
        job.save(beside=True)
    return "no better validation loss" if enough else None


def _decide(job: Job) -> None:
    """What this look calls for, or what an earlier process decided here."""
    if not job.start.may_decide or job.step >= job.last:
        return
    since = -1 if job.decision is None else job.decision.step
    ahead = [decision for decision in job.recorded if decision.step > since]
    decision = next((each for each in ahead if each.step == job.step), None)
    if not ahead and job.evaluated == job.step > since and job.watch.looks.even(job.step):
        epoch = job.start.prepared.train.num_tokens
        decision = decide(evaluations(job.evaluations), job.settings, job.step, job.decision, epoch_tokens=epoch)
    if decision is None:
        return
    job.saver.settle()  # it may be writing the best weights
    if decision.decision == "decay" and not job.best.can_go_on(job.run):
        decision = Decision(decision="end", step=decision.step, from_step=decision.from_step)
    if decision.decision == "decay":
        job.best.put_back(job.run, job.parts)
        job.updates = job.best.updates
    job.follow(decision)
    job.saved = None
    job.save()


def _record(job: Job, done: Step) -> None:
    update, seconds, settings = done.update, done.seconds, job.settings
    job.step = done.number
    job.tokens += update.num_tokens
    job.seconds += seconds
    job.updates += update.gradient_norm is not None
    rate_now = settings.optimizer.learning_rate or 0.0
    row = {
        "event": "step",
        **job.position,
        "train_loss_nats_per_token": update.loss,
        "learning_rate": rate_now * done.lr_scale,
        "gradient_norm": update.gradient_norm,
        "tokens_per_second": update.num_tokens / seconds,
        "mfu": job.meter.mfu(update.num_tokens * job.start.shape.flops_per_token() / seconds),
    }
    job.run.log(row)
    job.view.row(row)
    job.saver.listen()
    _warn(job, job.rails.step(row))
    job.first_steps.hear(seconds, done.is_last)
    if job.rails.is_lost:
        raise SystemFailure(_diverged(job))


def _diverged(job: Job) -> str:
    job.saver.settle()
    return diverged(job.run.rows(), map(checkpoint_step, job.run.checkpoints()), job.run.folder)


def _warn(job: Job, faults: dict[str, str]) -> None:
    for fault, sentence in faults.items():
        job.run.log({"event": "warning", "step": job.step, "fault": fault, "sentence": sentence})
        job.view.note(f"step {job.step:,}: {sentence}")


def _evaluate(job: Job, stop: Stop) -> bool:
    """Score the probes and record it; False when a signal came meanwhile."""
    numbers = job.watch.evaluate(job.parts.model, job.step, fresh=job.is_fresh, stop=stop)
    if numbers is None:
        return False
    row: dict[str, Any] = {"event": "evaluation"} | job.position | numbers
    loss = numbers.get("probe_validation_loss_nats_per_token")
    job.since_best += loss is not None and job.watch.looks.even(job.step)
    if loss is not None and loss < job.best.loss:
        job.since_best = 0
        may_go_back = job.start.may_decide and job.decision is None and not decays(job.settings, job.step)
        go_back = may_go_back and job.step > 0
        job.best.take(job.parts, step=job.step, loss=loss, updates=job.updates, optimizer=go_back)
    warnings = job.rails.evaluation(row)
    ahead = job.rails.forecast(job.last * step_tokens(job.settings))
    row["forecast_loss_nats_per_token"] = ahead and ahead.central
    row["forecast_loss_nats_per_token_interval_90"] = ahead and (ahead.low, ahead.high)
    row["cost"] = job.meter.reading()
    job.run.log(row)
    job.view.row(row)
    _warn(job, warnings)
    job.evaluated = job.step
    job.evaluations.append(row)
    num_tokens, repeated = job.start.prepared.train.num_tokens, job.rails.repeated_share
    sentence = None if job.parted else only_memorizing(job.evaluations, num_tokens, repeated_share=repeated)
    if sentence is not None:
        job.parted = True
        _warn(job, {"memorizing": sentence})
    return True


def _sample(job: Job, stop: Stop) -> None:
    """Let the model write."""
    try:
        texts = job.watch.samples(job.parts.model, fresh=job.is_fresh, stop=stop)
    except InputError:
        if job.step == 0:
            raise
        _warn(job, job.rails.once("no sample", "nothing can be sampled: the logits are no longer finite numbers."))
        job.sampled = job.step
        return
    if texts is None:
        return
    where = {"step": job.step, "tokens": job.tokens, "seed": 0, "temperature": job.settings.watch.temperature}
    for prompt, text in texts.items():
        job.run.log_sample(where | {"prompt": prompt, "text": text})
        job.view.show_sample(prompt + text)
    job.sampled = job.step
