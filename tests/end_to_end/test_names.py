"""Names that a shell, a terminal, a page or a plot might obey: they work, or one sentence says why not."""

import json
import os
import re
import sys

import pytest

from hornbook.cli import main

NAMES = [
    "a[/b].txt", "rr[/x]/t", "\x1b]0;title\x07\x1b[31m.txt", "new\nline.txt", "$\\frac$ $x$.txt", ":cat:.txt",
    "<b>&amp;.txt", "%s {} %(x)d.txt", "中文 ไทย.txt", "it's \"q\" `w`.txt", "\x9b2J.txt",
]  # fmt: skip
SMALL = (
    "--tokenizer", "bytes", "--split", "tail:0.1", "--threads", "1", "--model.layers", "1", "--model.width", "32",
    "--model.context", "32", "--train.batch", "4", "--watch.sample_tokens", "8", "--steps", "2",
)  # fmt: skip


@pytest.fixture
def here(tmp_path, monkeypatch, capsys):
    """here(*words) is the command line in an empty folder, in this process: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        code = main(words)
        said = capsys.readouterr()
        assert "Warning" not in said.err, words
        return code, said.out, said.err

    return call


def control(text):
    return re.findall(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text)


def test_a_text_a_run_and_a_page_of_any_name(here, tmp_path, english):
    """All files in one run, whose name is the worst of them; then each command that shows names."""
    for name in NAMES:
        path = tmp_path / "texts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name!r} {english[:3000]}", encoding="utf-8")
    named = [f"texts/{name}" for name in NAMES]
    run = "runs/[/x] $\\frac$ $y$ \x1b]0;title\x07 \x9b2J :cat: <u>中"
    for command in (
        ("train", *named, *SMALL, "--out", run), ("runs", "runs"), ("evaluate", run), ("evaluate", run, *named),
        ("compare", run, run, "--on", named[0]), ("inspect", run, "a \x1b[31m b"), ("generate", run, "a \x1b[31m \r b"),
        ("evaluate", run, named[3] + "x"), ("evaluate", run + "x"), ("prepare", *named, "--tokenizer", "bytes"),
        ("export", run, "--to", "gguf", "--out", "runs/[/x] \x1b[2J"), ("plan", *named),
    ):  # fmt: skip
        code, stdout, stderr = here(*command)
        assert code == (2 if command[-1].endswith("x") else 0), (command, stderr)
        assert control(stdout + stderr) == [], command
        if command[0] in ("evaluate", "runs", "prepare"):
            code, stdout, stderr = here(*command, "--json")
            assert control(stdout + stderr) == [], command
            assert code or json.loads(stdout)
    page = (tmp_path / run / "reports" / "report.html").read_text(encoding="utf-8")
    assert control(page) == []
    assert "&lt;u&gt;" in page
    assert "<u>" not in page


def test_generated_text_has_no_control_sequences_but_json_has_all(here, tiny_run):
    _, shown, _ = here("generate", str(tiny_run.run), "\x1b]0;title\x07\r\nend", "--max-tokens", "2")
    assert shown.startswith("␛]0;title␇\nend")
    _, exact, _ = here("generate", str(tiny_run.run), "\x1b]0;title\x07\r\nend", "--max-tokens", "2", "--json")
    assert json.loads(exact)["prompt"] == "\x1b]0;title\x07\r\nend"
    assert control(exact) == []


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems take only UTF-8 names")
def test_names_that_are_not_utf8(here, tmp_path, monkeypatch, english):
    """An argument is refused in one sentence; a folder or a pattern has such files, and a folder of that name works."""
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    with open(folder + b"/caf\xe9.txt", "w", encoding="utf-8") as file:
        file.write(english[:8000])
    for command in (
        ("train", "caf\udce9/caf\udce9.txt"), ("prepare", "x.txt", "--out", "caf\udce9"), ("evaluate", "caf\udce9"),
        ("train", "caf*", "--out=caf\udce9"),
    ):  # fmt: skip
        code, stdout, stderr = here(*command)
        assert (code, stdout, stderr.count("\n")) == (2, "", 1)
        assert "caf\\xe9" in stderr
        assert "is not UTF-8" in stderr
    for command in (("train", "caf*/*", *SMALL, "--out", "run"), ("evaluate", "run", "caf*/*"), ("evaluate", "run")):
        code, _, stderr = here(*command)
        assert code == 0, stderr
    assert "caf\\xe9.txt" in json.loads(here("evaluate", "run", "caf*/*", "--json")[1])["documents"][0]["name"]
    monkeypatch.chdir(folder)
    for command in (
        ("train", "*.txt", *SMALL, "--out", "run"), ("evaluate", "run"), ("runs", "."), ("runs", ".", "--json"),
        ("generate", "run", "x", "--max-tokens", "3"), ("inspect", "run", "x", "--html", "x.html"),
    ):  # fmt: skip
        code, _, stderr = here(*command)
        assert code == 0, stderr


def test_a_prompt_that_begins_with_a_dash(here, tiny_run):
    run, few = str(tiny_run.run), ("--max-tokens", "2")
    for words in (
        (run, *few, "--", "--hello"),
        (run, "--", "--hello"),
        (*few, "--", run, "--hello"),
        (run, "--hello x"),
    ):
        code, stdout, stderr = here("generate", *words)
        assert (code, stdout[:7]) == (0, "--hello"), stderr
    assert here("inspect", run, "--", "--json")[1].startswith(f"{run} at step 24\n")
    code, _, stderr = here("generate", run, "--hello")
    assert (code, "a text that begins with - comes last, after --;" in stderr) == (2, True)
    code, _, stderr = here("generate", run, "x", "--stop", "--x")
    assert (code, "--option=VALUE" in stderr) == (2, True)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("generate", "", "x"), "model"), (("train", "x.txt", ""), "texts"), (("train", "--out="), "out"),
        (("runs", ""), "folder"), (("compare", "a", ""), "models"), (("train", "--text.field", ""), "text.field"),
    ],
)  # fmt: skip
def test_an_argument_that_is_empty(here, words, named):
    """As an unset variable of a shell leaves it."""
    code, stdout, stderr = here(*words)
    assert (code, stdout) == (2, "")
    assert stderr.startswith(f"hornbook: {named} is empty: ")


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_a_stream_that_is_closed(here, tiny_run, monkeypatch, closed):
    """As `>&-` leaves it."""
    monkeypatch.setattr(sys, closed, None)
    assert main(["inspect", str(tiny_run.run), "x"]) == 0
    assert main(["evaluate", "absent"]) == 2


@pytest.mark.parametrize("name", ["x.xyz", "x", "absent/x.png"])
def test_a_plot_that_cannot_be_written(here, tmp_path, name):
    """Nothing is printed then, and nothing is left."""
    words = ("plan", "--parameters", "7B", "--tokens", "2T", "--on", "8xA100", "--plot", name)
    code, stdout, stderr = here(*words)
    assert (code, stdout, stderr.count("\n")) == (1 if "absent" in name else 2, "", 1)
    assert name in stderr
    assert list(tmp_path.iterdir()) == []
