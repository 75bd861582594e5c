"""What `hornbook train TEXT --from RUN` says of weights that start worse than uniform guessing.

Eight runs are trained: four that generalize (on a novel, another novel, code, verse) and four that have memorized a few
pages of the same. Each is the start of a run of three steps on texts like its own and unlike it: other novels, code,
verse, a novel in a substitution cipher, random characters, and a novel in Greek letters. The sentence is right where
the text is of another kind or the weights have memorized theirs; it is missing where a run that generalizes starts on
a cipher, random characters or another alphabet.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

from conclude_sentences import code, novel, other_language, verse
from conclusions import once

GREEK = str.maketrans("abcdefghijklmnopqrstuvwxyz", "αβγδεζηθικλμνξοπρστυφχψωϊϋ")
TRAINED = {"emma": "novel", "walden": "novel", "code": "code", "verse": "verse"}
SIZES = {"generalizes": (150_000, 400), "memorized": (6_000, 500)}  # characters, steps
NOVELS = (
    "jane-eyre", "war-of-the-worlds", "tom-sawyer", "dorian-gray", "peter-pan", "scarlet-letter", "anna-karenina",
    "great-expectations", "pride-and-prejudice", "sense-and-sensibility",
)  # fmt: skip
MODEL = ("--model.layers", "2", "--model.width", "64", "--model.heads", "2", "--model.context", "64", "--train.batch",
         "16", "--train.threads", "1")  # fmt: skip


def source(name: str) -> str:
    return code(1) if name == "code" else verse() if name == "verse" else novel(name)


def texts() -> dict[str, tuple[str, str]]:
    """Name to (kind, text), none of which a run was trained on."""
    made = {name: ("novel", novel(name)[80_000:110_000]) for name in NOVELS}
    for i in range(3):
        start = -40_000 - 40_000 * i
        made[f"code-{i}"] = ("code", source("code")[start : start + 30_000])
        made[f"verse-{i}"] = ("verse", verse()[start : start + 30_000])
        letters = random.Random(i).choices("abcdefghijklmnopqrstuvwxyz .,;XYZ0123456789", k=30_000)
        text = novel(NOVELS[i])[40_000:70_000]
        made[f"random-{i}"] = ("unknown", "".join(letters))
        made[f"cipher-{i}"] = ("unknown", other_language(text, i))
        made[f"greek-{i}"] = ("unknown", text.lower().translate(GREEK))
    return made


def hornbook(work: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "hornbook", *arguments, "--json"]
    done = subprocess.run(command, cwd=work, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr[-2000:])


def start(work: Path, model: str, text: str) -> dict[str, Any]:
    """Whether the sentence is in the log, and the first loss of the run's log."""
    out = f"{model}-on-{text}"
    hornbook(work, "train", f"{text}.txt", "--from", model, "--steps", "3", "--train.threads", "1", "--out", out)
    rows = [json.loads(line) for line in (work / out / "metrics.jsonl").read_text().splitlines()]
    losses = [row["train_loss_nats_per_token"] for row in rows if row["event"] == "step"]
    sentences = [row["sentence"] for row in rows if row["event"] == "warning"]
    return {"first_loss": losses[0], "sentences": [s for s in sentences if "worse than uniform guessing" in s]}


def main(work: Path) -> dict[str, Any]:
    on = texts()
    for name, (_, text) in on.items():
        (work / f"{name}.txt").write_text(text, encoding="utf-8")
    rows = []
    for name, kind in TRAINED.items():
        for state, (size, steps) in SIZES.items():
            model = f"{name}-{state}"
            (work / f"{model}.txt").write_text(source(name)[:size], encoding="utf-8")
            length = ("--steps", str(steps), "--out", model, "--tokenizer", "bpe:512")
            once(work / f"{model}.json", lambda m=model, n=length: hornbook(work, "train", f"{m}.txt", *MODEL, *n))
            for text, (of_kind, _) in on.items():
                seen = once(work / f"{model}-on-{text}.json", lambda m=model, t=text: start(work, m, t))
                rows.append({"model": name, "state": state, "text": text, "like": kind == of_kind} | seen)
                print(json.dumps(rows[-1]), flush=True)
    should_not = [row for row in rows if row["like"] and row["state"] == "generalizes"]
    should = [row for row in rows if on[row["text"]][0] == "unknown" and row["state"] == "generalizes"]
    wrong, missing = (sum(bool(row["sentences"]) is is_said for row in of)
                      for of, is_said in ((should_not, True), (should, False)))  # fmt: skip
    rates = [
        {"what": "said of text like the one that the weights have generalized from", "wrong": wrong,
         "tried": len(should_not)},
        {"what": "not said of a cipher, random characters or another alphabet", "wrong": missing,
         "tried": len(should)},
    ]  # fmt: skip
    return {"rates": {"given weights": rates}, "rows": rows}
