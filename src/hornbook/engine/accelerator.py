"""What is recorded of an accelerator."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from hornbook.engine.device import this_device


def accelerator_facts(on: torch.device) -> dict[str, str | int | list[str] | None]:
    """What a run's bits and speed depend on beside the processor: the card, its driver, CUDA, cuDNN, and the kernels
    that attention may be computed by."""
    if on.type != "cuda":
        return {"name": this_device(on).name if on.type == "xpu" else on.type}
    driver = Path("/proc/driver/nvidia/version")
    version = re.search(r"\b\d{3}\.\d+(\.\d+)?\b", driver.read_text()) if driver.is_file() else None
    return {
        "name": torch.cuda.get_device_name(on),
        "memory_bytes": torch.cuda.get_device_properties(on).total_memory,
        "driver": version[0] if version else None,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "attention": attention_kernels(),
    }


def attention_kernels() -> list[str]:
    """Which of PyTorch's kernels for attention on CUDA are enabled: by default all, of which it takes the first that
    can compute what is asked."""
    names = {"flash": "flash", "mem_efficient": "memory-efficient", "cudnn": "cuDNN", "math": "math"}
    return [name for key, name in names.items() if getattr(torch.backends.cuda, f"{key}_sdp_enabled")()]
