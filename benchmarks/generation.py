"""Generation at batch 1: a prompt of 32 ids, 256 new ones, greedy, float32; GPT-2 graphs of two sizes, same weights.

The peer is `generate` of transformers with its dynamic cache. What a step must read (all weights but the embedding
table, and the keys and values) over the bandwidth measured in the same process gives the limit.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from common import Case, Compare, huggingface_folder, play, read_bandwidth

SIZES = {"generation 6M": (6, 256, 8, 4096), "generation 124M": (12, 768, 12, 50257)}
PROMPT, NEW, CONTEXT = 32, 256, 512
SIDES = ("hornbook", "hornbook int8", "hornbook without kernel", "transformers")


def _case(name: str, target: float, rounds: int) -> Case:
    compare = (Compare(SIDES[0], SIDES[3], target), Compare(SIDES[1], SIDES[0], 3.0), Compare(SIDES[2], SIDES[3]))
    return Case(
        name, f"Prompt of {PROMPT} ids, {NEW} new ones, greedy, batch 1. Loading and the first tokens are not counted.",
        "tokens/s", True, SIDES, compare, 0.0, "the same ids on all sides but int8", rounds,
    )  # fmt: skip


CASES = (_case("generation 6M", 8.0, 5), _case("generation 124M", 2.2, 5))


def prepare(name: str, folder: Path) -> None:
    from hornbook.facts.shape import GPTShape

    layers, width, heads, vocabulary = SIZES[name]
    shape = GPTShape(family="gpt2", layers=layers, width=width, heads=heads, vocabulary=vocabulary, context=CONTEXT)
    huggingface_folder(shape, folder / "model", spread=0.02)


def prompt(vocabulary: int) -> list[int]:
    return [(i * 2654435761) % vocabulary for i in range(1, PROMPT + 1)]


def hornbook(folder: Path, *, native: bool, int8: bool) -> dict[str, Any]:
    from hornbook.formats.huggingface import load_huggingface
    from hornbook.model.generate import generate

    model = load_huggingface(folder / "model")
    ids = prompt(model.shape.vocabulary)
    tokens = generate(model, ids, max_tokens=NEW + 8, temperature=0, native=native, int8=int8)
    made = [next(tokens) for _ in range(8)]
    begin = time.perf_counter()
    made += list(tokens)
    seconds = time.perf_counter() - begin
    result: dict[str, Any] = {"value": NEW / seconds}
    if not int8:
        result["gate"] = made
    size = 1 if int8 else 4
    read = size * model.shape.matmul_parameters + (PROMPT + NEW / 2) * model.shape.cache_bytes_per_token()
    return result | {"share_of_bandwidth_limit": read * result["value"] / read_bandwidth()}


def transformers(folder: Path) -> dict[str, Any]:
    import torch
    from transformers import GPT2LMHeadModel

    model = GPT2LMHeadModel.from_pretrained(folder / "model", dtype=torch.float32, attn_implementation="sdpa").eval()
    model.generation_config.eos_token_id = None
    ids = torch.tensor([prompt(model.config.vocab_size)])
    mask = torch.ones_like(ids)
    model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=8, pad_token_id=0)
    begin = time.perf_counter()
    made = model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=NEW + 8, pad_token_id=0)
    seconds = time.perf_counter() - begin
    return {"value": (NEW + 8) / seconds, "gate": made[0, PROMPT:].tolist()}


def side(name: str, which: str, folder: Path) -> dict[str, Any]:
    if which == "transformers":
        return transformers(folder)
    return hornbook(folder, native="without" not in which, int8="int8" in which)


if __name__ == "__main__":
    play(CASES, prepare, side)
