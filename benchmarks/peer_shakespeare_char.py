"""The peer: nanoGPT's documented CPU recipe for Shakespeare by characters, with transformers' GPT-2.

4 layers, width 128, 4 heads, context 64, batch 12, 2,000 steps, AdamW 1e-3 (betas 0.9 and 0.99, decay 0.1), cosine to
1e-4 after 100 steps of warm-up, clip 1.0, no dropout. Prints one JSON object: the loss on the whole validation tail of
10 % in disjoint windows of 64, and the wall time from the start of the process.

    python benchmarks/peer_shakespeare_char.py TEXT [--steps N] [--seed N]
"""

import time

STARTED = time.monotonic()

import argparse  # noqa: E402
import json  # noqa: E402
import math  # noqa: E402
from pathlib import Path  # noqa: E402

import torch  # noqa: E402
from transformers import GPT2Config, GPT2LMHeadModel  # noqa: E402

CONTEXT, BATCH, WARMUP, PEAK, FLOOR = 64, 12, 100, 1e-3, 1e-4


def learning_rate(step: int, steps: int) -> float:
    if step < WARMUP:
        return PEAK * (step + 1) / (WARMUP + 1)
    return FLOOR + 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / (steps - WARMUP))) * (PEAK - FLOOR)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1337)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    text = Path(arguments.text).read_text(encoding="utf-8")
    vocabulary = sorted(set(text))
    table = {character: i for i, character in enumerate(vocabulary)}
    ids = torch.tensor([table[character] for character in text])
    train, validation = ids[: int(0.9 * len(ids))], ids[int(0.9 * len(ids)) :]
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(vocabulary), n_positions=CONTEXT, n_embd=128, n_layer=4, n_head=4,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
        )
    )  # fmt: skip
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    rest = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK, betas=(0.9, 0.99), fused=True)
    for step in range(arguments.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, arguments.steps)
        starts = torch.randint(len(train) - CONTEXT, (BATCH,))
        rows = train[starts[:, None] + torch.arange(CONTEXT + 1)]
        logits = model(rows[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    wall_seconds = time.monotonic() - STARTED
    model.eval()
    windows = (len(validation) - 1) // CONTEXT
    inputs = validation[: windows * CONTEXT].view(windows, CONTEXT)
    targets = validation[1 : windows * CONTEXT + 1].view(windows, CONTEXT)
    nats = 0.0
    with torch.no_grad():
        for start in range(0, windows, 64):
            logits = model(inputs[start : start + 64]).logits.double()
            part = targets[start : start + 64].flatten()
            nats += torch.nn.functional.cross_entropy(logits.flatten(0, 1), part, reduction="sum").item()
    result = {
        "loss_nats_per_token": nats / (windows * CONTEXT), "num_tokens": windows * CONTEXT, "steps": arguments.steps,
        "num_parameters": sum(p.numel() for p in model.parameters()), "wall_seconds": wall_seconds,
    }  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    main()
