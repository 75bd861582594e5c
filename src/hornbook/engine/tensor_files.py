"""Tensors written to safetensors files tensor by tensor, whole or as parts that hold some of the rows.

The format is a length (8 bytes), a JSON header of so many bytes with the place of each tensor, and the tensors. What a
tensor's first dimension counts are its rows; the `__metadata__` of a part says which rows of which tensors it has.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch
from torch import Tensor

from hornbook.facts.io import own, sync

DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}  # as safetensors calls them
ROWS = "rows"  # in the metadata of a part: {name: [first row, rows of the whole tensor]} as JSON


class RowsOf(NamedTuple):
    """Some rows of a tensor (rows, ...): those from `first` on of the `total` rows that the whole has."""

    tensor: Tensor
    first: int
    total: int


def write_tensors(path: Path, tensors: Mapping[str, Tensor | RowsOf]) -> dict[str, Any]:
    """Write a safetensors file, flush it to the disk, and return its size, its SHA-256 and, where there is one, the
    name of a tensor that is `not_finite`.

    Tensor by tensor: the library first makes the whole file in memory, twice the optimizer's size for a moment.
    """
    plain = without_rows(tensors)
    rows = {key: [value.first, value.total] for key, value in tensors.items() if isinstance(value, RowsOf)}
    metadata = {"format": "pt"} | ({ROWS: msgspec.json.encode(rows).decode()} if rows else {})
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for key, tensor in plain.items():
        header[key] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [end, end + tensor.nbytes],
        }
        end += tensor.nbytes
    encoded = msgspec.json.encode(header)
    encoded += b" " * (-len(encoded) % 8)
    head: list[bytes | memoryview] = [struct.pack("<Q", len(encoded)), encoded]

    def hashed() -> str:
        digest = hashlib.sha256()
        for part in chain(head, map(bytes_of, plain.values())):
            digest.update(part)
        return digest.hexdigest()

    with ThreadPoolExecutor(1) as pool:  # hashing takes a third as long as writing, and leaves Python to others
        digest = pool.submit(hashed)
        with open(path, "wb", opener=own) as file:
            num_bytes = sum(file.write(part) for part in chain(head, map(bytes_of, plain.values())))
        sync(path)
        bad = first_not_finite(plain)
        written = {"num_bytes": num_bytes, "sha256": digest.result()}
        return written if bad is None else written | {"not_finite": bad}


def copy_tensors(
    contents: Mapping[str, Mapping[str, Tensor | RowsOf]], into: dict[str, dict[str, Tensor | RowsOf]], *,
    pin: Callable[[torch.device], bool] = lambda device: False,
) -> None:  # fmt: skip
    """Copy tensors, by file and name, into those of the same names in host memory, which are made where there are none:
    pinned, and without waiting for the device, where it can `pin`."""
    for file, tensors in contents.items():
        copies = into.setdefault(file, {})
        for name, value in tensors.items():
            tensor = value.tensor if isinstance(value, RowsOf) else value
            pinned = pin(tensor.device)
            if name not in copies:
                made = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=pinned)
                copies[name] = value._replace(tensor=made) if isinstance(value, RowsOf) else made
            copy = copies[name]
            (copy.tensor if isinstance(copy, RowsOf) else copy).copy_(tensor.detach(), non_blocking=pinned)


def without_rows(tensors: Mapping[str, Tensor | RowsOf]) -> dict[str, Tensor]:
    """The tensors themselves, whatever rows they are."""
    return {key: value.tensor if isinstance(value, RowsOf) else value for key, value in tensors.items()}


def first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor that has a NaN or an infinity."""
    for key, tensor in tensors.items():
        if tensor.numel() and not all(bound.isfinite() for bound in tensor.detach().aminmax()):
            return key
    return None


def bytes_of(tensor: Tensor) -> memoryview:
    """What a tensor holds, in host memory: its own where it lies there."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
