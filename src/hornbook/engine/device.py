"""The device that a run computes on: which it is, its measured peak, its memory, energy and cost."""

from __future__ import annotations

import ctypes
import os
import sys
import time
import timeit
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from hornbook.facts.errors import InputError
from hornbook.facts.hardware import HERE, Accelerator, custom
from hornbook.facts.settings import Precision

NEAR_PEAK = 0.9  # of a measured peak: training does not get there, so the machine was busy as it was measured
AGAIN_SECONDS = 30.0  # at least, between two measurements of the peak
POWERCAP = Path("/sys/class/powercap")


def this_device(on: torch.device, precision: Precision | None = None) -> Accelerator:
    """What it computes on: an accelerator that is known by its whole name, else one with the peak measured here, of a
    CPU in the precision that it trains in, float32 where none is given."""
    if on.type not in ("cuda", "xpu"):  # Apple's GPU trains in float32, in the machine's memory, as a CPU does
        return custom(HERE, _product(on, torch.bfloat16 if precision == "bfloat16" else torch.float32))
    properties = getattr(torch, on.type).get_device_properties(on)
    from hornbook.facts.accelerators import find

    name, memory = properties.name, properties.total_memory
    return find(name) or custom(name, _product(on, torch.bfloat16), memory, dtype="bfloat16")


def _product(on: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a matrix product, the best of a few; on a CPU by the threads that train."""
    size = 8192 if on.type != "cpu" else 768
    a = torch.ones(size, size, device=on, dtype=dtype)

    def product() -> None:
        a @ a
        if on.type != "cpu":
            torch.accelerator.synchronize(on)

    _, *seconds = timeit.repeat(product, number=1, repeat=6)  # the first one also loads what computes it
    return 2 * size**3 / min(seconds)


def peak_memory_bytes(on: torch.device) -> int:
    """The most that this process, or its accelerator, has held so far."""
    if on.type in ("cuda", "xpu"):
        return int(getattr(torch, on.type).max_memory_reserved(on))
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024  # macOS counts bytes


@dataclass
class Telemetry:
    """Runs from when the job began, on top of what `earlier` sessions of the run had read. Energy is None where no
    counter can be read."""

    started: float  # of time.monotonic()
    on: torch.device
    device: Accelerator
    usd_per_hour: float | None = None
    earlier: Mapping[str, float] = field(default_factory=dict)
    powercap: Path = POWERCAP
    precision: Precision | None = None  # of training
    processes: int = 1  # that train together, on so many machines
    machines: int = 1
    spent_joules: float = 0.0
    asleep_seconds: float = 0.0  # of all sessions, in which the process stood still
    measured: float = 0.0  # of time.monotonic(), when the peak was measured once more
    counters: dict[str, tuple[float, float]] = field(default_factory=dict)  # name -> joules at last, where they wrap

    def __post_init__(self) -> None:
        self.counters = _counters(self.on, self.powercap)
        self.asleep_seconds = self.earlier.get("asleep_seconds", 0.0)

    @property
    def seconds(self) -> float:
        """Since the first session of the run began, without the time between sessions."""
        hours = self.earlier.get("gpu_hours", 0.0)  # of one device, where nothing else is recorded
        return self.earlier.get("wall_seconds", 3600 * hours) + time.monotonic() - self.started

    def mfu(self, flops_per_second: float) -> float | None:
        """FLOPs per second by the shape's own count (PaLM's formula) / the peak, which is measured again where it is
        evidently too low; None where it is unknown, or is still too low."""
        flops_per_second /= self.processes
        peak = _peak(self.device)
        if 0 < NEAR_PEAK * peak < flops_per_second and time.monotonic() > self.measured + AGAIN_SECONDS:
            again, self.measured = this_device(self.on, self.precision), time.monotonic()
            self.device = max(self.device, again, key=_peak)
            peak = _peak(self.device)
        return flops_per_second / peak if flops_per_second <= peak else None

    @property
    def devices(self) -> int:
        """What is paid for: accelerators, or machines without."""
        return self.machines if self.on.type == "cpu" else self.processes

    def reading(self) -> dict[str, Any]:
        """Hours of all devices, and money; energy, of this machine, where it is known."""
        hours = self.earlier.get("gpu_hours", 0.0) + self.devices * (time.monotonic() - self.started) / 3600
        read: dict[str, Any] = {"gpu_hours": hours}
        if self.devices > 1 or "wall_seconds" in self.earlier:
            read["wall_seconds"] = self.seconds
        if self.asleep_seconds:
            read["asleep_seconds"] = self.asleep_seconds
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
    counters = {}
    for zone in sorted(powercap.glob("intel-rapl:*")):
        if zone.name.count(":") == 1:  # a socket; its parts are in it
            with suppress(OSError, ValueError):
                joules, wraps = (int((zone / name).read_text()) / 1e6 for name in ("energy_uj", "max_energy_range_uj"))
                counters[zone.name] = (joules, wraps)
    return counters


def return_freed_memory() -> None:
    """Give freed memory back to the system: glibc keeps it for the thread that freed it. Elsewhere nothing is done."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


def device() -> torch.device:
    """The accelerator where there is one, of any maker that PyTorch knows, else the CPU. The environment variables
    CUDA_VISIBLE_DEVICES and HORNBOOK_DEVICE=cpu are respected. Raises InputError for another HORNBOOK_DEVICE."""
    here = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    wanted = os.environ.get("HORNBOOK_DEVICE") or here.type
    if wanted not in ("cpu", here.type):
        raise InputError(
            f"HORNBOOK_DEVICE is {wanted}, but here it can be {' or '.join({'cpu': 0, here.type: 0})} only."
        )
    return torch.device(wanted)


def can_pin(on: torch.device) -> bool:
    """Whether memory of the host can be pinned for a device: one that has a memory of its own."""
    return on.type in ("cuda", "xpu")
