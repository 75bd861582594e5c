"""Start-up: from exec to the first finished optimizer step of a model of 10M parameters, the text prepared before.

Ours is `hornbook train`, watched from outside until its record of step 1; the peer is a script with transformers'
Trainer (LlamaForCausalLM of the same shape), which says when its first step has ended.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from common import HERE, Case, Compare, data, peers_python, play

LAYERS, WIDTH, HEADS, HIDDEN, CONTEXT, BATCH, VOCABULARY = 6, 320, 5, 864, 256, 8, 4096
CASES = (
    Case(
        "first step", f"Exec to the first step of {BATCH} sequences of {CONTEXT} tokens, 10M parameters.", "s", False,
        ("hornbook", "transformers"), (Compare("hornbook", "transformers", 2.0),), gate_of="none: it is a time",
        rounds=7, starts_peer=True,
    ),
)  # fmt: skip
PEER = f"""
import sys, time, torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments
class Watch(TrainerCallback):
    def on_step_end(self, *_, **__):
        print("first step", flush=True)
model = LlamaForCausalLM(LlamaConfig(vocab_size={VOCABULARY}, hidden_size={WIDTH}, intermediate_size={HIDDEN},
    num_hidden_layers={LAYERS}, num_attention_heads={HEADS}, max_position_embeddings={CONTEXT}))
ids = torch.from_file(sys.argv[1], size={CONTEXT * BATCH * 4}, dtype=torch.int16).long().view(-1, {CONTEXT})
rows = [dict(input_ids=row, labels=row) for row in ids]
arguments = TrainingArguments(sys.argv[2], per_device_train_batch_size={BATCH}, max_steps=1, save_strategy="no",
    report_to=[], use_cpu=True, disable_tqdm=True)
Trainer(model, arguments, train_dataset=rows, callbacks=[Watch()]).train()
"""


def prepare(name: str, folder: Path) -> None:
    import numpy as np

    import hornbook

    book = data() / "books" / "war-and-peace.txt"
    hornbook.prepare(str(book), out=str(folder / "prepared"), tokenizer=f"bpe:{VOCABULARY}")
    np.arange(CONTEXT * BATCH * 4).astype(np.int16).__mod__(VOCABULARY).tofile(folder / "ids.bin")
    (folder / "peer.py").write_text(PEER)


def side(name: str, which: str, folder: Path) -> dict[str, Any]:
    out = folder / f"run-{time.monotonic_ns()}"
    if which == "transformers":
        command = [peers_python(), str(folder / "peer.py"), str(folder / "ids.bin"), str(out)]
        begin = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        next(line for line in process.stdout if line.startswith("first step"))
        seconds = time.monotonic() - begin
    else:
        shape = {"layers": LAYERS, "width": WIDTH, "heads": HEADS, "intermediate_size": HIDDEN, "context": CONTEXT}
        flags = [text for key, value in shape.items() for text in (f"--model.{key}", str(value))]
        flags += ["--train.batch", str(BATCH), "--steps", "100", "--out", str(out)]
        begin = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "hornbook", "train", str(folder / "prepared"), *flags], cwd=HERE.parent,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        metrics = out / "metrics.jsonl"
        while not metrics.is_file() or b'"event":"step"' not in metrics.read_bytes().replace(b" ", b""):
            assert process.poll() is None, "hornbook train ended"
            time.sleep(0.005)
        seconds = time.monotonic() - begin
    process.kill()
    process.wait()
    return {"value": seconds}


if __name__ == "__main__":
    play(CASES, prepare, side)
