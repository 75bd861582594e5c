"""The end of a run: all of the validation text is scored, and everything a person wants to know is written down."""

from __future__ import annotations

import math
import re
import shlex
import tomllib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import numpy as np

from hornbook.data.shards import Prepared
from hornbook.engine import loading
from hornbook.engine.device import device, peak_memory_bytes
from hornbook.engine.signals import Stop
from hornbook.evaluation.baselines import surprise_ratio, training_stream
from hornbook.evaluation.corpus import conventions, corpus_report, part_documents
from hornbook.evaluation.inspection import inspect_text
from hornbook.evaluation.probe import Places, selection_places
from hornbook.facts.errors import Interrupted
from hornbook.facts.io import pretty, shown
from hornbook.model.decoder import Decoder
from hornbook.planning.plan import score as score_plan
from hornbook.records.result import Report
from hornbook.records.run import Run
from hornbook.reporting.curves import best_step_between, evaluations
from hornbook.reporting.live import View
from hornbook.reporting.pages import run_page
from hornbook.reporting.report import SUMMARY, final_numbers, write_pages
from hornbook.reporting.words import Finding, conclusions
from hornbook.setup.expectation import ngram_baselines
from hornbook.text.tokenizer import Tokenizer
from hornbook.training.job import Job, RunContext
from hornbook.training.loop import TrainState
from hornbook.training.watch import Watch

if TYPE_CHECKING:
    from hornbook.engine.world import World

T = TypeVar("T")
Examples = tuple[list[dict[str, Any]] | None, list[dict[str, Any]] | None]  # before training, after


def write_report(job: Job, stop: Stop) -> dict[str, Any]:
    """Score, plot, write the report of a run that has ended, and return its summary. After hours of training nothing
    that is only to be shown may cost the rest: what fails is left out, with a sentence. Raises Interrupted when a
    signal comes meanwhile."""
    start, view, watch, last = job.context, job.view, job.watch, job.position
    run, prepared, step, attempt = start.run, start.prepared, last["step"], partial(_attempt, view)
    (model, used), world = _used_model(job), start.world
    selected_on = start.settings.watch.probe_tokens if start.settings.checkpoint.best else None
    chosen = selection_places(prepared.validation, start.shape.context, selected_on)
    known = attempt("the plan", lambda: run.plan) or {}
    baselines = attempt("the baselines", lambda: _baselines(start, known, chosen)) or {}
    scores = attempt("the loss", lambda: _final_report(start, model, view, stop, used, baselines, chosen, world))
    train_loss = attempt("the training loss", lambda: _probe_loss(watch, "train", model, world))
    examples = attempt("the example", lambda: _inspections(job, model)) or (None, None)
    if world is not None:
        world.leave()
    view.end()
    if scores is not None:
        scored = scores.to_json()
        attempt("evaluation.json", lambda: run.write_report("evaluation.json", scored))
        scores = scores if math.isfinite(scores.loss_nats_per_token) else None  # diverged: there is nothing to conclude
    rows, samples = attempt("the curves", run.rows) or [], attempt("the samples", run.samples) or []
    apart = chosen is not None
    concluded = attempt(
        "the conclusions", lambda: _conclusions(start, rows, baselines, scores, used, apart=apart)
    ) or []  # fmt: skip
    words, points = [finding.sentence for finding in concluded], evaluations(rows)
    summary: dict[str, Any] = {
        "run": shown(str(run.folder)),
        "title": shown(run.folder.name),
        "report": shown(str(run.reports / "report.html")),
        "step": step,
        "used_step": used,
        "tokens": last["tokens"],
        "epoch": last["epoch"],
        "num_parameters": start.shape.parameters,
        "vocabulary": start.shape.vocabulary,
        "best_step": min(((p.validation_loss, p.step) for p in points), default=(0.0, None))[1],
        "best_step_between": best_step_between(rows),
        "train_loss_nats_per_token": train_loss,
        "probe_validation_loss_nats_per_token": next((p.validation_loss for p in points if p.step == used), None),
        "outside_probe": scores is not None and apart,
        "chosen_on_this_text": bool(start.settings.checkpoint.best) and scores is not None and not apart,
        "train_seconds": last["seconds"],
        "tokens_per_second": last["tokens"] / last["seconds"],
        "mfu": job.telemetry.mfu(last["flops"] / last["seconds"]),
        "baselines": baselines,
        "words": words,
        "conclusions": [finding._asdict() for finding in concluded],
        "sample": samples[-1]["prompt"] + samples[-1]["text"] if samples else None,
    }
    summary |= job.telemetry.reading()
    summary["wall_seconds"] = 3600 * summary["gpu_hours"] / job.telemetry.devices
    summary["peak_memory_bytes"] = peak_memory_bytes(job.telemetry.on)
    if scores is not None:
        summary |= final_numbers(scores) | prepared.leak | {"lost_share": scores.extra.get("lost_share", 0.0)}
    whole = step == start.settings.train.steps and not any(row["event"] == "resume" for row in rows)
    summary["plan_score"] = attempt("the score of the plan", lambda: _plan_score(job, known, summary, whole))
    _write(start, examples, view, scores, summary)
    return summary


def _used_model(job: Job) -> tuple[Decoder, int]:
    """The model that is used and its step: the best, where that is wanted."""
    best, state = job.best, job.state
    if not job.settings.checkpoint.best or best.step is None or best.step == job.step:
        return state.whole(), job.step
    chosen = _attempt(job.view, "the best weights", lambda: _with_weights(state, best.folder(job.run)))
    return (state.whole(), job.step) if chosen is None else (chosen, best.step)


def _with_weights(state: TrainState, folder: Path) -> Decoder:
    """The model with the weights of a checkpoint: those that several processes train are replaced by them."""
    if state.sharded is None:
        return loading.load_model(folder).to(device())
    state.load(folder, 0)
    return state.whole()


def write_so_far(job: Job) -> None:
    """The page of a run that was interrupted. Everything is saved by then: what fails is only said."""
    _attempt(job.view, "the page", lambda: write_pages(job.run))
    _show_picture(job.view, job.run)


def _attempt(view: View, what: str, make: Callable[[], T]) -> T | None:
    """What `make` gives; None, and a sentence, where it fails."""
    try:
        return make()
    except Exception as error:
        if isinstance(error, Interrupted | MemoryError):
            raise
        view.note(f"{what} could not be shown: {error}")
        return None


def _write(start: RunContext, examples: Examples, view: View, report: Report | None, summary: dict[str, Any]) -> None:
    """The files of the report."""
    run, attempt = start.run, partial(_attempt, view)
    ending = summary | {
        "inspection_before": examples[0], "inspection_after": examples[1],
        "settings": tomllib.loads(attempt("the settings", lambda: run.settings_toml) or ""),
        "conventions": report.conventions if report is not None else None,
        "tokens_per_epoch": start.prepared.train.num_tokens,
    }  # fmt: skip
    attempt("summary.json", lambda: run.write({SUMMARY: pretty(ending)}))
    if attempt("the page", lambda: write_pages(run, ending=ending)) is None:  # without what the logs hold
        run.write_report(
            "report.html", run_page([], [], "", {"title": summary["title"]}, None, None, "", summary["words"])
        )
    _show_picture(view, run)


def _show_picture(view: View, run: Run) -> None:
    """In a notebook, the curve takes the place of the one that moved."""
    if view.cell is not None:
        _attempt(view, "the curve", lambda: view.cell.show_picture(run.reports / "loss.svg"))


def _baselines(start: RunContext, known: dict[str, Any], chosen: Sequence[Places] | None) -> dict[str, dict[str, Any]]:
    if "baselines" not in known:
        return ngram_baselines(start.prepared, start.shape, chosen)
    msgspec.convert(known["baselines"], dict[str, dict[str, float | None]])
    losses: dict[str, dict[str, Any]] = known["baselines"]
    return losses


def _probe_loss(watch: Watch, side: str, model: Decoder, world: World | None) -> float | None:
    """What the weights that are used get on a probe."""
    scored = watch.probes[side].score(model, world=world) if side in watch.probes else None
    return None if scored is None else scored.loss


def _chosen_in_words(used: int, report: Report, apart: bool) -> Finding:
    if apart:
        return Finding(
            "chosen_apart",
            f"The weights of step {used:,}, with the lowest probe loss, are used; the loss above is measured on "
            f"{report.num_tokens:,} validation tokens outside the probe.",
        )
    return Finding(
        "chosen_on_this_text",
        f"The weights of step {used:,} are used. They were chosen on this validation text itself, which is too short "
        "to set part of it aside: the loss above is slightly optimistic.",
    )


def _conclusions(
    start: RunContext,
    rows: list[dict[str, Any]],
    baselines: dict[str, Any],
    report: Report | None,
    used: int,
    *,
    apart: bool,
) -> list[Finding]:
    train, validation = start.prepared.train, start.prepared.validation
    ratio, prepared = None, start.prepared
    if validation.num_tokens:
        ratio = surprise_ratio(training_stream(train), training_stream(validation), start.shape.vocabulary)
    findings = conclusions(
        rows, tokens_per_epoch=train.num_tokens, used_step=used,
        counting=_to_compare_with(prepared, baselines),
        final_loss=report.loss_nats_per_token if report is not None else None,
        repeated_share=prepared.checkup.get("repeated_share", 0.0),
        leaked_share=prepared.leak["leaked_share"] or 0.0,
        surprise_ratio=ratio, outside_probe=apart,
    )  # fmt: skip
    if report is not None and start.settings.checkpoint.best:
        findings.append(_chosen_in_words(used, report, apart))
    return findings


def _to_compare_with(prepared: Prepared, baselines: dict[str, Any]) -> dict[str, float]:
    """The losses of the n-gram baselines; none where the validation text leaked: to be below them proves nothing."""
    if prepared.leak["validation_leaked"]:
        return {}
    return {name: numbers["loss_nats_per_token"] for name, numbers in baselines.items()}


def _plan_score(job: Job, known: dict[str, Any], summary: dict[str, Any], whole: bool) -> dict[str, Any] | None:
    """The plan beside what came; time only of a `whole` run, which was not interrupted and went all its steps. Of a run
    that was given another length than planned, only its steps and its memory."""
    if "plan" not in known:
        return None
    actual, planned = {"memory_bytes": summary["peak_memory_bytes"]}, known["plan"].get("steps")
    given = any(made.decision in ("finish", "lengthen") for made in job.decisions)
    if planned is not None and (given or planned != job.settings.train.steps):
        job.view.note(f"planned for {planned:,} steps, not {job.step:,}: loss, time and price are not compared with it")
        return score_plan(known["plan"], steps=job.step, **actual)
    if whole:
        actual |= {name: summary[name] for name in ("wall_seconds", "energy_kwh", "price_usd") if name in summary}
    for name, key in (("loss_nats_per_token", "validation_loss_nats_per_token"), ("bits_per_byte", "bits_per_byte")):
        if summary.get(key) is not None:
            actual[name] = summary[key]
    return score_plan(known["plan"], **actual)


def _final_report(
    start: RunContext, model: Decoder, view: View, stop: Stop, step: int, baselines: dict[str, Any],
    chosen: Sequence[Places] | None, world: World | None,
) -> Report | None:  # fmt: skip
    """The Report of the validation side, but for what has `chosen` the weights; None where the split has none."""
    part, tokenizer = start.prepared.validation, start.prepared.tokenizer
    if part.num_tokens < 2:
        return None

    def progress(done: int, total: int) -> None:
        if stop.is_set():
            raise Interrupted(
                f"stopped while scoring the validation text: training is done and saved; run the same command with "
                f"--out {shlex.quote(str(start.run.folder))} to score again",
                stop.signal_number,
            )

    documents, how = part_documents(part, tokenizer), conventions(model, tokenizer)
    num_tokens = sum(len(document.tokens) - (how.beginning is None) for document in documents)
    view.note(f"scoring the {num_tokens:,} tokens of the validation text")
    report = corpus_report(
        model, documents, how, model_name=f"{start.run.folder} at step {step}", text_name="the validation split",
        progress=progress, leave_out=chosen, tokenizer=tokenizer, world=world,
    )  # fmt: skip
    return msgspec.structs.replace(report, extra=report.extra | {"baselines": baselines} | start.prepared.leak)


def _inspections(job: Job, model: Decoder) -> Examples:
    """Each token of the same sentence of the validation text, before training and after."""
    start = job.context
    part, tokenizer = start.prepared.validation, start.prepared.tokenizer
    texts = (excerpt(tokenizer, part.document_tokens(i)) for i in range(len(part.names)))
    text = next((text for text in texts if len(tokenizer.encode(text)) > 1), None)
    first = start.run.checkpoint_folder(0)
    if text is None or not first.is_dir():
        return None, None
    whole = len(tokenizer.encode(text))  # all of it is given, so that nothing is left to be continued
    after = inspect_text(model, tokenizer, text, greedy_prompt=whole).tokens
    return inspect_text(_with_weights(job.state, first), tokenizer, text, greedy_prompt=whole).tokens, after


def excerpt(tokenizer: Tokenizer, ids: np.ndarray) -> str:
    """About 40 tokens from where a sentence begins, to the end of one where there is one after the first 20."""
    text = tokenizer.decode_bytes(ids[:400]).decode("utf-8", "ignore").lstrip()
    begin = re.search(r"(?<=[.!?])[\"'”’)]*\s+(?=\S)", text)
    if begin is not None and not text[0].isupper() and len(tokenizer.encode(text[begin.end() :])) >= 40:
        text = text[begin.end() :]
    kept = tokenizer.encode(text)[:40]
    whole, least = (tokenizer.decode_bytes(some).decode("utf-8", "ignore") for some in (kept, kept[:20]))
    end = re.search(r".*[.!?][\"'”’)]*(?=\s)", whole[len(least) :], re.DOTALL)
    return whole if end is None else least + end[0]
