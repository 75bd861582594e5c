"""Checkpoints as they are written: weights and optimizer as safetensors, the rest as JSON, whole or not there.

A checkpoint is a folder `step-00001000` with `model.safetensors`, `optimizer.safetensors` and `manifest.json`, which
names the SHA-256 of both and ends with its own; the best weights beside it lie in a `best-00000640`. Several ranks
write `model-00001-of-00004.safetensors` and so on instead, each the rows that it holds, and any number of them reads
either. It is written under another name, flushed to the disk and renamed, so that no crash leaves half a checkpoint
that looks like a whole one. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from hornbook.engine.tensor_files import RowsOf, write_tensors
from hornbook.facts.errors import InputError
from hornbook.facts.io import no_link, remove_own, sync
from hornbook.facts.shape import GPTShape
from hornbook.model.decoder import Decoder
from hornbook.optim.groups import Optimizer

MODEL, OPTIMIZER, MANIFEST = "model.safetensors", "optimizer.safetensors", "manifest.json"
_TENSORS = re.compile(r"(model|optimizer)(-\d{5,}-of-\d{5,})?\.safetensors")
_FILES = re.compile(f"{_TENSORS.pattern}|{re.escape(MANIFEST)}")
_LEFTOVER = re.compile(r"\.(trash-)?(step|best)-\d{8,}(\.\d+)?")  # of a process that was killed inside a save
FORMAT = {"format": "hornbook-checkpoint", "version": 1}
PARTS_VERSION = 2  # of one in parts

Contents = Mapping[str, Mapping[str, Tensor | RowsOf]]  # by file, by name


class _File(msgspec.Struct):
    num_bytes: int
    sha256: str
    not_finite: str | None = None  # a tensor that has a NaN or an infinity


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
    decisions: list[dict[str, Any]] = []
    decision: dict[str, Any] | None = None  # of versions whose runs made one
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


def write(final: Path, contents: Contents, *, step: int, shape: GPTShape, state: dict[str, Any]) -> Path:
    """Write `contents` to the folder `final` as a checkpoint and return it. `state` is the JSON that going on needs.

    Raises OSError when the disk is full; then nothing new is left behind and older checkpoints stay whole.
    """
    aside = begin(final)
    try:
        return commit(final, aside, write_part(aside, contents), step=step, shape=shape, state=state)
    except BaseException:
        abandon(aside)
        raise


def begin(final: Path) -> Path:
    """Make the folder in which the files of the checkpoint `final` are to be written, and return it. Of several ranks
    one calls this, `commit` and, where any of them has failed, `abandon`; each calls `write_part` between."""
    folder, aside = no_link(final.parent), final.parent / f".{final.name}.{os.getpid()}"
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.iterdir():
        if _LEFTOVER.fullmatch(leftover.name):
            remove_own(leftover, _FILES)
    aside.mkdir()
    return aside


def write_part(aside: Path, contents: Contents, *, rank: int = 0, ranks: int = 1) -> dict[str, Any]:
    """Write what `rank` of `ranks` holds into the folder `aside`, whole tensors or rows of them, and return size and
    SHA-256 of each file by its name, for the manifest. Raises OSError when the disk is full."""
    names = {file: file if ranks == 1 else _part(file, rank, ranks) for file in contents}
    with ThreadPoolExecutor() as pool:
        written = pool.map(lambda file: write_tensors(aside / names[file], contents[file]), contents)
        return dict(zip(names.values(), written, strict=True))


def commit(
    final: Path, aside: Path, files: Mapping[str, Any], *, step: int, shape: GPTShape, state: dict[str, Any]
) -> Path:
    """Make the folder `aside`, with the `files` that `write_part` returned on all ranks, the checkpoint `final`.

    Raises InputError where they do not hold each row of each tensor once.
    """
    version = FORMAT["version"]
    if MODEL not in files:
        from hornbook.engine.loading import Stored

        version = PARTS_VERSION
        for file in {MODEL, *map(_whole_name, files)}:
            Stored(*(aside / part for part in parts_of(files, file)))
    manifest = FORMAT | {"version": version, "step": step, "shape": msgspec.to_builtins(shape), "files": dict(files)}
    manifest |= {"state": state}
    manifest |= {"sha256": _hash(msgspec.json.encode(manifest))}  # of all that stands before it
    (aside / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2))
    sync(aside / MANIFEST)
    sync(aside)
    trash = _set_aside(final) if os.path.lexists(final) else None
    aside.rename(final)
    sync(final.parent)
    if trash is not None:
        remove_own(trash, _FILES)
    return final


def abandon(aside: Path) -> None:
    """Remove what was written of a checkpoint that will not be committed."""
    remove_own(aside, _FILES)


def _part(file: str, rank: int, ranks: int) -> str:
    return file.replace(".", f"-{rank + 1:05d}-of-{ranks:05d}.")


def _whole_name(file: str) -> str:
    """`MODEL` or `OPTIMIZER`, of which a file is a part or the whole."""
    return f"{file.partition('.')[0].partition('-')[0]}.safetensors"


def parts_of(files: Mapping[str, Any], file: str) -> list[str]:
    """The names of the parts of `file`, or its own; its own too where none is there."""
    return sorted(name for name in files if _TENSORS.fullmatch(name) and _whole_name(name) == file) or [file]


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
    if manifest.get("format") != FORMAT["format"] or manifest.get("version") not in (FORMAT["version"], PARTS_VERSION):
        raise InputError(f"{checkpoint} was not written by this version of hornbook: update hornbook to read it.")
    try:
        msgspec.convert(manifest, _Manifest)
    except msgspec.ValidationError as error:
        raise InputError(f"{checkpoint} is damaged: manifest.json: {error}; go back to an older checkpoint.") from None
    return manifest


def has_optimizer(files: Mapping[str, Any]) -> bool:
    """Whether the optimizer's state is among the files of a checkpoint."""
    return OPTIMIZER in map(_whole_name, files)


@torch.no_grad()
def fill(into: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Copy `tensors` into the weights of the same names; raises InputError when one is missing or has another shape."""
    for key, parameter in into.items():
        tensor = tensors.get(key)
        if tensor is None or tensor.shape != parameter.shape:
            raise InputError(f"the weights do not fit the model: {key} should be {tuple(parameter.shape)}.")
        parameter.copy_(tensor)


def discard(checkpoint: Path) -> None:
    """Delete a checkpoint so that, half deleted, it no longer looks like one; what others have put into it stays."""
    remove_own(_set_aside(checkpoint), _FILES)


def _set_aside(checkpoint: Path) -> Path:
    return checkpoint.rename(checkpoint.with_name(f".trash-{checkpoint.name}.{time.time_ns()}"))


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
