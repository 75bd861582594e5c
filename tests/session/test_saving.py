import pytest
import torch

from hornbook.facts.shape import GPTShape
from hornbook.model.decoder import Decoder, initialise
from hornbook.session import saving
from hornbook.session.saving import Saver
from hornbook.training import checkpoint

SHAPE = GPTShape(family="qwen3", layers=1, width=16, heads=2, context=8, vocabulary=50)


def test_a_checkpoint_is_due_by_steps_and_by_time(monkeypatch):
    saver = Saver(every=5)
    assert [step for step in range(1, 12) if saver.due(step)] == [5, 10]
    monkeypatch.setattr(saving, "WITHIN_SECONDS", -1.0)
    assert saver.due(12)
    assert saver.due_at == 12


@pytest.mark.parametrize("beside", [False, True])
def test_what_is_written_is_the_state_when_it_was_asked_for(tmp_path, beside):
    """Training goes on in the weights themselves while they are written."""
    model, order = initialise(Decoder(SHAPE), 0), []
    saver = Saver(every=1)
    for step in (1, 2, 3):
        wanted = {name: p.detach().clone() for name, p in model.named_parameters()}
        saver.write(
            tmp_path / checkpoint.name(step), checkpoint.contents(model, ()), step=step, shape=SHAPE, state={},
            then=lambda step=step: order.append(step), beside=beside,
        )  # fmt: skip
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 1.0
        saver.settle()
        checkpoint.verify(tmp_path / checkpoint.name(step))
        loaded = checkpoint.load_model(tmp_path / checkpoint.name(step))
        for name, p in loaded.named_parameters():
            assert torch.equal(p, wanted[name])
    assert order == [1, 2, 3]


def test_a_checkpoint_that_cannot_be_written_is_said_when_it_settles(tmp_path):
    model = initialise(Decoder(SHAPE), 0)
    (tmp_path / "file").write_text("in the way")
    saver = Saver(every=1)
    saver.write(
        tmp_path / "file" / checkpoint.name(1), checkpoint.contents(model, ()), step=1, shape=SHAPE, state={},
        then=lambda: pytest.fail("nothing was written"), beside=True,
    )  # fmt: skip
    with pytest.raises(OSError):
        saver.settle()
