"""Which files a person means by files, folders and patterns, in a stable order and with stable names."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec

from hornbook.facts.errors import InputError
from hornbook.facts.io import shown
from hornbook.facts.units import counted
from hornbook.text.files import check_kind, inner_name, sentences

# Of files in a folder, by their names. Any other file counts where all of it is text, as code is.
ENDINGS = (".txt", ".md", ".jsonl", ".ndjson", ".parquet")  # are always read: prose and rows
CONVERTED = {  # likewise, by the package that reads them
    ".html": "lxml", ".htm": "lxml", ".xhtml": "lxml", ".epub": "lxml", ".docx": "", ".pdf": "pypdf",
}  # fmt: skip
DATA = (".csv", ".tsv", ".json", ".ipynb", ".svg", ".geojson")  # are text, and seldom a text: read when named
LOCKS = ("package-lock.json", "npm-shrinkwrap.json", "pnpm-lock.yaml", "go.sum")
MADE = (".lock", ".min.js", ".min.css", ".map")
MADE_FOLDERS = ("__pycache__", "node_modules", "site-packages")
MADE_MARKS = ("CACHEDIR.TAG", "pyvenv.cfg", "prepared.json", "metrics.jsonl")
LARGEST_OTHER = 1 << 20  # bytes; beyond, a file of code was written by a program


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
    data: Counter[str] = Counter()
    num_files = 0

    def fail(error: OSError) -> None:
        with sentences(error.filename):
            raise error

    for place, folders, names in os.walk(folder, onerror=fail):
        kept = [name for name in folders if not name.startswith(".")]
        others["hidden folder"] += len(folders) - len(kept)
        others["link (to a folder, not followed)"] += sum(os.path.islink(os.path.join(place, name)) for name in kept)
        folders[:] = sorted(name for name in kept if not _is_made(os.path.join(place, name)))
        others["folder (of caches, packages or runs)"] += len(kept) - len(folders)
        for name in sorted(names):
            path = os.path.join(place, name)
            reason = _reason_to_leave_out(path, name.lower())
            if reason is None:
                num_files += 1
                yield path, os.path.relpath(path, folder), False
                continue
            others[reason] += 1
            if reason == "data file":
                data[os.path.splitext(name)[1].lower()] += 1
    others = +others
    seen = ", ".join(_counted(count, reason) for reason, count in others.most_common())
    if not num_files:
        ending = next((ending for ending, _ in data.most_common()), ".py")
        pattern = shown(os.path.join(folder, "**", f"*{ending}"))
        has = f"only {seen}" if others else "no files"
        raise InputError(f"the folder {shown(folder)} has {has}; give other files by a pattern such as '{pattern}'")
    if others:
        kinds = f"; {', '.join(ending for ending, _ in data.most_common(5))} are read when named" if data else ""
        notes.append(f"left out in {shown(folder)}: {seen}{kinds}")


def _counted(count: int, reason: str) -> str:
    noun, bracket, more = reason.partition(" (")
    return counted(count, noun) + bracket + more


def _is_made(folder: str) -> bool:
    """Whether a folder is what programs leave: caches, packages of others, our own runs and prepared texts."""
    return os.path.basename(folder) in MADE_FOLDERS or any(
        os.path.exists(os.path.join(folder, name)) for name in MADE_MARKS
    )


def _reason_to_leave_out(path: str, name: str) -> str | None:
    """Why a file in a folder is not read: a noun and, in brackets, more; None where it is."""
    if name.startswith("."):
        return "hidden file"
    if _is_broken(path):
        return "broken link"
    check_kind(path)
    if inner_name(name).endswith(ENDINGS):
        return None
    ending = os.path.splitext(inner_name(name))[1]
    if ending in CONVERTED:
        lacks = CONVERTED[ending] and find_spec(CONVERTED[ending]) is None
        return f'{ending} file (needs pip install -e ".[documents]")' if lacks else None
    if name in LOCKS or name.endswith(MADE):
        return "file (lock or minified)"
    if inner_name(name).endswith(DATA):
        return "data file"
    with sentences(path), open(path, "rb") as file:
        content = file.read(LARGEST_OTHER + 1)
    if len(content) > LARGEST_OTHER:
        return f"file (over {LARGEST_OTHER >> 20} MiB)"
    if not content.strip():
        return "empty file"
    try:
        content.decode()
    except UnicodeDecodeError:
        return "binary file"
    return "binary file" if b"\0" in content else None


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
