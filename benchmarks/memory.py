"""Peak memory of training GPT-2 124M: vocabulary 50,257, 4 sequences of 512 tokens a step, AdamW, float32; two steps.

The peer is transformers' Trainer with its defaults (fused AdamW); ours keeps activations or computes them again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common import Case, Compare, peak_bytes, play

SIDES = ("hornbook", "hornbook recomputing", "transformers")
CONTEXT, BATCH, STEPS = 512, 4, 2
CASES = (
    Case(
        "memory 124M", "Peak resident memory (VmHWM) of the whole process, two steps.", "GB", False, SIDES,
        (Compare(SIDES[0], SIDES[2], 1 / 0.6), Compare(SIDES[1], SIDES[2], 1 / 0.6)), 1e-4,
        "the loss of the first step within 0.01 %, from the same weights", 2,
    ),
)  # fmt: skip


def prepare(name: str, folder: Path) -> None:
    from common import huggingface_folder

    from hornbook.facts.shape import GPTShape

    shape = GPTShape(family="gpt2", layers=12, width=768, heads=12, vocabulary=50257, context=CONTEXT)
    huggingface_folder(shape, folder / "model", spread=0.0)


def rows() -> Any:
    import torch

    return torch.randint(50257, (STEPS * BATCH, CONTEXT), generator=torch.Generator().manual_seed(0))


def hornbook(folder: Path, recompute: bool) -> float:
    import torch

    from hornbook.data.packing import IGNORE
    from hornbook.engine.heap import give_back_memory
    from hornbook.formats.huggingface import load_huggingface
    from hornbook.optim.adamw import AdamW
    from hornbook.optim.groups import groups
    from hornbook.training.step import train_step

    model = load_huggingface(folder / "model").train()
    model.recompute = recompute
    if recompute:
        give_back_memory()
    optimizers = [
        AdamW(some, learning_rate=1e-4, beta1=0.9, beta2=0.95, epsilon=1e-8, weight_decay=0.1) for some in groups(model)
    ]
    losses = []
    for step in range(STEPS):
        inputs = rows()[step * BATCH : (step + 1) * BATCH]
        targets = torch.cat([inputs[:, 1:], torch.full((BATCH, 1), IGNORE)], 1)
        pending = train_step(model, optimizers, [(inputs, targets, None)], lr_scale=1.0, clip_norm=1.0)
        assert pending is not None
        losses.append(pending.read().loss)
    return losses[0]


def transformers(folder: Path) -> float:
    import torch
    from transformers import GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

    model = GPT2LMHeadModel.from_pretrained(folder / "model", dtype=torch.float32, attn_implementation="sdpa")
    dataset = [{"input_ids": row, "labels": row} for row in rows()]
    losses: list[float] = []

    class Watch(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if "loss" in logs:
                losses.append(float(logs["loss"]))

    class InOrder(Trainer):
        def _get_train_sampler(self, *_: Any, **__: Any) -> Any:
            return torch.utils.data.SequentialSampler(dataset)

    arguments = TrainingArguments(
        str(folder / "out"), per_device_train_batch_size=BATCH, max_steps=STEPS, learning_rate=1e-4, logging_steps=1,
        save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    InOrder(model, arguments, train_dataset=dataset, callbacks=[Watch()]).train()
    return losses[0] * CONTEXT / (CONTEXT - 1)  # Trainer divides by all labels, the first of a row too


def side(name: str, which: str, folder: Path) -> dict[str, Any]:
    loss = transformers(folder) if which == "transformers" else hornbook(folder, "recomputing" in which)
    return {"value": peak_bytes() / 1e9, "gate": loss}


if __name__ == "__main__":
    play(CASES, prepare, side)
