"""The peer: GPT-2 small from scratch on one short story, as chapter 5 of "Build a Large Language Model (From Scratch)".

Its published settings in plain PyTorch, written for this benchmark: 12 layers of 768, context 256, no biases of query,
key and value, a head of its own, dropout 0.1, PyTorch's default initialisation; AdamW 5e-4 with decay 0.1 on all
weights, batches of 2 windows, 10 epochs, nothing clipped. Every 5 steps one batch of each side is scored, after each
epoch 50 tokens are written, greedily and without a cache. Where the book writes out a layer norm, a GELU or an
embedding, PyTorch's is used, which is no slower.

IDS is a JSON object with the ids of both sides, `train` and `validation`. Prints one JSON object: the two curves as
[step, training loss, validation loss], the losses of all windows after the last step, and the wall from the start of
the process to the last sample.

    python benchmarks/peer_verdict.py IDS [--seed N] [--steps N]
"""

import time

STARTED = time.monotonic()

import argparse  # noqa: E402
import json  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

VOCABULARY, CONTEXT, WIDTH, HEADS, LAYERS, DROPOUT = 50_257, 256, 768, 12, 12, 0.1
BATCH, EPOCHS, RATE, DECAY, EVALUATE_EVERY, SAMPLE_TOKENS = 2, 10, 5e-4, 0.1, 5, 50
PROMPT = [6109, 3626, 6100, 345]  # "Every effort moves you"


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(3))
        self.output = nn.Linear(WIDTH, WIDTH)
        self.dropout = nn.Dropout(DROPOUT)
        self.register_buffer("later", torch.ones(CONTEXT, CONTEXT, dtype=torch.bool).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        rows, length, _ = x.shape
        q, k, v = (
            part(x).view(rows, length, HEADS, WIDTH // HEADS).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        scores = (q @ k.transpose(2, 3)).masked_fill(self.later[:length, :length], -torch.inf)
        weights = self.dropout((scores / (WIDTH // HEADS) ** 0.5).softmax(-1))
        return self.output((weights @ v).transpose(1, 2).reshape(rows, length, WIDTH))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.attention = Attention()
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU("tanh"), nn.Linear(4 * WIDTH, WIDTH))
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.norms[0](x)))
        return x + self.dropout(self.mlp(self.norms[1](x)))


class GPT2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.dropout = nn.Dropout(DROPOUT)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.dropout(self.tokens(ids) + self.positions(torch.arange(ids.shape[1])))
        return self.head(self.norm(self.blocks(x)))


def windows(ids: list[int]) -> Tensor:
    """Disjoint windows of the context and the id after each, (windows, CONTEXT + 1); what is left over is dropped."""
    return torch.tensor([ids[at : at + CONTEXT + 1] for at in range(0, len(ids) - CONTEXT, CONTEXT)])


def loss(model: GPT2, rows: Tensor) -> Tensor:
    return F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())


@torch.no_grad()
def evaluated(model: GPT2, batches: list[Tensor]) -> float:
    model.eval()
    mean = sum(loss(model, rows).item() * len(rows) for rows in batches) / sum(len(rows) for rows in batches)
    model.train()
    return mean


@torch.no_grad()
def sample(model: GPT2) -> list[int]:
    model.eval()
    ids = torch.tensor([PROMPT])
    for _ in range(SAMPLE_TOKENS):
        ids = torch.cat([ids, model(ids[:, -CONTEXT:])[:, -1].argmax(-1, keepdim=True)], 1)
    model.train()
    return ids[0].tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ids")
    parser.add_argument("--seed", type=int, default=123)
    parser.add_argument("--steps", type=int, help="stop after so many steps")
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    ids = json.loads(Path(arguments.ids).read_text())
    train, validation = windows(ids["train"]), windows(ids["validation"])
    model = GPT2()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
    curve, per_epoch = [], len(train) // BATCH
    for step in range(1, (arguments.steps or EPOCHS * per_epoch) + 1):
        if step % per_epoch == 1:
            order = iter(torch.randperm(len(train)).split(BATCH))
        optimizer.zero_grad()
        loss(model, train[next(order)]).backward()
        optimizer.step()
        if step % EVALUATE_EVERY == 0:
            some = train[torch.randperm(len(train))[:BATCH]]
            curve.append([step, evaluated(model, [some]), evaluated(model, [validation[:BATCH]])])
            print(*curve[-1], file=sys.stderr)
        if step % per_epoch == 0:
            print(sample(model), file=sys.stderr)
    result = {
        "wall_seconds": time.monotonic() - STARTED, "steps": step, "curve": curve,
        "num_parameters": sum(p.numel() for p in model.parameters()),
        "train_loss": evaluated(model, list(train.split(BATCH))),
        "validation_loss": evaluated(model, list(validation.split(BATCH))),
    }  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    main()
