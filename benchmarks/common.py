"""What a case of the benchmark is, and what its processes share. Torch-free to import."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Compare:
    """How many times better side `a` is than side `b`; `target` is the least that is wanted."""

    a: str
    b: str
    target: float | None = None


@dataclass(frozen=True)
class Case:
    """One measured thing. Each side is run as `python FILE NAME SIDE FOLDER` and prints one JSON object at the end:
    `value` in `unit`, `gate` (what must agree between sides: numbers within `tolerance`, anything else exactly), `loss`
    (ours must not be above the peer's, in the median), `curve` ([step, losses...] at the same steps on both sides), and
    any further numbers. Sides whose name begins with hornbook run in our environment, others in the peers'.
    """

    name: str
    what: str
    unit: str
    more_is_better: bool
    sides: tuple[str, ...]
    compare: tuple[Compare, ...]
    tolerance: float = 0.0
    gate_of: str = "the same on all sides"
    rounds: int = 5
    starts_peer: bool = False
    most_loss: float | None = None  # what no run of ours may be above


def peers_python() -> str:
    """The interpreter of the peers' environment; run.py says which."""
    return os.environ["PEERS_PYTHON"]


def data() -> Path:
    """The development data: HORNBOOK_DATA, or beside the repository."""
    return Path(os.environ.get("HORNBOOK_DATA") or HERE.parents[1] / "shared" / "data")


def play(cases: tuple[Case, ...], prepare: Callable[[str, Path], None], side: Callable[[str, str, Path], Any]) -> None:
    """The main function of a case's file: makes what the sides share, or is one side and prints its sample."""
    _, name, which, folder = sys.argv
    assert any(case.name == name for case in cases)
    if which == "prepare":
        prepare(name, Path(folder))
    else:
        print(json.dumps(side(name, which, Path(folder))))


def read_bandwidth() -> float:
    """Bytes a second that all threads read from memory together: the best of ten sums over 512 MiB."""
    import torch

    x = torch.ones(2**27)
    best = 0.0
    for _ in range(10):
        begin = time.perf_counter()
        x.sum()
        best = max(best, x.nbytes / (time.perf_counter() - begin))
    return best


def matmul_peak(dtype: str) -> float:
    """FLOPs a second of products of 2,048 x 2,048 in a precision such as "float32": the best of five."""
    import torch

    a, best = torch.ones(2048, 2048, dtype=getattr(torch, dtype)), 0.0
    for _ in range(5):
        begin = time.perf_counter()
        a @ a
        best = max(best, 2 * 2048**3 / (time.perf_counter() - begin))
    return best


def peak_bytes() -> int:
    """VmHWM of this process: the most memory it has held."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def huggingface_folder(shape: Any, folder: Path, *, spread: float, tokenizer: Any = None) -> None:
    """Initial weights of a shape as a Hugging Face folder, with noise of `spread` on all, biases and norms too."""
    import torch

    from hornbook.formats.huggingface import write_huggingface
    from hornbook.model.decoder import Decoder
    from hornbook.model.init import initialise

    model, generator = initialise(Decoder(shape), 0), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=spread)
    write_huggingface(model, folder, tokenizer=tokenizer)
