"""`hornbook.evaluate`: how surprised is this model by this text, and how sure is that number?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hornbook.evaluation.corpus import EncodedDocument, conventions, encode_documents, part_documents
from hornbook.evaluation.corpus import evaluate as score
from hornbook.facts.errors import InputError
from hornbook.facts.settings import from_table, read_table
from hornbook.records.result import Report
from hornbook.session.models import Opened, device, open_model
from hornbook.session.texts import is_prepared, prepared_text, read_documents
from hornbook.training.checkpoint import read_manifest

Progress = Callable[[int, int], None]


def evaluate(
    model: str, *texts: str, window: int | None = None, stride: int | None = None, per_document: bool = False,
    step: int | None = None, batch_size: int = 256, progress: Progress | None = None, **text_settings: Any,
) -> Report:  # fmt: skip
    """Score `texts` (of a run without texts: its validation side) under `model`, and return the Report.

    `text_settings` are field, separator and errors of the section [text]. Raises InputError for bad input.
    """
    if batch_size < 1:
        raise InputError(f"the batch size is {batch_size}, but it must be at least 1.")
    opened = open_model(model, step=step)
    documents, name = documents_for(opened, texts, text_settings)
    how = conventions(opened.model, opened.tokenizer, window=window, stride=stride, per_document=per_document)
    return score(
        opened.model, documents, how, model_name=opened.name, text_name=name, batch_size=batch_size, device=device(),
        progress=progress,
    )  # fmt: skip


def documents_for(
    opened: Opened, texts: tuple[str, ...], text_settings: dict[str, Any]
) -> tuple[list[EncodedDocument], str]:
    """The documents to score and what to call them: `texts`, or the validation side of the model's own run."""
    if texts and not is_prepared(texts):
        wanted = from_table({"text": {"paths": list(texts)} | text_settings}, source="settings").text
        pairs = ((document.name, document.text()) for document in read_documents(wanted))
        return encode_documents(pairs, opened.tokenizer), ", ".join(texts)
    if text_settings and (not texts or is_prepared(texts)):
        raise InputError(f"a prepared text is read as it is: leave out --{min(text_settings)}.")
    if not texts and opened.run is None:
        raise InputError(f"name a text to score: {opened.name} is not a run, so it has no validation side of its own.")
    if texts:
        text = from_table({"text": {"paths": list(texts)}}, source="settings").text
        name = f"{texts[0]} (validation side)"
    else:
        assert opened.run is not None
        text = from_table(read_table(opened.run.folder / "settings.toml"), source="settings.toml").text
        name = "the validation side"
    prepared = prepared_text(text)
    if prepared.tokenizer.fingerprint != opened.tokenizer.fingerprint:
        raise InputError(
            f"{prepared.folder} was prepared with another tokenizer than {opened.name} has: name the text itself."
        )
    if not texts and prepared.key != _key(opened):
        raise InputError(f"the text of {opened.name} has changed since it was trained: name the text to score.")
    return part_documents(prepared.validation, prepared.tokenizer), name


def _key(opened: Opened) -> str:
    """The key of the prepared text that the model of a run was trained on."""
    assert opened.run is not None
    assert opened.step is not None
    key: str = read_manifest(opened.run.checkpoint_folder(opened.step))["state"]["prepared"]
    return key
