"""Which layout several processes take where none is asked for: what `plan` says, on real memory and on less of it."""

import pytest
import torch

from hornbook.engine.world import World
from hornbook.facts.hardware import HERE, custom
from hornbook.facts.settings import Settings
from hornbook.facts.shape import GPTShape, preset
from hornbook.planning.memory import memory
from hornbook.planning.parallel import DEVICES_OF_A_NODE
from hornbook.planning.plan import make_plan
from hornbook.records.run import Run
from hornbook.setup import processes

SMALL = GPTShape(family="qwen3", layers=6, width=512, heads=8, context=256, vocabulary=8192)
SHAPES = {"small": SMALL, "124M": preset("gpt2"), "7B": preset("llama2-7b")}


def settings(shape, size):
    """One window at once and recomputing, where the plan finds out whether a copy fits."""
    made = Settings()
    made.train.microbatch, made.train.recompute, made.train.threads = 1, True, 1
    made.train.batch, made.train.precision, made.optimizer.name = size, "float32", "adamw"
    return made


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("machines", [1, 2, 4])
def test_the_layout_is_the_planned_one_at_each_memory(name, machines, monkeypatch):
    shape, seen = SHAPES[name], set()
    size = machines * DEVICES_OF_A_NODE

    def needs(shards):
        return memory(shape, 1, checkpointing=True, threads=1, shards=shards, processes=size).total

    for fitting in (1, *(n * DEVICES_OF_A_NODE for n in (1, 2, 4) if n <= machines)):
        for share in (0.8, 1.25):  # of what is needed on each
            room = int(share * needs(fitting))
            monkeypatch.setattr(processes, "memory_bytes", lambda room=room: room * DEVICES_OF_A_NODE)
            replicas = processes._replicas(
                World(0, size, machines, 60.0), settings(shape, size), shape, torch.device("cpu")
            )
            plan = make_plan(shape=shape, tokens=10**9, on=(size, custom(HERE, 1e12)), memory_bytes=room)
            assert replicas == size // plan.shards, (fitting, share)
            seen.add(plan.parallel)
    assert seen == ({"replicate", "shard"} if machines == 1 else {"replicate", "shard", "hybrid"})


@pytest.mark.parametrize(("parallel", "replicas"), [("replicate", 16), ("hybrid", 2), ("shard", 1)])
def test_what_is_asked_for_is_taken(parallel, replicas):
    wanted = settings(SMALL, 16)
    wanted.train.parallel = parallel
    assert processes._replicas(World(0, 16, 2, 60.0), wanted, SMALL, torch.device("cpu")) == replicas


# A machine whose system says that it has so much memory.
LESS = """
import os
real = os.sysconf
os.sysconf = lambda name: MEMORY // real("SC_PAGE_SIZE") if name == "SC_PHYS_PAGES" else real(name)
"""


@pytest.mark.parametrize("layout", ["replicate", "shard"])
def test_two_processes_take_what_fits(tmp_path, text_file, hornbook_in, layout):
    options = {
        "text.tokenizer": "bytes", "text.split": "tail:0.1", "model.layers": 1, "model.width": 32, "model.context": 32,
        "train.threads": 1, "train.batch": 2, "train.microbatch": 1, "train.recompute": "true",
        "train.precision": "float32", "optimizer.name": "adamw", "watch.sample_tokens": 8,
    }  # fmt: skip
    shape = GPTShape(family="qwen3", layers=1, width=32, heads=1, context=32, vocabulary=257)
    room = 2 * memory(shape, 1, checkpointing=True, threads=1, processes=2).total
    room += 2**20 if layout == "replicate" else -(2**20)
    assert make_plan(shape=shape, tokens=10**6, on=(2, custom(HERE, 1e12)), memory_bytes=room // 2).parallel == layout
    (tmp_path / "sitecustomize.py").write_text(LESS.replace("MEMORY", str(room)), encoding="utf-8")
    command = ["train", "text.txt", *(f"--{name}={value}" for name, value in options.items()), "--steps", "3"]
    line = hornbook_in(tmp_path)
    done = line.finish(line.start(*command, "--processes", "2", "--out", "run", path=tmp_path))
    assert done.code == 0, done.stderr
    run = Run(tmp_path / "run")
    saved = [file.name for file in run.checkpoints()[-1].glob("model*")]
    assert len(saved) == {"replicate": 1, "shard": 2}[layout], saved
