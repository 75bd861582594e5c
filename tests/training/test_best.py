import json

import pytest
import torch

from hornbook.engine import checkpoint as checkpoints
from hornbook.facts.errors import InputError
from hornbook.facts.settings import Settings
from hornbook.facts.shape import GPTShape
from hornbook.model.decoder import Decoder
from hornbook.model.init import initialise
from hornbook.records.run import Run
from hornbook.setup.build import make_optimizers
from hornbook.training.best import Best, prune
from hornbook.training.loop import TrainState

SHAPE = GPTShape(family="qwen3", layers=1, width=16, heads=2, context=8, vocabulary=50)


@pytest.fixture
def parts():
    settings = Settings()
    o = settings.optimizer
    o.name, o.learning_rate, o.muon_learning_rate, o.weight_decay, o.beta2, o.momentum = (
        "muon",
        1e-3,
        0.02,
        0,
        0.9,
        0.9,
    )
    model = initialise(Decoder(SHAPE), 0)
    return TrainState(model, make_optimizers(settings, model), None, None)


@pytest.fixture
def run(tmp_path):
    return Run.create(tmp_path / "run", "", {})


def move(parts):
    """One update of everything."""
    for p in parts.model.parameters():
        p.grad = torch.ones_like(p)
    for optimizer in parts.optimizers:
        optimizer.step(1.0)


def state_of(parts):
    tensors = {k: v for file in checkpoints.contents(parts.model, parts.optimizers).values() for k, v in file.items()}
    return {name: tensor.clone() for name, tensor in tensors.items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("on_disk", [False, True])
def test_what_was_taken_is_put_back_to_the_bit(run, parts, on_disk):
    move(parts)
    best, wanted = Best(), state_of(parts)
    best.take(parts, step=1, loss=2.0, updates=1, optimizer=True)
    move(parts)
    assert not same(state_of(parts), wanted)
    if on_disk:
        best.write(run, parts, step=2)
        assert parts.kept == {}
        best = Best.of(json.loads(json.dumps(best.state())))
    best.put_back(run, parts)
    assert same(state_of(parts), wanted)
    assert all(getattr(optimizer, "updates", 1) == 1 for optimizer in parts.optimizers)


def test_a_better_look_takes_the_place_of_the_last(parts):
    best = Best()
    best.take(parts, step=0, loss=3.0, updates=0, optimizer=False)
    first = parts.kept[checkpoints.MODEL]
    move(parts)
    best.take(parts, step=1, loss=2.0, updates=1, optimizer=False)
    assert parts.kept[checkpoints.MODEL] is first  # no second copy of the weights
    assert all(torch.equal(first[name], tensor) for name, tensor in checkpoints.weights(parts.model).items())
    assert (best.step, best.loss) == (1, 2.0)


def test_weights_that_the_checkpoint_has_are_not_written_twice(run, parts):
    best = Best()
    best.take(parts, step=4, loss=3.0, updates=4, optimizer=False)
    best.write(run, parts, step=4)
    assert run.best_checkpoints() == []
    with pytest.raises(InputError, match="has lost the weights of step 4"):
        best.folder(run)


def test_prune_keeps_the_newest_step_0_and_what_the_kept_speak_of(run, parts):
    def save(step, best_step):
        contents = checkpoints.contents(parts.model, parts.optimizers if step else ())
        state = {"best_step": best_step, "updates": step}
        checkpoints.write(run.checkpoint_folder(step), contents, step=step, shape=SHAPE, state=state)

    for step, best_step in ((0, 0), (10, 10), (20, 12), (30, 12), (40, 10)):
        save(step, best_step)
    for step in (7, 12):
        contents = {checkpoints.MODEL: checkpoints.weights(parts.model)}
        checkpoints.write(run.best_folder(step), contents, step=step, shape=SHAPE, state={})
    prune(run, keep=2)
    assert [folder.name for folder in run.checkpoints()] == [f"step-{step:08d}" for step in (0, 10, 30, 40)]
    assert [folder.name for folder in run.best_checkpoints()] == ["best-00000012"]


def test_a_damaged_checkpoint_is_no_reason_not_to_save_another(run, parts):
    for step in (0, 10, 20, 30):
        contents = checkpoints.contents(parts.model, parts.optimizers if step else ())
        state = {"best_step": step, "updates": step}
        checkpoints.write(run.checkpoint_folder(step), contents, step=step, shape=SHAPE, state=state)
    manifest = run.checkpoint_folder(20) / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"step": 20', b'"step": 21'))
    prune(run, keep=2, steady=10)
    assert [folder.name for folder in run.checkpoints()] == [f"step-{step:08d}" for step in (0, 10, 20, 30)]
