"""Ten times the same text, or ten times as much text, in the same steps: python examples/by_heart.py [TOKENS]"""

import random
import sys
from pathlib import Path

import hornbook
from hornbook.text.documents import builtin_documents

tokens = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000  # of the small text
speeches = [document.text() for document in builtin_documents()]
random.Random(0).shuffle(speeches)


def write(folder: str, texts: list[str], characters: int) -> str:
    """The first `characters` of the texts, each a file."""
    Path(folder).mkdir(exist_ok=True)
    for number, text in enumerate(texts):
        if characters <= 0:
            break
        Path(folder, f"{number}.txt").write_text(text[:characters], encoding="utf-8")
        characters -= len(text)
    return folder


# About 3.5 characters a token. The large text begins with the small one; nobody trains on the held-out one.
held_out = write("held-out", speeches[-40:], 2 * min(tokens, 100_000))
large = write("large", speeches[:-40], 40 * tokens)
small = write("small", speeches[:-40], int(3.5 * tokens))
tokenizer = hornbook.prepare(large, tokenizer="bpe:1024", split="none", out="prepared-large")["prepared"]

settings = {
    "text.tokenizer": tokenizer, "text.split": f"folder:{held_out}", "train.tokens": 10 * tokens,
    "model.layers": 6, "model.width": 144, "model.context": 128, "train.batch": max(1, tokens // 12_500),
}  # fmt: skip
for name, text in (("ten times the same text", small), ("ten times as much text, once", large)):
    run = hornbook.train(text, held_out, out=f"run-{text}", **settings)
    found = hornbook.memorize(run["run"])
    print(f"\n{name}: {run['num_parameters']:,} parameters, {run['step']:,} steps, {run['epoch']:.1f} epochs")
    for sentence in run["words"]:
        print(f"  {sentence}")
    print(f"  {found['verdict']}\n  by heart: {found['by_heart']}, report: {found['report']}")
