from functools import partial

import pytest
import torch
from torch.nn import functional as F

from hornbook.data.packing import IGNORE
from hornbook.engine import threads
from hornbook.engine.threads import in_parallel
from hornbook.training.step import clip, train_step


def batch(rows=8, seed=3):
    """Inputs and targets (rows, 16); the last row has three targets only, as the last window of an epoch may."""
    tokens = torch.randint(0, 257, (rows, 17), generator=torch.Generator().manual_seed(seed))
    targets = tokens[:, 1:].clone()
    targets[-1, 3:] = IGNORE
    return tokens[:, :-1], targets


def cut(inputs, targets, size):
    return [(inputs[i : i + size], targets[i : i + size], None) for i in range(0, len(inputs), size)]


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("size", [1, 3, 4])
def test_the_update_is_the_same_however_the_batch_is_cut(make, bits, size, tied):
    inputs, targets = batch()
    seen = []
    for each in (8, size):
        model, optimizers = make(tied=tied)
        update = train_step(model, optimizers, cut(inputs, targets, each), lr_scale=0.5, clip_norm=1.0).read()
        seen.append((update, bits(model)))
    (whole, weights), (parts, others) = seen
    assert parts.num_tokens == whole.num_tokens == 7 * 16 + 3
    assert parts.nats == pytest.approx(whole.nats, rel=1e-6)
    assert parts.gradient_norm == pytest.approx(whole.gradient_norm, rel=1e-4)
    for name, weight in weights.items():
        torch.testing.assert_close(others[name], weight, rtol=1e-3, atol=2e-5, msg=name)


def test_the_gradient_is_that_of_the_mean_over_scored_tokens(make):
    inputs, targets = batch()
    model, _ = make()
    update = train_step(model, [], cut(inputs, targets, 3), lr_scale=1.0, clip_norm=1e9).read()
    ours = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    loss = F.cross_entropy(model.head(model.hidden(inputs)).flatten(0, 1), targets.flatten(), ignore_index=IGNORE)
    loss.backward()
    assert update.loss == pytest.approx(loss.item(), rel=1e-6)
    for name, p in model.named_parameters():
        torch.testing.assert_close(ours[name], p.grad, rtol=1e-4, atol=1e-7, msg=name)


@pytest.fixture(params=[2, 3])
def cores(request, monkeypatch):
    """Rows are shared out however short the step is."""
    monkeypatch.setattr(threads, "SHORT", 0)
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("recompute", [False, True])
def test_the_update_is_the_same_on_every_number_of_cores(make, bits, cores, recompute):
    inputs, targets = batch()
    documents = (torch.arange(16) // 5).expand(8, 16)
    seen = []
    for number in (cores, cores, 1):
        torch.set_num_threads(number)
        model, optimizers = make()
        model.recompute = recompute
        update = train_step(model, optimizers, [(inputs, targets, documents)], lr_scale=0.5, clip_norm=1.0).read()
        seen.append((update, bits(model)))
    (shared, weights), (again, same_weights), (whole, others) = seen
    assert shared == again
    assert same(weights, same_weights)
    assert shared.num_tokens == whole.num_tokens
    assert shared.nats == pytest.approx(whole.nats, rel=1e-6)
    assert shared.gradient_norm == pytest.approx(whole.gradient_norm, rel=1e-4)
    for name, weight in weights.items():
        torch.testing.assert_close(others[name], weight, rtol=1e-3, atol=2e-5, msg=name)


def test_in_half_precision_the_gradients_are_near_on_every_number_of_cores(make, cores):
    whole, half = [(*batch(), None)], partial(torch.autocast, "cpu", torch.bfloat16)
    exact, _ = make()
    train_step(exact, [], whole, lr_scale=1.0, clip_norm=1e9)
    for number in (cores, 1):
        torch.set_num_threads(number)
        model, _ = make()
        train_step(model, [], whole, lr_scale=1.0, clip_norm=1e9, autocast=half)
        for (name, ours), theirs in zip(model.named_parameters(), exact.parameters(), strict=True):
            assert ours.grad.dtype == torch.float32
            assert 0 < (ours.grad - theirs.grad).norm() < 0.05 * theirs.grad.norm(), name


def test_rows_are_shared_out_only_where_it_pays(make, cores, monkeypatch):
    used = []
    monkeypatch.setattr(threads, "in_parallel", lambda *a, **k: used.append(a[2]) or in_parallel(*a, **k))
    model, _ = make()
    for rows, short in ((8, 0), (1, 0), (8, 1e12)):
        monkeypatch.setattr(threads, "SHORT", short)
        train_step(model, [], cut(*batch(rows), rows), lr_scale=1.0, clip_norm=1.0)
    assert used == [cores]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_gradient_that_is_not_finite_changes_no_bit(make, bits, bad):
    model, optimizers = make()
    train_step(model, optimizers, cut(*batch(), 8), lr_scale=1.0, clip_norm=1.0)  # the state is not all zeros
    before, updates = bits(model, optimizers), optimizers[1].updates
    spoil = model.blocks[0].mlp.down.weight.register_hook(lambda gradient: gradient.index_fill(0, torch.tensor(2), bad))
    update = train_step(model, optimizers, cut(*batch(), 4), lr_scale=1.0, clip_norm=1.0).read()
    assert update.gradient_norm is None
    assert same(bits(model, optimizers), before)
    assert optimizers[1].updates == updates
    spoil.remove()
    update = train_step(model, optimizers, cut(*batch(), 4), lr_scale=1.0, clip_norm=1.0).read()
    assert update.gradient_norm is not None
    assert not same(bits(model, optimizers), before)


def test_an_abandoned_update_changes_no_bit(make, bits):
    model, optimizers = make()
    before, asked = bits(model, optimizers), []
    result = train_step(
        model, optimizers, cut(*batch(), 2), lr_scale=1.0, clip_norm=1.0,
        before_microbatch=lambda index: asked.append(index) or index < 2,
    )  # fmt: skip
    assert result is None
    assert asked == [0, 1, 2]
    assert same(bits(model, optimizers), before)


@pytest.mark.parametrize("clip_norm", [1e-3, 0.5, 1e6])
def test_clip_against_torch(make, clip_norm):
    gradients = []
    for reference in (False, True):
        model, _ = make()
        for i, p in enumerate(model.parameters()):
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(i))
        if reference:
            norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm))
        else:
            ours = float(clip(model, clip_norm))
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert ours == pytest.approx(norm, rel=1e-6)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-9)
    assert float(gradients[0].norm()) == pytest.approx(min(norm, clip_norm), rel=1e-4)
