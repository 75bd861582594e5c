"""Nothing that happens after training costs the report, and a run that diverged says so, and what of it is sound."""

import json
import os
import re
import shutil

import pytest

import hornbook
from hornbook.facts.errors import InputError, SystemFailure
from hornbook.records.run import Run

SETTINGS = {
    "text.tokenizer": "bytes", "text.split": "tail:0.1", "train.threads": 1, "model.layers": 1, "model.width": 32,
    "model.context": 32, "train.batch": 4, "watch.sample_tokens": 8,
}  # fmt: skip


def train(text="text.txt", out="run", **changes):
    return hornbook.train(text, out=out, **(SETTINGS | {"train.steps": 12} | changes))


@pytest.fixture
def here(tmp_path, english, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(english, encoding="utf-8")
    return tmp_path


@pytest.fixture
def finished(tiny_run, tmp_path, monkeypatch):
    """A copy of a finished run beside its text."""
    shutil.copytree(tiny_run.folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"


def test_a_blank_end_of_the_text_leaves_out_the_example_only(here, english):
    (here / "text.txt").write_text(english[:27_000] + " \n" * 1500, encoding="utf-8")
    summary = train()
    page = (here / summary["report"]).read_text(encoding="utf-8")
    assert summary["bits_per_byte"] > 0
    assert "<svg" in page
    assert json.loads((here / "run" / "reports" / "evaluation.json").read_bytes())["num_tokens"] == 3000


def test_a_folder_whose_name_is_not_utf_8_gets_its_report(here):
    name = os.fsdecode(b"na\xefve")
    summary = train(out=name)
    assert summary["run"] == summary["title"] == "na\\xefve"
    assert "na\\xefve" in (here / name / "reports" / "report.html").read_text(encoding="utf-8")
    assert json.loads((here / name / "reports" / "evaluation.json").read_bytes())["model"] == "na\\xefve at step 12"
    assert train(out=name)["bits_per_byte"] == summary["bits_per_byte"]


def test_a_text_whose_own_name_is_not_utf_8_is_refused_and_its_folder_is_read(here, english):
    (here / "texts").mkdir()
    name = os.fsdecode(b"texts/caf\xe9.txt")
    (here / name).write_text(english, encoding="utf-8")
    with pytest.raises(InputError, match=r"caf\\xe9\.txt is not UTF-8"):
        train(name)
    assert not (here / "run").exists()
    assert train("texts")["step"] == train("texts")["step"] == 12


DAMAGE = {
    "plan of other types": ("plan.json", b'{"plan": 7, "baselines": {"2-gram": {"loss_nats_per_token": "low"}}}'),
    "plan that is a list": ("plan.json", b"[]"),
    "no plan": ("plan.json", None),
    "samples that are none": ("samples.jsonl", b'{"step": "a", "text": 1}\n'),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_what_cannot_be_shown_is_left_out_and_the_rest_is_shown(finished, name):
    file, content = DAMAGE[name]
    (finished / "files.json").unlink()  # else the change is found
    if content is None:
        (finished / file).unlink()
    else:
        (finished / file).write_bytes(content)
    (finished / "reports" / "report.html").unlink()
    arguments = ["text.txt", "--out", "run"]
    if file == "samples.jsonl":  # found as it goes on, before anything is done
        with pytest.raises(InputError, match=r"samples\.jsonl, line 1, is damaged"):
            hornbook.train(arguments[0], out="run")
        return
    summary = hornbook.train(arguments[0], out="run")
    assert summary["bits_per_byte"] > 0
    assert (finished / "reports" / "report.html").is_file()


def test_without_its_log_a_finished_run_is_scored_again(finished, tiny_run):
    (finished / "metrics.jsonl").unlink()
    summary = hornbook.train("text.txt", out="run")
    for key in ("step", "tokens", "epoch", "validation_loss_nats_per_token", "train_seconds"):
        assert summary[key] == tiny_run.summary[key]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("steps", [6, 60])
def test_a_run_that_diverges_says_what_is_sound(here, optimizer, steps):
    """Of 6 steps training reaches the end before the tenth update is skipped, and the report is there; of 60 the run
    goes back and leaves batches out, in vain."""
    changes = {
        "optimizer.name": optimizer, "optimizer.learning_rate": 1e38, "schedule.warmup_steps": 0, "train.steps": steps,
        "watch.sample_every": 2, "checkpoint.every": 3,
    }  # fmt: skip
    with pytest.raises(SystemFailure) as caught:
        train(**changes)
    run = Run.open("run")
    sentence = (
        r"training has diverged: no gradient was finite after step (\d+), and the last good checkpoint is of step (\d+)"
    )
    after, good = map(int, re.search(sentence, str(caught.value)).groups())
    returns = [row for row in run.rows() if row["event"] == "decision" and row["decision"] == "skip"]
    assert (after, good, returns) == (1, 0, []) if steps == 6 else (after > good > 0 and len(returns) > 1)
    assert [row["fault"] for row in run.rows() if row["event"] == "warning"].count("no sample") == 1
    # Broken weights are not sampled; those that are gone back to are sound.
    assert [row["step"] for row in run.samples()] == ([0] if steps == 6 else [0, *range(2, good + 1, 2)])
    assert (here / "run" / "reports" / "report.html").is_file()
    assert "run/reports/report.html" in str(caught.value)
    for step in {0, good}:
        model = hornbook.open_model("run", step=step).model
        assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())
