"""What a run decides of itself, and what its decisions mean: imported where one is made or read, which is seldom."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from hornbook.facts.looks import Evaluation, turned, went_on
from hornbook.facts.settings import Settings
from hornbook.reporting.curves import evaluations
from hornbook.training.decisions import Decision, decays, decisions_of, last_step

if TYPE_CHECKING:
    from hornbook.training.job import Job

DECAY = 0.5  # of the steps up to the best look: so long is the decay that follows it
FINISH = 0.25  # of the steps so far: so long is the decay of a run that is finished early


def sentence(decision: Decision) -> str:
    """What was decided, in words."""
    risen, more = f"validation loss has risen since step {decision.from_step:,}", f"{decision.decay_steps:,} more steps"
    match decision.decision:
        case "decay":
            return f"{risen}: the run goes back to the weights of that step and decays the learning rate over {more}."
        case "end":
            return (
                f"{risen} although the learning rate decays: the run ends here, with the weights of step "
                f"{decision.from_step:,}."
            )
        case "stop":
            return f"no evaluation since step {decision.from_step:,} was better: the run ends here."
        case "length":
            return f"by its pace up to step {decision.step:,} the budget has time for {more}."
        case "finish":
            return f"the run is finished early, on request: the learning rate decays over {more}."
        case "lengthen":
            return "the run is made longer, on request."
        case "skip":
            batches = f"{decision.batches:,} batch{'es' * (decision.batches > 1)}"
            return (
                f"numbers went wrong: the run goes back to the weights of step {decision.step:,} and leaves out "
                f"{batches}, so that not every token is read once an epoch."
            )


def tokens_read(rows: Sequence[Mapping[str, Any]], step: int) -> int:
    """The training tokens that the weights after `step` have read; what was given up before is not among them.

    >>> rows = [{"event": "step", "step": s, "tokens": 10 * s} for s in range(1, 13)]
    >>> decision = {"event": "decision", "decision": "decay", "step": 10, "from_step": 4, "decay_steps": 2}
    >>> tokens_read([*rows, decision], 9), tokens_read([*rows, decision], 12)
    (90, 60)
    """
    tokens_at = {0: 0} | {row["step"]: row["tokens"] for row in rows if row.get("event") == "step"}

    def spent(at: int) -> int:
        return max((tokens for number, tokens in tokens_at.items() if number <= at), default=0)

    went_back = [d for d in decisions_of(rows) if d.decision == "decay" and d.step <= step]
    return spent(step) - sum(spent(d.step) - spent(d.from_step) for d in went_back)


def decide(
    evaluations: Sequence[Evaluation], settings: Settings, step: int, decisions: Sequence[Decision] = (), *,
    epoch_tokens: int = 0,
) -> Decision | None:  # fmt: skip
    """The decision that the evaluations up to `step` call for, if they do, after earlier `decisions`. None before one
    epoch, of `epoch_tokens`, is read."""
    for earlier in decisions:
        if earlier.decision == "decay":
            evaluations = went_on(evaluations, from_step=earlier.from_step, step=earlier.step)
    best = turned(evaluations, after_tokens=epoch_tokens)
    if best is None:
        return None
    if decays(settings, step, decisions):
        return Decision(decision="end", step=step, from_step=best.step)
    steps = max(1, min(round(DECAY * best.step), last_step(settings, decisions) - step))
    return Decision(decision="decay", step=step, from_step=best.step, decay_steps=steps)


def finish(settings: Settings, step: int, decisions: Sequence[Decision]) -> Decision:
    """To finish after `step` updates: what is left of the steps, but no longer decay than is needed."""
    steps = min(max(1, round(FINISH * step)), last_step(settings, decisions) - step)
    return Decision(decision="finish", step=step, from_step=step, decay_steps=steps)


# ---- Of a job


def decide_after_step(job: Job) -> None:
    """Follow what an earlier process decided here, or what this one must decide now that none lies ahead."""
    if job.goes_back_to(job.step) and job.best.step != job.step:
        job.best.take(job.state, step=job.step, loss=math.inf, updates=job.updates, optimizer=True)
    while job.step < job.last and (decision := _due(job)) is not None:
        _carry_out(job, decision)


def _due(job: Job) -> Decision | None:
    if ahead := job.ahead:
        return next((decision for decision in ahead if decision.step == job.step), None)
    settings, step, decisions = job.settings, job.step, job.decisions
    if job.context.finish and step > 0 and not any(made.decision == "finish" for made in decisions):
        return finish(settings, step, decisions)
    if job.deadline is not None and job.deadline.due_at == step:
        job.deadline.due_at = None
        return job.deadline.settle(step, job.last, decisions)
    if job.has_stalled():
        return Decision(decision="stop", step=step, from_step=job.best.step or 0)
    went_back = max((made.step for made in decisions if made.decision == "decay"), default=-1)
    looked = job.evaluated == step and job.watch.eval_steps.is_regular(step) and step != went_back
    if not job.context.may_decide or not looked:
        return None
    losses, epoch = evaluations(job.history), job.context.prepared.train.num_tokens
    return decide(losses, settings, step, decisions, epoch_tokens=epoch)


def _carry_out(job: Job, decision: Decision) -> None:
    job.saver.settle()  # it may be writing the best weights
    if decision.decision == "decay" and not job.best.can_go_on(job.run, job.state):
        decision = Decision(decision="end", step=decision.step, from_step=decision.from_step)
    if decision.decision == "decay":
        job.best.put_back(job.run, job.state)
        job.updates = job.best.updates
    follow(job, decision)
    if decision.decision in ("decay", "end"):
        job.saved = None
    if decision.decision == "skip":
        from hornbook.training.left_out import warn_of_left_out

        warn_of_left_out(job, decision)
    job.save()


def follow(job: Job, decision: Decision) -> None:
    """From now on the run is what was decided; it is written down where it is not yet."""
    planned = job.last
    job.decisions.append(decision)
    job.watch.follow(decision.step, last_step(job.settings, job.decisions), denser=decision.decision == "decay")
    job.view.total = job.last
    if decision.decision in ("length", "finish"):
        job.saver.steady = min(job.saver.steady, decision.step)
    if decision not in job.recorded:
        job.recorded.append(decision)
        kept = decision.decision == "length" and job.last == planned
        row = {"event": "decision", "tokens": job.tokens, "sentence": sentence(decision)}
        row |= msgspec.to_builtins(decision) | ({"as_planned": True} if kept else {})
        job.run.log(row)
        job.history.append(row)
        if not kept:
            job.view.note(f"step {decision.step:,}: {row['sentence']}")
