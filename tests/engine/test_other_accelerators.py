"""What Apple's and Intel's GPUs lack is not asked of them: held on a CPU on which it is forbidden."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from hornbook import likelihood
from hornbook.engine.device import device, this_device
from hornbook.evaluation import score
from hornbook.facts.errors import InputError
from hornbook.facts.shape import GPTShape
from hornbook.model import generate as generation
from hornbook.model.cpu import functional
from hornbook.model.decoder import Decoder
from hornbook.model.init import initialise
from hornbook.training import step

SHAPE = GPTShape(family="qwen3", layers=2, width=32, heads=2, context=16, vocabulary=101)


def doubles(values):
    return any(x.dtype == torch.float64 for x in tree_leaves(values) if isinstance(x, torch.Tensor))


class NoFloat64(TorchDispatchMode):
    """Whatever makes float64 of something else raises, and so does what is only there on a CPU. Memory of the CPU, in
    which float64 is allowed, is float64 from the start, and so are random numbers."""

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        out, name = function(*arguments, **(options or {})), str(function)
        assert "mkldnn" not in name, name
        assert name.startswith(("aten.empty", "aten.rand")) or doubles(arguments) or not doubles(out), (
            f"{name} makes float64"
        )
        return out


def on_the_cpu(function):
    """What is computed with tensors that have left the device."""

    def call(*arguments, **options):
        with _disable_current_modes():
            return function(*arguments, **options)

    return call


@pytest.fixture
def model(monkeypatch):
    monkeypatch.setattr(likelihood, "has_float64", lambda device: False)
    monkeypatch.setattr(functional, "PLAIN", True)
    monkeypatch.setattr(step, "reading_is_free", lambda device: False)
    monkeypatch.setattr(generation, "probabilities", on_the_cpu(generation.probabilities))
    return initialise(Decoder(SHAPE), 0)


@pytest.fixture
def tokens():
    return torch.randint(101, (2, 17), generator=torch.Generator().manual_seed(0))


def test_float64_is_noticed():
    with NoFloat64(), pytest.raises(AssertionError, match="makes float64"):
        torch.ones(2).double()


def test_a_step_makes_no_float64(make, tokens):
    model, optimizers = make(family="qwen3")
    with NoFloat64():
        pending = step.train_step(
            model, optimizers, [(tokens[:, :-1], tokens[:, 1:], None)], lr_scale=1.0, clip_norm=1.0
        )
    assert pending.read().loss > 0


def test_evaluation_raises_logits_on_the_cpu_to_the_same_sums(model, tokens, monkeypatch):
    requests = [score.Request(row.numpy(), 16) for row in tokens]
    whole = score.score_tokens(model, requests)
    monkeypatch.setattr(likelihood, "has_float64", lambda device: True)
    expected = score.score_tokens(model, requests)
    monkeypatch.setattr(likelihood, "has_float64", lambda device: False)
    with NoFloat64():
        strict = score.score_tokens(model, requests, on_the_cpu(score.token_record))
    for records, others, wanted in zip(whole, strict, expected, strict=True):
        assert records.tolist() == others.tolist() == wanted.tolist()


def test_writing_makes_no_float64(model, tokens):
    with NoFloat64():
        assert len(list(generation.generate(model, tokens[0, :4].tolist(), max_tokens=5))) == 5
        assert len(list(generation.generate(model, tokens[0, :4].tolist(), max_tokens=5, temperature=0))) == 5


def test_the_device_is_chosen_by_name(monkeypatch):
    monkeypatch.setenv("HORNBOOK_DEVICE", "cpu")
    assert device() == torch.device("cpu")
    monkeypatch.setenv("HORNBOOK_DEVICE", "abacus")
    with pytest.raises(InputError, match="HORNBOOK_DEVICE is abacus, but here it can be cpu"):
        device()
    assert this_device(torch.device("cpu")).peak_flops["float32"] > 0
