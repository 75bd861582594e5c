"""Does `memorize` tell learned from learned by heart? Known cases, measured; one JSON object.

    python benchmarks/by_heart.py verdicts [--runs 20]  # healthy and overfitted runs on different texts
    python benchmarks/by_heart.py heart TEXT            # 200 kB, 60 epochs: probe loss 0.1; and labels permuted
    python benchmarks/by_heart.py novels FOLDER         # one epoch over whole novels
    python benchmarks/by_heart.py canaries TEXT         # exposure by repetition, and 200 that were never planted
    python benchmarks/by_heart.py spans FOLDER          # speed and memory of the span search
    python benchmarks/by_heart.py leaks FOLDER          # copies put into a text, recovered

Runs go to a temporary folder. The results that the documentation quotes are in benchmarks/results/.
"""

import argparse
import json
import os
import random
import re
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import hornbook
from hornbook.data.shards import TokenStream, open_prepared
from hornbook.evaluation.memorization import memorization
from hornbook.evaluation.ngram_search import find_spans
from hornbook.setup.model import open_model
from hornbook.text.canaries import Canaries, Canary, random_payloads
from hornbook.text.checkup import check_up
from hornbook.text.documents import Document, builtin_documents, documents
from hornbook.text.pieces import safe_pieces

QUICK = {"train.threads": 1, "watch.sample_tokens": 8}
SMALL = {"model.layers": 2, "model.width": 96, "model.context": 64, "train.batch": 8, "text.tokenizer": "bytes"}
SAID = (
    "verdict", "by_heart", "learned_enough", "extraction_rate", "control_extraction_rate", "excess_copied_share",
    "excess_copied_share_interval_95", "excess_extraction_rate_interval_95", "generalization_gap_share",
    "generalization_gap_share_interval_95", "membership_auc", "heldout_loss_nats_per_token",
    "bigram_heldout_loss_nats_per_token",
)  # fmt: skip


def texts(count: int) -> list[tuple[str, str]]:
    """(name, text) of different kinds: speeches of different decades, modules of the standard library."""
    speeches = builtin_documents()
    size = len(speeches) // (count // 2)
    found = [
        (f"speeches {i * size} to {(i + 1) * size}", "\n\n".join(d.text() for d in speeches[i * size : (i + 1) * size]))
        for i in range(count // 2)
    ]
    modules = sorted(Path(os.__file__).parent.glob("*.py"))
    size = len(modules) // (count - len(found))
    for i in range(count - len(found)):
        text = "\n".join(m.read_text(encoding="utf-8", errors="ignore") for m in modules[i * size : (i + 1) * size])
        found.append((f"standard library {modules[i * size].stem} and after", text))
    return [(name, text.encode("ascii", "ignore").decode()) for name, text in found]


def trained(name: str, text: str, **settings: object) -> tuple[dict, dict]:
    """The summary of a run on a text, and what memorize says of it."""
    path = Path(re.sub(r"\W+", "-", name) + ".txt")
    path.write_text(text, encoding="utf-8")
    summary = hornbook.train(str(path), out=f"run-{path.stem}-{len(text)}", **(QUICK | settings))
    return summary, hornbook.memorize(summary["run"])


def verdicts(runs: int) -> dict:
    rows = []
    for seed, (name, text) in enumerate(texts(runs)):
        for kind, some, length in (("healthy", text[:200_000], {"train.epochs": 1}),
                                   ("overfitted", text[:4_000], {"train.epochs": 50})):  # fmt: skip
            begin = time.monotonic()
            summary, found = trained(f"{kind} {name}", some, **SMALL, **length, **{"train.seed": seed})
            row = {"kind": kind, "text": name, "characters": len(some), "epochs": summary["epoch"]}
            rows.append(row | {key: found.get(key) for key in SAID} | {"seconds": time.monotonic() - begin})
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    wrong = {
        "false_alarms": sum(row["by_heart"] for row in rows if row["kind"] == "healthy"),
        "missed": sum(not row["by_heart"] for row in rows if row["kind"] == "overfitted"),
        "not_learned_enough": sum(not row["learned_enough"] for row in rows if row["kind"] == "healthy"),
    }
    return {"runs_of_each_kind": runs} | wrong | {"rows": rows}


def heart(text: str) -> dict:
    """200 kB read 60 times, and the same model with its labels permuted."""
    text = Path(text).read_text(encoding="utf-8")[:250_000]
    settings = {"model.layers": 3, "model.width": 192, "model.context": 128, "train.batch": 8,
                "text.tokenizer": "bpe:1024", "text.split": "blocks:0.2"}  # fmt: skip
    summary, found = trained("by heart", text, **settings, **{"train.epochs": 60})
    opened = open_model(summary["run"])
    prepared = open_prepared(Path(summary["run"]).parent / next(Path("prepared").glob("by-heart*")))
    pieces = [pieces_of(part, 256) for part in (prepared.train, prepared.validation)]
    count = min(map(len, pieces))
    chosen = random.Random(0).sample(pieces[0], count) + pieces[1][:count]
    generator, missed, by_heart, draws = np.random.default_rng(0), {}, 0, 20
    for _ in range(draws):
        order = generator.permutation(2 * count)
        sides = [part_of([chosen[i] for i in some]) for some in np.split(order, 2)]
        drawn = memorization(opened.model, *sides, opened.tokenizer, num_windows=128, num_samples=32)
        by_heart += drawn.by_heart
        for name, null in (("excess_extraction_rate", 0.0), ("excess_copied_share", 0.0), ("membership_auc", 0.5),
                           ("membership_auc_min_20", 0.5), ("generalization_gap_bits_per_byte", 0.0)):  # fmt: skip
            low, high = drawn.intervals[name]
            missed[name] = missed.get(name, 0) + (not low <= null <= high)
    permuted = {"draws": draws, "outside_its_interval": missed, "by_heart": by_heart}
    numbers = {key: found.get(key) for key in SAID} | {"train_loss": summary["train_loss_nats_per_token"]}
    return numbers | {"extraction": found["extraction"], "epochs": summary["epoch"], "permuted_labels": permuted}


def pieces_of(part: TokenStream, length: int) -> list[np.ndarray]:
    return [
        tokens[i : i + length]
        for tokens in map(part.document_tokens, range(len(part.names)))
        for i in range(0, len(tokens) - length + 1, length)
    ]


def part_of(pieces: list[np.ndarray]) -> TokenStream:
    """The pieces as documents of a part; what was between them is not there."""
    starts = np.cumsum([0, *map(len, pieces)])[:-1]
    rows = [(start, len(piece), -1, -1, -1) for start, piece in zip(starts, pieces, strict=True)]
    names = [str(i) for i in range(len(pieces))]
    return TokenStream([np.concatenate(pieces).astype(np.uint16)], np.array(rows, np.int64), names, separator=False)


def novels(folder: str) -> dict:
    settings = {"model.layers": 2, "model.width": 128, "model.context": 64, "train.batch": 32,
                "text.tokenizer": "bpe:2048"}  # fmt: skip
    summary = hornbook.train(folder, out="novels", **(QUICK | {"train.threads": 2} | settings), **{"train.epochs": 1})
    found = hornbook.memorize(summary["run"])
    numbers = {key: found.get(key) for key in SAID}
    return numbers | {key: summary[key] for key in ("epoch", "num_parameters", "validation_loss_nats_per_token")}


def canaries(text: str) -> dict:
    path = Path("text.txt")
    path.write_text(Path(text).read_text(encoding="utf-8"), encoding="utf-8")
    settings = {"model.layers": 3, "model.width": 128, "model.context": 128, "train.batch": 16,
                "text.tokenizer": "bpe:1024", "text.canaries": True}  # fmt: skip
    summary = hornbook.train(str(path), out="canaries", **(QUICK | settings), **{"train.epochs": 3})
    found = hornbook.memorize(summary["run"])
    run = open_model(summary["run"])
    words = json.loads((Path(summary["run"]) / "canaries.json").read_text(encoding="utf-8"))["words"]
    drawn = random_payloads(words, np.random.default_rng(99))
    never = Canaries(words, [Canary(next(drawn), 0) for _ in range(200)])
    from hornbook.evaluation.exposure import exposure_table

    rows, _ = exposure_table(run.model, run.tokenizer, never)
    averages = [row["exposure_bits"] for row in found["canaries"] if row["repetitions"]]
    return {"null_of_200": rows, "planted": found["canaries"], "rank_correlation": found["canary_rank_correlation"],
            "rises_with_every_doubling": averages == sorted(averages), "epochs": summary["epoch"]}  # fmt: skip


def spans(folder: str) -> dict:
    prepared = hornbook.prepare(folder, tokenizer="bpe:4096", out="prepared-spans")
    opened = open_prepared(prepared["prepared"])
    part, validation = opened.train, opened.validation
    num_bytes, text_bytes = sum(shard.nbytes for shard in part.shards), int(part.documents[:, 2].sum())
    rows, generator = [], np.random.default_rng(0)
    for count, length, shortest in ((64, 256, 8), (1000, 64, 8), (4000, 64, 8), (4000, 256, 8), (4000, 256, 16)):
        queries = list(validation.take(generator.integers(0, validation.num_tokens - length, count), length))
        before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        found = sum(len(some.length) for some in find_spans(part, queries, shortest))
        seconds = time.process_time() - begin
        rows.append({
            "queries": count, "query_tokens": length, "shortest": shortest, "spans": found,
            "shard_megabytes_per_second": num_bytes / 1e6 / seconds,
            "text_megabytes_per_second": text_bytes / 1e6 / seconds,
            "peak_grew_megabytes": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
        })  # fmt: skip
    return {
        "train_tokens": part.num_tokens,
        "shard_megabytes": num_bytes / 1e6,
        "rows": rows,
        "brute_force": oracle(part),
    }


def oracle(part: TokenStream) -> dict:
    """1,000 random queries against bytes.find: pieces of the text, half of them with a token changed."""
    generator, size = np.random.default_rng(1), 400_000
    some, text = part.first(size), part.first(size).take(np.zeros(1, np.int64), size)[0].astype("<u2")
    begins, wrong = set(some.documents[:, 0].tolist()), 0
    for _ in range(1000):
        start, length = int(generator.integers(size - 60)), int(generator.integers(4, 50))
        query = text[start : start + length].astype(np.int64)
        if generator.random() < 0.5:
            query[generator.integers(length)] = generator.integers(4096)
        longest = max((int(s.length.max()) for s in find_spans(some, [query], 4) if len(s.length)), default=0)
        wrong += longest != brute_longest(text, begins, query.astype("<u2"))
    return {"queries": 1000, "wrong": wrong}


def brute_longest(text: np.ndarray, begins: set[int], query: np.ndarray) -> int:
    """The longest part of the query, of at least 4 tokens, that stands in the text; found by bytes.find alone."""
    whole, best = text.tobytes(), 0
    for i in range(len(query)):
        while i + max(best + 1, 4) <= len(query):
            wanted, at = query[i : i + max(best + 1, 4)].tobytes(), -2
            while (at := whole.find(wanted, at + 2)) >= 0 and at % 2:
                at -= 1
            if at < 0:
                break
            best = len(wanted) // 2
    return best


def leaks(folder: str) -> dict:
    rows, sides = [], list(documents([folder]))
    train, validation = [[(d.name, d.text()) for d in some] for some in (sides[:-4], sides[-4:])]
    total = sum(len(text.split()) for _, text in validation)
    natural = checked(train, validation).leaked_share_with_changes
    for share in (0.01, 0.05, 0.2):
        for changed in (0.0, 0.05):
            generator, taken, leaked = random.Random(7), set(), list(train)
            while len(taken) < share * total:
                which = generator.randrange(len(validation))
                words = validation[which][1].split(" ")
                start, length = generator.randrange(len(words) - 600), generator.randint(60, 600)
                copied = words[start : start + length]
                begin = len(" ".join(words[:start]).split())
                taken |= {(which, begin + k) for k in range(len(" ".join(copied).split()))}
                copied = [generator.choice(words) if generator.random() < changed else word for word in copied]
                i = generator.randrange(len(leaked))
                middle = leaked[i][1].index(" ", generator.randrange(len(leaked[i][1]) // 2))
                text = f"{leaked[i][1][:middle]} {' '.join(copied)}{leaked[i][1][middle:]}"
                leaked[i] = (leaked[i][0], text)
            found = checked(leaked, validation).leaked_share_with_changes
            real = len(taken) / total
            rows.append({"injected_share": real, "changed_words": changed, "found_share": found, "ratio": found / real})
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return {"natural_share": natural, "rows": rows, "worst_error": max(abs(row["ratio"] - 1) for row in rows)}


def checked(train: list, validation: list):
    return check_up(*[[Document(name, lambda text=text: safe_pieces([text])) for name, text in side]
                      for side in (train, validation)])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=["verdicts", "heart", "novels", "canaries", "spans", "leaks"])
    parser.add_argument("text", nargs="?", type=lambda path: str(Path(path).resolve()))
    parser.add_argument("--runs", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        case = globals()[arguments.case]
        print(json.dumps(case(arguments.runs if arguments.case == "verdicts" else arguments.text), indent=1))


if __name__ == "__main__":
    main()
