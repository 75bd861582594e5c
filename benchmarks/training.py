"""Training throughput on one graph: GPT-2 of three sizes from the same weights on the same batches, AdamW.

Ours is `train_step`, as `hornbook train` calls it. The peer is transformers' GPT2LMHeadModel in the leanest loop (no
Trainer): SDPA, fused AdamW, clipping, nothing read back; compiled: `torch.compile` of the model. All in float32; and,
for CPUs with units for it, all under bfloat16 autocast, where ours is held against the peer's float32 as well.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from common import Case, Compare, data, huggingface_folder, matmul_peak, play

# layers, width, heads, vocabulary, context, batch, steps that warm up, steps that count
SIZES = {
    "training S": (4, 128, 4, 65, 64, 12, 20, 100),
    "training M": (6, 384, 6, 65, 256, 16, 2, 5),
    "training L": (12, 768, 12, 50257, 256, 4, 1, 3),
}
LEARNING_RATE, BETA1, BETA2, DECAY, CLIP = 1e-3, 0.9, 0.95, 0.1, 1.0
SIDES = ("hornbook", "transformers", "transformers compiled")
HALF = tuple(f"{side} bfloat16" for side in SIDES)


def size(name: str) -> tuple[int, ...]:
    return SIZES[name.removesuffix(" bfloat16")]


def _case(name: str, eager: float, compiled: float, rounds: int) -> Case:
    layers, width, _, vocabulary, context, batch, _, _ = SIZES[name]
    return Case(
        name,
        f"GPT-2 graph, {layers} layers of {width}, vocabulary {vocabulary:,}, {batch} sequences of {context} tokens a "
        "step, AdamW, float32. Start-up, compilation and the first steps are not counted.",
        "tokens/s", True, SIDES, (Compare(SIDES[0], SIDES[1], eager), Compare(SIDES[0], SIDES[2], compiled)), 1e-3,
        "the losses of all steps within 0.1 %", rounds,
    )  # fmt: skip


def _half(case: Case) -> Case:
    """The same in bfloat16. The peer's float32 stands beside, in case it is faster so."""
    sides, half, eager, compiled = (*HALF, *SIDES[1:]), HALF[0], *case.compare
    compare = (
        Compare(half, HALF[1], eager.target), Compare(half, HALF[2], compiled.target),
        Compare(half, SIDES[1], eager.target), Compare(half, SIDES[2], compiled.target),
    )  # fmt: skip
    return replace(
        case, name=f"{case.name} bfloat16", what=case.what.replace("float32", "bfloat16 autocast"), sides=sides,
        compare=compare, tolerance=0.02, gate_of="the losses of all steps within 2 %",
    )  # fmt: skip


CASES = (_case("training S", 2.0, 1.2, 5), _case("training M", 1.3, 1.0, 5), _case("training L", 1.1, 1.0, 3))
CASES += tuple(_half(case) for case in CASES)


def prepare(name: str, folder: Path) -> None:
    from hornbook.facts.shape import GPTShape

    layers, width, heads, vocabulary, context, *_ = size(name)
    shape = GPTShape(family="gpt2", layers=layers, width=width, heads=heads, vocabulary=vocabulary, context=context)
    huggingface_folder(shape, folder / "model", spread=0.0)


def batches(name: str) -> list[Any]:
    """Inputs and targets of every step, the same for all sides."""
    import torch

    *_, context, batch, warm, counted = size(name)
    text = (data() / "tinyshakespeare.txt").read_text(encoding="utf-8")
    table = {character: i for i, character in enumerate(sorted(set(text)))}
    ids = torch.tensor([table[character] for character in text])
    generator = torch.Generator().manual_seed(0)
    made = []
    for _ in range(warm + counted):
        rows = ids[torch.randint(len(ids) - context, (batch, 1), generator=generator) + torch.arange(context + 1)]
        made.append((rows[:, :-1].contiguous(), rows[:, 1:].contiguous()))
    return made


def autocast(which: str) -> Any:
    import torch

    return partial(torch.autocast, "cpu", torch.bfloat16) if "bfloat16" in which else None


def hornbook(which: str, folder: Path) -> Any:
    from hornbook.formats.huggingface import load_huggingface
    from hornbook.optim.adamw import AdamW
    from hornbook.optim.groups import groups
    from hornbook.training.step import train_step

    model = load_huggingface(folder / "model").train()
    optimizers = [
        AdamW(some, learning_rate=LEARNING_RATE, beta1=BETA1, beta2=BETA2, epsilon=1e-8, weight_decay=decay)
        for some, decay in zip(groups(model), (DECAY, 0.0), strict=True)
    ]

    def step(inputs: Any, targets: Any) -> Any:
        pending = train_step(
            model, optimizers, [(inputs, targets, None)], lr_scale=1.0, clip_norm=CLIP, autocast=autocast(which)
        )
        assert pending is not None
        return pending.read().loss

    return step, model.shape.flops_per_token()


def transformers(which: str, folder: Path) -> Any:
    import torch
    from transformers import GPT2LMHeadModel

    model = GPT2LMHeadModel.from_pretrained(folder / "model", dtype=torch.float32, attn_implementation="sdpa").train()
    tables = {id(model.transformer.wte.weight), id(model.transformer.wpe.weight)}
    decayed = [p for p in model.parameters() if p.dim() == 2 and id(p) not in tables]
    rest = [p for p in model.parameters() if p.dim() < 2 or id(p) in tables]
    groups = [{"params": decayed, "weight_decay": DECAY}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(BETA1, BETA2), fused=True)
    forward = torch.compile(model) if "compiled" in which else model
    precision = autocast(which) or nullcontext

    def step(inputs: Any, targets: Any) -> Any:
        optimizer.zero_grad(set_to_none=True)
        with precision():
            logits = forward(inputs, use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        return loss.detach()

    return step, None


def side(name: str, which: str, folder: Path) -> dict[str, Any]:
    *_, context, batch, warm, counted = size(name)
    made = batches(name)
    step, flops = hornbook(which, folder) if which.startswith("hornbook") else transformers(which, folder)
    losses = [step(*one) for one in made[:warm]]
    begin = time.perf_counter()
    losses += [step(*one) for one in made[warm:]]
    seconds = time.perf_counter() - begin
    result = {"value": counted * batch * context / seconds, "gate": [float(loss) for loss in losses]}
    if flops is not None:
        peak = matmul_peak("bfloat16" if "bfloat16" in which else "float32")
        result["share_of_matmul_peak"] = result["value"] * flops / peak
    return result


if __name__ == "__main__":
    play(CASES, prepare, side)
