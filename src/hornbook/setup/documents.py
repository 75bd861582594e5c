"""Documents that are not prepared: read, and cut into a training and a validation side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hornbook.facts.errors import InputError
from hornbook.facts.settings import Text, from_table
from hornbook.records.run import is_run
from hornbook.text.documents import Document, builtin_documents, documents
from hornbook.text.split import default_rule, num_characters

VALIDATION_CHARACTERS = 300_000  # beyond, a 95 % interval is about 1 % of the loss, and scoring takes its time

VALIDATION_DOCUMENTS = 30  # fewer give a wide interval


def read_documents(text: Text) -> Sequence[Document]:
    """The documents that `text` names, in order; the built-in corpus, by year, when it names none."""
    if not text.paths:
        return builtin_documents()
    for path in text.paths:
        if is_run(Path(path)):
            raise InputError(f"{path} is a run, not a text: give the text that is to be read.")
        if path == "-" and not Path(path).exists():
            raise InputError("- (stdin) is not read here, as it cannot be read again: save it to a file first.")
    return documents(text.paths, field=text.field, separator=text.separator, errors=text.errors)


def named_documents(paths: Sequence[str], settings: dict[str, Any]) -> Sequence[Document]:
    """The documents of `paths` as `settings` (field, separator, errors) read them. Raises InputError."""
    return read_documents(from_table({"text": {"paths": list(paths)} | settings}, source="settings").text)


def split_rule(text: Text, documents: Sequence[Document]) -> str:
    """The split asked for, or a tenth of the text; of a long text as much as gives a sure number in little time."""
    if text.split != "auto":
        return text.split
    # The built-in corpus by year: trained on the past, validated on what came after.
    kind = default_rule(len(documents)).partition(":")[0] if text.paths else "tail"
    return (
        f"{kind}:{automatic_share(kind, len(documents), sum(num_characters(document) for document in documents)):.2g}"
    )


def automatic_share(kind: str, num_documents: int, characters: int) -> float:
    """The share of a text that is kept back for validation."""
    share = VALIDATION_CHARACTERS / max(1, characters)
    return min(0.1, max(share, VALIDATION_DOCUMENTS / num_documents) if kind == "hash" else share)
