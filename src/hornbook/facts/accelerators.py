"""What is known of accelerators by name: peaks, memory, bandwidth and power, with their sources."""

from __future__ import annotations

import re

from hornbook.facts.errors import InputError, suggestion
from hornbook.facts.hardware import GB, TB, Accelerator


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
            f'unknown accelerator "{match[2]}"{near}: known ones are {", ".join(a.name for a in ACCELERATORS)}; '
            "for any other give its peak dense FLOP/s with --peak."
        )
    if accelerator is None or count < 1:
        raise InputError(f'"{text}" names no accelerators: give a number and a name, such as 8xA100 or 1xH100.')
    return count, accelerator
