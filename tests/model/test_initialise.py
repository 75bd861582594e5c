"""Initial weights: the loss they start from, their spread, and that a seed is a seed."""

import math

import pytest
import torch

from hornbook.facts.shape import FAMILIES, GPTShape
from hornbook.likelihood import token_nats
from hornbook.model.decoder import Decoder
from hornbook.model.init import initialise


def model_of(family: str, **changes) -> Decoder:
    sizes = {"layers": 4, "width": 128, "heads": 4, "context": 64, "vocabulary": 512}
    return Decoder(GPTShape(**{"family": family, **sizes, **changes}))


def first_loss(model: Decoder) -> float:
    generator = torch.Generator().manual_seed(5)
    batch = torch.randint(0, model.shape.vocabulary, (16, 65), generator=generator)
    with torch.no_grad():
        logits = model(batch[:, :-1]).flatten(0, 1)
    return token_nats(logits, batch[:, 1:].flatten()).mean().item()


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_an_untied_head_starts_from_the_uniform_distribution(family):
    assert first_loss(initialise(model_of(family), seed=3)) == pytest.approx(math.log(512), abs=1e-6)


def test_gpt2_starts_from_ln_v_and_half_the_variance_of_its_logits():
    """Logits of a normed vector of 768 features and a table of N(0, 0.02): variance 768 x 0.0004, half of it 0.154."""
    model = initialise(model_of("gpt2", width=768, heads=12, layers=2), seed=3)
    assert first_loss(model) == pytest.approx(math.log(512) + 768 * 0.02**2 / 2, abs=0.03)


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("tied", [True, False])
def test_spread_of_each_kind_of_weight(family, tied):
    model = initialise(model_of(family, tied=tied), seed=1)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            wanted = 1.0 if name.endswith("norm.weight") else 0.0
            assert torch.equal(parameter, torch.full_like(parameter, wanted)), name
            continue
        into_residual = "attention.output" in name or "mlp.down" in name
        if family == "gpt2" and (tied or not name.startswith(("embedding", "positions"))):
            std = 0.02 / math.sqrt(8) if into_residual else 0.02
        elif into_residual or name.startswith("head.projection"):
            std = 0.0
        elif name.startswith(("embedding", "positions")):
            std = 1 / math.sqrt(128) if tied else 1.0
        else:
            std = 1 / math.sqrt(3 * parameter.shape[1])
        assert parameter.std().item() == pytest.approx(std, rel=0.03), name
        assert parameter.mean().item() == pytest.approx(0, abs=5 * std / math.sqrt(parameter.numel()) + 1e-12), name


def test_a_seed_decides_every_bit_and_touches_no_other_randomness():
    before = torch.get_rng_state()
    model = model_of("qwen3")
    torch.set_rng_state(before)
    first = {name: p.clone() for name, p in initialise(model, seed=7).named_parameters()}
    again = dict(initialise(model_of("qwen3"), seed=7).named_parameters())
    assert all(torch.equal(first[name], again[name]) for name in first)
    torch.set_rng_state(before)
    other = initialise(model, seed=8)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(first["embedding.weight"], other.embedding.weight)
