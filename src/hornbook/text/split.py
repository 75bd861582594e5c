"""Which part of the text trains the model and which part is kept back to judge it (validation)."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from hornbook.facts.errors import InputError, suggestion
from hornbook.facts.units import counted
from hornbook.text.documents import Document
from hornbook.text.pieces import safe_pieces

RULES = ("hash", "tail", "blocks", "folder", "none")
MANY_DOCUMENTS = 50  # from here on whole documents are kept back
PIECE_BYTES = 2048  # the validation pieces inside documents are about this long, where there are so many:
FEWEST_PIECES, MOST_PIECES = 16, 64  # more pieces give a surer number, but a piece begins without what stands before it
SHORT_PIECE = 128  # in characters; a text that would have shorter ones has fewer pieces, down to 8
SHORTEST_PIECE = 32  # a document whose share would be less than two of these trains as a whole
GUARD_CHARACTERS = 256  # left out on both sides of a validation piece, or an eighth of a shorter piece
WORD_CHARACTERS = 32  # how far an edge of a piece moves back so as not to cut a word


@dataclass(frozen=True, slots=True)
class Segment:
    """The characters start:stop of a document (stop None: to its end); what the shards call a document.

    content: its SHA-256 and its length in bytes, where the split has read it for them.
    """

    document: Document
    start: int
    stop: int | None
    content: tuple[bytes, int] | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        """The document's name, with [start:stop] when it is not the whole document."""
        if self.start == 0 and self.stop is None:
            return self.document.name
        return f"{self.document.name}[{self.start}:{'' if self.stop is None else self.stop}]"

    def pieces(self) -> Iterator[str]:
        """Read the segment anew, in pieces that are cut as if it were a document of its own."""
        return (piece for _, piece in segment_pieces([self]) if piece)

    def text(self) -> str:
        """Return the whole text (pieces joined)."""
        return "".join(self.pieces())


def segment_pieces(segments: Sequence[Segment]) -> Iterator[tuple[int, str]]:
    """Each segment's pieces with the segment's number; at least one, which is "" where the segment is empty.

    Segments that follow each other in one document are read in one go.
    """
    rest, place = "", 0  # what was read of the document but not used yet, and where it begins
    pieces: Iterator[str] = iter(())

    def clip(start: int, stop: int | None) -> Iterator[str]:
        nonlocal rest, place
        while stop is None or place < stop:
            if not rest and not (rest := next(pieces, "")):
                return
            if (skip := min(max(start - place, 0), len(rest))) == 0:
                skip = len(rest) if stop is None else min(len(rest), stop - place)
                yield rest[:skip]
            rest, place = rest[skip:], place + skip

    document = None
    for index, segment in enumerate(segments):
        if segment.document is not document or segment.start < place:
            document, rest, place, pieces = segment.document, "", 0, segment.document.pieces()
        recut = safe_pieces(clip(segment.start, segment.stop))
        yield index, next(recut, "")
        for piece in recut:
            yield index, piece


def default_rule(num_documents: int) -> str:
    """Return the rule when none is given: whole documents if there are many, else pieces inside every document.

    >>> default_rule(24), default_rule(249)
    ('blocks:0.1', 'hash:0.1')
    """
    return "hash:0.1" if num_documents >= MANY_DOCUMENTS else "blocks:0.1"


def split(documents: Sequence[Document], rule: str) -> tuple[list[Segment], list[Segment]]:
    """Return the (training, validation) segments of the documents, each in the documents' order.

    `hash:F` each document by the SHA-256 of its text, so that equal texts land on one side whatever else is given;
    `tail:F` the last documents that have at least a share F of the characters, or the last characters of a single one;
    `blocks:F` pieces inside every document, each at a random place of its own stretch of it, with a gap on both sides
    that neither side sees; the places follow from the text;
    `folder:PATH` what lies in PATH (a folder, or as it appears at the start of the names); `none` no validation.
    F is above 0 and at most 0.9. All but `none` and `folder` read the documents.

    Raises InputError for an unknown rule, a share out of range, and a side that would be empty.
    """
    if not documents:
        raise InputError("there is no document to split; give a text")
    kind, argument = _parse(rule)
    if kind == "none":
        return [Segment(document, 0, None) for document in documents], []
    if kind == "folder":
        train, validation = _by_folder(documents, argument)
    else:
        by_share = {"hash": _by_hash, "tail": _tail, "blocks": _blocks}[kind]
        train, validation = by_share(documents, float(argument))
    if not train or not validation:
        of = counted(len(documents), "document")
        side, size = ("validation", "larger") if train else ("training", "smaller")
        raise InputError(
            f'the split "{rule}" of {of} leaves the {side} side empty; '
            f"give more text, another rule (tail:0.1) or a {size} share"
        )
    return train, validation


def _parse(rule: str) -> tuple[str, str]:
    kind, colon, argument = rule.partition(":")
    if kind not in RULES:
        allowed = "hash:0.1, tail:0.1, blocks:0.1, folder:PATH and none"
        raise InputError(f'the split rule "{rule}" is unknown; choose from {allowed}{suggestion(kind, RULES)}')
    if kind == "none":
        if colon:
            raise InputError(f'the split rule "none" takes no argument and was given as "{rule}"; write none')
        return kind, ""
    if kind == "folder":
        if not argument:
            raise InputError(
                'the split rule "folder" needs the folder of the validation texts, as in folder:texts/valid'
            )
        return kind, argument
    try:
        share = float(argument)
    except ValueError:
        share = math.nan
    if not 0 < share <= 0.9:
        raise InputError(f'the split rule "{rule}" needs a share above 0 and at most 0.9, as in {kind}:0.1')
    return kind, argument


def _by_folder(documents: Sequence[Document], folder: str) -> tuple[list[Segment], list[Segment]]:
    on_disk = os.path.realpath(folder) + os.sep
    as_name = folder.rstrip("/") + "/"
    sides: tuple[list[Segment], list[Segment]] = ([], [])
    for document in documents:
        is_at = bool(document.path) and os.path.realpath(document.path).startswith(on_disk)
        sides[is_at or document.name.startswith(as_name)].append(Segment(document, 0, None))
    if not sides[1]:
        raise InputError(f"no document lies in {folder}, the folder for validation; give it among the texts too")
    return sides


def _by_hash(documents: Sequence[Document], share: float) -> tuple[list[Segment], list[Segment]]:
    sides: tuple[list[Segment], list[Segment]] = ([], [])
    for document in documents:
        content = digest_of(document.pieces())
        is_validation = int.from_bytes(content[0][:8], "big") < share * 2.0**64
        sides[is_validation].append(Segment(document, 0, None, content))
    return sides


def digest_of(pieces: Iterable[str]) -> tuple[bytes, int]:
    """Return the SHA-256 of a text's UTF-8 and its length in bytes."""
    digest, num_bytes = hashlib.sha256(), 0
    for piece in pieces:
        digest.update(data := piece.encode())
        num_bytes += len(data)
    return digest.digest(), num_bytes


def num_characters(document: Document) -> int:
    """Return the length of the text in characters (reads it)."""
    return sum(map(len, document.pieces()))


def _tail(documents: Sequence[Document], share: float) -> tuple[list[Segment], list[Segment]]:
    sizes, whole = list(map(num_characters, documents)), [Segment(document, 0, None) for document in documents]
    if len(documents) == 1:
        cut = int((1 - share) * sizes[0])  # nanoGPT's and the book's split
        if not 0 < cut < sizes[0]:
            return whole, []
        return [Segment(documents[0], 0, cut)], [Segment(documents[0], cut, None)]
    first, held_out = len(documents), 0
    while held_out < share * sum(sizes) and first > 0:
        first -= 1
        held_out += sizes[first]
    return whole[:first], whole[first:]


def _blocks(documents: Sequence[Document], share: float) -> tuple[list[Segment], list[Segment]]:
    train: list[Segment] = []
    validation: list[Segment] = []
    measured = [_measure(document) for document in documents]
    counts = piece_counts([(size, num_bytes) for size, num_bytes, _ in measured], share)
    for document, (size, _, digest), count in zip(documents, measured, counts, strict=True):
        if not count:
            train.append(Segment(document, 0, None))
            continue
        edges = piece_edges(size, share, count, digest)
        reach = min(WORD_CHARACTERS, (edges[0][1] - edges[0][0]) // 2)
        places = _word_starts(document, [place for edge in edges for place in edge], reach)
        start = 0
        for i in range(0, len(places), 4):
            before, begin, end, after = places[i : i + 4]
            before, after = min(before, begin - 1), max(after, end + 1)  # they may have moved into the same word
            if edges[i // 4][2] == size:
                end = after = size
            if before > start:
                train.append(Segment(document, start, before))
            validation.append(Segment(document, begin, end))
            start = after
        if start < size:
            train.append(Segment(document, start, None))
    return train, validation


def gap_characters(train: Sequence[Segment], validation: Sequence[Segment]) -> int:
    """How many characters lie before or between the segments of a document, and so on neither side.

    >>> whole = Document("a", lambda: iter(["0123456789"]))
    >>> gap_characters([Segment(whole, 0, 3), Segment(whole, 7, None)], [Segment(whole, 4, 6)])
    2
    """
    ends: dict[int, int | None] = {}
    lost = 0
    for segment in sorted((*train, *validation), key=lambda segment: segment.start):
        before = ends.get(id(segment.document), 0)
        lost += 0 if before is None else segment.start - before
        ends[id(segment.document)] = segment.stop
    return lost


def _measure(document: Document) -> tuple[int, int, bytes]:
    """A text's length in characters and in bytes, and its SHA-256; reads it once."""
    size = 0

    def counted_pieces() -> Iterator[str]:
        nonlocal size
        for piece in document.pieces():
            size += len(piece)
            yield piece

    digest, num_bytes = digest_of(counted_pieces())
    return size, num_bytes, digest


def piece_counts(sizes: Sequence[tuple[int, int]], share: float) -> list[int]:
    """How many validation pieces each document gets, of its (characters, bytes): none or at least 2, in all about one
    for each 2,048 bytes that are kept back, from 16 to 64, in proportion to the documents' lengths.

    An interval needs 8 pieces in all and 2 of each document; 16 are nearly as good as any number, and beyond 64 hardly
    anything is gained (docs/evaluation.md).

    >>> [piece_counts([(size, size)], 0.1) for size in (500_000, 24_000, 5_000)]
    [[24], [16], [8]]
    >>> piece_counts([(400_000, 400_000), (9_000, 9_000), (600, 600)], 0.1)
    [20, 2, 0]
    """
    shares = [share * characters for characters, _ in sizes]
    total_bytes, total = share * sum(num_bytes for _, num_bytes in sizes), sum(shares)
    count = min(max(round(total_bytes / PIECE_BYTES), FEWEST_PIECES), MOST_PIECES)
    count = max(min(count, int(total / SHORT_PIECE)), FEWEST_PIECES // 2)
    counts = (min(max(2, round(count * size / total)), int(size / SHORTEST_PIECE)) for size in shares)
    return [number if size >= 2 * SHORTEST_PIECE else 0 for number, size in zip(counts, shares, strict=True)]


def piece_edges(num_characters: int, share: float, count: int, seed: bytes) -> list[tuple[int, int, int, int]]:
    """Return (end of training, start of piece, end of piece, start of training) of each piece in a text of this length.

    The text is cut into `count` equal stretches with a piece of equal length at a random place of each (stratified
    sampling), which `seed` decides. The first and the last piece may be cut short by the ends of the text, which are
    else hardly ever held out. Pieces are as long as the share asks, so the gaps come out of the training side.

    >>> piece_edges(20_000, 0.1, 2, b"a")
    [(4363, 4488, 5488, 5613), (18657, 18782, 19782, 19907)]
    """
    stretch, piece = num_characters / count, share * num_characters / count
    guard = max(1, int(min(GUARD_CHARACTERS, piece / 8, (stretch - piece) / 4)))
    edges = []
    for i in range(count):
        drawn = int.from_bytes(hashlib.sha256(seed + i.to_bytes(4)).digest()[:8]) / 2**64
        first = i * stretch + guard if i else SHORTEST_PIECE - piece
        last = (i + 1) * stretch - piece - guard if i < count - 1 else num_characters - SHORTEST_PIECE
        place = first + drawn * (last - first)
        begin, end = max(0, int(place)), min(num_characters, int(place + piece))
        edges.append((max(0, begin - guard), begin, end, min(num_characters, end + guard)))
    return edges


def _word_starts(document: Document, places: Sequence[int], reach: int) -> list[int]:
    """Move each place (ascending) back to behind the last whitespace in the `reach` characters before it, if any.

    So words are not cut, and the order of the places stays. Reads the document once.
    """
    moved: list[int] = []
    position, before = 0, ""
    for piece in document.pieces():
        window = before + piece
        base = position - len(before)
        while len(moved) < len(places) and places[len(moved)] <= position + len(piece):
            place = places[len(moved)]
            recent = window[max(0, place - reach - base) : place - base]
            word = len(recent) - max((i + 1 for i, c in enumerate(recent) if c.isspace()), default=len(recent))
            moved.append(place - word)
        position += len(piece)
        before = window[-reach:]
    return moved
