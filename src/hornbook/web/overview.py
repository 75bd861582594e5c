"""A run as one row of the list: its state, its numbers, its verdict and its curve in small."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from shlex import quote
from typing import Any

import msgspec
import numpy as np

from hornbook.facts.errors import InputError
from hornbook.facts.looks import Evaluation, mean_of_windows, noise_of, worse
from hornbook.facts.metrics import METRICS
from hornbook.facts.units import counted, format_bytes, format_duration, format_usd
from hornbook.records.listing import is_running
from hornbook.records.result import exp_of_nats
from hornbook.records.run import EVALUATION, Row
from hornbook.reporting.curves import evaluations
from hornbook.reporting.report import OF_THE_TEXT, SUMMARY
from hornbook.reporting.verdict import has_diverged, of_run
from hornbook.reporting.words import Finding, conclusions
from hornbook.web.decimate import bucket_starts
from hornbook.web.folder import SEPARATOR, RunFiles

SPARKLINE_POINTS = 60
NO_END = ("running", "unfinished", "interrupted", "damaged")

MEMORIZATION = ("by_heart", "apart", "together", "apart_unknown", "read_once", "texts_differ", "gap_leaked")


class Numbers(msgspec.Struct):
    """Of reports/evaluation.json, without its documents."""

    loss_nats_per_token: float | None = None
    loss_nats_per_token_interval_95: tuple[float | None, float | None] | None = None
    bits_per_byte: float | None = None
    bits_per_byte_interval_95: tuple[float | None, float | None] | None = None
    perplexity: float | None = None
    perplexity_interval_95: tuple[float | None, float | None] | None = None
    interval_method: str | None = None
    validation_leaked: bool | None = None
    leaked_share: float | None = None


class Memorized(msgspec.Struct):
    """Of reports/memorization.json."""

    by_heart: bool | None = None
    verdict: str = ""


class _Shape(msgspec.Struct):
    shape: dict[str, Any] = {}
    state: dict[str, Any] = {}


class Ending(msgspec.Struct):
    """Of reports/summary.json."""

    step: int = -1
    used_step: int | None = None
    conclusions: list[dict[str, str]] = []


class Plan(msgspec.Struct):
    plan: dict[str, Any] = {}
    text: dict[str, Any] = {}
    baselines: dict[str, dict[str, float | None]] = {}


def is_read(run: RunFiles, until: float) -> bool:
    """Whether `overview` has nothing left to read of the log: it is read `until` then, by time.perf_counter."""
    with suppress(InputError):  # overview says so
        return run.log.refresh(until) and (len(evaluations(run.log.events)) > 1 or run.log.steps(until).share_read == 1)
    return True


def overview(run: RunFiles) -> Row:
    """The ROW of docs in `web/api.py`."""
    row: Row = {"id": run.id, "title": run.id.replace(SEPARATOR, "/"), "is_running": is_running(run.folder),
                "started": run.started(), "changed": run.changed(), "problem": None, "settings": {},
                "shell_path": quote(os.fsencode(run.given).decode("utf-8", "replace"))}  # fmt: skip
    try:
        row["settings"] = run.settings()
        run.log.refresh()
        row["state"] = state(run, row["is_running"])
        points = evaluations(run.log.events)
        row |= _of_settings(run, row["settings"]) | _progress(run, row["settings"]) | _losses(run, row["state"], points)
        findings = findings_of(run, row)
    except InputError as error:
        return row | {"state": "damaged", "problem": str(error)}
    return row | {
        "verdict": verdict(run, findings, row), "memorization": memorization(run, findings), "plan": planned(run, row),
        "sparkline": sparkline(run, points),
    }  # fmt: skip


def state(run: RunFiles, is_running: bool) -> str:
    """Whether it runs, has ended, was interrupted, or just stops."""
    if is_running:
        return "running"
    end = next((row for row in reversed(run.log.events) if row["event"] in ("end", "resume")), {})
    if end.get("event") != "end" or (run.log.last_step or {}).get("step", 0) > end["step"]:
        return "unfinished"
    return "interrupted" if end.get("reason") == "interrupted" else "finished"


def shape_of(run: RunFiles) -> Mapping[str, Any]:
    """The model's shape by any of its checkpoints; {} before the first."""
    for name in run.names_in("checkpoints"):
        known = run.decoded(f"checkpoints/{name}/manifest.json", _Shape)
        if known is not None and known.shape:
            return known.shape
    return {}


def _of_settings(run: RunFiles, settings: Mapping[str, Any]) -> Row:
    plan, shape = run.decoded("plan.json", Plan) or Plan(), shape_of(run)
    paths = settings.get("text.paths") or []
    layers, width = settings.get("model.layers"), settings.get("model.width")
    size = f", {counted(layers, 'layer')} of width {width:,}" if isinstance(layers, int) and width else ""
    return {
        "text": ", ".join(str(path).rstrip("/").rpartition("/")[2] for path in paths)
        or "State of the Union (built in)",
        "model": f"{settings.get('model.family') or 'qwen3'}{size}",
        "num_parameters": plan.plan.get("parameters"),
        "vocabulary": shape.get("vocabulary"),
        "optimizer": settings.get("optimizer.name"),
    }


def _progress(run: RunFiles, settings: Mapping[str, Any]) -> Row:
    last = run.log.last_step or {}
    row: Row = {name: last.get(name) for name in ("tokens", "epoch", "seconds", "train_loss_nats_per_token")}
    row |= {"step": last.get("step", 0), "planned_steps": _planned_steps(run, settings.get("train.steps"))}
    cost: Row = next((event["cost"] for event in reversed(run.log.events) if event.get("cost")), {})
    hours = cost.get("gpu_hours")
    row |= {"gpu_hours": hours, "price_usd": cost.get("price_usd"), "energy_kwh": cost.get("energy_kwh")}
    processes = settings.get("train.processes")
    devices = processes if isinstance(processes, int) and processes > 0 else 1
    return row | {"wall_seconds": None if hours is None else 3600 * hours / devices}


def _planned_steps(run: RunFiles, steps: Any) -> int | None:
    """The last step by the settings, which are `steps`, or by the newest decision about it."""
    for event in reversed(run.log.events):
        if event["event"] == "decision" and event["decision"] not in ("skip", "lengthen"):
            return int(event["step"] + event.get("decay_steps", 0))
        if event["event"] == "decision" and event["decision"] == "lengthen":
            break
    return steps if isinstance(steps, int) else None


def _losses(run: RunFiles, now: str, points: Sequence[Evaluation]) -> Row:
    """The best loss and what it is about: of a run that has ended, that of the validation text, else that of a look."""
    row: Row = {"probe_validation_loss_nats_per_token": points[-1].validation_loss if points else None}
    best = min(points, key=lambda point: point.validation_loss, default=None)
    row |= {"best_step": best.step if best else None, "loss_about": None, "interval_about": None,
            "probe_lowest": None}  # fmt: skip
    scored = run.decoded(EVALUATION, Numbers) if now not in NO_END else None
    if scored is not None and scored.loss_nats_per_token is not None:
        numbers: Row = msgspec.to_builtins(scored)
        about = {"loss_about": "validation", "interval_about": scored.interval_method}
        return row | numbers | about | {"probe_lowest": _lowest(run, points)}
    names = ("loss_nats_per_token", "bits_per_byte", "perplexity")
    row |= {key: None for name in names for key in (name, f"{name}_interval_95")}
    if best is None:
        return row
    loss, mean = best.validation_loss, mean_of_windows(best.windows)
    half = None if mean is None else mean[1]
    at_best = [e for e in run.log.events if e["event"] == "evaluation" and e["step"] == best.step]
    row |= {"loss_about": "probe", "loss_nats_per_token": loss, "perplexity": exp_of_nats(loss),
            "bits_per_byte": at_best[-1].get("probe_validation_bits_per_byte")}  # fmt: skip
    if half is not None:
        ends = [loss - half, loss + half]
        row |= {"loss_nats_per_token_interval_95": ends, "perplexity_interval_95": [exp_of_nats(x) for x in ends],
                "interval_about": "other windows of this validation text, at this step"}  # fmt: skip
    return row


def _lowest(run: RunFiles, points: Sequence[Evaluation]) -> Row | None:
    """The lowest loss on the probe, where that of the weights that are used is above it by more than noise."""
    used_step = (run.decoded(SUMMARY, Ending) or Ending()).used_step
    used = next((point for point in points if point.step == used_step), points[-1] if points else None)
    best = min(points, key=lambda point: point.validation_loss, default=None)
    if used is None or best is None or not worse(used, best, noise_of(points)):
        return None
    return {"step": best.step, "loss_nats_per_token": best.validation_loss}


def tokens_per_epoch(run: RunFiles) -> int | None:
    """Of the training text, by what the log says of any step."""
    last = run.log.last_step or {}
    rows = [last, *reversed(run.log.events)]
    return next((round(row["tokens"] / row["epoch"]) for row in rows if row.get("epoch") and row.get("tokens")), None)


def findings_of(run: RunFiles, row: Mapping[str, Any], steps: Sequence[Row] = ()) -> list[Finding]:
    """What its curves say, by the sentences of its report. `steps`: rows of steps, where the last is not enough."""
    epoch = tokens_per_epoch(run)
    if epoch is None:
        return []
    rows = [*(steps or [step for step in [run.log.last_step] if step]), *run.log.events]
    is_done, plan = row["loss_about"] == "validation", run.decoded("plan.json", Plan) or Plan()
    ending = run.decoded(SUMMARY, Ending) if row["state"] == "finished" else None
    if ending is not None and ending.step == row["step"]:
        return [Finding(conclusion["id"], conclusion["sentence"]) for conclusion in ending.conclusions]
    losses = {name: numbers["loss_nats_per_token"] for name, numbers in plan.baselines.items()}
    counting = {name: loss for name, loss in losses.items() if loss is not None}
    is_clean = "uniform" in counting and plan.text and not plan.text.get("validation_leaked")
    findings = conclusions(
        rows, tokens_per_epoch=epoch, final_loss=row["loss_nats_per_token"] if is_done else None,
        counting=counting if is_clean else {}, repeated_share=plan.text.get("repeated_share") or 0.0,
        leaked_share=plan.text.get("leaked_share") or 0.0,
    )  # fmt: skip
    return [finding for finding in findings if plan.text or finding.id not in OF_THE_TEXT]


def verdict(run: RunFiles, findings: Sequence[Finding], row: Mapping[str, Any]) -> Row:
    """That of its report, at this moment."""
    events = [*run.log.events, *([run.log.last_step] if run.log.last_step else [])]
    one = of_run(
        findings, state=row["state"], step=row["step"], steps=row["planned_steps"], diverged=has_diverged(events),
        diverging=any(event.get("fault") == "diverges" for event in events),
        memorized=run.decoded("reports/memorization.json", Row),
    )  # fmt: skip
    return {"name": one.name, "sentence": str(one), "tag": one.tag}


def memorization(run: RunFiles, findings: Sequence[Finding]) -> Row | None:
    """By `hornbook memorize` where that was run, else by the curves."""
    measured = run.decoded("reports/memorization.json", Memorized)
    if measured is not None and measured.verdict:
        return {"by_heart": measured.by_heart, "sentence": measured.verdict, "is_measured": True}
    for finding in findings:
        if finding.id in MEMORIZATION:
            answers = {"by_heart": True, "together": False, "read_once": False}
            return {"by_heart": answers.get(finding.id), "sentence": finding.sentence, "is_measured": False}
    return None


_PLANNED = {
    "wall_seconds": ("time", format_duration), "memory_bytes": ("memory", format_bytes),
    "loss_nats_per_token": ("loss", METRICS["loss_nats_per_token"].form),
    "bits_per_byte": ("bits per byte", METRICS["bits_per_byte"].form), "price_usd": ("price", None),
    "energy_kwh": ("energy", "{:.3g} kWh".format),
}  # fmt: skip


def _price_form(prices_usd: Sequence[float]) -> Callable[[float], str]:
    """Dollars with as many digits, from two on, as tell these prices from each other."""
    different = len(set(prices_usd))
    digits = next((n for n in range(2, 6) if len({f"{price:.{n}f}" for price in prices_usd}) == different), 6)
    return (lambda price: f"${price:,.{digits}f}") if digits > 2 else format_usd


def planned(run: RunFiles, row: Mapping[str, Any]) -> list[Row]:
    """What was expected at the beginning, beside what came or has come so far."""
    plan = (run.decoded("plan.json", Plan) or Plan()).plan
    score = next((e.get("plan_score") for e in reversed(run.log.events) if e["event"] == "end"), None) or {}
    rows = []
    for name, (title, form) in _PLANNED.items():
        predicted, interval = plan.get(name), plan.get(f"{name}_interval_90")
        predicted = predicted.get("total") if isinstance(predicted, dict) else predicted
        scored = score.get(name) or {}
        actual = scored.get("actual", row.get(name) if name in ("wall_seconds", "price_usd", "energy_kwh") else None)
        if predicted is None:
            continue
        form = form or _price_form([value for value in (predicted, actual, *(interval or [])) if value is not None])
        rows.append({
            "name": name, "title": title, "predicted": predicted, "predicted_interval_90": interval,
            "predicted_text": form(predicted) + (f" ({form(interval[0])} to {form(interval[1])})" if interval else ""),
            "actual": actual, "actual_text": "" if actual is None else form(actual), "inside": scored.get("inside"),
        })  # fmt: skip
    return rows


def sparkline(run: RunFiles, points: Sequence[Evaluation]) -> Row:
    """Probe validation loss; where there is none, the least training loss of each of 60 buckets."""
    x, y = [float(point.step) for point in points], [point.validation_loss for point in points]
    if len(x) < 2:
        steps = run.log.steps()
        x, y = steps["step"].tolist(), steps["train_loss_nats_per_token"].tolist()
    if len(x) > SPARKLINE_POINTS:
        starts = bucket_starts(np.array(x), SPARKLINE_POINTS)
        y = np.fmin.reduceat(np.array(y), starts).tolist()
        x = np.array(x)[starts].tolist()
    return {"x": x, "y": [value if math.isfinite(value) else None for value in y]}


def differing(rows: Sequence[Row]) -> list[str]:
    """The settings that are not the same in all runs, in order."""
    names = list(dict.fromkeys(name for row in rows for name in row["settings"]))
    return [name for name in names if any(row["settings"].get(name) != rows[0]["settings"].get(name) for row in rows)]
