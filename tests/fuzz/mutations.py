"""Seeded damage: what happens to files on disks, in transfers and under hands that edit them.

`mutated_bytes` damages any file, `mutated_tree` changes one place of a JSON tree; the same seed makes the same damage.
Tests write `from mutations import mutated_bytes`: `pythonpath` in pyproject.toml names this folder.
"""

from __future__ import annotations

import copy
import random
from typing import Any

INTERESTING = (
    b"\0", b"\xff", b"\xfe", b'"', b"'", b"\n", b"\r", b",", b"{", b"}", b"[", b"\\", b"\\ud800", b"null", b"NaN",
    b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\xc0\x80", b"\xed\xa0\x80", b"-1", b"9" * 400, b"1e999", b"\x1b[31m",
    b"\xff\xff\xff\xff\xff\xff\xff\x7f", b"\0\0\0\0\0\0\0\x80",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 3, 2**31, 2**31 - 1, 2**63, 2**63 - 1, -(2**63), 10**30, 10**400, 0.0, -0.5, 0.5,
    1e-45, 1e18, 1e300, float("nan"), float("inf"), float("-inf"), "", "0", "null", "nan", "../x", "a\0b", "\x1b[31m",
    "é" * 300, "[/b]", [], [None], [[]], [0, -1], {}, {"": None}, [1e300],
)  # fmt: skip


def mutated_bytes(content: bytes, seed: int) -> bytes:
    """Return the content with one to three places damaged; never the content as it was, unless it was empty."""
    random_ = random.Random(f"bytes {seed}")
    data = content
    for _ in range(random_.choice((1, 1, 1, 2, 3))):
        data = _damaged(data, random_)
    return data if data != content else _flipped(data, random_)


def _damaged(data: bytes, random_: random.Random) -> bytes:
    size = len(data)
    here, there = sorted((random_.randint(0, size), random_.randint(0, size)))
    there = min(there, here + random_.choice((1, 4, 16, 256, 1 << 20)))
    piece = data[here:there]
    match random_.randrange(9):
        case 0 | 1:
            return _flipped(data, random_)
        case 2:  # cut short
            return data[:here]
        case 3:  # a piece is gone
            return data[:here] + data[there:]
        case 4:  # a piece twice
            return data[:there] + piece + data[there:]
        case 5:  # two neighbouring pieces change places
            after = there + len(piece)
            return data[:here] + data[there:after] + piece + data[after:]
        case 6:  # zeros, as a disk leaves them
            return data[:here] + bytes(len(piece)) + data[there:]
        case 7:  # something that means something is put in
            return data[:here] + random_.choice(INTERESTING) + data[here:]
        case _:  # ... or put over what was there
            put = random_.choice(INTERESTING)
            return data[:here] + put + data[here + len(put) :]


def _flipped(data: bytes, random_: random.Random) -> bytes:
    if not data:
        return data
    place = random_.randrange(len(data))
    return data[:place] + bytes([data[place] ^ (1 << random_.randrange(8))]) + data[place + 1 :]


def mutated_tree(tree: Any, seed: int) -> Any:
    """Return a copy of a tree of dicts, lists and values with one place changed, gone, twice or moved."""
    random_ = random.Random(f"tree {seed}")
    changed = copy.deepcopy(tree)
    places = list(_places(changed))
    if not places:
        return random_.choice(VALUES)
    parent, key = random_.choice(places)
    match random_.randrange(8):
        case 0:
            del parent[key]
        case 1:  # a number a little or much off, else another value
            parent[key] = _off(parent[key], random_)
        case 2:  # the value of another place
            other, name = random_.choice(places)
            parent[key] = copy.deepcopy(other[name])
        case 3 if isinstance(parent, dict):  # under another name
            parent[random_.choice((str(key).upper(), f"{key}_", "", str(key)[:-1]))] = parent.pop(key)
        case 3:
            parent.insert(key, copy.deepcopy(parent[key]))
        case _:
            parent[key] = copy.deepcopy(random_.choice(VALUES))
    return changed


def _off(value: Any, random_: random.Random) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return random_.choice((value + 1, value - 1, -value, value * 2, value * 2**40, float(value), str(value)))
    if isinstance(value, float):
        return random_.choice((-value, value * 1e-30, value * 1e30, int(value) if abs(value) < 1e9 else 0, str(value)))
    if isinstance(value, str):
        return random_.choice((value + "x", value[:-1], value * 2, value[::-1], [value], value.upper()))
    if isinstance(value, list):
        return random_.choice((value[:-1], value * 2, value[::-1], dict.fromkeys(map(str, range(len(value))))))
    return random_.choice(VALUES)


def _places(tree: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    todo = [tree]
    while todo:
        parent = todo.pop()
        if isinstance(parent, dict | list):
            for key, value in list(parent.items() if isinstance(parent, dict) else enumerate(parent)):
                found.append((parent, key))
                todo.append(value)
    return found
