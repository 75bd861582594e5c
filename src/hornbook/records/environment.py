"""What a run was made with: versions, commit, hardware, threads. Each of them can change bits, so each is kept."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from hornbook.facts.hardware import usable_cores

_PACKAGES = ("hornbook", "torch", "numpy", "tokenizers", "tiktoken", "safetensors", "msgspec")


def environment(*, threads: int | None = None, device: str | None = None) -> dict[str, Any]:
    """Versions, git commit of the current folder, hardware; `threads` and `device` as the caller uses them.

    Holds no name of a user, host or folder, so that a run can be shown to others. What is unknown is None.
    """
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "versions": {name: _version(name) for name in _PACKAGES},
        "git_commit": _git("rev-parse", "HEAD"),
        "git_has_changes": None if (status := _git("status", "--porcelain")) is None else status != "",
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "cores_usable": usable_cores(),
        "memory_bytes": memory_bytes(),
        "threads": threads,
        "device": device,
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """Output of git in the current folder, None without git or outside a repository."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _cpu() -> str | None:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or None


def memory_bytes() -> int | None:
    """The memory of this machine."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None
