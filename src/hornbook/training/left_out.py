"""Where the numbers of a run went wrong: which batches it leaves out, and back to a checkpoint from before them.

The weights after a batch that is left out are those before it. So a run that has gone back trains up to there again,
with the same bits, and a process that resumes it, or is killed on the way, does the same from whichever checkpoint.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from hornbook.engine import checkpoint as checkpoints
from hornbook.engine import loading
from hornbook.evaluation.hardest import hardest_windows, windows_in_words
from hornbook.facts.errors import InputError, SystemFailure
from hornbook.planning.health import RECENT
from hornbook.records.run import checkpoint_step
from hornbook.training.deciding import sentence
from hornbook.training.decisions import Decision, decision_of, steady_steps

if TYPE_CHECKING:
    from hornbook.engine.world import World
    from hornbook.training.job import Job

MOST_RETURNS = 5  # in a run; then it ends as one that has diverged, and a loss spike is only warned of
OF_A_BATCH = ("skipped", "loss spike", "left out")  # issues for which its text is shown
NORMAL = 1.4826  # standard deviations of a normal distribution in a median absolute deviation
LEAST_DEVIATION = 1e-3  # nats: below, a text that repeats itself would make every loss a spike
SHOWN_BATCHES = 2  # of those that are left out, the first


def leave_out(job: Job) -> None:
    """Go back where the numbers of a run have just gone wrong, if anything is to be done about it. Raises SystemFailure
    where the run has diverged and nothing is left to go back to."""
    if (decision := what_to_leave_out(job)) is not None:
        go_back(job, decision)


def what_to_leave_out(job: Job) -> Decision | None:
    """What a run decides whose numbers have just gone wrong: to leave out the batch of the last update that was applied
    and all since, of twice as many updates after each return. None where a loss spike is to be borne.

    Raises SystemFailure where it has returned often enough, or nothing that could be left out was applied.
    """
    returns = sum(decision.decision == "skip" for decision in job.recorded)
    monitor = job.monitor
    applied = [number for number, norm in zip(monitor.numbers, monitor.norms, strict=True) if norm == norm]
    if returns >= MOST_RETURNS or not applied:
        if monitor.diverged:
            raise SystemFailure(job.divergence())
        return None
    updates = 2**returns if monitor.diverged else 2 ** (returns + 1)  # a spike: of its own batch, and the one before
    step = applied[-min(updates, len(applied))] - 1
    return Decision(decision="skip", step=step, from_step=step, batches=job.step - step)


def go_back(job: Job, decision: Decision) -> None:
    """Record the decision, and take the run to the newest good checkpoint from before the batches that it leaves out.

    Raises SystemFailure where none is kept.
    """
    job.saver.settle()
    kept = [folder for folder in job.run.checkpoints() if checkpoint_step(folder) <= decision.step]
    world = job.context.world
    folder = next((folder for folder in reversed(kept) if why_not_good(folder, job.recorded, world) is None), None)
    if folder is None:
        raise SystemFailure(job.divergence())
    words = sentence(decision)
    job.run.log({"event": "decision", "tokens": job.tokens, "sentence": words} | msgspec.to_builtins(decision))
    job.view.note(f"step {job.step:,}: {words}")
    job.decisions.clear()
    job.watch.start_over()
    job.saver.steady = steady_steps(job.settings)
    job.restore(folder)
    job.forget_later()
    job.monitor.recall(job.run.rows())


def why_not_good(folder: Path, recorded: Sequence[Decision], world: World | None = None) -> str | None:
    """A sentence where no run can go on from this checkpoint: it is damaged, has numbers that are not finite, or has
    read a batch that was `recorded` to be left out; None for a good one. Of a `world`, all read its files."""
    try:
        if world is None:
            loading.verify(folder)
        else:
            from hornbook.engine import parts

            parts.verify(world, folder)
        state = checkpoints.read_manifest(folder)["state"]
    except InputError as error:
        return str(error)
    saved = [decision_of(values) for values in state.get("decisions", [])]
    step = checkpoint_step(folder)
    if any(made.decision == "skip" and made.step < step and made not in saved for made in recorded):
        return f"{folder} has read a batch that is left out since."
    return None


def windows_of(job: Job, numbers: Sequence[int]) -> tuple[str, list[dict[str, Any]]]:
    """The hardest windows of the batches of these updates, in a sentence and as `hardest_windows` gives them."""
    windows: list[dict[str, Any]] = []
    for number in numbers[:SHOWN_BATCHES]:
        parts = job.state
        windows += hardest_windows(parts.whole(), parts.batches, job.context.prepared.tokenizer, number)
    finite = [window for window in windows if window["nats_per_token"] is not None]
    lost = [window for window in windows if window["nats_per_token"] is None]
    ordered = lost + sorted(finite, key=lambda window: -window["nats_per_token"])
    return windows_in_words(ordered), ordered


def warn_with_windows(job: Job, issues: Mapping[str, str], numbers: Sequence[int]) -> None:
    """Warn of what went wrong in the batches of these updates, with the text that was in them."""
    words, windows = windows_of(job, numbers)
    for name, issue in issues.items():
        if name in OF_A_BATCH:
            job.warn({name: f"{issue}; {words}"}, windows=windows)
        else:
            job.warn({name: issue})


def warn_of_left_out(job: Job, decision: Decision) -> None:
    """Show what is in the first batches that are left out, by the weights from before them."""
    first, last = decision.step + 1, decision.step + decision.batches
    which = f"batches of steps {first:,} to {last:,} are" if last > first else f"batch of step {first:,} is"
    warn_with_windows(job, {"left out": f"the {which} left out"}, range(first, last + 1))


def robust_zscore(train_losses: Sequence[float]) -> float:
    """How many standard deviations the last loss lies above the median of the 50 before, by their median absolute
    deviation, which outliers do not move (Iglewicz and Hoaglin 1993); 0 where too few are known.

    >>> round(robust_zscore([3.0, 3.1] * 20 + [5.0]), 1), robust_zscore([3.0, 5.0])
    (26.3, 0.0)
    """
    before = [x for x in train_losses[-2 * RECENT : -1] if math.isfinite(x)][-RECENT:]
    if len(before) < 20 or not math.isfinite(train_losses[-1]):
        return 0.0
    middle = statistics.median(before)
    deviation = NORMAL * statistics.median(abs(value - middle) for value in before)
    return (train_losses[-1] - middle) / max(deviation, LEAST_DEVIATION)
