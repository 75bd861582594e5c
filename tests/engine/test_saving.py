import time
from functools import partial

import pytest
import torch

import hornbook
from hornbook.engine import checkpoint, loading, saving
from hornbook.engine.saving import Saver
from hornbook.facts.errors import SystemFailure
from hornbook.facts.shape import GPTShape
from hornbook.model.decoder import Decoder
from hornbook.model.init import initialise
from hornbook.records.run import Run, checkpoint_step
from hornbook.setup import build
from hornbook.training import left_out

SHAPE = GPTShape(family="qwen3", layers=1, width=16, heads=2, context=8, vocabulary=50)


def test_a_checkpoint_is_due_by_steps_and_by_time(monkeypatch):
    saver = Saver(every=5)
    assert [step for step in range(1, 12) if saver.mark_due(step)] == [5, 10]
    monkeypatch.setattr(saving, "WITHIN_SECONDS", -1.0)
    assert saver.mark_due(12)
    assert saver.due_at == 12


@pytest.mark.parametrize("beside", [False, True])
def test_what_is_written_is_the_state_when_it_was_asked_for(tmp_path, beside):
    """Training goes on in the weights themselves while they are written."""
    model, order = initialise(Decoder(SHAPE), 0), []
    saver = Saver(every=1, beside=True)
    for step in (1, 2, 3):
        wanted = {name: p.detach().clone() for name, p in model.named_parameters()}
        write = partial(
            checkpoint.write, tmp_path / checkpoint.name(step), step=step, shape=SHAPE, state={}
        )  # fmt: skip
        saver.write(
            checkpoint.contents(model, ()), write, then=lambda step=step: order.append(step), beside=beside
        )  # fmt: skip
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 1.0
        saver.settle()
        loading.verify(tmp_path / checkpoint.name(step))
        loaded = loading.load_model(tmp_path / checkpoint.name(step))
        for name, p in loaded.named_parameters():
            assert torch.equal(p, wanted[name])
    assert order == [1, 2, 3]


def test_a_checkpoint_that_cannot_be_written_is_said_when_it_settles(tmp_path):
    model = initialise(Decoder(SHAPE), 0)
    (tmp_path / "file").write_text("in the way")
    saver = Saver(every=1, beside=True)
    write = partial(checkpoint.write, tmp_path / "file" / checkpoint.name(1), step=1, shape=SHAPE, state={})
    saver.write(
        checkpoint.contents(model, ()), write, then=lambda: pytest.fail("nothing was written"), beside=True
    )  # fmt: skip
    with pytest.raises(OSError):
        saver.settle()


def test_a_run_that_is_written_beside_training_keeps_what_it_should(tmp_path, english, monkeypatch):
    """As on an accelerator. At no time lie there more than the checkpoints to keep, two in the making, step 0, and the
    one from before the learning rate fell."""
    (tmp_path / "text.txt").write_text(english[:6000], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(build, "Saver", lambda *given, beside: Saver(*given, beside=True))
    counts, real = [], checkpoint.write

    def write(final, *given, **named):
        counts.append(len(list(final.parent.glob("step-*"))))
        return real(final, *given, **named)

    monkeypatch.setattr(checkpoint, "write", write)
    options = {"model.width": 16, "model.layers": 1, "model.context": 16, "train.batch": 4, "text.tokenizer": "bytes"}
    hornbook.train("text.txt", out="run", **options, **{"train.steps": 24, "checkpoint.every": 2, "checkpoint.keep": 2})
    run = Run.open("run")
    best = {row["step"] for row in run.rows() if row["event"] == "evaluation"}
    kept = {checkpoint_step(folder) for folder in run.checkpoints()}
    assert kept - {0, 10, 22, 24} <= best
    assert len(kept - {0, 10, 22, 24}) <= 1 < len(kept)
    assert max(counts) <= 6
    saved = [row["step"] for row in run.rows() if row["event"] == "checkpoint"]
    assert saved == list(range(0, 25, 2))
    for folder in run.checkpoints():
        loading.verify(folder)


def test_what_is_being_written_is_finished_before_a_failing_run_lets_go(tmp_path, english, monkeypatch):
    (tmp_path / "text.txt").write_text(english[:6000], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(build, "Saver", lambda *given, beside: Saver(*given, beside=True))
    real = checkpoint.write

    def slow(*given, **named):
        time.sleep(0.5)
        return real(*given, **named)

    monkeypatch.setattr(checkpoint, "write", slow)
    options = {"model.width": 16, "model.layers": 1, "model.context": 16, "train.batch": 4, "text.tokenizer": "bytes"}
    monkeypatch.setattr(left_out, "MOST_RETURNS", 0)
    monkeypatch.setattr(build.Monitor, "diverged", property(lambda self: len(self.losses) == 7))
    with pytest.raises(SystemFailure, match="the last good checkpoint is of step 6"):
        hornbook.train("text.txt", out="run", **options, **{"train.steps": 24, "checkpoint.every": 6})
    assert [checkpoint_step(folder) for folder in Run.open("run").checkpoints()] == [0, 6]
