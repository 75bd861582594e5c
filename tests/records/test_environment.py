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


def test_the_commit_is_that_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert environment()["git_commit"] is None
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert (environment()["git_commit"], environment()["git_has_changes"]) == (commit, False)
    Path("new").write_text("x")
    assert environment()["git_has_changes"] is True


def test_no_git_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert environment()["git_commit"] is None
