"""What a run was made with: versions, commit, hardware, threads. Each of them can change bits, so each is kept."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from pathlib import Path
from typing import Any

from hornbook.facts.hardware import memory_bytes, usable_cores
from hornbook.model.cpu import PLAIN

_PACKAGES = ("hornbook", "torch", "numpy", "tokenizers", "tiktoken", "safetensors", "msgspec")


def environment(*, threads: int | None = None, device: str | None = None) -> dict[str, Any]:
    """Versions, git commit of the current folder, hardware; `threads` and `device` as the caller uses them.

    Holds no name of a user, host or folder, so that a run can be shown to others. What is unknown is None.
    """
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "versions": {name: _version(name) for name in _PACKAGES},
        "git_commit": _git_commit(Path.cwd()),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "cores_usable": usable_cores(),
        "memory_bytes": memory_bytes(),
        "threads": threads,
        "plain": PLAIN,
        "device": device,
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_commit(folder: Path) -> str | None:
    """The commit that is checked out in `folder`; None outside a repository, and where it has none yet.

    Its files are read: to run git here would run what other people's settings name (core.fsmonitor, filters).
    """
    git = next((parent / ".git" for parent in (folder, *folder.parents) if os.path.lexists(parent / ".git")), None)
    if git is None:
        return None
    if git.is_file():  # of a worktree or a submodule: where its own folder is
        git = git.parent / _start_of(git).removeprefix("gitdir:").strip()
    head = _start_of(git / "HEAD").strip()
    if not head.startswith("ref:"):
        return _commit(head)
    name, shared = head.removeprefix("ref:").strip(), git / (_start_of(git / "commondir").strip() or ".")
    for parent in (git, shared):
        if (commit := _commit(_start_of(parent / name).strip())) is not None:
            return commit
    packed = _start_of(shared / "packed-refs", 2**26).splitlines()
    return next((_commit(line.split(" ")[0]) for line in packed if line.endswith(f" {name}")), None)


def _commit(text: str) -> str | None:
    return text if re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", text) else None


def _start_of(path: Path, num_bytes: int = 4096) -> str:
    """The first bytes of a file; "" where there is none."""
    try:
        if not path.is_file():
            return ""
        with path.open("rb") as file:
            return file.read(num_bytes).decode("utf-8", "replace")
    except (OSError, ValueError):  # ValueError: NUL in a path
        return ""


def _cpu() -> str | None:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or None
