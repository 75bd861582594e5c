"""Plans against what came: time, memory and loss of varied runs; faults that are seeded; healthy runs left in peace.

    python benchmarks/plan_scored.py runs DATA      ten runs, each a process of its own: an idle machine, please
    python benchmarks/plan_scored.py healthy DATA   twenty runs: how many are warned of, and what they came to
    python benchmarks/plan_scored.py faults DATA    six kinds of fault, five seeds each: how many are named
    python benchmarks/plan_scored.py law DATA       the rule of small runs, fitted on the first two, without training

DATA is a folder with books/*.txt, tinyshakespeare.txt and the-verdict.txt. Results are added to
benchmarks/results/plan_scored.json.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "plan_scored.json"
BOOK = "books/{}.txt"

# text, tokenizer, layers, width, context, batch, steps
RUNS: list[tuple[str, str, int, int, int, int, int]] = [
    ("tinyshakespeare.txt", "characters", 4, 128, 64, 32, 100),
    ("books/pride-and-prejudice.txt", "bpe:1024", 4, 128, 128, 16, 90),
    ("books/war-of-the-worlds.txt", "auto", 3, 96, 128, 16, 160),
    ("books/walden.txt", "bpe:2048", 2, 192, 128, 32, 40),
    ("books/jane-eyre.txt", "auto", 4, 192, 128, 8, 90),
    ("books/tom-sawyer.txt", "bytes", 3, 96, 256, 8, 150),
    ("books", "bpe:4096", 4, 128, 128, 16, 70),
    ("books/scarlet-letter.txt", "bpe:512", 6, 96, 64, 64, 70),
    ("tinyshakespeare.txt", "auto", 2, 256, 128, 8, 120),
    ("books/david-copperfield.txt", "characters", 3, 160, 256, 4, 120),
]
# As above; and what else is set.
HEALTHY: list[tuple[str, str, int, int, int, int, int, dict[str, Any]]] = [
    ("tinyshakespeare.txt", "characters", 2, 64, 64, 16, 300, {}),
    ("tinyshakespeare.txt", "auto", 3, 96, 64, 16, 200, {}),
    ("tinyshakespeare.txt", "bytes", 4, 128, 64, 12, 150, {}),
    ("books/emma.txt", "auto", 2, 64, 128, 16, 250, {}),
    ("books/emma.txt", "bpe:512", 3, 128, 64, 16, 200, {"optimizer.name": "adamw"}),
    ("books/frankenstein.txt", "bytes", 3, 96, 128, 8, 250, {"model.family": "gpt2"}),
    ("books/frankenstein.txt", "bpe:2048", 2, 128, 64, 32, 150, {}),
    ("books/alice-in-wonderland.txt", "auto", 3, 96, 64, 16, 250, {}),
    ("books/alice-in-wonderland.txt", "bytes", 2, 64, 128, 8, 300, {"optimizer.name": "adamw"}),
    ("books/dorian-gray.txt", "bpe:1024", 4, 96, 64, 32, 150, {"model.family": "gpt2"}),
    ("books/dorian-gray.txt", "bytes", 4, 64, 128, 16, 250, {}),
    ("books/peter-pan.txt", "auto", 2, 128, 128, 8, 200, {"schedule.name": "cosine"}),
    ("books/war-and-peace.txt", "bpe:4096", 2, 96, 64, 32, 150, {}),
    ("books/war-and-peace.txt", "bpe:1024", 3, 64, 128, 16, 300, {}),
    ("books/grimms-fairy-tales.txt", "auto", 4, 128, 64, 16, 200, {}),
    ("books/grimms-fairy-tales.txt", "bpe:512", 2, 192, 64, 16, 200, {"schedule.warmup_steps": 0}),
    ("books", "auto", 3, 128, 64, 16, 200, {}),
    ("books", "bpe:1024", 2, 128, 128, 16, 200, {"optimizer.name": "adamw", "model.family": "gpt2"}),
    ("books/wizard-of-oz.txt", "auto", 3, 64, 64, 32, 250, {"model.dropout": 0.1}),
    ("the-verdict.txt", "auto", 2, 64, 64, 8, 250, {}),
]


def settings(case: tuple[Any, ...]) -> dict[str, Any]:
    _, tokenizer, layers, width, context, batch, steps, *more = case
    return {
        "text.tokenizer": tokenizer, "model.layers": layers, "model.width": width, "model.heads": width // 32,
        "model.context": context, "train.batch": batch, "train.steps": steps,
    } | (more[0] if more else {})  # fmt: skip


def scored_runs(data: Path) -> list[dict[str, Any]]:
    """Each in a process of its own, so that time and memory are those of the command."""
    rows = []
    for number, case in enumerate(RUNS):
        flags = [word for name, value in settings(case).items() for word in (f"--{name}", str(value))]
        command = [sys.executable, "-m", "hornbook", "train", str(data / case[0]), *flags, "--out", f"scored-{number}"]
        done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
        score = json.loads(done.stdout)["plan_score"]
        row: dict[str, Any] = {"case": list(case)}
        for name in ("wall_seconds", "memory_bytes"):
            row[name] = {"predicted": score[name]["predicted"], "actual": score[name]["actual"]}
        known = json.loads(Path(f"scored-{number}", "plan.json").read_text())
        row["bits_per_byte"] = score["bits_per_byte"] | {"interval_90": known["plan"]["bits_per_byte_interval_90"]}
        row["pace"] = known["pace"]
        print(json.dumps(row), flush=True)
        rows.append(row)
    return rows


def warnings(folder: Path) -> dict[str, int]:
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return {row["fault"]: row["step"] for row in rows if row["event"] == "warning"}


def healthy_runs(data: Path) -> list[dict[str, Any]]:
    import hornbook

    rows = []
    for number, case in enumerate(HEALTHY):
        summary = hornbook.train(
            str(data / case[0]), out=f"healthy-{number}", **settings(case), **{"train.seed": number}
        )
        row = {
            "case": list(case), "warnings": warnings(Path(summary["run"])), "tokens": summary["tokens"],
            "num_parameters": summary["num_parameters"], "vocabulary": summary["vocabulary"],
            "epoch": summary["epoch"], "bits_per_byte": summary["bits_per_byte"],
        }  # fmt: skip
        print(json.dumps(row), flush=True)
        rows.append(row)
    return rows


# ---- The rule of small runs (`planning.expect.small_run_bits`)


def of_the_law(data: Path) -> list[dict[str, Any]]:
    """Each recorded run that the rule speaks of, with its n-gram baselines counted again on its text."""
    from hornbook.data.shards import NUM_BYTES
    from hornbook.facts.settings import from_table, overridden
    from hornbook.planning.choose import Machine, choose
    from hornbook.planning.workload import CorpusStats
    from hornbook.setup.expectation import ngram_baselines
    from hornbook.setup.text import prepared_text

    known = json.loads(RESULTS.resolve().read_text())
    cases = [(RUNS[i], row["bits_per_byte"]["actual"]) for i, row in enumerate(known["runs"])]
    cases += [(HEALTHY[i], row["bits_per_byte"]) for i, row in enumerate(known["healthy"])]
    rows = []
    for case, bits in cases:
        if {"optimizer.name", "model.family"} & settings(case).keys() or case[0] == "the-verdict.txt":
            continue
        wanted = from_table(overridden({}, settings(case) | {"text.paths": [str(data / case[0])]}), source="settings")
        prepared = prepared_text(wanted.text)
        part, num_bytes = prepared.train, int(prepared.train.documents[:, NUM_BYTES].sum())
        shape = choose(
            wanted, CorpusStats(part.num_tokens, num_bytes, prepared.tokenizer.vocabulary), Machine(False, 2**34)
        ).shape  # fmt: skip
        tokens = case[6] * case[5] * case[4]
        row = {
            "case": list(case), "bits_per_byte": bits, "num_parameters": shape.parameters, "train_bytes": num_bytes,
            "tokens": tokens, "epochs": tokens / part.num_tokens,
            "levels": {name: each["bits_per_byte"] for name, each in ngram_baselines(prepared, shape).items()},
        }  # fmt: skip
        print(json.dumps(row), flush=True)
        rows.append(row)
    return rows


def fitted_law(data: Path) -> dict[str, Any]:
    """Least squares of the rule's logarithm, and what each run would have been told by the others."""
    import numpy as np

    from hornbook.facts.capacity import effective_tokens

    rows = of_the_law(data)
    best = np.array([min(row["levels"].values()) for row in rows])
    bits = np.array([row["bits_per_byte"] for row in rows])
    x = np.array([
        [1, np.log(effective_tokens(row["train_bytes"], row["epochs"]) / 6e5), np.log(row["num_parameters"] / 5e5),
         np.log(row["train_bytes"] / 5e5)]
        for row in rows
    ])  # fmt: skip
    y = np.log(bits / best)
    fit = np.linalg.lstsq(x, y)[0]
    errors = []
    for i in range(len(rows)):
        others = np.arange(len(rows)) != i
        errors.append(float(best[i] * np.exp(x[i] @ np.linalg.lstsq(x[others], y[others])[0]) - bits[i]))
    law = {
        "offset, per ln of bytes seen, parameters, bytes of text": [round(float(c), 3) for c in fit],
        "errors_left_out_bits_per_byte": [round(error, 4) for error in errors],
        "best_levels": [float(best.min()), float(best.max())],
    }
    print(json.dumps(law))
    return law | {"rows": rows}


# ---- Seeded faults: each breaks one thing of a real run, from outside


@contextlib.contextmanager
def replaced(place: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(place, name)
    setattr(place, name, value)
    try:
        yield
    finally:
        setattr(place, name, before)


@contextlib.contextmanager
def shuffled_labels() -> Iterator[None]:
    import numpy as np

    from hornbook.data.loader import Batches

    batch = Batches.batch

    def shuffled(self: Any, step: int) -> Any:
        inputs, targets = batch(self, step)
        order = np.random.default_rng(step).permutation(targets.size)
        return inputs, targets.reshape(-1)[order].reshape(targets.shape)

    with replaced(Batches, "batch", shuffled):
        yield


@contextlib.contextmanager
def other_tokenizer() -> Iterator[None]:
    """The validation text in another order of ids."""
    import numpy as np

    from hornbook.data.shards import Prepared, TokenStream
    from hornbook.setup import run as start

    prepared_text = start.prepared_text

    def permuted(*arguments: Any, **named: Any) -> Any:
        made = prepared_text(*arguments, **named)
        order = np.random.default_rng(0).permutation(made.tokenizer.vocabulary).astype(np.uint16)
        side = made.validation
        shards = [order[np.asarray(shard)] for shard in side.shards]
        other = TokenStream(shards, side.documents, side.names, separator=side.separator)
        return Prepared(made.folder, made.manifest, made.tokenizer, made.train, other)

    with replaced(start, "prepared_text", permuted):
        yield


FAULTS: dict[str, tuple[dict[str, Any], Any]] = {
    "learning rate": ({"optimizer.learning_rate": 0.3, "optimizer.muon_learning_rate": 0.9}, contextlib.nullcontext),
    "only token frequencies": ({"train.steps": 240}, shuffled_labels),
    "unlike validation text": ({}, other_tokenizer),
    "no warm-up": (
        {"schedule.warmup_steps": 0, "optimizer.learning_rate": 0.05, "optimizer.muon_learning_rate": 0.1},
        contextlib.nullcontext,
    ),
}


def seeded_faults(data: Path) -> list[dict[str, Any]]:
    import hornbook

    rows = []
    for fault, (changes, broken) in FAULTS.items():
        for seed in range(5):
            text = data / BOOK.format(("emma", "dorian-gray", "frankenstein", "peter-pan", "wizard-of-oz")[seed])
            case = (str(text), "bytes" if seed % 2 else "bpe:512", 2, 64, 64, 16, 160)
            out = Path(f"fault-{fault.replace(' ', '-')}-{seed}")
            with broken(), contextlib.suppress(hornbook.SystemFailure):  # a run may diverge beyond repair
                hornbook.train(str(text), out=out, **(settings(case) | changes | {"train.seed": seed}))
            said = warnings(out)
            row = {"fault": fault, "seed": seed, "named": fault in said, "said": said}
            print(json.dumps(row), flush=True)
            rows.append(row)
    return rows


def main() -> None:
    what, data = sys.argv[1], Path(sys.argv[2]).resolve()
    kinds = {"runs": scored_runs, "healthy": healthy_runs, "faults": seeded_faults, "law": fitted_law}
    results = RESULTS.resolve()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        rows = kinds[what](data)
    known = json.loads(results.read_text()) if results.is_file() else {}
    results.parent.mkdir(exist_ok=True)
    results.write_text(json.dumps(known | {what: rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
