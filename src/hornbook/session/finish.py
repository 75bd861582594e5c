"""The end of a run: all of the validation text is scored, and everything a person wants to know is written down."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from hornbook.data.shards import Prepared
from hornbook.evaluation.baselines import training_stream
from hornbook.evaluation.corpus import Places, conventions, part_documents
from hornbook.evaluation.corpus import evaluate as score
from hornbook.evaluation.inspection import inspect_text
from hornbook.evaluation.kinds import surprise_ratio
from hornbook.facts.errors import Interrupted
from hornbook.model.decoder import Decoder
from hornbook.planning.plan import Plan
from hornbook.planning.plan import score as score_plan
from hornbook.records.result import Report
from hornbook.report.curves import best_step_between, evaluations
from hornbook.report.pages import run_page
from hornbook.report.plots import loss_plot
from hornbook.report.words import Said, conclusions
from hornbook.session.best import Best
from hornbook.session.chosen import chosen_on
from hornbook.session.live import View
from hornbook.session.meter import Meter, peak_memory_bytes
from hornbook.session.models import device
from hornbook.session.signals import Stop
from hornbook.session.start import Start, counting_models
from hornbook.session.watch import Watch
from hornbook.text.tokenizer import Tokenizer
from hornbook.training import checkpoint as checkpoints


def finish(
    start: Start, model: Decoder, *, watch: Watch, best: Best, view: View, stop: Stop, meter: Meter, step: int
) -> dict[str, Any]:  # fmt: skip
    """Score, plot, write the report, and return the summary. Raises Interrupted when a signal comes meanwhile."""
    run, prepared, used = start.run, start.prepared, step
    if start.settings.checkpoint.best and best.step is not None and best.step != step:
        model, used = checkpoints.load_model(best.folder(run)).to(device()), best.step
    known, chosen = run.plan, chosen_on(start.settings, prepared)
    baselines = known["baselines"] if "baselines" in known else counting_models(prepared, start.shape, chosen)
    report = _final_report(start, model, view, stop, used, baselines, chosen)
    view.end()
    rows, samples = run.rows(), run.samples()
    concluded = _conclusions(start, rows, baselines, report, used, apart=chosen is not None)
    words = [said.sentence for said in concluded]
    last_step = next(row for row in reversed(rows) if row["event"] == "step")
    looks = evaluations(rows)
    summary: dict[str, Any] = {
        "run": str(run.folder),
        "title": run.folder.name,
        "report": str(run.reports / "report.html"),
        "step": step,
        "used_step": used,
        "tokens": last_step["tokens"],
        "epoch": last_step["epoch"],
        "num_parameters": start.shape.parameters,
        "vocabulary": start.shape.vocabulary,
        "best_step": min(((p.validation_loss, p.step) for p in looks), default=(0.0, None))[1],
        "best_step_between": best_step_between(rows),
        "train_loss_nats_per_token": _probe_loss(watch, "train", model),
        "probe_validation_loss_nats_per_token": next((p.validation_loss for p in looks if p.step == used), None),
        "outside_probe": report is not None and chosen is not None,
        "chosen_on_this_text": bool(start.settings.checkpoint.best) and report is not None and chosen is None,
        "train_seconds": last_step["seconds"],
        "tokens_per_second": last_step["tokens"] / last_step["seconds"],
        "mfu": meter.mfu(last_step["flops"] / last_step["seconds"]),
        "baselines": baselines,
        "words": words,
        "conclusions": [said._asdict() for said in concluded],
        "sample": samples[-1]["prompt"] + samples[-1]["text"] if samples else None,
    }
    if report is not None:
        summary |= _final_numbers(report) | prepared.leak | {"lost_share": report.extra.get("lost_share", 0.0)}
        run.write_report("evaluation.json", report.to_json())
    run.reports.mkdir(exist_ok=True)
    svg = loss_plot(
        rows, path_png=run.reports / "loss.png", path_svg=run.reports / "loss.svg",
        tokens_per_epoch=prepared.train.num_tokens, uniform_loss=math.log(start.shape.vocabulary),
        title=run.folder.name, repeated_share=prepared.checkup.get("repeated_share", 0.0),
    )  # fmt: skip
    before, after = _inspections(start, model)
    whole = last_step["step"] == start.settings.train.steps and not any(row["event"] == "resume" for row in rows)
    details = {"environment": run.environment, "conventions": report.conventions if report is not None else None}
    summary |= meter.reading()
    summary["wall_seconds"] = 3600 * summary["gpu_hours"]  # one device
    summary["peak_memory_bytes"] = peak_memory_bytes(meter.on)
    summary["plan_score"] = _plan_score(known, summary, whole)
    page = run_page(rows, samples, run.settings_toml, summary | details, before, after, svg, words)
    run.write_report("report.html", page)
    return summary


def _probe_loss(watch: Watch, side: str, model: Decoder) -> float | None:
    """What the weights that are used get on a probe."""
    seen = watch.probes[side].score(model) if side in watch.probes else None
    return None if seen is None else seen.loss


def _chosen_in_words(used: int, report: Report, apart: bool) -> Said:
    if apart:
        return Said(
            "chosen_apart",
            f"The weights of step {used:,} are used, those with the lowest probe loss; the loss above is that of "
            f"{report.num_tokens:,} validation tokens outside the probe.",
        )
    return Said(
        "chosen_on_this_text",
        f"The weights of step {used:,} are used, chosen on this validation text itself, since it is too short to keep "
        "a part of it aside: the loss above is a little too low.",
    )


def _conclusions(
    start: Start,
    rows: list[dict[str, Any]],
    baselines: dict[str, Any],
    report: Report | None,
    used: int,
    *,
    apart: bool,
) -> list[Said]:
    train, validation = start.prepared.train, start.prepared.validation
    ratio, prepared = None, start.prepared
    if validation.num_tokens:
        ratio = surprise_ratio(training_stream(train), training_stream(validation), start.shape.vocabulary)
    said = conclusions(
        rows, tokens_per_epoch=train.num_tokens, used_step=used,
        counting=_to_compare_with(prepared, baselines),
        final_loss=report.loss_nats_per_token if report is not None else None,
        repeated_share=prepared.checkup.get("repeated_share", 0.0),
        leaked_share=prepared.leak["leaked_share"] or 0.0,
        surprise_ratio=ratio, outside_probe=apart,
    )  # fmt: skip
    if report is not None and start.settings.checkpoint.best:
        said.append(_chosen_in_words(used, report, apart))
    return said


def _to_compare_with(prepared: Prepared, baselines: dict[str, Any]) -> dict[str, float]:
    """The losses of the n-gram baselines; none where the validation text leaked: to be below them proves nothing."""
    if prepared.leak["validation_leaked"]:
        return {}
    return {name: each["loss_nats_per_token"] for name, each in baselines.items()}


def _final_numbers(report: Report) -> dict[str, Any]:
    """What the summary says of the validation text, with the intervals that it is long enough for."""
    numbers, known = report.to_dict(), {}
    for name in ("perplexity", "bits_per_byte", "num_tokens", "num_bytes", "num_documents", "interval_method"):
        known[name] = numbers[name]
        if f"{name}_interval_95" in numbers:
            known[f"{name}_interval_95"] = numbers[f"{name}_interval_95"]
    known["validation_loss_nats_per_token"] = report.loss_nats_per_token
    if "loss_nats_per_token_interval_95" in numbers:
        known["validation_loss_nats_per_token_interval_95"] = numbers["loss_nats_per_token_interval_95"]
    return known


def _plan_score(known: dict[str, Any], summary: dict[str, Any], whole: bool) -> dict[str, Any] | None:
    """The plan beside what came; time only of a `whole` run, which was not interrupted and went all its steps."""
    if "plan" not in known:
        return None
    actual = {"memory_bytes": summary["peak_memory_bytes"]}
    if whole:
        actual |= {name: summary[name] for name in ("wall_seconds", "energy_kwh", "price_usd") if name in summary}
    for name, key in (("loss_nats_per_token", "validation_loss_nats_per_token"), ("bits_per_byte", "bits_per_byte")):
        if summary.get(key) is not None:
            actual[name] = summary[key]
    return score_plan(msgspec.convert(known["plan"], Plan), **actual)


def _final_report(
    start: Start, model: Decoder, view: View, stop: Stop, step: int, baselines: dict[str, Any],
    chosen: Sequence[Places] | None,
) -> Report | None:  # fmt: skip
    """The Report of the validation side, but for what has `chosen` the weights; None where the split has none."""
    part, tokenizer = start.prepared.validation, start.prepared.tokenizer
    if part.num_tokens < 2:
        return None

    def progress(done: int, total: int) -> None:
        if stop.is_set():
            raise Interrupted(
                f"stopped while scoring the validation text: training is done and saved, run the same command with "
                f"--out {start.run.folder} to score again",
                stop.signal_number,
            )

    documents, how = part_documents(part, tokenizer), conventions(model, tokenizer)
    num_tokens = sum(len(document.tokens) - (how.beginning is None) for document in documents)
    view.note(f"scoring the {num_tokens:,} tokens of the validation text")
    report = score(
        model, documents, how, model_name=f"{start.run.folder} at step {step}", text_name="the validation side",
        device=device(), progress=progress, leave_out=chosen, tokenizer=tokenizer,
    )  # fmt: skip
    return msgspec.structs.replace(report, extra=report.extra | {"baselines": baselines} | start.prepared.leak)


def _inspections(start: Start, model: Decoder) -> tuple[list[dict[str, Any]] | None, list[dict[str, Any]] | None]:
    """Each token of the same sentence of the validation text, before training and after."""
    part, tokenizer = start.prepared.validation, start.prepared.tokenizer
    ids = next((ids for i in range(len(part.names)) if len(ids := part.document_tokens(i)) > 1), None)
    first = start.run.checkpoint_folder(0)
    if ids is None or not first.is_dir():
        return None, None
    text, untrained = excerpt(tokenizer, ids), checkpoints.load_model(first).to(device())
    whole = len(tokenizer.encode(text))  # all of it is given, so that nothing is left to be continued
    before, after = (
        inspect_text(each, tokenizer, text, greedy_prompt=whole, device=device()).tokens for each in (untrained, model)
    )  # fmt: skip
    return before, after


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
