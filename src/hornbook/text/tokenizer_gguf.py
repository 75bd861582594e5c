"""The tokenizer inside a GGUF file <-> tokenizer.json. Byte-level BPE only, with splits that are known by name.

GGUF stores tokens, merges and the *name* of the regular expression that splits text before merging.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

from hornbook.facts.errors import InputError
from hornbook.text.bytelevel import PATTERNS, split_pattern
from hornbook.text.gguf_file import read_header
from hornbook.text.tokenizer import Tokenizer, load_tokenizer

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # llama.cpp's kinds of token
# The split patterns that are known here (bytelevel.PATTERNS) by llama.cpp's names (llama-vocab.cpp).
NAMES = {"gpt2": "gpt-2", "digits": "smollm", "llama3": "llama-bpe", "qwen2": "qwen2", "o200k": "gpt-4o"}
_READ = {theirs: ours for ours, theirs in NAMES.items()} | {"llama3": "llama3", "llama-v3": "llama3"}


def _pre_tokenizer(pattern: str) -> dict[str, Any]:
    """The `pre_tokenizer` of a tokenizer.json that splits by a known pattern."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    if pattern == "gpt2":
        return byte_level | {"use_regex": True}
    first: dict[str, Any] = {"type": "Digits", "individual_digits": True}
    if pattern != "digits":
        first = {"type": "Split", "pattern": {"Regex": PATTERNS[pattern]}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [first, byte_level | {"use_regex": pattern == "digits"}]}


def load_gguf_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer of a GGUF file. Raises InputError for files without a byte-level BPE of a known split."""
    tokenizer, config = tokenizer_json(read_header(Path(path)).metadata, str(path))
    with tempfile.TemporaryDirectory() as folder:
        for name, content in (("tokenizer.json", tokenizer), ("tokenizer_config.json", config)):
            (Path(folder) / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        return load_tokenizer(Path(folder))


def tokenizer_json(metadata: Mapping[str, Any], where: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(tokenizer.json, tokenizer_config.json) from a GGUF file's metadata; `where` names the file in errors."""
    kind = metadata.get("tokenizer.ggml.model")
    if kind != "gpt2":
        raise InputError(
            f"{where} has a tokenizer of the kind {json.dumps(kind)}, and only byte-level BPE is read from GGUF: "
            "use the model's Hugging Face folder, which has a tokenizer.json."
        )
    named = metadata.get("tokenizer.ggml.pre", "gpt-2" if metadata.get("general.architecture") == "gpt2" else None)
    pattern = _READ.get(str(named))
    if pattern is None:
        raise InputError(f"{where} splits text by the rule {json.dumps(named)}; known are {', '.join(_READ)}.")
    tokens, merges = metadata.get("tokenizer.ggml.tokens"), metadata.get("tokenizer.ggml.merges") or []
    if not _texts(tokens) or not _texts(merges) or any(merge.count(" ") != 1 for merge in merges):
        raise InputError(f"{where} has a damaged tokenizer: its tokens or merges are missing.")
    types = metadata.get("tokenizer.ggml.token_type") or [NORMAL] * len(tokens)
    if not isinstance(types, list) or len(types) != len(tokens) or len(set(tokens)) < len(tokens):
        raise InputError(f"{where} has a damaged tokenizer: its tokens and their kinds do not match.")
    # Unused tokens at the end are rows of the embedding beyond the tokenizer.
    count = max((number + 1 for number, kind in enumerate(types) if kind != UNUSED), default=0)
    types, tokens = types[:count], tokens[:count]
    added = [
        {
            "id": number, "content": token, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": kind == CONTROL,
        }
        for number, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in (CONTROL, USER_DEFINED)
    ]  # fmt: skip
    model = {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": pattern == "llama3",
        "vocab": {token: number for number, token in enumerate(tokens)},
        "merges": [merge.split(" ") for merge in merges],
    }  # fmt: skip
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": {"type": "NFC"} if pattern == "qwen2" else None, "pre_tokenizer": _pre_tokenizer(pattern),
        "post_processor": None, "decoder": _pre_tokenizer("gpt2"), "model": model,
    }  # fmt: skip
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    for name in ("bos", "eos"):
        number = metadata.get(f"tokenizer.ggml.{name}_token_id")
        if isinstance(number, int) and 0 <= number < len(tokens):
            config[f"{name}_token"] = tokens[number]
    config["add_bos_token"] = bool(metadata.get("tokenizer.ggml.add_bos_token", pattern == "llama3"))
    return tokenizer, config


def _texts(values: Any) -> TypeGuard[list[str]]:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def tokenizer_metadata(tokenizer: Tokenizer, vocabulary: int) -> dict[str, Any]:
    """The metadata by which llama.cpp tokenizes as `tokenizer` does, for a model of `vocabulary` tokens.

    Our own tokenizers ask llama.cpp for <|endoftext|> before a text, as in training. Raises InputError when it is
    not a byte-level BPE with a split that llama.cpp knows by name.
    """
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(Path(folder))
        content = json.loads((Path(folder) / "tokenizer.json").read_text(encoding="utf-8"))
    model, merges = content["model"], content["model"].get("merges", [])
    pattern = split_pattern(content.get("pre_tokenizer"))
    if model.get("type") != "BPE" or (content.get("decoder") or {}).get("type") != "ByteLevel":
        raise InputError(
            f"GGUF has no place for a tokenizer of the kind {tokenizer.kind}, only for byte-level BPE: export "
            "the model to a Hugging Face folder."
        )
    if pattern is None and merges:
        raise InputError("llama.cpp does not know the rule by which this tokenizer splits text: export to huggingface.")
    if tokenizer.vocabulary > vocabulary:
        raise InputError(f"the tokenizer has {tokenizer.vocabulary} tokens, but the model only {vocabulary}.")
    texts, types = [f"[PAD{number}]" for number in range(vocabulary)], [UNUSED] * vocabulary
    for token, number in model["vocab"].items():
        texts[number], types[number] = token, NORMAL
    for token in content.get("added_tokens", []):
        texts[token["id"]] = token["content"]
        types[token["id"]] = CONTROL if token["special"] else USER_DEFINED
    metadata: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": NAMES[pattern or "gpt2"], "tokenizer.ggml.tokens": texts,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": [merge if isinstance(merge, str) else " ".join(merge) for merge in merges],
        "tokenizer.ggml.add_bos_token": tokenizer.kind != "foreign",
    }  # fmt: skip
    end = tokenizer.end_of_text
    for name, number in (("bos", tokenizer.beginning), ("eos", end), ("padding", end)):
        if number is not None:
            metadata[f"tokenizer.ggml.{name}_token_id"] = number
    return metadata
