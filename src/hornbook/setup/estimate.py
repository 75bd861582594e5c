"""What a plan needs to know of a text, without preparing it."""

from __future__ import annotations

import math
import os
import statistics

import msgspec

from hornbook.data.shards import MANIFEST
from hornbook.facts.settings import Text
from hornbook.facts.units import format_count
from hornbook.planning.workload import CorpusStats, TextEstimate
from hornbook.setup.documents import automatic_share, read_documents
from hornbook.setup.text import is_prepared, prepared_folder
from hornbook.text.make_tokenizer import default_vocabulary
from hornbook.text.split import default_rule

SAMPLE_CHARACTERS = 4_000_000  # of a text that is not prepared, read to know its characters and documents


def read(text: Text) -> TextEstimate:
    """Counts of a prepared text, or of what was prepared of this text before; else estimates from a part of it."""
    folder = prepared_folder(text)
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return _estimated(text)
    facts = msgspec.json.decode(manifest.read_bytes())
    train, validation = facts["parts"]["train"], facts["parts"]["validation"]
    data = CorpusStats(
        train["num_tokens"], train["num_bytes"], facts["tokenizer"]["vocabulary"], validation["num_tokens"]
    )  # fmt: skip
    assumed = [] if is_prepared(text.paths) else [f"the text is what it was when {folder} was prepared."]
    documents = max(1, train["num_documents"])
    return TextEstimate(data, validation["num_bytes"], train["num_tokens"] / documents, assumed)


def _estimated(text: Text) -> TextEstimate:
    """From the first characters of a text and the sizes of its files."""
    documents, seen, sizes = read_documents(text), set[str](), list[int]()
    characters = num_bytes = 0
    for document in documents:
        sizes.append(0)
        for piece in document.pieces():
            length = len(piece.encode())
            characters, num_bytes, sizes[-1] = characters + len(piece), num_bytes + length, sizes[-1] + length
            seen.update(piece)
            if characters > SAMPLE_CHARACTERS:
                break
        if characters > SAMPLE_CHARACTERS:
            break
    whole = 1.0
    if characters > SAMPLE_CHARACTERS:  # compressed files have more text than bytes: then this is too little
        whole = max(1.0, sum(map(os.path.getsize, {document.path for document in documents})) / num_bytes)
    kept = 1.0 - _validation_share(text, len(documents), round(whole * characters))
    total = round(whole * num_bytes)
    vocabulary, per_token = _tokens(text.tokenizer, kept * total, len(seen), num_bytes / max(1, characters))
    tokens = round(kept * total / per_token)
    like = "" if text.tokenizer in ("bytes", "characters") else " as in English prose"
    assumed = (
        f"the text is not prepared yet: {per_token:.2g} bytes a token{like}, about {format_count(tokens)} tokens to "
        "train on."
    )
    held = round((1 - kept) * total)
    data = CorpusStats(tokens, round(kept * total), vocabulary, round(held / per_token))
    return TextEstimate(data, held, statistics.median(sizes) / per_token, [assumed])


def _validation_share(text: Text, num_documents: int, characters: int) -> float:
    rule, _, share = text.split.partition(":")
    if rule == "auto":
        return automatic_share(default_rule(num_documents).partition(":")[0], num_documents, characters)
    try:
        return float(share)
    except ValueError:  # a folder, or none
        return 0.0 if rule == "none" else 0.1


def _tokens(tokenizer: str, num_bytes: float, num_characters: int, bytes_per_character: float) -> tuple[int, float]:
    """(ids, bytes a token) that a tokenizer will have; of a BPE as on English prose, where the
    formula was within 4 % of what `prepare` made of 8 kB to 12 MB."""
    if tokenizer in ("bytes", "characters"):
        return (257, 1.0) if tokenizer == "bytes" else (num_characters + 1, bytes_per_character)
    asked = "50257" if tokenizer == "gpt2" else tokenizer.partition(":")[2]
    vocabulary = int(asked) if asked.isdecimal() else default_vocabulary(round(num_bytes))
    return vocabulary, min(4.4, max(1.0, 0.62 * math.log(vocabulary) - 1.58 - 26 / max(1, vocabulary - 256)))
