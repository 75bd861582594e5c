"""What every process but rank 0 does in a training of several: what rank 0 says, until it is done."""

from __future__ import annotations

import math
import tomllib
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import torch

from hornbook.data.shards import MANIFEST, Prepared, open_prepared
from hornbook.engine import parts
from hornbook.engine.device import device
from hornbook.engine.launch import LOST
from hornbook.engine.sharding import Sharded
from hornbook.engine.signals import stop_on_signals
from hornbook.engine.world import World
from hornbook.evaluation.together import score_part
from hornbook.facts.errors import InputError, SystemFailure
from hornbook.facts.hardware import memory_bytes
from hornbook.facts.settings import Settings, Text, from_table, to_toml
from hornbook.facts.shape import GPTShape
from hornbook.model.decoder import Decoder
from hornbook.planning.memory import memory
from hornbook.planning.parallel import layout_for
from hornbook.setup.build import build
from hornbook.setup.text import prepared_text
from hornbook.training.loop import TrainState, update


def follow(world: World) -> None:
    """Read the text that rank 0 reads, build what it builds, and take part in each update, until it says that this is
    the end. A signal to this process reaches rank 0 with the next update. Raises InputError where the text here is
    another one, SystemFailure where rank 0 has failed."""
    text: Prepared | None = None
    settings, state = Settings(), None
    with stop_on_signals() as stop:
        while True:
            order, told = world.hear()
            if order == "end":
                if told["has_failed"]:
                    raise SystemFailure(LOST)
                return
            if order == "read":
                text = _read(world, **told)
            elif order == "build":
                assert text is not None
                settings = from_table(tomllib.loads(told["settings"]), source="rank 0")
                assert settings.train.threads is not None
                torch.set_num_threads(settings.train.threads)
                shape = msgspec.convert(told["shape"], GPTShape)
                state = build(settings, shape, text.train, device(), world)
            elif order == "update":
                assert state is not None
                train = settings.train
                assert train.microbatch is not None
                update(
                    state.model, state.optimizers, state.batches, told["number"], told["lr_scale"],
                    microbatch=train.microbatch, clip_norm=settings.optimizer.clip_norm, seed=train.seed,
                    document_mask=train.document_mask, autocast=state.autocast, stop=stop, sharded=state.sharded,
                )  # fmt: skip
            else:
                with suppress(InputError, SystemFailure):  # as on rank 0, which says what follows
                    _take_part(world, state, order, **told)


def _take_part(world: World, state: TrainState | None, order: str, **told: Any) -> None:
    """In what happens to the state between two updates, and in the verifying of a checkpoint."""
    if order == "verify":
        parts.verify(world, Path(told["folder"]))
        return
    assert state is not None
    assert state.sharded is not None
    if order == "gather":
        state.sharded.gather()
    elif order == "scatter":
        state.sharded.scatter()
    elif order == "score":
        score_part(world, state.whole(), **told)
    elif order == "fetch":
        assert state.sharded.gathered is not None
        state.sharded.gathered.fetch(**told)
    elif order == "is_finite":
        parts.is_finite(state.sharded)
    elif order == "release":
        state.release()
    elif order == "keep":
        state.keep(**told)
    elif order == "drop_kept":
        state.drop_kept()
    elif order == "put_back":
        state.put_back(**told)
    elif order == "load":
        state.load(Path(told["folder"]), told["updates"])
    else:
        assert order == "write"
        contents = state.kept if told["is_kept"] else state.contents(optimizers=told["optimizers"])
        parts.write_part(state.sharded, Path(told["aside"]), contents)


def tell_text(world: World, prepared: Prepared, text: Text) -> None:
    """Let the others read the text that this process has."""
    world.tell("read", folder=str(prepared.folder), text=msgspec.to_builtins(text), key=prepared.key)


def share_out(world: World, prepared: Prepared, wanted: Settings, settings: Settings) -> None:
    """Let the others read the text, and have a microbatch for each process in `settings`, where none was `wanted`."""
    tell_text(world, prepared, wanted.text)
    train = settings.train
    assert train.batch is not None
    assert train.microbatch is not None
    if wanted.train.microbatch is None:
        train.microbatch = min(train.microbatch, -(-train.batch // world.size))


def _read(world: World, folder: str, text: dict[str, Any], key: str) -> Prepared:
    """What rank 0 has prepared, where it can be seen from here; else it is prepared here too."""
    seen = (Path(folder) / MANIFEST).is_file()
    prepared = open_prepared(folder) if seen else prepared_text(msgspec.convert(text, Text))
    if prepared.key != key:
        raise InputError(f"process {world.rank} reads another text than process 0: give all machines the same files.")
    return prepared


def spread(world: World, settings: Settings, shape: GPTShape, on: torch.device) -> Sharded:
    """A model, spread over all processes, whose weights are still to come."""
    world.tell("build", settings=to_toml(settings), shape=msgspec.to_builtins(shape))
    replicas = _replicas(world, settings, shape, on)
    with torch.device("meta"):
        model = Decoder(shape, dropout=settings.model.dropout)
    return Sharded(model, world, replicas, device=on)


def _replicas(world: World, settings: Settings, shape: GPTShape, on: torch.device) -> int:
    """How many copies of the weights there are: as asked, else as `hornbook plan` says, with a whole model beside the
    shards, which is looked at and saved."""
    train, of_machine = settings.train, world.size // world.machines
    if train.parallel is not None:
        return {"replicate": world.size, "hybrid": world.machines, "shard": 1}[train.parallel]
    on_cpu = on.type == "cpu"
    if on_cpu:
        room = (memory_bytes() or math.inf) / of_machine
    else:
        room = torch.get_device_module(on).get_device_properties(on).total_memory
    assert train.batch is not None
    assert train.microbatch is not None
    needs = partial(
        memory, shape, train.microbatch, optimizer=settings.optimizer.name or "adamw", checkpointing=train.recompute,
        half=train.precision == "bfloat16", accumulating=train.microbatch * world.size < train.batch, on_cpu=on_cpu,
        threads=train.threads, processes=world.size, dropout=settings.model.dropout > 0,
    )  # fmt: skip
    layout = layout_for(lambda shards: needs(shards=shards).total <= room, world.size, of_machine)
    return world.size // layout.shards
