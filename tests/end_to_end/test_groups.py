"""`train --seeds`, `compare A... --vs B...`, `sweep --grid`: groups of real runs."""

import json
import os
import signal
import time

import pytest

from hornbook.records.run import Run

SMALL = (
    "--tokenizer", "bytes", "--split", "tail:0.1", "--threads", "1", "--model.layers", "1", "--model.width", "32",
    "--model.context", "32", "--train.batch", "4", "--watch.sample_tokens", "4",
)  # fmt: skip


@pytest.fixture(scope="module")
def groups(tmp_path_factory, english, hornbook_in):
    """Two groups of two seeds, `a` and `b`, which learn for unequally long. Tests only read them."""
    folder = tmp_path_factory.mktemp("groups")
    (folder / "text.txt").write_text(english, encoding="utf-8")
    there = hornbook_in(folder)
    for name, steps in (("a", 8), ("b", 60)):
        made = there("train", "text.txt", *SMALL, "--steps", steps, "--seeds", 2, "--seed", 5, "--out", name, "--json")
        assert made.code == 0, made.stderr
        (folder / f"{name}.json").write_text(made.stdout)
    return there


def test_seeds_are_runs_of_one_text(groups):
    result = json.loads((groups.folder / "a.json").read_text())
    assert [run["run"] for run in result["runs"]] == ["a/seed-5", "a/seed-6"]
    bits = [run["bits_per_byte"] for run in result["runs"]]
    assert bits[0] != bits[1]
    assert result["bits_per_byte_of_runs"] == bits
    assert result["bits_per_byte"] == pytest.approx(sum(bits) / 2)
    assert result["bits_per_byte_standard_deviation"] == pytest.approx(abs(bits[0] - bits[1]) / 2**0.5)
    assert len(list((groups.folder / "prepared").iterdir())) == 1
    alone = groups("train", "text.txt", *SMALL, "--steps", 8, "--seed", 6, "--out", "alone", "--json").json
    assert alone["bits_per_byte"] == bits[1]


def test_runs_lists_those_of_groups(groups):
    listed = groups("runs", ".", "--json").json["runs"]
    assert [run["run"] for run in listed if "/" in run["run"]] == ["a/seed-5", "a/seed-6", "b/seed-5", "b/seed-6"]
    assert "a/seed-6" in groups("runs", ".").stdout


def test_the_same_out_goes_on_and_repeats_nothing(groups):
    log = groups.folder / "a" / "seed-5" / "metrics.jsonl"
    before, size = log.stat().st_mtime_ns, log.stat().st_size
    more = groups("train", "text.txt", *SMALL, "--steps", 8, "--seeds", 3, "--seed", 5, "--out", "a", "--json")
    assert more.code == 0, more.stderr
    assert "seed 7 (3 of 3)" in more.stderr
    assert "seed 5" not in more.stderr
    assert (log.stat().st_mtime_ns, log.stat().st_size) == (before, size)
    assert [run["run"] for run in more.json["runs"]] == ["a/seed-5", "a/seed-6", "a/seed-7"]
    other = groups("train", "text.txt", *SMALL, "--steps", 9, "--seeds", 2, "--seed", 5, "--out", "a")
    assert other.code == 2
    assert other.stderr == "hornbook: a was begun with another train.steps: give --out a fresh folder.\n"


def test_an_interrupted_seed_resumes(command_line, text_file):
    arguments = ("train", "text.txt", *SMALL, "--steps", 400, "--seeds", 2, "--out", "group", "--checkpoint.every", 20)
    process = command_line.start(*arguments)
    first = command_line.folder / "group" / "seed-0" / "checkpoints" / "step-00000020" / "manifest.json"
    while not first.is_file():
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    stopped = command_line.finish(process)
    assert stopped.code == 130
    assert "0 of 2 seeds are finished" in stopped.stderr
    done = command_line(*arguments, "--json")
    assert done.code == 0, done.stderr
    assert [run["step"] for run in done.json["runs"]] == [400, 400]


def test_a_budget_is_for_all_seeds(command_line, text_file):
    made = command_line("train", "text.txt", *SMALL, "--budget", "60s", "--seeds", 3, "--out", "group", "--json")
    assert made.code == 0, made.stderr
    runs = [command_line.folder / run["run"] for run in made.json["runs"]]
    assert len({run["step"] for run in made.json["runs"]}) == 1
    assert len({(run / "settings.toml").read_text().replace(f"seed = {n}", "") for n, run in enumerate(runs)}) == 1
    decided = [[row for row in Run(run).rows() if row["event"] == "decision"] for run in runs]
    assert len({str([(row["decision"], row["step"], row["decay_steps"]) for row in rows]) for rows in decided}) == 1
    scored = [json.loads((run / "reports" / "evaluation.json").read_text()) for run in runs]
    assert len({report["num_bytes"] for report in scored}) == 1
    assert len({report["loss_nats_per_token"] for report in scored}) == 3


def test_a_grid_with_a_budget_says_which_is_best(command_line, text_file):
    arguments = ("--grid", "schedule.name=wsd,constant", "--grid", "seed=0,1", "--out", "grid", "--json")
    made = command_line("sweep", "text.txt", *SMALL, "--budget", "90s", *arguments)
    assert made.code == 0, made.stderr
    assert made.json["lead"] is not None, made.json["verdict"]
    for group in made.json["groups"]:
        assert len({run["step"] for run in group["runs"]}) == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--seeds", "1"), "--seeds 1: give 2 or more"),
        (("--seeds", "2", "--finish"), "--finish ends one run early"),
        (("--seeds", "2", "--out", "text.txt"), "text.txt exists and is not a group of runs"),
    ],
)
def test_what_seeds_refuse(command_line, text_file, arguments, sentence):
    refused = command_line("train", "text.txt", *SMALL, "--steps", "8", *arguments)
    assert refused.code == 2
    assert refused.stderr.startswith(f"hornbook: {sentence}")


def test_recipes_are_compared_over_runs_and_documents(groups):
    result = groups("compare", "a/seed-5", "a/seed-6", "--vs", "b", "--out", "runs.svg", "--json").json
    a, b = (json.loads((groups.folder / f"{name}.json").read_text()) for name in "ab")
    assert result["difference_bits_per_byte"] == pytest.approx(b["bits_per_byte"] - a["bits_per_byte"])
    low, high = result["difference_bits_per_byte_interval_95"]
    assert low < result["difference_bits_per_byte"] < high
    assert result["beyond_chance"] is (high < 0)
    assert result["differing_settings"]["train.steps"] == [8, 60]
    assert "train.seed" not in result["differing_settings"]
    assert [result[side]["differing_settings"] for side in "ab"] == [[], []]
    assert b"<svg" in (groups.folder / "runs.svg").read_bytes()
    printed = groups("compare", "a/seed-5", "a/seed-6", "--vs", "b", "--on", "text.txt")
    assert printed.code == 0, printed.stderr
    assert "runs of each would see" in printed.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("a/seed-5", "b/seed-5", "b/seed-6"), "compare takes two models, not 3"),
        (("a/seed-5", "--vs", "b"), "A is one run"),
        (("a/seed-5", "a/seed-5", "--vs", "b"), "a/seed-5 at step 8 and a/seed-5 at step 8 are the same model"),
        (("a", "--vs", "a"), "a/seed-5 at step 8 and a/seed-5 at step 8 are the same model"),
        (
            ("a", "b"),
            "a is a folder of runs: name one of them, or compare recipes by all their runs, as hornbook compare "
            "a --vs b.",
        ),
        (("a", "--vs", "b", "--out", "x.pdf"), "cannot draw x.pdf"),
        (("a", "--vs", "b", "--step-a", "4"), "--step-a and --step-b choose checkpoints of two models"),
    ],
)
def test_what_compare_refuses(groups, arguments, sentence):
    refused = groups("compare", *arguments)
    assert refused.code == 2
    assert refused.stderr.startswith(f"hornbook: {sentence}")


def test_a_grid_says_which_is_best_and_goes_on(command_line, text_file):
    arguments = ("sweep", "text.txt", *SMALL, "--steps", 12, "--grid", "optimizer.name=muon,adamw")
    made = command_line(*arguments, "--grid", "seed=0,1", "--out", "grid", "--json")
    assert made.code == 0, made.stderr
    result = made.json
    assert {group["name"] for group in result["groups"]} == {"optimizer.name=muon", "optimizer.name=adamw"}
    means = {group["name"]: group["bits_per_byte"] for group in result["groups"]}
    assert result["best"] == min(means, key=means.get)
    assert result["lead"]["difference_bits_per_byte"] == pytest.approx(min(means.values()) - max(means.values()))
    assert "The best of 2 is a selection" in result["verdict"]
    page = (command_line.folder / "grid" / "grid.html").read_text()
    assert "<svg" in page
    assert "<script" not in page
    log = command_line.folder / "grid" / "optimizer.name=muon" / "seed-0" / "metrics.jsonl"
    before = log.stat().st_mtime_ns
    again = command_line(*arguments, "--grid", "seed=0,1,2", "--out", "grid")
    assert again.code == 0, again.stderr
    assert "3 runs" in again.stdout
    assert log.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("grid", "sentence"),
    [
        ("optimizer.name", "--grid optimizer.name: write name=value,value"),
        ("optimizer.nam=muon", "--grid optimizer.nam=muon: a grid has no such setting"),
        ("optimizer.name=mu", "--grid optimizer.name=mu: expected"),
        ("train.budget=1m,2m", "--grid train.budget=1m,2m: a grid has no such setting"),
        ("steps=1,2", "train.steps is in the grid and given as well"),
        ("seed=1,1", "the grid has a value of train.seed twice"),
    ],
)
def test_what_a_grid_refuses(command_line, text_file, grid, sentence):
    refused = command_line("sweep", "text.txt", *SMALL, "--steps", "8", "--grid", grid)
    assert refused.code == 2
    assert refused.stderr.startswith(f"hornbook: {sentence}")


def test_a_ladder_refuses_what_it_chooses(command_line, text_file):
    refused = command_line("sweep", "text.txt", "--layers", "2")
    assert refused.code == 2
    assert "model.layers is what the ladder of sizes chooses" in refused.stderr
