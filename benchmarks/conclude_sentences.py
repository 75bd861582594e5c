"""What a run says of itself, held against 40 varied runs whose answers are known, and 6 more for the health checks.

Each run is trained once and scored densely: at 25 evenly spread steps besides those at which a run looks, on 128
windows of the validation text. The rules see what a run would see: the looks at steps 1, 2, 4, 8, ..., at the ends of
the first ten epochs, then evenly, and half of the windows. The truth is taken from the other windows at all steps,
from how the text was made, and from the loss on all of the validation text. Runs are cached; about 20 minutes.
"""

from __future__ import annotations

import math
import os
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from conclusions import once

CONTEXT, BATCH, LAYERS, WIDTH = 64, 8, 2, 64
SCORED_WINDOWS = {"train": 64, "validation": 128}


# ---- Texts, all ASCII


def novel(name: str) -> str:
    text = (common.data() / "books" / f"{name}.txt").read_text(encoding="utf-8")
    return text.encode("ascii", "ignore").decode()


def code(seed: int) -> str:
    modules = sorted(Path(os.__file__).parent.glob("*.py"))
    random.Random(seed).shuffle(modules)
    return (
        "\n".join(path.read_text(encoding="utf-8", errors="ignore") for path in modules[:60])
        .encode("ascii", "ignore")
        .decode()
    )


def verse() -> str:
    return (common.data() / "tinyshakespeare.txt").read_text()


def other_language(text: str, seed: int) -> str:
    """The text in a substitution cipher: spelled and spaced like a language, with other words and other frequencies."""
    letters = list("abcdefghijklmnopqrstuvwxyz")
    mixed = random.Random(seed).sample(letters, 26)
    table = dict(zip(letters, mixed, strict=True))
    table |= {a.upper(): b.upper() for a, b in table.items()}
    return text.translate(str.maketrans(table))


def shuffled(text: str, unit: str, seed: int) -> str:
    """The same characters, or the same words and white space, in a random order."""
    pieces = list(text) if unit == "characters" else re.findall(r"\S+\s+", text)
    random.Random(seed).shuffle(pieces)
    return "".join(pieces)


# ---- Runs


@dataclass(frozen=True)
class Spec:
    """One run. `train` and `held` are (kind of text, start in KB, length in KB); `copies`: so often the training text
    stands in itself; `leak`: the validation text is taken from the training text; `shuffle_targets`: the targets of a
    batch are permuted, which no setting can do."""

    name: str
    kind: str
    train: tuple[str, int, float]
    held: tuple[str, int, float]
    steps: int
    family: str = "qwen3"
    optimizer: str = "muon"
    windows: int = 64  # of the probe
    copies: int = 1
    leak: bool = False
    shuffle_targets: bool = False
    tokenizer: str = "bytes"
    rate: float = 1.0  # times the usual one
    warmup: int | None = None
    schedule: str = "wsd"
    seed: int = 0


PAIRS = (("qwen3", "muon"), ("gpt2", "adamw"), ("qwen3", "adamw"), ("gpt2", "muon"))
NOVELS = (
    "emma",
    "walden",
    "dorian-gray",
    "tom-sawyer",
    "war-of-the-worlds",
    "jane-eyre",
    "peter-pan",
    "scarlet-letter",
)


def specs() -> list[Spec]:
    made: list[Spec] = []

    def add(kind: str, train: tuple[str, int, float], held: tuple[str, int, float], steps: int, **more: Any) -> None:
        n = sum(spec.kind == kind for spec in made)
        family, optimizer = PAIRS[(n + len({spec.kind for spec in made if spec.kind != kind})) % 4]
        more = {"family": family, "optimizer": optimizer, "seed": len(made)} | more
        made.append(Spec(f"{kind} {n + 1}", kind, train, held, steps, **more))

    for i, (size, windows, steps) in enumerate(
        [(6, 16, 300), (12, 38, 400), (16, 50, 400), (5, 16, 240), (10, 32, 400), (24, 64, 400), (8, 24, 300),
         (12, 38, 400)]
    ):  # fmt: skip
        text = "code" if i == 2 else "verse" if i == 5 else NOVELS[i]
        more = {"tokenizer": "bpe:512"} if i in (1, 6) else {"schedule": "constant"} if i == 4 else {}
        add("overfitted", (text, 30, size), (text, 200, 24), steps, windows=windows, **more)
    for i in range(6):
        text = "code" if i == 1 else "verse" if i == 3 else NOVELS[i]
        more = {"tokenizer": "bpe:512", "steps": 200} if i == 4 else {}
        add("one epoch", (text, 60, 170), (text, 20, 24), **({"steps": 320} | more))
    for i, (size, steps) in enumerate([(100, 400), (60, 400), (100, 600), (40, 200)]):
        add("few epochs", (NOVELS[i + 3], 60, size), (NOVELS[i + 3], 20, 24), steps)
    for i, (ours, theirs) in enumerate(
        [("emma", "code"), ("code", "walden"), ("verse", "code"), ("jane-eyre", "verse")]
    ):
        add("other kind", (ours, 60, (100, 30, 100, 60)[i]), (theirs, 30, 24), (180, 300, 300, 360)[i])
    for i in range(4):
        add("other language", (NOVELS[i], 60, (100, 30, 160, 16)[i]), (f"cipher {NOVELS[i + 4]}", 30, 24),
            (160, 300, 300, 300)[i])  # fmt: skip
    for i in range(3):
        add("leaked", (NOVELS[i + 2], 60, (100, 24, 60)[i]), (NOVELS[i + 2], 0, 20), (400, 400, 300)[i], leak=True)
    for i in range(3):
        text = f"characters {NOVELS[i]}"
        add("shuffled characters", (text, 60, (100, 8, 100)[i]), (text, 20, 24), (300, 300, 180)[i])
    for i in range(3):
        text = f"words {NOVELS[i + 3]}"
        add("shuffled words", (text, 60, (100, 16, 160)[i]), (text, 20, 24), (400, 400, 300)[i])
    for i, (size, copies) in enumerate([(20, 8), (6, 25), (10, 15), (4, 40), (60, 3)]):
        text = "code" if i == 2 else NOVELS[i]
        add("duplicated", (text, 30, size), (text, 200, 24), 300, copies=copies)
    for i in range(3):
        family, optimizer = PAIRS[i % 2]
        add("targets shuffled", (NOVELS[i], 60, 100), (NOVELS[i], 20, 24), 300, shuffle_targets=True, family=family,
            optimizer=optimizer)  # fmt: skip
    for i in range(3):
        add("slow start", (NOVELS[i], 60, 170), (NOVELS[i], 20, 24), 320, family="gpt2", optimizer="adamw",
            rate=(1.0, 0.5, 0.2)[i])  # fmt: skip
    return made


def text_of(part: tuple[str, int, float]) -> str:
    kind, start, size = part
    word, _, rest = kind.partition(" ")
    if word == "cipher":
        return other_language(text_of((rest, start, size)), start)
    whole = code(1) if kind == "code" else verse() if kind == "verse" else novel(rest or word)
    cut = whole[start * 1024 : start * 1024 + int(size * 1024)]
    return shuffled(cut, word, start) if word in ("characters", "words") else cut


def prepared(spec: Spec, folder: Path) -> Any:
    from hornbook.data.prepare import prepare
    from hornbook.text.documents import documents

    train = text_of(spec.train)
    held = train[len(train) // 4 :][: int(spec.held[2] * 1024)] if spec.leak else text_of(spec.held)
    (folder / "held").mkdir(parents=True, exist_ok=True)
    (folder / "held" / "held.txt").write_text(held)
    for i in range(spec.copies):
        (folder / f"train-{i:02d}.txt").write_text(train)
    return prepare(
        documents([str(folder)]), tokenizer=spec.tokenizer, split=f"folder:{folder / 'held'}", out=folder / "prepared",
        threads=1,
    )  # fmt: skip


def settings_of(spec: Spec, text: Any) -> tuple[Any, Any]:
    """Resolved settings and shape, chosen as `hornbook train` chooses."""
    from hornbook.data.shards import NUM_BYTES
    from hornbook.facts.settings import from_table
    from hornbook.planning.choose import Machine, choose
    from hornbook.planning.workload import CorpusStats, fill_steps, usual_learning_rate

    table: dict[str, Any] = {
        "model": {"family": spec.family, "layers": LAYERS, "width": WIDTH, "heads": 2, "context": CONTEXT},
        "optimizer": {"name": spec.optimizer},
        "schedule": {"name": spec.schedule},
        "train": {"steps": spec.steps, "batch": BATCH, "seed": spec.seed, "precision": "float32", "compile": False},
    }
    if spec.rate != 1.0:
        table["optimizer"]["learning_rate"] = spec.rate * usual_learning_rate("AdamW", WIDTH)
    if spec.warmup is not None:
        table["schedule"]["warmup_steps"] = spec.warmup
    part = text.train
    data = CorpusStats(part.num_tokens, int(part.documents[:, NUM_BYTES].sum()), text.tokenizer.vocabulary)
    choice = choose(from_table(table, source="the benchmark"), data, Machine(False, 5e10))
    fill_steps(choice.settings, spec.steps, data)
    return choice.settings, choice.shape


def look_steps(steps: int, steps_per_epoch: float) -> list[int]:
    """1, 2, 4, 8, ..., the ends of the first ten epochs, then evenly, as a run of so many steps looks."""
    ends = {min(steps, math.ceil(k * steps_per_epoch)) for k in range(1, 11)}
    every = max(1, steps // 20)
    return sorted({0, steps} | {2**k for k in range(20) if 2**k <= steps} | ends | set(range(every, steps, every)))


class Permuted:
    """Batches whose targets are those of other places of the batch."""

    def __init__(self, batches: Any) -> None:
        self.batches = batches

    def __getattr__(self, name: str) -> Any:
        return getattr(self.batches, name)

    def batch(self, step: int) -> tuple[Any, Any]:
        inputs, targets = self.batches.batch(step)
        order = np.random.default_rng(step).permutation(targets.size)
        return inputs, targets.flatten()[order].reshape(targets.shape)


def trained(spec: Spec, folder: Path) -> dict[str, Any]:
    """The whole run in numbers: every step's loss, and all windows at every look."""
    from hornbook.data.shards import NUM_BYTES
    from hornbook.evaluation.corpus import beginning_of, conventions, corpus_report, part_documents
    from hornbook.evaluation.probe import Probe, byte_lengths
    from hornbook.planning.workload import learning_rates
    from hornbook.setup.build import build
    from hornbook.training.decisions import lr_schedule
    from hornbook.training.loop import steps

    text = prepared(spec, folder)
    settings, shape = settings_of(spec, text)
    parts = build(settings, shape, text.train, torch.device("cpu"))
    batches = Permuted(parts.batches) if spec.shuffle_targets else parts.batches
    lengths = byte_lengths(text.tokenizer)
    sides = {}
    for name, part in (("train", text.train), ("validation", text.validation)):
        sides[name] = Probe(part, context=CONTEXT, num_tokens=SCORED_WINDOWS[name] * CONTEXT, byte_lengths=lengths)
    per_epoch = batches.windows_per_epoch / BATCH
    due = set(look_steps(spec.steps, per_epoch))
    dense = due | set(range(0, spec.steps, max(1, spec.steps // 25)))
    looks: list[dict[str, Any]] = []
    losses: list[float] = []
    norms: list[float | None] = []
    tokens = 0

    def look(step: int) -> None:
        scores = {name: probe.score(parts.model).window_nats for name, probe in sides.items()}
        looks.append({"step": step, "tokens": tokens, "epoch": step / per_epoch, "due": step in due} | scores)

    look(0)
    for done in steps(
        parts.model, parts.optimizers, batches, first=0, last=spec.steps, lr_schedule=lr_schedule(settings),
        microbatch=BATCH, clip_norm=settings.optimizer.clip_norm, seed=spec.seed,
    ):  # fmt: skip
        tokens += done.update.num_tokens
        losses.append(done.update.loss)
        norms.append(done.update.gradient_norm)
        if done.number in dense:
            look(done.number)
    documents, how = part_documents(text.validation, text.tokenizer), conventions(parts.model, text.tokenizer)
    report = corpus_report(parts.model, documents, how, model_name="run", text_name="held", batch_size=64)
    assert beginning_of(text.tokenizer) == how.beginning
    return {
        "spec": asdict(spec), "tokens_per_epoch": text.train.num_tokens, "vocabulary": shape.vocabulary,
        "train_bytes": int(text.train.documents[:, NUM_BYTES].sum()), "parameters": shape.parameters,
        "learning_rates": dict(learning_rates(settings)), "warmup_steps": settings.schedule.warmup_steps,
        "rate": [lr_schedule(settings)(k) for k in range(spec.steps)], "losses": losses, "norms": norms, "looks": looks,
        "final_loss": report.loss_nats_per_token,
    }  # fmt: skip


def counted(spec: Spec, folder: Path) -> dict[str, Any]:
    """What is counted in the text of a run, as a run counts it."""
    from hornbook.evaluation.baselines import baselines, surprise_ratio, training_stream
    from hornbook.evaluation.corpus import Conventions, beginning_of, part_documents
    from hornbook.training.monitor import BIGRAM_TOKENS, bigram_nats

    text = prepared(spec, folder)
    vocabulary, stream = text.tokenizer.vocabulary, training_stream(text.train)
    how = Conventions(CONTEXT, CONTEXT // 2, beginning_of(text.tokenizer))
    levels = baselines(text.train, part_documents(text.validation, text.tokenizer), how, vocabulary)
    checkup = text.manifest["report"]["checkup"]
    return {
        "repeated_share": checkup["repeated_share"],
        "leaked_share": checkup["leaked_share"],
        "counting": {name: level["loss_nats_per_token"] for name, level in levels.items()},
        "counts": np.bincount(stream, minlength=vocabulary).tolist(),
        "bigram_nats": bigram_nats(stream[:BIGRAM_TOKENS], vocabulary),
        "surprise_ratio": surprise_ratio(stream, training_stream(text.validation), vocabulary),
    }


def runs(work: Path) -> Iterator[dict[str, Any]]:
    torch.set_num_threads(1)
    for spec in specs():
        name = spec.name.replace(" ", "-")
        folder = work / "texts" / name
        run = once(work / "runs" / f"{name}.json", lambda s=spec, f=folder: trained(s, f))
        yield run | once(work / "counts" / f"{name}.json", lambda s=spec, f=folder: counted(s, f))


# ---- What the rules see of a run, and the truth


def some(values: Sequence[float], count: int) -> list[float]:
    """Evenly spread ones."""
    count = min(count, len(values))
    return [values[i * len(values) // count] for i in range(count)]


def rows_of(run: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows that a run writes: a step each, and the looks that are due with the windows of the probe."""
    looks, windows = run["looks"], run["spec"]["windows"]
    steps, seen = [look["step"] for look in looks], [look["tokens"] for look in looks]
    rows: list[dict[str, Any]] = []
    for i, loss in enumerate(run["losses"]):
        tokens = round(float(np.interp(i + 1, steps, seen)))
        step = {"event": "step", "step": i + 1, "tokens": tokens, "train_loss_nats_per_token": loss}
        rows.append(step | {"learning_rate": run["rate"][i]})
    for look in looks:
        if look["due"]:
            held, train = some(look["validation"], windows), some(look["train"], windows)
            rows.append({
                "event": "evaluation", "step": look["step"], "tokens": look["tokens"], "epoch": look["epoch"],
                "probe_validation_loss_nats_per_token": float(np.mean(held)), "probe_validation_window_nats": held,
                "probe_train_loss_nats_per_token": float(np.mean(train)), "probe_train_window_nats": train,
            })  # fmt: skip
    return sorted(rows, key=lambda row: (row["step"], row["event"] == "evaluation"))


class Truth:
    """What is so, from all windows at all steps, and from how the text was made."""

    def __init__(self, run: dict[str, Any]) -> None:
        looks, self.spec = run["looks"], run["spec"]
        self.steps = np.array([look["step"] for look in looks])
        self.tokens = np.array([look["tokens"] for look in looks])
        self.held = np.array([np.mean(look["validation"]) for look in looks])
        self.train = np.array([np.mean(look["train"]) for look in looks])
        self.readings = self.tokens * self.spec["copies"] / run["tokens_per_epoch"]
        windows = self.spec["windows"]
        self.probe = np.array([np.mean(some(look["validation"], windows)) for look in looks])
        self.lowest = float(self.held.min())
        self.settled = int(self.steps[np.flatnonzero(self.held < self.lowest + 0.02)[-1]])  # from there on it rises
        self.low_step = int(self.steps[self.held.argmin()])
        self.rise = float(self.held[-3:].mean()) - self.lowest
        late = self.tokens >= 0.75 * self.tokens[-1]
        slope = np.polyfit(self.tokens[late], self.held[late], 1)[0]
        self.fall = -float(slope) * 0.25 * float(self.tokens[-1])
        gaps, once = self.held - self.train, np.flatnonzero(self.readings <= 1.05)
        self.growth = gaps - float(np.median(gaps[once[-5:]]))

    def at(self, values: Any, step: int) -> float:
        return float(values[int(np.flatnonzero(self.steps == step)[0])])


Verdicts = dict[str, dict[str, bool]]


def judged(run: dict[str, Any]) -> Verdicts:
    """By id of a conclusion: "false", whether it was said, where it is not so; "missing", whether it was not, where it
    is so. What lies between (a rise of 0.03 nats is neither a turn nor none) is judged by neither."""
    from hornbook.reporting.changes import fall_at_end
    from hornbook.reporting.curves import best_step_between, read_curves
    from hornbook.reporting.words import conclusions

    truth, rows, spec = Truth(run), rows_of(run), run["spec"]
    known = {"tokens_per_epoch": run["tokens_per_epoch"], "repeated_share": run["repeated_share"]}
    every = conclusions(
        rows, counting=run["counting"], used_step=spec["steps"], final_loss=run["final_loss"],
        leaked_share=run["leaked_share"], surprise_ratio=run["surprise_ratio"], **known,
    )  # fmt: skip
    said = {one.id: one.sentence for one in every}
    curves = read_curves(rows, **known)
    assert curves is not None
    verdicts: Verdicts = {}

    def judge(name: str, *, wrong: bool, due: bool = False, or_by: Sequence[str] = ()) -> None:
        """`or_by`: conclusions that stand in its place."""
        rates = {"false": name in said} if wrong else {}
        verdicts[name] = rates | ({"missing": not said.keys() & {name, *or_by}} if due else {})

    is_turned = truth.rise > 0.1 and truth.low_step < 0.9 * spec["steps"]
    judge("turned", wrong=truth.rise < 0.02, due=is_turned, or_by=["unstable"])
    judge("still_falling", wrong=truth.fall < 0.01, due=truth.fall > 0.06 and truth.rise < 0.02)
    judge("rising", wrong=truth.fall > -0.01, due=truth.fall < -0.06, or_by=["turned", "unstable"])
    judge("flat", wrong=abs(truth.fall) > 0.04)
    fall = fall_at_end(curves.points)
    judge("no_trend", wrong=fall is not None and abs(truth.fall - fall.nats) > fall.half + 0.005)
    repeated, growth = bool(truth.readings[-1] > 1.1), float(truth.growth[-1])
    is_other = spec["kind"].startswith("other")
    speaks = repeated and not spec["leak"] and not is_other
    judge("apart", wrong=growth < 0.02, due=speaks and growth > 0.15, or_by=["by_heart"])
    judge("together", wrong=growth > 0.1 or spec["leak"], due=speaks and abs(growth) < 0.02)
    judge("gap_leaked", wrong=not spec["leak"], due=spec["leak"])
    judge("texts_differ", wrong=not is_other, due=is_other and repeated)
    judge("by_heart", wrong=not repeated or growth < 0.5 or is_other)
    judge("read_once", wrong=repeated, due=bool(truth.readings[-1] <= 1.0))
    worse = min(float(curve[-1] - curve[0]) for curve in (truth.held, truth.train))
    judge("made_worse", wrong=worse < 0, due=worse > 0.1)
    judge("not_best_used", wrong=truth.rise < 0.02, due=is_turned)
    final, uniform, best = run["final_loss"], run["counting"]["uniform"], min(run["counting"].values())
    judge("worse_than_uniform", wrong=final < uniform, due=final > uniform + 0.05)
    judge("below_baseline", wrong=final > best, due=final < best - 0.03)
    judge("above_baseline", wrong=final < best, due=final > best + 0.03)
    if spec["kind"].startswith("shuffled"):
        verdicts["below_baseline"]["order"] = any("learned more" in sentence for sentence in said.values())
    if "parted" in said and curves.gap.opened is not None:
        before, at = (look.step for look in curves.gap.opened)
        early = truth.at(truth.readings, at) <= 1.0 or truth.at(truth.growth, at) < 0.0
        verdicts["parted"] = {"false": early or truth.at(truth.growth, before) > 0.15}
    if "turned" in said:
        low, high = best_step_between(rows)
        within = (truth.steps >= (low or 0)) & (truth.steps <= (high or spec["steps"]))
        verdicts["turned"]["outside"] = float(truth.probe[within].min()) > float(truth.probe.min()) + 0.01
    return verdicts | live(run, rows, truth, is_turned) | health(run, rows, truth)


def live(run: dict[str, Any], rows: list[dict[str, Any]], truth: Truth, is_turned: bool) -> Verdicts:
    """What is said while a run goes on: at each look, from the rows so far."""
    from hornbook.facts.by_heart import readings
    from hornbook.facts.looks import turned
    from hornbook.planning.forecast import forecast
    from hornbook.reporting.curves import evaluations
    from hornbook.reporting.words import only_memorizing

    spec, looks, ceiling = run["spec"], evaluations(rows), math.log(run["vocabulary"])
    verdicts: Verdicts = {"memorizing": {}, "run_turned": {}, "forecast": {}}
    first: dict[str, int] = {}
    once_tokens = run["tokens_per_epoch"] / readings(1.0, run["repeated_share"])
    read_once = int(truth.steps[np.flatnonzero(truth.readings <= 1.05)[-1]])
    halfway, asked, read = None, False, readings(looks[-1].tokens / run["tokens_per_epoch"], run["repeated_share"])
    for count, look in enumerate(looks, 1):
        seen = [row for row in rows if row["event"] == "evaluation" and row["step"] <= look.step]
        if only_memorizing(seen, run["tokens_per_epoch"], repeated_share=run["repeated_share"]):
            first.setdefault("memorizing", look.step)
        if turned(looks[:count], after_tokens=once_tokens) is not None:
            first.setdefault("run_turned", look.step)
        if not asked and look.step >= spec["steps"] / 2:
            points, asked = [point for point in looks[:count] if point.tokens > 0], True
            tokens, losses = ([getattr(p, name) for p in points] for name in ("tokens", "validation_loss"))
            halfway = forecast(tokens, losses, looks[-1].tokens, ceiling=ceiling, readings=read)
    for name in ("memorizing", "run_turned"):
        at = first.get(name)
        is_so = is_turned and bool(truth.readings[-1] > 1.05)
        due = max(2 * truth.settled, read_once) + spec["steps"] // 20
        if is_so and due <= spec["steps"]:
            verdicts[name]["late"] = at is None or at > due
        later = [] if at is None else truth.held[truth.steps > at].tolist()
        before = float(truth.held[truth.steps <= (at or 0)].min())
        is_false = bool(later) and min(later) < before - 0.01
        if name == "memorizing" and at is not None:
            is_false = is_false or truth.at(truth.readings, at) <= 1.0
        verdicts[name]["false"] = is_false
    if halfway is not None:
        verdicts["forecast"]["band"] = not halfway.contains(float(truth.probe[-1]))
    return verdicts


def health(run: dict[str, Any], rows: list[dict[str, Any]], truth: Truth) -> Verdicts:
    """The health checks, at each look. Nothing is wrong with any of these runs but what their text was made for."""
    from hornbook.facts.shape import GPTShape
    from hornbook.planning.health import History, issues, unigram_nats

    spec, unigram = run["spec"], unigram_nats(run["counts"])
    shape = GPTShape(
        family=spec["family"], layers=LAYERS, width=WIDTH, heads=2, context=CONTEXT, vocabulary=run["vocabulary"]
    )
    heard: dict[str, tuple[int, str]] = {}
    looks = [row for row in rows if row["event"] == "evaluation" and row["step"] > 0]
    for count, look in enumerate(looks, 1):
        history = History(
            shape=shape, train_losses=run["losses"][: look["step"]],
            validation_tokens=[seen["tokens"] for seen in looks[:count]],
            validation_losses=[seen["probe_validation_loss_nats_per_token"] for seen in looks[:count]],
            unigram_nats=unigram, bigram_nats=run["bigram_nats"], epochs=look["epoch"],
            learning_rates=run["learning_rates"], warmup_steps=run["warmup_steps"], leaked_share=run["leaked_share"],
            bytes_per_token=run["train_bytes"] / run["tokens_per_epoch"],
        )  # fmt: skip
        for name, sentence in issues(history).items():
            heard.setdefault(name, (look["step"], sentence))
    verdicts: Verdicts = {f"{name}": {"false": name in heard} for name in ("learning rate", "no warm-up", "diverges")}
    stands = heard.get("only token frequencies")
    row = verdicts["only token frequencies"] = {
        "false": stands is not None and truth.at(truth.train, stands[0]) < 0.97 * unigram
    }
    if spec["kind"] == "shuffled characters":
        row["blame"] = stands is not None and "targets" in stands[1]
    if spec["shuffle_targets"]:
        row["missing"] = stands is None
    early = truth.held[(truth.readings <= 1) & (truth.steps > 20)]
    is_foreign = len(early) > 2 and float(np.median(early)) > math.log(run["vocabulary"]) + 0.2
    is_said = "unlike validation text" in heard
    verdicts["unlike validation text"] = {"missing": not is_said} if is_foreign else {
        "false": is_said and not spec["kind"].startswith("other")
    }  # fmt: skip
    verdicts["validation text seen"] = {} if spec["leak"] else {"false": "validation text seen" in heard}
    left = heard.get("left its forecast")
    healed = left is not None and truth.held[-1] < float(truth.held[truth.steps <= left[0]].min()) - 0.01
    verdicts["left its forecast"] = {"false": healed}
    return verdicts


WHAT = {
    "false": "said although it is not so", "missing": "not said although it is so",
    "late": "not said by twice the last step within 0.02 nats of the lowest point, and one look",
    "outside": "the two looks do not hold a loss of the probe within 0.01 of its lowest at all steps scored",
    "order": "claims of shuffled text that more than short sequences was learned",
    "blame": "blames the targets of text without structure",
    "band": "the end lies outside the 90 % band forecast at half of the steps",
}  # fmt: skip


def main(work: Path) -> dict[str, Any]:
    counts: dict[tuple[str, str], list[tuple[str, bool]]] = {}
    names = []
    for run in runs(work):
        names.append(run["spec"]["name"])
        for name, verdicts in judged(run).items():
            for what, is_wrong in verdicts.items():
                counts.setdefault((name, what), []).append((names[-1], bool(is_wrong)))
    rates: dict[str, list[dict[str, Any]]] = {}
    for (name, what), cases in sorted(counts.items()):
        wrong = [run for run, is_wrong in cases if is_wrong]
        row = {"what": WHAT[what], "wrong": len(wrong), "tried": len(cases), "runs": wrong}
        rates.setdefault(name, []).append(row)
    return {"rates": rates, "runs": names}
