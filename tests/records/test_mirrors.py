"""A run's log in the trackers of others: each real package, offline, read back by its own reader."""

import json
import os
import sys
from pathlib import Path

import pytest

from hornbook.facts.errors import InputError
from hornbook.facts.metrics import METRICS
from hornbook.records.mirroring import mirrored, tracker_names
from hornbook.records.run import Run

TINY = (
    "--tokenizer", "bytes", "--split", "tail:0.1", "--threads", "1", "--model.layers", "1", "--model.width", "32",
    "--model.context", "32", "--train.batch", "4", "--watch.sample_tokens", "8", "--watch.sample_every", "8",
    "--checkpoint.every", "8",
)  # fmt: skip


@pytest.fixture(scope="module")
def logged(tmp_path_factory, hornbook_in, english):
    """A run whose log went to both, interrupted and resumed in two more sessions, each to a greater length."""
    for package in ("tensorboard", "wandb"):
        pytest.importorskip(package, reason=f"{package} is not installed: make test-extras")
    folder = tmp_path_factory.mktemp("mirrored")
    (folder / "text.txt").write_text(english, encoding="utf-8")
    for steps in ("12", "20"):
        arguments = ("train", "text.txt", *TINY, "--steps", steps, "--out", "run", "--log", "tensorboard,wandb")
        finished = hornbook_in(folder)(*arguments)
        assert finished.code == 0, finished.stderr
        assert "tensorboard --logdir run/tensorboard" in finished.stderr
        assert "warning: tensorboard" not in finished.stderr
        assert "warning: wandb" not in finished.stderr
    return Run.open(folder / "run")


def numbers_of(run, name):
    """(step, value) of each row of the log that still holds and has the number."""
    return [(row["step"], row[name]) for row in run.rows() if type(row.get(name)) in (int, float)]


def test_tensorboard_has_each_number_of_the_log_once(logged):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(logged.folder / "tensorboard"), {"scalars": 0, "tensors": 0})
    events.Reload()
    scalars = list(events.Tags()["scalars"])
    assert {"train_loss_nats_per_token", "probe_validation_loss_nats_per_token", "gpu_hours"} <= set(scalars)
    assert set(scalars) <= METRICS.keys()
    for name in ("train_loss_nats_per_token", "probe_validation_loss_nats_per_token", "learning_rate"):
        seen = [(event.step, event.value) for event in events.Scalars(name)]
        assert [step for step, _ in seen] == [step for step, _ in numbers_of(logged, name)]
        assert [value for _, value in seen] == pytest.approx([value for _, value in numbers_of(logged, name)])
    times = [event.wall_time for event in events.Scalars("tokens")]
    assert times == sorted(times)
    texts = [(event.step, event.tensor_proto.string_val[0].decode()) for event in events.Tensors("sample")]
    assert texts == [(row["step"], row["text"]) for row in logged.samples()]


def records_of(content):
    """The records of a .wandb file: a header of 7 bytes, then LevelDB's log format in blocks of 32 KiB."""
    at, data = 7, b""
    while at + 7 <= len(content):
        room = 32768 - at % 32768
        if room < 7:
            at += room
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        data += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield data
            data = b""


def test_wandb_has_each_number_of_the_log_once(logged):
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    history, configs = [], []
    for file in sorted((logged.folder / "wandb").glob("offline-run-*/*.wandb")):
        for data in records_of(file.read_bytes()):
            record = Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                history.append({item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items})
            if record.WhichOneof("record_type") == "run":
                configs.append((record.run.run_id, record.run.project))
    assert len(set(configs)) == 1  # one run there
    for name in ("train_loss_nats_per_token", "probe_validation_loss_nats_per_token"):
        seen = [(row["step"], row[name]) for row in history if name in row]
        assert sorted(step for step, _ in seen) == [step for step, _ in numbers_of(logged, name)]
    texts = {row["step"]: row["sample"] for row in history if "sample" in row}
    assert len(texts) == sum("sample" in row for row in history)
    assert texts.keys() == {row["step"] for row in logged.samples()} | {12}  # the end of the first session
    assert texts[0] == logged.samples()[0]["text"]


def test_a_tracker_that_comes_later_gets_what_was_logged(tiny_run, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run, said = Run.open(tiny_run.run), []
    copy = tmp_path / "run"
    copy.mkdir()
    for name in ("settings.toml", "environment.json", "metrics.jsonl", "samples.jsonl"):
        (copy / name).write_bytes((run.folder / name).read_bytes())
    later = Run(copy)
    with mirrored(later, ["tensorboard"], said.append):
        later.log({"event": "resume", "step": 16})  # what came after it is void
        later.log({"event": "step", "step": 17, "seconds": 1.0, "train_loss_nats_per_token": 9.0})
    events = accumulator.EventAccumulator(str(copy / "tensorboard"), {"scalars": 0})
    events.Reload()
    seen = [(event.step, event.value) for event in events.Scalars("train_loss_nats_per_token")]
    assert [step for step, _ in seen] == list(range(1, 18))
    assert seen[-1][1] == 9.0
    assert len(said) == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # how its thread ends
def test_a_tracker_that_fails_costs_one_sentence(tiny_run, tmp_path):
    pytest.importorskip("tensorboard")
    copy, said = tmp_path / "run", []
    copy.mkdir()
    for name in ("settings.toml", "environment.json"):
        (copy / name).write_bytes((tiny_run.run / name).read_bytes())
    (copy / "tensorboard").write_text("a file where its folder would be")
    run = Run(copy)
    with mirrored(run, ["tensorboard"], said.append):
        for step in (1, 2, 3):
            run.log({"event": "step", "step": step, "train_loss_nats_per_token": 1.0})
    assert (copy / "metrics.jsonl").read_text().count("\n") == 3
    (sentence,) = said
    assert "the run goes on without it" in sentence


def test_unknown_names_and_missing_packages_are_said_before_anything_else(command_line, text_file, monkeypatch):
    finished = command_line("train", text_file, "--steps", "3", "--out", "run", "--log", "tensorbord")
    assert (finished.code, finished.stdout) == (2, "")
    assert 'did you mean "tensorboard"' in finished.stderr
    assert not (command_line.folder / "run").exists()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'pip install -e "\.\[wandb\]"'):
        tracker_names("wandb")


def test_an_ordinary_run_imports_none_of_it(tmp_path, text_file):
    import subprocess

    code = (
        "import sys, hornbook; hornbook.train('text.txt', steps=2, out='run', quiet=True); "
        "print([m for m in sys.modules if m.split('.')[0] in ('wandb', 'tensorboard') or 'mirror' in m])"
    )
    variables = os.environ | {"PYTHONPATH": str(Path(sys.modules["hornbook"].__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=variables)
    assert done.stdout.strip().endswith("[]"), done.stderr
