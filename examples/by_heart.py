"""Ten times the same text, or ten times as much text, in the same steps: python examples/by_heart.py [TOKENS]

All it writes lies in the folder by-heart. Below 50,000 tokens the small text is a speech or two, which no held-out text
is like, and less can be concluded.
"""

import random
import sys
from pathlib import Path

import hornbook
from hornbook.text.documents import builtin_documents

tokens = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000  # of the small text
speeches = [document.text() for document in builtin_documents()]
random.Random(0).shuffle(speeches)
out = Path("by-heart")
if out.exists():
    sys.exit("there is a folder by-heart already: move it away, or run this example elsewhere.")


def write(name: str, texts: list[str], characters: int) -> str:
    """The first `characters` of the texts, each a file."""
    folder = out / name
    folder.mkdir(parents=True)
    for number, text in enumerate(texts):
        if characters <= 0:
            break
        (folder / f"{number}.txt").write_text(text[:characters], encoding="utf-8")
        characters -= len(text)
    return str(folder)


# The large text begins with the small one; nobody trains on the held-out one.
held_out = write("held-out", speeches[-40:], 2 * min(tokens, 100_000))
all_text = write("all", speeches[:-40], 40 * tokens)
prepared = hornbook.prepare(all_text, tokenizer="bpe:1024", split="none", out=str(out / "prepared"))
characters_per_token = prepared["parts"]["train"]["num_characters"] / prepared["parts"]["train"]["num_tokens"]
characters = int(tokens * characters_per_token)
small, large = (write(name, speeches[:-40], times * characters) for name, times in (("small", 1), ("large", 10)))

layers, width = (6, 144) if tokens >= 50_000 else (2, 96)
settings = {
    "text.tokenizer": prepared["prepared"], "text.split": f"folder:{held_out}", "train.tokens": 10 * tokens,
    "model.layers": layers, "model.width": width, "model.context": 128, "optimizer.name": "muon",
    "train.batch": max(1, tokens // 12_500),
}  # fmt: skip
for name, text in (("ten times the same text", small), ("ten times as much text, once", large)):
    run = hornbook.train(text, held_out, out=str(out / f"run-{Path(text).name}"), **settings)
    found = hornbook.memorize(run["run"])
    print(f"\n{name}: {run['num_parameters']:,} parameters, {run['step']:,} steps, {run['epoch']:.1f} epochs")
    for sentence in run["words"]:
        print(f"  {sentence}")
    print(f"  {found['verdict']}\n  by heart: {found['by_heart']}, report: {found['report']}")
