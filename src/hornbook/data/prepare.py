"""From documents to a prepared folder: split, tokenizer, shards; in bounded memory, on all cores, whole or not at all.

The text is read for its SHA-256 (is the folder that is there still right?), by the tokenizer's training, and by the
check-up while it is encoded, when it is also compared with the first time. Memory holds a few pieces per thread and the
index.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from threading import Event
from typing import Any

import msgspec
import numpy as np

from hornbook.data import shard_writer, shards
from hornbook.data.encode import encoded
from hornbook.data.folder import aside, check_out, commit, disk
from hornbook.data.shard_writer import ShardWriter
from hornbook.data.shards import PARTS, Prepared, open_prepared
from hornbook.facts.errors import InputError
from hornbook.facts.hardware import usable_cores
from hornbook.facts.text_warnings import lost_warning
from hornbook.facts.units import counted
from hornbook.text.canaries import CANARIES, make_canaries, plant
from hornbook.text.checkup import Checkup, check_up
from hornbook.text.documents import Document
from hornbook.text.make_tokenizer import is_path, make_tokenizer
from hornbook.text.split import Segment, default_rule, digest_of, gap_characters, segment_pieces
from hornbook.text.split import split as split_documents
from hornbook.text.tokenizer import Tokenizer, load_tokenizer

Progress = Callable[[int, int], None]  # (bytes encoded, bytes to encode)


@dataclass(frozen=True)
class _Side:
    """One side of the split, read once."""

    segments: Sequence[Segment]
    digests: list[bytes]  # SHA-256 of each segment's text
    num_bytes: int

    def pieces(self) -> Iterator[str]:
        return map(itemgetter(1), segment_pieces(self.segments))


def prepare(
    documents: Sequence[Document], *, tokenizer: str = "auto", split: str = "auto", out: Path | str,
    source: Sequence[str] = (), dedup: bool = False, canaries: bool = False, shard_bytes: int = shards.SHARD_BYTES,
    threads: int | None = None, progress: Progress | None = None,
) -> Prepared:  # fmt: skip
    """Make the prepared folder `out`, or open the one that is there when the same texts and settings made it.

    `source` is what the person gave, for the manifest. `dedup` leaves out documents of the training side that copy an
    earlier one or one of the validation side. `canaries` are planted in the training side and recorded.
    `progress(done_bytes, total_bytes)` is called as the text is encoded. Until the new folder is complete, `out` is
    what it was, whatever happens. Of two processes that prepare one folder the second waits for the first, and opens
    what that has made where it is the same.

    Raises InputError for a text, tokenizer, split or `out` that cannot be used; SystemFailure when the disk is full.
    """
    out = Path(out).resolve()
    check_out(out)
    begin = time.perf_counter()
    rule = default_rule(len(documents)) if split == "auto" else split
    segments = split_documents(documents, rule)
    sides = [_read_side(side) for side in segments]
    for name, side in zip(("training", "validation"), sides, strict=True):
        if side.num_bytes == 0 and not (name == "validation" and rule == "none"):
            raise InputError(f'the split "{rule}" leaves the {name} side empty; give more text or another split')
    given = load_tokenizer(Path(tokenizer)) if is_path(tokenizer) else None
    key = _key(
        given.fingerprint if given else tokenizer, rule, shard_bytes, sides, ["dedup"] * dedup + ["canaries"] * canaries
    )
    prepared = _unchanged(out, key)
    if prepared is None:
        with disk(out, 2 * sum(side.num_bytes for side in sides)), aside(out) as folder:
            prepared = _unchanged(out, key)  # another process has made it in the meantime
            if prepared is None:
                with _checking(*sides) as checkup:
                    left_out = 0
                    if dedup:
                        sides[0], left_out = _without_copies(sides[0], checkup())
                    checked = check_up(*(side.segments for side in sides)) if left_out else None  # what is trained on
                    if canaries:
                        planted = make_canaries(sides[0].pieces())
                        sides[0] = _read_side(plant(sides[0].segments, planted))
                    made = given or make_tokenizer(tokenizer, sides[0].pieces, sides[0].num_bytes, documents)
                    made.save(folder)
                    if canaries:
                        (folder / CANARIES).write_bytes(shard_writer.json_file(msgspec.to_builtins(planted)))
                    parts = _write_parts(folder, sides, made, shard_bytes, threads or usable_cores(), progress)
                    report = _report(documents, sides, parts, made, checked or checkup(), left_out, begin)
                identity = {name: getattr(made, name) for name in ("kind", "vocabulary", "fingerprint", "end_of_text")}
                manifest = {
                    "format": shards.FORMAT, "version": shards.VERSION, "key": key, "source": list(source),
                    "source_documents": len(documents), "split": rule,
                    "gap_characters": gap_characters(*segments), "dedup": dedup, "canaries": canaries,
                    "tokenizer": identity | {"asked": tokenizer}, "parts": parts, "report": report,
                }  # fmt: skip
                commit(folder, out, manifest)
                prepared = open_prepared(out, verify=False, tokenizer=made)
    if progress is not None:
        total_bytes = sum(side.num_bytes for side in sides)
        progress(total_bytes, total_bytes)
    return prepared


@contextmanager
def _checking(train: _Side, validation: _Side) -> Iterator[Callable[[], Checkup]]:
    """Check up the two sides beside what else is done, and stop when that fails. What is given waits for the result."""
    stop = Event()

    def stoppable(segment: Segment) -> Document:
        def pieces() -> Iterator[str]:
            for piece in segment.pieces():
                if stop.is_set():
                    raise CancelledError
                yield piece

        return Document(segment.name, pieces)

    with ThreadPoolExecutor(1, thread_name_prefix="check") as pool:
        checkup = pool.submit(
            check_up, *([stoppable(segment) for segment in side.segments] for side in (train, validation))
        )
        try:
            yield checkup.result
        except BaseException:
            stop.set()
            raise


def _without_copies(side: _Side, checkup: Checkup) -> tuple[_Side, int]:
    """The training side without what `checkup` says is a copy, and how many documents were left out."""
    copies = {duplicate.name for duplicate in checkup.duplicates} | {copy.of for copy in checkup.copies}
    kept = [i for i, segment in enumerate(side.segments) if segment.name not in copies]
    if not kept:
        raise InputError("--dedup leaves nothing to train on: every training document is in the validation text too")
    return _read_side([side.segments[i] for i in kept]), len(side.segments) - len(kept)


def _read_side(segments: Sequence[Segment]) -> _Side:
    contents = [segment.content for segment in segments if segment.content is not None]
    if len(contents) < len(segments):
        contents = [digest_of(map(itemgetter(1), it)) for _, it in groupby(segment_pieces(segments), itemgetter(0))]
    return _Side(segments, [digest for digest, _ in contents], sum(num_bytes for _, num_bytes in contents))


def _unchanged_pieces(side: _Side) -> Iterator[tuple[int, str]]:
    """The pieces again; InputError when a text is not what it was when it was read for the key."""
    for index, pieces in groupby(segment_pieces(side.segments), itemgetter(0)):
        digest = hashlib.sha256()
        for _, piece in pieces:
            digest.update(piece.encode())
            yield index, piece
        if digest.digest() != side.digests[index]:
            name = side.segments[index].document.name
            raise InputError(f"{name} changed while it was being prepared; prepare it again when it is complete")


def _key(identity: str, rule: str, shard_bytes: int, sides: Sequence[_Side], switches: Sequence[str]) -> str:
    """SHA-256 over everything that decides what the folder will hold; `identity` says which tokenizer."""
    digest = hashlib.sha256(repr((shards.VERSION, identity, rule, shard_bytes, *switches)).encode())
    for part, side in zip(PARTS, sides, strict=True):
        for segment, content in zip(side.segments, side.digests, strict=True):
            digest.update(repr((part, segment.name, content)).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _unchanged(out: Path, key: str) -> Prepared | None:
    """The folder that is there, if it has this key and is whole."""
    try:
        if shards.read_manifest(out)["key"] == key:
            return open_prepared(out)
    except InputError:  # none, of another version or damaged: it is made anew from the text, which is at hand
        return None
    return None


def _write_parts(
    folder: Path, sides: Sequence[_Side], tokenizer: Tokenizer, shard_bytes: int, threads: int,
    progress: Progress | None,
) -> dict[str, Any]:  # fmt: skip
    total_bytes = sum(side.num_bytes for side in sides)
    parts, done_bytes = {}, 0
    for part, side in zip(PARTS, sides, strict=True):

        def report(num_bytes: int, before_bytes: int = done_bytes) -> None:
            if progress is not None:
                progress(before_bytes + num_bytes, total_bytes)

        with ShardWriter(folder, part, tokenizer, shard_bytes) as writer:
            parts[part] = _write_part(writer, side, tokenizer, threads, report)
        done_bytes += side.num_bytes
    return parts


def _write_part(
    writer: ShardWriter, side: _Side, tokenizer: Tokenizer, threads: int, report: Callable[[int], None]
) -> dict[str, Any]:
    """Write shards, index and names of one part; what the manifest says of it."""
    documents = np.zeros((len(side.segments), 5), np.int64)
    separator = np.array([] if tokenizer.end_of_text is None else [tokenizer.end_of_text], np.int32)
    opened, in_word, done_bytes, lost_bytes = -1, False, 0, 0
    for piece in encoded(_unchanged_pieces(side), tokenizer, threads):
        if piece.segment != opened:
            writer.write(separator)
            opened, in_word = piece.segment, False
            documents[opened, shards.START] = writer.num_tokens
        writer.write(piece.ids)
        # A word that was cut between two pieces was counted in both.
        num_words = piece.num_words - int(in_word and piece.begins_in_word and piece.num_words > 0)
        documents[opened, 1:] += (len(piece.ids), piece.num_bytes, piece.num_characters, num_words)
        in_word = piece.ends_in_word
        done_bytes += piece.num_bytes
        lost_bytes += piece.lost_bytes
        report(done_bytes)
    return writer.finish(documents, [segment.name for segment in side.segments]) | {"lost_bytes": lost_bytes}


def _report(
    documents: Sequence[Document], sides: Sequence[_Side], parts: dict[str, Any], tokenizer: Tokenizer,
    checkup: Checkup, left_out: int, begin: float,
) -> dict[str, Any]:  # fmt: skip
    """What a person wants to know of the text: what was not read as it stands, size, duplicates, leaks, and speed."""
    notes, replaced = [*getattr(documents, "notes", ())], sum(document.replaced() for document in documents)
    if replaced:
        notes.append(
            f"{counted(replaced, 'byte')} {'is' if replaced == 1 else 'are'} not UTF-8 and "
            f"{'was' if replaced == 1 else 'were'} replaced"
        )
    num_bytes = sum(side.num_bytes for side in sides)
    lost = lost_warning({"lost_share": sum(entry["lost_bytes"] for entry in parts.values()) / num_bytes})
    if lost is not None:
        notes.append(lost)
    if tokenizer.kind == "characters":
        notes.append("the tokenizer takes its characters from the whole text, the validation split included")
    wall_seconds = time.perf_counter() - begin
    return {
        "bytes_per_token": {
            part: entry["num_bytes"] / entry["num_text_tokens"] if entry["num_text_tokens"] else None
            for part, entry in parts.items()
        },
        "notes": notes, "replaced_bytes": replaced, "checkup": checkup.to_dict(), "left_out_documents": left_out,
        "wall_seconds": round(wall_seconds, 3), "megabytes_per_second": round(num_bytes / 1e6 / wall_seconds, 3),
    }  # fmt: skip
