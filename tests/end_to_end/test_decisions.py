"""A run without a length ends where it is at its best; what it decides survives a kill before and after."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import hornbook
from hornbook.engine import checkpoint as checkpoints
from hornbook.facts.settings import Settings
from hornbook.records.run import Run
from hornbook.training.decisions import decisions_of, last_step

# A text of 3,000 bytes at a constant, high learning rate is learned by heart within the epochs that a run without a
# length has; the budget is far longer.
SETTINGS = {
    "text.tokenizer": "bpe:320", "text.split": "tail:0.2", "train.threads": 1, "train.precision": "float32",
    "model.layers": 2, "model.width": 64, "model.context": 32, "train.batch": 4, "optimizer.name": "muon",
    "optimizer.muon_learning_rate": 0.06,
    "watch.sample_tokens": 4, "watch.evaluate_every": 4, "schedule.name": "constant", "checkpoint.every": 16,
    "train.budget": "10m",
}  # fmt: skip
COMMAND = ["train", "text.txt", *(f"--{name}={value}" for name, value in SETTINGS.items()), "--out", "run"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, english, hornbook_in):
    folder = tmp_path_factory.mktemp("decided")
    (folder / "text.txt").write_text(english[:3000], encoding="utf-8")
    finished = hornbook_in(folder)(*COMMAND, "--json")
    assert finished.code == 0, finished.stderr
    return folder, finished.json


def weights(run, step):
    folder = Path(run) / "checkpoints" / f"step-{step:08d}"
    return (folder / "model.safetensors").read_bytes(), (folder / "optimizer.safetensors").read_bytes()


def test_it_goes_back_decays_and_uses_its_best_weights(whole, monkeypatch):
    folder, summary = whole
    monkeypatch.chdir(folder)
    run = Run(folder / "run")
    rows = run.rows()
    decided = decisions_of(rows)
    first = next(decision for decision in decided if decision.decision == "decay")
    steps = [row for row in rows if row["event"] == "step"]
    assert summary["step"] == steps[-1]["step"] == last_step(Settings(), decided)
    # The branch that rose stays in the log; after it the loss of a batch falls back, and the learning rate falls.
    looks = {row["step"]: row["probe_validation_loss_nats_per_token"] for row in rows if row["event"] == "evaluation"}
    best_before = min(loss for step, loss in looks.items() if step <= first.step)
    assert looks[first.from_step] == best_before < looks[first.step] - 0.02
    rates = [row["learning_rate"] for row in steps if row["step"] > first.step]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < rates[0]
    used = min(looks, key=looks.get)
    assert summary["used_step"] == summary["best_step"] == used
    before, after = summary["best_step_between"]
    if used > first.from_step:  # the looks that its weights descend from
        beside = [step for step in looks if step <= first.from_step or step > first.step]
    else:
        beside = [step for step in looks if step <= first.step]
    assert before in beside
    assert before < used
    assert after is None or (after in beside and after > used)
    opened = hornbook.evaluate(str(run.folder)).to_dict()
    assert opened["loss_nats_per_token"] == pytest.approx(summary["validation_loss_nats_per_token"], rel=1e-12)


def test_killed_before_and_after_the_decision_it_ends_with_the_same_bits(whole, tmp_path, hornbook_in):
    folder, summary = whole
    first = next(made for made in decisions_of(Run(folder / "run").rows()) if made.decision == "decay")
    for name, target in (("before", first.from_step + 1), ("between", first.step), ("after", first.step + 3)):
        again = tmp_path / name
        again.mkdir()
        shutil.copy(folder / "text.txt", again)
        command = hornbook_in(again)
        run = again / "run"
        process = command.start(*COMMAND)
        while not (run / "metrics.jsonl").is_file() or max(
            (row["step"] for row in Run(run).rows() if row["event"] == "step"), default=0
        ) < target:  # fmt: skip
            assert process.poll() is None, process.communicate()
        process.kill()
        assert command.finish(process).code == -signal.SIGKILL
        finished = command(*COMMAND, "--json")
        assert finished.code == 0, finished.stderr
        assert finished.json["used_step"] == summary["used_step"]
        assert weights(run, summary["step"]) == weights(folder / "run", summary["step"])
        assert decisions_of(Run(run).rows()) == decisions_of(Run(folder / "run").rows())


def test_a_decision_is_not_made_twice(whole, tmp_path, hornbook_in):
    """A process that comes from before it, with its log, decides the same at the same step though the looks say
    otherwise."""
    folder, _ = whole
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    run = Run(tmp_path / "run")
    first = decisions_of(run.rows())[0]
    for checkpoint in [*run.checkpoints(), *run.best_checkpoints()]:
        if checkpoints.read_manifest(checkpoint)["step"] > 0:
            checkpoints.discard(checkpoint)
    log = tmp_path / "run" / "metrics.jsonl"
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    later = first.step + 4
    moved = [row | {"step": later} if row["event"] == "decision" and row["step"] == first.step else row for row in rows]
    moved = [row for row in moved if row["event"] != "decision" or row["step"] == later]
    log.write_text("".join(json.dumps(row) + "\n" for row in moved), encoding="utf-8")
    finished = hornbook_in(tmp_path)(*COMMAND, "--json")
    assert finished.code == 0, finished.stderr
    assert decisions_of(Run(tmp_path / "run").rows())[0].step == later
    assert (
        len([row for row in Run(tmp_path / "run").rows() if row["event"] == "decision" and row["step"] <= later]) == 1
    )


def test_whoever_gives_a_length_gets_it_and_the_best_is_kept_beside(tmp_path, english, hornbook_in, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(english[:3000], encoding="utf-8")
    command = hornbook_in(tmp_path)
    arguments = [each for each in COMMAND if not each.startswith("--train.budget")]
    finished = command(*arguments, "--steps", 80, "--json")
    assert finished.code == 0, finished.stderr
    summary, run = finished.json, Run(tmp_path / "run")
    assert decisions_of(run.rows()) == []
    assert summary["step"] == summary["used_step"] == 80
    assert summary["best_step"] < 80
    best = hornbook.evaluate(str(run.folder), step=summary["best_step"])
    assert best.loss_nats_per_token < hornbook.evaluate(str(run.folder)).loss_nats_per_token
    assert (run.best_folder(summary["best_step"]) / "model.safetensors").is_file()
    assert not (run.best_folder(summary["best_step"]) / "optimizer.safetensors").exists()


def test_a_run_that_is_lengthened_gets_its_length_and_its_last_weights(tmp_path, english, hornbook_in):
    """By budget it decided for itself; the length that is given later is kept, though the text is learned by heart."""
    (tmp_path / "text.txt").write_text(english[:3000], encoding="utf-8")
    command = hornbook_in(tmp_path)
    arguments = [each for each in COMMAND if not each.startswith(("--schedule.name", "--optimizer.muon"))]
    first = command(*arguments, "--json")
    assert first.code == 0, first.stderr
    made = decisions_of(Run(tmp_path / "run").rows())
    assert [decision.decision for decision in made] == ["length", "length"]
    assert last_step(Settings(), made) == first.json["step"]
    arguments = [each for each in arguments if not each.startswith("--train.budget")]
    second = command(*arguments, "--steps", 2 * first.json["step"], "--json")
    assert second.code == 0, second.stderr
    assert second.json["step"] == second.json["used_step"] == 2 * first.json["step"]
    assert [decision.decision for decision in decisions_of(Run(tmp_path / "run").rows())] == ["lengthen"]


# Ctrl-C comes as the look after 16 steps begins: the step is saved without it.
INTERRUPTED = """
import os, signal, sys
from hornbook.cli import main
from hornbook.training.watch import Watch

real = Watch.evaluate
def evaluate(self, model, step, **more):
    if step == 16:
        os.kill(os.getpid(), signal.SIGINT)
    return real(self, model, step, **more)
Watch.evaluate = evaluate
sys.exit(main())
"""


def test_a_look_that_an_interrupt_kept_back_counts_after_the_resume(tmp_path, english, hornbook_in, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(english[:3000], encoding="utf-8")
    arguments = [each for each in COMMAND if not each.startswith("--train.budget")] + ["--checkpoint.best=true"]
    source = str(Path(hornbook.__file__).parents[1])
    stopped = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, *arguments, "--steps", "16"], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert stopped.returncode == 130, stopped.stderr
    finished = hornbook_in(tmp_path)(*arguments, "--steps", 16, "--json")
    assert finished.code == 0, finished.stderr
    assert finished.json["used_step"] == 16
    assert hornbook.open_model("run").step == 16


def test_without_validation_text_nothing_is_stopped_early(tmp_path, english, hornbook_in):
    (tmp_path / "text.txt").write_text(english[:3000], encoding="utf-8")
    arguments = [each for each in COMMAND if not each.startswith(("--text.split", "--train.budget"))]
    finished = hornbook_in(tmp_path)(
        *arguments, "--split", "none", "--steps", 24, "--train.early_stop", 1, "--json"
    )  # fmt: skip
    assert finished.code == 0, finished.stderr
    assert finished.json["step"] == 24
