"""A run that was stopped in any way goes on to the same bits, as if nothing had happened."""

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

import hornbook
from hornbook.facts.errors import InputError
from hornbook.records.rows import read_rows, without_replaced
from hornbook.records.run import Run

STEPS, EVERY = 300, 20
# Muon and AdamW, dropout, accumulation, evaluation and samples; an epoch ends every 21.25 steps.
SETTINGS = {
    "text.tokenizer": "bytes", "text.split": "tail:0.1", "train.threads": 1, "model.layers": 1, "model.width": 32,
    "model.context": 16, "model.dropout": 0.1, "train.batch": 8, "train.microbatch": 3, "optimizer.name": "muon",
    "watch.evaluate_every": 7, "watch.sample_every": 60, "watch.sample_tokens": 8, "watch.probe_tokens": 200,
    "checkpoint.every": EVERY,
}  # fmt: skip
COMMAND = ["train", "text.txt", *(f"--{name}={value}" for name, value in SETTINGS.items()), "--out", "run"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, english, hornbook_in):
    """The folder of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "text.txt").write_text(english[:3000], encoding="utf-8")
    finished = hornbook_in(folder)(*COMMAND, "--steps", STEPS)
    assert finished.code == 0, finished.stderr
    assert len({int(row["epoch"]) for row in Run(folder / "run").rows() if row["event"] == "step"}) > 10
    return folder


@pytest.fixture
def again(tmp_path, whole):
    """A fresh folder with the same text."""
    shutil.copy(whole / "text.txt", tmp_path)
    return tmp_path


@pytest.fixture
def copied(tmp_path, whole, monkeypatch):
    """A copy of the finished run, to be worked on in this process."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"


def weights(run, step=STEPS):
    folder = Path(run) / "checkpoints" / f"step-{step:08d}"
    return (folder / "model.safetensors").read_bytes(), (folder / "optimizer.safetensors").read_bytes()


def history(run):
    """What is recorded of steps and evaluations, times aside; and the samples."""
    timed = {"seconds", "tokens_per_second", "mfu", "cost"}
    kept = [row for row in Run(Path(run)).rows() if row["event"] in ("step", "evaluation")]
    return [{k: v for k, v in row.items() if k not in timed} for row in kept], Run(Path(run)).samples()


def last_step(run):
    """The newest step in the log, 0 before there is one."""
    rows = without_replaced(read_rows(run / "metrics.jsonl"))
    return max((row["step"] for row in rows if row["event"] == "step"), default=0)


def resumes(run):
    return [row for row in read_rows(run / "metrics.jsonl") if row["event"] == "resume"]


def wait_until(condition, process):
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)


def train(**changes):
    return hornbook.train("text.txt", out="run", **(SETTINGS | {"train.steps": STEPS} | changes))


def test_killed_at_random_moments_and_inside_a_save(again, whole, command_line):
    draw, run = random.Random(2026), again / "run"
    for number, target in enumerate(sorted(draw.sample(range(1, STEPS - 40), 5))):
        process = command_line.start(*COMMAND, "--steps", STEPS)
        wait_until(lambda n=number, t=target: len(resumes(run)) == n and last_step(run) >= t, process)
        time.sleep(draw.uniform(0, 0.02))
        process.kill()
        assert command_line.finish(process).code == -signal.SIGKILL
        assert list((run / "checkpoints").glob("step-*/manifest.json"))
    # Stopped as soon as something hidden is seen: if it is there still, the process stands inside a save.
    process, inside = command_line.start(*COMMAND, "--steps", STEPS), False

    def saving():
        return [name for name in os.listdir(run / "checkpoints") if name.endswith(f".{process.pid}")]

    while not inside:
        wait_until(saving, process)
        os.kill(process.pid, signal.SIGSTOP)
        inside = bool(saving())
        os.kill(process.pid, signal.SIGKILL if inside else signal.SIGCONT)
    assert command_line.finish(process).code == -signal.SIGKILL
    finished = command_line(*COMMAND, "--steps", STEPS)
    assert finished.code == 0, finished.stderr
    assert "resuming from step" in finished.stderr
    assert weights(run) == weights(whole / "run")
    assert history(run) == history(whole / "run")
    assert not list((run / "checkpoints").glob(".*"))
    assert len(resumes(run)) == 6


def test_signals_save_and_exit_and_nothing_is_lost(again, whole, command_line):
    run = again / "run"
    for number, code, target in ((signal.SIGINT, 130, 40), (signal.SIGTERM, 143, 140)):
        process = command_line.start(*COMMAND, "--steps", STEPS)
        wait_until(lambda target=target: last_step(run) >= target, process)
        process.send_signal(number)
        finished = command_line.finish(process)
        assert finished.code == code, finished.stderr
        said = finished.stderr.rstrip().splitlines()[-1]
        assert said.startswith("hornbook: stopped at step ")
        assert said.endswith("everything is saved; resume with: hornbook train --out run")
        step = last_step(run)
        assert weights(run, step)
        assert f"stopped at step {step:,}," in said
        end = Run(run).rows()[-1]
        assert (end["event"], end["reason"], end["step"]) == ("end", "interrupted", step)
    assert command_line(*COMMAND, "--steps", STEPS).code == 0
    assert weights(run) == weights(whole / "run")
    assert history(run) == history(whole / "run")


CHANGES = {
    "train.seed": (0, 1),
    "train.batch": (8, 4),
    "train.microbatch": (3, 8),
    "model.width": (32, 64),
    "model.dropout": (0.1, 0.0),
    "optimizer.name": ("muon", "adamw"),
    "optimizer.beta1": (0.9, 0.8),
    "text.tokenizer": ("bytes", "characters"),
    "train.threads": (1, 2),
    "watch.evaluate_every": (7, 8),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changed_settings_are_refused_with_the_difference(copied, name):
    has, asked = CHANGES[name]
    log = (copied / "metrics.jsonl").read_bytes()
    with pytest.raises(InputError, match=f"run has {name} = {has!r}, not {asked!r}"):
        train(**{name: asked})
    assert (copied / "metrics.jsonl").read_bytes() == log


def test_a_refusal_on_the_command_line(again, whole, command_line):
    shutil.copytree(whole / "run", again / "run")
    finished = command_line(*COMMAND, "--steps", STEPS, "--seed", "1")
    assert finished.code == 2
    assert "train.seed = 0, not 1" in finished.stderr.splitlines()[-1]


def test_another_text_is_refused(copied):
    other = copied.parent / "other.txt"
    other.write_text((copied.parent / "text.txt").read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(InputError, match=r"text.paths = \['text.txt'\], not \['other.txt'\]"):
        hornbook.train("other.txt", out="run", **SETTINGS)
    text = copied.parent / "text.txt"
    text.write_text(text.read_text(encoding="utf-8") + "More.", encoding="utf-8")
    with pytest.raises(InputError, match="the text has changed"):
        train()
    with pytest.raises(InputError, match="has changed"):
        hornbook.evaluate("run")


@pytest.mark.parametrize("length", [{"train.steps": STEPS - 1}, {"train.epochs": 2.0}, {"train.tokens": 500}])
def test_a_shorter_length_is_refused(copied, length):
    with pytest.raises(InputError, match=r"300 steps and can only be made longer, not \d+"):
        hornbook.train(out="run", **length)


def test_a_finished_run_repeats_its_summary_and_changes_nothing(copied, whole):
    first = train()
    assert first["step"] == STEPS
    again, timed = train(), {"wall_seconds", "gpu_hours", "energy_kwh", "peak_memory_bytes", "mfu", "plan_score"}
    assert again["wall_seconds"] > first["wall_seconds"] > first["train_seconds"]  # of all sessions
    assert again["tokens_per_second"] == pytest.approx(again["tokens"] / again["train_seconds"])
    assert again.keys() == first.keys()
    assert all(again[name] == first[name] for name in first.keys() - timed)
    assert weights(copied) == weights(whole / "run")
    assert history(copied) == history(whole / "run")


@pytest.mark.parametrize(("length", "steps"), [({"train.steps": 310}, 310), ({"train.epochs": 15.0}, 317)])
def test_a_finished_run_can_be_extended(copied, length, steps):
    """With the text and settings named again, or with the folder and the length only."""
    summary = hornbook.train(out="run", **length)
    assert summary["step"] == steps
    assert weights(copied, steps) != weights(copied)
    numbers = [row["step"] for row in Run(copied).rows() if row["event"] == "step"]
    assert numbers == list(range(1, steps + 1))
    assert Run(copied).rows()[-1]["reason"] == "length reached"
    score = summary["plan_score"]  # the plan was for another length
    assert score.keys() == {"steps", "memory_bytes"}
    assert (score["steps"]["predicted"], score["steps"]["actual"]) == (STEPS, steps)
    assert train()["step"] == steps  # the command that began it does not cut it short


def test_a_longer_run_is_the_one_that_was_planned_so(copied, whole):
    """It goes on from before its learning rate fell, which the finished run has kept."""
    steady = STEPS - round(0.6 * STEPS)
    assert sorted(folder.name for folder in Run(copied).checkpoints())[:2] == ["step-00000000", f"step-{steady:08d}"]
    hornbook.train(out="run", **{"train.steps": 330})
    resumed = [row for row in Run(copied).rows() if row["event"] == "resume"]
    assert [row["step"] for row in resumed] == [steady]
    hornbook.train("text.txt", out="planned", **SETTINGS, **{"train.steps": 330, "schedule.warmup_steps": 10})
    assert weights(copied, 330) == weights("planned", 330)
    rates = [row["learning_rate"] for row in Run(copied).rows() if row["event"] == "step"]
    assert rates == [row["learning_rate"] for row in Run(Path("planned")).rows() if row["event"] == "step"]
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_a_run_is_not_made_longer_where_the_rate_would_rise_again(copied):
    shutil.rmtree(copied / "checkpoints" / f"step-{STEPS - round(0.6 * STEPS):08d}")
    before = (copied / "settings.toml").read_bytes()
    with pytest.raises(InputError, match="learning rate has decayed since step 120, and no checkpoint from before"):
        hornbook.train(out="run", **{"train.steps": 330})
    assert (copied / "settings.toml").read_bytes() == before
    assert (copied / "checkpoints" / f"step-{STEPS:08d}").is_dir()


def test_a_run_that_is_finished_early_is_not_scored_by_its_plan(again, whole, command_line):
    """--finish is refused while it trains; then only its steps and its memory are compared with the plan."""
    process = command_line.start(*COMMAND, "--steps", "100000")
    while not (again / "run" / "checkpoints" / f"step-{EVERY:08d}" / "manifest.json").exists():
        assert process.poll() is None
        time.sleep(0.05)
    refused = command_line("train", "--out", "run", "--finish")
    assert refused.code == 2
    assert f"run is training: stop it first (Ctrl-C there, or kill -TERM {process.pid} on " in refused.stderr
    process.send_signal(signal.SIGTERM)
    assert command_line.finish(process).code == 128 + signal.SIGTERM
    finished = command_line("train", "--out", "run", "--finish", "--json")
    assert finished.code == 0, finished.stderr
    assert finished.json["plan_score"].keys() == {"steps", "memory_bytes"}
    assert f"planned for 100,000 steps, not {finished.json['step']:,}" in finished.stderr


def test_a_damaged_checkpoint_is_passed_over_and_written_again(copied, whole):
    file = copied / "checkpoints" / f"step-{STEPS:08d}" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[1000] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match=f"the newest whole one is that of --step {STEPS - EVERY}"):
        hornbook.open_model("run")
    hornbook.open_model("run", step=STEPS - EVERY)
    train()
    assert weights(copied) == weights(whole / "run")
    assert history(copied) == history(whole / "run")


def test_a_run_that_was_killed_as_it_began(copied, whole):
    """It has its settings, and neither checkpoints nor a tokenizer."""
    shutil.rmtree(copied / "checkpoints")
    for name in ("tokenizer.json", "metrics.jsonl", "samples.jsonl"):
        (copied / name).unlink()
    train()
    assert weights(copied) == weights(whole / "run")
    assert (copied / "tokenizer.json").read_bytes() == (whole / "run" / "tokenizer.json").read_bytes()


def test_a_folder_that_was_killed_as_it_was_made(copied):
    """Run.create writes settings.toml last: without it nothing was begun, and the same command begins."""
    shutil.rmtree(copied)
    (copied / "checkpoints").mkdir(parents=True)
    (copied / "environment.json").write_text("{}", encoding="utf-8")
    assert train(**{"train.steps": 2})["step"] == 2


def test_looking_does_not_change_the_weights(again, monkeypatch):
    monkeypatch.chdir(again)
    found = {}
    for name, changes in {
        "often": {"watch.evaluate_every": 1, "watch.sample_every": 2, "watch.prompts": ["one", "two"]},
        "seldom": {"watch.evaluate_every": 100, "watch.sample_every": 100, "watch.probe_tokens": 2000},
        "saved": {"checkpoint.every": 3, "watch.temperature": 0.0},
        "seed": {"train.seed": 1},
    }.items():
        hornbook.train("text.txt", out=name, **(SETTINGS | {"train.steps": 25} | changes))
        found[name] = weights(name, 25)
    assert found["often"] == found["seldom"] == found["saved"]
    assert found["seed"] != found["often"]


def test_an_early_stop_stays_a_stop(again, monkeypatch):
    monkeypatch.chdir(again)
    worse = SETTINGS | {
        "train.steps": STEPS, "train.early_stop": 2, "optimizer.name": "adamw", "optimizer.learning_rate": 3.0,
        "checkpoint.best": True, "watch.evaluate_every": 5,
    }  # fmt: skip
    first = hornbook.train("text.txt", out="run", **worse)
    stopped = last_step(again / "run")
    assert stopped < STEPS
    assert first["step"] == stopped
    assert first["used_step"] <= stopped - 10  # the best one is used, two evaluations before
    kept = again / "run" / "checkpoints"
    assert (kept / f"best-{first['used_step']:08d}").is_dir() or (kept / f"step-{first['used_step']:08d}").is_dir()
    second = hornbook.train("text.txt", out="run", **worse)
    assert last_step(again / "run") == stopped
    assert second["used_step"] == first["used_step"]
    evaluations = [row for row in Run(again / "run").rows() if row["event"] == "evaluation"]
    best = min(evaluations, key=lambda row: row["probe_validation_loss_nats_per_token"])
    assert hornbook.open_model("run").step == first["used_step"] == best["step"]
