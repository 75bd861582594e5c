"""The answers of a dashboard, held against what the other commands say of the same runs, and a run in progress."""

import json
import math
import shutil
import signal
import subprocess
import sys
import time
from urllib.parse import quote

import pytest

from hornbook.facts.metrics import METRICS
from hornbook.web.folder import RunsFolder
from hornbook.web.live import Overviews
from hornbook.web.one_run import one_run, series


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_run, hornbook_in):
    """Two runs that differ in their seed, one that was interrupted, and one without an end."""
    folder = tmp_path_factory.mktemp("looked") / "runs"
    shutil.copytree(tiny_run.run, folder / "one")
    settings = hornbook_in(tiny_run.folder)(
        "train", "--recipe", "run/settings.toml", "--seed", "3", "--out", folder / "two"
    )
    assert settings.code == 0, settings.stderr
    for name, last in (("killed", None), ("interrupted", "interrupted")):
        shutil.copytree(tiny_run.run, folder / name)
        rows = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
        rows = [row for row in rows if row["event"] != "end" or last][: None if last else -3]
        if last:
            rows[-1]["reason"] = last
        (folder / name / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def dashboard(folder, show):
    with show(folder) as started:
        yield started


def test_the_list_says_what_runs_says(dashboard, folder, hornbook_in):
    rows = {row["id"]: row for row in dashboard.json("/api/runs")["runs"]}
    listed = hornbook_in(folder.parent)("runs", "runs", "--json").json["runs"]
    assert len(rows) == len(listed) == 4
    for run in listed:
        row = rows[run["run"].rpartition("/")[2]]
        for name in ("step", "tokens", "epoch", "probe_validation_loss_nats_per_token"):
            assert row[name] == run[name]
        if "validation_loss_nats_per_token" in run:
            assert (row["loss_nats_per_token"], row["loss_about"]) == (
                run["validation_loss_nats_per_token"],
                "validation",
            )
    assert {name: row["state"] for name, row in rows.items()} == {
        "one": "finished", "two": "finished", "killed": "unfinished", "interrupted": "interrupted"
    }  # fmt: skip
    assert rows["killed"]["loss_about"] == "probe"
    assert not any(row["is_running"] for row in rows.values())


def test_settings_that_differ_are_named(dashboard):
    assert dashboard.json("/api/runs")["differing"] == ["train.seed"]
    compared = dashboard.json("/api/compare?runs=one,two,killed")
    assert compared["settings"]["train.seed"] == [0, 3, 0]
    (group,) = compared["groups"]
    assert group["runs"] == ["one", "two", "killed"]


def test_a_pair_has_the_difference_that_compare_gives(dashboard, folder, hornbook_in, tiny_run):
    pair = dashboard.json("/api/compare?runs=one,two")["pairs"][0]
    own = {name: json.loads((folder / name / "reports" / "evaluation.json").read_text()) for name in ("one", "two")}
    assert pair["difference_bits_per_byte"] == pytest.approx(own["two"]["bits_per_byte"] - own["one"]["bits_per_byte"])
    assert pair["interval_about"]
    assert dashboard.json("/api/compare?runs=one,killed")["pairs"][0]["problem"]


def test_one_run_has_its_numbers_and_sentences(dashboard, tiny_run):
    run = dashboard.json("/api/runs/one")
    numbers = {row["name"]: row for row in run["numbers"]}
    assert numbers["bits_per_byte"]["value"] == tiny_run.summary["bits_per_byte"]
    assert numbers.keys() <= METRICS.keys()
    sentences = [conclusion["sentence"] for conclusion in run["conclusions"]]
    assert sentences[0] in tiny_run.summary["words"]
    assert run["verdict"]["tag"] in ("good", "warning", "bad")
    assert [row["step"] for row in run["checkpoints"] if row["is_used"]] == [tiny_run.summary["used_step"]]
    assert run["uniform_loss_nats_per_token"] == math.log(tiny_run.summary["vocabulary"])
    assert "report.html" in [report["name"] for report in run["reports"]]


@pytest.mark.parametrize("axis", ["step", "tokens", "epoch", "seconds", "flops"])
def test_columns_are_those_of_the_log(dashboard, folder, axis):
    rows = [json.loads(line) for line in (folder / "one" / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if row["event"] == "step"]
    whole = dashboard.json(f"/api/runs/one/series?x={axis}")
    assert whole["x"] == [row[axis] for row in steps]
    assert whole["columns"]["gradient_norm"] == [row["gradient_norm"] for row in steps]
    few = dashboard.json(f"/api/runs/one/series?x={axis}&points=5")
    least, greatest = few["columns"]["gradient_norm"]
    assert few["is_reduced"]
    assert len(few["x"]) <= 5
    assert min(least) == min(row["gradient_norm"] for row in steps)
    assert max(greatest) == max(row["gradient_norm"] for row in steps)
    middle = steps[8][axis], steps[15][axis]
    part = dashboard.json(f"/api/runs/one/series?x={axis}&from={middle[0]}&to={middle[1]}")
    assert part["x"] == [row[axis] for row in steps[8:16]]
    looks = [row for row in rows if row["event"] == "evaluation"]
    losses = [row.get("probe_validation_loss_nats_per_token") for row in looks]
    assert whole["evaluations"]["columns"]["probe_validation_loss_nats_per_token"] == losses


def test_a_plan_is_that_of_the_command(dashboard, command_line):
    asked = dashboard.json("/api/plan?parameters=7B&tokens=2T&on=8xA100&price=30/hour")
    made = command_line(
        "plan", "--parameters", "7B", "--tokens", "2T", "--on", "8xA100", "--price", "30/hour", "--json"
    ).json
    assert asked["plan"] == made
    assert asked["sizes"][12]["parameters"] == pytest.approx(7e9)
    status, _, body = dashboard.get("/api/plan?parameters=7B&tokens=2T&on=8xB900")
    assert status == 400
    assert "B900" in json.loads(body)["error"]


def test_a_model_answers(dashboard, hornbook_in, folder):
    inspected = dashboard.json("/api/inspect?run=one&text=The%20text")
    own = hornbook_in(folder)("inspect", "one", "The text", "--json").json
    assert [token["nats"] for token in inspected["tokens"]] == [token["nats"] for token in own["tokens"]]
    row = dashboard.json("/api/softmax?run=one&text=The%20text&token=3")
    assert row
    with dashboard.events("/api/generate?run=one&prompt=The&max_tokens=4&seed=1") as events:
        names = []
        for name, _ in events:
            names.append(name)
            if name != "text":
                break
    assert names[-1] == "end"
    status, _, body = dashboard.get("/api/inspect?run=one&text=a&step=5")
    assert (status, "step 5" in json.loads(body)["error"]) == (400, True)


def test_what_a_sample_copies_is_marked(tmp_path, tiny_run, show, english, hornbook_in):
    (tmp_path / "text.txt").write_text(english, encoding="utf-8")
    recipe = tiny_run.run / "settings.toml"
    assert hornbook_in(tmp_path)("train", "--recipe", recipe, "--steps", "2", "--out", "run").code == 0
    text = f"@@@@{english[1000:1200]}@@@@"
    with open(tmp_path / "run" / "samples.jsonl", "a") as log:
        log.write(json.dumps({"step": 24, "tokens": 1, "prompt": "mine", "text": text}) + "\n")
    with show(tmp_path / "run") as dashboard, dashboard.events("/api/runs/run/events") as events:
        assert next(events)[0] == "rows"  # it listens
        (sample,) = dashboard.json("/api/runs/run/samples")["prompts"][-1]["samples"]
        assert sample["copied_spans"] is None
        while next(events)[0] != "samples":
            pass
        (sample,) = dashboard.json("/api/runs/run/samples")["prompts"][-1]["samples"]
    ((begin, end),) = sample["copied_spans"]
    assert max(abs(begin - 4), abs(end - 204)) <= 3


def test_it_is_said_why_copies_are_not_marked(tmp_path, folder, show):
    """Paths of texts in its settings are those seen from where it was trained."""
    shutil.copytree(folder / "one", tmp_path / "runs" / "one")
    with show(tmp_path / "runs") as dashboard, dashboard.events("/api/runs/one/events") as events:
        assert next(events)[0] == "rows"
        samples = dashboard.json("/api/runs/one/samples")["prompts"][0]["samples"]
        assert {(sample["copied_spans"], sample["copied_problem"]) for sample in samples} == {(None, None)}
        while next(events)[0] != "samples":
            pass
        for sample in dashboard.json("/api/runs/one/samples")["prompts"][0]["samples"]:
            assert sample["copied_spans"] is None
            assert "Start hornbook dashboard in the folder" in sample["copied_problem"]


def test_a_run_in_progress_appears_moves_and_ends(folder, show, hornbook_in, tiny_run):
    """And does not notice that what looks at it is killed."""
    with show(folder) as dashboard, dashboard.events("/api/events") as listed:
        training = hornbook_in(tiny_run.folder).start(
            "train", "--recipe", "run/settings.toml", "--steps", "200", "--out", folder / "moving"
        )
        name, content = next(listed)
        while "moving" not in [row["id"] for row in content["runs"]]:
            name, content = next(listed)
        assert name == "runs"
        with dashboard.events("/api/runs/moving/events?offset=0") as events:
            seen, states, ended = [], [], False
            for name, content in events:
                if name == "rows":
                    seen += [row for row in content["rows"] if row["event"] == "step"]
                    ended = ended or any(row["event"] == "end" for row in content["rows"])
                if name == "state":
                    states.append(content["state"])
                if ended and states and states[-1] == "finished":
                    break
        assert [row["step"] for row in seen] == list(range(1, 201))
        assert "running" in states
        assert training.wait(120) == 0
    training = hornbook_in(tiny_run.folder).start(
        "train", "--recipe", "run/settings.toml", "--steps", "200", "--out", folder / "again"
    )
    process = hornbook_in(folder.parent).start("dashboard", "runs", "--port", "0", "--json")
    process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert training.wait(120) == 0
    same = [
        (folder / name / "checkpoints" / "step-00000200" / "model.safetensors").read_bytes()
        for name in ("moving", "again")
    ]
    assert same[0] == same[1]


@pytest.fixture
def stopped_on_its_way(tmp_path, tiny_run, hornbook_in):
    """A run that stands still after its first forecasts: its process lives."""
    log = tmp_path / "runs" / "on" / "metrics.jsonl"
    training = hornbook_in(tiny_run.folder).start(
        "train", "--recipe", "run/settings.toml", "--steps", "400", "--out", log.parent
    )
    while not (log.exists() and b'"forecast_loss_nats_per_token_interval_90":[' in log.read_bytes()):
        assert training.poll() is None, training.stderr.read()
        time.sleep(0.02)
    training.send_signal(signal.SIGSTOP)
    yield log.parent
    training.kill()
    training.communicate()


def test_the_forecast_is_that_of_the_log(stopped_on_its_way, show):
    """The cone ends at the last step that is planned; the band has what was expected at each evaluation."""
    lines = (stopped_on_its_way / "metrics.jsonl").read_bytes().split(b"\n")[:-1]
    looks = [row for row in map(json.loads, lines) if row["event"] == "evaluation"]
    name, newest = "forecast_loss_nats_per_token", looks[-1]
    with show(stopped_on_its_way.parent) as dashboard:
        run = dashboard.json("/api/runs/on")
        columns = dashboard.json("/api/runs/on/series")["evaluations"]["columns"]
    assert run["is_running"]
    assert run["forecast"] == {
        "at_step": 400, "at_tokens": 400 * newest["tokens"] / newest["step"], "as_of_step": newest["step"],
        "loss_nats_per_token": newest[name], "loss_nats_per_token_interval_90": newest[f"{name}_interval_90"],
    }  # fmt: skip
    for end, key in enumerate((f"{name}_low", f"{name}_high")):
        assert columns[key] == [(look.get(f"{name}_interval_90") or [None, None])[end] for look in looks]
    between = zip(columns[f"{name}_low"], columns[name], columns[f"{name}_high"], strict=True)
    assert all(low is None or low < middle < high for low, middle, high in between)


def test_one_run_can_be_named(folder, show):
    with show(folder / "one") as dashboard:
        assert [row["id"] for row in dashboard.json("/api/runs")["runs"]] == ["one"]
        assert dashboard.json("/api/runs/one")["step"] == 24


def test_the_runs_of_a_group_and_of_a_grid_are_there(tmp_path, folder, show):
    places = {"one": "", "seeds/seed-0": "seeds", "grid/lr=1/seed-0": "grid/lr=1", "other/deep/x": ""}
    for place, group in places.items():
        shutil.copytree(folder / "one", tmp_path / "runs" / place)
        if group:
            (tmp_path / "runs" / group / "group.json").write_text("{}")
    (tmp_path / "runs" / "seeds" / "link").symlink_to(tmp_path / "runs" / "one")
    with show(tmp_path / "runs") as dashboard:
        rows = {row["id"]: row["title"] for row in dashboard.json("/api/runs")["runs"]}
        titles = {"one": "one", "seeds:seed-0": "seeds/seed-0", "grid:lr=1:seed-0": "grid/lr=1/seed-0"}
        assert rows == titles
        for id in titles:
            assert dashboard.json(f"/api/runs/{quote(id)}")["step"] == 24
            assert dashboard.json(f"/api/runs/{quote(id)}/series?x=step")["share_read"] == 1


def test_runs_that_are_not_read_yet_are_left_out_and_counted(tmp_path, folder):
    for name in ("one", "two"):
        shutil.copytree(folder / name, tmp_path / name)
        with open(tmp_path / name / "metrics.jsonl", "a") as log:
            step = next(line for line in (folder / name / "metrics.jsonl").open() if '"event":"step"' in line)
            log.writelines(step.replace('"step":1,', f'"step":{number},') for number in range(25, 3025))
    runs, counts = Overviews(RunsFolder(tmp_path)), []
    while not counts or counts[-1]:
        rows = runs.rows(until=0)
        counts.append(runs.num_unread)
        assert len(rows) + counts[-1] == 2
    assert counts[0] == 2
    assert rows == Overviews(RunsFolder(tmp_path)).rows()
    run, shares = RunsFolder(tmp_path).runs()["one"], [0.0]
    while shares[-1] < 1:
        shares.append(series(run, "step", None, None, 4000, until=0)["share_read"])
        assert one_run(run, until=0)["num_parameters"]
    assert shares == sorted(shares)
    assert one_run(run) == one_run(RunsFolder(tmp_path).runs()["one"])


def test_the_server_never_loads_torch_or_matplotlib(folder):
    code = """
import asyncio, sys
from pathlib import Path
from hornbook.web import api, dashboard, live, one_run, questions, safety, server
from hornbook.web.folder import RunsFolder
runs = RunsFolder(Path(sys.argv[1]))
known = live.Overviews(runs)
assert len(known.rows()) >= 4
one_run.one_run(runs.runs()["one"])
one_run.series(runs.runs()["one"], "step", None, None, 10)
pair, = questions.compared([runs.runs()["one"], runs.runs()["two"]], known)["pairs"]
assert pair["problem"] is None
questions.planned({"parameters": "7B", "tokens": "2T", "on": "8xA100"})
assert not {"torch", "matplotlib"} & sys.modules.keys()
"""
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
