"""The training gate: the loss, step by step, is that of transformers under torch's AdamW from the same weights."""

import pytest
import torch
from torch.nn import functional as F

from hornbook.facts.shape import GPTShape
from hornbook.formats.huggingface import write_huggingface
from hornbook.model.decoder import Decoder
from hornbook.model.init import initialise
from hornbook.optim.adamw import AdamW
from hornbook.optim.groups import groups
from hornbook.training.step import train_step

STEPS, BATCH, CONTEXT, VOCABULARY, LEARNING_RATE, DECAY, CLIP = 20, 8, 24, 64, 3e-3, 0.1, 1.0


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """A language that can be learned in 20 steps: each token mostly decides the next."""
    generator = torch.Generator().manual_seed(1)
    follows = torch.randperm(VOCABULARY, generator=generator)
    drawn = []
    for _ in range(STEPS):
        text = torch.randint(0, 12, (BATCH, CONTEXT + 1), generator=generator)
        for t in range(1, CONTEXT + 1):
            noise = torch.rand(BATCH, generator=generator) < 0.1
            text[:, t] = torch.where(noise, text[:, t], follows[text[:, t - 1]])
        drawn.append((text[:, :-1], text[:, 1:]))
    return drawn


def our_trace(model: Decoder) -> list[float]:
    matrices, others = groups(model)
    moments = {"learning_rate": LEARNING_RATE, "beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8}
    optimizers = [AdamW(matrices, **moments, weight_decay=DECAY), AdamW(others, **moments, weight_decay=0.0)]
    losses = []
    for inputs, targets in batches():
        update = train_step(model, optimizers, [(inputs, targets, None)], lr_scale=1.0, clip_norm=CLIP).read()
        assert update is not None
        losses.append(update.loss)
    return losses


def their_trace(model: torch.nn.Module, decayed: set[int]) -> list[float]:
    parameters = [([p for p in model.parameters() if (id(p) in decayed) is kind]) for kind in (True, False)]
    optimizer = torch.optim.AdamW(
        [{"params": parameters[0], "weight_decay": DECAY}, {"params": parameters[1], "weight_decay": 0.0}],
        lr=LEARNING_RATE, betas=(0.9, 0.95), eps=1e-8,
    )  # fmt: skip
    losses = []
    for inputs, targets in batches():
        loss = F.cross_entropy(model(inputs).logits.flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("tied", [True, False])
def test_loss_trace_equals_transformers(tmp_path, family, tied):
    transformers = pytest.importorskip("transformers", reason="transformers is the second implementation here")
    shape = GPTShape(
        family=family, layers=2, width=64, heads=4, kv_heads=4 if family == "gpt2" else 2, context=CONTEXT,
        vocabulary=VOCABULARY, tied=tied,
    )  # fmt: skip
    model = initialise(Decoder(shape), seed=2)
    write_huggingface(model, tmp_path / "start")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "start", dtype=torch.float32, attn_implementation="eager"
    ).train()
    linear = (torch.nn.Linear, transformers.pytorch_utils.Conv1D)
    embeddings = {id(m.weight) for m in theirs.modules() if isinstance(m, torch.nn.Embedding)}
    decayed = {id(m.weight) for m in theirs.modules() if isinstance(m, linear)} - embeddings
    ours, wanted = our_trace(model), their_trace(theirs, decayed)
    assert ours == pytest.approx(wanted, rel=1e-4)
    assert ours[0] - ours[-1] > 1  # a trace that stands still would prove nothing
    for name, parameter in theirs.named_parameters():  # and it moved every kind of weight
        assert parameter.grad is not None, name
