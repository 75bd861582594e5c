"""What a run costs while it goes on: pace, hours, energy, money, peak memory, and the share of the peak it reaches."""

from __future__ import annotations

import sys
import tomllib

import msgspec
import numpy as np
import torch

from hornbook.data.shards import TokenStream
from hornbook.engine.device import device, this_device
from hornbook.facts.hardware import Accelerator, usable_cores
from hornbook.facts.settings import Settings, from_table
from hornbook.facts.shape import GPTShape
from hornbook.planning.choose import shape_of
from hornbook.planning.workload import StepTimes
from hornbook.setup.build import build, seconds_per_step
from hornbook.training.pace import pace_of


def measure(settings: Settings, shape: GPTShape, text: TokenStream, on: torch.device) -> StepTimes:
    """The pace of a few steps, of a short score and of some written tokens, of parts that are thrown away."""
    parts = build(settings, shape, text, on)
    return pace_of(parts, text, seconds_per_step(settings, parts))


def measure_here(settings_toml: str, vocabulary: int) -> tuple[StepTimes, Accelerator]:
    """The pace of resolved settings on this machine, measured on random tokens: what `hornbook plan --measure` asks."""
    settings, on = from_table(tomllib.loads(settings_toml), source="the plan"), device()
    torch.set_num_threads(settings.train.threads or usable_cores())
    shape = shape_of(settings, vocabulary)
    ids = np.random.default_rng(0).integers(0, vocabulary, 65_536).astype(np.uint32)
    text = TokenStream([ids], np.array([[0, len(ids), len(ids), len(ids), 1]]), ["random"], separator=False)
    return measure(settings, shape, text, on), this_device(on)


if __name__ == "__main__":
    request = msgspec.json.decode(sys.stdin.buffer.read())
    sys.stdout.buffer.write(msgspec.json.encode(measure_here(request["settings"], request["vocabulary"])))
