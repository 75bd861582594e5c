"""One run in full, its columns for a plot, and its samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from hornbook.facts.errors import InputError
from hornbook.facts.metrics import METRICS, interval_text
from hornbook.facts.units import format_bytes, format_count, format_duration, format_number
from hornbook.records.run import EVALUATION, Row
from hornbook.reporting.curves import best_step_between, read_curves
from hornbook.reporting.verdict import tag_of
from hornbook.web.decimate import bucket_starts, extremes
from hornbook.web.folder import RunFiles
from hornbook.web.log_tail import COLUMNS, Floats, Steps, Tail
from hornbook.web.overview import Plan, findings_of, overview, tokens_per_epoch

AXES = ("step", "tokens", "epoch", "seconds", "flops", "price_usd")
MOST_POINTS = 5000
STEPS_JUDGED = 5000  # rows of steps that sentences are concluded from; of more, these evenly
_NO_COLUMNS = {"event", "probe_train_window_nats", "probe_validation_window_nats", "cost"}
_REPORTS = {
    "report.html": "Report", "memorization.html": "Memorization", "inspection.html": "Inspection",
    "weights.html": "Weights", "evaluation.json": "Evaluation, as data", "loss.png": "Loss curves (PNG)",
    "loss.svg": "Loss curves (SVG)",
}  # fmt: skip
REPORT_ENDINGS = {".html", ".json", ".png", ".svg"}


def one_run(run: RunFiles, until: float = math.inf) -> Row:
    """What /api/runs/RUN answers. Of its steps it waits `until` then, by time.perf_counter: without all of them it
    concludes as the list does. Raises InputError where the run is damaged."""
    row = overview(run)
    if row["state"] == "damaged":
        return row
    steps = run.log.steps(until)
    findings = findings_of(run, row, _some_steps(steps) if steps.share_read == 1 else ())
    plan = run.decoded("plan.json", Plan) or Plan()
    report = run.decoded(EVALUATION, dict) if row["loss_about"] == "validation" else None
    memorized: Row | None = run.decoded("reports/memorization.json", dict)
    return row | _curves(run) | {
        "header": _header(row),
        "environment": run.decoded("environment.json", dict) or {},
        "settings_toml": (run.read("settings.toml") or b"").decode("utf-8", "replace"),
        "numbers": _numbers(row | (memorized or {}) | (report or {})),
        "conclusions": [finding._asdict() | {"tag": tag_of(finding.id) or "neutral"} for finding in findings],
        "baselines": _baselines(report or {}, plan),
        "uniform_loss_nats_per_token": math.log(row["vocabulary"]) if row["vocabulary"] else None,
        "forecast": _forecast(run, row),
        "events": _events(run),
        "checkpoints": _checkpoints(run),
        "reports": [
            {"name": name, "title": _REPORTS.get(name, name), "address": f"runs/{quote(run.id)}/reports/{quote(name)}"}
            for name in report_names(run)
        ],
        "evaluation": _evaluation(report),
        "memorization_report": memorized,
        "share_read": steps.share_read,
        "offset": run.log.offset,
    }  # fmt: skip


def _some_steps(steps: Steps) -> list[Row]:
    """Rows of steps, of a long run some evenly; all whose loss was not finite, which are only counted."""
    names = ("step", "tokens", "train_loss_nats_per_token", "learning_rate")
    at = np.unique(np.linspace(0, max(0, steps.count - 1), min(steps.count, STEPS_JUDGED)).astype(int))
    columns = [steps[name][at].tolist() for name in names]
    lost = int(np.isnan(steps["train_loss_nats_per_token"]).sum())
    rows: list[Row] = [
        {"event": "step", "step": int(step), "tokens": int(tokens), "train_loss_nats_per_token": loss,
         "learning_rate": None if math.isnan(rate) else rate}
        for step, tokens, loss, rate in zip(*columns, strict=True) if not math.isnan(loss)
    ]  # fmt: skip
    return [{"event": "step", "train_loss_nats_per_token": None}] * lost + rows


def _curves(run: RunFiles) -> Row:
    epoch, events = tokens_per_epoch(run), run.log.events
    curves = None if epoch is None else read_curves(events, tokens_per_epoch=epoch)
    opened = curves.gap.opened if curves else None
    return {
        "tokens_per_epoch": epoch,
        "best_between": list(best_step_between(events)),
        "gap_opens": opened and {"steps": [p.step for p in opened], "tokens": [p.tokens for p in opened]},
    }


def _header(row: Mapping[str, Any]) -> list[Row]:
    facts = [("Text", row["text"]), ("Model", row["model"])]
    if row["num_parameters"]:
        facts.append(("Parameters", format_count(row["num_parameters"])))
    if row["vocabulary"]:
        facts.append(("Vocabulary", f"{row['vocabulary']:,} tokens"))
    facts.append(("Optimizer", row["optimizer"] or "unknown"))
    if row["tokens"]:
        facts.append(("Trained on", f"{format_count(row['tokens'])} tokens, {row['epoch'] or 0:.2f} epochs"))
    planned = next((one for one in row["plan"] if one["name"] == "wall_seconds"), None)
    if row["wall_seconds"]:
        time = planned["actual_text"] if planned else ""
        facts.append(("Time", time or format_duration(row["wall_seconds"])))
    if row["started"]:
        facts.append(("Started", datetime.fromtimestamp(row["started"]).strftime("%Y-%m-%d %H:%M")))
    return [{"title": title, "text": str(text)} for title, text in facts]


def _numbers(numbers: Mapping[str, Any]) -> list[Row]:
    """A row of each number that METRICS has, in its order."""
    rows = []
    for name, known in METRICS.items():
        value = numbers.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            continue
        form = known.form if known.label else _forms.get(known.unit, format_number)
        rows.append({
            "name": name, "title": known.title or name.replace("_", " ").capitalize(), "value": value,
            "text": form(value), "unit": known.unit if known.label or known.unit not in _forms else "",
            "interval": numbers.get(f"{name}_interval_95"), "interval_text": interval_text(numbers, name, form),
            "sentence": known.sentence, "better": known.better,
        })  # fmt: skip
    return rows


_forms = {"s": format_duration, "bytes": format_bytes}


def _baselines(report: Mapping[str, Any], plan: Plan) -> list[Row]:
    """The n-gram baselines, in order of n: of the text that was scored, else of the plan."""
    found = report.get("baselines") or plan.baselines
    titles = {"uniform": "uniform guessing", "unigram": "unigram"}
    return [
        {"name": name, "title": titles.get(name, name), "loss_nats_per_token": numbers.get("loss_nats_per_token"),
         "bits_per_byte": numbers.get("bits_per_byte")}
        for name, numbers in found.items()
    ]  # fmt: skip


def _forecast(run: RunFiles, row: Mapping[str, Any]) -> Row | None:
    """The newest one, for the last step that is planned; None where nothing is expected."""
    key = "forecast_loss_nats_per_token"
    for event in reversed(run.log.events):
        if event["event"] == "evaluation" and event["step"] and row["planned_steps"]:
            if event.get(key) is None:
                return None
            tokens = event["tokens"] * row["planned_steps"] / event["step"]
            return {"at_step": row["planned_steps"], "at_tokens": tokens, "loss_nats_per_token": event[key],
                    "loss_nats_per_token_interval_90": event.get(f"{key}_interval_90"),
                    "as_of_step": event["step"]}  # fmt: skip
    return None


def _events(run: RunFiles) -> list[Row]:
    """What happened, besides steps and evaluations."""
    texts = {"resume": "resumed", "checkpoint": "checkpoint"}
    tags = {"warning": "warning", "decision": "decision", "end": "end"}
    return [
        {"event": row["event"], "step": row["step"], "tokens": row.get("tokens"),
         "text": row.get("sentence") or row.get("reason") or texts.get(row["event"], row["event"]),
         "tag": tags.get(row["event"], "neutral")}
        for row in run.log.events
        if row["event"] != "evaluation" and not row.get("as_planned")
    ]  # fmt: skip


def _checkpoints(run: RunFiles) -> list[Row]:
    rows = []
    for name in run.names_in("checkpoints"):
        first, _, step = name.partition("-")
        manifest = run.decoded(f"checkpoints/{name}/manifest.json", dict)
        if first in ("step", "best") and step.isdecimal() and manifest:
            num_bytes = sum(file.get("num_bytes", 0) for file in manifest.get("files", {}).values())
            use = (manifest.get("state") or {}).get("use_step")
            rows.append(
                {"step": int(step), "name": name, "is_best": first == "best", "num_bytes": num_bytes, "use": use}
            )
    last = max((row for row in rows if not row["is_best"]), key=lambda row: row["step"], default=None)
    used = None if last is None else last["step"] if last["use"] is None else last["use"]
    for row in rows:
        row["is_used"] = row["step"] == used
        del row["use"]
    return sorted(rows, key=lambda row: (row["step"], row["is_best"]))


def _evaluation(report: Mapping[str, Any] | None) -> Row | None:
    if report is None:
        return None
    documents = [
        {"name": d["name"], "num_tokens": d["num_tokens"], "num_bytes": d["num_bytes"],
         "loss_nats_per_token": d["nats"] / d["num_tokens"] if d["num_tokens"] else None,
         "bits_per_byte": d["nats"] / math.log(2) / d["num_bytes"] if d["num_bytes"] else None}
        for d in report.get("documents", [])
    ]  # fmt: skip
    left_out = ("documents", "text_sha256", "parts", "baselines")
    return {name: value for name, value in report.items() if name not in left_out} | {"documents": documents}


def report_names(run: RunFiles) -> list[str]:
    return [
        name for name in run.names_in("reports") if Path(name).suffix in REPORT_ENDINGS and not name.startswith(".")
    ]


# ---- Columns


def series(
    run: RunFiles, axis: str, low: float | None, high: float | None, points: int, until: float = math.inf
) -> Row:
    """What /api/runs/RUN/series answers, of what is read `until` then, by time.perf_counter. Raises InputError for an
    axis or a number of points that there is not."""
    if axis not in AXES:
        raise InputError(f'there is no axis "{axis}": give one of {", ".join(AXES)}.')
    if not 2 <= points <= MOST_POINTS:
        raise InputError(f"points is {points}, but must be from 2 to {MOST_POINTS:,}.")
    run.log.refresh()
    steps, events = run.log.steps(until), [row for row in run.log.events if row["event"] == "evaluation"]
    prices = [(row["seconds"], row["cost"]["price_usd"]) for row in events if (row.get("cost") or {}).get("price_usd")]
    x = _axis(axis, steps["seconds"], prices) if axis == "price_usd" else steps[axis]
    begin = 0 if low is None else int(np.searchsorted(x, low))
    end = len(x) if high is None else int(np.searchsorted(x, high, side="right"))
    x, is_reduced, columns = x[begin:end], end - begin > points, {}
    starts = bucket_starts(x, points) if is_reduced else np.arange(0)
    for name in COLUMNS:
        values = steps[name][begin:end]
        if not len(values) or np.isnan(values).all():
            continue
        columns[name] = [_plain(part) for part in extremes(values, starts)] if is_reduced else _plain(values)
    at = _axis(axis, np.array([e["seconds"] for e in events], float), prices) if axis == "price_usd" else np.array(
        [event.get(axis, math.nan) for event in events], float
    )  # fmt: skip
    inside = [i for i, value in enumerate(at) if (low is None or value >= low) and (high is None or value <= high)]
    return {
        "x_axis": axis, "x": _plain(x[starts] if is_reduced else x), "is_reduced": is_reduced, "columns": columns,
        "evaluations": {"x": _plain(at[inside]), "columns": _looks([events[i] for i in inside])},
        "num_steps": steps.count, "share_read": steps.share_read, "offset": steps.offset,
    }  # fmt: skip


def _axis(axis: str, seconds: Floats, prices: Sequence[tuple[float, float]]) -> Floats:
    """Money at each time of training, between the evaluations that say what was spent."""
    if not prices:
        raise InputError("no price is recorded: train with --watch.price.")
    at, prices_usd = np.array(prices, float).T
    at_prices: Floats = np.interp(seconds, at, prices_usd)
    return at_prices


def _looks(events: Sequence[Row]) -> dict[str, list[float | None]]:
    names = dict.fromkeys(key for event in events for key in event if key not in _NO_COLUMNS)
    columns = {
        name: [event.get(name) for event in events] for name in names if not name.endswith(("_interval_90", "_95"))
    }
    key = "forecast_loss_nats_per_token"
    if key in columns:
        pairs = [event.get(f"{key}_interval_90") or [None, None] for event in events]
        columns |= {f"{key}_low": [pair[0] for pair in pairs], f"{key}_high": [pair[1] for pair in pairs]}
    return columns


def _plain(values: Floats) -> list[float | None]:
    """As values of JSON; NaN is written as null."""
    return values.tolist()  # type: ignore[no-any-return]


# ---- Samples


def samples(run: RunFiles) -> Row:
    """What /api/runs/RUN/samples answers."""
    rows: list[Row] = []
    log = SampleLog(run)
    rows = log.rows
    losses = {
        e["step"]: e.get("probe_validation_loss_nats_per_token") for e in run.log.events if e["event"] == "evaluation"
    }
    prompts: dict[str, list[Row]] = {}
    for row in rows:
        known = [step for step in losses if step <= row["step"]]
        loss = losses[max(known)] if known else None
        sample = {key: value for key, value in row.items() if key != "prompt"}
        prompts.setdefault(str(row.get("prompt") or ""), []).append(
            sample | {"probe_validation_loss_nats_per_token": loss}
        )
    return {"prompts": [{"prompt": prompt, "samples": of_prompt} for prompt, of_prompt in prompts.items()]}


class SampleLog:
    """samples.jsonl, without what a resume replaced."""

    def __init__(self, run: RunFiles) -> None:
        import msgspec

        from hornbook.records.rows import check_sample, without_replaced

        rows = []
        for chunk in Tail(run.folder / "samples.jsonl").read():
            try:
                lines = msgspec.json.Decoder(Row).decode_lines(chunk)
                for row in lines:
                    check_sample(row)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise InputError(f"samples.jsonl is damaged ({error}).") from None
            rows += lines
        self.rows = [row for row in without_replaced(rows) if row.get("event") != "resume"]
