"""What `memorize` concludes, on cases whose answer is known; `python benchmarks/conclusions.py memorize`.

- 60 label cases: six models, each asked of ten pairs of texts that it has read neither of. Nothing is by heart, and
  nothing is known better, whatever the two texts are.
- 10 runs that have read a short text 50 times, and 6 that have read once a text in which the same 6 KB stand
  thirty times: by heart.
- 20 of these cases with five seeds: one verdict.

Texts: books, Shakespeare and code of the standard library; of a Debian system with vim, licences and a manual in many
languages; the built-in speeches.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from common import data
from conclusions import once

import hornbook
from hornbook.data.shards import Prepared
from hornbook.evaluation.memorization import memorization
from hornbook.facts.settings import from_table
from hornbook.setup.model import open_model, tokenizer_of
from hornbook.setup.text import prepared_text
from hornbook.text.documents import builtin_documents

SEEDS = 5
KEPT = (
    "verdict", "by_heart", "learned_enough", "texts_differ", "knows_better", "extraction_rate",
    "control_extraction_rate", "excess_extraction_rate_interval_95", "copied_share", "copied_share_interval_95",
    "control_copied_share", "excess_copied_share_interval_95", "copied_span_threshold_tokens",
    "generalization_gap_bits_per_byte", "generalization_gap_bits_per_byte_interval_95", "generalization_gap_share",
    "excess_gap_bits_per_byte", "excess_gap_bits_per_byte_interval_95", "text_kind_auc", "membership_auc",
    "membership_auc_interval_95", "memorized_bits", "memorized_bits_interval_95", "capacity_bits",
    "train_loss_nats_per_token", "heldout_loss_nats_per_token", "bigram_heldout_loss_nats_per_token", "conventions",
)  # fmt: skip
QUICK = {"train.threads": 1, "watch.sample_tokens": 8, "watch.sample_every": 10**6, "watch.evaluate_every": 200}
GPT2 = {"model.family": "gpt2", "optimizer.name": "adamw", "model.layers": 2, "model.width": 96, "model.heads": 4}
QWEN3 = {"model.family": "qwen3", "optimizer.name": "muon", "model.layers": 2, "model.width": 96, "model.heads": 4}
ADAMW = QWEN3 | {"optimizer.name": "adamw"}
BOOKS = GPT2 | {"optimizer.name": "muon"}
LANGUAGES = Path("/usr/share/vim")
LICENCES = Path("/usr/share/common-licenses")
LIBRARY = Path(sysconfig.get_paths()["stdlib"])

Pair = tuple[str, str, str]  # what it is, the training text and the held-out text, or the text and how it is split


# ---- Texts


def texts(work: Path) -> dict[str, Path]:
    """Every text by its name, written as one file each; `files` ones as folders."""
    folder = work / "texts"
    if not (folder / "done").is_file():
        for name, text in _sources():
            path = folder / (name if "/" in name else f"{name}.txt")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        (folder / "done").touch()
    return {path.stem: path for path in folder.iterdir() if path.name != "done"}


def _sources() -> Iterator[tuple[str, str]]:
    for path in sorted((data() / "books").glob("*.txt")):
        yield path.stem, path.read_text(encoding="utf-8")[:500_000]
    yield "shakespeare", (data() / "tinyshakespeare.txt").read_text(encoding="utf-8")[:400_000]
    modules = [path for path in sorted(LIBRARY.glob("*.py")) if 8_000 < path.stat().st_size < 60_000]
    for i, path in enumerate(modules):
        yield f"code-{'ab'[i % 2]}/{path.stem}.txt", path.read_text(encoding="utf-8", errors="ignore")
    for half in (0, 1):
        some = [path.read_text(encoding="utf-8", errors="ignore") for path in modules[half::2]]
        yield f"one-file-code-{'ab'[half]}", "\n".join(some)[:400_000]
    tables = [path.read_text(encoding="utf-8") for path in sorted((LIBRARY / "encodings").glob("cp*.py"))]
    yield "tables", "\n".join(tables[2:12])[:200_000]
    yield "tables-b", next((LIBRARY / "test").rglob("cmath_testcases.txt")).read_text(encoding="utf-8")
    yield "manual", (LIBRARY / "pydoc_data" / "topics.py").read_text(encoding="utf-8").replace("\\n", "\n")[:400_000]
    yield "news", (LIBRARY / "idlelib" / "NEWS.txt").read_text(encoding="utf-8")
    licences = [path.read_text(encoding="utf-8", errors="ignore") for path in sorted(LICENCES.glob("*[0-9]"))]
    yield "licences", "\n\n".join(dict.fromkeys(licences))
    for path in sorted(LANGUAGES.glob("vim*/tutor/tutor.*.utf-8")):
        yield f"language-{path.name.split('.')[1]}", path.read_text(encoding="utf-8")
    nine = sorted(LANGUAGES.glob("vim*/tutor/tutor.*.utf-8"))[1:28:3]
    yield "nine-languages", "\n\n".join(path.read_text(encoding="utf-8")[:8_000] for path in nine)
    speeches = builtin_documents()
    for i, document in enumerate(speeches):
        yield f"speeches-{'ab'[i % 2]}/{i:03}.txt", document.text()
    yield "one-file-speeches", "\n\n".join(document.text() for document in speeches[1::12])[:400_000]


# ---- Models and runs


MODELS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "novels-bytes": (("emma", "jane-eyre", "walden"), GPT2 | {"text.tokenizer": "bytes", "model.context": 128}),
    "novels-bpe": (("emma", "jane-eyre", "great-expectations"),
                   QWEN3 | {"text.tokenizer": "bpe:512", "model.context": 64}),
    "code-bytes": (("one-file-code-a",), ADAMW | {"text.tokenizer": "bytes", "model.context": 128}),
    "speeches-bpe": (("speeches-a",), GPT2 | {"text.tokenizer": "bpe:1024", "model.context": 128}),
    "mixture-bytes": (("great-expectations", "one-file-code-a", "manual"),
                      ADAMW | {"text.tokenizer": "bytes", "model.context": 128}),
    "languages-bytes": (tuple(f"language-{x}" for x in ("bar", "cs", "da", "es", "fr", "it", "pt", "ru", "sv")),
                        ADAMW | {"text.tokenizer": "bytes", "model.context": 96}),
}  # fmt: skip

# Ten pairs for each model, of texts that no model has read; what follows a bar is how one text is split in two.
PAIRS: dict[str, tuple[str, ...]] = {
    "novels-bytes": (
        "pride-and-prejudice|blocks:0.1", "tale-of-two-cities|tail:0.1", "dorian-gray>one-file-code-b",
        "tables>anna-karenina", "sense-and-sensibility>pride-and-prejudice", "language-de>dorian-gray",
        "huckleberry-finn>language-nl", "nine-languages|tail:0.2", "speeches-b|hash:0.2", "shakespeare>walden-b",
    ),
    "novels-bpe": (
        "war-and-peace|blocks:0.1", "dorian-gray|tail:0.1", "frankenstein>tables-b", "news>wizard-of-oz",
        "tom-sawyer>huckleberry-finn", "language-pl>language-hu", "wizard-of-oz>licences", "nine-languages|tail:0.3",
        "shakespeare|blocks:0.1", "speeches-b>shakespeare",
    ),
    "code-bytes": (
        "one-file-code-b|blocks:0.1", "code-b|hash:0.2", "one-file-code-b>tom-sawyer", "tables>shakespeare",
        "one-file-code-b>language-el", "news>licences", "licences|blocks:0.2", "moby>alice", "tables|tail:0.2",
        "nine-languages|tail:0.2",
    ),
    "speeches-bpe": (
        "speeches-b|hash:0.2", "speeches-b>dorian-gray", "one-file-speeches|tail:0.1", "licences>one-file-code-b",
        "one-file-speeches|blocks:0.1", "speeches-b>language-tr", "memoirs>adventures", "news|blocks:0.1",
        "frankenstein>shakespeare", "tables-b|blocks:0.1",
    ),
    "mixture-bytes": (
        "david-copperfield|blocks:0.1", "one-file-code-b|tail:0.1", "david-copperfield>war-of-the-worlds",
        "one-file-code-b>one-file-speeches", "news>tables", "code-b>speeches-b", "nine-languages|blocks:0.2",
        "language-nl>language-vi", "shakespeare|tail:0.1", "peter-pan>jungle-book",
    ),
    "languages-bytes": (
        "language-de|blocks:0.2", "language-de>language-ko", "language-pl>tables", "nine-languages|tail:0.2",
        "language-nl>dorian-gray", "pride-and-prejudice|blocks:0.1", "code-b|hash:0.2", "licences>language-uk",
        "language-ca>language-hu", "shakespeare|blocks:0.1",
    ),
}  # fmt: skip
SHORT = {"walden-b": "scarlet-letter", "moby": "grimms-fairy-tales", "alice": "alice-in-wonderland",
         "memoirs": "memoirs-of-sherlock-holmes", "adventures": "adventures-of-sherlock-holmes"}  # fmt: skip

OVERFITTED: tuple[tuple[str, int, int, dict[str, Any]], ...] = (
    ("emma", 4_000, 60, BOOKS | {"text.tokenizer": "bytes"}),
    ("emma", 4_000, 50, QWEN3 | {"text.tokenizer": "bpe:512"}),
    ("one-file-code-a", 4_000, 50, QWEN3 | {"text.tokenizer": "bytes"}),
    ("one-file-code-b", 6_000, 50, BOOKS | {"text.tokenizer": "bpe:512"}),
    ("one-file-speeches", 4_000, 50, QWEN3 | {"text.tokenizer": "characters"}),
    (
        "shakespeare",
        4_000,
        50,
        BOOKS | {"text.tokenizer": "characters", "text.split": "tail:0.1"},
    ),
    ("language-de", 4_000, 50, QWEN3 | {"text.tokenizer": "bytes"}),
    ("licences", 6_000, 50, QWEN3 | {"text.tokenizer": "bpe:512", "text.split": "tail:0.1"}),
    ("nine-languages", 6_000, 50, QWEN3 | {"text.tokenizer": "bytes", "text.split": "tail:0.2"}),
    ("tables-b", 4_000, 50, QWEN3 | {"text.tokenizer": "bytes"}),
)
DUPLICATED: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("emma", "emma", BOOKS | {"text.tokenizer": "bytes"}),
    ("jane-eyre", "jane-eyre", QWEN3 | {"text.tokenizer": "bytes"}),
    ("one-file-code-a", "one-file-code-b", QWEN3 | {"text.tokenizer": "bytes"}),
    ("one-file-speeches", "one-file-speeches", QWEN3 | {"text.tokenizer": "bpe:512"}),
    ("shakespeare", "shakespeare", QWEN3 | {"text.tokenizer": "bytes"}),
    ("language-fr", "language-de", QWEN3 | {"text.tokenizer": "bytes"}),
)


def trained(work: Path, name: str, paths: list[Path], settings: dict[str, Any]) -> dict[str, Any]:
    """The summary of a run, made once."""

    def make() -> dict[str, Any]:
        begin = time.monotonic()
        with contextlib.redirect_stderr(io.StringIO()):
            summary = hornbook.train(*map(str, paths), out=str(work / "runs" / name), **(QUICK | settings))
        keys = ("run", "step", "epoch", "num_parameters", "train_loss_nats_per_token", "validation_loss_nats_per_token")
        print(f"trained {name} in {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
        return {key: summary.get(key) for key in keys}

    return once(work / "runs" / f"{name}.json", make)


def models(work: Path) -> dict[str, dict[str, Any]]:
    have = texts(work)
    length = {"train.batch": 8, "train.steps": 400}
    return {
        name: trained(work, name, [have[text] for text in names], settings | length)
        for name, (names, settings) in MODELS.items()
    }


def overfitted(work: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    have = texts(work)
    for i, (name, size, epochs, settings) in enumerate(OVERFITTED):
        path = work / "short" / f"{i}-{name}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(have[name].read_text(encoding="utf-8")[5_000:][:size], encoding="utf-8")
        how = {"model.context": 64, "train.batch": 8, "train.epochs": epochs, "train.seed": i}
        yield f"overfitted {i} {name}", trained(work, f"overfitted-{i}", [path], settings | how)


def duplicated(work: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    have = texts(work)
    for i, (name, other, settings) in enumerate(DUPLICATED):
        folder = work / "duplicated" / str(i)
        (folder / "held").mkdir(parents=True, exist_ok=True)
        text = have[name].read_text(encoding="utf-8")[2_000:][:6_000]
        for k in range(30):
            (folder / f"{k:02}.txt").write_text(text, encoding="utf-8")
        new = have[other].read_text(encoding="utf-8")[10_000:][:6_000]
        (folder / "held" / "new.txt").write_text(new, encoding="utf-8")
        how = {"model.context": 64, "train.batch": 8, "train.epochs": 1, "train.seed": i,
               "text.split": f"folder:{folder / 'held'}"}  # fmt: skip
        yield f"duplicated {i} {name}", trained(work, f"duplicated-{i}", [folder], settings | how)


# ---- Cases


def asked(work: Path, model: dict[str, Any], pair: str, seed: int) -> dict[str, Any]:
    """What memorize says of a model and a pair of texts, made once."""

    def make() -> dict[str, Any]:
        begin = time.monotonic()
        opened, have = open_model(model["run"], step=model["step"]), texts(work)
        text, bar, rule = pair.partition("|")
        if bar:
            prepared = _prepared(opened, have[text], rule)
            sides = prepared.train, prepared.validation
        else:
            names = [SHORT.get(name, name) for name in pair.split(">")]
            sides = tuple(_prepared(opened, have[name], "none").train for name in names)
        found = memorization(opened.model, *sides, opened.tokenizer, seed=seed).to_dict()
        return {key: found.get(key) for key in KEPT} | {"seconds": round(time.monotonic() - begin, 1)}

    place = re.sub(r"[^\w.-]+", "_", f"{Path(model['run']).name} {pair} {seed}")
    return once(work / "found" / f"{place}.json", make)


def _prepared(opened: Any, path: Path, rule: str) -> Prepared:
    settings = {"paths": [str(path)], "tokenizer": tokenizer_of(opened), "split": rule}
    with contextlib.redirect_stderr(io.StringIO()):
        return prepared_text(from_table({"text": settings}, source="settings").text)


def asked_run(work: Path, run: dict[str, Any], seed: int) -> dict[str, Any]:
    """What memorize says of a run and its own text, made once."""

    def make() -> dict[str, Any]:
        begin = time.monotonic()
        found = hornbook.memorize(run["run"], step=run["step"], seed=seed)
        return {key: found.get(key) for key in KEPT} | {"seconds": round(time.monotonic() - begin, 1)}

    return once(work / "found" / f"{Path(run['run']).name}-{seed}.json", make)


def answer(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[key] for key in ("by_heart", "learned_enough", "texts_differ", "knows_better"))


def main(work: Path) -> dict[str, Any]:
    torch.set_num_threads(1)
    os.chdir(work)
    rows: list[dict[str, Any]] = []
    stable: list[Callable[[int], dict[str, Any]]] = []
    opened = models(work)
    for name, pairs in PAIRS.items():
        for pair in pairs:
            rows.append({"model": name, "pair": pair} | asked(work, opened[name], pair, 0))
            print(name, pair, rows[-1]["verdict"], file=sys.stderr, flush=True)
        stable += [lambda seed, m=opened[name], p=pair: asked(work, m, p, seed) for pair in pairs[:2]]
    runs: dict[str, list[dict[str, Any]]] = {"overfitted": [], "duplicated": []}
    for kind, made in (("overfitted", overfitted(work)), ("duplicated", duplicated(work))):
        for name, run in made:
            runs[kind].append({"run": name, "epoch": run["epoch"]} | asked_run(work, run, 0))
            print(name, runs[kind][-1]["verdict"], file=sys.stderr, flush=True)
            if len(runs[kind]) <= 4:
                stable.append(lambda seed, run=run: asked_run(work, run, seed))
    answers = [{answer(ask(seed)) for seed in range(SEEDS)} for ask in stable]
    rate = _rates(rows, runs, answers)
    return {"rates": rate, "label_cases": rows, "stable_cases": len(answers)} | runs


def _rates(
    rows: list[dict[str, Any]], runs: dict[str, list[dict[str, Any]]], answers: list[set[Any]]
) -> dict[str, Any]:
    def count(what: str, wrong: list[bool]) -> dict[str, Any]:
        return {"what": what, "wrong": sum(wrong), "tried": len(wrong)}

    parted = [row for row in rows if ">" in row["pair"]]
    alike = [row for row in rows if "|" in row["pair"] and not row["pair"].startswith("nine-languages|tail")]
    return {
        "memorize_by_heart": [
            count("said of a text that was not read", [row["by_heart"] for row in rows]),
            count("missing of an overfitted run", [not row["by_heart"] for row in runs["overfitted"]]),
            count("missing of a text that stands thirty times", [not row["by_heart"] for row in runs["duplicated"]]),
            count("another verdict with another seed", [len(each) > 1 for each in answers]),
        ],
        "memorize_knows_better": [count("said of a text that was not read", [row["knows_better"] for row in rows])],
        "memorize_texts_differ": [
            count("said of two parts of one text or collection", [row["texts_differ"] for row in alike]),
            count("missing of two texts", [not row["texts_differ"] for row in parted]),
        ],
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]).resolve()), indent=1))
