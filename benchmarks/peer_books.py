"""The peer: transformers' Trainer and a Llama of about 7M parameters (6 layers of 256) on prepared ids, by the clock.

AdamW fused, cosine, 5 % warm-up, 16 sequences of 256 a step. The number of steps is what fits SECONDS, by the median
step of a short trial whose time does not count; on a CPU with units for bfloat16 both precisions are tried, and the
faster is taken. Prints one JSON object and leaves a Hugging Face folder.

    python benchmarks/peer_books.py IDS OUT LEARNING_RATE (SECONDS | --steps N)
"""

import json
import statistics
import sys
import time

STARTED = time.monotonic()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments  # noqa: E402

CONTEXT, BATCH, VOCABULARY, TRIAL = 256, 16, 4096, 12


def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=256, intermediate_size=704, num_hidden_layers=6, num_attention_heads=4,
            max_position_embeddings=CONTEXT, bos_token_id=VOCABULARY - 1, eos_token_id=VOCABULARY - 1,
        )
    )  # fmt: skip


class Rows(torch.utils.data.Dataset):
    def __init__(self, path: str) -> None:
        ids = np.fromfile(path, np.uint16).astype(np.int64)
        self.rows = torch.from_numpy(ids[: len(ids) // CONTEXT * CONTEXT]).view(-1, CONTEXT)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.rows[index], "labels": self.rows[index]}


class Clock(TrainerCallback):
    """When each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: object, **__: object) -> None:
        self.ends.append(time.monotonic())


def train(rows: Rows, out: str, rate: float, steps: int, clock: Clock, *, bf16: bool = False) -> LlamaForCausalLM:
    arguments = TrainingArguments(
        out, per_device_train_batch_size=BATCH, max_steps=steps, learning_rate=rate, lr_scheduler_type="cosine",
        warmup_steps=max(1, steps // 20), weight_decay=0.1, adam_beta2=0.95, optim="adamw_torch_fused", seed=0,
        save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True, logging_steps=50, bf16=bf16,
    )  # fmt: skip
    fresh = model()
    Trainer(fresh, arguments, train_dataset=rows, callbacks=[clock]).train()
    return fresh


def main() -> None:
    ids, out, rate, *length = sys.argv[1:]
    rows = Rows(ids)
    imported, bf16 = time.monotonic() - STARTED, False
    if length[0] == "--steps":
        steps = int(length[1])
    else:
        tried = [(*trial(rows, out, float(rate), each), each) for each in (False, True)[: 1 + has_bfloat16_units()]]
        step, start, bf16 = min(tried)
        steps = int((float(length[0]) - imported - start) / step)
    begin = time.monotonic()
    trained = train(rows, out, float(rate), steps, Clock(), bf16=bf16)
    seconds = imported + time.monotonic() - begin
    trained.save_pretrained(out)
    print(json.dumps({"wall_seconds": seconds, "steps": steps, "bf16": bf16}))


def has_bfloat16_units() -> bool:
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def trial(rows: Rows, out: str, rate: float, bf16: bool) -> tuple[float, float]:
    """Seconds of the median step, and of what comes before the first."""
    begin, clock = time.monotonic(), Clock()
    train(rows, out, rate, TRIAL, clock, bf16=bf16)
    step = statistics.median(b - a for a, b in zip(clock.ends, clock.ends[1:], strict=False))
    return step, time.monotonic() - begin - TRIAL * step


if __name__ == "__main__":
    main()
