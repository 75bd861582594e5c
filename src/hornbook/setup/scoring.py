"""Which documents a model is scored on, what its run was trained on, and its scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hornbook.data.shards import MANIFEST, Prepared, open_prepared
from hornbook.engine.checkpoint import read_manifest
from hornbook.evaluation.corpus import EncodedDocument, conventions, corpus_report, encode_documents, part_documents
from hornbook.facts.errors import InputError
from hornbook.facts.settings import Text, from_table
from hornbook.records.result import Report
from hornbook.setup.documents import named_documents
from hornbook.setup.model import LoadedModel, settings_of
from hornbook.setup.text import Progress, is_prepared, prepared_before, prepared_folder, prepared_text


def score_documents(
    opened: LoadedModel, documents: Sequence[EncodedDocument], name: str, *, progress: Progress | None = None
) -> Report:
    """The Report of a text by the default conventions."""
    how = conventions(opened.model, opened.tokenizer)
    title = opened.name if opened.step is None else f"{opened.name} at step {opened.step}"
    return corpus_report(opened.model, documents, how, model_name=title, text_name=name, progress=progress)


def documents_for(
    opened: LoadedModel, texts: tuple[str, ...], text_settings: dict[str, Any]
) -> tuple[list[EncodedDocument], str]:
    """The documents to score and what to call them: `texts`, or the validation side of the model's own run."""
    if texts and not is_prepared(texts):
        pairs = ((document.name, document.text()) for document in named_documents(texts, text_settings))
        return encode_documents(pairs, opened.tokenizer), ", ".join(texts)
    if text_settings:
        raise InputError(f"a prepared text is read as it is: leave out --{min(text_settings)}.")
    if not texts and opened.run is None:
        raise InputError(f"give a text to score: {opened.name} is not a run, so it has no validation split of its own.")
    if texts:
        prepared = prepared_text(from_table({"text": {"paths": list(texts)}}, source="settings").text)
        name = f"{texts[0]} (validation split)"
    else:
        prepared, name = own_text(opened), "the validation split"
    if prepared.tokenizer.fingerprint != opened.tokenizer.fingerprint:
        raise InputError(
            f"{prepared.folder} was prepared with another tokenizer than {opened.name} has: name the text itself."
        )
    return part_documents(prepared.validation, prepared.tokenizer), name


def plain_texts(
    opened: LoadedModel, documents: Sequence[EncodedDocument], texts: tuple[str, ...], text_settings: dict[str, Any]
) -> list[str]:
    """The documents as they were written; those of a prepared text as their tokens spell them."""
    if texts and not is_prepared(texts):
        return [document.text() for document in named_documents(texts, text_settings)]
    return [opened.tokenizer.decode(document.tokens) for document in documents]


def _text_and_key(opened: LoadedModel) -> tuple[Text, str]:
    """The text of a run, and the key that it had as prepared when the run was trained."""
    assert opened.run is not None
    state = read_manifest(opened.run.checkpoints()[-1])["state"]
    return settings_of(opened.run).text, state.get("prepared", "")


def own_text(opened: LoadedModel) -> Prepared:
    """The prepared text of a run. Raises InputError when it is not what the run was trained on any more."""
    text, key = _text_and_key(opened)
    prepared = prepared_text(text)
    if prepared.key == key:
        return prepared
    if (before := prepared_before(text, key)) is not None:
        return before
    raise InputError(f"the text of {opened.name}, or how it is split, has changed since it was trained: give the text.")


def training_text(opened: LoadedModel) -> Prepared | None:
    """What a run was trained on; None where that is no longer prepared. Nothing is prepared for it."""
    text, key = _text_and_key(opened)
    folder = prepared_folder(text)
    if (folder / MANIFEST).is_file() and (prepared := open_prepared(folder)).key == key:
        return prepared
    return prepared_before(text, key)
