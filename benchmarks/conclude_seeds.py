"""Does the interval between two recipes cover the chance of seeds and that of documents, and is "beyond the chance of
seeds and of the text" said of equal recipes in at most 7 %?

Simulated: 2,000 draws of 2 to 5 runs a side with known variances of seeds, of documents and of single runs in single
documents, documents of unequal length. Real: 24 runs that differ in their seed only, on a novel and on speeches,
regrouped 2,000 times into two sides of 2 to 5 runs, and with documents drawn anew, whose true difference is 0.
"""

from __future__ import annotations

import itertools
import math
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import data
from conclusions import once

from hornbook.evaluation.groups import best_of, compare_groups, smallest_difference
from hornbook.evaluation.intervals import Estimate, clusters
from hornbook.records.result import DocumentRow, Report

DRAWS, RUNS = 2000, 24
SIZES = ((2, 2), (3, 3), (5, 5), (2, 5))
RUN = 0.01  # standard deviation between seeds in bits per byte, of all cases
# Of documents, and of single runs in single documents: with 8 documents, in standard errors of a mean beside RUN.
VARIANCES = {"seeds alone": (0.0, 0.0), "seeds and documents alike": (1.0, 0.3), "mostly documents": (3.0, 0.3),
             "single runs in single documents": (0.0, 1.0), "all three": (1.0, 1.0)}  # fmt: skip
SETTINGS = {
    "model.layers": 2, "model.width": 64, "model.heads": 2, "model.context": 64, "train.batch": 16, "train.steps": 150,
    "text.tokenizer": "bytes", "train.threads": 1, "watch.sample_tokens": 4, "checkpoint.best": False,
}  # fmt: skip


def report(nats: np.ndarray, num_bytes: np.ndarray, name: str = "run") -> Report:
    rows = [
        DocumentRow(name=f"d{i}", nats=float(x), num_tokens=int(n), num_bytes=int(n), num_characters=int(n),
                    num_words=1)
        for i, (x, n) in enumerate(zip(nats, num_bytes, strict=True))
    ]  # fmt: skip
    hashes = [f"{i}" for i in range(len(rows))]
    return Report(model=name, text="t", conventions={}, documents=rows, extra={"text_sha256": hashes})


def sizes(generator: np.random.Generator, documents: int) -> np.ndarray:
    """Bytes of documents of unequal length."""
    return np.maximum(100, 2000 * np.exp(generator.normal(0, 0.7, documents))).astype(int)


def simulated(
    generator: np.random.Generator, counts: Sequence[int], documents: int, variances: tuple[float, float],
    noisier: float = 1.0,
) -> list[list[Report]]:  # fmt: skip
    """Sides of so many runs whose bits per byte differ by chance only; the last side has `noisier` times the spread."""
    num_bytes = sizes(generator, documents)
    of_document, of_single = (factor * RUN * math.sqrt(documents) for factor in variances)
    common = generator.normal(0, 1, documents) * 0.2
    sides = []
    for number, count in enumerate(counts):
        scale = noisier if number == len(counts) - 1 else 1.0
        # A document is harder for one recipe than for the other by its own amount, whichever the run.
        treated = 2.0 + common + generator.normal(0, of_document / math.sqrt(2), documents)
        runs = generator.normal(0, RUN * scale, (count, 1)) + generator.normal(0, of_single * scale, (count, documents))
        sides.append([report((treated + run) * num_bytes * math.log(2), num_bytes) for run in runs])
    return sides


def simulate(
    counts: Sequence[int], documents: int, variances: tuple[float, float], noisier: float = 1.0
) -> dict[str, Any]:
    """How often the interval misses the true difference of 0, and how wide it is beside 1.96 true deviations."""
    generator = np.random.default_rng([*counts, documents, round(100 * sum(variances)), round(noisier)])
    values, widths, missed = [], [], 0
    for _ in range(DRAWS):
        result = compare_groups(*simulated(generator, counts, documents, variances, noisier))
        low, high = result["difference_bits_per_byte_interval_95"]
        missed += not low <= 0 <= high
        values.append(result["difference_bits_per_byte"])
        widths.append((high - low) / 2)
    width = float(np.median(widths) / 1.96 / np.sqrt(np.mean(np.square(values))))
    return {"tried": DRAWS, "missed": missed, "width_beside_oracle": round(width, 2)}


def found(runs: int, documents: int, variances: tuple[float, float]) -> dict[str, Any]:
    """How often a difference of the size that so many runs are told to see is found; the size by the true variances."""
    generator = np.random.default_rng([runs, documents, 7])
    of_document, of_single = (factor * RUN for factor in variances)
    lengths = [sizes(generator, documents) for _ in range(200)]
    unequal = float(np.mean([documents * (b**2).sum() / b.sum() ** 2 for b in lengths]))  # how much longer ones weigh
    degrees = [estimate.degrees for b in lengths if (estimate := clusters(b * 1.0, b)) is not None]
    of_run = math.sqrt(RUN**2 + unequal * of_single**2)
    error = math.sqrt(unequal * (of_document**2 + 2 * of_single**2 / runs))
    size = smallest_difference([of_run, of_run], Estimate(0.0, error, float(np.median(degrees))))[str(runs)]
    seen = 0
    for _ in range(DRAWS):
        a, b = simulated(generator, (runs, runs), documents, variances)
        worse = [
            report(np.array([row.nats + size * row.num_bytes * math.log(2) for row in one.documents]),
                   np.array([row.num_bytes for row in one.documents]))
            for one in b
        ]  # fmt: skip
        result = compare_groups(a, worse)
        seen += bool(result["beyond_chance"]) and result["difference_bits_per_byte"] > 0
    return {"tried": DRAWS, "missed": DRAWS - seen, "size": size}


def best(groups: int) -> dict[str, Any]:
    """How often one of so many equal recipes with 3 runs each is called better than the second beyond chance."""
    generator = np.random.default_rng(groups)
    wrong = 0
    for _ in range(DRAWS):
        sides = simulated(generator, [3] * groups, 30, VARIANCES["seeds and documents alike"])
        chosen = best_of({f"g{i}": side for i, side in enumerate(sides)})
        wrong += bool(chosen["lead"]["beyond_chance"])
    return {"tried": DRAWS, "missed": wrong}


# ---- Real runs


def texts(work: Path) -> dict[str, Path]:
    from hornbook.text.documents import builtin_documents

    novel = work / "novel.txt"
    novel.write_text((data() / "books" / "walden.txt").read_text(encoding="utf-8"), encoding="utf-8")
    speeches = work / "speeches"
    speeches.mkdir(exist_ok=True)
    for document in random.Random(0).sample(sorted(builtin_documents(), key=lambda d: d.name), 100):
        (speeches / f"{document.name.replace('/', '-')}.txt").write_text(document.text()[:4000], encoding="utf-8")
    return {"a novel": novel, "speeches": speeches}


def train(work: Path, kind: str, text: Path, seed: int) -> dict[str, Any]:
    import hornbook

    out = work / "runs" / f"{kind.replace(' ', '-')}-{seed}"
    split = {"text.split": "hash:0.25"} if text.is_dir() else {}
    summary = hornbook.train(str(text), out=out, quiet=True, **SETTINGS, **split, **{"train.seed": seed})
    print(kind, seed, round(summary["bits_per_byte"], 4), f"{summary['wall_seconds']:.0f} s", flush=True)
    return {"bits_per_byte": summary["bits_per_byte"], "wall_seconds": summary["wall_seconds"],
            "report": (out / "reports" / "evaluation.json").read_text(encoding="utf-8")}  # fmt: skip


def regrouped(reports: list[Report], count: int, *, new_documents: bool) -> dict[str, Any]:
    """Two sides of `count` of the runs, drawn without replacement; `new_documents`: documents with replacement."""
    generator, missed, widths = np.random.default_rng([count, new_documents]), 0, []
    for _ in range(DRAWS):
        chosen = generator.permutation(len(reports))[: 2 * count]
        sides = [[reports[i] for i in side] for side in (chosen[:count], chosen[count:])]
        if new_documents:
            drawn = generator.integers(0, len(reports[0].documents), len(reports[0].documents)).tolist()
            sides = [[redrawn(one, drawn) for one in side] for side in sides]
        low, high = compare_groups(*sides)["difference_bits_per_byte_interval_95"]
        missed += not low <= 0 <= high
        widths.append((high - low) / 2)
    return {"tried": DRAWS, "missed": missed, "half_width_bits_per_byte": round(float(np.median(widths)), 4)}


def redrawn(one: Report, drawn: list[int]) -> Report:
    rows, hashes = [one.documents[i] for i in drawn], [one.extra["text_sha256"][i] for i in drawn]
    return Report(model=one.model, text=one.text, conventions={}, documents=rows, extra={"text_sha256": hashes})


def main(work: Path) -> dict[str, Any]:
    os.chdir(work)
    rows: dict[str, dict[str, Any]] = {}
    for kind, text in texts(work).items():
        made = [once(work / f"{kind}-{i}.json", lambda i=i, k=kind, t=text: train(work, k, t, i)) for i in range(RUNS)]
        reports = [Report.from_json(one["report"]) for one in made]
        values = [one["bits_per_byte"] for one in made]
        rows[f"real: {RUNS} runs on {kind}"] = {
            "bits_per_byte": float(np.mean(values)), "standard_deviation": float(np.std(values, ddof=1)),
            "documents": len(reports[0].documents), "longest_run_seconds": max(one["wall_seconds"] for one in made),
        }  # fmt: skip
        for count, new in itertools.product((2, 3, 4, 5), (False, True)):
            label = f"real: {kind}, {count} runs a side{', documents drawn anew' * new}"
            if not (new and kind == "a novel"):  # its pieces are not drawn but placed
                rows[label] = once(work / f"{label}.json", lambda n=new, c=count, r=reports: regrouped(
                    r, c, new_documents=n))  # fmt: skip
                print(label, rows[label], flush=True)
    cases = [(counts, 8, name, 1.0) for counts, name in itertools.product(SIZES, VARIANCES)]
    cases += [(counts, 30, name, 1.0) for counts in ((3, 3), (2, 5)) for name in VARIANCES]
    cases += [((3, 3), 30, "seeds and documents alike", 3.0), ((5, 2), 30, "seeds and documents alike", 3.0)]
    for counts, documents, name, noisier in cases:
        unlike = f", the second side {noisier:g} times as noisy" if noisier > 1 else ""
        label = f"{counts[0]} and {counts[1]} runs, {documents} documents: {name}{unlike}"
        rows[label] = once(work / f"{label}.json", lambda c=counts, d=documents, n=name, s=noisier: simulate(
            c, d, VARIANCES[n], s))  # fmt: skip
        print(label, rows[label], flush=True)
    for runs in (3, 5, 10):
        label = f"a difference of the told size not seen: {runs} runs a side, 30 documents"
        rows[label] = once(work / f"{label}.json", lambda r=runs: found(r, 30, VARIANCES["seeds and documents alike"]))
        print(label, rows[label], flush=True)
    for groups in (2, 4, 8):
        label = f"the best of {groups} equal recipes, 3 runs each"
        rows[label] = once(work / f"{label}.json", lambda g=groups: best(g))
        print(label, rows[label], flush=True)
    return {"rates": rates(rows), "draws": DRAWS, "rows": rows}


def rates(rows: dict[str, dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    sums: dict[str, list[dict[str, Any]]] = {"interval_of_recipes": [], "recipes_beyond_chance": [], "best_of_grid": []}
    for label, row in rows.items():
        if "missed" in row:
            name = "best_of_grid" if label.startswith("the best") else "interval_of_recipes"
            name = "recipes_beyond_chance" if label.startswith(("real", "a difference")) else name
            sums[name].append({"what": label, "wrong": row["missed"], "tried": row["tried"]})
    return sums
