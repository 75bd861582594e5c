"""Numbers on the command line that are too large or too small for what they count: one sentence, no traceback."""

import shutil
from pathlib import Path

import pytest

from hornbook.cli.parser import _parse, build_parser, main
from hornbook.facts.errors import InputError

LARGEST = 2**62
TEXT = ("train", "text.txt", "--tokenizer", "bytes", "--split", "tail:0.1", "--out", "out", "--threads", "1")
SMALL = ("--model.layers", "1", "--model.width", "32", "--model.context", "32", "--train.batch", "4", "--steps", "2")


def said(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    error = capsys.readouterr().err.rstrip("\n").split("\n")
    return code, error[-1]


@pytest.mark.parametrize("seed", [-1, 2**62 + 1, 10**23])
@pytest.mark.parametrize("command", ["generate", "memorize"])
def test_seeds(command, seed, tiny_run, capsys):
    code, error = said(capsys, command, tiny_run.run, "--seed", seed)
    assert code == 2
    assert "--seed: expected a whole number" in error


@pytest.mark.parametrize(
    "arguments",
    [
        ("generate", "--max-tokens", 10**23), ("generate", "--max-tokens", -1), ("generate", "--top-k", -LARGEST),
        ("generate", "--step", -1), ("evaluate", "--window", LARGEST), ("evaluate", "--stride", 0),
        ("evaluate", "--batch-size", 2**63), ("evaluate", "--like", "huggingface", "--stride", 0),
        ("evaluate", "--like", "huggingface", "--stride", -5),
        ("evaluate", "--like", "huggingface", "--window", LARGEST),
        ("evaluate", "--like", "lm-eval", "--window", LARGEST), ("evaluate", "--like", "lm-eval", "--window", 0),
        ("evaluate", "--tasks", "continuation", "--task-limit", -LARGEST), ("inspect", "--top-k", -1),
    ],
)  # fmt: skip
def test_options_of_a_model(arguments, tiny_run, capsys, monkeypatch):
    monkeypatch.chdir(tiny_run.folder)
    code, error = said(capsys, arguments[0], "run", *arguments[1:])
    assert code == 2
    assert error.startswith("hornbook: ")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--train.batch", 2**63), "expected a whole number"),
        (("--train.batch", LARGEST), "take a smaller --model.context or --train.batch"),
        (("--model.width", 10**18), "take a smaller --model.width, .intermediate_size or .layers"),
        (("--model.intermediate_size", LARGEST), "take a smaller --model.width"),
        (("--model.layers", LARGEST), "take a smaller --model.width"),
        (("--model.context", LARGEST), "fewer than one context"),
        (("--threads", 2**40), "expected a whole number <= 1024"),
        (("--train.seed", 10**23), "expected a whole number"),
        (("--optimizer.learning_rate", "1e300"), "expected a number <= 1e+38"),
        (("--optimizer.muon_learning_rate", "1e39"), "expected a number <= 1e+38"),
        (("--optimizer.clip_norm", "1e300"), "expected a number <= 1e+38"),
        (("--epochs", "1e300"), ""),
        (("--tokens", "1e300"), ""),
    ],
)
def test_settings_that_no_machine_could_hold(arguments, named, text_file, capsys, monkeypatch):
    monkeypatch.chdir(text_file.parent)
    code, error = said(capsys, *TEXT, *SMALL[: -2 if arguments[0] in ("--epochs", "--tokens") else None], *arguments)
    assert code == 2
    assert named in error
    assert not (text_file.parent / "out").exists()


@pytest.mark.parametrize("text", ["--", "--hello", "-5", "--well-known.word", "---", "-- two words", "-h"])
def test_a_text_may_begin_with_a_dash(text):
    def parsed(*arguments):
        return _parse(build_parser(), list(arguments))

    for options in ((), ("--top-k", "3")):
        assert parsed("generate", "model", *options, "--", text).prompt == text
        assert parsed("inspect", "model", *options, "--", text).text == text
    assert parsed("generate", "model", f"--stop={text}").stop == [text]
    assert parsed("generate", "model", "--train.early-stop. yes").prompt == "--train.early-stop. yes"
    for arguments, hint in (
        (("generate", "model", "--hello"), "comes last, after --"),
        (("generate", "--stop", "--"), "--option=VALUE"),
    ):
        with pytest.raises(InputError, match=hint):
            parsed(*arguments)
    with pytest.raises(InputError, match=r'"--max-tokens" is one argument too many|"3" is one'):
        parsed("generate", "model", "--", text, "--max-tokens", "3")


def test_memorize_takes_one_other_text_and_prints_where_it_cannot_write(tiny_run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tiny_run.folder)
    other = tmp_path / "other.txt"
    other.write_text((tiny_run.folder / "text.txt").read_text()[::-1])
    code, error = said(capsys, "memorize", "run", "--heldout", other)
    assert (code, error) == (0, "")

    shutil.copytree(tiny_run.folder, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    shutil.rmtree("run/reports")
    Path("run/reports").write_text("a file where reports belong")
    code = main(["memorize", "run"])
    shown = capsys.readouterr()
    assert code == 1
    assert "continued word for word" in shown.out
    assert "no report was written: [Errno 17]" in shown.err
