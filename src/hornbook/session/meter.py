"""What a run costs while it goes on: pace, hours, energy, money, peak memory, and the share of the peak it reaches."""

from __future__ import annotations

import ctypes
import resource
import statistics
import sys
import time
import tomllib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from hornbook.data.shards import Part
from hornbook.evaluation.probe import Probe
from hornbook.facts.hardware import HERE, Accelerator, custom, find, usable_cores
from hornbook.facts.settings import Precision, Settings, from_table
from hornbook.facts.shape import GPTShape
from hornbook.model.generate import generate
from hornbook.planning.choose import shape_of
from hornbook.planning.pace import Pace
from hornbook.session.build import Parts, build, enough_steps, seconds_per_step
from hornbook.session.models import device

MEASURED_TOKENS, MEASURED_SECONDS = 4096, 0.5  # scored to learn how long that takes: the fewer of the two
MEASURED_FROM = 30  # steps: a shorter run is over before its pace is known
NEAR_PEAK = 0.9  # of a measured peak: training does not get there, so the machine was busy as it was measured
AGAIN_SECONDS = 30.0  # at least, between two measurements of the peak
POWERCAP = Path("/sys/class/powercap")


def this_device(on: torch.device, precision: Precision | None = None) -> Accelerator:
    """What it computes on: an accelerator that is known by its whole name, else one with the peak measured here, of a
    CPU in the precision that it trains in, float32 where none is given."""
    if on.type != "cuda":
        return custom(HERE, _product(on, torch.bfloat16 if precision == "bfloat16" else torch.float32))
    name, memory = torch.cuda.get_device_name(on), torch.cuda.get_device_properties(on).total_memory
    return find(name) or custom(name, _product(on, torch.bfloat16), memory, dtype="bfloat16")


def _product(on: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a matrix product, the best of a few; on a CPU by the threads that train."""
    size = 8192 if on.type == "cuda" else 768
    a = torch.ones(size, size, device=on, dtype=dtype)

    def product() -> None:
        a @ a
        if on.type == "cuda":
            torch.cuda.synchronize(on)

    product()
    return 2 * size**3 / _best_of(5, product)


def measure(settings: Settings, shape: GPTShape, text: Part, on: torch.device) -> Pace:
    """The pace of a few steps, of a short score and of some written tokens, of parts that are thrown away."""
    parts = build(settings, shape, text, on)
    return pace_of(parts, text, seconds_per_step(settings, parts))


def pace_of(parts: Parts, text: Part, step: float) -> Pace:
    """The pace of a model whose steps take `step` seconds. Draws from no randomness that training uses."""
    shape = parts.model.shape
    per_second = 3 * parts.batches.batch_size * shape.context / step  # tokens scored, about: a third of a step's work
    tokens = min(MEASURED_TOKENS, max(shape.context, int(MEASURED_SECONDS * per_second)))
    probe = Probe(text, context=shape.context, num_tokens=tokens, byte_lengths=np.ones(shape.vocabulary, np.int32))
    scored = _best_of(2, lambda: probe.score(parts.model)) / probe.num_tokens
    prompt = text.take(np.zeros(1, np.int64), 1)[0].tolist()
    written = _best_of(2, lambda: list(generate(parts.model, prompt, max_tokens=16, temperature=1.0, seed=0))) / 16
    return Pace(step, scored, written)


@dataclass
class FirstSteps:
    """Says what is expected of a run, as soon as its first steps have shown their pace and no update is under way."""

    plan: Callable[[Pace], None] | None
    parts: Parts
    text: Part
    seconds: list[float] = field(default_factory=list)

    def hear(self, seconds: float, is_last: bool) -> None:
        if self.plan is None:
            return
        self.seconds.append(seconds)
        if is_last and enough_steps(self.seconds):
            plan, self.plan = self.plan, None
            plan(pace_of(self.parts, self.text, statistics.median(self.seconds[1:])))


def _best_of(times: int, work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(times):
        begin = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def peak_memory_bytes(on: torch.device) -> int:
    """The most that this process, or its accelerator, has held so far."""
    if on.type == "cuda":
        return torch.cuda.max_memory_reserved(on)
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@dataclass
class Meter:
    """Runs from when the job began, on top of what `earlier` sessions of the run had read. Energy is None where no
    counter can be read."""

    started: float  # of time.monotonic()
    on: torch.device
    device: Accelerator
    usd_per_hour: float | None = None
    earlier: Mapping[str, float] = field(default_factory=dict)
    powercap: Path = POWERCAP
    precision: Precision | None = None  # of training
    spent_joules: float = 0.0
    measured: float = 0.0  # of time.monotonic(), when the peak was measured once more
    counters: dict[str, tuple[float, float]] = field(default_factory=dict)  # name -> joules at last, where they wrap

    def __post_init__(self) -> None:
        self.counters = _counters(self.on, self.powercap)

    def mfu(self, flops_per_second: float) -> float | None:
        """FLOPs per second by the shape's own count (PaLM's formula) / the peak, which is measured again where it is
        evidently too low; None where it is unknown, or is still too low."""
        peak = _peak(self.device)
        if 0 < NEAR_PEAK * peak < flops_per_second and time.monotonic() > self.measured + AGAIN_SECONDS:
            again, self.measured = this_device(self.on, self.precision), time.monotonic()
            self.device = max(self.device, again, key=_peak)
            peak = _peak(self.device)
        return flops_per_second / peak if flops_per_second <= peak else None

    def reading(self) -> dict[str, Any]:
        """Hours, and energy and money where they are known."""
        hours = self.earlier.get("gpu_hours", 0.0) + (time.monotonic() - self.started) / 3600
        read: dict[str, Any] = {"gpu_hours": hours}
        if self.counters:
            for name, (now, wraps) in _counters(self.on, self.powercap).items():
                self.spent_joules += (now - self.counters[name][0]) % wraps
                self.counters[name] = (now, wraps)
            read["energy_kwh"] = self.earlier.get("energy_kwh", 0.0) + self.spent_joules / 3.6e6
        if self.usd_per_hour is not None:
            read["price_usd"] = hours * self.usd_per_hour
        return read


def _peak(device: Accelerator) -> float:
    peak = device.training_flops()
    return 0.0 if peak is None else peak[1]


def _counters(on: torch.device, powercap: Path) -> dict[str, tuple[float, float]]:
    """Joules that each readable counter shows, and where it starts again: NVML of the accelerator, RAPL of sockets."""
    if on.type == "cuda":
        with suppress(Exception):  # no driver library, or a card without the counter: then it is unknown
            import pynvml

            pynvml.nvmlInit()
            uuid = str(torch.cuda.get_device_properties(on).uuid)
            handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}".encode())
            return {uuid: (pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3, float("inf"))}
        return {}
    found = {}
    for zone in sorted(powercap.glob("intel-rapl:*")):
        if zone.name.count(":") == 1:  # a socket; its parts are in it
            with suppress(OSError, ValueError):
                joules, wraps = (int((zone / name).read_text()) / 1e6 for name in ("energy_uj", "max_energy_range_uj"))
                found[zone.name] = (joules, wraps)
    return found


def measure_here(settings_toml: str, vocabulary: int) -> tuple[Pace, Accelerator]:
    """The pace of resolved settings on this machine, measured on random tokens: what `hornbook plan --measure` asks."""
    settings, on = from_table(tomllib.loads(settings_toml), source="the plan"), device()
    torch.set_num_threads(settings.train.threads or usable_cores())
    shape = shape_of(settings, vocabulary)
    ids = np.random.default_rng(0).integers(0, vocabulary, 65_536).astype(np.uint32)
    text = Part([ids], np.array([[0, len(ids), len(ids), len(ids), 1]]), ["random"], separator=False)
    return measure(settings, shape, text, on), this_device(on)


def return_freed_memory() -> None:
    """Give the system back what is freed. glibc keeps it, for each thread that trained, where only that thread finds
    it again; elsewhere nothing is done.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


if __name__ == "__main__":
    asked = msgspec.json.decode(sys.stdin.buffer.read())
    sys.stdout.buffer.write(msgspec.json.encode(measure_here(asked["settings"], asked["vocabulary"])))
