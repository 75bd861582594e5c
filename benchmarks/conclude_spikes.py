"""How often `train.skip_spikes` would leave out the batches of a healthy run, and how often it misses a bad batch; the
same of the warning of a loss spike.

Healthy runs on novels, code, verse, a book with everything around it and documents of several kinds mixed, in three
families, with both optimizers, small and larger batches and learning rates up to four times the usual; every update is
judged, the warm-up too. In each of them, every 25 updates, some windows of the batch are replaced by random bytes,
compressed bytes, a novel in Greek letters, or characters in random order: the loss that the run would have seen, by the
weights of that moment, stands in the place of its own. A missed one is judged by how far it lies above the loss of the
batch as it was. Runs are cached; about 10 minutes.
"""

from __future__ import annotations

import itertools
import json
import random
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from conclude_sentences import code, novel, verse
from conclusions import once

from hornbook.planning.health import loss_spike
from hornbook.training.left_out import robust_zscore

STEPS, CONTEXT, WIDTH, LAYERS = 800, 64, 64, 2
EVERY, FIRST = 25, 60  # injections
DOCUMENTED = 10.0
LOWER = 7.0  # as was documented
ZSCORES = (4.0, 5.0, 6.0, LOWER, 8.0, DOCUMENTED, 15.0, 20.0)
JUMPS = (0.25, 0.5, 1.0, 2.0)  # nats per token
# text, family, optimizer, windows a batch, times the usual learning rate
PAIRS = (("qwen3", "muon"), ("gpt2", "adamw"), ("llama", "muon"), ("qwen3", "adamw"), ("gpt2", "muon"))
TEXTS = itertools.product(("emma", "walden", "code", "verse", "book", "mixed"), (4, 8, 16))
RUNS: tuple[tuple[str, str, str, int, float], ...] = (
    *((text, *pair, batch, 1.0) for (text, batch), pair in zip(TEXTS, itertools.cycle(PAIRS), strict=False)),
    ("emma", "qwen3", "muon", 8, 4.0), ("code", "gpt2", "adamw", 8, 4.0), ("mixed", "llama", "adamw", 16, 4.0),
    ("book", "gpt2", "muon", 8, 2.0),
)  # fmt: skip
GREEK = str.maketrans("abcdefghijklmnopqrstuvwxyz", "αβγδεζηθικλμνξοπρστυφχψωϊϋ")


def text_of(name: str) -> str:
    if name == "book":  # with what a file of it has before and after: contents, notes, a licence
        return (common.data() / "books" / "huckleberry-finn.txt").read_text(encoding="utf-8")
    if name == "mixed":
        parts = [text[i : i + 3000] for text in (novel("emma"), code(2), verse())
                 for i in range(20_000, 200_000, 3000)]  # fmt: skip
        random.Random(0).shuffle(parts)
        return "".join(parts)
    return code(1) if name == "code" else verse() if name == "verse" else novel(name)


def injected() -> dict[str, bytes]:
    """What does not belong into a text, by its name."""
    foreign = novel("jane-eyre")[40_000:140_000]
    characters = list(foreign)
    random.Random(1).shuffle(characters)
    return {
        "random bytes": random.Random(2).randbytes(100_000),
        "compressed bytes": zlib.compress(foreign.encode() * 3, 9) + zlib.compress(code(3).encode(), 9),
        "Greek letters": foreign.lower().translate(GREEK).encode(),
        "shuffled characters": "".join(characters).encode(),
    }


def windows(stream: np.ndarray, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    cut = torch.from_numpy(stream[rows[:, None] + np.arange(CONTEXT + 1)].astype(np.int64))
    return cut[:, :-1].contiguous(), cut[:, 1:].contiguous()


def run(number: int) -> dict[str, Any]:
    """Each update's loss, and each injection's: {step, what, share, loss}."""
    from hornbook.facts.settings import from_table
    from hornbook.facts.shape import GPTShape
    from hornbook.model.decoder import Decoder
    from hornbook.model.init import initialise
    from hornbook.planning.choose import Machine, choose
    from hornbook.planning.workload import CorpusStats, fill_steps
    from hornbook.setup.build import make_optimizers
    from hornbook.training.decisions import lr_schedule
    from hornbook.training.step import summed_loss, train_step

    torch.set_num_threads(1)
    name, family, optimizer, batch, rate = RUNS[number]
    stream = np.frombuffer(text_of(name)[:400_000].encode(), np.uint8)
    bad = {what: np.frombuffer(content, np.uint8) for what, content in injected().items()}
    table = {
        "model": {"family": family, "layers": LAYERS, "width": WIDTH, "heads": 2, "context": CONTEXT},
        "optimizer": {"name": optimizer},
        "train": {"steps": STEPS, "batch": batch, "seed": number, "precision": "float32", "compile": False},
    }  # fmt: skip
    data = CorpusStats(len(stream), len(stream), 256)
    settings = choose(from_table(table, source="the benchmark"), data, Machine(False, 5e10)).settings
    fill_steps(settings, STEPS, data)
    o = settings.optimizer
    o.learning_rate = rate * (o.learning_rate or 0.0)
    o.muon_learning_rate = None if o.muon_learning_rate is None else rate * o.muon_learning_rate
    shape = GPTShape(family=family, layers=LAYERS, width=WIDTH, heads=2, vocabulary=256, context=CONTEXT)
    model = initialise(Decoder(shape), number).train()
    optimizers, scale = make_optimizers(settings, model, None), lr_schedule(settings)
    generator = np.random.default_rng(number)
    order = np.zeros(0, np.int64)
    losses: list[float] = []
    seen: list[dict[str, Any]] = []
    for step in range(STEPS):
        if len(order) < batch:  # an epoch: each window once
            order = generator.permutation(np.arange(generator.integers(CONTEXT), len(stream) - CONTEXT - 1, CONTEXT))
        rows, order = order[:batch], order[batch:]
        inputs, targets = windows(stream, rows)
        if step >= FIRST and step % EVERY == 0:
            for what, content in bad.items():
                wrong = windows(content, generator.integers(0, len(content) - CONTEXT - 1, batch))
                for count in sorted({1, batch // 4, batch}):
                    mixed = [torch.cat([b[:count], a[count:]]) for a, b in zip((inputs, targets), wrong, strict=True)]
                    with torch.no_grad():
                        loss = float(model(mixed[0], score=lambda h, t=mixed[1]: summed_loss(model, t.flatten(), h)))
                    seen.append({"step": step, "what": what, "share": count / batch,
                                 "loss": loss / mixed[1].numel()})  # fmt: skip
        pending = train_step(
            model, optimizers, [(inputs, targets, None)], lr_scale=scale(step), clip_norm=settings.optimizer.clip_norm
        )
        assert pending is not None
        losses.append(pending.read().loss)
    print(number, RUNS[number], round(np.mean(losses[-50:]), 3), flush=True)
    return {"run": RUNS[number], "losses": losses, "injected": seen}


def judged(one: dict[str, Any], score: Callable[[Sequence[float]], float]) -> dict[str, Any]:
    """The score of each update of a run, and of each injection with its jump."""
    losses = one["losses"]
    jumps = [(x | {"jump": x["loss"] - losses[x["step"]], "score": score([*losses[: x["step"]], x["loss"]])})
             for x in one["injected"]]  # fmt: skip
    return {"healthy": [score(losses[: i + 1]) for i in range(len(losses))], "injected": jumps}


def row(runs: Sequence[dict[str, Any]], threshold: float) -> dict[str, Any]:
    """How many updates of healthy runs score above a threshold, and how many injections of some jump do not."""
    healthy = [score > threshold for one in runs for score in one["healthy"]]
    counts: dict[str, Any] = {"left_out_of_healthy": sum(healthy), "updates": len(healthy)}
    for jump in JUMPS:
        scores = [x["score"] for one in runs for x in one["injected"] if x["jump"] >= jump]
        counts[f"missed_from_{jump:g}_nats"] = sum(score <= threshold for score in scores), len(scores)
    return counts


def rates(counts: dict[str, Any], jumps: Sequence[float]) -> list[dict[str, Any]]:
    missed = {jump: counts[f"missed_from_{jump:g}_nats"] for jump in jumps}
    return [
        {"what": "updates of healthy runs", "wrong": counts["left_out_of_healthy"], "tried": counts["updates"]}
    ] + [
        {"what": f"not seen of bad batches, their loss higher by {jump:g} nat{'s' * (jump != 1)} and more",
         "wrong": missed[jump][0], "tried": missed[jump][1]} | ({"beside": True} if jump < 1 else {})
        for jump in jumps
    ]  # fmt: skip


def main(work: Path) -> dict[str, Any]:
    made = [once(work / f"{number}.json", lambda number=number: run(number)) for number in range(len(RUNS))]
    runs = [judged(one, robust_zscore) for one in made]
    table = {f"{z:g}": row(runs, z) for z in ZSCORES}
    warned = row([judged(one, lambda losses: float(loss_spike(losses) is not None)) for one in made], 0.5)
    for name, counts in table.items():
        print(name, json.dumps(counts), flush=True)
    return {
        "rates": {
            "skip_spikes": [
                one | {"what": f"z above {z}: {one['what']}"}
                for z in (f"{DOCUMENTED:g}", f"{LOWER:g}")
                for one in rates(table[z], JUMPS)
            ],
            "loss spike": rates(warned, JUMPS[-2:]),
        },
        "zscores": table,
        "highest_z_of_healthy_runs": [
            {"run": one["run"], "last_50_updates": float(np.mean(one["losses"][-50:])), "z": max(scored["healthy"])}
            for one, scored in zip(made, runs, strict=True)
        ],
    }  # fmt: skip
