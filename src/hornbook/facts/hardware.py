"""Accelerators and CPUs: peak dense FLOP/s, memory, bandwidth, power. Published numbers only; unknown is None."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path

import msgspec

from hornbook.facts.errors import InputError, suggestion

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
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(asked)) if asked.isdecimal() and int(asked) > 0 else cores


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

        >>> lookup("T4")[1].training_flops()  # no bfloat16
        ('float16', 65000000000000)
        """
        for dtype in ("bfloat16", "float16", "float32"):
            if dtype in self.peak_flops:
                return dtype, self.peak_flops[dtype]
        return None

    @property
    def balance(self) -> float | None:
        """FLOPs that must be done with each byte read for the peak to be reachable (Williams et al. 2009).

        >>> round(lookup("A100-80")[1].balance), round(lookup("H100")[1].balance)
        (153, 295)
        """
        peak, bandwidth = self.training_flops(), self.bandwidth_bytes_per_second
        return None if peak is None or not bandwidth else peak[1] / bandwidth


def _gpu(
    name: str, half: float, single: float, memory: float, bandwidth: float, watts: float, source: str, date: str,
    *also: str, no_bfloat16: bool = False,
) -> Accelerator:  # fmt: skip
    """Units of a data sheet: TFLOP/s (dense 16-bit, 32-bit without tensor cores), GB, GB/s, W."""
    peaks = {"float16": half * TB, "float32": single * TB} | ({} if no_bfloat16 else {"bfloat16": half * TB})
    return Accelerator(name, peaks, int(memory * GB), bandwidth * GB, watts, source, date, also)


def _tpu(name: str, half: float, memory: float, bandwidth: float, source: str, *also: str) -> Accelerator:
    """Per chip. Google prints no float32 peak, and no power that includes what a chip needs around it."""
    page = f"Google Cloud TPU documentation, {source}"
    return Accelerator(name, {"bfloat16": half * TB}, int(memory * GB), bandwidth * GB, None, page, "2025-11", also)


def _cpu(
    name: str, cores: int, gigahertz: float, per_cycle: int, bandwidth: float | None, watts: float, source: str,
    date: str,
) -> Accelerator:  # fmt: skip
    """A socket: peak = cores x base clock x float32 FLOPs per core and cycle (2 per fused multiply-add and lane)."""
    peak = cores * gigahertz * 1e9 * per_cycle
    bytes_per_second = None if bandwidth is None else bandwidth * GB
    return Accelerator(name, {"float32": peak}, None, bytes_per_second, watts, source, date)


def _apple(name: str, single: float, bandwidth: float, date: str) -> Accelerator:
    """The GPU of an Apple chip, which shares the machine's memory."""
    source = f"Apple newsroom, {name.replace('-', ' ')} announcement"
    return Accelerator(name, {"float32": single * TB}, None, bandwidth * GB, None, source, date)


ACCELERATORS: tuple[Accelerator, ...] = (
    _gpu("V100-16", 125, 15.7, 16, 900, 300, "NVIDIA V100 data sheet (SXM2)", "2020-01",
         "V100", "V100-SXM2", "Tesla V100-SXM2-16GB", no_bfloat16=True),
    _gpu("V100-32", 125, 15.7, 32, 900, 300, "NVIDIA V100 data sheet (SXM2)", "2020-01",
         "Tesla V100-SXM2-32GB", no_bfloat16=True),
    _gpu("T4", 65, 8.1, 16, 320, 70, "NVIDIA T4 data sheet", "2019-03", "Tesla T4", no_bfloat16=True),
    _gpu("A100-40", 312, 19.5, 40, 1555, 400, "NVIDIA A100 data sheet (SXM4)", "2021-06", "A100-SXM4-40GB"),
    _gpu("A100-80", 312, 19.5, 80, 2039, 400, "NVIDIA A100 data sheet (SXM4)", "2021-06",
         "A100", "A100-SXM", "A100-SXM4-80GB"),
    _gpu("A100-80-PCIe", 312, 19.5, 80, 1935, 300, "NVIDIA A100 data sheet (PCIe)", "2021-06",
         "A100-PCIe", "A100 80GB PCIe"),
    _gpu("A10", 125, 31.2, 24, 600, 150, "NVIDIA A10 data sheet", "2021-04"),
    _gpu("A30", 165, 10.3, 24, 933, 165, "NVIDIA A30 data sheet", "2021-04"),
    _gpu("A40", 149.7, 37.4, 48, 696, 300, "NVIDIA A40 data sheet", "2021-02"),
    _gpu("A6000", 154.8, 38.7, 48, 768, 300, "NVIDIA RTX A6000 data sheet", "2021-02", "RTX A6000"),
    _gpu("L4", 121, 30.3, 24, 300, 72, "NVIDIA L4 data sheet", "2023-03"),
    _gpu("L40S", 362, 91.6, 48, 864, 350, "NVIDIA L40S data sheet", "2023-08"),
    _gpu("RTX-3090", 71, 35.6, 24, 936, 350, "NVIDIA Ampere GA102 whitepaper, float32 sums", "2021-01",
         "3090", "GeForce RTX 3090"),
    _gpu("RTX-4090", 165.2, 82.6, 24, 1008, 450, "NVIDIA Ada whitepaper, float32 sums", "2023-01",
         "4090", "GeForce RTX 4090"),
    _gpu("RTX-5090", 209.5, 104.8, 32, 1792, 575, "NVIDIA RTX Blackwell whitepaper, float32 sums", "2025-01",
         "5090", "GeForce RTX 5090"),
    _gpu("H100", 989.4, 66.9, 80, 3350, 700, "NVIDIA H100 data sheet (SXM5)", "2023-08",
         "H100-80", "H100-SXM", "H100 80GB HBM3"),
    _gpu("H100-PCIe", 756, 51, 80, 2000, 350, "NVIDIA H100 data sheet (PCIe)", "2023-08", "H100 PCIe"),
    _gpu("H100-NVL", 835, 60, 94, 3900, 400, "NVIDIA H100 data sheet (NVL, per GPU)", "2024-10", "H100 NVL"),
    _gpu("H800", 989.4, 66.9, 80, 3350, 700, "as the H100 SXM5 (DeepSeek-V3 report, arXiv:2412.19437)", "2024-12"),
    _gpu("H200", 989.4, 66.9, 141, 4800, 700, "NVIDIA H200 data sheet (SXM)", "2024-11"),
    _gpu("GH200", 989.4, 66.9, 96, 4000, 900, "NVIDIA GH200 data sheet (HBM3; power of the superchip)", "2023-11",
         "GH200 480GB"),
    _gpu("B200", 2250, 75, 180, 8000, 1000, "NVIDIA DGX B200 data sheet, divided by 8", "2024-11"),
    _gpu("MI250X", 383, 47.9, 128, 3277, 560, "AMD MI250X data sheet (both dies)", "2021-11"),
    _gpu("MI300X", 1307.4, 163.4, 192, 5300, 750, "AMD MI300X data sheet", "2023-12"),
    _gpu("MI325X", 1307.4, 163.4, 256, 6000, 1000, "AMD MI325X data sheet", "2024-10"),
    _gpu("MI355X", 2516.6, 157.3, 288, 8000, 1400, "AMD MI355X data sheet", "2025-06"),
    _tpu("TPUv3", 123, 32, 900, "TPU v3", "TPU v3"),
    _tpu("TPUv4", 275, 32, 1228, "TPU v4", "TPU v4"),
    _tpu("TPUv5e", 197, 16, 819, "TPU v5e", "TPU v5e"),
    _tpu("TPUv5p", 459, 95, 2765, "TPU v5p", "TPU v5p"),
    _tpu("TPUv6e", 918, 32, 1640, "TPU v6e", "TPU v6e", "Trillium"),
    _cpu("EPYC-7763", 64, 2.45, 32, 204.8, 280, "AMD product page; two 256-bit FMAs per cycle (Zen 3)", "2021-03"),
    _cpu("EPYC-9654", 96, 2.4, 32, 460.8, 360, "AMD product page; two 256-bit FMAs per cycle (Zen 4)", "2022-11"),
    _cpu("Xeon-8480+", 56, 2.0, 64, 307.2, 350, "Intel ARK; two 512-bit FMAs per cycle, base clock", "2023-01"),
    _cpu("Ryzen-7950X", 16, 4.5, 32, 83.2, 170, "AMD product page; two 256-bit FMAs per cycle (Zen 4)", "2022-09"),
    _apple("M1", 2.6, 68.25, "2020-11"),
    _apple("M1-Max", 10.4, 400, "2021-10"),
    _apple("M2-Max", 13.6, 400, "2023-01"),
)  # fmt: skip


def _key(name: str) -> str:
    """Spelling that does not matter: case, blanks, hyphens, the maker's name.

    >>> _key("NVIDIA A100-SXM4-80GB") == _key("a100 sxm4 80gb")
    True
    """
    plain = re.sub(r"[\s_-]+", "", name.lower())
    return re.sub(r"^(nvidia|amd|google|intel|apple)", "", plain)


_BY_KEY = {_key(name): accelerator for accelerator in ACCELERATORS for name in (accelerator.name, *accelerator.also)}


def find(name: str) -> Accelerator | None:
    """The accelerator that a driver calls `name`, by its whole name and never by a part of it; else None.

    >>> find("NVIDIA A100-SXM4-80GB").name, find("NVIDIA A100X")
    ('A100-80', None)
    """
    return _BY_KEY.get(_key(name))


def lookup(text: str) -> tuple[int, Accelerator]:
    """How many of which accelerator: "8xA100" or "H100". `A100` means A100-80, `H100` the SXM. Raises InputError.

    >>> count, accelerator = lookup("8xA100")
    >>> count, accelerator.name
    (8, 'A100-80')
    """
    match = re.fullmatch(r"\s*(?:([0-9]+)\s*[x×*]\s*)?(\S.*?)\s*", text)
    count = int(match[1] or 1) if match else 0
    accelerator = find(match[2]) if match else None
    if match is not None and accelerator is None:
        near = suggestion(match[2].upper(), [a.name for a in ACCELERATORS])
        raise InputError(
            f'unknown accelerator "{match[2]}"{near}: known are {", ".join(a.name for a in ACCELERATORS)}; '
            "for any other give its peak dense FLOP/s with --peak."
        )
    if accelerator is None or count < 1:
        raise InputError(f'"{text}" names no accelerators: give a number and a name, such as 8xA100 or 1xH100.')
    return count, accelerator


def custom(
    name: str, peak_flops: float, memory_bytes: int | None = None, *, dtype: str = "float32"
) -> Accelerator:  # fmt: skip
    """An accelerator that the table lacks, from its peak dense FLOP/s; what else about it is unknown stays None."""
    if not peak_flops > 0:
        raise InputError(f"the peak is {peak_flops}, but must be positive FLOP/s, such as 312e12.")
    return Accelerator(name, {dtype: peak_flops}, memory_bytes, None, None, "as given", "")


def memory_bytes() -> int | None:
    """The memory of this machine."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None
