"""What the nats of a text's tokens say beyond their sum: intervals, sums by position in the context and by source."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from hornbook.evaluation.intervals import INTERVAL_DOCUMENTS, block_bytes, bootstrap_ratio
from hornbook.evaluation.windows import windows
from hornbook.records.result import DocumentRow


class Positions:
    """Sums by the number of tokens a target could see, in buckets 1, 2-3, 4-7, ... up to the window, which is in the
    last."""

    def __init__(self, window: int) -> None:
        self.window = window
        self.nats = np.zeros(64)
        self.counts = np.zeros(64, np.int64)

    def add(self, nats: np.ndarray, stride: int, kept: np.ndarray) -> None:
        """`nats` (n,) of one document, of which only `kept` (n,) bool count."""
        for w in windows(len(nats), self.window, stride):
            seen = np.arange(w.first - w.start + 1, w.stop - w.start + 1).clip(max=max(1, self.window - 1))
            chosen = kept[w.first : w.stop]
            buckets = np.frexp(seen)[1][chosen] - 1
            self.nats += np.bincount(buckets, nats[w.first : w.stop][chosen], 64)
            self.counts += np.bincount(buckets, minlength=64)

    def table(self) -> list[dict[str, Any]]:
        return [
            {
                "context_tokens": [2**k, self.window if 2 ** (k + 1) >= self.window else 2 ** (k + 1) - 1],
                "num_tokens": int(self.counts[k]),
                "loss_nats_per_token": float(self.nats[k] / self.counts[k]),
            }
            for k in np.flatnonzero(self.counts).tolist()
        ]


class Blocks:
    """Sums over contiguous blocks of bytes within documents, kept only where there are too few documents.

    `rows`: nats, tokens and bytes of each block, in the order of the text.
    """

    def __init__(self, num_documents: int, num_bytes: int) -> None:
        self.length = block_bytes(num_bytes) if num_documents < INTERVAL_DOCUMENTS else 0
        self.rows: list[tuple[float, int, int]] = []

    def add(self, nats: np.ndarray, num_bytes: np.ndarray) -> None:
        """The nats and bytes of each scored token of one document, (n,) both. A token lies where it ends."""
        if not self.length or not len(nats):
            return
        ends = np.cumsum(num_bytes)
        # What is left over joins the last block, so that no block is much shorter than the others.
        block = np.clip((ends - 1) // self.length, 0, max(0, int(ends[-1]) // self.length - 1))
        columns = (np.bincount(block, nats), np.bincount(block), np.bincount(block, num_bytes).astype(np.int64))
        self.rows += zip(*(column.tolist() for column in columns), strict=True)


def intervals(
    rows: Sequence[DocumentRow], blocks: Blocks, seed: int
) -> tuple[dict[str, tuple[float, float]], str | None]:
    """95 % intervals of loss and bits per byte, and how they were made."""
    if blocks.length:
        sums = np.array(blocks.rows, float).reshape(-1, 3)
        method = (
            f"bootstrap-t over {len(sums)} contiguous blocks of about {blocks.length} bytes within {len(rows)} "
            f"document{'s' * (len(rows) != 1)} (fewer than {INTERVAL_DOCUMENTS}): holds for this text, not for others"
        )
    else:
        sums = np.array([(row.nats, row.num_tokens, row.num_bytes) for row in rows], float)
        method = f"bootstrap-t over {len(sums)} documents"
    loss = bootstrap_ratio(sums[:, 0], sums[:, 1], seed=seed)
    bits = bootstrap_ratio(sums[:, 0], sums[:, 2] * math.log(2), seed=seed)
    if loss is None or bits is None:
        return {}, "none: the text is too short for one"
    return {"loss_nats_per_token": loss, "bits_per_byte": bits}, method


def counts_within(tokens: Sequence[bytes], chosen: np.ndarray) -> tuple[int, int, int]:
    """The bytes, characters and words of the chosen tokens of a text, (n,) bool. A character or word that tokens share
    belongs to the one in which it begins, so that the counts of what is chosen and of the rest add up.

    >>> counts_within([b"two w", b"ords h", b"ere"], np.array([True, False, True]))
    (8, 8, 2)
    """
    sizes = np.array([len(token) for token in tokens])
    text = b"".join(tokens).decode("utf-8", "surrogateescape")
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    alone = (codes < 0x80) | ((codes >= 0xDC80) & (codes <= 0xDCFF))  # a byte that is no UTF-8 is a surrogate here
    lengths = np.where(alone, 1, np.where(codes < 0x800, 2, np.where(codes < 0x10000, 3, 4)))
    owner = np.searchsorted(np.cumsum(sizes), np.cumsum(lengths) - lengths, side="right")
    words = np.array([match.start() for match in re.finditer(r"\S+", text)], int)
    return int(sizes[chosen].sum()), int(chosen[owner].sum()), int(chosen[owner[words]].sum())


def by_source(rows: Sequence[DocumentRow]) -> dict[str, dict[str, Any]]:
    """Sums by the file documents came from, or by its folder where every document is a file; empty for one source."""
    files = [row.name.split("#")[0].split("[")[0] for row in rows]
    files = [re.sub(r":\d+$", "", file) for file in files]
    if len(set(files)) == len(files):
        files = [file.rpartition("/")[0] or "." for file in files]
    groups: dict[str, list[DocumentRow]] = {}
    for file, row in zip(files, rows, strict=True):
        groups.setdefault(file, []).append(row)
    if not 1 < len(groups) < len(rows):
        return {}
    table = {}
    for file, group in sorted(groups.items()):
        nats, tokens, num_bytes = (math.fsum(getattr(r, k) for r in group) for k in ("nats", "num_tokens", "num_bytes"))
        table[file] = {
            "num_documents": len(group),
            "num_tokens": int(tokens),
            "num_bytes": int(num_bytes),
            "loss_nats_per_token": nats / tokens if tokens else None,
            "bits_per_byte": nats / (math.log(2) * num_bytes) if num_bytes else None,
        }
    return table
