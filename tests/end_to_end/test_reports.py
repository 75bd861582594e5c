"""`report`, `plot`, `runs`, `history` and `latest` on real runs: ended, going on, interrupted, and an old one."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import hornbook

GOLDEN = Path(__file__).parents[1] / "golden" / "runs"
SMALL = ("--model.layers", "1", "--model.width", "16", "--model.context", "32", "--train.batch", "4", "--threads", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, english, hornbook_in):
    """Two runs, the newer one called b."""
    folder = tmp_path_factory.mktemp("reports")
    (folder / "text.txt").write_text(english[:20_000], encoding="utf-8")
    for name, seed in (("a", "1"), ("b", "2")):
        assert (
            hornbook_in(folder)(
                "train", "text.txt", "--steps", "40", "--seed", seed, *SMALL, "--out", f"runs/{name}"
            ).code
            == 0
        )
        os.utime(folder / "runs" / name / "settings.toml", (int(seed) * 1000, int(seed) * 1000))
    return folder


def page(run):
    return (run / "reports" / "report.html").read_text(encoding="utf-8")


def test_the_end_of_a_run_and_report_write_the_same_page(folder, hornbook_in):
    run = folder / "runs" / "a"
    before = page(run)
    done = hornbook_in(folder)("report", "runs/a", "--json")
    result = done.json
    assert (done.code, result["step"]) == (0, 40)
    assert f'class="verdict {result["tag"]}"' in before
    dates = re.compile(r"\d{4}-\d\d-\d\d")  # that of the first page is the true one, see `folder`
    assert dates.sub("", page(run)) == dates.sub("", before)
    assert 'role="status"' in before
    assert "six steps" in before, "what needs the model is kept"
    assert {"report.html", "evaluation.html", "loss.png", "loss.svg"} <= {
        path.name for path in run.joinpath("reports").iterdir()
    }
    for link in re.findall(r'<a href="([^"#]+)"', before):
        assert (run / "reports" / link).is_file()


def test_a_page_elsewhere_is_alone(folder, hornbook_in):
    (folder / "runs" / "b" / "reports" / "report.html").unlink()
    assert hornbook_in(folder)("report", "runs/b", "--out", "page.html").code == 0
    assert "<a href" not in (folder / "page.html").read_text(encoding="utf-8")
    assert not (folder / "runs" / "b" / "reports" / "report.html").exists()
    assert hornbook_in(folder)("report", "latest").code == 0
    assert page(folder / "runs" / "b")


@pytest.mark.parametrize("name", ["qwen3", "gpt2"])
def test_a_run_of_an_older_version_has_a_page(tmp_path, hornbook_in, name):
    shutil.copytree(GOLDEN / name, tmp_path / "old")
    done = hornbook_in(tmp_path)("report", "old")
    assert done.code == 0, done.stderr
    assert "Loss" in page(tmp_path / "old")


def test_a_run_that_goes_on_has_a_page_and_ctrl_c_writes_one(folder, hornbook_in):
    command = [sys.executable, "-m", "hornbook", "train", "text.txt", "--steps", "100000", *SMALL, "--out", "runs/c"]
    log = folder / "runs" / "c" / "metrics.jsonl"
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as training:
        try:
            while training.poll() is None and not (log.is_file() and log.read_text().count("\n") > 20):
                time.sleep(0.1)
            result = hornbook_in(folder)("report", "runs/c", "--json").json
            assert result["state"] == "running"
            assert result["verdict"].startswith("Going on, at step ")
            (folder / "runs" / "c" / "reports" / "report.html").unlink()
            listed = hornbook_in(folder)("runs", "--json").json["runs"]
            assert [run["state"] for run in listed if run["run"].endswith("c")] == ["running"]
            training.send_signal(signal.SIGINT)
            said = training.communicate(timeout=120)[1]
        finally:
            training.kill()
    assert training.returncode == 130
    assert "everything is saved" in said
    assert re.search(r"Interrupted at step [\d,]+ of 100,000:", page(folder / "runs" / "c"))
    shutil.rmtree(folder / "runs" / "c")


def test_latest_is_the_newest_run_and_a_folder_of_that_name_wins(folder, hornbook_in, tmp_path):
    assert hornbook_in(folder)("evaluate", "latest", "--json").json["model"].startswith("runs/b")
    done = hornbook_in(folder)("train", "--out", "latest", "--json")
    assert done.json["run"] == "runs/b"
    nothing = hornbook_in(tmp_path)("report", "latest")
    assert (nothing.code, nothing.stderr.count("\n")) == (2, 1)
    assert "there is no latest run" in nothing.stderr
    shutil.copytree(folder / "runs" / "a", folder / "latest")
    assert hornbook_in(folder)("report", "latest", "--json").json["run"] == "latest"
    shutil.rmtree(folder / "latest")


def test_runs_have_a_header_and_say_in_what_they_differ(folder, hornbook_in):
    said = hornbook_in(folder)("runs").stdout
    assert said.splitlines()[0].split() == ["run", "date", "size", "tokens", "loss", "bits/byte", "state"]
    assert "runs/a" in said
    assert re.search(r"train\.seed +1: runs/a; 2: runs/b", said)
    assert "model.width" not in said


@pytest.mark.parametrize(("ending", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_runs_are_drawn_over_each_other(folder, hornbook_in, ending, magic):
    done = hornbook_in(folder)("plot", "runs/a", "runs/b", "--x", "epoch", "--out", f"both.{ending}", "--json")
    assert done.json == {"out": f"both.{ending}", "runs": ["runs/a", "runs/b"]}
    drawn = (folder / f"both.{ending}").read_bytes()
    assert drawn.startswith(magic)
    if ending == "svg":
        assert {"a", "b", "epochs"} <= set(re.findall(r">([^<>]+)</text>", drawn.decode()))


@pytest.mark.parametrize(
    ("arguments", "word"),
    [(("--out", "x.gif"), ".svg"), (("--out", "x.png", "--metric", "lss"), "no metric"),
     (("--out", "x.png", "--metric", "membership_auc"), "recorded no"), (("--out", "x.png", "--x", "days"), "seconds")],
)  # fmt: skip
def test_what_cannot_be_drawn_is_said_in_a_sentence(folder, hornbook_in, arguments, word):
    done = hornbook_in(folder)("plot", "runs/a", *arguments)
    assert (done.code, done.stderr.count("\n")) == (2, 1)
    assert word in done.stderr


def test_history_is_a_table_for_each_kind_of_event(folder):
    tables = hornbook.history(folder / "runs" / "a")
    assert {"step", "evaluation", "decision", "sample", "checkpoint"} <= tables.keys()
    for table in tables.values():
        assert len({len(column) for column in table.values()}) <= 1
    assert tables["step"]["step"] == list(range(1, 41))
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(tables["step"])
    assert frame.shape[0] == 40
    assert frame["train_loss_nats_per_token"].dtype == float
    assert pandas.DataFrame(tables["evaluation"])["probe_validation_loss_nats_per_token"].notna().any()
