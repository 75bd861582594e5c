"""GGUF, the file of llama.cpp: its header (metadata, and where its tensors lie), and the tokenizer in it.

The header is read by hand rather than by the `gguf` package, whose reader makes an array of every token (seconds for
50,000) and loops on a length that the file does not have. Versions 2 and 3.

GGUF stores a tokenizer's tokens, merges and the *name* of the regular expression that splits text before merging;
only byte-level BPE with splits that are known by name is read and written.
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from hornbook.facts.errors import InputError
from hornbook.formats.keys import TOKENIZER_ONLY, TOKENIZER_WITHOUT_EFFECT, check_keys
from hornbook.text.bytelevel import BYTE_CHARACTERS, PATTERNS, split_pattern
from hornbook.text.tokenizer import Tokenizer, tokenizer_of
from hornbook.text.tokenizer_content import added_token, bpe_model, byte_level, content_of
from hornbook.text.tokenizer_json import END_OF_TEXT, checked

MAGIC = b"GGUF"
_SCALARS = {
    0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8",
}  # fmt: skip
_STRING, _ARRAY = 8, 9
LARGEST_LIST = 1 << 22  # values in a list: Python takes tens of bytes for each. The longest are merges, 4 a token
MOST_ENTRIES = 1 << 16  # keys of metadata, and tensors


@dataclass(frozen=True)
class GGUFTensor:
    """Where one tensor lies: `size` with the slowest dimension first, `kind` by GGML's numbering of formats."""

    size: tuple[int, ...]
    kind: int
    start: int  # bytes from the beginning of the file

    @property
    def count(self) -> int:
        return math.prod(self.size)


@dataclass(frozen=True)
class GGUFHeader:
    path: Path
    num_bytes: int
    metadata: dict[str, Any]
    tensors: dict[str, GGUFTensor]


class _Cursor:
    """Reads little-endian values one after the other; raises EOFError beyond the end."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.offset = data, 0

    def take(self, num_bytes: int) -> bytes:
        begin, self.offset = self.offset, self.offset + num_bytes
        if self.offset > len(self.data):
            raise EOFError
        return self.data[begin : self.offset]

    def uint32(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def uint64(self) -> int:
        return int.from_bytes(self.take(8), "little")

    def string(self) -> str:
        return self.take(self.uint64()).decode("utf-8")

    def value(self) -> Any:
        kind = self.uint32()
        if kind == _ARRAY:
            return self._list(self.uint32(), self.uint64())
        (value,) = self._list(kind, 1)
        return value if isinstance(value, str) else value.item()

    def _list(self, kind: int, count: int) -> list[str] | np.ndarray[Any, Any]:
        if count > LARGEST_LIST:
            raise ValueError(f"a list of {count} values, and no model needs more than {LARGEST_LIST}")
        if kind == _STRING:
            return [self.string() for _ in range(count)]
        if kind not in _SCALARS:
            raise ValueError(f"a value of the unknown kind {kind}")
        dtype = np.dtype(_SCALARS[kind])
        return np.frombuffer(self.take(count * dtype.itemsize), dtype)


def read_header(path: Path) -> GGUFHeader:
    """The metadata and the places of all tensors. Raises InputError for anything that is not a whole GGUF file."""
    try:
        with path.open("rb") as file:
            if file.read(4) != MAGIC:
                raise InputError(f"{path} is not a GGUF file: it does not begin with the letters GGUF.")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _header(path, _Cursor(data))
    except EOFError:
        raise InputError(f"{path} is cut off: copy or download it again.") from None
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{path} is a damaged GGUF file ({error}): copy or download it again.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from None


def _header(path: Path, cursor: _Cursor) -> GGUFHeader:
    cursor.take(len(MAGIC))
    version = cursor.uint32()
    if version not in (2, 3):
        raise InputError(f"{path} is GGUF version {version}; only the little-endian versions 2 and 3 are read.")
    num_tensors, num_keys = cursor.uint64(), cursor.uint64()
    if max(num_tensors, num_keys) > MOST_ENTRIES:
        raise ValueError(f"{num_tensors} tensors and {num_keys} keys, and no model needs more than {MOST_ENTRIES}")
    metadata: dict[str, Any] = {}
    for _ in range(num_keys):
        key = cursor.string()
        if key in metadata:
            raise ValueError(f"the key {key!r} occurs twice")
        metadata[key] = cursor.value()
    stored: dict[str, tuple[tuple[int, ...], int, int]] = {}
    for _ in range(num_tensors):
        name, dimensions = cursor.string(), cursor.uint32()
        if dimensions > 4 or name in stored:
            raise ValueError(f"the tensor {name!r} has {dimensions} dimensions or occurs twice")
        size = tuple(cursor.uint64() for _ in range(dimensions))
        stored[name] = (size[::-1], cursor.uint32(), cursor.uint64())
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 1 <= alignment <= 1 << 20:
        raise ValueError(f"an alignment of {alignment}")
    start = -(-cursor.offset // alignment) * alignment
    tensors = {name: GGUFTensor(size, kind, start + offset) for name, (size, kind, offset) in stored.items()}
    return GGUFHeader(path, len(cursor.data), metadata, tensors)


# The tokenizer

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # llama.cpp's kinds of token
# The split patterns that are known here (bytelevel.PATTERNS) by llama.cpp's names (llama-vocab.cpp).
NAMES = {"gpt2": "gpt-2", "digits": "smollm", "llama3": "llama-bpe", "qwen2": "qwen2", "o200k": "gpt-4o"}
# llama.cpp opens no BPE without merges. This one never applies: no UTF-8 has two bytes 0xFF.
_NO_MERGES = [f"{BYTE_CHARACTERS[255]} {BYTE_CHARACTERS[255]}"]
_USED = {
    "tokenizer.ggml.model", "tokenizer.ggml.pre", "tokenizer.ggml.tokens", "tokenizer.ggml.token_type",
    "tokenizer.ggml.merges", "tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id",
    "tokenizer.ggml.add_bos_token", "tokenizer.chat_template",
}  # fmt: skip
_READ = {theirs: ours for ours, theirs in NAMES.items()} | {"llama3": "llama3", "llama-v3": "llama3"}


def _pre_tokenizer(pattern: str) -> dict[str, Any]:
    """The `pre_tokenizer` of a tokenizer.json that splits by a known pattern."""
    by_gpt2 = pattern in ("gpt2", "digits")
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": by_gpt2}
    if pattern == "gpt2":
        return byte_level
    first: dict[str, Any] = {"type": "Digits", "individual_digits": True}
    if pattern != "digits":
        first = {"type": "Split", "pattern": {"Regex": PATTERNS[pattern]}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [first, byte_level]}


def load_gguf_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer of a GGUF file. Raises InputError for files without a byte-level BPE of a known split."""
    content, config = tokenizer_json(read_header(Path(path)).metadata, str(path))
    tokenizer = tokenizer_of(checked(content, path), config)
    first = tokenizer.beginning
    return tokenizer if first is None or not config["add_bos_token"] else tokenizer.putting(first)


def tokenizer_json(metadata: Mapping[str, Any], where: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(tokenizer.json, tokenizer_config.json) from a GGUF file's metadata; `where` names the file in errors."""
    kind = metadata.get("tokenizer.ggml.model")
    if kind != "gpt2":
        raise InputError(
            f"{where} has a tokenizer of the kind {json.dumps(kind)}, and only byte-level BPE is read from GGUF: "
            "use the model's Hugging Face folder, which has a tokenizer.json."
        )
    own = {key: value for key, value in metadata.items() if key.startswith("tokenizer.")}
    check_keys(own, _USED, TOKENIZER_WITHOUT_EFFECT, TOKENIZER_ONLY, where)
    named = metadata.get("tokenizer.ggml.pre", "gpt-2" if metadata.get("general.architecture") == "gpt2" else None)
    pattern = _READ.get(str(named))
    if pattern is None:
        raise InputError(f"{where} splits text by the rule {json.dumps(named)}; known ones are {', '.join(_READ)}.")
    tokens, merges = metadata.get("tokenizer.ggml.tokens"), metadata.get("tokenizer.ggml.merges") or []
    if not _texts(tokens) or not _texts(merges) or any(merge.count(" ") != 1 for merge in merges):
        raise InputError(f"{where} has a damaged tokenizer: its tokens or merges are missing.")
    types = metadata.get("tokenizer.ggml.token_type", [NORMAL] * len(tokens))
    types = types.tolist() if isinstance(types, np.ndarray) else types
    if not isinstance(types, list) or len(types) != len(tokens) or len(set(tokens)) < len(tokens):
        raise InputError(f"{where} has a damaged tokenizer: its tokens and their kinds do not match.")
    # Unused tokens at the end are rows of the embedding beyond the tokenizer.
    count = max((number + 1 for number, kind in enumerate(types) if kind != UNUSED), default=0)
    types, tokens = types[:count], tokens[:count]
    added = [
        added_token(number, token, special=kind == CONTROL)
        for number, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in (CONTROL, USER_DEFINED)
    ]
    vocab = {token: number for number, token in enumerate(tokens)}
    if [(token["id"], token["content"]) for token in added] == [(len(tokens) - 1, END_OF_TEXT)]:
        del vocab[END_OF_TEXT]  # as in a tokenizer.json of ours, so that it is known as one
    merges = [] if merges == _NO_MERGES else merges
    model = bpe_model(vocab, [merge.split(" ") for merge in merges], ignore_merges=pattern == "llama3")
    normalizer = {"type": "NFC"} if pattern == "qwen2" else None
    # Without merges nothing is joined, however the text is split: as the tokenizer of bytes says it.
    split = _pre_tokenizer(pattern) if merges else byte_level({}, [], use_regex=False)["pre_tokenizer"]
    tokenizer = content_of(model, split, _pre_tokenizer("gpt2"), added, normalizer)
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    for name in ("bos", "eos"):  # one that is not named here has no usual name either
        number = metadata.get(f"tokenizer.ggml.{name}_token_id")
        if number is not None and not (isinstance(number, int) and 0 <= number < len(tokens)):
            raise InputError(f"{where} names {str(number)[:80]} as its {name} token, but has {len(tokens)} tokens.")
        config[f"{name}_token"] = None if number is None else tokens[number]
    if isinstance(template := metadata.get("tokenizer.chat_template"), str):
        config["chat_template"] = template
    config["add_bos_token"] = bool(metadata.get("tokenizer.ggml.add_bos_token", pattern == "llama3"))
    return tokenizer, config


def _texts(values: Any) -> TypeGuard[list[str]]:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def tokenizer_metadata(tokenizer: Tokenizer, vocabulary: int) -> dict[str, Any]:
    """The metadata by which llama.cpp tokenizes as `tokenizer` does, for a model of `vocabulary` tokens.

    Our own tokenizers ask llama.cpp for <|endoftext|> before a text, as in training. Raises InputError when it is
    not a byte-level BPE with a split that llama.cpp knows by name.
    """
    content = tokenizer.content
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
        "tokenizer.ggml.merges": [m if isinstance(m, str) else " ".join(m) for m in merges] or _NO_MERGES,
        "tokenizer.ggml.add_bos_token": tokenizer.adds_beginning,
    }  # fmt: skip
    end = tokenizer.end_of_text
    for name, number in (("bos", tokenizer.beginning), ("eos", end), ("padding", end)):
        if number is not None:
            metadata[f"tokenizer.ggml.{name}_token_id"] = number
    if isinstance(template := tokenizer.config.get("chat_template"), str):
        metadata["tokenizer.chat_template"] = template
    return metadata
