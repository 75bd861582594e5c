"""Files of a run that are written whole: a change to one is noticed, a crash between two of them leaves none wrong, and
nothing is written through a link."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from hornbook.facts.errors import InputError
from hornbook.facts.io import write_aside
from hornbook.records.listing import check_model, runs
from hornbook.records.run import Run

FILES = (
    "settings.toml", "environment.json", "tokenizer.json", "tokenizer_config.json", "plan.json",
    "reports/evaluation.json",
)  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run.create(tmp_path / "run", "[train]\nsteps = 1\n", {"threads": 2})
    run.write({"tokenizer.json": "{}", "tokenizer_config.json": "{}"})
    run.write_plan({"plan": 1})
    run.write_report("evaluation.json", '{"loss_nats_per_token": 3.25, "bits_per_byte": 1.9}')
    return run


def test_every_file_is_listed_and_comes_back(run: Run) -> None:
    assert run.hashes is not None
    assert set(run.hashes) == set(FILES)
    assert run.read("plan.json") == b'{\n  "plan": 1\n}\n'
    run.check(*run.hashes)
    run.write({"settings.toml": "[train]\nsteps = 2\n"})
    assert run.settings_toml == "[train]\nsteps = 2\n"
    assert len(run.hashes["settings.toml"]) == 1


@pytest.mark.parametrize("name", [*FILES, "files.json"])
def test_one_changed_byte_is_noticed(run: Run, name: str) -> None:
    path = run.folder / name
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        if name == "files.json" and place < len(whole) - 1 and chr(whole[place]).isspace():
            continue  # blanks say nothing
        with pytest.raises(InputError, match=r"was changed since it was written|is damaged|cannot be read"):
            run.check(*FILES)
    path.write_bytes(whole)
    path.unlink()
    if name != "files.json":  # without it nothing is checked, which is said
        with pytest.raises(InputError, match="cannot be read"):
            run.check(name)


REPLACE = """
import os, sys
from hornbook.records.run import Run
left = int(sys.argv[2])
def count(event, arguments):
    global left
    if event == "os.rename":
        left -= 1
        if left < 0:
            os._exit(9)
sys.addaudithook(count)
Run.open(sys.argv[1]).write({"settings.toml": "[train]\\nsteps = 2\\n"})
"""


def test_a_crash_at_any_moment_of_a_replacement_leaves_a_file_that_is_right(run: Run) -> None:
    """A process that ends before its k-th rename leaves the old content or the new, and either is accepted."""
    old, new = run.settings_toml, "[train]\nsteps = 2\n"
    seen = []
    for moment in range(4):
        run.write({"settings.toml": old})
        command = [sys.executable, "-c", REPLACE, str(run.folder), str(moment)]
        done = subprocess.run(command, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, check=False)
        seen.append((done.returncode, Run.open(run.folder).settings_toml))
    assert seen == [(9, old), (9, old), (9, new), (0, new)]


def test_a_run_from_before_opens_unchecked(run: Run) -> None:
    (run.folder / "files.json").unlink()
    assert run.hashes is None
    (run.folder / "settings.toml").write_text("[train]\nsteps = 3\n")
    assert run.settings_toml == "[train]\nsteps = 3\n"
    run.write({"settings.toml": "[train]\nsteps = 4\n"})
    assert run.hashes is None


def test_nothing_in_a_run_is_written_through_a_link(run: Run, tmp_path: Path) -> None:
    letter = tmp_path / "letter"
    names = [".lock", ".settings.toml.part", "metrics.jsonl", "samples.jsonl", "reports/.a.html.part", "plan.json",
             "reports/a.html", ".files.json.part", "files.json"]  # fmt: skip
    for name in names:
        letter.write_text("dear")
        copy = Run(shutil.copytree(run.folder, tmp_path / name.replace("/", "-")))
        (copy.folder / name).unlink(missing_ok=True)
        (copy.folder / name).symlink_to(letter)
        if name == "files.json":
            letter.write_bytes((run.folder / name).read_bytes())
        before = letter.read_bytes()
        with suppress(InputError), copy.lock():
            copy.write({"settings.toml": "a = 1\n"})
            copy.write_plan({})
            copy.write_report("a.html", "x")
            copy.log({"event": "a", "step": 1})
        with suppress(InputError):
            copy.log_sample({"step": 1, "text": "a"})
        assert letter.read_bytes() == before
    for name in ("checkpoints", "reports"):
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        shutil.rmtree(run.folder / name)
        (run.folder / name).symlink_to(tmp_path / "elsewhere")
        with pytest.raises(InputError, match=f"{name} is a link"), run.lock():
            pass
        if name == "reports":
            with pytest.raises(InputError, match="reports is a link"):
                run.write_report("a.html", "x")
        (run.folder / name).unlink()
        (run.folder / name).mkdir()
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_copy_made_of_links_shares_no_further_rows(run: Run, tmp_path: Path) -> None:
    run.log({"event": "a", "step": 1})
    (tmp_path / "copy").mkdir()
    for path in run.folder.iterdir():
        if path.is_file():
            os.link(path, tmp_path / "copy" / path.name)
    copy = Run(tmp_path / "copy")
    copy.log({"event": "a", "step": 2})
    assert [row["step"] for row in run.rows()] == [1]
    assert [row["step"] for row in copy.rows()] == [1, 2]


def test_a_lock_that_is_not_ours_keeps_its_content(run: Run) -> None:
    (run.folder / ".lock").write_text("somebody's notes")
    with run.lock():
        pass
    assert (run.folder / ".lock").read_text() == "somebody's notes"


def test_a_pipe_in_the_place_of_a_log_is_refused(run: Run) -> None:
    os.mkfifo(run.folder / "samples.jsonl")
    with pytest.raises(InputError, match="not a regular file"):
        run.log_sample({"step": 1, "text": "a"})


def test_a_name_that_is_not_utf_8_is_written_as_it_is_printed(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    run = Run.create(tmp_path / name, "", {"request": {"text": {"paths": [name]}}})
    assert run.environment == {"request": {"text": {"paths": ["caf\\xe9"]}}}
    run.log({"event": "a", "sentence": name, name: 1})
    assert run.rows() == [{"event": "a", "sentence": "caf\\xe9", "caf\\xe9": 1}]
    run.write_report("a.html", f"<p>{name}")
    assert (run.reports / "a.html").read_bytes() == b"<p>caf\\udce9"
    write_aside(tmp_path / name / "x", name)


@pytest.mark.parametrize(
    "damage", [b'{"event":"step","step":"many"}\n', b'{"event":"step","step":1}\n', b"[1]\n", b"\xff\n{}\n"]
)
def test_one_damaged_run_is_named_and_the_others_are_listed(run: Run, tmp_path: Path, damage: bytes) -> None:
    whole = Run.create(tmp_path / "whole", "", {})
    whole.log({"event": "evaluation", "step": 5, "tokens": 9, "probe_validation_loss_nats_per_token": 3.5})
    (run.folder / "metrics.jsonl").write_bytes(damage + b'{"event":"end","step":1}\n')
    states = {Path(facts["run"]).name: facts["state"] for facts in runs(tmp_path)}
    assert states["run"].startswith("damaged: ")
    assert "line 1" in states["run"]
    assert states["whole"] == "unfinished"
    with pytest.raises(InputError, match=r"there is no run or model .*typo.*"):
        check_model(tmp_path / "typo")
    (run.folder / "metrics.jsonl").unlink()
    (run.folder / "settings.toml").write_text(json.dumps("changed"))
    states = {Path(facts["run"]).name: facts["state"] for facts in runs(tmp_path)}
    assert "settings.toml was changed since it was written" in states["run"]
