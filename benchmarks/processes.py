"""Several processes that train one model, against one process with as many threads, and their memory against the plan.

`python benchmarks/processes.py speed [adamw] [muon]` or `memory`, started by its own processes with more arguments.
Model M of `training.py`. All sides of `speed` are alive at once and take turns step by step, so that only one computes
at any time and what else the machine does falls on all of them alike; a ratio is the median over the turns.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from common import peak_bytes

LAYERS, WIDTH, HEADS, VOCABULARY, CONTEXT, BATCH = 6, 384, 6, 65, 256, 16
TURNS, WARM, FRESH = 20, 2, 3  # steps that count and that do not, of processes that are started so many times
SIDES = ("one", "replicate", "shard")
RANKS = 2


def parts(side: str, optimizer: str, recompute: bool) -> tuple[Any, Any, Any]:
    """(world, a function that makes one update and reads its loss, one that looks at the model) of this process."""
    import torch

    from hornbook.engine.heap import give_back_memory
    from hornbook.engine.sharding import Sharded
    from hornbook.engine.world import join
    from hornbook.facts.settings import Settings
    from hornbook.facts.shape import GPTShape
    from hornbook.model.decoder import Decoder
    from hornbook.model.init import fresh_weights, initialise
    from hornbook.setup.build import make_optimizers
    from hornbook.training.step import train_step

    torch.set_num_threads(RANKS if side == "one" else 1)
    shape = GPTShape(
        family="gpt2", layers=LAYERS, width=WIDTH, heads=HEADS, vocabulary=VOCABULARY, context=CONTEXT
    )  # fmt: skip
    world, sharded, rank = None, None, 0
    if side == "one":
        model = initialise(Decoder(shape), 0)
    else:
        world = join(600.0)
        replicas, rank = RANKS if side == "replicate" else 1, world.rank
        with torch.device("meta"):
            model = Decoder(shape)
        sharded = Sharded(model, world, replicas, device=torch.device("cpu"))
        if rank > 0:
            world.hear()
        sharded.scatter(fresh_weights(shape, sharded.sizes, 0) if rank == 0 else None)
        model = sharded.model
    model.train().recompute = recompute
    if recompute:
        give_back_memory()
    settings = Settings()
    o = settings.optimizer
    o.name, o.learning_rate, o.muon_learning_rate = optimizer, 1e-3, 0.02
    o.weight_decay, o.beta2, o.momentum = 0.1, 0.95, 0.95
    optimizers = make_optimizers(settings, model, sharded)
    rows = BATCH if side == "one" else BATCH // RANKS
    ids = torch.randint(VOCABULARY, (BATCH, CONTEXT + 1), generator=torch.Generator().manual_seed(0))
    mine = ids[rank * rows : (rank + 1) * rows]
    microbatch = (mine[:, :-1].contiguous(), mine[:, 1:].contiguous(), None)

    def update() -> float:
        pending = train_step(
            model, optimizers, [microbatch], lr_scale=1.0, clip_norm=1.0, num_tokens=BATCH * CONTEXT, sharded=sharded
        )
        assert pending is not None
        return pending.read().loss

    def look() -> None:
        """What all do where something looks at the model."""
        assert sharded is not None
        with torch.no_grad(), sharded.world.in_step():
            sharded.gather().hidden(microbatch[0][:4])

    return world, update, look


def serve(side: str, optimizer: str, recompute: bool) -> None:
    """One process of a side: a step for each line of the standard input, answered with its seconds and its loss."""
    world, update, _ = parts(side, optimizer, recompute)
    if world is not None and world.rank > 0:
        while world.hear()[0] != "end":
            update()
    else:
        for _ in sys.stdin:
            begin = time.perf_counter()
            if world is not None:
                world.tell("update", number=0, lr_scale=1.0)
            loss = update()
            print(json.dumps([time.perf_counter() - begin, loss]), flush=True)
        if world is not None:
            world.tell("end")


def held(side: str, optimizer: str, recompute: bool) -> None:
    """One process of a side: the most memory that it has held in two steps and looks, in all and beyond its imports,
    and what is planned of each; the kernels' own buffers are planned with the process."""
    import torch
    from torch.utils.checkpoint import checkpoint

    import hornbook.engine.sharding
    import hornbook.setup.build  # noqa: F401
    from hornbook.facts.shape import GPTShape
    from hornbook.planning.memory import memory

    square = torch.ones(64, 64, requires_grad=True)
    square.matmul(square).sum().backward()
    if recompute:  # what it imports is planned with the process
        checkpoint(torch.matmul, square, square, use_reentrant=False).sum().backward()
    before = resident_bytes()
    world, update, look = parts(side, optimizer, recompute)
    for _ in range(2):
        update()
        look()
    shape = GPTShape(family="gpt2", layers=LAYERS, width=WIDTH, heads=HEADS, vocabulary=VOCABULARY, context=CONTEXT)
    planned = memory(
        shape, BATCH // RANKS, optimizer=optimizer, checkpointing=recompute, threads=1,
        shards=RANKS if side == "shard" else 1, processes=RANKS,
    )  # fmt: skip
    total = planned.total
    figures = {
        "rank": world.rank, "peak": peak_bytes(), "planned": total, "of_training": peak_bytes() - before,
        "planned_of_training": total - planned.process, "planned_to_peak": round(total / peak_bytes(), 3),
    }  # fmt: skip
    print(json.dumps(figures))


def resident_bytes() -> int:
    """VmRSS of this process."""
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) * 1024


def memories() -> list[dict[str, Any]]:
    """Planned and held bytes of each rank, of replicas and shards, AdamW and Muon, activations kept and recomputed."""
    results = []
    for side in SIDES[1:]:
        for optimizer, recompute in product(("adamw", "muon"), ("kept", "recomputed")):
            with tempfile.TemporaryDirectory() as folder:
                processes = start(side, Path(folder), "held", optimizer, recompute)
                for process in processes:
                    line = process.communicate()[0].splitlines()[-1]
                    results.append({"side": side, "optimizer": optimizer, "activations": recompute} | json.loads(line))
    return results


def start(side: str, folder: Path, *more: str) -> list[subprocess.Popen[str]]:
    """The processes of a side, rank 0 first."""
    ranks = 1 if side == "one" else RANKS
    threads = str(RANKS // ranks)
    variables = {**os.environ, "OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE", "GLOO_SOCKET_IFNAME": "lo"}
    variables |= {"WORLD_SIZE": str(ranks), "HORNBOOK_STORE": str(folder / side)}
    command = [sys.executable, __file__, *more, side]
    popen = partial(subprocess.Popen, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    return [popen(env=variables | {"RANK": str(rank)}) for rank in range(ranks)]


def turns(optimizer: str) -> list[dict[str, list[float]]]:
    """Of each fresh start, the seconds of the steps of each side, one after the other."""
    starts = []
    for _ in range(FRESH):
        with tempfile.TemporaryDirectory() as folder:
            sides = {side: start(side, Path(folder), "serve", optimizer) for side in SIDES}
            seconds: dict[str, list[float]] = {side: [] for side in SIDES}
            losses: dict[str, list[float]] = {side: [] for side in SIDES}
            for turn in range(WARM + TURNS):
                for side in SIDES[turn % 3 :] + SIDES[: turn % 3]:
                    first = sides[side][0]
                    first.stdin.write("\n")  # type: ignore[union-attr]
                    first.stdin.flush()  # type: ignore[union-attr]
                    took, loss = json.loads(first.stdout.readline())  # type: ignore[union-attr]
                    seconds[side].append(took)
                    losses[side].append(loss)
            for processes in sides.values():
                for process in processes:
                    process.communicate()
            assert losses["one"] == losses["replicate"] == losses["shard"]
            starts.append({side: of_side[WARM:] for side, of_side in seconds.items()})
    return starts


def speed(optimizer: str) -> dict[str, Any]:
    """How fast two processes of one thread are against one process of two."""
    starts, result = turns(optimizer), {}
    for side in SIDES:
        joined = [x for of_start in starts for x in of_start[side]]
        ratios = [
            one / other
            for of_start in starts
            for one, other in zip(of_start["one"], of_start[side], strict=True)
        ]  # fmt: skip
        result[side] = {
            "least_seconds": min(joined), "median_seconds": statistics.median(joined),
            "median_ratio": statistics.median(ratios),
            "least_ratio": min(x for of_start in starts for x in of_start["one"]) / min(joined),
            "ratio_of_each_start": [
                statistics.median(a / b for a, b in zip(x["one"], x[side], strict=True)) for x in starts
            ],
        }  # fmt: skip
    return result


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    if what == "speed" and not {*arguments} <= {"adamw", "muon"}:
        sys.exit("give adamw, muon, both or none.")
    if what in ("serve", "held"):
        asked = {"side": arguments[-1], "optimizer": arguments[0], "recompute": "recomputed" in arguments}
        {"serve": serve, "held": held}[what](**asked)
    elif what == "memory":
        print(json.dumps(memories(), indent=1))
    else:
        print(json.dumps({optimizer: speed(optimizer) for optimizer in arguments or ("adamw", "muon")}, indent=1))
