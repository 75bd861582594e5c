import pytest
import torch

from hornbook.optim import adamw
from hornbook.optim.adamw import AdamW

SHAPES = {"matrix": (7, 5), "vector": (9,), "table": (20, 3)}
MOMENTS = {"learning_rate": 3e-3, "beta1": 0.9, "beta2": 0.99, "epsilon": 1e-8}


def parameters():
    generator = torch.Generator().manual_seed(0)
    return {name: torch.nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in SHAPES.items()}


def set_gradients(named, step):
    generator = torch.Generator().manual_seed(100 + step)
    for parameter in named.values():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def lr_scale(step):
    return (step + 1) / 8


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_bits_of_torch_fused_adamw(decay):
    ours, theirs = parameters(), parameters()
    optimizer = AdamW(ours, **MOMENTS, weight_decay=decay)
    reference = torch.optim.AdamW(theirs.values(), lr=1.0, betas=(0.9, 0.99), weight_decay=decay, fused=True)
    for step in range(12):
        set_gradients(ours, step)
        set_gradients(theirs, step)
        reference.param_groups[0]["lr"] = MOMENTS["learning_rate"] * lr_scale(step)
        optimizer.step(lr_scale(step))
        reference.step()
        for name in SHAPES:
            assert torch.equal(ours[name], theirs[name]), (name, step)


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("skips", [False, True])
def test_a_device_without_the_fused_kernel_does_the_same(decay, skips, monkeypatch):
    """And where an update is skipped, no bit changes, whatever the gradients are."""
    ours, theirs = parameters(), parameters()
    fused, plain = (AdamW(named, **MOMENTS, weight_decay=decay) for named in (ours, theirs))
    for step in range(12):
        skip = torch.tensor(step % 5 == 0) if skips else None
        for named, optimizer, devices in ((ours, fused, ("cpu",)), (theirs, plain, ())):
            monkeypatch.setattr(adamw, "FUSED", devices)
            set_gradients(named, step)
            if skip:
                named["table"].grad[0, 0], named["matrix"].grad[0, 0] = float("nan"), float("inf")
            before = [tensor.clone() for tensor in (*named.values(), *optimizer.state().values())]
            optimizer.step(lr_scale(step), skip)
            after = (*named.values(), *optimizer.state().values())
            assert all(map(torch.equal, before, after)) == bool(skip)
        for name in SHAPES:
            torch.testing.assert_close(theirs[name], ours[name], rtol=1e-6, atol=1e-7)
    assert fused.updates == plain.updates == (9 if skips else 12)
    for key, tensor in fused.state().items():
        torch.testing.assert_close(plain.state()[key], tensor, rtol=1e-6, atol=1e-9)


def test_the_first_step_moves_by_the_learning_rate_against_the_sign():
    named = parameters()
    before = {name: p.detach().clone() for name, p in named.items()}
    set_gradients(named, 0)
    AdamW(named, **MOMENTS, weight_decay=0.0).step(0.5)
    for name, p in named.items():
        torch.testing.assert_close(p.detach(), before[name] - 0.5 * 3e-3 * p.grad.sign(), rtol=1e-5, atol=1e-6)


def test_decay_is_decoupled():
    """Without a pull the weights shrink by the rate times the decay, whatever the moments are."""
    named = parameters()
    before = {name: p.detach().clone() for name, p in named.items()}
    for p in named.values():
        p.grad = torch.zeros_like(p)
    AdamW(named, **MOMENTS, weight_decay=0.1).step(1.0)
    for name, p in named.items():
        torch.testing.assert_close(p.detach(), before[name] * (1 - 3e-3 * 0.1))


def test_a_saved_state_goes_on_with_the_same_bits():
    named = parameters()
    whole = AdamW(named, **MOMENTS, weight_decay=0.1)
    for step in range(3):
        set_gradients(named, step)
        whole.step(1.0)
    state = {key: tensor.clone() for key, tensor in whole.state().items()}
    copies = {name: torch.nn.Parameter(p.detach().clone()) for name, p in named.items()}
    resumed = AdamW(copies, **MOMENTS, weight_decay=0.1)
    resumed.load(state, updates=3)
    for step in range(3, 6):
        for each, optimizer in ((named, whole), (copies, resumed)):
            set_gradients(each, step)
            optimizer.step(0.7)
    for name in SHAPES:
        assert torch.equal(named[name], copies[name])


def test_a_parameter_without_a_gradient_stays():
    named = parameters()
    set_gradients(named, 0)
    named["vector"].grad = None
    before = named["vector"].detach().clone()
    AdamW(named, **MOMENTS, weight_decay=0.1).step(1.0)
    assert torch.equal(named["vector"], before)
