"""Byte-level BPE: bytes written as characters, training, known split patterns, and exact fast encoding by tiktoken.

`tokenizers` defines the ids. tiktoken is several times faster and works without Python's lock, and it is used only
where it gives the same ids: its rule (merge the neighbours whose concatenation has the lowest rank) equals BPE's (apply
the merges in order) when each token, encoded alone, becomes itself; that is checked, and a sample is compared.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from hornbook.facts.errors import InputError
from hornbook.text.pieces import WHITESPACE

Ids = npt.NDArray[np.int32]


# GPT-2 writes the 188 bytes that Latin-1 can print as themselves and the others, in order, as U+0100 and following.
_PRINTABLE = {*range(33, 127), *range(161, 173), *range(174, 256)}
_SHIFTED = [byte for byte in range(256) if byte not in _PRINTABLE]
BYTE_CHARACTERS = [chr(byte) if byte in _PRINTABLE else chr(256 + _SHIFTED.index(byte)) for byte in range(256)]
# To Latin-1, whose characters are the bytes; what is not in the alphabet becomes U+FFFF, which Latin-1 lacks.
_LATIN1 = dict.fromkeys(range(256), 0xFFFF) | {ord(c): byte for byte, c in enumerate(BYTE_CHARACTERS)}

# What the split patterns are called here -> the pattern for tiktoken. The first two are written with possessive
# quantifiers, which change no match; between "gpt2" and "digits" lies that each digit stands alone (SmolLM2), which
# also ends a run of whitespace.
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CASED = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_UPPER = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
PATTERNS = {
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s",
    "digits": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++|\p{N}| ?[^\s\p{L}\p{N}]++|\s++$|\s++(?=\p{N})|\s+(?!\S)|\s",
    "llama3": _LLAMA3,
    "qwen2": _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}"),
    "o200k": rf"{_CASED}|{_UPPER}|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
_GPT2_AS_PUBLISHED = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_BY_REGEX = {_GPT2_AS_PUBLISHED: "gpt2", **{PATTERNS[name]: name for name in ("llama3", "qwen2", "o200k")}}


def utf8(text: str) -> bytes:
    """Return the bytes of a text. Raises InputError for half of a surrogate pair."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InputError("the text has half of a surrogate pair, which is not a character; repair the text") from None


def to_bytes(token: str) -> bytes | None:
    """Return the bytes that a byte-level token stands for, None when it is not written in this alphabet.

    >>> to_bytes("ĠI"), to_bytes("▁I")
    (b' I', None)
    """
    try:
        return token.translate(_LATIN1).encode("latin-1")
    except UnicodeEncodeError:
        return None


def to_token(data: bytes) -> str:
    """Return the characters that byte-level BPE writes for these bytes.

    >>> to_token("é ".encode())
    'Ã©Ġ'
    """
    return "".join(BYTE_CHARACTERS[byte] for byte in data)


def split_pattern(pre_tokenizer: Any) -> str | None:
    """Return the name of the split pattern of a tokenizer.json's `pre_tokenizer`, None when it is not a known one.

    >>> split_pattern({"type": "ByteLevel", "add_prefix_space": False, "use_regex": True})
    'gpt2'
    """
    steps = [pre_tokenizer]
    if isinstance(pre_tokenizer, dict) and pre_tokenizer.get("type") == "Sequence":
        steps = pre_tokenizer.get("pretokenizers") or []
    if not steps or not all(isinstance(step, dict) for step in steps):
        return None
    *before, last = steps
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space", True):
        return None
    splits_itself = last.get("use_regex", True)
    if not before:
        return "gpt2" if splits_itself else None
    first = before[0]
    if len(before) == 1 and first.get("type") == "Digits" and first.get("individual_digits") and splits_itself:
        return "digits"
    pattern = first.get("pattern")
    is_split = len(before) == 1 and first.get("type") == "Split" and isinstance(pattern, dict) and not splits_itself
    if not is_split or first.get("behavior") != "Isolated" or first.get("invert"):
        return None
    regex = pattern.get("Regex")
    return _BY_REGEX.get(regex) if isinstance(regex, str) else None


def merged_tokens(model: dict[str, Any], added: set[str]) -> list[tuple[bytes, int]] | None:
    """Return (bytes, id) of the 256 bytes and then of each merge's result, in the order of the merges.

    None when the model (of a tokenizer.json) is not a plain byte-level BPE whose merges give each token once.
    """
    plain = not any(
        model.get(option) for option in ("dropout", "byte_fallback", "continuing_subword_prefix", "end_of_word_suffix")
    )
    vocab = model["vocab"]
    if model.get("type") != "BPE" or not plain or not all(character in vocab for character in BYTE_CHARACTERS):
        return None
    tokens = {character: bytes([byte]) for byte, character in enumerate(BYTE_CHARACTERS)}
    last = ""
    for merge in model["merges"]:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        token = left + right
        if token == last:  # another way to make the token before it (Llama 3 lists every way)
            continue
        data = to_bytes(token)
        if token in tokens or data is None:
            return None
        tokens[token] = data
        last = token
    unreachable = vocab.keys() - tokens.keys() - added
    if unreachable and model.get("ignore_merges"):
        return None
    return [(data, vocab[token]) for token, data in tokens.items()]


def fast_encoder(content: dict[str, Any], reference: Any) -> Callable[[str], Ids] | None:
    """Return an encoder of text without added tokens that gives the ids of `reference`, None where that is not certain.

    content: a parsed tokenizer.json; reference: the `tokenizers.Tokenizer` made of it; None: known to give the same.
    """
    import tiktoken

    name = split_pattern(content.get("pre_tokenizer"))
    added = {token["content"] for token in content.get("added_tokens") or []}
    tokens = merged_tokens(content["model"], added) if name else None
    if name is None or tokens is None:
        return None
    if reference is not None and not content["model"].get("ignore_merges"):
        alone = (reference.model.tokenize(to_token(data)) for data, _ in tokens)
        if any(len(parts) != 1 for parts in alone):
            return None
    ranks = {data: rank for rank, (data, _) in enumerate(tokens)}
    # A special token is given because tiktoken looks for one at every position of the text when it has none.
    made = partial(tiktoken.Encoding, name, mergeable_ranks=ranks, special_tokens={_EDGE: len(ranks)})
    whole = cache(partial(made, pat_str=PATTERNS[name]))
    marked = made(pat_str=_GPT2_MARKED) if name == "gpt2" else None
    ids = np.array([number for _, number in tokens], dtype=np.int32)
    normalizer = reference and reference.normalizer

    def encode(text: str) -> Ids:
        if normalizer is not None:
            text = normalizer.normalize_str(text)
        if marked is None or _EDGE in text:
            places = whole().encode_to_numpy(text, disallowed_special=())
        else:
            places = marked.encode_to_numpy(_with_edges(text), allowed_special={_EDGE}, disallowed_special=())
            places = places[places != len(ids)]
        encoded: Ids = ids[places]
        return encoded

    if reference is None:
        return encode
    for text in _samples(tokens, added):
        if encode(text).tolist() != reference.encode(text, add_special_tokens=False).ids:
            return None
    return encode


# GPT-2's pattern looks ahead at one place: the last character of a run of whitespace goes with what follows. With that
# place marked in the text a pattern without looking ahead does the same, and is matched about half as fast again.
_EDGE = "\ue000"
_GPT2_MARKED = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+"
_IS_SPACE = np.zeros(max(map(ord, WHITESPACE)) + 2, bool)
_IS_SPACE[[ord(character) for character in WHITESPACE]] = True


def _with_edges(text: str) -> str:
    """The text with _EDGE before the last character of each run of whitespace that something else follows."""
    points = np.frombuffer(text.encode("utf-32-le"), "<u4")
    space = _IS_SPACE[np.minimum(points, len(_IS_SPACE) - 1)]
    edges = np.flatnonzero(space[:-2] & space[1:-1] & ~space[2:]) + 1
    return np.insert(points, edges, ord(_EDGE)).tobytes().decode("utf-32-le") if len(edges) else text


_SAMPLE = (
    "The sum isn't 1,234.50 (or \"3½\")…  I'LL\tsay: they've  gone.\r\n\r\n  def f(x):\n\t\treturn x**2  # ok\n\n\n"
    "Ærøskøbing, naïve Straße; Ελλάδα, Привет мир! שלום עולם, مرحبا بالعالم, नमस्ते दुनिया. "
    "你好，世界。日本語テキスト、한국어 문장. "
    "ﬁ ſ's K 'ſ ǅ ʰ e\u0301 \u200b\u00a0\u3000\u2028x 👩‍👩‍👧 🇫🇷 <|endoftext|> <s>[INST] https://a.b/c?d=e&f=%20   "
)


def _samples(tokens: list[tuple[bytes, int]], added: set[str]) -> list[str]:
    """Return texts that would show a difference: scripts, blanks, runs of one character, and tokens in random order."""
    runs = " ".join(character * length for character in "a =-1\n中" for length in (2, 3, 5, 7, 12, 33))
    draw = random.Random(0)
    mixed = [b"".join(data for data, _ in draw.choices(tokens, k=300)).decode("utf-8", "ignore") for _ in range(8)]
    return [text for text in (_SAMPLE, runs, *mixed) if not any(token in text for token in added - {"<|endoftext|>"})]
