"""What each rank of a sharded model saves and loads: its rows, into a file of its own and back from any files.

Rank 0 tells the others by `World.tell`; they make the same calls. Of several replicas the first one writes and reads,
and gives the others what it has read, so that nobody else has to see the run's folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from hornbook.engine import checkpoint as checkpoints
from hornbook.engine import loading
from hornbook.engine.checkpoint import MANIFEST, MODEL, OPTIMIZER, Contents
from hornbook.engine.sharding import Sharded
from hornbook.engine.tensor_files import RowsOf, first_not_finite
from hornbook.engine.world import World
from hornbook.facts.errors import SystemFailure
from hornbook.optim.groups import Optimizer


def contents(sharded: Sharded, optimizers: Sequence[Optimizer]) -> Contents:
    """What a checkpoint takes from this rank, by file: the rows that it holds; nothing but of the first replica."""
    if sharded.replica > 0:
        return {}
    files = {MODEL: sharded.local}
    if optimizers:
        files[OPTIMIZER] = {key: tensor for optimizer in optimizers for key, tensor in optimizer.state().items()}
    if sharded.shards == 1:
        return files
    held: dict[str, dict[str, RowsOf]] = {}
    for file, tensors in files.items():
        held[file] = {key: RowsOf(rows, _span(sharded, key)[0], _total(sharded, key)) for key, rows in tensors.items()}
    return held


def write(
    sharded: Sharded, final: Path, contents: Contents, *, is_kept: bool, step: int, state: dict[str, Any]
) -> Path:
    """On rank 0: write the checkpoint `final` with all others, each its part; `is_kept`: of what they keep in memory.

    Raises SystemFailure where one of them cannot; then no checkpoint of that name is there.
    """
    aside = checkpoints.begin(final)
    try:
        sharded.world.tell("write", aside=str(aside.absolute()), is_kept=is_kept, optimizers=OPTIMIZER in contents)
        files = write_part(sharded, aside, contents)
        return checkpoints.commit(final, aside, files, step=step, shape=sharded.model.shape, state=state)
    except BaseException:
        checkpoints.abandon(aside)
        raise


def write_part(sharded: Sharded, aside: Path, contents: Contents) -> dict[str, Any]:
    """Write what this rank has, and return size and SHA-256 of the files of all. Collective; raises SystemFailure on
    all where one cannot write."""

    def written() -> dict[str, Any]:
        if not contents:
            return {}
        _see(sharded, aside)
        return checkpoints.write_part(aside, contents, rank=sharded.shard, ranks=sharded.shards)

    return {file: entry for of_rank in sharded.world.each(written) for file, entry in of_rank.items()}


def load(sharded: Sharded, optimizers: Sequence[Optimizer], folder: Path, updates: int | None) -> dict[str, Any]:
    """Put this rank's rows of a checkpoint into the model and `optimizers`, and return its manifest. Collective; raises
    InputError on all where a file is missing or not what the manifest says."""
    sharded.world.tell("load", folder=str(folder.absolute()), updates=updates)
    _verify(sharded.world, folder)
    keys = [*sharded.local, *(key for optimizer in optimizers for key in optimizer.state())]
    manifest: dict[str, Any] = {}

    def read() -> None:
        if sharded.replica == 0:
            _see(sharded, folder)
            only = {key: _span(sharded, key) for key in keys}
            manifest.update(
                loading.load_tensors(folder, sharded.local, optimizers, updates, only=only, is_verified=True)
            )

    sharded.world.each(read)
    share(sharded, optimizers, manifest["state"]["updates"] if updates is None and manifest else updates)
    return manifest


def is_finite(sharded: Sharded) -> bool:
    """Whether the weights of all ranks are finite numbers. Collective."""
    sharded.world.tell("is_finite")
    is_here = first_not_finite(sharded.local) is None
    return all(sharded.world.each(lambda: is_here))


def _see(sharded: Sharded, folder: Path) -> None:
    if not folder.is_dir():
        raise SystemFailure(
            f"process {sharded.world.rank} does not see {folder.parent}: give --out a folder that all machines see, or "
            "--parallel hybrid."
        )


@torch.no_grad()
def share(sharded: Sharded, optimizers: Sequence[Optimizer], updates: int | None) -> None:
    """Give the other replicas what the first one has just read. Collective."""
    sharded.gathered = None
    if sharded.replicas == 1:
        return
    count = torch.tensor(updates or 0, device=sharded.device)
    moments = [tensor for optimizer in optimizers for tensor in optimizer.state().values()]
    for tensor in (count, *sharded.local.values(), *moments):
        if tensor.numel():
            dist.broadcast(tensor, sharded.shard, group=sharded.replica_group)
    for optimizer in optimizers:
        optimizer.load(optimizer.state(), int(count))


def verify(world: World, folder: Path) -> None:
    """As `loading.verify`, with the files shared out over all processes. Collective; raises InputError on all."""
    world.tell("verify", folder=str(folder.absolute()))
    _verify(world, folder)


def _verify(world: World, folder: Path) -> None:
    def seen() -> str | None:
        path = folder / MANIFEST
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None

    manifests = world.each(seen)
    readers = [rank for rank, manifest in enumerate(manifests) if manifest == manifests[0]]

    def verified() -> None:
        if world.rank in readers:
            loading.verify(folder, rank=readers.index(world.rank), ranks=len(readers))

    world.each(verified)


def _span(sharded: Sharded, key: str) -> tuple[int, int]:
    """(first, stop) of this rank's rows of a weight, or of a moment, named after its weight."""
    rows = sharded.rows(sharded.sizes[_weight(sharded, key)], sharded.shard)
    return rows.start, rows.stop


def _total(sharded: Sharded, key: str) -> int:
    return sharded.sizes[_weight(sharded, key)][0]


def _weight(sharded: Sharded, key: str) -> str:
    return key if key in sharded.sizes else key.rpartition(".")[0]
