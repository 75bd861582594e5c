"""A run whose files were changed after they were written is refused, or says what cannot be checked."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import hornbook
from hornbook.facts.errors import InputError
from hornbook.records.rows import read_rows
from hornbook.records.run import Run
from hornbook.setup.model import RESOLVED

SETTINGS = {
    "text.tokenizer": "bytes", "text.split": "tail:0.1", "train.threads": 1, "model.layers": 1, "model.width": 32,
    "model.context": 32, "train.batch": 4, "watch.sample_tokens": 8,
}  # fmt: skip


@pytest.fixture
def run(tiny_run, tmp_path, monkeypatch):
    """A copy of a finished run beside its text."""
    shutil.copytree(tiny_run.folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"


def replace(path, old, new):
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))


CHANGES = {
    "a digit of the settings": ("settings.toml", b"batch = 4", b"batch = 5"),
    "an exponent of the settings": ("settings.toml", b"learning_rate = 0.0", b"learning_rate = 4.0"),
    "what was asked for": ("environment.json", b'"batch"', b'"bitch"'),
    "a character of the vocabulary": ("tokenizer.json", b'"a"', b'"\xc3\xbf"'),
    "a special token": ("tokenizer_config.json", b"endoftext", b"endoftexts"),
}


USES = {
    "resume": lambda: hornbook.train(out="run", **{"train.steps": 30}),
    "resume with the original on the line": lambda: hornbook.train(
        "text.txt", out="run", **(SETTINGS | {"train.steps": 30})
    ),
    "evaluate": lambda: hornbook.evaluate("run/checkpoints/step-00000024", "text.txt"),
    "generate": lambda: list(hornbook.generate("run", "a")),
    "export": lambda: hornbook.export("run", to="huggingface", out="out"),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("use", USES)
def test_a_changed_file_of_a_run_is_refused(run, name, use):
    file, old, new = CHANGES[name]
    replace(run / file, old, new)
    with pytest.raises(InputError, match=f"run/{file} was changed since it was written"):
        USES[use]()
    assert not os.path.exists("out")


def test_the_changed_tokenizer_of_a_run_prepares_no_text(run):
    replace(run / "tokenizer.json", b'"a"', b'"\xc3\xbf"')
    with pytest.raises(InputError, match="was changed since it was written"):
        hornbook.prepare("text.txt", tokenizer="run")


OF_BEFORE = {
    b"muon_learning_rate": b"matrix_learning_rate", b"intermediate_size": b"hidden", b'name = "wsd"': b'kind = "wsd"',
}  # fmt: skip


def test_a_run_with_names_of_before_goes_on_in_silence_and_to_the_same_bits(run, tmp_path, capfd):
    """Its files are what was written then, and their hashes hold."""
    hornbook.train("text.txt", out="new", **(SETTINGS | {"schedule.name": "wsd", "train.steps": 24}))
    shutil.copytree("new", "old")
    old, hashes = tmp_path / "old", {}
    for new_name, old_name in OF_BEFORE.items():
        replace(old / "settings.toml", new_name, old_name)
    replace(old / "environment.json", b'"schedule":', b'"schedule": {"kind": "wsd"}, "was":')
    replace(old / "environment.json", b', "was": {\n      "name": "wsd"\n    }', b"")
    for name in ("settings.toml", "environment.json"):
        hashes[name] = [hashlib.sha256((old / name).read_bytes()).hexdigest()]
    known = json.loads((old / "files.json").read_bytes())
    (old / "files.json").write_text(json.dumps(known | hashes))
    capfd.readouterr()
    for folder in ("new", "old"):
        assert hornbook.compare("run", folder)["differing_settings"] == {}
        assert hornbook.train("text.txt", out=folder, **{"schedule.name": "wsd", "train.steps": 30}, quiet=True)
    assert capfd.readouterr().err == ""
    assert (old / "settings.toml").read_bytes() == Path("new/settings.toml").read_bytes()
    weights = "checkpoints/step-00000030/model.safetensors"
    assert (old / weights).read_bytes() == Path("new", weights).read_bytes()
    replace(old / "settings.toml", b"batch = 4", b"batch = 5")
    with pytest.raises(InputError, match=r"old/settings\.toml was changed since it was written"):
        hornbook.train(out="old", quiet=True)


def test_a_newest_checkpoint_that_is_gone_is_said(run):
    for lose in (lambda: (run / "checkpoints/step-00000024/manifest.json").unlink(),
                 lambda: shutil.rmtree(run / "checkpoints/step-00000024")):  # fmt: skip
        lose()
        with pytest.raises(InputError, match=r"lost its newest checkpoint, of step 24: .* --step 20"):
            hornbook.evaluate("run", "text.txt")
        assert hornbook.evaluate("run", "text.txt", step=0).extra["step"] == 0
    assert hornbook.train("text.txt", out="run")["step"] == 24  # goes on from step 0
    assert hornbook.evaluate("run", "text.txt").extra["step"] == 24


def test_a_run_from_before_the_hashes_opens_with_a_note(run, capsys):
    (run / "files.json").unlink()
    replace(run / "settings.toml", b"keep = 2", b"keep = 3")
    report = hornbook.evaluate("run", "text.txt")
    assert "changed files cannot be detected" in report.extra["weights"]
    assert hornbook.train("text.txt", out="run", **{"train.steps": 25})["step"] == 25
    assert Run.open("run").hashes is None
    replace(run / "settings.toml", b"batch = 4", b"batch = 5")
    with pytest.raises(InputError, match=r"train\.batch = 5, not 4"):  # the line states the original
        hornbook.train("text.txt", out="run", **(SETTINGS | {"train.steps": 30}))


@pytest.mark.parametrize("name", RESOLVED)
def test_settings_that_were_cut_off_are_a_sentence(run, name):
    """Of a run from before the hashes: from the line of this setting on nothing is left."""
    (run / "files.json").unlink()
    section, _, key = name.partition(".")
    lines = (run / "settings.toml").read_text().splitlines(keepends=True)
    start = lines.index(f"[{section}]\n")
    at = next((i for i in range(start, len(lines)) if lines[i].startswith(f"{key} =")), None)
    assert at is not None, "a run has all of these"
    (run / "settings.toml").write_text("".join(lines[:at]))
    tomllib.loads((run / "settings.toml").read_text())
    with pytest.raises(InputError, match="is cut off: it has no"):
        hornbook.train(out="run", **{"train.steps": 30})
    with pytest.raises(InputError, match="is cut off: it has no"):
        hornbook.evaluate("run")


def test_the_same_text_by_another_name_goes_on(run, tmp_path, monkeypatch):
    for number, name in enumerate(("./text.txt", str(tmp_path / "text.txt"), "run/../text.txt"), 25):
        assert hornbook.train(name, out="run", **{"train.steps": number})["step"] == number
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert hornbook.train("../text.txt", out="../run", **{"train.steps": 28})["step"] == 28
    (tmp_path / "below" / "text.txt").write_text("another text of the same name " * 99)
    with pytest.raises(InputError, match=r"not|changed"):
        hornbook.train("../below/text.txt", out="../run", **{"train.steps": 29})


KILLED = """
import os, signal, sys
import hornbook, json
from hornbook.engine import checkpoint
def die(*arguments, **named):
    os.kill(os.getpid(), signal.SIGKILL)
checkpoint.write_tensors = die
hornbook.train("text.txt", out="run2", **json.loads(sys.argv[1]))
"""


def test_a_kill_inside_the_first_save_leaves_no_row_twice(run):
    """The look and the sample at step 0 stand in the logs when step 0 is saved."""
    changes = SETTINGS | {"train.steps": 24}
    source = os.path.dirname(os.path.dirname(hornbook.__file__))
    done = subprocess.run(
        [sys.executable, "-c", KILLED, json.dumps(changes)], check=False, env=os.environ | {"PYTHONPATH": source}
    )
    assert done.returncode == -signal.SIGKILL
    rows = read_rows(run.parent / "run2" / "metrics.jsonl")
    assert [row["step"] for row in rows if row["event"] == "evaluation"] == [0]
    assert Run.open("run2").samples() != []
    hornbook.train("text.txt", out="run2", **changes)
    for read in (lambda r: [x["step"] for x in r.rows() if x["event"] == "evaluation"],
                 lambda r: [(x["step"], x["text"]) for x in r.samples()]):  # fmt: skip
        assert read(Run.open("run2")) == read(Run.open("run"))
    names = [f"checkpoints/step-00000024/{name}.safetensors" for name in ("model", "optimizer")]
    assert [(run.parent / "run2" / name).read_bytes() for name in names] == [
        (run / name).read_bytes() for name in names
    ]
