"""Checkpoints: weights and optimizer as safetensors, everything else as JSON, whole or not there.

A checkpoint is a folder `step-00001000` with `model.safetensors`, `optimizer.safetensors` and `manifest.json`, which
names the SHA-256 of both and ends with its own; the best weights beside it lie in a `best-00000640`. It is written
under another name, flushed to the disk and renamed, so that no crash leaves half a checkpoint that looks like a whole
one. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch
from torch import Tensor

from hornbook.facts.errors import InputError
from hornbook.facts.io import no_link, own, remove_own, sync
from hornbook.facts.shape import GPTShape
from hornbook.model.decoder import Decoder
from hornbook.optim.groups import Optimizer

MODEL, OPTIMIZER, MANIFEST = "model.safetensors", "optimizer.safetensors", "manifest.json"
_FILES = re.compile("|".join(map(re.escape, (MODEL, OPTIMIZER, MANIFEST))))
_LEFTOVER = re.compile(r"\.(trash-)?(step|best)-\d{8,}(\.\d+)?")  # of a process that was killed inside a save
FORMAT = {"format": "hornbook-checkpoint", "version": 1}
DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}  # as safetensors calls them


class _File(msgspec.Struct):
    num_bytes: int
    sha256: str


class _State(msgspec.Struct):
    """What a run keeps beside its weights."""

    tokens: int = 0
    seconds: float = 0.0
    updates: int = 0
    since_best: int = 0
    best_loss: float | None = None
    best_step: int | None = None
    best_updates: int = 0
    use_step: int | None = None
    decision: dict[str, Any] | None = None
    prepared: str = ""


class _Manifest(msgspec.Struct):
    format: str
    version: int
    step: int
    shape: GPTShape
    files: dict[str, _File]
    state: _State


def name(step: int) -> str:
    return f"step-{step:08d}"


def contents(model: Decoder, optimizers: Sequence[Optimizer]) -> dict[str, dict[str, Tensor]]:
    """The tensors of a checkpoint by file. Without optimizers only the weights: that is all there is at step 0."""
    files = {MODEL: weights(model)}
    if optimizers:
        files[OPTIMIZER] = {k: v for optimizer in optimizers for k, v in optimizer.state().items()}
    return files


def write(
    final: Path, contents: dict[str, dict[str, Tensor]], *, step: int, shape: GPTShape, state: dict[str, Any]
) -> Path:
    """Write `contents` to the folder `final` as a checkpoint and return it. `state` is the JSON that going on needs.

    Raises OSError when the disk is full; then nothing new is left behind and older checkpoints stay whole.
    """
    folder, aside = no_link(final.parent), final.parent / f".{final.name}.{os.getpid()}"
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.iterdir():
        if _LEFTOVER.fullmatch(leftover.name):
            remove_own(leftover, _FILES)
    try:
        aside.mkdir()
        with ThreadPoolExecutor() as pool:
            written = pool.map(lambda file: write_tensors(aside / file, contents[file]), contents)
            files = dict(zip(contents, written, strict=True))
        manifest = FORMAT | {"step": step, "shape": msgspec.to_builtins(shape), "files": files, "state": state}
        manifest |= {"sha256": _hash(msgspec.json.encode(manifest))}  # of all that stands before it
        (aside / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2))
        sync(aside / MANIFEST)
        sync(aside)
        trash = _set_aside(final) if os.path.lexists(final) else None
        aside.rename(final)
        sync(folder)
        if trash is not None:
            remove_own(trash, _FILES)
    except BaseException:
        remove_own(aside, _FILES)
        raise
    return final


def weights(model: Decoder) -> dict[str, Tensor]:
    """The model's tensors by name, a tied head left out."""
    tied = {"head.projection.weight"} if model.shape.tied else set()
    return {k: v for k, v in model.state_dict().items() if k not in tied}


def read_manifest(checkpoint: Path) -> dict[str, Any]:
    """The manifest without its own hash; raises InputError when it is missing, damaged or of a later version."""
    try:
        manifest = msgspec.json.decode((checkpoint / MANIFEST).read_bytes(), type=dict[str, Any])
    except FileNotFoundError:
        raise InputError(f"{checkpoint} is not a checkpoint: it has no manifest.json.") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise InputError(f"{checkpoint} is damaged: manifest.json is not JSON; go back to an older one.") from None
    checksum = manifest.pop("sha256", None)
    if checksum != _hash(msgspec.json.encode(manifest)):
        raise InputError(f"{checkpoint} is damaged: manifest.json fails its checksum; go back to an older checkpoint.")
    if manifest.get("format") != FORMAT["format"] or manifest.get("version") != FORMAT["version"]:
        raise InputError(f"{checkpoint} was not written by this version of hornbook: update hornbook to read it.")
    try:
        msgspec.convert(manifest, _Manifest)
    except msgspec.ValidationError as error:
        raise InputError(f"{checkpoint} is damaged: manifest.json: {error}; go back to an older checkpoint.") from None
    return manifest


def shape_of(checkpoint: Path) -> GPTShape:
    """The shape of the model of a checkpoint, which its weights have: a shape alone may ask for any memory.

    Raises InputError when a file is missing or damaged.
    """
    shape = msgspec.convert(read_manifest(checkpoint)["shape"], GPTShape)
    if not (checkpoint / MODEL).is_file():
        raise InputError(f"{checkpoint} is damaged: {MODEL} is missing; go back to an older checkpoint.")
    stored = Stored(checkpoint / MODEL).entries.values()
    if shape.parameters != sum(math.prod(entry.shape) for entry in stored):
        raise InputError(f"{checkpoint} is damaged: its weights do not match the shape in {MANIFEST}.")
    return shape


def load_model(checkpoint: Path) -> Decoder:
    """The decoder of a checkpoint, ready for evaluation.

    Raises InputError when a file is missing or not what the manifest says.
    """
    tensors = Stored(_whole(checkpoint, MODEL, read_manifest(checkpoint)))
    model = Decoder(shape_of(checkpoint))
    fill(model, tensors)
    return model.eval()


def load_into(
    checkpoint: Path, *, model: Decoder, optimizers: Sequence[Optimizer], updates: int | None = None
) -> dict[str, Any]:
    """Put a checkpoint into `model` and `optimizers` and return its manifest. One of step 0 has weights only.

    `updates` applied so far; None: as the manifest's state says.
    """
    manifest = read_manifest(checkpoint)
    fill(model, Stored(_whole(checkpoint, MODEL, manifest)))
    if OPTIMIZER not in manifest["files"]:
        if manifest["step"]:
            raise InputError(f"{checkpoint} has weights only: training cannot resume from it.")
        return manifest
    tensors = Stored(_whole(checkpoint, OPTIMIZER, manifest))
    for optimizer in optimizers:
        missing = optimizer.state().keys() - tensors.keys()
        if missing:
            raise InputError(f"{checkpoint} was written with another optimizer: it has no {min(missing)}.")
        optimizer.load(tensors, manifest["state"]["updates"] if updates is None else updates)
    return manifest


@torch.no_grad()
def fill(model: Decoder, tensors: Mapping[str, Tensor]) -> None:
    """Copy `tensors` into the weights of the same names; raises InputError when one is missing or has another shape."""
    for key, parameter in weights(model).items():
        tensor = tensors.get(key)
        if tensor is None or tensor.shape != parameter.shape:
            raise InputError(f"the weights do not fit the model: {key} should be {tuple(parameter.shape)}.")
        parameter.copy_(tensor)


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Write a safetensors file, flush it to the disk, and return its size and SHA-256.

    Tensor by tensor: the library first makes the whole file in memory, twice the optimizer's size for a moment. The
    format is a length (8 bytes), a JSON header of so many bytes with the place of each tensor, and the tensors.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for key, tensor in tensors.items():
        header[key] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [end, end + tensor.nbytes],
        }
        end += tensor.nbytes
    encoded = msgspec.json.encode(header)
    encoded += b" " * (-len(encoded) % 8)
    head: list[bytes | memoryview] = [struct.pack("<Q", len(encoded)), encoded]

    def hashed() -> str:
        digest = hashlib.sha256()
        for part in chain(head, map(_bytes, tensors.values())):
            digest.update(part)
        return digest.hexdigest()

    with ThreadPoolExecutor(1) as pool:  # hashing takes a third as long as writing, and leaves Python to others
        digest = pool.submit(hashed)
        with open(path, "wb", opener=own) as file:
            num_bytes = sum(file.write(part) for part in chain(head, map(_bytes, tensors.values())))
        sync(path)
        return {"num_bytes": num_bytes, "sha256": digest.result()}


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data


def verify(checkpoint: Path) -> None:
    """Raise InputError unless both files are what the manifest says."""
    manifest = read_manifest(checkpoint)
    for file in {MODEL, *manifest["files"]}:
        _whole(checkpoint, file, manifest)


def discard(checkpoint: Path) -> None:
    """Delete a checkpoint so that, half deleted, it no longer looks like one; what others have put into it stays."""
    remove_own(_set_aside(checkpoint), _FILES)


def _set_aside(checkpoint: Path) -> Path:
    return checkpoint.rename(checkpoint.with_name(f".trash-{checkpoint.name}.{time.time_ns()}"))


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


class Stored(Mapping[str, Tensor]):
    """The tensors of a safetensors file, each read when it is asked for: the library holds the file beside them, and
    opens no path that is not UTF-8.

    Raises InputError where the header is not that of such a file, or speaks of more than the file has.
    """

    def __init__(self, path: Path) -> None:
        self.path, num_bytes = path, path.stat().st_size
        dtypes = {name: dtype for dtype, name in DTYPES.items()}
        try:
            with path.open("rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                header: dict[str, msgspec.Raw] = msgspec.json.decode(
                    file.read(min(length, num_bytes)), type=dict[str, msgspec.Raw]
                )
            header.pop("__metadata__", None)
            self.begin = 8 + length
            self.entries = {key: msgspec.json.decode(raw, type=_Entry) for key, raw in header.items()}
            for entry in self.entries.values():
                first, end = entry.data_offsets
                size = math.prod(entry.shape) * dtypes[entry.dtype].itemsize
                if not 0 <= first <= end <= num_bytes - self.begin or end - first != size:
                    raise ValueError("a tensor lies outside the file")
        except (struct.error, ValueError, KeyError, msgspec.DecodeError) as error:
            raise InputError(f"{path} is damaged or not a safetensors file ({error}).") from None
        self.dtypes = dtypes

    def __getitem__(self, key: str) -> Tensor:
        entry = self.entries[key]
        first, end = entry.data_offsets
        with self.path.open("rb") as file:
            file.seek(self.begin + first)
            content = bytearray(file.read(end - first))
        dtype = self.dtypes[entry.dtype]
        return torch.frombuffer(content, dtype=dtype).view(entry.shape) if content else torch.empty(entry.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
