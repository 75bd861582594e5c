"""TEXT..., as every command takes it: files, folders, globs, a prepared folder, or nothing for the built-in corpus."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hornbook.data.prepare import prepare as write_prepared
from hornbook.data.shards import MANIFEST, Prepared, open_prepared
from hornbook.facts.errors import InputError
from hornbook.facts.settings import Text, from_table
from hornbook.records.run import Run, is_run
from hornbook.text.documents import Document, builtin_documents, documents
from hornbook.text.split import default_rule, num_characters

Progress = Callable[[int, int], None]
VALIDATION_CHARACTERS = 300_000  # beyond, a 95 % interval is about 1 % of the loss, and scoring takes its time
VALIDATION_DOCUMENTS = 30  # fewer give a wide interval


def read_documents(text: Text) -> Sequence[Document]:
    """The documents that `text` names, in order; the built-in corpus, by year, when it names none."""
    if not text.paths:
        return builtin_documents()
    for path in text.paths:
        if is_run(Path(path)):
            raise InputError(f"{path} is a run, not a text: give the text that is to be read.")
    return documents(text.paths, field=text.field, separator=text.separator, errors=text.errors)


def named_documents(paths: Sequence[str], settings: dict[str, Any]) -> Sequence[Document]:
    """The documents of `paths` as `settings` (field, separator, errors) read them. Raises InputError."""
    return read_documents(from_table({"text": {"paths": list(paths)} | settings}, source="settings").text)


def is_prepared(paths: Sequence[str]) -> bool:
    return len(paths) == 1 and (Path(paths[0]) / MANIFEST).is_file()


def prepared_text(text: Text, *, out: Path | None = None, progress: Progress | None = None) -> Prepared:
    """Open the prepared folder that `text` names, or prepare what it names; unchanged text is not prepared again."""
    if is_run(Path(text.tokenizer)):
        Run.open(text.tokenizer).check("tokenizer.json", "tokenizer_config.json")
    if is_prepared(text.paths):
        if out is not None and out.resolve() != Path(text.paths[0]).resolve():
            raise InputError(f"{text.paths[0]} is prepared already: leave out --out, or give the text it came from.")
        prepared = open_prepared(text.paths[0])
        for name, asked, has in (
            ("tokenizer", text.tokenizer, prepared.manifest["tokenizer"]["asked"]),
            ("split", text.split, prepared.manifest["split"]),
        ):
            if asked not in ("auto", has):
                raise InputError(f"{text.paths[0]} is prepared with the {name} {has}, not {asked}: leave out --{name}.")
        for name in ("dedup", "canaries"):
            if getattr(text, name) and not prepared.manifest.get(name):
                raise InputError(f"{text.paths[0]} is prepared without --{name}: give the text that it came from.")
        return prepared
    found = read_documents(text)
    return write_prepared(
        found, tokenizer=text.tokenizer, split=_rule(text, found), out=out or prepared_folder(text), source=text.paths,
        dedup=text.dedup, canaries=text.canaries, progress=progress,
    )  # fmt: skip


def _rule(text: Text, found: Sequence[Document]) -> str:
    """The split asked for, or a tenth of the text; of a long text as much as gives a sure number in little time."""
    if text.split != "auto":
        return text.split
    # The built-in corpus by year: trained on the past, validated on what came after.
    kind = default_rule(len(found)).partition(":")[0] if text.paths else "tail"
    return f"{kind}:{automatic_share(kind, len(found), sum(num_characters(document) for document in found)):.2g}"


def automatic_share(kind: str, num_documents: int, characters: int) -> float:
    """The share of a text that is kept back for validation."""
    share = VALIDATION_CHARACTERS / max(1, characters)
    return min(0.1, max(share, VALIDATION_DOCUMENTS / num_documents) if kind == "hash" else share)


def prepared_folder(text: Text) -> Path:
    """The one that `text` names; else prepared/NAME-xxxxxxxx, one for each combination of paths and settings."""
    return _folder(text, ["pieces"] * text.split.startswith(("auto", "blocks")))


def prepared_before(text: Text, key: str) -> Prepared | None:
    """The prepared text with this key that was made before validation pieces had random places; None where there is
    none. Runs of that time go on with it."""
    folder = _folder(text, [])
    if not (folder / MANIFEST).is_file():
        return None
    prepared = open_prepared(folder)
    return prepared if prepared.key == key else None


def _folder(text: Text, version: list[str]) -> Path:
    if is_prepared(text.paths):
        return Path(text.paths[0])
    identity = repr((text.paths and [str(Path(p).resolve()) for p in text.paths], text.field, text.separator,
                     text.errors, text.tokenizer, text.split, *version, *(["dedup"] * text.dedup),
                     *(["canaries"] * text.canaries)))  # fmt: skip
    return Path("prepared") / f"{stem(text.paths)}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"


def stem(paths: Sequence[str]) -> str:
    """A short name for what is read."""
    if not paths:
        return "sotu"
    for part in reversed(Path(os.path.abspath(paths[0])).parts):  # of src/**/*.py it is src
        if words := re.findall(r"\w+", part.split(".")[0]):
            return "-".join(words)[:40]
    return "text"
