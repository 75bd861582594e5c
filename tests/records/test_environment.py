"""The environment is what the machine says it is."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from pathlib import Path

import numpy as np
import pytest

from hornbook.records.environment import environment


def test_names_versions_and_hardware_without_naming_the_machine() -> None:
    found = environment(threads=3, device="cpu")
    assert found["versions"]["numpy"] == np.__version__
    assert found["python"] == platform.python_version()
    assert (found["threads"], found["device"], found["cores"]) == (3, "cpu", os.cpu_count())
    assert found["memory_bytes"] > 2**26
    assert platform.node() not in json.dumps(found)
    assert str(Path.home()) not in json.dumps(found)


def git(*arguments: str) -> str:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_is_that_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What git itself says of it: on a branch, packed, detached, in a folder below, a worktree and a submodule."""
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    git("init", "-q")
    assert environment()["git_commit"] is None
    git("commit", "-q", "--allow-empty", "-m", "first")
    first = git("rev-parse", "HEAD")
    assert environment()["git_commit"] == first
    git("pack-refs", "--all")
    assert not list(Path(".git/refs/heads").iterdir())
    assert environment()["git_commit"] == first
    git("worktree", "add", "-q", "-b", "side/b", "../beside")
    git("commit", "-q", "--allow-empty", "-m", "second")
    second = git("rev-parse", "HEAD")
    git("checkout", "-q", "--detach")
    Path("below/it").mkdir(parents=True)
    monkeypatch.chdir("below/it")
    assert environment()["git_commit"] == second
    monkeypatch.chdir(tmp_path / "beside")
    assert environment()["git_commit"] == git("rev-parse", "HEAD") == first
    git("-c", "protocol.file.allow=always", "submodule", "add", "-q", str(tmp_path / "a"), "inside")
    monkeypatch.chdir("inside")
    assert environment()["git_commit"] == git("rev-parse", "HEAD")


def test_nothing_of_the_folder_is_executed_or_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    git("init", "-q")
    Path("file").write_text("x")
    Path(".gitattributes").write_text("* filter=evil\n")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    for key in ("core.fsmonitor", "filter.evil.clean", "filter.evil.process", "core.pager", "core.sshCommand"):
        git("config", key, f"touch {tmp_path / 'ran'}; false")
    Path("file").write_text("y")
    before = {path: path.stat().st_mtime_ns for path in Path(".git").rglob("*")}
    assert environment()["git_commit"] is not None
    assert {path: path.stat().st_mtime_ns for path in Path(".git").rglob("*")} == before
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    "head",
    ["", "ref: ", "ref: refs/heads/none", "ref: ../../secret", "0" * 39, "ref: a\0b", "\xff", "ref: .", "ref: /"],
)
def test_a_head_that_is_none_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path(".git").mkdir()
    (tmp_path.parent / "secret").write_text("a secret")
    Path(".git/HEAD").write_text(head, encoding="latin-1")
    assert environment()["git_commit"] is None
    Path(".git/HEAD").unlink()
    os.mkfifo(".git/HEAD")
    assert environment()["git_commit"] is None
