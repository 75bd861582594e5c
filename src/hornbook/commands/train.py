"""`hornbook train`: the whole job. The eight steps of training, and what happens between two updates, are below."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hornbook.commands.options import add_settings, add_texts, given_settings, value
from hornbook.facts.errors import InputError, Interrupted, SystemFailure
from hornbook.facts.printing import print_json
from hornbook.facts.settings import from_table, overridden, read_table

if TYPE_CHECKING:
    from hornbook.engine.signals import Stop
    from hornbook.engine.world import World
    from hornbook.facts.settings import Settings
    from hornbook.facts.tables import Result
    from hornbook.records.run import Run
    from hornbook.reporting.live import View
    from hornbook.training.job import Job, RunContext

STARTED = time.monotonic()
ENDED = {"decay": "turned: decay", "end": "turned: end", "finish": "finished early",
         "stop": "no better validation loss"}  # fmt: skip


def flags(parser: argparse.ArgumentParser) -> None:
    add_texts(parser, "files, folders, globs or a prepared folder; none: the built-in corpus")
    parser.add_argument("--recipe", metavar="FILE", help="a TOML file of settings; flags override it")
    parser.add_argument("--out", metavar="FOLDER", help="the run folder; an existing run is resumed")
    parser.add_argument("--from", dest="from_", metavar="MODEL", help="start from the weights of a run or model")
    parser.add_argument(
        "--finish", action="store_true", help="end the run of --out early: decay the learning rate, score, report"
    )
    parser.add_argument(
        "--seeds", type=value(int), metavar="N",
        help="train N runs, from seeds S, S+1, ... of the same text, in one folder; a budget is for all of them",
    )  # fmt: skip
    parser.add_argument("--log", metavar="NAMES", help="copy the log to tensorboard, wandb or both")
    add_settings(parser, lambda name: True)


def command(arguments: argparse.Namespace) -> None:
    from hornbook.reporting.live import View

    summary = train(
        *arguments.texts, recipe=arguments.recipe, out=arguments.out, from_=arguments.from_,
        finish=arguments.finish, seeds=arguments.seeds, log=arguments.log or (),
        view=View(verbose=arguments.verbose), started=STARTED,
        **given_settings(arguments),
    )  # fmt: skip
    if arguments.json and summary:  # one of several processes has none
        print_json(summary)
    elif "runs" in summary:
        from hornbook.reporting.groups import print_group

        print_group(summary)
    elif summary:
        from hornbook.reporting.terminal import print_summary

        print_summary(summary)


def train(
    *texts: str, recipe: str | Path | None = None, out: str | Path | None = None, from_: str | None = None,
    finish: bool = False, seeds: int | None = None, log: str | Sequence[str] = (), quiet: bool = False,
    view: View | None = None, started: float | None = None, **changes: Any,
) -> Result:  # fmt: skip
    """Train a model on `texts` and return the summary of its run, as `hornbook train --json` prints it.

    >>> summary = hornbook.train("my.txt", steps=300, learning_rate=3e-3, out="runs/first")  # doctest: +SKIP

    `texts` are files, folders, globs or one prepared folder; none: the built-in corpus. `changes` are settings, on top
    of the file `recipe`: `steps`, `epochs`, `budget` ("10m"), `preset` ("6M"), `layers`, `width`, `context`, `batch`,
    `learning_rate`, `seed`, `tokenizer` ("bpe:4096"), ... (all: docs/settings.md), also by what other trainers call
    them (`lr`) or by their whole name (`**{"train.steps": 300}`). What is left out is chosen automatically.
    With the `out` of an earlier run, that run resumes exactly from its newest checkpoint; `from_` is a model
    to start from. `finish` ends that run early: its learning rate decays over at most a quarter of its steps so far.
    `seeds` runs, from seed, seed + 1, ..., go into one folder: `runs` has their summaries. `log` names trackers to
    which the log is copied: "tensorboard", "wandb". Progress is shown on stderr unless `quiet`. The summary is a dict
    that prints as a table: `run` (its folder), `bits_per_byte`, ... Raises InputError for bad input, SystemFailure when
    the disk is full, Interrupted after a signal, when everything is saved.
    """
    from hornbook.reporting.live import View

    started = time.monotonic() if started is None else started
    if texts:
        changes["text.paths"] = list(texts)
    request = overridden(read_table(Path(recipe)) if recipe is not None else {}, changes)
    wanted = from_table(request, source=str(recipe) if recipe is not None else "settings")
    folder, trackers = Path(out) if out is not None else None, list[str]()
    if out == "latest":
        from hornbook.records.listing import resolved

        folder = resolved(out)
    if log:
        from hornbook.records.mirroring import tracker_names

        trackers = tracker_names(log)
    view = view or View(quiet=quiet)
    if folder is not None and (folder / "settings.toml").is_file():
        from hornbook.commands.train_processes import share_as_before

        share_as_before(wanted, request, folder)
    if seeds is not None:
        from hornbook.commands.train_seeds import by_seeds

        if finish:
            raise InputError("--finish ends one run early: leave out --seeds, and give --out the folder of that run.")
        return by_seeds(partial(train, log=log), request, seeds, out=folder, from_=from_, view=view)
    if wanted.train.processes > 1 or "RANK" in os.environ:
        from hornbook.commands.train_processes import by_several as begin_by
    else:
        begin_by = begin
        if "parallel" in request.get("train", {}):
            view.note(f"  note: --parallel {wanted.train.parallel} does nothing with one process")
    return begin_by(wanted, request, out=folder, from_=from_, finish=finish, trackers=trackers, view=view,
                    started=started)  # fmt: skip


def begin(
    wanted: Settings, request: dict[str, Any], *, out: Path | None, from_: str | None, finish: bool,
    trackers: Sequence[str], view: View, started: float, world: World | None = None,
) -> Result:  # fmt: skip
    """Begin a run or go on with it, by this process or, where it is rank 0 of a `world`, by all of that."""
    from hornbook.records.run import Run, checkpoint_step, is_run
    from hornbook.setup.run import fresh

    try:
        if out is not None and is_run(out):
            from hornbook.setup.resume import refuse_running, resumed

            run = Run.open(out)
            if finish:
                refuse_running(run)
            with run.lock():
                context = resumed(run, wanted, request, from_=from_, view=view, world=world)
                if finish and (context.checkpoint is None or checkpoint_step(context.checkpoint) == 0):
                    raise InputError(f"{out} has saved no step yet, so there is nothing to finish.")
                return _carry_out(replace(context, finish=finish), trackers, view, started)
        if finish:
            raise InputError("--finish ends a run early: give --out the folder of that run.")
        context = fresh(wanted, request, out=out, from_=from_, view=view, started=started, world=world)
        with context.run.lock():
            return _carry_out(context, trackers, view, started)
    except OSError as error:
        raise SystemFailure(f"cannot continue: {error.strerror or error}.") from error


def _carry_out(context: RunContext, trackers: Sequence[str], view: View, started: float) -> Result:
    """Train, save, report."""
    from hornbook.engine.device import return_freed_memory
    from hornbook.engine.signals import stop_on_signals
    from hornbook.setup.build import start_job

    job = start_job(context, view, started)
    with stop_on_signals() as stop, view, _copied(job.run, trackers, view):
        try:
            reason = _train(job, stop)
            job.save()
        except BaseException:
            with suppress(OSError):  # what is being written still belongs to whoever holds the lock
                job.saver.settle()
            raise
        job.saver.host.clear()
        end = {"event": "end", "step": job.step, "tokens": job.tokens, "reason": reason}
        if reason == "interrupted":
            job.run.log(end | {"cost": job.telemetry.reading()})
            view.end()
            from hornbook.commands.train_report import write_so_far
            from hornbook.engine.launch import resume_with

            write_so_far(job)  # a second signal ends it at once
            stopped = f"stopped at step {job.step:,}, everything is saved{resume_with(job.run.folder)}"
            raise Interrupted(stopped, stop.signal_number)
        job.state.release()
        return_freed_memory()
        from hornbook.commands.train_report import write_report
        from hornbook.facts.tables import Result

        summary = write_report(job, stop)
        job.run.log(end | {"plan_score": summary["plan_score"], "cost": job.telemetry.reading()})
        if "bits_per_byte" not in summary and job.monitor.was_skipped:
            raise SystemFailure(f"{job.divergence()} The report up to there is {summary['report']}.")
    return Result(summary)


def _copied(run: Run, trackers: Sequence[str], view: View) -> AbstractContextManager[None]:
    """While it lasts, what is logged goes to the trackers as well."""
    if not trackers:
        return nullcontext()
    from hornbook.records.mirroring import mirrored

    return mirrored(run, trackers, view.note)


def _train(job: Job, stop: Stop) -> str:
    """Train until the length is reached, nothing improves any more, or a signal comes; returns which."""
    from hornbook.training.decisions import lr_schedule, skipped_batches
    from hornbook.training.loop import steps

    train, optimizer = job.settings.train, job.settings.optimizer
    assert train.microbatch is not None
    job.view.begin(first=job.step, total=job.last)
    job.saver.mark_due(job.step)
    reason = _between_updates(job, stop)  # at step 0, and what a signal prevented in an earlier process
    while reason is None and job.step < job.last and not stop.is_set():
        decisions = tuple(job.decisions)
        left_out = [number for number in skipped_batches(decisions) if number > job.step]
        if job.step + 1 in left_out:
            job.pass_over()
            reason = _between_updates(job, stop)
            continue
        # 1. each epoch; 2. each batch: training/loop.py
        # 3. reset the gradients; 4. the loss of the batch; 5. its gradients; 6. update the weights: training/step.py
        for step in steps(
            job.state.model, job.state.optimizers, job.state.batches, first=job.step,
            last=min([job.last, *(number - 1 for number in left_out)]),
            lr_schedule=lr_schedule(job.settings, decisions), microbatch=train.microbatch,
            clip_norm=optimizer.clip_norm, seed=train.seed, document_mask=train.document_mask,
            autocast=job.state.autocast, stop=stop, uses_weights=job.uses_weights, sharded=job.state.sharded,
        ):  # fmt: skip
            job.record(step)  # 7. print the losses: that of the batch, and
            reason = _between_updates(job, stop)  # those of the probe; 8. sample text
            if reason is not None or len(job.decisions) != len(decisions) or job.step != step.number:
                break
    if reason is not None:
        return reason
    if stop.is_set() and job.step < job.last:
        return "interrupted"
    ended = [ENDED[made.decision] for made in job.decisions if made.decision in ENDED]
    return ended[-1] if ended else "length reached"


def _between_updates(job: Job, stop: Stop) -> str | None:
    """Evaluate, sample, decide and save what is due after this step; "interrupted" where a signal came meanwhile."""
    if job.evaluation_due() and not job.evaluate(stop):
        return "interrupted"
    if job.sample_due(job.step):
        job.sample(stop)
    job.decide()
    if job.step == job.last:
        job.sample(stop)
    if job.saver.due_at == job.step:
        job.save(beside=True)
    return None
