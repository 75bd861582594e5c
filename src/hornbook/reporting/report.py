"""The pages of a run from its folder alone, at any moment: of one that is done, goes on, was killed, or is older.

What the end of a run has computed with its model (scores, the same sentence before and after) is in SUMMARY; of a run
that has no such file, or went on after it, the page says what the log shows.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from hornbook.facts.errors import InputError
from hornbook.facts.io import shown, write_aside
from hornbook.facts.metrics import printed
from hornbook.records.listing import is_running, shape_of
from hornbook.records.result import Report, proof_verdict
from hornbook.records.run import EVALUATION, Row, Run
from hornbook.reporting.curves import evaluations
from hornbook.reporting.html import PAGES
from hornbook.reporting.pages import evaluation_page, run_page
from hornbook.reporting.plots import loss_plot
from hornbook.reporting.verdict import has_diverged, of_run
from hornbook.reporting.words import Finding, conclusions

SUMMARY = "reports/summary.json"
OF_THE_TEXT = ("apart", "together", "apart_unknown", "parted", "by_heart")  # need to know what the text repeats


def write_pages(run: Run, out: Path | None = None, ending: Mapping[str, Any] | None = None) -> Row:
    """Write the page of a run, and its curve as PNG and SVG, to its reports or to the file `out` alone; return
    where (`report`), what the page says first (`verdict`, `tag`), `state` and `step`. `ending`: the summary of the run
    that ends just now.

    Reads nothing but the run folder and takes no lock. Raises InputError where a file of the run is damaged,
    SystemFailure where a page cannot be written.
    """
    rows, samples = run.rows(), run.samples()
    last = next((row for row in reversed(rows) if row["event"] in ("step", "evaluation", "end")), {"step": 0})
    summary = dict(ending or _ending(run, last["step"]) or _so_far(run, rows))
    state = "ended" if ending else state_of(run, rows)
    findings = [Finding(**row) for row in summary["conclusions"]]
    said = of_run(
        findings, state=state, step=last["step"], steps=_steps(summary["settings"]), diverged=has_diverged(rows),
        diverging=any(row.get("fault") == "diverges" for row in rows), memorized=_memorized(run),
    )  # fmt: skip
    report = _evaluated(run) if state not in ("interrupted", "running", "unfinished") else None
    svg = _curve(run, rows, summary, to_files=out is None)
    links = [] if out is not None else _links(run, report)
    settings = run.settings_toml
    html = run_page(
        rows, samples, settings, _header(run, summary), summary.get("inspection_before"),
        summary.get("inspection_after"), svg, [finding.sentence for finding in findings], verdict=said, links=links,
        proof=proof_verdict(run.reports),
    )  # fmt: skip
    if out is not None:
        path = write_aside(out, html)
    else:
        path = run.write_report("report.html", html)
        if report is not None:
            run.write_report("evaluation.html", evaluation_page(report, str(summary["title"]), links))
    return {"run": shown(str(run.folder)), "report": shown(str(path)), "state": state, "step": last["step"],
            "verdict": str(said), "tag": said.tag}  # fmt: skip


def links_of(run: Run) -> list[tuple[str, str]]:
    """(name, file) of the pages of a run that are there: they link to each other."""
    return [(name, file) for name, file in PAGES.items() if file == "report.html" or (run.reports / file).is_file()]


def _links(run: Run, report: Report | None) -> list[tuple[str, str]]:
    there = dict(links_of(run)) | ({"Evaluation": "evaluation.html"} if report is not None else {})
    return [(name, file) for name, file in PAGES.items() if name in there]


def state_of(run: Run, rows: Sequence[Row]) -> str:
    """ "running", "interrupted", "unfinished" (killed, or before its first step), or the reason for which it ended."""
    last = next((row for row in reversed(rows) if row["event"] in ("step", "evaluation", "resume", "end")), None)
    if is_running(run.folder):
        return "running"
    return "unfinished" if last is None or last["event"] != "end" else str(last.get("reason") or "ended")


def _ending(run: Run, step: int) -> Row | None:
    """What the run wrote of itself at its end, unless it went on since."""
    if not (run.folder / SUMMARY).is_file():
        return None
    summary = msgspec.json.decode(run.read(SUMMARY), type=Row)
    return summary if summary.get("step") == step else None


def _so_far(run: Run, rows: Sequence[Row]) -> Row:
    """The same of a run without an end, as far as its log shows it."""
    settings, plan, report = _settings(run), run.plan, _evaluated(run)
    shape = shape_of(run)
    at: Row = {}
    for row in rows:
        at |= {name: row[name] for name in ("step", "tokens", "epoch", "seconds") if row.get(name) is not None}
    looks = evaluations(rows)
    tokens_per_epoch = round(at["tokens"] / at["epoch"]) if at.get("epoch") else 0
    findings: list[Finding] = []
    if tokens_per_epoch:
        text = plan.get("text", {})
        known = plan.get("baselines", {}) if text and not text.get("validation_leaked") else {}
        used = re.search(r" at step (\d+)$", report.model) if report is not None else None
        findings = conclusions(
            rows, tokens_per_epoch=tokens_per_epoch, repeated_share=text.get("repeated_share", 0.0),
            leaked_share=text.get("leaked_share") or 0.0, used_step=int(used[1]) if used else at["step"],
            final_loss=None if report is None else report.loss_nats_per_token,
            counting={name: numbers["loss_nats_per_token"] for name, numbers in known.items()},
        )  # fmt: skip
        findings = [one for one in findings if text or one.id not in OF_THE_TEXT]
    summary = at | {
        "title": shown(run.folder.name), "settings": settings, "tokens_per_epoch": tokens_per_epoch,
        "conclusions": [finding._asdict() for finding in findings], "baselines": plan.get("baselines", {}),
        "train_seconds": at.get("seconds"), "conventions": None if report is None else report.conventions,
        "train_loss_nats_per_token": looks[-1].train_loss if looks else None,
        "probe_validation_loss_nats_per_token": looks[-1].validation_loss if looks else None,
    }  # fmt: skip
    if shape is not None:
        summary |= {"num_parameters": shape.parameters, "vocabulary": shape.vocabulary}
    if at.get("seconds"):
        summary["tokens_per_second"] = at["tokens"] / at["seconds"]
    return summary if report is None else summary | final_numbers(report)


def final_numbers(report: Report) -> Row:
    """What a summary says of the validation text, with the intervals that it is long enough for."""
    numbers = report.to_dict()
    known = {name: numbers[name] for name in ("num_tokens", "num_bytes", "num_documents", "interval_method")}
    for metric, _, _ in printed(numbers):
        name = metric.name.replace("loss_nats", "validation_loss_nats")
        known[name] = numbers[metric.name]
        if (pair := numbers.get(f"{metric.name}_interval_95")) is not None:
            known[f"{name}_interval_95"] = pair
    return known


def _evaluated(run: Run) -> Report | None:
    if not (run.folder / EVALUATION).is_file():
        return None
    report = Report.from_json(run.read(EVALUATION))
    return report if math.isfinite(report.loss_nats_per_token) else None


def _memorized(run: Run) -> Row | None:
    try:
        result = msgspec.json.decode((run.reports / "memorization.json").read_bytes(), type=Row)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    return result if {"verdict", "by_heart", "learned_enough"} <= result.keys() else None


def _settings(run: Run) -> Row:
    try:
        return tomllib.loads(run.settings_toml)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{run.folder}/settings.toml is damaged: {error}.") from None


def _steps(settings: Mapping[str, Any]) -> int | None:
    steps = settings.get("train", {}).get("steps")
    return steps if isinstance(steps, int) else None


def _curve(run: Run, rows: Sequence[Row], summary: Row, *, to_files: bool) -> str:
    plan = run.plan
    try:
        return loss_plot(
            rows, title=str(summary["title"]), tokens_per_epoch=summary["tokens_per_epoch"] or 1,
            path_png=run.reports / "loss.png" if to_files else None,
            path_svg=run.reports / "loss.svg" if to_files else None,
            uniform_loss=math.log(summary["vocabulary"]) if summary.get("vocabulary") else None,
            repeated_share=plan.get("text", {}).get("repeated_share", 0.0),
        )  # fmt: skip
    except InputError:  # nothing to draw yet
        return ""


def _header(run: Run, summary: Row) -> Row:
    """The summary with what stands at the top of the page."""
    environment, settings = run.environment, summary["settings"]
    model, optimizer = settings.get("model", {}), settings.get("optimizer", {})
    named = [Path(str(path)).stem.replace("-", " ") for path in settings.get("text", {}).get("paths", [])]
    layers = f", {model['layers']} layers, width {model['width']}" if {"layers", "width"} <= model.keys() else ""
    when = datetime.fromtimestamp((run.folder / "settings.toml").stat().st_mtime, UTC)
    machine = environment.get("accelerator")
    machine = (machine.get("name") if isinstance(machine, Mapping) else None) or environment.get("cpu")
    return summary | {
        "text": ", ".join(named[:3]) + (", …" if len(named) > 3 else "") or "the built-in corpus",
        "model": f"{model.get('family', 'a model')}{layers}", "optimizer": optimizer.get("name"),
        "date": f"{when:%Y-%m-%d}", "machine": machine, "environment": environment,
    }  # fmt: skip
