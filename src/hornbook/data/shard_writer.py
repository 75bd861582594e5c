"""Shards as they are written: see `data/shards.py` for what they are."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from hornbook.data.shards import _HEADER, _MAGIC, SHARD_BYTES, SUMS, VERSION, _checksum, id_type
from hornbook.text.tokenizer import Tokenizer


class ShardWriter:
    """Writes the stream of one part as shards of at most `shard_bytes`, then its index. Use it in a `with`."""

    def __init__(self, folder: Path, part: str, tokenizer: Tokenizer, shard_bytes: int = SHARD_BYTES) -> None:
        self._folder, self._part, self._tokenizer = folder, part, tokenizer
        self._dtype = id_type(tokenizer.vocabulary)
        self._capacity = max(1, (shard_bytes - _HEADER.size) // self._dtype.itemsize)
        self._file: BinaryIO | None = None
        self._count = 0  # ids in the open shard
        self._shards: list[str] = []
        self.num_tokens = 0

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *failure: object) -> None:
        if self._file is not None:
            with suppress(OSError):  # what failed is on its way already; a shard without a header is none
                self._file.close()

    def write(self, ids: NDArray[np.int32]) -> None:
        """Append ids to the stream."""
        self.num_tokens += len(ids)
        while len(ids):
            if self._file is None:
                self._shards.append(f"{self._part}-{len(self._shards):05d}.bin")
                self._file = (self._folder / self._shards[-1]).open("wb")
                self._file.write(bytes(_HEADER.size))
            now, ids = ids[: self._capacity - self._count], ids[self._capacity - self._count :]
            self._file.write(now.astype(self._dtype).tobytes())
            self._count += len(now)
            if self._count == self._capacity:
                self._close_shard()

    def finish(self, documents: NDArray[np.int64], names: list[str]) -> dict[str, Any]:
        """Close the last shard and write the index; return what the manifest says of the part."""
        if self._file is not None:
            self._close_shard()
        np.save(self._folder / f"{self._part}.documents.npy", documents)
        (self._folder / f"{self._part}.names.json").write_bytes(json_file(names))
        sums = dict(zip(SUMS, documents.sum(axis=0).tolist()[1:], strict=True))
        return {"num_documents": len(names), **sums, "num_tokens": self.num_tokens, "shards": self._shards}

    def _close_shard(self) -> None:
        assert self._file is not None
        tokenizer = self._tokenizer
        identity = (self._dtype.itemsize, self._count, tokenizer.vocabulary, bytes.fromhex(tokenizer.fingerprint))
        self._file.seek(0)
        self._file.write(_HEADER.pack(_MAGIC, VERSION, *identity))
        self._file.close()
        self._file, self._count = None, 0


def manifest_bytes(manifest: dict[str, Any]) -> bytes:
    """The manifest as it is written: JSON with a checksum over the rest of it."""
    return json_file({**manifest, "checksum": _checksum(manifest)})


def json_file(content: object) -> bytes:
    """JSON for people; a file name that is not UTF-8 survives as the surrogates that Python makes of it."""
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")
