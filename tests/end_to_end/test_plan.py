"""`hornbook plan` as a person calls it."""

import json
import math
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

import hornbook
from hornbook.facts.errors import InputError

ROOT = Path(__file__).parents[2]


def called(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "hornbook", *arguments], capture_output=True, text=True, timeout=120, check=False
    )


def test_the_price_of_llama_2_7b_lies_in_the_range():
    done = called("plan", "--parameters", "7B", "--tokens", "2T", "--on", "8xA100", "--price", "30/hour", "--json")
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    low, high = made["gpu_hours_interval_90"]
    assert low < 184_320 < high
    low, high = made["price_usd_interval_90"]
    assert low < 691_200 < high
    assert high / low <= 4


LLAMA = ["--parameters", "7B", "--tokens", "2T", "--on", "8xA100"]


def test_the_hours_of_llama_2_7b_cost_what_they_cost(capsys):
    made = plan_of(capsys, *LLAMA, "--price", "30/hour", "--hours", "184,320")
    assert made["gpu_hours"] == pytest.approx(184_320)
    assert made["price_usd"] == pytest.approx(184_320 / 8 * 30)
    assert made["price_usd"] == pytest.approx(691_200)
    assert 0.40 < made["utilisation"] < 0.50  # 6 N D alone is 41 % of 312 TFLOP/s


def test_options_are_understood_by_the_names_that_train_has(capsys):
    rest = ("--parameters", "124M", "--on", "A100")
    by_setting = plan_of(capsys, *rest, "--train.tokens", "1B", "--model.context", "512")
    assert by_setting["num_tokens"] == 1e9
    assert by_setting == plan_of(capsys, *rest, "--tokens", "1B", "--context", "512")
    assert by_setting["flops"] < plan_of(capsys, *rest, "--tokens", "1B", "--context", "4096")["flops"]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ([*LLAMA, "--hours", "50K"], "impossible"),
        (["--hours", "50K"], "--parameters"),
        (["--tokens", "2T", "--on", "A100"], "--parameters"),
        (["--parameters", "7B", "--on", "A100"], "--tokens"),
        (["--parameters", "7B", "--tokens", "2T"], "--on"),
        (["--parameters", "7B", "--tokens", "2T", "--on", "A10O"], "A10"),
        (["--parameters", "seven", "--tokens", "2T", "--on", "A100"], "seven"),
    ],
)
def test_what_is_missing_or_wrong_is_one_sentence(arguments, word):
    done = called("plan", *arguments)
    assert done.returncode == 2
    assert word in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def plan_of(capsys, *arguments):
    """What `hornbook plan --json` says, in this process."""
    from hornbook.cli.parser import main

    assert main(["plan", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_text_is_planned_as_training_would_choose_it(english, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(english, encoding="utf-8")
    made = plan_of(capsys, "text.txt", "--tokenizer", "bytes", "--model.preset", "0.2M", "--epochs", "3")
    assert made["epochs"] == pytest.approx(3, rel=0.1)
    assert made["wall_seconds_interval_90"][0] < made["wall_seconds"] < made["wall_seconds_interval_90"][1]
    assert made["accelerator"] == "this machine"
    assert any("not prepared" in sentence for sentence in made["assumed"])
    hornbook.prepare("text.txt", tokenizer="bytes")
    exact = plan_of(capsys, "text.txt", "--tokenizer", "bytes", "--model.preset", "0.2M", "--epochs", "3")
    assert exact["num_tokens"] == pytest.approx(made["num_tokens"], rel=0.05)
    assert not any("not prepared" in sentence for sentence in exact["assumed"])


def test_the_memory_of_several_processes_is_planned_as_they_plan_it(english, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(english, encoding="utf-8")
    prepared = str(hornbook.prepare("text.txt", tokenizer="bytes")["prepared"])
    small = ("--steps", "6", "--layers", "2", "--width", "32", "--heads", "2", "--context", "32", "--batch", "16")
    plans = {number: plan_of(capsys, prepared, *small, "--processes", number) for number in ("1", "2")}
    done = called("train", prepared, *small, "--processes", "2", "--out", "run", "--json")
    assert done.returncode == 0, done.stderr
    trained = json.loads(Path("run/plan.json").read_text())["plan"]
    assert (plans["2"]["microbatch"], plans["1"]["microbatch"]) == (trained["microbatch"], 16) == (8, 16)
    assert plans["2"]["memory_bytes"] == trained["memory_bytes"]
    assert plans["2"]["memory_bytes"]["process"] > plans["1"]["memory_bytes"]["process"] + 30 * 2**20


def test_a_short_text_is_estimated_as_prepare_will_count_it(english, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(english[:16_000], encoding="utf-8")
    said = plan_of(capsys, "text.txt", "--epochs", "2")
    hornbook.prepare("text.txt")
    counted = plan_of(capsys, "text.txt", "--epochs", "2")
    assert said["num_tokens"] == pytest.approx(counted["num_tokens"], rel=0.08)
    assert "as in English prose" in said["assumed"][0]


def test_with_a_budget_the_steps_are_open_and_the_time_is_kept(english, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(english * 20, encoding="utf-8")
    made = plan_of(capsys, "text.txt", "--budget", "30s")
    low, high = made["wall_seconds_interval_90"]
    assert 25 < low < 30 < high < 35
    (steps,) = (said for said in made["chosen"] if said.startswith("steps"))
    assert f"{made['steps']:,} ({made['steps'] / 2:,.0f} to {made['steps'] * 2:,.0f}" in steps
    (model,) = (said for said in made["chosen"] if said.startswith("model"))
    assert "GFLOP/s" in model
    assert "--model.preset" in model


def test_a_small_text_is_not_read_for_as_long_as_there_is_time(english, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(english[:5000], encoding="utf-8")
    made = plan_of(capsys, "text.txt", "--budget", "10m")
    assert made["wall_seconds_interval_90"][1] < 200
    assert 5.5 < made["epochs"] < 7
    (steps,) = (said for said in made["chosen"] if said.startswith("steps"))
    assert "epochs: more would raise the validation loss" in steps


def test_a_plan_of_a_text_needs_no_torch_and_no_matplotlib(tmp_path, english):
    (tmp_path / "text.txt").write_text(english, encoding="utf-8")
    code = (
        "import sys; from hornbook.cli import main; code = main(['plan', 'text.txt', '--budget', '5m']); "
        "sys.exit(code or bool({'torch', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "steps" in done.stdout


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.toml")), ids=lambda path: path.stem)
def test_every_recipe_can_be_planned(recipe, tmp_path, english, capsys):
    text = tmp_path / "text.txt"
    text.write_text(english, encoding="utf-8")
    made = plan_of(capsys, recipe, text, "--on", "H100")
    assert made["parameters"] > 10_000
    assert made["steps"] >= 1
    assert made["memory_bytes"]["total"] > made["memory_bytes"]["weights"] > 0


def test_what_is_wrong_with_a_plan_is_said(tmp_path, english, capsys):
    text = tmp_path / "text.txt"
    text.write_text(english, encoding="utf-8")
    flags = ("--tokenizer", "bytes", "--model.preset", "1M", "--steps", "20", "--schedule.warmup_steps", "20")
    made = plan_of(capsys, text, *flags, "--optimizer.name", "adamw", "--optimizer.learning_rate", "1")
    assert any("the whole run is warm-up" in sentence for sentence in made["warnings"])
    assert any("times above the usual one" in sentence for sentence in made["warnings"])


def test_this_machine_can_be_measured(tmp_path, english, capsys):
    text = tmp_path / "text.txt"
    text.write_text(english, encoding="utf-8")
    made = plan_of(capsys, text, "--tokenizer", "bytes", "--model.preset", "0.2M", "--steps", "30", "--measure")
    low, high = made["wall_seconds_interval_90"]
    assert high / low == pytest.approx(1.15**2)
    assert "timed here" in made["reasons"]["wall_seconds"]


def test_the_frontier_can_be_drawn_where_a_law_speaks(tmp_path, capsys):
    from hornbook.cli.parser import main

    large = ["plan", "--parameters", "7B", "--tokens", "2T", "--on", "8xA100", "--price", "30/hour", "--plot"]
    assert main([*large, str(tmp_path / "cost.png")]) == 0
    assert (tmp_path / "cost.png").read_bytes().startswith(b"\x89PNG")
    small = ["plan", "--parameters", "1M", "--tokens", "1M", "--on", "A100", "--plot", str(tmp_path / "none.png")]
    assert main(small) == 2
    assert "nothing to plot" in capsys.readouterr().err


# ---- While training


def trained(tmp_path, text, **changes):
    """(summary, rows of the log) of a short run."""
    out = tmp_path / "run"
    small = {
        "text.tokenizer": "bytes", "model.layers": 2, "model.width": 32, "model.heads": 2, "model.context": 32,
        "train.batch": 16, "train.steps": 120, "train.threads": 1,
    }  # fmt: skip
    summary = hornbook.train(str(text), out=out, **(small | changes))
    return summary, [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def healthy(tmp_path_factory, english):
    folder = tmp_path_factory.mktemp("healthy")
    (folder / "text.txt").write_text(english, encoding="utf-8")
    return folder, *trained(folder, folder / "text.txt", **{"watch.price": "30/hour", "watch.evaluate_every": 10})


def test_a_run_keeps_its_plan_and_its_score(healthy, hornbook_in):
    folder, summary, rows = healthy
    plan = json.loads((folder / "run" / "plan.json").read_text())["plan"]
    assert plan["steps"] == 120
    for name in ("wall_seconds", "memory_bytes", "price_usd"):
        assert summary["plan_score"][name]["predicted"] > 0, name
        assert summary["plan_score"][name]["factor"] >= 1, name
    assert summary["price_usd"] == pytest.approx(30 * summary["gpu_hours"])
    assert summary["peak_memory_bytes"] > 10**8
    (end,) = (row for row in rows if row["event"] == "end")
    assert end["plan_score"] == summary["plan_score"]
    listed = hornbook_in(folder)("runs", ".", "--json").json["runs"][0]
    assert listed["plan_score"] == summary["plan_score"]
    for key in ("validation_loss_nats_per_token", "probe_validation_loss_nats_per_token", "bits_per_byte"):
        assert listed[key] == summary[key]
    plain = hornbook_in(folder)("runs", ".").stdout.splitlines()
    assert len(plain) == 2
    assert f"{summary['bits_per_byte']:.4f}" in plain[1]
    assert f"{summary['validation_loss_nats_per_token']:.4f}" in plain[1]
    assert max(map(len, plain)) <= 80


def test_each_step_has_its_share_of_the_peak_and_each_evaluation_its_cost(healthy):
    _, _, rows = healthy
    assert all(0 < row["mfu"] < 1.5 for row in rows if row["event"] == "step")
    evaluations = [row for row in rows if row["event"] == "evaluation"]
    spent = [row["cost"]["price_usd"] for row in evaluations]
    assert spent == sorted(spent)
    assert spent[0] > 0
    low, high = evaluations[-1]["forecast_loss_nats_per_token_interval_90"]
    assert low < evaluations[-1]["probe_validation_loss_nats_per_token"] < high


def test_a_healthy_run_is_left_in_peace(healthy):
    _, _, rows = healthy
    assert [row for row in rows if row["event"] == "warning"] == []


def test_a_rate_thirty_times_too_high_is_named(tmp_path, english):
    (tmp_path / "text.txt").write_text(english, encoding="utf-8")
    high = {"optimizer.name": "adamw", "optimizer.learning_rate": 0.09, "train.steps": 20}
    _, rows = trained(tmp_path, tmp_path / "text.txt", **high)
    assert "learning rate" in {row["fault"] for row in rows if row["event"] == "warning"}


def test_text_whose_order_means_nothing_is_named(tmp_path, english):
    shuffled = list(english)
    random.Random(0).shuffle(shuffled)
    (tmp_path / "text.txt").write_text("".join(shuffled), encoding="utf-8")
    _, rows = trained(tmp_path, tmp_path / "text.txt", **{"train.steps": 240})
    assert "only token frequencies" in {row["fault"] for row in rows if row["event"] == "warning"}


def test_bits_and_nats_of_one_prediction_agree_on_the_validation_text():
    from hornbook.facts.hardware import custom
    from hornbook.facts.settings import from_table
    from hornbook.facts.shape import preset
    from hornbook.planning.plan_run import plan_of
    from hornbook.planning.workload import CorpusStats, Range, TextEstimate

    reading = TextEstimate(CorpusStats(100_000, 300_000, 300, 10_000), 20_000, 1000.0, [])
    table = {"train": {"steps": 10, "batch": 4}, "schedule": {"warmup_steps": 2}, "optimizer": {"learning_rate": 0.001}}
    nats = Range(2.0, 2.5, 3.0, "given")
    on = (1, custom("this machine", 1e11))
    plan = plan_of(from_table(table, source="a test"), preset("0.2M"), reading, on, pace=None, expected=nats)
    bits = plan.bits_per_byte.central
    assert bits == pytest.approx(2.5 / math.log(2) / 2)  # two bytes a token there, three in training


def test_a_bad_price_is_said_before_anything_is_read(command_line):
    finished = command_line("train", "text.txt", "--watch.price", "cheap")
    assert finished.code == 2
    assert "30/hour" in finished.stderr


def test_counters_of_energy_are_read_and_may_wrap(tmp_path):
    import torch

    from hornbook.engine.device import Telemetry
    from hornbook.facts.accelerators import lookup

    socket = tmp_path / "intel-rapl:0"
    socket.mkdir()
    (socket / "max_energy_range_uj").write_text("1000000000\n")
    (socket / "energy_uj").write_text("900000000\n")
    meter = Telemetry(time.monotonic(), torch.device("cpu"), lookup("EPYC-7763")[1], 3.0, powercap=tmp_path)
    (socket / "energy_uj").write_text("100000000\n")
    read = meter.reading()
    assert read["energy_kwh"] == pytest.approx(200 / 3.6e6)  # 100 J to the end of the counter and 100 from its start
    assert read["price_usd"] == pytest.approx(3 * read["gpu_hours"])
    more = Telemetry(time.monotonic(), meter.on, meter.device, 3.0, read, powercap=tmp_path).reading()
    assert more["gpu_hours"] > read["gpu_hours"]
    assert more["energy_kwh"] == pytest.approx(read["energy_kwh"])
    none = Telemetry(
        time.monotonic(), torch.device("cpu"), lookup("EPYC-7763")[1], powercap=tmp_path / "none"
    ).reading()
    assert none.keys() == {"gpu_hours"}


@pytest.mark.slow
def test_a_sweep_tells_a_law(tmp_path, english, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(english, encoding="utf-8")
    found = hornbook.sweep("text.txt", budget="5m", **{"text.tokenizer": "bytes"})
    assert len({run["run"] for run in found["runs"]}) == len({tuple(run.items()) for run in found["runs"]}) == 7
    assert len({run["tokens"] for run in found["runs"]}) == 3
    low, high = found["loss_nats_per_token_interval_90"]
    assert 0 < low < found["loss_nats_per_token"] < high <= math.log(257)
    assert "steps" in found["warnings"][0]


def test_a_sweep_with_too_little_time_says_how_much_it_needs(tmp_path, english, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(english, encoding="utf-8")
    with pytest.raises(InputError, match=r"needs about \d+0 seconds on this machine: 5s is too short"):
        hornbook.sweep("text.txt", budget="5s", **{"text.tokenizer": "bytes"})


def test_a_sweep_says_where_its_law_is_in_doubt():
    from hornbook.commands.sweep import _doubts

    (few,) = _doubts(61 * 2048, 61 * 2048, 10**9)
    assert "61 steps" in few
    assert "longer budget" in few
    assert "more text" in _doubts(61 * 2048, 61 * 2048, 61 * 512)[0]
    assert len(_doubts(61 * 2048, 600_000, 10**9)) == 2
    (far,) = _doubts(400 * 2048, 1200 * 2048, 10**9)
    assert "3.0 times" in far
    (read,) = _doubts(400 * 2048, 500 * 2048, 40 * 2048)
    assert "10 epochs" in read
    assert _doubts(400 * 2048, 500 * 2048, 10**9) == []
