"""`hornbook prove`: real processes, real kills; and what is not so must not be proved."""

import hashlib
import json
import os
import shutil
import signal
import struct
import time
from pathlib import Path

import msgspec
import pytest

import hornbook
from hornbook.commands import prove as proving
from hornbook.engine import checkpoint as checkpoints
from hornbook.facts.errors import InputError
from hornbook.records.run import Run
from hornbook.reporting.report import write_pages
from hornbook.setup.replay import replay

SOURCE = str(Path(hornbook.__file__).parents[1])
RECIPE = """
[text]
tokenizer = "bytes"
split = "tail:0.1"
[model]
layers = 1
width = 32
context = 32
MODEL
[train]
threads = 1
batch = 4
TRAIN
[watch]
sample_tokens = 8
[optimizer]
name = "OPTIMIZER"
"""


def recipe(model, train, optimizer):
    return RECIPE.replace("MODEL", model).replace("TRAIN", train).replace("OPTIMIZER", optimizer)


RECIPES = {
    "GPT-2, untied, by AdamW": recipe('family = "gpt2"\ntied = false', "epochs = 3.0", "adamw"),
    "Qwen3 by Muon, pieces that are recomputed": recipe(
        'family = "qwen3"\ntied = true', "epochs = 3.0\nmicrobatch = 2\nrecompute = true", "muon"
    ),
    "Llama with dropout, within a budget": recipe('family = "llama"\ndropout = 0.1', 'budget = "20s"', "muon"),
}


def test_five_kills_of_a_run(tiny_run, tmp_path, hornbook_in):
    shutil.copytree(tiny_run.folder, tmp_path, dirs_exist_ok=True)
    finished = hornbook_in(tmp_path)("prove", "run", "--json")
    assert finished.code == 0, finished.stderr
    proof = finished.json
    assert (proof["proved"], proof["differences"], proof["steps"]) == (True, [], 24)
    assert 3 <= proof["kills"] <= 5  # a run of 24 steps may be over before the last of them
    assert proof["verdict"].startswith("Proved: after ")
    assert json.loads((tmp_path / "run" / "reports" / "prove.json").read_text()) == proof
    assert proof["verdict"] in (tmp_path / "run" / "reports" / "report.html").read_text()
    assert hornbook_in(tmp_path)("export", "run", "--to", "huggingface", "--out", "out").code == 0
    assert proof["verdict"] in (tmp_path / "out" / "README.md").read_text()


def test_another_seed_is_not_proved(tiny_run, tmp_path, hornbook_in):
    """What the run recorded is not what its settings give."""
    shutil.copytree(tiny_run.folder, tmp_path, dirs_exist_ok=True)
    run = Run(tmp_path / "run")
    run.write({"settings.toml": run.settings_toml.replace("seed = 0", "seed = 1")})
    finished = hornbook_in(tmp_path)("prove", "run", "--json", "--kills", 0)
    assert finished.code == 0, finished.stderr
    assert finished.json["proved"] is False
    assert finished.json["verdict"].startswith("NOT proved: ")
    assert finished.json["differences"][0].startswith("the run itself: step 1: gradient_norm is ")


def test_a_resume_from_another_state_of_the_optimizer_is_not_proved(tiny_run, tmp_path, monkeypatch):
    """One changed byte, and a manifest that speaks for it: only the comparison can see it."""
    shutil.copytree(tiny_run.folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", SOURCE)
    undisturbed, broken = tmp_path / "undisturbed", tmp_path / "broken"
    last = replay(Run(tmp_path / "run"), undisturbed, steps=24)
    proving._finish(undisturbed, last)
    replay(Run(undisturbed), broken, steps=12, changes={"checkpoint.every": 6})
    proving._finish(broken, 12)
    log = broken / "metrics.jsonl"
    rows = log.read_text().splitlines()
    log.write_text("".join(f"{row}\n" for row in rows if '"event":"decision"' not in row))  # that it ends after 12
    for folder in Run(broken).checkpoints()[-1:]:
        _change(folder)
    proving._finish(broken, last)
    differences = proving._differences("broken", Run(broken), Run(undisturbed), last)
    assert any("optimizer.safetensors of step 24 is another" in one for one in differences)


def test_a_text_that_changes_meanwhile_is_told(tiny_run, tmp_path, monkeypatch):
    """A letter, so that everything is as long as before."""
    shutil.copytree(tiny_run.folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", SOURCE)
    undisturbed, watched = tmp_path / "undisturbed", tmp_path / "watched"
    last = replay(Run(tmp_path / "run"), undisturbed, steps=2)
    proving._finish(undisturbed, last)
    text = tmp_path / "text.txt"
    text.write_text(text.read_text("utf-8").replace("e", "E", 1), encoding="utf-8")
    replay(Run(undisturbed), watched, steps=2)
    proving._finish(watched, last)
    with pytest.raises(InputError, match="the text was changed meanwhile"):
        proving._differences("watched", Run(watched), Run(undisturbed), last)


def _change(folder: Path) -> None:
    """A byte of the first moment, in the file, in its hash, and in the manifest's."""
    file = folder / checkpoints.OPTIMIZER
    content = bytearray(file.read_bytes())
    start = 8 + struct.unpack("<Q", content[:8])[0]
    content[start + 2 :: 4] = bytes(byte ^ 0x40 for byte in content[start + 2 :: 4])
    file.write_bytes(content)
    manifest = checkpoints.read_manifest(folder)
    manifest["state"]["decisions"] = []
    manifest["files"][checkpoints.OPTIMIZER]["sha256"] = hashlib.sha256(content).hexdigest()
    manifest["sha256"] = checkpoints._hash(msgspec.json.encode(manifest))
    (folder / checkpoints.MANIFEST).write_bytes(msgspec.json.encode(manifest))


def test_two_kills_of_a_recipe(text_file, tmp_path, monkeypatch):
    (tmp_path / "recipe.toml").write_text(RECIPES["GPT-2, untied, by AdamW"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", SOURCE)
    proof = hornbook.prove("text.txt", recipe="recipe.toml", steps=12, kills=2)
    assert proof["proved"], proof
    assert (proof["run"], proof["steps"]) == (None, 12)
    assert proof["kills"] >= 1


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_five_kills_of_a_recipe(name, text_file, tmp_path, monkeypatch):
    (tmp_path / "recipe.toml").write_text(RECIPES[name])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", SOURCE)
    proof = hornbook.prove("text.txt", recipe="recipe.toml", steps=80)
    assert proof["proved"], proof
    assert (proof["run"], proof["steps"], proof["kills"]) == (None, 80, 5)
    assert proof["kills_inside_saves"] >= 1


@pytest.mark.slow
def test_five_kills_of_two_processes_that_share_the_weights(text_file, tmp_path, monkeypatch):
    """Of one of them at a time, and by one process instead."""
    train = 'epochs = 3.0\nmicrobatch = 2\nprocesses = 2\nparallel = "shard"'
    (tmp_path / "recipe.toml").write_text(recipe("dropout = 0.1", train, "muon"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", SOURCE)
    proof = hornbook.prove("text.txt", recipe="recipe.toml", steps=60)
    assert proof["proved"], proof
    assert (proof["steps"], proof["kills"], proof["other_processes"]) == (60, 5, 1)
    assert proof["kills_inside_saves"] >= 1
    assert proof["verdict"].endswith("are the same to the last bit.")
    assert "with other intervals, and by one process, the losses" in proof["verdict"]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="processes are looked up in /proc")
@pytest.mark.parametrize(
    ("number", "processes"), [(signal.SIGTERM, 1), (signal.SIGTERM, 2), (signal.SIGINT, 1)], ids=str
)
def test_a_signal_ends_its_trainings_and_leaves_nothing(
    number, processes, text_file, tmp_path, hornbook_in, monkeypatch
):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    (tmp_path / "recipe.toml").write_text(recipe("", f"microbatch = 2\nprocesses = {processes}", "muon"))
    process = hornbook_in(tmp_path).start("prove", "text.txt", "--recipe", "recipe.toml", "--steps", 100_000)
    while not [*(tmp_path / "scratch").glob("hornbook-prove-*/undisturbed/samples.jsonl")]:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    trains = below(process.pid)
    assert len(trains) == (1 if processes == 1 else 1 + processes)
    process.send_signal(number)
    ended = hornbook_in(tmp_path).finish(process)
    assert (ended.code, ended.stderr.count("hornbook: "), "Traceback" in ended.stderr) == (128 + number, 1, False)
    assert not [pid for pid in trains if Path(f"/proc/{pid}").exists()]
    assert os.listdir(tmp_path / "scratch") == []


def below(pid):
    """The processes that a process has started, and those that these have."""
    words = [word for task in Path(f"/proc/{pid}/task").iterdir() for word in (task / "children").read_text().split()]
    return [process for child in words for process in (int(child), *below(child))]


def test_what_cannot_be_proved_is_said(command_line):
    none = command_line("prove")
    assert (none.code, none.stderr) == (2, "hornbook: give one run, or --recipe FILE and the texts to train on.\n")
    with pytest.raises(InputError, match="a proof takes at least 2 steps"):
        hornbook.prove("run", steps=1)


def test_the_page_has_the_last_verdict_as_text(tiny_run, tmp_path):
    run = Run(Path(shutil.copytree(tiny_run.run, tmp_path / "run")))
    for verdict in ("Proved: a < b.", "Proved: a < c."):
        run.write_report("prove.json", json.dumps({"verdict": verdict}))
        write_pages(run)
    page = (run.reports / "report.html").read_text(encoding="utf-8")
    assert page.count("<li>Proved: a &lt; c.</li>") == page.count("Proved: ") == 1
