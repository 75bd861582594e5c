"""The data report of a prepared text, on a terminal: what is held out, what is wrong with it, what to expect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hornbook.data.manifest import held_out_in_words
from hornbook.facts.printing import print
from hornbook.facts.units import counted
from hornbook.reporting.terminal import print_table


def print_prepared(manifest: Mapping[str, Any]) -> None:
    """What a prepared folder holds, what is wrong with the text, and what to expect of training on it."""
    rows = [
        (side, f"{counts['num_tokens']:,}",
         f"tokens, {counted(counts['num_documents'], 'document')}, {counts['num_bytes']:,} bytes")
        for side, counts in manifest["parts"].items()
    ]  # fmt: skip
    tokenizer = manifest["tokenizer"]
    print_table(rows, f"{manifest['prepared']}: {tokenizer['kind']}, {tokenizer['vocabulary']:,} ids")
    print(f"{held_out_in_words(manifest)}.")
    for note in manifest["report"].get("notes", []):
        print(f"{note}.")
    checkup = manifest["report"].get("checkup")
    if checkup is not None:
        for sentence in checkup["sentences"] or ["No training document is a duplicate, and no leak was found."]:
            print(sentence)
        print_table(_copied_rows(checkup), "")
    if manifest["report"].get("left_out_documents"):
        print(f"--dedup left out {counted(manifest['report']['left_out_documents'], 'training document')}.")
    for sentence in manifest.get("outlook", {}).get("sentences", []):
        print(sentence)


def _copied_rows(checkup: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The first duplicates and the longest leaks, each with what it is a copy of."""
    rows = []
    for copied in checkup["duplicates"][:5] + checkup["copies"][:5]:
        exact = copied["similarity"] == 1
        likeness = "the same" if exact else f"about {copied['similarity']:.0%}"
        rows.append((copied["name"], likeness, f"{'as' if exact else 'like'} {copied['of']}"))
    for passage in checkup["passages"][:5]:
        more = passage.get("train_documents", 1) - 1
        documents = f"{passage['train']}{f' and {more:,} more' if more else ''}"
        shared = passage.get("shared_words", passage["num_words"])
        of = "" if shared == passage["num_words"] else f"of {passage['num_words']:,} "
        place = f"{of}from word {passage['start_word']:,}, in {documents}"
        rows.append((passage["validation"], f"{shared:,} words", place))
    return rows if checkup["sentences"] else []
