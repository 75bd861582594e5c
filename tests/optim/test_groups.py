import pytest

from hornbook.facts.shape import FAMILIES, GPTShape
from hornbook.model.decoder import Decoder
from hornbook.optim.groups import groups


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_each_parameter_is_in_exactly_one_group(family, tied):
    model = Decoder(GPTShape(family=family, layers=2, width=16, heads=2, context=8, vocabulary=11, tied=tied))
    matrices, others = groups(model)
    ids = [id(p) for p in (*matrices.values(), *others.values())]
    assert len(ids) == len(set(ids))
    assert set(ids) == {id(p) for p in model.parameters()}
    named = dict(model.named_parameters())
    assert all(named[name] is parameter for name, parameter in (matrices | others).items())
    assert sum(p.numel() for p in model.parameters()) == model.shape.parameters


@pytest.mark.parametrize("tied", [True, False])
def test_what_is_decayed(tied):
    model = Decoder(GPTShape(family="gpt2", layers=1, width=16, heads=2, context=8, vocabulary=11, tied=tied))
    matrices, others = groups(model)
    assert all(p.dim() == 2 for p in matrices.values())
    assert ("head.projection.weight" in matrices) is not tied
    assert "embedding.weight" in others
    assert "positions.weight" in others
    assert all("norm" not in name and "bias" not in name for name in matrices)
    inside = [name for name, p in model.named_parameters() if name.startswith("blocks.") and p.dim() == 2]
    assert matrices.keys() - {"head.projection.weight"} == set(inside)


def test_what_is_frozen_is_in_none():
    model = Decoder(GPTShape(family="llama", layers=1, width=16, heads=2, context=8, vocabulary=11))
    model.embedding.weight.requires_grad_(False)
    matrices, others = groups(model)
    assert "embedding.weight" not in matrices | others
