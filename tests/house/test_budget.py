"""What a newcomer has to read and a run has to load: figures that may fall and never rise."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hornbook.facts.settings import fields

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "hornbook"
LINES, SETTINGS = 32_888, 61
STACK = 7  # files of ours between the command line and an optimizer's update
# Modules with more than a docstring, all modules, and lines, loaded when the first update is about to be made.
PREPARED = (58, 74, 9_300)
RAW = (75, 91, 12_185)

# The profiler is called at each call of a Python function; the first one named `step` in optim/ is the update.
MEASURED = """
import json, sys
from pathlib import Path
import hornbook
from hornbook.cli import main

package = Path(hornbook.__file__).parent

def profile(frame, event, argument):
    code = frame.f_code
    if event == "call" and code.co_name == "step" and Path(code.co_filename).parent == package / "optim":
        sys.setprofile(None)
        files = [m.__file__ for n, m in sys.modules.items() if n.partition(".")[0] == "hornbook" and m.__file__]
        stack = set()
        while frame is not None:
            if package in Path(frame.f_code.co_filename).parents:
                stack.add(frame.f_code.co_filename)
            frame = frame.f_back
        compiler = [name for name in ("torch._dynamo", "torch._inductor", "sympy") if name in sys.modules]
        Path(sys.argv[1]).write_text(json.dumps({"files": files, "stack": sorted(stack), "compiler": compiler}))
        raise KeyboardInterrupt

sys.setprofile(profile)
main(sys.argv[2:])
"""


def loaded(tmp_path: Path, *arguments: str) -> dict[str, list[str]]:
    out = tmp_path / "loaded.json"
    command = [sys.executable, "-c", MEASURED, str(out), *arguments]
    variables = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=300, env=variables)
    return json.loads(out.read_text())


def counted(files: list[str]) -> tuple[int, int, int]:
    lines = [len(Path(file).read_text(encoding="utf-8").splitlines()) for file in files]
    return sum(length > 5 for length in lines), len(lines), sum(lines)


@pytest.mark.parametrize("is_prepared", [True, False])
def test_what_is_loaded_when_the_first_update_is_made(tmp_path, hornbook_in, english, is_prepared):
    """After the first evaluation and sample."""
    (tmp_path / "text.txt").write_text(english[:20_000], encoding="utf-8")
    text = "text.txt"
    if is_prepared:
        assert hornbook_in(tmp_path)("prepare", text, "--out", "prepared").code == 0
        text = "prepared"
    seen = loaded(tmp_path, "train", text, "--steps", "40", "--out", "run")
    assert any("probe_validation" in line for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert (tmp_path / "run" / "samples.jsonl").read_text()
    allowed = PREPARED if is_prepared else RAW
    modules = sorted(str(Path(file).relative_to(PACKAGE)) for file in seen["files"])
    assert [figure <= limit for figure, limit in zip(counted(seen["files"]), allowed, strict=True)] == [True] * 3, (
        counted(seen["files"]), modules
    )  # fmt: skip
    assert len(seen["stack"]) <= STACK, seen["stack"]
    assert seen["compiler"] == []  # 65 MiB and a second, for nothing


def test_the_source_grows_only_with_a_reason():
    """Raise a figure with a line in docs/decisions that says what for."""
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in PACKAGE.rglob("*.py")) <= LINES
    assert len(list(fields())) <= SETTINGS
