"""The header of a GGUF file (llama.cpp's format, versions 2 and 3): its metadata, and where its tensors lie.

Read by hand rather than by the `gguf` package, whose reader makes an array of every token (seconds for 50,000) and
loops on a length that the file does not have.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hornbook.facts.errors import InputError

MAGIC = b"GGUF"
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True)
class GGUFTensor:
    """Where one tensor lies: `size` with the slowest dimension first, `kind` by GGML's numbering of formats."""

    size: tuple[int, ...]
    kind: int
    start: int  # bytes from the beginning of the file

    @property
    def count(self) -> int:
        return math.prod(self.size)


@dataclass(frozen=True)
class GGUFHeader:
    path: Path
    num_bytes: int
    metadata: dict[str, Any]
    tensors: dict[str, GGUFTensor]


class _Cut(Exception):
    """The file ends before what it announces."""


class _Cursor:
    """Reads little-endian values one after the other and never beyond the end."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.offset = data, 0

    def take(self, num_bytes: int) -> bytes:
        end = self.offset + num_bytes
        if end > len(self.data):
            raise _Cut
        taken = self.data[self.offset : end]
        self.offset = end
        return taken

    def number(self, code: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def string(self) -> str:
        return self.take(self.number("Q")).decode("utf-8")

    def value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            raise ValueError(f"a value of the unknown kind {kind}")
        kind, count = self.number("I"), self.number("Q")
        if kind in _SCALARS:
            dtype = np.dtype("<" + _SCALARS[kind]) if kind != 7 else np.dtype("?")
            return np.frombuffer(self.take(count * dtype.itemsize), dtype).tolist()
        if kind != _STRING:
            raise ValueError(f"a list of the unknown kind {kind}")
        if count > len(self.data):  # a string takes 8 bytes at least
            raise _Cut
        return [self.string() for _ in range(count)]


def is_gguf(path: Path) -> bool:
    """Whether a file says that it is GGUF."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == MAGIC


def read_header(path: Path) -> GGUFHeader:
    """The metadata and the places of all tensors. Raises InputError for anything that is not a whole GGUF file."""
    try:
        with path.open("rb") as file:
            if file.read(4) != MAGIC:
                raise InputError(f"{path} is not a GGUF file: it does not begin with the letters GGUF.")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _header(path, _Cursor(data))
    except _Cut:
        raise InputError(f"{path} is cut off: copy or download it again.") from None
    except (ValueError, struct.error) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is a damaged GGUF file ({error}): copy or download it again.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from None


def _header(path: Path, cursor: _Cursor) -> GGUFHeader:
    cursor.take(len(MAGIC))
    version = cursor.number("I")
    if version not in (2, 3):
        raise InputError(f"{path} is GGUF of version {version}; read are the little-endian versions 2 and 3.")
    num_tensors, num_keys = cursor.number("Q"), cursor.number("Q")
    metadata: dict[str, Any] = {}
    for _ in range(num_keys):
        key = cursor.string()
        metadata[key] = cursor.value(cursor.number("I"))
    found: dict[str, tuple[tuple[int, ...], int, int]] = {}
    for _ in range(num_tensors):
        name, dimensions = cursor.string(), cursor.number("I")
        if dimensions > 4 or name in found:
            raise ValueError(f"the tensor {name} has {dimensions} dimensions or stands there twice")
        size = tuple(cursor.number("Q") for _ in range(dimensions))
        found[name] = (size[::-1], cursor.number("I"), cursor.number("Q"))
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1:
        raise ValueError(f"an alignment of {alignment}")
    start = -(-cursor.offset // alignment) * alignment
    tensors = {name: GGUFTensor(size, kind, start + offset) for name, (size, kind, offset) in found.items()}
    return GGUFHeader(path, len(cursor.data), metadata, tensors)
