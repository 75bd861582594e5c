"""Which files a person means by files, folders and patterns, in a stable order and with stable names."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from hornbook.facts.errors import InputError
from hornbook.facts.io import shown
from hornbook.facts.units import counted
from hornbook.text.files import check_kind, inner_name, sentences

ENDINGS = (".txt", ".md", ".jsonl", ".ndjson", ".parquet")  # that count in a folder


def find_files(paths: Sequence[str], notes: list[str]) -> Iterator[tuple[str, str, bool]]:
    """Yield (path, name relative to what was given, whether the file itself was named)."""
    for given in paths:
        given = os.fspath(given)
        if os.path.lexists(given):
            check_kind(given)
            if os.path.isdir(given):
                yield from _walk(given, notes)
            else:
                yield given, os.path.basename(given), True
        elif glob.has_magic(given):
            yield from _matches(given, notes)
        else:
            with sentences(given):
                os.stat(given)


def _matches(pattern: str, notes: list[str]) -> Iterator[tuple[str, str, bool]]:
    base = pattern
    while glob.has_magic(base):
        base = os.path.dirname(base)
    links: set[str] = set()
    matches = sorted(set(_glob(pattern, links)))
    if not matches:
        raise InputError(f"no file matches {shown(pattern)}; quote the pattern and check the folder it begins with")
    broken = sum(map(_is_broken, matches))
    if all(_is_broken(match) or os.path.isdir(match) for match in matches):
        only = f"only {'broken links and ' if broken else ''}folders"
        raise InputError(f"{shown(pattern)} matches {only}; write '**/*.txt' for the files in them")
    for match in matches:
        if not _is_broken(match) and not os.path.isdir(match):
            check_kind(match)
            yield match, os.path.relpath(match, base or "."), False
    if broken:
        notes.append(f"left out of {shown(pattern)}: {counted(broken, 'broken link')}")
    if links:
        notes.append(f"left out of {shown(pattern)}: {counted(len(links), 'link')} to folders, not followed")


def _glob(pattern: str, links: set[str]) -> Iterator[str]:
    """What `pattern` matches; ** goes through no link to a folder, as these may lead in a circle."""
    head, stars, tail = (pattern + "/*" if pattern.endswith("**") else pattern).partition("**/")
    if not stars or head[-1:] not in ("", "/"):
        yield from glob.iglob(pattern)
        return
    for root in glob.iglob(head or "./"):
        for place, folders, _ in os.walk(root):
            folders[:] = [name for name in folders if not name.startswith(".")]
            links.update(path for name in folders if os.path.islink(path := os.path.join(place, name)))
            yield from _glob(os.path.join(glob.escape(place), tail), links)


def _is_broken(path: str) -> bool:
    return os.path.islink(path) and not os.path.exists(path)


def _walk(folder: str, notes: list[str]) -> Iterator[tuple[str, str, bool]]:
    others: Counter[str] = Counter()
    num_links = num_files = 0

    def fail(error: OSError) -> None:
        with sentences(error.filename):
            raise error

    for place, folders, names in os.walk(folder, onerror=fail):
        num_links += sum(os.path.islink(os.path.join(place, name)) for name in folders)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = os.path.join(place, name)
            if name.startswith("."):
                continue
            ending = os.path.splitext(inner_name(name))[1].lower()
            if ending not in ENDINGS or _is_broken(path):
                others["broken link" if _is_broken(path) else ending or "no ending"] += 1
                continue
            check_kind(path)
            num_files += 1
            yield path, os.path.relpath(path, folder), False
    known = ", ".join(ENDINGS)
    seen = ", ".join(f"{ending} ({count})" for ending, count in others.most_common(5))
    if not num_files:
        has = f"only {seen}" if others else "no files"
        ending = next((ending for ending, _ in others.most_common() if ending.startswith(".")), ".py")
        pattern = shown(os.path.join(folder, "**", f"*{ending}"))
        raise InputError(f"the folder {shown(folder)} has {has}; give other files by a pattern such as '{pattern}'")
    if others:
        notes.append(f"left out in {shown(folder)}: {seen}; known endings are {known}, others are read when named")
    if num_links:
        notes.append(f"left out in {shown(folder)}: {counted(num_links, 'link')} to folders, not followed")


def unique_names(files: Iterable[tuple[str, str, bool]], notes: list[str]) -> list[tuple[str, str, bool]]:
    """Drop a file that was given twice; where two files have one name, use their paths as given."""
    kept: dict[str, tuple[str, str, bool]] = {}
    num_twice = 0
    for path, name, was_named in files:
        real = os.path.realpath(path)
        num_twice += real in kept
        kept.setdefault(real, (path, name, was_named))
    if num_twice:
        notes.append(f"{counted(num_twice, 'file')} given more than once, read once")
    times = Counter(name for _, name, _ in kept.values())
    named = [(path, name if times[name] == 1 else os.path.normpath(path), was) for path, name, was in kept.values()]
    return [(path, shown(name).replace(os.sep, "/"), was) for path, name, was in named]
