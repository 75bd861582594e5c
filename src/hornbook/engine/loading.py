"""Checkpoints as they are read: each file is what was written, or it is refused; tensor by tensor, by any rows."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import torch
from torch import Tensor

from hornbook.engine.checkpoint import MANIFEST, MODEL, OPTIMIZER, fill, has_optimizer, parts_of, read_manifest, weights
from hornbook.engine.tensor_files import DTYPES, ROWS, bytes_of
from hornbook.facts.errors import InputError
from hornbook.facts.shape import GPTShape
from hornbook.model.decoder import Decoder
from hornbook.optim.groups import Optimizer


def shape_of(checkpoint: Path) -> GPTShape:
    """The shape of the model of a checkpoint, which its weights have: a shape alone may ask for any memory.

    Raises InputError when a file is missing or damaged.
    """
    manifest = read_manifest(checkpoint)
    shape, paths = msgspec.convert(manifest["shape"], GPTShape), []
    for part in parts_of(manifest["files"], MODEL):
        paths.append(checkpoint / part)
        if not paths[-1].is_file():
            raise InputError(f"{checkpoint} is damaged: {part} is missing; go back to an older checkpoint.")
    if shape.parameters != sum(map(math.prod, Stored(*paths).shapes.values())):
        raise InputError(f"{checkpoint} is damaged: its weights do not match the shape in {MANIFEST}.")
    return shape


def load_model(checkpoint: Path) -> Decoder:
    """The decoder of a checkpoint, ready for evaluation.

    Raises InputError when a file is missing or not what the manifest says.
    """
    tensors = stored(checkpoint, MODEL)
    model = Decoder(shape_of(checkpoint))
    fill(weights(model), tensors)
    return model.eval()


def stored(
    checkpoint: Path, file: str, only: Mapping[str, tuple[int, int]] | None = None, *, is_verified: bool = False
) -> Stored:
    """The tensors of `file`, `MODEL` or `OPTIMIZER`, whole or in parts; of those in `only` the rows (first, stop).

    Raises InputError when a file is missing or, unless that `is_verified`, not what the manifest says.
    """
    manifest = read_manifest(checkpoint)
    paths = [checkpoint / part for part in parts_of(manifest["files"], file)]
    return Stored(*(path if is_verified else _whole(checkpoint, path.name, manifest) for path in paths), only=only)


def load_into(
    checkpoint: Path, *, model: Decoder, optimizers: Sequence[Optimizer], updates: int | None = None
) -> dict[str, Any]:
    """Put a checkpoint into `model` and `optimizers` and return its manifest. One of step 0 has weights only.

    `updates` applied so far; None: as the manifest's state says.
    """
    return load_tensors(checkpoint, weights(model), optimizers, updates)


def load_tensors(
    checkpoint: Path, into: Mapping[str, Tensor], optimizers: Sequence[Optimizer], updates: int | None, *,
    only: Mapping[str, tuple[int, int]] | None = None, is_verified: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """As `load_into`, with the weights `into` by name. `only` names tensors of which these and `optimizers` hold the
    rows (first, stop); `is_verified`: the files are known to be what the manifest says."""
    manifest = read_manifest(checkpoint)
    fill(into, stored(checkpoint, MODEL, only, is_verified=is_verified))
    if not optimizers:
        return manifest
    if not has_optimizer(manifest["files"]):
        if manifest["step"]:
            raise InputError(f"{checkpoint} has weights only: training cannot resume from it.")
        for optimizer in optimizers:  # as it was before the first update
            optimizer.load({key: torch.zeros(()).expand_as(t) for key, t in optimizer.state().items()}, 0)
        return manifest
    tensors = stored(checkpoint, OPTIMIZER, only, is_verified=is_verified)
    for optimizer in optimizers:
        missing = optimizer.state().keys() - tensors.keys()
        if missing:
            raise InputError(f"{checkpoint} was written with another optimizer: it has no {min(missing)}.")
        optimizer.load(tensors, manifest["state"]["updates"] if updates is None else updates)
    return manifest


def verify(checkpoint: Path, *, rank: int = 0, ranks: int = 1) -> None:
    """Raise InputError unless the files are what the manifest says and every number in them is finite. Of several
    `ranks` each reads its share of the files."""
    manifest = read_manifest(checkpoint)
    for file in sorted({*parts_of(manifest["files"], MODEL), *manifest["files"]})[rank::ranks]:
        _whole(checkpoint, file, manifest)
    for entry in manifest["files"].values():
        if entry.get("not_finite") is not None:
            raise InputError(f"{checkpoint} is no good: {entry['not_finite']} holds numbers that are not finite.")


def _whole(checkpoint: Path, file: str, manifest: dict[str, Any]) -> Path:
    """The path of a file that is what was written; raises InputError otherwise."""
    try:
        with (checkpoint / file).open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(f"{checkpoint} is damaged: {file} is missing; go back to an older checkpoint.") from None
    if file not in manifest["files"] or digest != manifest["files"][file]["sha256"]:
        raise InputError(f"{checkpoint} is damaged: {file} fails its checksum; go back to an older checkpoint.")
    return checkpoint / file


class _Entry(msgspec.Struct):
    dtype: str
    shape: list[Annotated[int, msgspec.Meta(ge=0)]]
    data_offsets: tuple[int, int]


class _Piece(NamedTuple):
    """Where some rows of a tensor lie."""

    path: Path
    begin: int  # of its bytes in the file
    first: int  # its first row
    num_rows: int


class Stored(Mapping[str, Tensor]):
    """The tensors of a safetensors file, or of the parts that make a whole, each read when it is asked for: the library
    holds the file beside them, and opens no path that is not UTF-8.

    `only` names tensors of which [name] gives the rows from `first` up to `stop` alone: {name: (first, stop)}.
    Raises InputError where a header is not that of such a file or speaks of more than the file has, and where the parts
    do not have each row of each tensor once.
    """

    def __init__(self, *paths: Path, only: Mapping[str, tuple[int, int]] | None = None) -> None:
        self.only = only or {}
        self.shapes: dict[str, list[int]] = {}
        self._dtypes: dict[str, torch.dtype] = {}
        self._pieces: dict[str, list[_Piece]] = {}
        for path in paths:
            try:
                self._take(path)
            except (struct.error, ValueError, KeyError, msgspec.DecodeError) as error:
                raise InputError(f"{path} is damaged or not a safetensors file ({error}).") from None
        for key, pieces in self._pieces.items():
            pieces.sort(key=lambda piece: piece.first)
            end = 0
            for piece in pieces:
                if piece.first != end:
                    break
                end += piece.num_rows
            if end != (self.shapes[key] or [1])[0]:
                raise InputError(f"{paths[0].parent} is damaged: its parts do not have each row of {key} once.")

    def _take(self, path: Path) -> None:
        """Read a file's header. Raises ValueError and the like for what is none."""
        num_bytes = path.stat().st_size
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header: dict[str, msgspec.Raw] = msgspec.json.decode(
                file.read(min(length, num_bytes)), type=dict[str, msgspec.Raw]
            )
        metadata = msgspec.json.decode(header.pop("__metadata__", b"{}"), type=dict[str, Any])
        rows = msgspec.json.decode(metadata.get(ROWS, "{}"), type=dict[str, tuple[int, int]])
        dtypes = {name: dtype for dtype, name in DTYPES.items()}
        for key, raw in header.items():
            entry, begin = msgspec.json.decode(raw, type=_Entry), 8 + length
            first, end = entry.data_offsets
            dtype, num_rows = dtypes[entry.dtype], (entry.shape or [1])[0]
            if not 0 <= first <= end <= num_bytes - begin or end - first != math.prod(entry.shape) * dtype.itemsize:
                raise ValueError("a tensor lies outside the file")
            first_row, total = rows.get(key, (0, num_rows))
            shape = [total, *entry.shape[1:]] if key in rows else entry.shape
            if self.shapes.setdefault(key, shape) != shape or self._dtypes.setdefault(key, dtype) != dtype:
                raise ValueError(f"{key} is another in another part")
            pieces = self._pieces.setdefault(key, [])
            if num_rows or not total:
                pieces.append(_Piece(path, begin + first, first_row, num_rows))

    def __getitem__(self, key: str) -> Tensor:
        return self.rows(key, *self.only.get(key, (0, (self.shapes[key] or [1])[0])))

    def rows(self, key: str, first: int, stop: int) -> Tensor:
        """Rows `first` up to `stop` of a tensor, (stop - first, ...), of which nothing else is read; a tensor without a
        dimension is its row 0. Raises KeyError for one that is not there."""
        shape, dtype = self.shapes[key], self._dtypes[key]
        if stop > (shape or [1])[0]:
            raise InputError(f"the files do not fit the model: {key} has {shape[0]} rows and not {stop}.")
        tensor = torch.empty([stop - first, *shape[1:]] if shape else [], dtype=dtype)
        row_bytes = math.prod(shape[1:]) * dtype.itemsize
        content = bytes_of(tensor)
        for piece in self._pieces[key]:
            begin, end = max(first, piece.first), min(stop, piece.first + piece.num_rows)
            if begin < end and row_bytes:
                with piece.path.open("rb") as file:
                    file.seek(piece.begin + (begin - piece.first) * row_bytes)
                    into = content[(begin - first) * row_bytes : (end - first) * row_bytes]
                    if file.readinto(into) != len(into):
                        raise InputError(f"{piece.path} is damaged: it is cut off.")
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)
