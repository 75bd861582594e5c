import threading

import numpy as np
import pytest
import torch

from hornbook.data.loader import Batches
from hornbook.data.packing import IGNORE
from hornbook.engine import checkpoint, loading
from hornbook.facts.shape import FAMILIES
from hornbook.training import loop
from hornbook.training.loop import dropout_seed, microbatches, steps

HOW = {"lr_schedule": lambda step: 1.0, "clip_norm": 1.0, "seed": 4}


@pytest.fixture
def batches(prepared):
    return Batches(prepared.train, context=16, batch=8, seed=4)


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_steps_are_numbered_and_know_their_epoch(make, batches):
    model, optimizers = make()
    done = list(steps(model, optimizers, batches, first=0, last=25, microbatch=8, **HOW))
    assert [step.number for step in done] == list(range(1, 26))
    assert [step.epoch for step in done] == [batches.epoch(n) for n in range(1, 26)]
    assert done[-1].epoch > 1
    assert done[0].update.loss - done[-1].update.loss > 0.5


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("tied", [True, False])
def test_every_weight_of_a_fresh_model_moves(make, bits, batches, family, tied):
    """None is frozen, though some start at zero and hold back the gradients of what lies before."""
    model, optimizers = make(family=family, tied=tied, moved=False)
    before = bits(model)
    assert len(list(steps(model, optimizers, batches, first=0, last=3, microbatch=8, **HOW))) == 3
    assert [name for name, weight in bits(model).items() if torch.equal(weight, before[name])] == []


def test_each_token_of_an_epoch_is_counted_once(make, prepared):
    batches = Batches(prepared.train, context=16, batch=1, seed=4)
    model, optimizers = make()
    done = steps(model, optimizers, batches, first=0, last=batches.windows_per_epoch, microbatch=1, **HOW)
    assert sum(step.update.num_tokens for step in done) == prepared.train.num_tokens


@pytest.mark.parametrize("microbatch", [8, 3])
def test_going_on_from_any_step_gives_the_same_bits(tmp_path, make, bits, batches, microbatch):
    """With dropout, accumulation and both optimizers, across the end of an epoch."""
    last = int(batches.windows_per_epoch / 8) + 4
    model, optimizers = make(dropout=0.2)
    saved = {}
    for step in steps(model, optimizers, batches, first=0, last=last, microbatch=microbatch, **HOW):
        if step.number in (1, last - 5):
            saved[step.number] = checkpoint.write(
                tmp_path / checkpoint.name(step.number), checkpoint.contents(model, optimizers), step=step.number,
                shape=model.shape, state={"updates": step.number},
            )  # fmt: skip
    wanted = bits(model, optimizers)
    for number, folder in saved.items():
        other, others = make(seed=9, dropout=0.2)
        loading.load_into(folder, model=other, optimizers=others)
        torch.manual_seed(123)  # whatever else drew meanwhile
        for _ in steps(other, others, batches, first=number, last=last, microbatch=microbatch, **HOW):
            torch.rand(7)
        assert same(bits(other, others), wanted), number


def test_dropout_is_on_and_depends_on_the_seed_only(make, bits, batches):
    ends = []
    for dropout, seed in ((0.0, 4), (0.2, 4), (0.2, 4), (0.2, 5)):
        model, optimizers = make(dropout=dropout)
        list(steps(model, optimizers, batches, first=0, last=3, microbatch=8, **{**HOW, "seed": seed}))
        ends.append(bits(model))
    assert not same(ends[0], ends[1])
    assert same(ends[1], ends[2])
    assert not same(ends[2], ends[3])


def test_dropout_seeds_differ():
    seeds = {dropout_seed(seed, number, index) for seed in range(5) for number in range(20) for index in range(5)}
    assert len(seeds) == 500


def test_a_stop_before_an_update_leaves_the_weights(make, bits, batches):
    model, optimizers = make()
    stop, numbers = threading.Event(), []
    for step in steps(model, optimizers, batches, first=0, last=10, microbatch=4, stop=stop, **HOW):
        numbers.append(step.number)
        if step.number == 3:
            stop.set()
            after = bits(model, optimizers)
    assert numbers == [1, 2, 3]
    assert same(bits(model, optimizers), after)


@pytest.mark.parametrize("size", [1, 3, 8, 100])
@pytest.mark.parametrize("masked", [False, True])
def test_microbatches_are_the_batch(batches, size, masked):
    pieces = list(microbatches(batches, 2, size, torch.device("cpu"), masked))
    inputs, targets = batches.batch(2)
    assert np.array_equal(torch.cat([piece[0] for piece in pieces]), inputs)
    assert np.array_equal(torch.cat([piece[1] for piece in pieces]), targets)
    assert all(len(piece[0]) <= size for piece in pieces)
    assert all((piece[2] is not None) is masked for piece in pieces)


@pytest.mark.parametrize("uses_weights", [None, lambda number: number % 3 == 0])
def test_a_loop_that_runs_ahead_gives_the_same_updates_in_order(make, bits, batches, monkeypatch, uses_weights):
    """As on an accelerator: an update is yielded after the next has begun, except where it is looked at."""
    model, optimizers = make()
    usual = [(s.number, s.update) for s in steps(model, optimizers, batches, first=0, last=7, microbatch=8, **HOW)]
    other, others = make()
    monkeypatch.setattr(loop, "reading_is_free", lambda device: False)
    ahead, at_once, before = [], [], bits(other)
    for step in steps(other, others, batches, first=0, last=7, microbatch=8, uses_weights=uses_weights, **HOW):
        ahead.append((step.number, step.update))
        assert step.seconds > 0
        at_once.append(others[1].updates == step.number)
    assert ahead == usual
    assert same(bits(other), bits(model))
    assert not same(bits(other), before)
    assert at_once == ([True] * 7 if uses_weights is None else [False, False, True, False, False, True, True])


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("size", [1, 3, 8])
def test_processes_share_the_rows_of_one_batch(prepared, ranks, size):
    """Each token once, in pieces of the order of one process; equally many pieces for each."""
    batches, cpu = Batches(prepared.train, context=16, batch=8, seed=4), torch.device("cpu")
    whole = list(microbatches(batches, 5, size, cpu, True))
    shares = [list(microbatches(batches, 5, size, cpu, True, (rank, ranks))) for rank in range(ranks)]
    assert len({len(share) for share in shares}) == 1
    dealt = [piece for pieces in zip(*shares, strict=True) for piece in pieces]
    for ours, theirs in zip(dealt, whole, strict=False):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert all((targets == IGNORE).all() for _, targets, _ in dealt[len(whole) :])
