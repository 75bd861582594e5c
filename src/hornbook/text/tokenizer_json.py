"""The tokenizer.json of Hugging Face: written for our kinds, read with suspicion, told apart, and fingerprinted."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from hornbook.facts.errors import InputError, as_json
from hornbook.text.bytelevel import BYTE_CHARACTERS, merged_tokens, split_pattern, to_bytes

END_OF_TEXT = "<|endoftext|>"
LARGEST_FILE_BYTES = 1 << 26  # the largest vocabularies in use take half of it
LARGEST_VOCABULARY = 1 << 19  # ids, twice the largest in use; a file that asks for more is damaged or hostile
LARGEST_PATTERN = 10_000  # characters; o200k's has 300
LARGEST_GROWTH = 1024  # times as long as it was, a normalizer may make a text; in use are below 100
DEEPEST = 32  # steps within steps
GPT2_FINGERPRINT = "df928fbc83bfc8d8e4df1d0e8fadc5ad3813f19d80ae618d412b2147b50d55c3"
# What the special tokens of GPT-style models are called, for folders that do not say which they are.
USUAL_ENDS = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>")
USUAL_BEGINNINGS = ("<|begin_of_text|>", "<s>", "<bos>")

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
_ONE_CHARACTER = {"type": "Split", "pattern": {"Regex": "[\\s\\S]"}, "behavior": "Isolated", "invert": False}
_UNKNOWN = re.compile(r"<.+>|\[.+\]")
_BACK_REFERENCE = re.compile(r"\\[1-9kg]|\(\?R")
_BYTE_TOKEN = re.compile("<0x([0-9A-Fa-f]{2})>")


def read(file: Path) -> dict[str, Any]:
    """Return the checked content of a tokenizer.json. Raises InputError for another or a damaged file."""
    if not file.is_file():
        raise InputError(f"{file} does not exist; give a folder with a tokenizer.json (other formats are not read)")
    return checked(_json(file), file)


class _Added(msgspec.Struct):
    id: int
    content: str
    special: bool = False


def checked(content: dict[str, Any], file: Path | str) -> dict[str, Any]:
    """Return a content whose parts that are used here have the right form; `file` names it in the InputError else."""
    model = content.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") not in ("BPE", "Unigram", "WordLevel"):
        kind = model.get("type") if isinstance(model, dict) else None
        raise InputError(
            f"{file} has a model of type {json.dumps(kind)[:80]}; GPT-style models have BPE, Unigram or WordLevel"
        )
    model.setdefault("type", "BPE")
    content["added_tokens"] = content.get("added_tokens") or []
    try:
        msgspec.convert(content["added_tokens"], list[_Added])
        msgspec.convert(model.get("vocab"), list[tuple[str, float]] if model["type"] == "Unigram" else dict[str, int])
        merges = msgspec.convert(model.get("merges") if model["type"] == "BPE" else [], list[str | tuple[str, str]])
    except msgspec.ValidationError as error:
        raise InputError(f"{file} is damaged: {error}; fetch it again") from None
    vocab = model["vocab"]
    numbers = [*(range(len(vocab)) if isinstance(vocab, list) else vocab.values())]
    numbers += [token["id"] for token in content["added_tokens"]]
    if not numbers or min(numbers) < 0 or max(numbers) >= LARGEST_VOCABULARY:
        raise InputError(f"{file} must have ids from 0 to at most {LARGEST_VOCABULARY - 1}; fetch it again")
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    if any(len(pair) != 2 or not {*pair, "".join(pair)} <= model["vocab"].keys() for pair in pairs):
        raise InputError(f"{file} is damaged: a merge is not of two tokens of its vocabulary; fetch it again")
    for token in content["added_tokens"]:
        token.setdefault("special", False)
    _check_steps([value for key, value in content.items() if key not in ("model", "added_tokens")], file)
    return content


def _steps(parts: Any, file: Path | str, depth: int = 0) -> Iterator[dict[str, Any]]:
    """Yield each object within these; raises InputError when they lie too deep for the recursion of what follows."""
    if depth > DEEPEST:
        raise InputError(f"{file} has more than {DEEPEST} steps within steps; fetch it again")
    if isinstance(parts, dict):
        yield parts
    for inner in parts.values() if isinstance(parts, dict) else parts:
        if isinstance(inner, list | dict):
            yield from _steps(inner, file, depth + 1)


def _check_steps(parts: list[Any], file: Path | str) -> None:
    """Raise InputError for steps that cost more than any tokenizer needs: where a pattern never ends the library
    cannot be stopped, and where memory runs out it aborts the process."""
    growth = 1
    for step in _steps(parts, file):
        pattern, charsmap = step.get("pattern"), step.get("precompiled_charsmap")
        regex = pattern.get("Regex") if isinstance(pattern, dict) else None
        if isinstance(regex, str) and (len(regex) > LARGEST_PATTERN or _BACK_REFERENCE.search(regex)):
            raise InputError(
                f"{file} has a pattern that refers back to itself or is longer than {LARGEST_PATTERN} characters: "
                f"{as_json(regex)}; it is not used, because it may never end"
            )
        growth *= max(1, *(len(str(step.get(key) or "")) for key in ("content", "prepend")))
        growth *= max(1, _longest_of_charsmap(charsmap, file)) if isinstance(charsmap, str) else 1
    if growth > LARGEST_GROWTH:
        raise InputError(f"{file} makes a text up to {growth} times as long before it is split; fetch it again")


def _longest_of_charsmap(charsmap: str, file: Path | str) -> int:
    """Return the longest replacement of SentencePiece's compiled map: the length of its trie, the trie, then texts."""
    try:
        data = base64.b64decode(charsmap, validate=True)
    except ValueError:
        data = b""
    size = int.from_bytes(data[:4], "little")
    if len(data) < 4 or size % 4 or size > len(data) - 4:
        raise InputError(f"{file} is damaged: its precompiled_charsmap is cut off; fetch it again")
    return max(map(len, data[4 + size :].split(b"\0")))


def _json(file: Path) -> dict[str, Any]:
    if file.stat().st_size > LARGEST_FILE_BYTES:
        raise InputError(
            f"{file} has more than {LARGEST_FILE_BYTES >> 20} MiB, which no tokenizer needs; fetch it again"
        )
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{file} is not a JSON object ({str(error)[:80]}); fetch it again") from None


def read_config(folder: Path) -> dict[str, Any]:
    """Return tokenizer_config.json, as transformers reads it: in folders from before it listed the added tokens,
    special_tokens_map.json has the last word, and a chat template may stand in a file of its own; {} when there are
    none of these."""
    config, special, template = (
        folder / name for name in ("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
    )
    content = _json(config) if config.is_file() else {}
    if special.is_file() and "added_tokens_decoder" not in content:
        content |= _json(special)
    if template.is_file() and template.stat().st_size <= LARGEST_FILE_BYTES:
        content["chat_template"] = template.read_text(encoding="utf-8", errors="replace")
    return content


def with_usual_names(config: dict[str, Any], content: dict[str, Any]) -> dict[str, Any]:
    """Return the config with eos_token and bos_token, by their usual names where it does not have them."""
    specials = [token["content"] for token in content["added_tokens"] if token["special"]]
    usual = {"eos_token": USUAL_ENDS, "bos_token": USUAL_BEGINNINGS}
    return {key: next((name for name in names if name in specials), None) for key, names in usual.items()} | config


def reference(content: dict[str, Any]) -> Any:
    """Return the tokenizers.Tokenizer of a content, which takes the names of special tokens in a text as text."""
    from tokenizers import Tokenizer

    with library_errors("tokenizer.json cannot be used"):
        tokenizer = Tokenizer.from_str(json.dumps(content))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True
    return tokenizer


@contextmanager
def library_errors(failure: str) -> Iterator[None]:
    """Turn what `tokenizers` raises into an InputError.

    It raises plain Exception for bad content and, when its Rust code panics, a BaseException that cannot be imported.
    """
    try:
        yield
    except BaseException as error:
        if type(error) is not Exception and type(error).__name__ != "PanicException":
            raise
        reason = "".join(character if character.isprintable() else " " for character in str(error))
        raise InputError(f"{failure}: {' '.join(reason.split())[:200]}") from None


def named_id(config: dict[str, Any], key: str, content: dict[str, Any]) -> int | None:
    """Return the id of the token that the config names by `key` (a string, or an object with `content`), None when it
    names none. It need not be marked as special. Raises InputError for a token that there is not."""
    named = config.get(key)
    name = named.get("content") if isinstance(named, dict) else named
    if named is None:
        return None
    vocab = content["model"]["vocab"]
    number = next((token["id"] for token in content["added_tokens"] if token["content"] == name), None)
    if number is None and isinstance(vocab, dict) and isinstance(name, str):
        number = vocab.get(name)
    elif number is None:  # Unigram: pairs of token and score
        number = next((i for i, pair in enumerate(vocab) if pair[0] == name), None)
    if number is None:
        raise InputError(
            f"tokenizer_config.json names {as_json(named)} as {key}, which tokenizer.json does not have: "
            "name one that it has, or null"
        )
    return int(number)


def adds_beginning(config: dict[str, Any], content: dict[str, Any]) -> bool:
    """Return whether the tokenizer puts its beginning before a text: as its template says, without one the config."""
    named = config.get("bos_token")
    name = named.get("content") if isinstance(named, dict) else named
    step = content.get("post_processor") or {}
    templates = [part["single"] for part in step.get("processors") or [step] if part.get("single")]
    if templates:
        return name is not None and any(first.get("SpecialToken", {}).get("id") == name for first, *_ in templates)
    return name is not None and config.get("add_bos_token") is True


def tables(content: dict[str, Any]) -> tuple[dict[int, str], list[bytes]]:
    """Return the special tokens by id and the bytes of every id (b"" for a special or unused one)."""
    model = content["model"]
    is_unigram = isinstance(model["vocab"], list)  # pairs of token and score
    vocab = {pair[0]: i for i, pair in enumerate(model["vocab"])} if is_unigram else model["vocab"]
    added = content["added_tokens"]
    numbers = [*vocab.values(), *(token["id"] for token in added)]
    is_byte_level = '"ByteLevel"' in json.dumps([content.get("pre_tokenizer"), content.get("decoder")])
    as_it_is = content.get("pre_tokenizer") == _ONE_CHARACTER
    tokens = [b""] * (max(numbers) + 1)
    for token, number in vocab.items():
        data = to_bytes(token) if is_byte_level else None
        if data is None:
            is_byte = _BYTE_TOKEN.fullmatch(token) if model.get("byte_fallback") else None
            plain = token if as_it_is or is_byte_level else token.replace("\u2581", " ")
            data = bytes.fromhex(is_byte[1]) if is_byte else plain.encode()
        tokens[number] = data
    specials = {token["id"]: token["content"] for token in added if token["special"]}
    for token in added:
        tokens[token["id"]] = b"" if token["special"] else token["content"].encode()
    unknown = model.get("unk_token")
    if is_unigram:
        unknown = next((token for token, number in vocab.items() if number == model.get("unk_id")), None)
    if isinstance(unknown, str) and unknown in vocab and _UNKNOWN.fullmatch(unknown):  # for text that has no token
        specials.setdefault(vocab[unknown], unknown)
        tokens[vocab[unknown]] = b""
    return specials, tokens


def further_on(step: Any) -> Any:
    """Return a normalizer or pre_tokenizer without what it does only to the beginning of a text: put a mark or a space
    before it, take white space off. A long text is encoded piece by piece, and it begins once.

    >>> further_on({"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": False})
    {'type': 'Metaspace', 'replacement': '▁', 'prepend_scheme': 'never', 'split': False}
    """
    kind = step.get("type") if isinstance(step, dict) else None
    if kind == "Sequence":
        name = "normalizers" if "normalizers" in step else "pretokenizers"
        return step | {name: [kept for part in step.get(name) or [] if (kept := further_on(part)) is not None]}
    if kind in ("Prepend", "Strip"):
        return None
    if kind == "Metaspace":
        return {key: value for key, value in step.items() if key != "add_prefix_space"} | {"prepend_scheme": "never"}
    return step | {"add_prefix_space": False} if kind == "ByteLevel" and step.get("add_prefix_space") else step


def put_around(reference: Any) -> tuple[list[int], list[int]]:
    """Return the ids that a tokenizers.Tokenizer puts before and after each text by itself, such as that of <s>."""
    with library_errors("tokenizer.json cannot be used"):
        bare, whole = (reference.encode("a", add_special_tokens=added).ids for added in (False, True))
    start = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), 0)
    return whole[:start], whole[start + len(bare) :]


def kind(content: dict[str, Any], fingerprint: str) -> str:
    """Return which of our kinds a content with this fingerprint is, "foreign" when none."""
    model, added = content["model"], content["added_tokens"]
    vocab = model["vocab"]
    ends_last = [(t["id"], t["content"], t["special"]) for t in added] == [(len(vocab), END_OF_TEXT, True)]
    if fingerprint == GPT2_FINGERPRINT:
        return "gpt2"
    if not ends_last or content.get("normalizer") is not None:
        return "foreign"
    if model["type"] == "WordLevel" and content.get("pre_tokenizer") == _ONE_CHARACTER:
        is_sorted = list(vocab.items()) == [(character, i) for i, character in enumerate(sorted(vocab))]
        return "characters" if is_sorted and all(len(character) == 1 for character in vocab) else "foreign"
    if model["type"] == "BPE" and not model["merges"] and vocab == {c: byte for byte, c in enumerate(BYTE_CHARACTERS)}:
        unsplit = BYTE_LEVEL | {"use_regex": False}
        return "bytes" if content.get("pre_tokenizer") == unsplit else "foreign"
    is_bpe = split_pattern(content.get("pre_tokenizer")) == "gpt2" and merged_tokens(model, set()) is not None
    return "bpe" if is_bpe else "foreign"


def fingerprint(content: dict[str, Any]) -> str:
    """Return the SHA-256 of what decides the ids; for byte-level BPE it does not depend on how the file writes it."""
    model = content["model"]
    added = sorted((token["id"], token["content"], token["special"]) for token in content["added_tokens"])
    pattern = split_pattern(content.get("pre_tokenizer"))
    tokens = merged_tokens(model, {name for _, name, _ in added}) if pattern and model["type"] == "BPE" else None
    essence: list[Any] = [content.get("pre_tokenizer"), model]
    if tokens is not None:
        essence = [pattern, [(data.hex(), number) for data, number in tokens]]
    text = json.dumps([content.get("normalizer"), added, essence], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
