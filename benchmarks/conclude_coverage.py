"""Do the 95 % intervals hold the truth in 93 to 98 % of draws, and is "beyond chance" false in at most 7 %?

Two models of 0.3M parameters (gpt2 with AdamW, qwen3 with Muon) are trained on five novels and score other
texts once, whole: novels, plays, speeches, code, a manual. Their nats are kept, so the value of a whole text, or of all
documents of a kind, is known exactly, and what an evaluation of a part of it would have said is a sum of some of them.
Rows draw 2,000 parts each, by the split's own placement (`piece_edges`), as contiguous chunks, or as whole documents
with replacement. Paired rows take from the difference of the two models what it is on the whole text, so that there is
none, or leave 3 % of the loss. Width: the half-width beside 1.96 times the true root mean square error, the median over
texts.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from common import data
from conclusions import once

from hornbook.evaluation.intervals import (
    PASSAGE_PARTS,
    UNKNOWN_KIND,
    Estimate,
    clusters,
    one_passage,
    strata,
)
from hornbook.setup.documents import automatic_share
from hornbook.text.documents import builtin_documents
from hornbook.text.split import piece_counts, piece_edges

DRAWS = 2000
TRAINED_ON = ("dorian-gray", "emma", "house-of-mirth", "tom-sawyer", "war-of-the-worlds")
NOVELS = (
    "adventures-of-sherlock-holmes", "david-copperfield", "frankenstein", "great-expectations", "huckleberry-finn",
    "jane-eyre", "peter-pan", "pride-and-prejudice", "scarlet-letter", "sense-and-sensibility", "tale-of-two-cities",
    "walden",
)  # fmt: skip
LONG = 900_000  # bytes of a long novel, in which a difference of 3 % must be found
DIFFERENCE = 0.03
TABLES = "/encodings/"  # of the standard library: tables that a program wrote, hardly code
MODELS = {
    "gpt2": {"model.family": "gpt2", "optimizer.name": "adamw", "train.seed": 1},
    "qwen3": {"model.family": "qwen3", "optimizer.name": "muon", "train.seed": 2, "train.steps": 150},
}
SIZE = {
    "model.layers": 4, "model.width": 64, "model.heads": 4, "model.context": 128, "train.batch": 16,
    "train.steps": 250, "text.tokenizer": "bpe:2048", "train.threads": 1, "watch.sample_tokens": 8,
}  # fmt: skip


class Cached(NamedTuple):
    """A text as sums up to each byte, (n + 1,), of the nats of one model and of the difference of two, without the
    difference on the whole text."""

    nats: np.ndarray
    difference: np.ndarray


# ---- Texts and nats


def texts() -> dict[str, Callable[[], bytes]]:
    """Every scored text by its name, in bytes of ASCII, so that a character is a byte."""
    import pydoc_data.topics

    library = Path(os.__file__).parent
    skipped = {"test", "site-packages", "idlelib", "pydoc_data", "lib2to3", "ensurepip"}
    code = [p for p in (*library.glob("*.py"), *library.glob("*/*.py")) if not skipped & set(p.parts)]
    code = random.Random(0).sample(sorted(p for p in code if p.stat().st_size > 500), 120)
    speeches = random.Random(0).sample(sorted(builtin_documents(), key=lambda d: d.name), 60)

    def of(path: Path) -> Callable[[], bytes]:
        return lambda: path.read_bytes()

    found: dict[str, Callable[[], bytes]] = {f"novel/{name}": of(data() / "books" / f"{name}.txt") for name in NOVELS}
    found["plays/tinyshakespeare"] = of(data() / "tinyshakespeare.txt")
    manual = "\n\n".join(text for _, text in sorted(pydoc_data.topics.topics.items()))
    found["manual/pydoc"] = lambda: manual.encode()
    found |= {f"speech/{d.name}": lambda d=d: d.text().encode() for d in speeches}
    found |= {f"code/{p.relative_to(library)}": of(p) for p in code}
    return {
        name: lambda read=read: read().decode("utf-8", "replace").encode("ascii", "ignore").replace(b"\0", b"")
        for name, read in found.items()
    }


def score(work: Path, model: str) -> dict[str, np.ndarray]:
    """The nats of every text, at the byte where each token ends; trained and scored where that was not done yet."""
    import hornbook
    from hornbook.setup.model import open_model

    folder, run = work / model, work / f"run-{model}"
    folder.mkdir(exist_ok=True)
    opened, nats = None, {}
    for name, read in texts().items():
        path = folder / f"{name.replace('/', '+')}.npy"
        if not path.is_file():
            if opened is None:
                once(work / f"trained-{model}.json", lambda: train(hornbook, run, model))
                opened = open_model(str(run))
            with (work / "part.npy").open("wb") as file:
                np.save(file, nats_at_bytes(opened, read().decode()))
            (work / "part.npy").replace(path)
            print(f"{model}: {name}", flush=True)
        nats[name] = np.load(path).astype(float)
    return nats


def nats_at_bytes(opened: Any, text: str) -> np.ndarray:
    """Disjoint windows of the context, one end-of-text before the text; in float32, which is exact enough for sums that
    are compared with each other."""
    import torch
    from torch.nn.functional import cross_entropy

    torch.set_num_threads(1)
    model, tokenizer, context = opened.model.eval(), opened.tokenizer, opened.model.shape.context
    tokens = tokenizer.encode(text).astype(np.int64)
    padded = np.zeros(-(-len(tokens) // context) * context + 1, np.int64)
    padded[0], padded[1 : len(tokens) + 1] = tokenizer.end_of_text, tokens
    inputs, targets = (torch.from_numpy(x.reshape(-1, context)) for x in (padded[:-1], padded[1:]))
    with torch.inference_mode():
        found = [
            cross_entropy(model(x).flatten(0, 1), y.flatten(), reduction="none")
            for x, y in zip(inputs.split(32), targets.split(32), strict=True)
        ]
    sizes = np.array([len(tokenizer.token_bytes(token)) for token in range(tokenizer.vocabulary)])
    at_bytes = np.zeros(len(text.encode()), np.float32)
    at_bytes[np.cumsum(sizes[tokens]) - 1] = torch.cat(found)[: len(tokens)].numpy()  # a token lies where it ends
    return at_bytes


def train(hornbook: Any, run: Path, model: str) -> dict[str, Any]:
    books = [str(data() / "books" / f"{name}.txt") for name in TRAINED_ON]
    summary = hornbook.train(*books, out=run, **(SIZE | MODELS[model]))
    return {"bits_per_byte": summary.get("bits_per_byte"), "steps": summary["step"]}


def cached(one: np.ndarray, other: np.ndarray) -> Cached:
    difference = other - one
    sums = [np.concatenate([[0.0], np.cumsum(x)]) for x in (one, difference - difference.mean())]
    return Cached(*sums)


# ---- Draws: (numerators and denominators of what was drawn) -> an estimate

Draw = tuple[np.ndarray, Estimate | None, Estimate | None]  # value and paired


def by_pieces(text: Cached, seed: bytes) -> tuple[Estimate | None, Estimate | None]:
    """The default split of one book."""
    size = len(text.nats) - 1
    share = automatic_share("blocks", 1, size)
    (count,) = piece_counts([(size, size)], share)
    edges = np.array(piece_edges(size, share, count, seed))
    begin, end = edges[:, 1], edges[:, 2]
    bytes_, alone = (end - begin).astype(float), np.zeros(count, int)
    return tuple(strata(sums[end] - sums[begin], bytes_, alone) for sums in text)  # type: ignore[return-value]


def by_passage(text: Cached, start: int, size: int) -> tuple[Estimate | None, Estimate | None]:
    cuts = start + np.arange(PASSAGE_PARTS + 1) * size // PASSAGE_PARTS
    sizes = np.diff(cuts).astype(float)
    value, paired = (
        one_passage(np.diff(sums[cuts]), sizes, size, paired=is_paired)
        for sums, is_paired in zip(text, (False, True), strict=True)
    )
    return value, paired


class Counts:
    """What 2,000 draws of one row came to, over its texts."""

    def __init__(self) -> None:
        self.wide: list[float] = []
        self.half_widths: list[float] = []
        self.missed = self.paired_missed = self.false = self.found = self.tried = 0

    def add(self, truth: float, draws: Sequence[tuple[Estimate | None, Estimate | None]], factor: float = 1.0) -> None:
        """`factor`: half-widths of the paired interval that "beyond chance" takes."""
        values, paired = zip(*draws, strict=True)
        assert None not in values
        assert None not in paired
        errors = np.array([value.value - truth for value in values])
        widths = np.array([value.half_width for value in values])
        gaps, rooms = (np.array([getattr(p, name) for p in paired]) for name in ("value", "half_width"))
        self.tried += len(values)
        self.missed += int((np.abs(errors) > widths).sum())
        self.paired_missed += int((np.abs(gaps) > rooms).sum())
        self.false += int((np.abs(gaps) > factor * rooms).sum())
        self.found += int((gaps + DIFFERENCE * truth > factor * rooms).sum())
        self.wide.append(float(widths.mean() / (1.96 * np.sqrt((errors**2).mean()))))
        self.half_widths.append(float(widths.mean() / truth))

    def row(self) -> dict[str, Any]:
        return {
            "tried": self.tried, "missed": self.missed, "paired_missed": self.paired_missed,
            "falsely_beyond_chance": self.false, "difference_found": self.found,
            "width_beside_oracle": round(float(np.median(self.wide)), 3),
            "half_width_percent_of_loss": round(100 * float(np.median(self.half_widths)), 2),
        }  # fmt: skip


def shares(total: int, parts: int) -> list[int]:
    return [total // parts + (i < total % parts) for i in range(parts)]


def split_row(whole: dict[str, Cached]) -> dict[str, Any]:
    counts, generator = Counts(), np.random.default_rng(1)
    for (_, text), draws in zip(sorted(whole.items()), shares(DRAWS, len(whole)), strict=True):
        truth = text.nats[-1] / (len(text.nats) - 1)
        counts.add(truth, [by_pieces(text, generator.bytes(8)) for _ in range(draws)])
    return counts.row()


def chunk_row(whole: dict[str, Cached], size: int) -> dict[str, Any]:
    counts, generator = Counts(), np.random.default_rng(size)
    for (_, text), draws in zip(sorted(whole.items()), shares(DRAWS, len(whole)), strict=True):
        truth, last = text.nats[-1] / (len(text.nats) - 1), len(text.nats) - 1 - size
        starts = generator.integers(0, last + 1, draws).tolist()
        counts.add(truth, [by_passage(text, start, size) for start in starts], UNKNOWN_KIND)
    return counts.row()


def document_row(one: list[np.ndarray], other: list[np.ndarray], k: int) -> dict[str, Any]:
    """k whole documents drawn with replacement, so that each is a draw from this population."""
    sizes = np.array([len(x) for x in one], float)
    nats, others = (np.array([x.sum() for x in side]) for side in (one, other))
    truth = nats.sum() / sizes.sum()
    difference = others - nats - (others - nats).sum() / sizes.sum() * sizes
    counts, generator = Counts(), np.random.default_rng(k)
    drawn = generator.integers(0, len(sizes), (DRAWS, k))
    counts.add(truth, [(clusters(nats[i], sizes[i]), clusters(difference[i], sizes[i])) for i in drawn])
    row = counts.row()
    if k >= 30:
        held = [bootstrap_t(nats[i], sizes[i], seed) for seed, i in enumerate(drawn[: DRAWS // 4])]
        row["bootstrap_t"] = {"tried": len(held), "missed": sum(not low <= truth <= high for low, high in held)}
        same = [clusters(nats[i], sizes[i]) for i in drawn[: DRAWS // 4]]
        row["bootstrap_t"]["clusters_missed"] = sum(not e.interval[0] <= truth <= e.interval[1] for e in same if e)
        row["bootstrap_t"]["width_of_clusters_beside_it"] = round(
            float(np.mean([2 * e.half_width for e in same if e]) / np.mean([high - low for low, high in held])), 3
        )
    return row


def bootstrap_t(a: np.ndarray, b: np.ndarray, seed: int, resamples: int = 1000) -> tuple[float, float]:
    """What clusters() is held against: the studentized bootstrap of a ratio (Efron and Tibshirani 1993, 12.5)."""
    n, ratio = len(b), a.sum() / b.sum()

    def error(a: np.ndarray, b: np.ndarray, ratio: np.ndarray) -> np.ndarray:
        squares = ((a - ratio[:, None] * b) ** 2).sum(1)
        return np.sqrt(n / (n - 1) * squares) / b.sum(1)

    own = error(a[None], b[None], np.array([ratio]))[0]
    drawn = np.random.default_rng(seed).integers(0, n, (resamples, n))
    ratios = a[drawn].sum(1) / b[drawn].sum(1)
    low, high = np.quantile((ratios - ratio) / error(a[drawn], b[drawn], ratios), [0.025, 0.975])
    return ratio - high * own, ratio - low * own


# ---- The case


def main(work: Path) -> dict[str, Any]:
    one, other = (score(work, model) for model in MODELS)

    def whole(*kinds: str, least: int = 0) -> dict[str, Cached]:
        named = {name: cached(one[name], other[name]) for name in one if name.split("/")[0] in kinds}
        return {name: text for name, text in named.items() if len(text.nats) > least}

    def joined(kind: str) -> dict[str, Cached]:
        names = sorted(name for name in one if name.startswith(f"{kind}/"))
        sides = (np.concatenate([side[name] for name in names]) for side in (one, other))
        return {kind: cached(*sides)}

    rows: dict[str, dict[str, Any]] = {
        "one novel, default split": split_row(whole("novel")),
        "one long novel, default split": split_row(whole("novel", least=LONG)),
        "plays, default split": split_row(whole("plays")),
        "a manual, default split": split_row(whole("manual")),
        "code joined, default split": split_row(joined("code")),
    }
    for size in (10_000, 30_000, 100_000):
        for label, found in (
            ("a novel", whole("novel")), ("dialogue", whole("plays")), ("code joined", joined("code")),
            ("a manual", whole("manual")),
        ):  # fmt: skip
            rows[f"{size // 1000} KB of {label}"] = chunk_row(found, size)
    populations = {
        "speeches": [name for name in one if name.startswith("speech/")],
        "code files": [name for name in one if name.startswith("code/") and TABLES not in name],
        "code files, tables among them": [name for name in one if name.startswith("code/")],
    }
    for label, names in populations.items():
        for k in (5, 10, 20, 30, 300):
            rows[f"{k} {label}"] = document_row([one[n] for n in names], [other[n] for n in names], k)
    trained = {model: once(work / f"trained-{model}.json", dict) for model in MODELS}
    return {"rates": rates(rows), "draws": DRAWS, "models": trained, "rows": rows}


def rates(rows: dict[str, dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Of each conclusion: in how many draws it was wrong."""
    found: dict[str, list[dict[str, Any]]] = {}

    def add(name: str, what: str, wrong: int, tried: int) -> None:
        found.setdefault(name, []).append({"what": what, "wrong": wrong, "tried": tried})

    for what, row in rows.items():
        unlike = "tables" in what or (" KB " in what and not what.endswith("novel"))
        rule = "pieces" if "split" in what else "passage" if " KB " in what else "documents"
        add("interval_of_unlike_parts" if unlike else f"interval_{rule}", what, row["missed"], row["tried"])
        add("beyond_chance", what, row["falsely_beyond_chance"], row["tried"])
    long = rows["one long novel, default split"]
    what = "a difference of 3 % of the loss missed, one long novel, default split"
    add("beyond_chance", what, long["tried"] - long["difference_found"], long["tried"])
    return found
