"""What a run decides of itself, and what its decisions mean: imported where one is made or read, which is seldom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hornbook.facts.looks import Evaluation, turned, went_on
from hornbook.facts.settings import Settings
from hornbook.training.decisions import Decision, decays, decisions_of, last_step

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
