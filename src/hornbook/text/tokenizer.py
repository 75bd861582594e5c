"""Text to ids and back, exactly: byte-level BPE trained here, characters, bytes, GPT-2's, or a foreign tokenizer."""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hornbook.facts.errors import InputError
from hornbook.text import tokenizer_json
from hornbook.text.bytelevel import Ids, fast_encoder, utf8
from hornbook.text.pieces import safe_pieces
from hornbook.text.tokenizer_json import END_OF_TEXT, library_errors

TRAINED_HERE = "trained_by_hornbook"  # in tokenizer_config.json: documents began with <|endoftext|>


class Tokenizer:
    """A fixed mapping between text and ids.

    kind: "bpe", "characters", "bytes", "gpt2" or "foreign" (written by others); vocabulary: number of ids, special
    ones included; end_of_text: id of <|endoftext|> (foreign: its end-of-sequence token, None without one); beginning:
    id that stands before a document (ours: end_of_text; foreign: its beginning-of-sequence token, None without one);
    adds_beginning: whether an export of it does; around: the ids that it puts before and after a text when other
    programs call it; is_ours: whether its model was trained here; fingerprint: SHA-256 of what decides the ids;
    content: its tokenizer.json; config: its tokenizer_config.json. Immutable: threads may share it, and they
    encode side by side.
    """

    def __init__(
        self, kind: str, content: dict[str, Any], config: dict[str, Any], encode_piece: Callable[[str], Ids],
        fingerprint: str | None = None, *, encode_inside: Callable[[str], Ids] | None = None,
        around: tuple[list[int], list[int]] = ([], []),
    ) -> None:  # fmt: skip
        self.kind, self.content, self.config, self.around = kind, content, config, around
        self._encode_piece = encode_piece
        self._encode_inside = encode_inside or encode_piece  # what does not begin the text
        self._specials, self._tokens = tokenizer_json.tables(content)
        self.vocabulary = len(self._tokens)
        self.fingerprint = fingerprint or tokenizer_json.fingerprint(content)
        self.end_of_text = tokenizer_json.named_id(config, "eos_token", content)
        self.beginning = tokenizer_json.named_id(config, "bos_token", content)
        self.adds_beginning = kind != "foreign" or tokenizer_json.adds_beginning(config, content)
        self._puts_space = False  # whether it puts a space before a text, as Llama 2 does
        if kind == "foreign":
            self._puts_space = self.decode_bytes(encode_piece("x")) == b" x"

    def encode(self, text: str) -> Ids:
        """Return the ids of a text, int32 (n,); never a special id: "<|endoftext|>" in a text is ordinary text.

        Raises InputError for half a surrogate pair and, for `characters`, for characters it has not seen.
        """
        parts = list(self.encode_document(safe_pieces([text])))
        return parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0, np.int32), *parts])

    @property
    def is_ours(self) -> bool:
        return self.kind in ("bpe", "characters", "bytes") or bool(self.config.get(TRAINED_HERE))

    def of_our_model(self) -> Tokenizer:
        """Return it as the tokenizer of a model that was trained here."""
        return self._with(config=self.config | {TRAINED_HERE: True})

    def putting(self, number: int) -> Tokenizer:
        """Return it as one that puts this id before a text by itself."""
        return self._with(around=([number], self.around[1]))

    def for_model(self, vocabulary: int) -> Tokenizer:
        """Return it for a model of `vocabulary` ids: those beyond its own stand for no text (embeddings are padded to
        round numbers), and a text whose ids the model does not have is refused."""
        if vocabulary >= self.vocabulary:
            unused = [b""] * (vocabulary - self.vocabulary)
            return self._with(_tokens=[*self._tokens, *unused], vocabulary=vocabulary) if unused else self

        def within(encode: Callable[[str], Ids]) -> Callable[[str], Ids]:
            def checked(text: str) -> Ids:
                ids = encode(text)
                self.check_ids(ids, vocabulary)
                return ids

            return checked

        for number in (self.beginning, self.end_of_text):
            if number is not None:
                self.check_ids(np.array([number]), vocabulary)
        return self._with(_encode_piece=within(self._encode_piece), _encode_inside=within(self._encode_inside))

    def check_ids(self, ids: npt.NDArray[Any], vocabulary: int) -> None:
        """Raise InputError for an id that a model of `vocabulary` ids does not have."""
        if len(ids) and (largest := int(ids.max())) >= vocabulary:
            raise InputError(
                f'the tokenizer gives "{self.token_text(largest)}" the id {largest}, but the model has only the ids 0 '
                f"to {vocabulary - 1}: use the tokenizer that belongs to the model, or a text without it"
            )

    def _with(self, **changed: Any) -> Tokenizer:
        tokenizer = copy.copy(self)
        vars(tokenizer).update(changed)
        return tokenizer

    def encode_document(self, pieces: Iterable[str]) -> Iterator[Ids]:
        """Yield the ids of each piece of a document, int32 (n,); concatenated they are the document's encoding."""
        for i, piece in enumerate(pieces):
            yield self._encode_inside(piece) if i else self._encode_piece(piece)

    def lost_bytes(self, text: str, ids: npt.ArrayLike) -> int:
        """Return how many bytes (UTF-8) of `text` its `ids` do not give back: those of characters that are unknown to
        the tokenizer or that it replaces or collapses. 0 for our own kinds."""
        if self.kind != "foreign":
            return 0
        data = self._spelled(ids)
        data = data if text.startswith(" ") else self.spelled_at_start(data)
        if data == text.encode():
            return 0
        lost = Counter(text) - Counter(data.decode("utf-8", "replace"))
        return sum(count * len(character.encode()) for character, count in lost.items())

    def decode(self, ids: npt.ArrayLike, *, inside: bool = False) -> str:
        """Return the text of ids; bytes that are not UTF-8 become U+FFFD, special ids are left out. `inside`: they go
        on with a text, so that a space before their first word is one."""
        return (self._spelled(ids) if inside else self.decode_bytes(ids)).decode("utf-8", "replace")

    def decode_bytes(self, ids: npt.ArrayLike) -> bytes:
        """Return the exact bytes of ids: decode_bytes(encode(text)) == text.encode(). Special ids give none.

        (A foreign tokenizer that normalises text gives the normalised text.) Raises InputError for an unknown id.
        """
        return self.spelled_at_start(self._spelled(ids))

    def spelled_at_start(self, data: bytes) -> bytes:
        """Return the bytes that tokens spell at the beginning of a text: without the space that it puts there."""
        return data[1:] if self._puts_space and data.startswith(b" ") else data

    def _spelled(self, ids: npt.ArrayLike) -> bytes:
        return b"".join([self.token_bytes(number) for number in np.asarray(ids, dtype=np.int64).tolist()])

    def token_bytes(self, number: int) -> bytes:
        """Return the bytes of text that an id stands for, b"" for a special id. Raises InputError for an unknown id."""
        if not 0 <= number < self.vocabulary:
            raise InputError(f"{number} is not an id of this tokenizer; it has the ids 0 to {self.vocabulary - 1}")
        return self._tokens[number]

    def token_text(self, number: int) -> str:
        """Return an id as a person reads it: its text, or the name of a special token."""
        data = self.token_bytes(number)
        return self._specials.get(number) or (data.decode("utf-8", "replace") if data else f"[unused {number}]")

    def save(self, folder: Path, **changes: Any) -> None:
        """Write tokenizer.json and tokenizer_config.json, which transformers' PreTrainedTokenizerFast opens; `changes`
        are to the latter."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.files(**changes).items():
            (folder / name).write_bytes(content)

    def files(self, **changes: Any) -> dict[str, bytes]:
        """What `save` writes, by name."""
        files = {"tokenizer.json": self.content, "tokenizer_config.json": self.config | changes}
        return {name: f"{json.dumps(value, ensure_ascii=False, indent=1)}\n".encode() for name, value in files.items()}


def load_tokenizer(folder_or_file: Path) -> Tokenizer:
    """Return the tokenizer of a tokenizer.json: ours, or one that others wrote for a GPT-style model ("foreign").

    The special ids of a foreign one are looked up in tokenizer_config.json and special_tokens_map.json beside it.
    No code of the folder runs; a split pattern that is not a known one is left to the `tokenizers` library.
    Raises InputError when there is no such file, or it is damaged, or it is not for a GPT-style model.
    """
    file = folder_or_file / "tokenizer.json" if folder_or_file.is_dir() else folder_or_file
    if not file.exists() and (folder_or_file / "merges.txt").exists():
        from hornbook.text.make_tokenizer import gpt2

        return gpt2(folder_or_file)
    return tokenizer_of(tokenizer_json.read(file), tokenizer_json.read_config(file.parent))


def tokenizer_of(content: dict[str, Any], config: dict[str, Any]) -> Tokenizer:
    """Return the tokenizer of a checked tokenizer.json and its tokenizer_config.json."""
    fingerprint = tokenizer_json.fingerprint(content)
    kind = tokenizer_json.kind(content, fingerprint)
    # The library refuses what is damaged; GPT-2's is known to the last merge.
    last_step = content.get("post_processor")
    plain = last_step is None or (isinstance(last_step, dict) and last_step.get("type") == "ByteLevel")
    reference = None if kind == "gpt2" and plain else tokenizer_json.reference(content)
    around = ([], []) if plain else tokenizer_json.put_around(reference)
    if kind != "foreign":
        tokenizer = _ours(kind, content, None if kind == "gpt2" else reference, fingerprint)._with(around=around)
        return tokenizer.of_our_model() if config.get(TRAINED_HERE) else tokenizer
    config, encode = tokenizer_json.with_usual_names(config, content), _exact_encoder(content, reference)
    inside = content | {key: tokenizer_json.further_on(content.get(key)) for key in ("normalizer", "pre_tokenizer")}
    inner = encode if inside == content else _exact_encoder(inside, tokenizer_json.reference(inside))
    return Tokenizer(kind, content, config, encode, fingerprint, encode_inside=inner, around=around)


def _ours(kind: str, content: dict[str, Any], reference: Any = None, fingerprint: str | None = None) -> Tokenizer:
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT, "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
    }  # fmt: skip
    if kind == "bytes":
        return Tokenizer(kind, content, config, _byte_encoder, fingerprint)
    if kind == "characters":
        return Tokenizer(kind, content, config, _character_encoder(content["model"]["vocab"]), fingerprint)
    if reference is None and kind != "gpt2":
        reference = tokenizer_json.reference(content)
    return Tokenizer(kind, content, config, _exact_encoder(content, reference), fingerprint)


def _byte_encoder(text: str) -> Ids:
    return np.frombuffer(utf8(text), dtype=np.uint8).astype(np.int32)


def _character_encoder(vocab: dict[str, int]) -> Callable[[str], Ids]:
    table = np.full(max(map(ord, vocab)) + 1, -1, dtype=np.int32)
    for character, number in vocab.items():
        table[ord(character)] = number

    def encode(text: str) -> Ids:
        utf8(text)
        points = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
        ids: Ids = np.where(points < len(table), table[np.minimum(points, len(table) - 1)], np.int32(-1))
        if ids.size and ids.min() < 0:
            unseen = sorted(set(text) - vocab.keys())
            named = ", ".join(_named(character) for character in unseen[:5])
            more = f" and {len(unseen) - 5} more" if len(unseen) > 5 else ""
            raise InputError(f"this tokenizer knows no character {named}{more}; take the tokenizer bytes")
        return ids

    return encode


def _named(character: str) -> str:
    """Return a character as a sentence shows it: with its number, and escaped where it cannot be printed."""
    shown = character if character.isprintable() else ascii(character)[1:-1]
    return f'"{shown}" (U+{ord(character):04X})'


def _exact_encoder(content: dict[str, Any], reference: Any) -> Callable[[str], Ids]:
    """Return the encoder of `reference` (a tokenizers.Tokenizer), by tiktoken where that gives the same ids.

    For GPT-2's content, of which that is known, `reference` is None.
    """
    with library_errors("tokenizer.json cannot be used"):
        fast = fast_encoder(content, reference)
    added = [token["content"] for token in content["added_tokens"] if not token["special"]]
    if fast is not None and not added:
        reference = None  # 15 MB for 50,000 ids

    def encode(text: str) -> Ids:
        utf8(text)  # refuses half of a surrogate pair
        with library_errors("the tokenizer cannot encode this text"):
            if fast is not None and not any(token in text for token in added):
                return fast(text)
            return np.array(reference.encode(text, add_special_tokens=False).ids, dtype=np.int32)

    return encode
