"""The prepared folder on disk: shards of token ids with a document index, checked whenever they are opened.

    prepared.json             the manifest: what it was made from, counts, and the SHA-256 of every other file
    tokenizer.json, tokenizer_config.json
    train-00000.bin, ...      64 bytes of header, then little-endian ids: uint16 up to 65,536 ids, else uint32
    train.documents.npy       int64 (n, 5): start, num_tokens, num_bytes, num_characters, num_words
    train.names.json          n names
    validation-00000.bin, ... the same for the validation side

The stream of a part is, document after document, <|endoftext|> (where the tokenizer has it) and the document's tokens;
`start` and `num_tokens` are without it. Shards cut the stream anywhere.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from hornbook.data.manifest import check_manifest
from hornbook.facts.errors import InputError
from hornbook.facts.text_warnings import LEAK_NUMBERS, LEAKED
from hornbook.text.tokenizer import Tokenizer, load_tokenizer

FORMAT, VERSION = "hornbook prepared text", 1
MANIFEST = "prepared.json"
SHARD_BYTES = 256 * 2**20
PARTS = ("train", "validation")
START, NUM_TOKENS, NUM_BYTES, NUM_CHARACTERS, NUM_WORDS = range(5)  # columns of `documents`
SUMS = ("num_text_tokens", "num_bytes", "num_characters", "num_words")  # of the last four, in the manifest

_HEADER = struct.Struct("<8sIIQQ32s")  # magic, version, bytes per id, ids, vocabulary, tokenizer's fingerprint
_MAGIC = b"hornbook"
_BLOCK_IDS = 2**21  # checked at once
_AGAIN = "prepare the text again"

Ids = NDArray[np.uint16] | NDArray[np.uint32]


def id_type(vocabulary: int) -> np.dtype[Any]:
    """The smallest type that holds every id.

    >>> id_type(65_536).itemsize, id_type(65_537).itemsize
    (2, 4)
    """
    return np.dtype("<u2") if vocabulary <= 2**16 else np.dtype("<u4")


class TokenStream:
    """One side of a prepared text: a circular stream of ids (memory-mapped) and its documents.

    `documents` is int64 (n, 5) as in this module's docstring, `names` has n strings; `separator` says whether each
    document has an <|endoftext|> in front.
    """

    def __init__(
        self, shards: Sequence[Ids], documents: NDArray[np.int64], names: Sequence[str], *, separator: bool = True
    ) -> None:
        self.shards, self.documents, self.names, self.separator = list(shards), documents, list(names), separator
        self._bounds = np.cumsum([0, *(len(shard) for shard in shards)], dtype=np.int64)
        self.num_tokens = int(self._bounds[-1])

    def take(self, starts: NDArray[np.int64], length: int) -> NDArray[np.int64]:
        """The ids at starts, starts + 1, ... modulo num_tokens: int64 (len(starts), length).

        >>> part = TokenStream([np.array([5, 6], np.uint16), np.array([7], np.uint16)], np.array([[1, 2, 2, 2, 1]]),
        ...     ["a"])
        >>> part.take(np.array([1, 0]), 4).tolist()
        [[6, 7, 5, 6], [5, 6, 7, 5]]
        """
        positions = self._positions(starts, length)
        if len(self.shards) == 1:
            return self.shards[0][positions].astype(np.int64)
        ids = np.empty(positions.shape, np.int64)
        owner = np.searchsorted(self._bounds, positions, side="right") - 1
        for shard in np.unique(owner):
            inside = owner == shard
            ids[inside] = self.shards[shard][positions[inside] - self._bounds[shard]]
        return ids

    def document_ids(self, starts: NDArray[np.int64], length: int) -> NDArray[np.int32]:
        """The index of the document that each position of `take(starts, length)` belongs to, its separator included."""
        begins = self.documents[:, START] - int(self.separator)
        owner = np.searchsorted(begins, self._positions(starts, length), side="right") - 1
        return owner.astype(np.int32)

    def document_tokens(self, index: int) -> NDArray[np.int64]:
        """The ids of one document, without the <|endoftext|> in front: int64 (num_tokens,)."""
        start, length = self.documents[index, START], int(self.documents[index, NUM_TOKENS])
        return self.take(np.array([start]), length)[0] if length else np.empty(0, np.int64)

    def first(self, num_tokens: int) -> TokenStream:
        """The stream's first tokens as a part, with the documents that begin there.

        >>> part = TokenStream([np.array([0, 5, 6, 0, 7, 8], np.uint16)], np.array([[1, 2, 2, 2, 1], [4, 2, 2, 2,
        ...     1]]), "ab")
        >>> part.first(5).documents[:, :2].tolist(), part.first(5).num_tokens
        ([[1, 2], [4, 1]], 5)
        """
        if num_tokens >= self.num_tokens:
            return self
        kept = int(np.searchsorted(self._bounds, num_tokens))
        shards = [*self.shards[: kept - 1], self.shards[kept - 1][: num_tokens - self._bounds[kept - 1]]]
        documents = self.documents[self.documents[:, START] < num_tokens].copy()
        documents[:, NUM_TOKENS] = np.minimum(documents[:, NUM_TOKENS], num_tokens - documents[:, START])
        return TokenStream(shards, documents, self.names[: len(documents)], separator=self.separator)

    def _positions(self, starts: NDArray[np.int64], length: int) -> NDArray[np.int64]:
        if self.num_tokens == 0:
            raise InputError("this side of the prepared text is empty; prepare it with a split that fills it")
        positions: NDArray[np.int64] = (starts[:, None] + np.arange(length)) % self.num_tokens
        return positions


@dataclass(frozen=True)
class Prepared:
    """An opened prepared folder."""

    folder: Path
    manifest: dict[str, Any]
    tokenizer: Tokenizer
    train: TokenStream
    validation: TokenStream

    @property
    def key(self) -> str:
        """SHA-256 over the texts and the settings that it was prepared from."""
        return str(self.manifest["key"])

    @property
    def checkup(self) -> dict[str, Any]:
        """What `text.checkup` reports of the training text; {} where that is unknown, as of older --dedup folders."""
        checkup: dict[str, Any] = self.manifest["report"].get("checkup", {})
        return {} if self.manifest.get("dedup") and "readings_per_epoch" not in checkup else checkup

    @property
    def readings_per_epoch(self) -> float | None:
        """How often an epoch reads what the training text has, on average: 1 without repetition."""
        share = self.checkup.get("repeated_share")
        return self.checkup.get("readings_per_epoch", None if share is None else 1 / (1 - share))

    @property
    def leak(self) -> dict[str, Any]:
        """The LEAK_NUMBERS of the validation side; None where they are not known."""
        exact = self.checkup.get("leaked_share")
        whole = self.checkup.get("leaked_share_with_changes", exact)
        return dict(zip(LEAK_NUMBERS, (exact, whole, None if whole is None else whole >= LEAKED), strict=True))


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a prepared folder; InputError when there is none, or it is damaged or newer than this program."""
    path = folder / MANIFEST
    if not path.is_file():
        raise InputError(f"{folder} is not a prepared folder (it has no {MANIFEST}); make one with hornbook prepare")
    try:
        manifest = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        manifest = None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise InputError(f"{path} is damaged or not a manifest of a prepared text; {_AGAIN}")
    if manifest.get("version") != VERSION:
        raise InputError(
            f"{path} has format version {manifest.get('version')!r}, but this program reads version {VERSION}; "
            f"update hornbook or {_AGAIN}"
        )
    if manifest.get("checksum") != _checksum(manifest):
        raise InputError(f"{path} was changed after it was written (its checksum differs); {_AGAIN}")
    try:
        check_manifest(manifest)
    except msgspec.ValidationError as error:
        raise InputError(f"{path} is damaged ({error}); {_AGAIN}") from None
    return manifest


def open_prepared(folder: Path | str, *, verify: bool = True, tokenizer: Tokenizer | None = None) -> Prepared:
    """Open a prepared folder.

    Sizes, headers and the tokenizer's fingerprint are always checked; with `verify` every file is read once, for its
    SHA-256 and for ids outside the vocabulary. `tokenizer` is the folder's, where it is at hand. Raises InputError with
    the file and what to do.
    """
    folder = present(Path(folder))
    manifest = read_manifest(folder)
    for name, entry in manifest["files"].items():
        _check_file(folder / Path(name).name, entry, verify)
    tokenizer = tokenizer or load_tokenizer(folder)
    if any(getattr(tokenizer, name) != manifest["tokenizer"][name] for name in ("fingerprint", "vocabulary")):
        raise InputError(f"{folder / 'tokenizer.json'} is not the tokenizer that the shards were made with; {_AGAIN}")
    train, validation = (_open_part(folder, part, manifest, tokenizer, verify) for part in PARTS)
    return Prepared(folder, manifest, tokenizer, train, validation)


def old_folder(folder: Path) -> Path:
    """Where a prepared folder stands for the moment in which a new one takes its place."""
    return folder.with_name(f".{folder.name}.old")


def present(folder: Path) -> Path:
    """The folder itself, or, when a replacement was cut off between its two renames, what it was going to replace."""
    return old_folder(folder) if not folder.exists() and old_folder(folder).is_dir() else folder


def _checksum(manifest: dict[str, Any]) -> str:
    rest = {name: value for name, value in manifest.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _check_file(path: Path, entry: dict[str, Any], verify: bool) -> None:
    if not path.is_file():
        raise InputError(f"{path} is missing; {_AGAIN}")
    if (size := path.stat().st_size) != entry["num_bytes"]:
        raise InputError(f"{path} has {size} bytes, but was written with {entry['num_bytes']}; {_AGAIN}")
    if verify and file_entry(path) != entry:
        raise InputError(f"{path} was damaged after it was written (its SHA-256 differs); {_AGAIN}")


def _open_part(folder: Path, part: str, manifest: dict[str, Any], tokenizer: Tokenizer, verify: bool) -> TokenStream:
    counts = manifest["parts"][part]
    index = [f"{part}.documents.npy", f"{part}.names.json"]
    if missing := {*counts["shards"], *index} - manifest["files"].keys():
        raise InputError(f"{folder / MANIFEST} has no checksum of {min(missing)}; {_AGAIN}")
    shards = [_open_shard(folder / name, tokenizer, verify) for name in counts["shards"]]
    try:
        names = msgspec.convert(json.loads((folder / index[1]).read_bytes()), list[str])
        documents = _read_documents(folder / index[0], len(names))
    except (OSError, ValueError, RecursionError, msgspec.ValidationError):
        raise InputError(f"{folder / part}.documents.npy or .names.json is damaged; {_AGAIN}") from None
    opened = TokenStream(shards, documents, names, separator=tokenizer.end_of_text is not None)
    sums = documents.sum(axis=0, dtype=np.float64).tolist()[1:]
    recorded = [counts[name] for name in SUMS]
    ends = documents[:, START] + documents[:, NUM_TOKENS]
    if opened.num_tokens != counts["num_tokens"] or len(names) != counts["num_documents"] or sums != recorded:
        raise InputError(f"{folder / part}: its files do not have as many ids or bytes as {MANIFEST} says; {_AGAIN}")
    begins = np.concatenate([[0], ends])[: len(ends)] + int(opened.separator)
    if (documents < 0).any() or not np.array_equal(documents[:, START], begins) or ends[-1:].sum() != opened.num_tokens:
        raise InputError(f"{folder / index[0]} is damaged: its documents are not contiguous; {_AGAIN}")
    return opened


def _read_documents(path: Path, num_documents: int) -> NDArray[np.int64]:
    """The document index; raises ValueError when it is not that of so many documents. Its header is compared, not
    parsed: what is in it would decide how much memory is taken."""
    expected = io.BytesIO()
    np.save(expected, np.empty((0, 5), np.int64))
    content, begin = path.read_bytes(), len(expected.getvalue())
    header = expected.getvalue().rstrip().replace(b"(0, 5)", f"({num_documents}, 5)".encode())
    if content[:begin].rstrip() != header:
        raise ValueError("not the right shape")
    return np.frombuffer(content, "<i8", offset=begin).reshape(num_documents, 5)


def _open_shard(path: Path, tokenizer: Tokenizer, verify: bool) -> Ids:
    with path.open("rb") as file:
        head = file.read(_HEADER.size)
    if len(head) < _HEADER.size or not head.startswith(_MAGIC):
        raise InputError(f"{path} is not a shard (its header is wrong); {_AGAIN}")
    _, version, item_bytes, count, vocabulary, fingerprint = _HEADER.unpack(head)
    if version != VERSION:
        raise InputError(f"{path} has shard version {version}, but this program reads {VERSION}; {_AGAIN}")
    if fingerprint.hex() != tokenizer.fingerprint or vocabulary != tokenizer.vocabulary:
        raise InputError(f"{path} was made with another tokenizer than the one in its folder; {_AGAIN}")
    dtype = id_type(vocabulary)
    if item_bytes != dtype.itemsize or path.stat().st_size != _HEADER.size + count * item_bytes:
        raise InputError(f"{path} is not as long as its header says; {_AGAIN}")
    ids = np.memmap(path, dtype=dtype, mode="r", offset=_HEADER.size)
    for begin in range(0, len(ids) if verify else 0, _BLOCK_IDS):
        if (largest := int(ids[begin : begin + _BLOCK_IDS].max())) >= vocabulary:
            raise InputError(
                f"{path} has the id {largest}, but the vocabulary has {vocabulary} ids; {_AGAIN} with this tokenizer"
            )
    return ids


def file_entry(path: Path) -> dict[str, Any]:
    """What the manifest says of a file: its size and SHA-256."""
    with path.open("rb") as file:
        return {"num_bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
