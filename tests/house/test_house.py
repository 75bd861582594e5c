"""Rules of the house that a reader would otherwise have to trust."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

from hornbook.cli.parser import COMMANDS
from hornbook.facts.metrics import METRICS
from hornbook.records.rows import read_rows

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
TORCH_FREE = ("facts", "text", "data", "planning", "records", "reporting", "web", "cli")
FORBIDDEN_CALLS = {
    "eval", "exec", "os.system", "os.popen", "torch.load", "torch.save", "pickle.load", "pickle.loads", "pickle.dump",
    "pickle.dumps", "yaml.load", "marshal.loads", "shelve.open", "np.save_pickle",
}  # fmt: skip
FORBIDDEN_IMPORTS = {"pickle", "cPickle", "dill", "joblib", "cloudpickle", "shelve", "marshal", "yaml"}


def ids(path):
    return str(path.relative_to(ROOT / "src"))


def tracked():
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def test_there_is_something_to_look_at():
    assert len(SOURCES) > 40


def test_no_file_is_longer_than_one_reads():
    lengths = {ids(path): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert {name: length for name, length in lengths.items() if length > 400} == {}


def test_no_function_is_longer_than_a_screen():
    long = {}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = node.end_lineno - node.lineno + 1
                if length > 60:
                    long[f"{ids(path)}:{node.name}"] = length
    assert long == {}


def test_no_module_bears_a_command_s_name():
    """hornbook.train is the function; a module of that name would take its place once imported."""
    names = {path.stem for path in (ROOT / "src" / "hornbook").iterdir()}
    assert names & set(COMMANDS) == set()


@pytest.mark.parametrize("path", SOURCES, ids=ids)
def test_nothing_dangerous_is_called(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in FORBIDDEN_CALLS, ast.unparse(node)
            for keyword in node.keywords:
                given = (keyword.arg, ast.unparse(keyword.value))
                assert given not in {("shell", "True"), ("allow_pickle", "True"), ("trust_remote_code", "True")}
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} & FORBIDDEN_IMPORTS == set()
        if isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] not in FORBIDDEN_IMPORTS


@pytest.mark.parametrize("path", SOURCES, ids=ids)
def test_no_failure_is_swallowed(path):
    """No bare except, and Exception or BaseException are caught only to be raised again."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type is not None else "everything"
            if caught in ("everything", "Exception", "BaseException"):
                assert any(isinstance(inner, ast.Raise) for inner in ast.walk(node)), f"line {node.lineno}"


def test_what_is_printed_goes_through_one_place():
    """The builtin print and consoles of others obey the control sequences in a text."""
    for path in SOURCES:
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        calls = {ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)}
        froms = [node for node in nodes if isinstance(node, ast.ImportFrom)]
        imported = {(node.module, alias.name) for node in froms for alias in node.names}
        if "print" in calls and path.name != "printing.py":
            assert ("hornbook.facts.printing", "print") in imported, ids(path)
        if path.name != "printing.py":
            assert not calls & {"builtins.print", "sys.stdout.write", "sys.stderr.write"}, ids(path)
            assert "Console" not in calls, ids(path)
            assert ("rich", "print") not in imported, ids(path)


def test_torch_free_folders_import_no_torch_at_the_top_or_inside():
    for path in SOURCES:
        if path.relative_to(ROOT / "src" / "hornbook").parts[0].removesuffix(".py") not in TORCH_FREE:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.split(".")[0] == "torch"], ids(path)


def test_no_path_of_one_machine_in_what_is_committed():
    machine = re.compile(r"(?<![\w.])/(?:home|Users|work|tmp|root|mnt|data|opt|srv)/\w")
    allowed = re.compile(r"/tmp/bash|/data/shards")
    found = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if machine.search(line) and not allowed.search(line) and path != Path(__file__):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}")
    assert found == []


def test_every_number_a_run_records_is_catalogued(tiny_run):
    """What a row says besides numbers: the event, and words."""
    words = {"event", "reason", "sentence", "cost", "plan_score"}
    rows = read_rows(tiny_run.run / "metrics.jsonl")
    assert {row["event"] for row in rows} == {"step", "evaluation", "checkpoint", "end"}
    recorded = {key.removesuffix("_interval_90") for row in rows for key in row} - words
    assert recorded - METRICS.keys() == set()
    assert len(recorded) >= 10


def test_every_number_of_a_summary_is_catalogued(tiny_run):
    descriptions = {"num_parameters", "vocabulary"}  # of the model, not measured
    numbers = {key for key, value in tiny_run.summary.items() if isinstance(value, int | float)} - descriptions
    assert numbers - METRICS.keys() == set()
