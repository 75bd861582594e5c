"""TEXT..., as every command takes it: files, folders, globs, a prepared folder, or nothing for the built-in corpus."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from hornbook.data.shards import MANIFEST, Prepared, open_prepared
from hornbook.facts.errors import InputError
from hornbook.facts.settings import Text
from hornbook.records.run import Run, is_run

Progress = Callable[[int, int], None]


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
    from hornbook.data.prepare import prepare
    from hornbook.setup.documents import read_documents, split_rule

    documents = read_documents(text)
    return prepare(
        documents, tokenizer=text.tokenizer, split=split_rule(text, documents), out=out or prepared_folder(text),
        source=text.paths,
        dedup=text.dedup, canaries=text.canaries, progress=progress,
    )  # fmt: skip


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
