import pytest
import torch

from hornbook.data.prepare import prepare
from hornbook.facts.shape import GPTShape
from hornbook.model.decoder import Decoder
from hornbook.model.init import initialise
from hornbook.optim.adamw import AdamW
from hornbook.optim.groups import groups
from hornbook.optim.muon import Muon
from hornbook.text.documents import documents


@pytest.fixture(scope="session")
def prepared(tmp_path_factory, english):
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "text.txt").write_text(english[:3000], encoding="utf-8")
    return prepare(documents([str(folder / "text.txt")]), tokenizer="bytes", split="tail:0.1", out=folder / "out")


@pytest.fixture
def make():
    """A small model with all that is trained differently: Muon inside the blocks, AdamW with and without decay."""

    def build(*, seed=0, dropout=0.0, family="qwen3", tied=False, vocabulary=257):
        shape = GPTShape(
            family=family, layers=2, width=16, heads=2, context=16, vocabulary=vocabulary, tied=tied
        )  # fmt: skip
        model = initialise(Decoder(shape, dropout=dropout), seed)
        generator = torch.Generator().manual_seed(seed + 1)
        with torch.no_grad():  # nothing stays at zero, where gradients of what lies before would be zero as well
            for parameter in model.parameters():
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
        matrices, others = groups(model)
        inside = {name: p for name, p in matrices.items() if name.startswith("blocks.")}
        outside = {name: p for name, p in matrices.items() if name not in inside}
        moments = {"learning_rate": 1e-2, "beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8}
        optimizers = [
            Muon(inside, learning_rate=0.02, momentum=0.95, weight_decay=0.1, dtype=torch.float32),  # on every CPU
            AdamW(others, **moments, weight_decay=0.0),
        ]
        if outside:
            optimizers.append(AdamW(outside, **moments, weight_decay=0.1))
        return model, optimizers

    return build


@pytest.fixture
def bits():
    """Every weight and every number of the optimizers' state, copied."""

    def copy(model, optimizers=()):
        state = {key: tensor.clone() for optimizer in optimizers for key, tensor in optimizer.state().items()}
        return {name: p.detach().clone() for name, p in model.named_parameters()} | state

    return copy
