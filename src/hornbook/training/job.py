"""A run between two updates: what it records, evaluates, samples, decides and saves. Nothing here updates weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from hornbook.data.shards import Prepared
from hornbook.engine import checkpoint as checkpoints
from hornbook.engine.device import Telemetry
from hornbook.engine.saving import Saver
from hornbook.engine.signals import Stop
from hornbook.facts.errors import InputError
from hornbook.facts.hardware import Accelerator
from hornbook.facts.settings import Settings
from hornbook.facts.shape import GPTShape
from hornbook.model.decoder import Decoder
from hornbook.planning.workload import StepTimes, flat, step_tokens
from hornbook.records.run import Run, checkpoint_step
from hornbook.reporting.live import View
from hornbook.training.best import Best, prune
from hornbook.training.decisions import Decision, decays, decision_of, decisions_of, in_force, skipped_batches
from hornbook.training.loop import Step, TrainState
from hornbook.training.monitor import Monitor, divergence_sentence
from hornbook.training.pace import FirstSteps, StepClock
from hornbook.training.watch import Watch

if TYPE_CHECKING:
    from hornbook.engine.world import World
    from hornbook.training.deadline import Deadline


@dataclass(frozen=True)
class RunContext:
    """Everything that is settled before the first update."""

    run: Run
    settings: Settings
    shape: GPTShape
    prepared: Prepared
    initial: Decoder | None = None  # given weights, of --from
    checkpoint: Path | None = None  # to go on from
    device: Accelerator | None = None  # where it was measured just now
    plan: Callable[[StepTimes], None] | None = None  # to be called once the times of the first steps are known
    world: World | None = None  # the processes that train together
    may_decide: bool = False  # whether the run may end early: nobody gave it a length, and its best weights are used
    time: tuple[float, int | None] | None = None  # of a budget: its seconds, and how many steps are enough
    finish: bool = False  # early, as soon as all that was recorded has happened


@dataclass
class Job:
    """A run under way, and the few numbers that a checkpoint carries besides weights."""

    context: RunContext
    state: TrainState
    view: View
    telemetry: Telemetry
    monitor: Monitor
    watch: Watch
    saver: Saver
    first_steps: FirstSteps
    clock: StepClock
    deadline: Deadline | None = None
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    updates: int = 0  # steps that were applied: those with a finite gradient
    best: Best = field(default_factory=Best)
    since_best: int = 0  # evaluations at regular steps
    decisions: list[Decision] = field(default_factory=list)  # that the weights are a function of
    recorded: list[Decision] = field(default_factory=list)  # in the log, perhaps by a process that went further
    saved: int | None = None  # the steps of the newest checkpoint, evaluation and sample
    evaluated: int | None = None
    sampled: int | None = None
    history: list[dict[str, Any]] = field(default_factory=list)  # rows of evaluations and decisions
    memorizing: bool = False  # it was reported that what is learned now does not carry over

    @property
    def run(self) -> Run:
        return self.context.run

    @property
    def settings(self) -> Settings:
        return self.context.settings

    @property
    def is_fresh(self) -> bool:
        return self.step == 0 and self.run.environment.get("from") is None

    @property
    def last(self) -> int:
        """The number of the last update."""
        return self.watch.eval_steps.steps

    @property
    def position(self) -> dict[str, Any]:
        """How far training is."""
        return {
            "step": self.step, "tokens": self.tokens, "epoch": self.state.batches.epoch(self.step),
            "seconds": self.seconds, "flops": self.tokens * self.context.shape.flops_per_token(),
        }  # fmt: skip

    # ---- What is due after a step

    def uses_weights(self, step: int) -> bool:
        """Whether anything is done with the weights after this step."""
        ahead = self.ahead
        kept = any(step in (decision.from_step, decision.step) for decision in ahead)
        settled = self.deadline is not None and not ahead and self.deadline.due(step, self.decisions)
        return self.saver.mark_due(step) or self.sample_due(step) or self.watch.eval_steps.due(step) or kept or settled

    @property
    def ahead(self) -> list[Decision]:
        """What an earlier process has decided and this one has not come to."""
        return [decision for decision in self.recorded if decision not in self.decisions]

    def evaluation_due(self) -> bool:
        passed_over = self.step in skipped_batches(self.decisions) and self.step < self.last  # they were seen before
        return self.watch.eval_steps.due(self.step) and self.evaluated != self.step and not passed_over

    def sample_due(self, step: int) -> bool:
        sample_every = self.settings.watch.sample_every
        assert sample_every is not None
        return step % sample_every == 0

    def has_stalled(self) -> bool:
        """Whether `train.early_stop` evaluations went by without a better validation loss."""
        patience = self.settings.train.early_stop
        return patience is not None and self.since_best >= patience

    # ---- Record

    def record(self, step: Step) -> None:
        """Log the loss and the pace of an update, and warn of what looks wrong."""
        update, optimizer = step.update, self.settings.optimizer
        seconds, stood_still = self.clock.hear(step.seconds)
        if self.deadline is not None:
            self.deadline.hear(seconds)
        self.step = step.number
        self.tokens += update.num_tokens
        self.seconds += seconds
        self.updates += update.gradient_norm is not None
        row = {
            "event": "step", **self.position, "train_loss_nats_per_token": update.loss,
            "learning_rate": (optimizer.learning_rate or 0.0) * step.lr_scale,
            "gradient_norm": update.gradient_norm, "tokens_per_second": update.num_tokens / seconds,
            "mfu": self.telemetry.mfu(update.num_tokens * self.context.shape.flops_per_token() / seconds),
        }  # fmt: skip
        if optimizer.name == "muon":
            row["muon_learning_rate"] = (optimizer.muon_learning_rate or 0.0) * step.lr_scale
        self.run.log(row)
        self.view.row(row)
        self.saver.listen()
        issues = self.monitor.step(row) | ({} if stood_still is None else {"stood still": stood_still})
        if issues.keys() & {"skipped", "loss spike"}:
            from hornbook.training.left_out import warn_with_windows

            warn_with_windows(self, issues, [self.step])
        else:
            self.warn(issues)
        if not self.monitor.was_skipped:  # the first steps are timed with a sample, which such weights may not give
            self.first_steps.hear(seconds, step.is_last)

    def pass_over(self) -> None:
        """Count a step whose batch is left out."""
        self.step += 1
        self.saver.mark_due(self.step)
        self.run.log({"event": "skip", **self.position})

    def warn(self, issues: dict[str, str], **details: Any) -> None:
        for name, sentence in issues.items():
            self.run.log({"event": "warning", "step": self.step, "fault": name, "sentence": sentence} | details)
            self.view.note(f"step {self.step:,}: {sentence}")

    def divergence(self) -> str:
        """The sentence for a run whose weights are lost."""
        self.saver.settle()
        return divergence_sentence(self.run.rows(), map(checkpoint_step, self.run.checkpoints()), self.run.folder)

    # ---- Evaluate and sample

    def evaluate(self, stop: Stop) -> bool:
        """Score the probes and record it; False when a signal came meanwhile."""
        model, fresh = self.state.whole(), self.is_fresh
        numbers = self.watch.evaluate(model, self.step, fresh=fresh, stop=stop, world=self.context.world)
        if numbers is None:
            return False
        row: dict[str, Any] = {"event": "evaluation"} | self.position | numbers
        loss = numbers.get("probe_validation_loss_nats_per_token")
        self.since_best += loss is not None and self.watch.eval_steps.is_regular(self.step)
        if loss is not None and loss < self.best.loss and not self.goes_back_to(self.best.step):
            self.since_best = 0
            decided = not self.context.may_decide or decays(self.settings, self.step, self.decisions)
            go_back = self.step > 0 and (not decided or self.goes_back_to(self.step))
            self.best.take(self.state, step=self.step, loss=loss, updates=self.updates, optimizer=go_back)
        warnings = self.monitor.evaluation(row)
        row |= flat("forecast_loss_nats_per_token", self.monitor.forecast(self.last * step_tokens(self.settings)))
        row["cost"] = self.telemetry.reading()
        self.run.log(row)
        self.view.row(row)
        self.warn(warnings)
        self.evaluated = self.step
        self.history.append(row)
        self._warn_of_memorizing()
        if self.saved == self.step:  # by a process that was interrupted before this: its manifest knows nothing of it
            self.saved = None
            self.save()
        return True

    def _warn_of_memorizing(self) -> None:
        if self.memorizing or len(self.history) < 2:
            return
        from hornbook.reporting.words import only_memorizing

        monitor = self.monitor
        sentence = only_memorizing(self.history, monitor.tokens_per_epoch, repeated_share=monitor.repeated_share)
        if sentence is not None:
            self.memorizing = True
            self.warn({"memorizing": sentence})

    def sample(self, stop: Stop) -> None:
        """Let the model write, and record it, once a step."""
        if self.sampled == self.step:
            return
        try:
            texts = self.watch.samples(self.state.whole(), fresh=self.is_fresh, stop=stop)
        except InputError:
            if self.step == 0:
                raise
            sentence = "nothing can be sampled: the logits are no longer finite numbers."
            self.warn(self.monitor.once("no sample", sentence))
            self.sampled = self.step
            return
        if texts is None:
            return
        where = {"step": self.step, "tokens": self.tokens, "seed": 0, "temperature": self.settings.watch.temperature}
        for prompt, text in texts.items():
            self.run.log_sample(where | {"prompt": prompt, "text": text})
            self.view.show_sample(prompt + text)
        self.sampled = self.step

    # ---- Decide

    def goes_back_to(self, step: int | None) -> bool:
        """Whether a decision that lies ahead needs the weights of this step."""
        return any(made.decision == "decay" and made.from_step == step for made in self.ahead)

    def decide(self) -> None:
        """Follow what an earlier process decided here, or decide what this one must. Raises SystemFailure once the run
        has diverged for good."""
        if self.monitor.diverged or self.monitor.spiked:
            from hornbook.training.left_out import leave_out

            leave_out(self)
        start = self.context
        if self.recorded or self.deadline is not None or start.may_decide or start.finish or self.has_stalled():
            from hornbook.training.deciding import decide_after_step

            decide_after_step(self)

    # ---- Save and go on

    def save(self, *, beside: bool = False) -> None:
        """Write a checkpoint and drop what is no longer kept; `beside`: while an accelerator trains on."""
        self.saver.settle()
        keep, step, tokens = self.settings.checkpoint, self.step, self.tokens
        state = {
            "tokens": tokens, "seconds": self.seconds, "updates": self.updates, "since_best": self.since_best,
            "use_step": self.best.step if keep.best else None, "decisions": msgspec.to_builtins(self.decisions),
            "prepared": self.context.prepared.key, **self.best.state(),
        }  # fmt: skip
        newest = None if self.monitor.was_skipped else keep.keep  # the run may have to go back
        drop_old = partial(prune, self.run, keep=newest, steady=self.saver.steady)
        if self.saved == step:
            drop_old()
            return

        def written() -> None:
            self.run.log({"event": "checkpoint", "step": step, "tokens": tokens})
            drop_old()

        self.best.write(self.run, self.state, step)
        write = partial(self.state.write, final=self.run.checkpoint_folder(step), step=step, state=state)
        self.saver.write(self.state.contents(optimizers=step > 0), write, then=written, beside=beside)
        self.saved = step

    def restore(self, folder: Path) -> None:
        """Go on from a checkpoint."""
        manifest = self.state.load(folder)
        state, self.step = manifest["state"], manifest["step"]
        if missing := {"tokens", "seconds", "updates", "since_best", "best_loss", "best_step"} - state.keys():
            raise InputError(f"{folder} is damaged: it has no {min(missing)}; go back to an older checkpoint.")
        self.tokens, self.seconds, self.updates = state["tokens"], state["seconds"], state["updates"]
        self.best, self.since_best = Best.of(state), state["since_best"]
        self.run.log({"event": "resume", "step": self.step, "tokens": self.tokens, "cost": self.telemetry.reading()})
        self.saved = self.step
        self.recorded = decisions_of(self.run.rows())
        from hornbook.training.deciding import follow

        one = state.get("decision")  # of a version whose runs made one
        saved = [decision_of(values) for values in state.get("decisions", [one] if one is not None else [])]
        for decision in in_force([*saved, *self.recorded]):
            if decision in saved or decision.step < self.step:
                follow(self, decision)
        self.history = [row for row in self.run.rows() if row["event"] in ("evaluation", "decision")]
        self.evaluated = max((row["step"] for row in self.history if row["event"] == "evaluation"), default=None)
        self.memorizing = any(row.get("fault") == "memorizing" for row in self.run.rows())
        samples = self.run.samples()
        self.sampled = samples[-1]["step"] if samples else None

    def forget_later(self) -> None:
        """What an earlier process wrote beyond where we go on from is void: damaged checkpoints and their rows."""
        for folder in self.run.checkpoints():
            if self.saved is None or checkpoint_step(folder) > self.saved:
                checkpoints.discard(folder)
        if self.saved is None and self.run.rows():
            # What was seen at step 0 is seen again: that of the earlier process is void as well.
            self.run.log({"event": "resume", "step": -1, "tokens": 0, "cost": self.telemetry.reading()})
            self.recorded = decisions_of(self.run.rows())
