"""A budget under real load, a run that is finished early, and time in which a process stood still."""

import shutil
import signal
import subprocess
import sys
import time

import pytest

from hornbook.records.run import Run
from hornbook.setup.replay import replay
from hornbook.training.decisions import decisions_of

SETTINGS = {
    "text.tokenizer": "bytes", "train.threads": 1, "train.precision": "float32",
    "model.layers": 2, "model.width": 64, "model.context": 64, "train.batch": 16, "watch.sample_tokens": 4,
}  # fmt: skip
COMMAND = ["train", "text.txt", *(f"--{name}={value}" for name, value in SETTINGS.items()), "--out", "run"]


def newest_step(run):
    if not (run / "metrics.jsonl").is_file():
        return 0
    return max((row["step"] for row in Run(run).rows() if row["event"] == "step"), default=0)


def wait_until(condition, process):
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


def weights(run, step):
    folder = Run(run).checkpoint_folder(step)
    return (folder / "model.safetensors").read_bytes(), (folder / "optimizer.safetensors").read_bytes()


def test_a_budget_is_settled_under_load_and_its_decisions_survive_kills(text_file, tmp_path, hornbook_in):
    command, run = hornbook_in(tmp_path), tmp_path / "run"
    shutil.copy(text_file, tmp_path / "more.txt")
    text_file.write_text(text_file.read_text() * 20)  # more than the time is enough for
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        for seconds in (25, 50, 100, 200):  # on a machine that is busy anyway the start alone takes long
            shutil.rmtree(run, ignore_errors=True)
            finished = command(*COMMAND, "--split", "tail:0.01", "--budget", f"{seconds}s", "--json")
            made = decisions_of(Run(run).rows()) if finished.code == 0 else []
            if len(made) == 2 and made[0].step > 4 and made[0].decay_steps > 8:
                break
    finally:
        for other in busy:
            other.kill()
            other.wait()
    assert finished.code == 0, finished.stderr
    assert [decision.decision for decision in made] == ["length", "length"]
    first, second = made
    assert first.step < second.step < second.step + second.decay_steps == finished.json["step"]
    assert second.step <= first.step + first.decay_steps / 2 + 1
    rates = {row["step"]: row["learning_rate"] for row in Run(run).rows() if row["event"] == "step"}
    assert rates[finished.json["step"]] < rates[second.step] < rates[first.step]

    again = tmp_path / "again"
    replay(Run(run), again, steps=finished.json["step"], changes={"checkpoint.every": max(1, first.step // 2)})
    for target in (first.step - 1, first.step + 1, second.step - 1, second.step + 1):
        process = command.start("train", "--out", "again")
        wait_until(lambda target=target: newest_step(again) >= target, process)
        process.kill()
        assert command.finish(process).code == -signal.SIGKILL
    finished_again = command("train", "--out", "again", "--json")
    assert finished_again.code == 0, finished_again.stderr
    assert finished_again.json["step"] == finished.json["step"]
    assert decisions_of(Run(again).rows()) == made
    assert weights(again, finished.json["step"]) == weights(run, finished.json["step"])


def test_a_schedule_without_a_plateau_cannot_be_shortened_and_says_so(tmp_path, english, hornbook_in):
    (tmp_path / "text.txt").write_text(english[:3000], encoding="utf-8")
    finished = hornbook_in(tmp_path)(*COMMAND, "--budget", "10m", "--schedule.name", "cosine")
    assert finished.code == 0, finished.stderr
    assert "a cosine schedule has no plateau, so the run cannot be shortened" in " ".join(finished.stderr.split())
    assert decisions_of(Run(tmp_path / "run").rows()) == []


def test_finishing_early_decays_scores_and_reports(text_file, tmp_path, hornbook_in):
    command, run = hornbook_in(tmp_path), tmp_path / "run"
    fresh = command("train", "text.txt", "--steps", 9, "--finish", "--out", "run")
    assert (fresh.code, fresh.stderr) == (
        2, "hornbook: --finish ends a run early: give --out the folder of that run.\n"
    )  # fmt: skip
    arguments = [*COMMAND, "--steps", 300, "--checkpoint.every", 10]
    process = command.start(*arguments)
    wait_until(lambda: newest_step(run) >= 40, process)
    process.send_signal(signal.SIGINT)
    assert command.finish(process).code == 130
    stopped = Run(run).rows()[-1]["step"]
    shutil.copytree(run, tmp_path / "killed")
    finished = command("train", "--out", "run", "--finish", "--json")
    assert finished.code == 0, finished.stderr
    (decision,) = decisions_of(Run(run).rows())
    assert (decision.decision, decision.step, decision.decay_steps) == ("finish", stopped, round(stopped / 4))
    assert finished.json["step"] == stopped + decision.decay_steps
    assert finished.json["bits_per_byte"] > 0
    assert Run(run).rows()[-1]["reason"] == "finished early"
    last = [row["learning_rate"] for row in Run(run).rows() if row["event"] == "step"][-1]
    assert last < 0.2 * max(row["learning_rate"] for row in Run(run).rows() if row["event"] == "step")
    # Killed while it is finished, it is finished by whoever resumes it, and not twice.
    process = command.start("train", "--out", "killed", "--finish")
    wait_until(lambda: newest_step(tmp_path / "killed") > stopped, process)
    process.kill()
    command.finish(process)
    for more in ([], ["--finish"]):
        again = command("train", "--out", "killed", "--json", *more)
        assert again.code == 0, again.stderr
        assert again.json["step"] == finished.json["step"]
    assert weights(tmp_path / "killed", again.json["step"]) == weights(run, finished.json["step"])
    # Made longer, it is as if it had never been finished.
    longer = command(*arguments[:-4], "--steps", 320, "--checkpoint.every", 10, "--json")
    assert longer.code == 0, longer.stderr
    assert longer.json["step"] == 320
    assert [made.decision for made in decisions_of(Run(run).rows())] == ["lengthen"]


def test_time_in_which_the_process_stood_still_is_no_training_time(text_file, tmp_path, hornbook_in):
    """Stopped between two steps nobody can see it: then it is stopped again."""
    command, run = hornbook_in(tmp_path), tmp_path / "run"
    every = [f"--{name}={1000}" for name in ("watch.evaluate_every", "watch.sample_every", "checkpoint.every")]
    small = ["--model.layers=1", "--model.width=32", "--train.batch=2"]
    process = command.start(*COMMAND, "--steps", 100_000, *every, *small)
    wait_until(lambda: newest_step(run) >= 40, process)

    def told():
        return [row for row in Run(run).rows() if row.get("fault") == "stood still"]

    for _ in range(10):
        process.send_signal(signal.SIGSTOP)
        time.sleep(5)
        process.send_signal(signal.SIGCONT)
        step = newest_step(run)
        wait_until(lambda step=step: newest_step(run) > step + 5, process)
        if told():
            break
    process.kill()
    command.finish(process)
    (warning,) = told()
    assert "which is not counted as training time" in warning["sentence"]
    seconds = {row["step"]: row["seconds"] for row in Run(run).rows() if row["event"] == "step"}
    assert seconds[warning["step"]] - seconds[warning["step"] - 1] < 1  # of the 5 in which it was stopped


@pytest.mark.parametrize("name", ["budget", "steps"])
def test_a_length_on_the_command_line_replaces_that_of_a_recipe(name):
    from hornbook.facts.settings import overridden

    given = {"budget": "5m", "steps": 30}[name]
    recipe = {"train": {"epochs": 3.0, "budget": "10m", "batch": 4}}
    assert overridden(recipe, {name: given}) == {"train": {"batch": 4, name: given}}
