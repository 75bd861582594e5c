"""Accelerators and CPUs: peak dense FLOP/s, memory, bandwidth, power. Published numbers only; unknown is None."""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path

import msgspec

from hornbook.facts.errors import InputError

GB, TB = 10**9, 10**12
HERE = "this machine"
MOST_WORKERS = 8  # more would wait for the interpreter between the operations of a small model
WIDE = 512  # features from which on the products are large enough to be spread: 135M at width 576 lost 5 % to workers


def cpu_workers(width: int, threads: int) -> int:
    """How many threads of a CPU compute a batch, or rows, of their own with a model of so many features (decision 16).

    >>> cpu_workers(256, 4), cpu_workers(256, 64), cpu_workers(768, 4)
    (4, 8, 1)
    """
    return 1 if width >= WIDE else min(threads, MOST_WORKERS)


@cache
def has_bfloat16_units() -> bool:
    """Whether this CPU multiplies faster in bfloat16 than in float32, as Linux describes it; others are far slower."""
    facts = Path("/proc/cpuinfo")
    return facts.is_file() and multiplies_bfloat16_faster(facts.read_text())


def multiplies_bfloat16_faster(cpuinfo: str) -> bool:
    """With AMX, or AVX512-BF16 on a core of AMD's. Intel's cores without AMX do half as many products as in float32.

    >>> multiplies_bfloat16_faster("vendor_id : AuthenticAMD\\nflags : avx2 avx512_bf16")
    True
    >>> multiplies_bfloat16_faster("vendor_id : GenuineIntel\\nflags : avx2 avx512_bf16")
    False
    """
    line = next((x for x in cpuinfo.splitlines() if x.startswith("flags")), "").split()
    return "amx_bf16" in line or ("avx512_bf16" in line and "GenuineIntel" not in cpuinfo)


def usable_cores() -> int:
    """How many processors this process may run on, at most OMP_NUM_THREADS where that is set."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(limit)) if limit.isdecimal() and int(limit) > 0 else cores


class Accelerator(msgspec.Struct, frozen=True):
    """One accelerator, or one CPU socket. Peaks are dense (data sheets often print twice that, with sparsity)."""

    name: str
    peak_flops: dict[str, float]  # FLOP/s by dtype: "bfloat16", "float16", "float32"; a dtype it lacks is absent
    memory_bytes: int | None  # as sold; a CPU has what was put into the machine: None
    bandwidth_bytes_per_second: float | None
    power_watts: float | None  # the limit under load (TDP, TBP); None where the maker prints none
    source: str
    date: str  # year and month of the source
    also: tuple[str, ...] = ()  # other names, drivers' names among them

    def training_flops(self) -> tuple[str, float] | None:
        """The dtype that one trains in here, and its peak FLOP/s; None where no peak is known.

        >>> Accelerator("T4", {"float16": 65e12, "float32": 8.1e12}, 16 * GB, 320 * GB, 70, "", "").training_flops()
        ('float16', 65000000000000.0)
        """
        for dtype in ("bfloat16", "float16", "float32"):
            if dtype in self.peak_flops:
                return dtype, self.peak_flops[dtype]
        return None

    @property
    def balance(self) -> float | None:
        """FLOPs that must be done with each byte read for the peak to be reachable (Williams et al. 2009).

        >>> round(Accelerator("A100-80", {"bfloat16": 312e12}, 80 * GB, 2039 * GB, 400, "", "").balance)
        153
        """
        peak, bandwidth = self.training_flops(), self.bandwidth_bytes_per_second
        return None if peak is None or not bandwidth else peak[1] / bandwidth


def custom(name: str, peak_flops: float, memory_bytes: int | None = None, *, dtype: str = "float32") -> Accelerator:
    """An accelerator that the table lacks, from its peak dense FLOP/s; what else about it is unknown stays None."""
    if not peak_flops > 0:
        raise InputError(f"the peak is {peak_flops}, but must be positive FLOP/s, such as 312e12.")
    return Accelerator(name, {dtype: peak_flops}, memory_bytes, None, None, "as given", "")


def memory_bytes() -> int | None:
    """The memory of this machine."""
    if sys.platform == "win32":
        import psutil

        return int(psutil.virtual_memory().total)
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None
