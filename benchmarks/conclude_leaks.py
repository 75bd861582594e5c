"""Leaks, duplicates and repetition put into texts by known shares, and what the check-up says of them.

The truth is counted here, by lists of words and sets of tuples, without anything of Hornbook's own check-up. Texts: the
books of the development data and the standard library's source.
"""

from __future__ import annotations

import random
import re
import sysconfig
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache, lru_cache
from itertools import pairwise
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from common import data
from conclusions import once

from hornbook.data.prepare import prepare
from hornbook.evaluation.corpus import encode_documents
from hornbook.facts.capacity import REPEATED
from hornbook.facts.text_warnings import LEAKED
from hornbook.setup.evaluate_options import trained_on_share
from hornbook.text.checkup import Checkup, Duplicate, check_up
from hornbook.text.documents import Document
from hornbook.text.pieces import safe_pieces

Texts = list[tuple[str, str]]
Row = dict[str, Any]

LOWER = {ord(letter): letter.lower() for letter in ascii_uppercase}
GRAM, BRIDGED, PASSAGE = 8, 16, 24  # as docs/memorization.md says
SHARES = (0.0, 0.01, 0.05, 0.2, 0.5, 1.0)
HEADER = (
    "Licensed to the makers of these files under one or more agreements of contribution. See the file of notices that "
    "comes with this work for what is said about who owns what. You may use this file in any way that the agreement "
    "allows, and you may not use it in any other. Unless the law of your land asks for it or it was agreed in writing, "
    "what is handed out under the agreement is handed out as it stands, without a promise of any kind, said or meant."
)
FORMULA = "by and with the advice and consent of the whole house here assembled"


@lru_cache(64)  # the books are asked for again and again
def words_of(text: str) -> list[str]:
    """ASCII letters and digits in lower case; what else there is of ASCII separates."""
    return re.findall(r"[a-z0-9\x80-\u07ff]+|[\u0800-\U0010ffff][a-z0-9\x80-\u07ff]*", text.translate(LOWER))


def tuples(words: list[str], n: int) -> Iterator[tuple[str, ...]]:
    return zip(*(words[i:] for i in range(n)), strict=False)


# ---- The truth


def true_leaks(train: list[list[str]], validation: list[list[str]]) -> Row:
    """Shares of words, and of each passage its words, words in shared 8-grams, longest sequence, and documents."""
    wanted: dict[tuple[str, ...], list[tuple[int, int]]]
    wanted = {gram: [] for side in validation for gram in tuples(side, GRAM)}
    for d, side in enumerate(train):
        for i, gram in enumerate(tuples(side, GRAM)):
            if (where := wanted.get(gram)) is not None:
                where.append((d, i))
    passages = []
    for side in validation:
        grams = list(tuples(side, GRAM))
        hits = [i for i, gram in enumerate(grams) if wanted[gram]]
        cuts = [k + 1 for k, (a, b) in enumerate(pairwise(hits)) if b - a > GRAM + BRIDGED]
        for start, stop in pairwise([0, *cuts, len(hits)]):
            group = hits[start:stop]
            if not group or group[-1] - group[0] + GRAM < PASSAGE:
                continue
            runs: dict[tuple[int, int], int] = {}  # (document, place) of the last 8-gram: words in a row until there
            longest, documents = 0, set()
            for i, before in zip(group, [None, *group], strict=False):
                went_on = runs if before == i - 1 else {}
                runs = {(d, p): went_on.get((d, p - 1), GRAM - 1) + 1 for d, p in wanted[grams[i]]}
                longest = max(longest, *runs.values())
                documents |= {d for d, _ in runs}
            shared = GRAM + sum(min(GRAM, b - a) for a, b in pairwise(group))
            passages.append((group[-1] - group[0] + GRAM, shared, longest, len(documents)))
    total = max(1, sum(map(len, validation)))
    return {"exact": sum(p[1] for p in passages) / total, "whole": sum(p[0] for p in passages) / total,
            "passages": sorted(passages, reverse=True)}  # fmt: skip


def jaccard(a: list[str], b: list[str]) -> float:
    one, other = set(tuples(a, 4)), set(tuples(b, 4))
    return len(one & other) / max(1, len(one | other))


def true_readings(train: list[list[str]]) -> float:
    counts = Counter(gram for side in train for gram in tuples(side, GRAM))
    return counts.total() / max(1, len(counts))


# ---- Texts


@cache
def books() -> Texts:
    folder = data() / "books"
    return [(path.name, path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.txt"))]


def a_part(text: str, num_words: int, generator: random.Random) -> str:
    pieces = text.split(" ")
    start = generator.randrange(max(1, len(pieces) - num_words))
    return " ".join(pieces[start : start + num_words])


def base(generator: random.Random) -> tuple[Texts, Texts]:
    """Eight parts of 12,000 words to train on and three of 6,000 that are kept back, each of another book."""
    chosen = generator.sample(books(), 11)
    return [(n, a_part(t, 12_000, generator)) for n, t in chosen[:8]], [
        (n, a_part(t, 6_000, generator)) for n, t in chosen[8:]
    ]


def changed(text: str, share: float, generator: random.Random) -> str:
    """A share of its words replaced by other words of it."""
    pieces = text.split(" ")
    return " ".join(generator.choice(pieces) if generator.random() < share else piece for piece in pieces)


def inserted(into: str, text: str, generator: random.Random) -> str:
    at = into.index(" ", generator.randrange(len(into) // 2))
    return f"{into[:at]} {text}{into[at:]}"


def put_in(
    train: Texts, validation: Texts, share: float, errors: float, generator: random.Random
) -> tuple[Texts, float]:
    """Passages of 60 to 600 words of the validation side copied into the training side until `share` of it is there."""
    sides = [text.split(" ") for _, text in validation]
    places = [(v, k) for v, side in enumerate(sides) for k in range(0, len(side), 600)]
    generator.shuffle(places)
    total, done = sum(len(words_of(text)) for _, text in validation), 0
    for v, k in places:
        if done >= share * total:
            break
        length = 600 if share == 1 else min(generator.randint(60, 600), max(60, round(share * total) - done))
        copied = sides[v][k : k + length]
        d = generator.randrange(len(train))
        train[d] = (train[d][0], inserted(train[d][1], changed(" ".join(copied), errors, generator), generator))
        done += len(words_of(" ".join(copied)))
    return train, done / total


@cache
def sources() -> Texts:
    """Files of the standard library of 200 to 3,000 words."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    packages = (".", "json", "email", "http", "logging", "xml", "asyncio")
    paths = [path for package in packages for path in sorted((folder / package).glob("*.py"))]
    texts = [
        (path.relative_to(folder).as_posix(), path.read_text(encoding="utf-8", errors="replace")) for path in paths
    ]
    return [(name, text) for name, text in texts if 200 <= len(words_of(text)) <= 3000]


def templated(generator: random.Random) -> str:
    """Entries that say one thing of different places in the same words."""

    def some(words: str) -> str:
        return generator.choice(words.split())

    def year(first: int, last: int) -> int:
        return generator.randrange(first, last)

    return "".join(
        f"{some('Ald Brook Carl Dun')}{some('ford ham ton wick')} is a {some('town village city')} in the county of "
        f"{some('North South East West')}shire with {generator.randrange(100, 99_999)} people, first named in "
        f"{year(900, 1900)}; its {some('church market mill bridge')} was built by {some('bishops guilds monks')} and "
        f"burned in {year(1500, 1950)}. "
        for _ in range(generator.randrange(8, 40))
    )


# ---- Cases


def checked(train: Texts, validation: Texts) -> Checkup:
    return check_up(*[[Document(name, lambda text=text: safe_pieces([text])) for name, text in side]
                      for side in (train, validation)])  # fmt: skip


def leak_row(kind: str, train: Texts, validation: Texts, given: float | None = None) -> Row:
    """What was said of leaks, and what is so. `given` is the share put in, where that is all there is."""
    found = checked(train, validation)
    truth = true_leaks([words_of(text) for _, text in train], [words_of(text) for _, text in validation])
    sentence = next((s for s in found.sentences() if "of the validation text (by words)" in s), None)
    exact = [] if sentence is None else re.findall(r"^([\d.]+)%", sentence)
    wrong = []
    if sentence is not None:
        longest = found.leaks.longest[0]
        numbers = (longest.num_words, longest.shared_words, longest.longest_sequence_words, longest.train_documents)
        if truth["whole"] < 0.001:
            wrong.append("no such leak")
        elif numbers not in truth["passages"] or longest.num_words != truth["passages"][0][0]:
            wrong.append(f"passage {numbers}, not {truth['passages'][0]}")
        if abs(float(exact[0]) - 100 * truth["exact"]) > 0.051:
            wrong.append(f"{exact[0]} %, not {truth['exact']:.2%}")
        if found.leaks.num_passages != len(truth["passages"]):
            wrong.append("another number of passages")
    return {"kind": kind, "given": given, "exact": truth["exact"], "whole": truth["whole"], "said": sentence,
            "found": found.leaked_share, "found_with_changes": found.leaked_share_with_changes,
            "validation_leaked": found.validation_leaked, "wrong": wrong}  # fmt: skip


def shares(work: Path) -> list[Row]:
    rows = []
    for share in SHARES:
        for errors in (0.0, 0.05) if share else (0.0,):
            for seed in range(8):
                generator = random.Random(f"{share} {errors} {seed}")
                train, validation = base(generator)
                train, given = put_in(train, validation, share, errors, generator)
                rows.append(leak_row(f"{share:.0%}, {errors:.0%} changed", train, validation, given))
    return rows


def in_several(work: Path) -> list[Row]:
    """A passage in several documents, exactly and with changed words, in parts."""
    rows = []
    for seed in range(12):
        generator = random.Random(seed)
        train, validation = base(generator)
        passage = a_part(validation[0][1], generator.randint(200, 800), generator)
        for d in generator.sample(range(len(train)), 2 + seed % 5):
            some = a_part(passage, generator.randint(100, 400), generator)
            some = changed(some, generator.choice([0, 0.05, 0.1]), generator)
            train[d] = (train[d][0], inserted(train[d][1], some, generator))
        rows.append(leak_row("in several documents", train, validation))
    return rows


def chapters(work: Path) -> list[Row]:
    rows = []
    for seed in range(12):
        generator = random.Random(seed)
        train, validation = base(generator)
        chapter = a_part(validation[0][1], generator.randint(1000, 4000), generator)
        train = [*train, ("an anthology", chapter + "\n\n" + a_part(train[0][1], 2000, generator))]
        rows.append(leak_row("chapters in common", train, validation))
    return rows


def formulas(work: Path) -> list[Row]:
    """A formula of 13 words again and again on both sides; in the second half of the cases a quotation as well."""
    rows = []
    for seed in range(20):
        generator = random.Random(seed)
        train, validation = base(generator)
        quotation = a_part(generator.choice(books())[1], generator.randint(30, 90), generator)
        for side in (train, validation):
            for d, (name, text) in enumerate(side):
                for _ in range(len(text) // 4000):
                    text = inserted(text, FORMULA, generator)
                side[d] = (name, inserted(text, quotation, generator) if seed >= 10 else text)
        rows.append(leak_row("formulas" if seed < 10 else "formulas and a quotation", train, validation))
    return rows


def novels(work: Path) -> list[Row]:
    """Each of the books against all others: what is there by nature."""
    every = books()
    return [
        once(work / "novels" / f"{i}.json",
             lambda i=i: leak_row("novels", [*every[:i], *every[i + 1 :]], [every[i]], 0.0))
        for i in range(len(every))
    ]  # fmt: skip


def code(work: Path) -> list[Row]:
    rows = []
    for seed in range(20):
        generator = random.Random(seed)
        files = generator.sample(sources(), 60)
        if seed % 2:
            files = [(name, f"# {HEADER}\n{text}") for name, text in files]
        rows.append(leak_row("code with a common header" if seed % 2 else "code", files[:50], files[50:]))
    return rows


def templates(work: Path) -> list[Row]:
    rows = []
    for seed in range(10):
        generator = random.Random(seed)
        texts = [(f"{i}.txt", templated(generator)) for i in range(40)]
        rows.append(leak_row("templates", texts[:32], texts[32:]))
    return rows


def with_copies(kind: str, side: Texts, source: str, generator: random.Random) -> Texts:
    added = []
    if kind in ("exact", "both"):
        added.append(("exact.txt", source))
    if kind in ("near", "both"):
        added.append(("near.txt", changed(source, generator.choice([0.02, 0.05]), generator)))
    if kind == "a part in common":
        rest = a_part(generator.choice(books())[1], 1000, generator)
        added.append(("part.txt", f"{' '.join(source.split(' ')[:500])} {rest}"))
    return [*side, *added]


def judged(said: Sequence[Duplicate], side: Texts, train: Texts) -> Row:
    """Which of the pairs are not what was said of them, and which copies nothing was said of."""
    words, others = [words_of(text) for _, text in side], [words_of(text) for _, text in train]
    names, wrong, missing, known = [name for name, _ in side], [], [], {each.name for each in said}
    for each in said:
        i, j = names.index(each.name), [name for name, _ in train].index(each.of)
        true, exact = jaccard(words[i], others[j]), side[i][1] == train[j][1]
        if abs(true - each.similarity) > 0.15 or (each.similarity == 1) != exact:
            wrong.append(f"{each.name} is {true:.0%} like {each.of}, said {each.similarity:.0%}")
    for i, name in enumerate(names):
        earlier = range(i if side is train else len(train))
        if name not in known and any(
            side[i][1] == train[j][1] or jaccard(words[i], others[j]) >= 0.65 for j in earlier
        ):
            missing.append(name)
    return {"said": bool(said), "wrong": wrong, "missing": missing}


def duplicates(work: Path) -> list[Row]:
    """Copies, near copies and documents with a part in common, within the training side and across; or none of them."""
    rows = []
    for seed in range(60):
        generator = random.Random(seed)
        kind = ("none", "exact", "near", "a part in common", "both")[seed % 5]
        train, validation = ([(n, a_part(t, 1500, generator)) for n, t in side] for side in base(generator))
        source = generator.choice(train)[1]
        train, validation = (with_copies(kind, side, source, generator) for side in (train, validation))
        found = checked(train, validation)
        rows.append({"kind": kind, "duplicates": judged(found.duplicates, train, train),
                     "copies": judged(found.copies, validation, train)})  # fmt: skip
    return rows


def repetition(work: Path) -> list[Row]:
    """A part of a book several times over, as files, in one file, or beside text that is not repeated; or code."""
    rows = []
    for seed in range(40):
        generator = random.Random(seed)
        train, _ = base(generator)
        times, kind = generator.choice([1, 2, 3, 10, 30]), ("files", "one file", "partly", "code")[seed % 4]
        part = a_part(train[0][1], generator.randint(500, 4000), generator)
        if seed % 8 == 1 and times < 10:  # a whole book is counted by a sample of its sequences
            part = books()[seed % len(books())][1]
        if kind == "files":
            texts = [(f"{i}.txt", part) for i in range(times)]
        elif kind == "one file":
            texts = [("all.txt", "\n".join([part] * times))]
        elif kind == "partly":
            texts = [*train[1:4], ("again.txt", "\n".join([part] * times))]
        else:
            texts = generator.sample(sources(), 40)
        found, true = checked(texts, []), true_readings([words_of(text) for _, text in texts])
        sentence = next((s for s in found.sentences() if "repeats itself" in s), None)
        rows.append({"kind": kind, "times": times, "true": true, "found": found.readings_per_epoch, "said": sentence})
    return rows


def trained_on(work: Path) -> list[Row]:
    """Texts of which a known share of the bytes is training text; the rest is of other books, or of rare letters, which
    take more tokens."""
    rows = []
    for seed in range(36):
        generator = random.Random(seed)
        train, validation = base(generator)
        share, rare = SHARES[seed % 6], seed % 12 >= 6
        with tempfile.TemporaryDirectory() as folder:
            documents = [Document(name, lambda text=text: safe_pieces([text])) for name, text in train]
            prepared = prepare(documents, tokenizer="bpe:1024", split="none", out=Path(folder) / "prepared", threads=1)
            size = 24_000
            known = generator.choice(train)[1].encode()[: round(share * size)].decode(errors="ignore")
            new = validation[0][1].encode()[: round((1 - share) * size)].decode(errors="ignore")
            if rare:
                new = "".join(f"{i * 7919:x}qzjx " for i in range(4000))[: round((1 - share) * size)]
            text = known + new
            found = trained_on_share(prepared, encode_documents([("text", text)], prepared.tokenizer))
        rows.append({"given": len(known.encode()) / len(text.encode()), "rare_letters": rare, "found": found})
    return rows


# ---- The counts


def rate(what: str, rows: list[Row], wrong: Callable[[Row], Any]) -> Row:
    return {"what": what, "wrong": sum(bool(wrong(row)) for row in rows), "tried": len(rows)}


def main(work: Path) -> Row:
    parts = (shares, in_several, chapters, formulas, novels, code, templates, duplicates, repetition, trained_on)
    rows = {part.__name__: once(work / f"{part.__name__}.json", lambda part=part: part(work)) for part in parts}
    leaks = [row for part in parts[:7] for row in rows[part.__name__]]
    injected = [row for row in rows["shares"] if row["given"]]
    pairs, again, trained = rows["duplicates"], rows["repetition"], rows["trained_on"]
    rates = {
        "leaked": leaked_rates(leaks),
        "validation_leaked": [
            rate("said where nothing was put in", [r for r in leaks if r["given"] == 0], is_leaked),
            rate("said of less than 1 %", [r for r in leaks if r["whole"] < LEAKED], is_leaked),
            rate("missing where 5 % or more were put in", [r for r in injected if r["given"] >= 0.045],
                 lambda r: not is_leaked(r)),
        ],
        "duplicates": pair_rates([row | row["duplicates"] for row in pairs]),
        "copies": pair_rates([row | row["copies"] for row in pairs]),
        "repeated": [
            rate(f"said below {REPEATED} readings, or more than 3 % off", [r for r in again if r["said"]],
                 lambda r: r["true"] < REPEATED or abs(r["found"] / r["true"] - 1) > 0.03),
            rate("missing", [r for r in again if r["true"] >= REPEATED], lambda r: not r["said"]),
        ],
        "trained_on": [
            rate("said of none, or more than 2 points off",
                 [r for r in trained if r["found"] >= LEAKED or not r["given"]],
                 lambda r: r["found"] >= LEAKED and (not r["given"] or abs(r["found"] - r["given"]) > 0.02)),
            rate("missing where 2 % or more were put in", [r for r in trained if r["given"] >= 0.02],
                 lambda r: r["found"] < LEAKED),
        ],
    }  # fmt: skip
    errors = [row["found_with_changes"] / row["given"] - 1 for row in injected]
    return {
        "rates": rates,
        "cases": dict(Counter(row["kind"] for row in [*leaks, *pairs, *again])) | {"trained_on": len(trained)},
        "largest_error_of_the_share_put_in": round(max(map(abs, errors)), 4),
        "largest_natural_share_of_a_novel": round(max(row["whole"] for row in rows["novels"]), 6),
        "wrong": [f"{r['kind']}: {r['wrong']}" for r in leaks if r["wrong"]][:20]
        + [f"{r['kind']}: {s['wrong']}, missing {s['missing']}" for r in pairs for s in (r["duplicates"], r["copies"])
           if s["wrong"] or s["missing"]][:20],
    }  # fmt: skip


def is_leaked(row: Row) -> bool:
    return bool(row["validation_leaked"])


def leaked_rates(rows: list[Row]) -> list[Row]:
    there = [row for row in rows if row["whole"] >= 0.001 or (row["given"] or 0) >= 0.01]
    return [
        rate("said with any number wrong", [row for row in rows if row["said"]], lambda row: row["wrong"]),
        rate("said of less than 0.1 %", [row for row in rows if row["whole"] < 0.001], lambda row: row["said"]),
        rate("missing", there, lambda row: not row["said"]),
    ]


def pair_rates(rows: list[Row]) -> list[Row]:
    return [
        rate("said with any pair wrong", [row for row in rows if row["said"]], lambda row: row["wrong"]),
        rate("said without any", [row for row in rows if row["kind"] == "none"], lambda row: row["said"]),
        rate("missing", [row for row in rows if row["kind"] in ("exact", "near", "both")], lambda row: row["missing"]),
    ]
